/* data_compose/parse_binary.c -- a job's columns as columns of block.h, and rows in and out of them.
 *
 *   feature  [lengths, where rows differ in them] ids of 8 bytes     label, weight  float32
 *            [weights of the ids, float32, as many]
 *   dense    float32 as it is trained on                              group          8 bytes
 *            float64 as it was read, where it is standardized         key            lengths, bytes
 *
 * What depends on one row is done when a file is written: hashing, lists, clip, log1p. What depends on all rows is
 * done when it is read, for the rows that a training has may be others: standardizing, min_frequency. A standardized
 * column is therefore kept as float64 and goes through the same arithmetic as text does, so both give the same bits.
 *
 * Columns of kind ignore are not there. What was done is in the shape's hash: a data.yml that asks for something else
 * is refused when a file is opened. */
#include "data_compose/parse_binary.h"
#include "data_compose/parse_row.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/hash.h"
#include "runtime/base/mem.h"
#include "runtime/base/strbuf.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define TILE 64u /* rows whose plain values are unpacked together */

struct field {
    struct dc_column *column;
    uint32_t
        at; /* its values' column in the file; lengths are in the one before, weights of ids in the one behind */
    bool counted;      /* there are lengths */
    bool weighted;     /* there are weights of ids */
    bool standardized; /* float64 */
    uint32_t next;     /* counted: of the row that `row` names, where its values begin */
};

struct dc_binary {
    struct dc_parser *parser;
    struct dc_block_shape shape;
    struct dc_block_column *column;
    struct field *field; /* [n_fields] those of one id or number per row come first */
    uint32_t n_fields, n_plain;
    uint64_t *tile; /* [n_plain][TILE] ids, or the bits of doubles, of rows tile_first and on */
    uint32_t tile_first, n_tile;
    uint32_t *first; /* [n_columns] of data.yml: scratch of find_ids() */
    const struct dc_block_view *view;
    uint32_t row; /* where the fields' `next` stand */
};

/* ---- columns ---- */

static uint32_t empty_of(const struct dc_binary *b, const struct rt_column_conf *conf)
{
    return b->parser->job->data.format == RT_FORMAT_LIBSVM ? RT_EMPTY_NONE : conf->empty;
}

static uint32_t add_column(struct dc_binary *b, uint32_t width, uint32_t lengths, uint32_t max)
{
    b->column[b->shape.n_columns] = (struct dc_block_column){width, lengths, max};
    return b->shape.n_columns++;
}

static void add_counted(struct dc_binary *b, struct field *f, uint32_t width, uint32_t max)
{
    f->counted = true;
    f->at = add_column(b, width, 1 + add_column(b, 4, 0, max), 0);
}

static void add_feature(struct dc_binary *b, struct field *f, struct rt_strbuf *text)
{
    const struct rt_column_conf *conf = f->column->conf;
    const struct rt_feature_conf *feature = &b->parser->job->feature[conf->target];
    uint32_t empty = empty_of(b, conf);

    bool cut = feature->truncate != RT_TRUNCATE_REFUSE; /* by what other columns of it have */

    rt_strbuf_addf(text, " of %s separator %d integer %d empty %u", feature->name, conf->separator,
                   conf->integer && b->parser->job->data.format != RT_FORMAT_LIBSVM, empty);
    if (conf->separator || cut)
        rt_strbuf_addf(text, " max %u truncate %u", feature->max_length, feature->truncate);
    if (conf->separator || empty == RT_EMPTY_NONE || cut)
        add_counted(b, f, 8, f->column->room);
    else
        f->at = add_column(b, 8, 0, 0);
    f->weighted = conf->weight_separator != 0;
    if (!f->weighted)
        return;
    rt_strbuf_addf(text, " weights %d", conf->weight_separator);
    add_column(b, 4, f->counted ? f->at : 0,
               0); /* of as many as there are ids: lengths are column at - 1 */
}

static void add_dense(struct dc_binary *b, struct field *f, struct rt_strbuf *text)
{
    const struct rt_column_conf *conf = f->column->conf;

    f->standardized = conf->standardize;
    f->at = add_column(b, conf->standardize ? 8 : 4, 0, 0);
    rt_strbuf_addf(text, " empty %u missing %.17g", conf->empty, conf->missing);
    if (!conf->standardize)
        rt_strbuf_addf(text, " clip %.17g %.17g transform %u", conf->low, conf->high,
                       conf->transform);
}

/* One column of data.yml; its description goes into what is hashed. */
static void add_field(struct dc_binary *b, struct dc_column *column, struct rt_strbuf *text)
{
    struct field *f = &b->field[b->n_fields];

    if (column->conf->kind == RT_COLUMN_IGNORE)
        return;
    b->n_fields++;
    *f = (struct field){.column = column};
    rt_strbuf_addf(text, "%s %u", column->conf->name, column->conf->kind);
    switch ((enum rt_column_kind)column->conf->kind) {
    case RT_COLUMN_FEATURE:
        add_feature(b, f, text);
        break;
    case RT_COLUMN_DENSE:
        add_dense(b, f, text);
        break;
    case RT_COLUMN_GROUP:
        rt_strbuf_addf(text, " integer %d", column->conf->integer);
        f->at = add_column(b, 8, 0, 0);
        break;
    case RT_COLUMN_KEY:
        add_counted(b, f, 1, RT_KEY_MAX);
        break;
    default:
        f->at = add_column(b, 4, 0, 0);
        break;
    }
    rt_strbuf_addf(text, "\n");
}

/* The label of a libsvm file has no column of its own. */
static void add_label(struct dc_binary *b, struct rt_strbuf *text)
{
    rt_strbuf_addf(text, "label %u\n", RT_COLUMN_LABEL);
    b->field[b->n_fields++] = (struct field){.at = add_column(b, 4, 0, 0)};
}

/* Clip and log1p are behind the values that a file has. */
static void take_as_they_are(struct dc_parser *p)
{
    struct dc_dense_plan *plan = &p->plan;

    plan->any_clip = plan->any_log1p = false;
    for (uint32_t i = 0; i < p->job->data.n_columns; i++) {
        const struct rt_column_conf *conf = &p->job->data.column[i];

        if (conf->kind != RT_COLUMN_DENSE)
            continue;
        if (!conf->standardize) {
            plan->low[conf->target] = -INFINITY;
            plan->high[conf->target] = INFINITY;
            plan->log1p[conf->target] = 0;
        } else {
            plan->any_clip = plan->any_clip || isfinite(conf->low) || isfinite(conf->high);
            plan->any_log1p = plan->any_log1p || conf->transform == RT_TRANSFORM_LOG1P;
        }
    }
}

static bool is_plain(const struct field *f)
{
    return f->column && !f->counted && !f->weighted &&
           (f->column->conf->kind == RT_COLUMN_FEATURE || f->column->conf->kind == RT_COLUMN_DENSE);
}

static void put_plain_first(struct dc_binary *b)
{
    for (uint32_t i = 0; i < b->n_fields; i++) {
        struct field f = b->field[i];

        if (!is_plain(&f))
            continue;
        b->field[i] = b->field[b->n_plain];
        b->field[b->n_plain++] = f;
    }
    b->tile = rt_xcalloc((size_t)b->n_plain * TILE + 1, sizeof(*b->tile));
}

struct dc_binary *dc_binary_create(struct dc_parser *parser)
{
    const struct rt_data_conf *data = &parser->job->data;
    struct dc_binary *b = rt_xcalloc(1, sizeof(*b));
    struct rt_strbuf text;
    bool labelled = false;

    b->parser = parser;
    b->column = rt_xcalloc(3 * (size_t)data->n_columns + 1, sizeof(*b->column));
    b->field = rt_xcalloc((size_t)data->n_columns + 1, sizeof(*b->field));
    b->first = rt_xcalloc((size_t)data->n_columns + 1, sizeof(*b->first));
    b->shape.column = b->column;
    rt_strbuf_init(&text);
    for (uint32_t i = 0; i < data->n_columns; i++)
        labelled = labelled || data->column[i].kind == RT_COLUMN_LABEL;
    if (!labelled)
        add_label(b, &text);
    for (uint32_t i = 0; i < data->n_columns; i++)
        add_field(b, &parser->column[i], &text);
    put_plain_first(b);
    b->shape.hash = rt_hash_bytes(text.text ? text.text : "", text.len);
    rt_strbuf_release(&text);
    if (data->format == RT_FORMAT_BINARY)
        take_as_they_are(parser);
    return b;
}

void dc_binary_destroy(struct dc_binary *binary)
{
    if (!binary)
        return;
    rt_free(binary->column);
    rt_free(binary->field);
    rt_free(binary->first);
    rt_free(binary->tile);
    rt_free(binary);
}

const struct dc_block_shape *dc_binary_shape(const struct dc_binary *binary)
{
    return &binary->shape;
}

uint32_t dc_binary_n_fields(const struct dc_binary *binary)
{
    return binary->n_fields;
}

struct dc_binary_field dc_binary_field(const struct dc_binary *binary, uint32_t i)
{
    const struct field *f = &binary->field[i];
    struct dc_binary_field out = {
        .kind = RT_COLUMN_LABEL,
        .at = f->at,
        .counted = f->counted,
        .weighted = f->weighted,
        .standardized = f->standardized,
    };

    if (f->column) {
        out.kind = f->column->conf->kind;
        out.target = f->column->conf->target;
        out.slot = f->column->slot;
    }
    return out;
}

/* ---- a row into a file ---- */

static void put_counted(struct dc_block_writer *writer, const struct field *f, const void *value,
                        uint32_t n)
{
    rt_assert(f->counted || n == 1);
    if (f->counted)
        dc_block_put(writer, f->at - 1, &n, 1);
    dc_block_put(writer, f->at, value, n);
}

/* Where the ids of each column begin: at its slot, but closed up, in the order of slots, where rows vary. */
static void find_ids(const struct dc_binary *b)
{
    const struct dc_parser *p = b->parser;
    uint32_t at = 0;

    for (uint32_t i = 0; i < p->n_slots; i++) {
        const struct dc_column *c = p->slot[i];

        b->first[c - p->column] = p->varying ? at : c->slot;
        at += c->n_ids;
    }
}

static void put_ids(const struct dc_binary *b, const struct field *f,
                    struct dc_block_writer *writer)
{
    const struct dc_parser *p = b->parser;
    uint32_t first = b->first[f->column - p->column];

    put_counted(writer, f, p->id + first, f->column->n_ids);
    if (f->weighted)
        dc_block_put(writer, f->at + 1, p->row.id_weight + first, f->column->n_ids);
}

static void put_field(const struct dc_binary *b, const struct field *f,
                      struct dc_block_writer *writer)
{
    const struct dc_parser *p = b->parser;

    switch (f->column ? (enum rt_column_kind)f->column->conf->kind : RT_COLUMN_LABEL) {
    case RT_COLUMN_FEATURE:
        put_ids(b, f, writer);
        break;
    case RT_COLUMN_DENSE:
        dc_block_put(writer, f->at,
                     f->standardized ? (const void *)&p->value[f->column->slot]
                                     : (const void *)&p->dense[f->column->slot],
                     1);
        break;
    case RT_COLUMN_LABEL:
        dc_block_put(writer, f->at, &p->label[f->column ? f->column->slot : 0], 1);
        break;
    case RT_COLUMN_WEIGHT:
        dc_block_put(writer, f->at, &p->row.weight, 1);
        break;
    case RT_COLUMN_GROUP:
        dc_block_put(writer, f->at, &p->row.group, 1);
        break;
    case RT_COLUMN_KEY:
        put_counted(writer, f, p->key, p->row.key_size);
        break;
    default:
        break;
    }
}

void dc_binary_put(const struct dc_binary *binary, struct dc_block_writer *writer)
{
    find_ids(binary);
    for (uint32_t i = 0; i < binary->n_fields; i++)
        put_field(binary, &binary->field[i], writer);
}

/* ---- a row out of a file ---- */

void dc_binary_begin(struct dc_binary *binary, const struct dc_block_view *view)
{
    binary->view = view;
    binary->row = binary->n_tile = 0;
    for (uint32_t i = binary->n_plain; i < binary->n_fields; i++)
        binary->field[i].next = 0;
}

/* The fields' values begin at row i. */
static void go_to(struct dc_binary *b, uint32_t i)
{
    if (i < b->row)
        dc_binary_begin(b, b->view);
    for (uint32_t k = b->n_plain; i > b->row && k < b->n_fields; k++) {
        struct field *f = &b->field[k];

        for (uint32_t row = b->row; f->counted && row < i; row++)
            f->next += dc_vector_u32(&b->view->column[f->at - 1], row);
    }
    b->row = i;
}

static float single(const struct dc_vector *v, uint32_t i)
{
    uint32_t bits = dc_vector_u32(v, i);
    float value;

    memcpy(&value, &bits, sizeof(value));
    return value;
}

static double number(const struct field *f, const struct dc_vector *v, uint32_t i)
{
    double value;

    if (!f->standardized)
        return (double)single(v, i);
    uint64_t bits = dc_vector_u64(v, i);
    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* Those of the ids at `first` of their column in the view. */
static int take_id_weights(struct dc_parser *p, const struct field *f, const struct dc_vector *v,
                           uint32_t first)
{
    float *to = p->slot_weight + f->column->slot;

    for (uint32_t k = 0; k < f->column->n_ids; k++) {
        to[k] = single(v, first + k);
        if (!isfinite(to[k]))
            return RT_FAIL(RT_EDATA, "%s: expected a finite weight of an id, got '%g'",
                           f->column->conf->name, (double)to[k]);
    }
    return 0;
}

static int take_ids(struct dc_parser *p, const struct field *f, const struct dc_block_view *view,
                    uint32_t i)
{
    const struct dc_vector *v = &view->column[f->at];
    struct dc_column *c = f->column;
    uint32_t first = f->counted ? f->next : i;

    if (f->counted)
        c->n_ids = dc_vector_u32(v - 1, i);
    for (uint32_t k = 0; k < c->n_ids; k++)
        p->id[c->slot + k] = dc_vector_u64(v, first + k);
    return f->weighted ? take_id_weights(p, f, v + 1, first) : 0;
}

static int take_label(struct dc_parser *p, const struct field *f, float value)
{
    char text[32];

    if (!rt_label_fits(rt_label_classes(f->column ? f->column->conf : NULL), (double)value))
        return dc_bad_label(f->column, text,
                            (size_t)snprintf(text, sizeof text, "%g", (double)value));
    p->label[f->column ? f->column->slot : 0] = value;
    return 0;
}

static int take_weight(struct dc_parser *p, const struct field *f, float value)
{
    if (!isfinite(value) || value < 0)
        return RT_FAIL(RT_EDATA, "%s: expected a finite weight of at least 0, got '%g'",
                       f->column->conf->name, (double)value);
    p->row.weight = value;
    return 0;
}

static void take_key(struct dc_parser *p, const struct field *f, const struct dc_vector *v,
                     uint32_t i)
{
    p->row.key_size = dc_vector_u32(v - 1, i);
    memcpy(p->key, (const char *)v->plain + f->next, p->row.key_size);
}

static int take_field(struct dc_binary *b, const struct field *f, uint32_t i)
{
    const struct dc_vector *v = &b->view->column[f->at];
    struct dc_parser *p = b->parser;

    switch (f->column ? (enum rt_column_kind)f->column->conf->kind : RT_COLUMN_LABEL) {
    case RT_COLUMN_FEATURE:
        return take_ids(p, f, b->view, i);
    case RT_COLUMN_DENSE:
        p->value[f->column->slot] = number(f, v, i);
        return 0;
    case RT_COLUMN_LABEL:
        return take_label(p, f, single(v, i));
    case RT_COLUMN_WEIGHT:
        return take_weight(p, f, single(v, i));
    case RT_COLUMN_GROUP:
        p->row.group = dc_vector_u64(v, i);
        return 0;
    case RT_COLUMN_KEY:
        take_key(p, f, v, i);
        return 0;
    default:
        return 0;
    }
}

/* ---- plain values, of many rows at a time ---- */

static void unpack_ids(const struct dc_vector *v, uint32_t first, uint32_t n, uint64_t *to)
{
    const uint64_t *dict = v->dict;
    const uint16_t *code = v->code;

    if (v->encoding == DC_DICT16)
        for (uint32_t i = 0; i < n; i++)
            to[i] = dict[code[first + i]];
    else
        for (uint32_t i = 0; i < n; i++)
            to[i] = dc_vector_u64(v, first + i);
}

static void unpack_numbers(const struct field *f, const struct dc_vector *v, uint32_t first,
                           uint32_t n, uint64_t *to)
{
    for (uint32_t i = 0; i < n; i++) {
        double value = number(f, v, first + i);
        memcpy(&to[i], &value, sizeof(value));
    }
}

static void unpack_tile(struct dc_binary *b, uint32_t first)
{
    uint32_t left = b->view->rows - first, n = left < TILE ? left : TILE;

    for (uint32_t k = 0; k < b->n_plain; k++) {
        const struct field *f = &b->field[k];
        const struct dc_vector *v = &b->view->column[f->at];

        if (f->column->conf->kind == RT_COLUMN_FEATURE)
            unpack_ids(v, first, n, b->tile + (size_t)k * TILE);
        else
            unpack_numbers(f, v, first, n, b->tile + (size_t)k * TILE);
    }
    b->tile_first = first;
    b->n_tile = n;
}

/* The plain values of row i. Rows one after another come from tiles; a row by itself is not worth one. */
static int take_plain(struct dc_binary *b, uint32_t i, bool follows)
{
    struct dc_parser *p = b->parser;
    int err = 0;

    if (follows && i % TILE == 0)
        unpack_tile(b, i);
    uint32_t at = i - b->tile_first;
    bool there = i >= b->tile_first && at < b->n_tile;
    for (uint32_t k = 0; !err && k < b->n_plain; k++) {
        const struct field *f = &b->field[k];

        if (!there)
            err = take_field(b, f, i);
        else if (f->column->conf->kind == RT_COLUMN_FEATURE)
            p->id[f->column->slot] = b->tile[(size_t)k * TILE + at];
        else
            memcpy(&p->value[f->column->slot], &b->tile[(size_t)k * TILE + at], sizeof(double));
    }
    return err;
}

int dc_binary_row(struct dc_binary *binary, uint32_t i)
{
    bool follows = i == 0 || i == binary->row + 1;

    go_to(binary, i);
    int err = take_plain(binary, i, follows);
    for (uint32_t k = binary->n_plain; !err && k < binary->n_fields; k++)
        err = take_field(binary, &binary->field[k], i);
    return err ? err : dc_finish_row(binary->parser);
}
