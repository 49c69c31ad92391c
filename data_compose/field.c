/* data_compose/field.c -- what the value of a field must be: an id, a list of ids, a number, a label, a weight,
 * a group, a key; and the last steps of a row that has all its fields.
 *
 * Numbers: up to 15 digits without exponent are converted exactly by one division; everything else goes
 * through strtod. Words like `nan`, hexadecimal floats and blanks around a number are refused: they
 * are mistakes in a log more often than they are meant.
 *
 * Dense values are kept as float64 until the row is complete; then all go through clip, log1p and
 * standardizing together. */
#include "data_compose/frequency.h"
#include "data_compose/parse_row.h"

#include "runtime/base/cpu.h"
#include "runtime/base/err.h"
#include "runtime/base/hash.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- numbers ---- */

static bool number_shape(const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (!strchr("0123456789+-.eE", text[i]) || !text[i])
            return false;
    return size > 0;
}

static bool slow_number(const char *text, size_t size, double *out)
{
    char copy[64], *end;

    if (!number_shape(text, size) || size >= sizeof(copy))
        return false;
    memcpy(copy, text, size);
    copy[size] = 0;
    *out = strtod(copy, &end);
    return end == copy + size && isfinite(*out);
}

bool dc_parse_number(const char *text, size_t size, double *out)
{
    static const double power[] = {1e0, 1e1, 1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                   1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15};
    bool negative = size > 0 && text[0] == '-';
    size_t i = negative, fraction = 0, digits = 0;
    uint64_t value = 0;
    bool point = false;

    for (; i < size; i++) {
        unsigned digit = (unsigned)(text[i] - '0');

        if (digit <= 9) {
            value = value * 10 + digit;
            fraction += point;
            if (++digits > 15)
                return slow_number(text, size, out);
        } else if (text[i] == '.' && !point) {
            point = true;
        } else {
            return slow_number(text, size, out);
        }
    }
    if (digits == 0)
        return false;
    *out = (double)value / power[fraction];
    if (negative)
        *out = -*out;
    return true;
}

/* Decimal, signed or not; a negative one is its two's complement. */
static bool parse_integer(const char *text, size_t size, uint64_t *out)
{
    bool negative = size > 0 && text[0] == '-';
    uint64_t value = 0;

    for (size_t i = negative; i < size; i++) {
        unsigned digit = (unsigned)(text[i] - '0');

        if (digit > 9 || __builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, digit, &value))
            return false;
    }
    if (size == negative || (negative && value > (uint64_t)INT64_MAX + 1))
        return false;
    *out = negative ? 0 - value : value;
    return true;
}

/* ---- ids ---- */

static int one_id(const struct dc_column *column, const char *text, size_t size, uint64_t *out)
{
    if (!column->conf->integer)
        *out = rt_hash_bytes(text, size);
    else if (!parse_integer(text, size, out))
        return RT_FAIL(RT_EDATA, "%s: expected an integer of 64 bits, got '%.*s'",
                       column->conf->name, dc_shown(size), text);
    return 0;
}

/* An id, or `id:weight`; ids may have the separator in them, weights cannot. Without a weight it is 1. */
static int weighted_id(struct dc_parser *p, const struct dc_column *column, const char *text,
                       size_t size, uint32_t slot)
{
    char separator = column->conf->weight_separator;
    size_t n = size;
    double weight = 1;

    while (n > 0 && text[n - 1] != separator)
        n--;
    if (n == 0) {
        n = size; /* there is none */
    } else if (!dc_parse_number(text + n, size - n, &weight) || !isfinite((float)weight)) {
        return RT_FAIL(RT_EDATA, "%s: expected a finite number after '%c', got '%.*s'",
                       column->conf->name, separator, dc_shown(size), text);
    } else if (--n == 0) {
        return RT_FAIL(RT_EDATA, "%s: expected an id before '%c', got '%.*s'", column->conf->name,
                       separator, dc_shown(size), text);
    }
    p->slot_weight[slot] = (float)weight;
    return one_id(column, text, n, &p->id[slot]);
}

static int put_id(struct dc_parser *p, const struct dc_column *column, const char *text,
                  size_t size, uint32_t slot)
{
    return column->conf->weight_separator ? weighted_id(p, column, text, size, slot)
                                          : one_id(column, text, size, &p->id[slot]);
}

static int too_long(const struct dc_parser *p, uint32_t feature, const char *what, size_t n)
{
    const struct rt_feature_conf *conf = &p->job->feature[feature];

    return RT_FAIL(RT_EDATA, "%s: expected at most %u ids (max_length of feature %s), got %zu",
                   what, conf->max_length, conf->name, n);
}

/* The next item of a list that is not empty; false: there is none. *text moves past it. */
static bool next_item(const char **text, const char *end, char separator, const char **item,
                      size_t *size)
{
    while (*text < end) {
        const char *stop = memchr(*text, separator, (size_t)(end - *text));

        stop = stop ? stop : end;
        *item = *text;
        *size = (size_t)(stop - *text);
        *text = stop + 1;
        if (*size > 0)
            return true;
    }
    return false;
}

static size_t count_items(const char *text, const char *end, char separator)
{
    const char *item;
    size_t size, n = 0;

    while (next_item(&text, end, separator, &item, &size))
        n++;
    return n;
}

static int put_list(struct dc_parser *p, struct dc_column *column, const char *text, size_t size)
{
    uint32_t truncate = p->job->feature[column->conf->target].truncate;
    char separator = column->conf->separator;
    const char *end = text + size, *item;
    size_t skip = 0, n = 0, item_size;

    if (truncate == RT_TRUNCATE_HEAD) {
        skip = count_items(text, end, separator);
        skip = skip > column->room ? skip - column->room : 0;
    }
    while (next_item(&text, end, separator, &item, &item_size)) {
        if (skip > 0) {
            skip--;
            continue;
        }
        if (n == column->room && truncate == RT_TRUNCATE_TAIL)
            break;
        if (n++ >= column->room)
            continue;
        int err = put_id(p, column, item, item_size, column->slot + (uint32_t)n - 1);
        if (err)
            return err;
    }
    column->n_ids = (uint32_t)n;
    return n > column->room ? too_long(p, column->conf->target, column->conf->name, n) : 0;
}

static int put_ids(struct dc_parser *p, struct dc_column *column, const char *text, size_t size)
{
    uint32_t empty = column->conf->empty;

    if (size == 0 && empty == RT_EMPTY_BAD)
        return RT_FAIL(RT_EDATA, "%s: expected %s, got an empty field", column->conf->name,
                       column->conf->integer ? "an integer" : "a value");
    column->n_ids = size > 0 || empty != RT_EMPTY_NONE;
    if (size > 0 && column->conf->separator)
        return put_list(p, column, text, size);
    if (size > 0)
        return put_id(p, column, text, size, column->slot);
    p->id[column->slot] = rt_hash_bytes(text, 0);
    if (column->conf->weight_separator)
        p->slot_weight[column->slot] = 1;
    return 0;
}

/* ---- the other kinds ---- */

int dc_bad_label(const struct dc_column *column, const char *text, size_t size)
{
    const char *name = column ? column->conf->name : "label";
    uint32_t classes = rt_label_classes(column ? column->conf : NULL);

    if (!classes)
        return RT_FAIL(RT_EDATA, "%s: expected a finite number, got '%.*s'", name, dc_shown(size),
                       text);
    if (classes > 2)
        return RT_FAIL(RT_EDATA, "%s: expected a class of 0..%u, got '%.*s'", name, classes - 1,
                       dc_shown(size), text);
    return RT_FAIL(RT_EDATA, "%s: expected 0 or 1, got '%.*s'", name, dc_shown(size), text);
}

int dc_put_label(struct dc_parser *parser, const struct dc_column *column, const char *text,
                 size_t size)
{
    double value;

    if (size == 1 && (text[0] == '0' || text[0] == '1'))
        value = text[0] - '0';
    else if (!dc_parse_number(text, size, &value) ||
             !rt_label_fits(rt_label_classes(column ? column->conf : NULL), value))
        return dc_bad_label(column, text, size);
    parser->label[column ? column->slot : 0] = (float)value;
    return 0;
}

static int empty_dense(const char *name)
{
    return RT_FAIL(RT_EDATA, "%s: expected a finite number, got an empty field", name);
}

static int put_dense(struct dc_parser *p, const struct dc_column *column, const char *text,
                     size_t size)
{
    double *out = &p->value[column->slot];

    if (size == 0 && column->conf->empty == RT_EMPTY_BAD)
        return empty_dense(column->conf->name);
    if (size == 0)
        *out = column->conf->missing;
    else if (!dc_parse_number(text, size, out))
        return RT_FAIL(RT_EDATA, "%s: expected a finite number, got '%.*s'", column->conf->name,
                       dc_shown(size), text);
    return 0;
}

static int put_weight(struct dc_parser *p, const struct dc_column *column, const char *text,
                      size_t size)
{
    double value;

    if (!dc_parse_number(text, size, &value) || value < 0 || !isfinite((float)value))
        return RT_FAIL(RT_EDATA, "%s: expected a finite weight of at least 0, got '%.*s'",
                       column->conf->name, dc_shown(size), text);
    p->row.weight = (float)value;
    return 0;
}

static int put_key(struct dc_parser *p, const struct dc_column *column, const char *text,
                   size_t size)
{
    if (size > RT_KEY_MAX)
        return RT_FAIL(RT_EDATA, "%s: expected a key of at most %u bytes, got %zu",
                       column->conf->name, RT_KEY_MAX, size);
    if (size > 0)
        memcpy(p->key, text, size);
    p->row.key_size = (uint32_t)size;
    return 0;
}

int dc_put_field(struct dc_parser *parser, struct dc_column *column, const char *text, size_t size)
{
    switch ((enum rt_column_kind)column->conf->kind) {
    case RT_COLUMN_FEATURE:
        return put_ids(parser, column, text, size);
    case RT_COLUMN_DENSE:
        return put_dense(parser, column, text, size);
    case RT_COLUMN_LABEL:
        return dc_put_label(parser, column, text, size);
    case RT_COLUMN_WEIGHT:
        return put_weight(parser, column, text, size);
    case RT_COLUMN_GROUP:
        return one_id(column, text, size, &parser->row.group);
    case RT_COLUMN_KEY:
        return put_key(parser, column, text, size);
    default:
        return 0;
    }
}

/* ---- the whole row ---- */

const struct dc_row_loops *dc_row_select(void)
{
    switch (rt_cpu_isa()) {
    case RT_ISA_AVX512:
        return &dc_row_avx512;
    case RT_ISA_AVX2:
        return &dc_row_avx2;
    case RT_ISA_PLAIN:
        break;
    }
    return &dc_row_plain;
}

static int bad_dense(const struct dc_parser *p)
{
    uint32_t i = 0;

    while (isfinite(p->dense[i]))
        i++;
    return isnan(p->value[i]) ? empty_dense(p->job->dense[i])
                              : RT_FAIL(RT_EDATA, "%s: %g is out of the range of float32",
                                        p->job->dense[i], p->value[i]);
}

/* Count the ids of the columns with a minimum frequency, or replace those below it. */
static int weigh_ids(struct dc_parser *p)
{
    for (uint32_t i = 0; i < p->job->data.n_columns; i++) {
        struct dc_column *c = &p->column[i];
        int err = 0;

        if (c->conf->kind != RT_COLUMN_FEATURE || c->conf->min_frequency < 2)
            continue;
        if (p->counts)
            err = dc_frequency_add(p->counts, i, p->id + c->slot, c->n_ids);
        else
            dc_frequency_map(p->frequent, i, p->id + c->slot, c->n_ids);
        if (err)
            return err;
    }
    return 0;
}

/* The feature's columns up to the last-th have `over` ids too many: those of the first ones go. */
static void cut_head(struct dc_parser *p, uint32_t last, uint32_t over)
{
    for (uint32_t i = 0; i <= last && over > 0; i++) {
        struct dc_column *c = p->slot[i];
        uint32_t cut = over < c->n_ids ? over : c->n_ids;

        if (c->conf->target != p->slot[last]->conf->target)
            continue;
        over -= cut;
        c->n_ids -= cut;
        memmove(p->id + c->slot, p->id + c->slot + cut, c->n_ids * sizeof(*p->id));
        if (c->conf->weight_separator)
            memmove(p->slot_weight + c->slot, p->slot_weight + c->slot + cut,
                    c->n_ids * sizeof(*p->slot_weight));
    }
}

/* How many ids each feature has, over all its columns. */
static int count_ids(struct dc_parser *p)
{
    memset(p->count, 0, p->job->n_features * sizeof(*p->count));
    for (uint32_t i = 0; i < p->n_slots; i++) {
        struct dc_column *c = p->slot[i];
        uint32_t f = c->conf->target, n = p->count[f] + c->n_ids;
        uint32_t max = p->job->feature[f].max_length, truncate = p->job->feature[f].truncate;

        if (n > max && truncate == RT_TRUNCATE_REFUSE)
            return too_long(p, f, "all columns together", n);
        if (n > max && truncate == RT_TRUNCATE_HEAD)
            cut_head(p, i, n - max);
        else if (n > max)
            c->n_ids = max - p->count[f];
        p->count[f] = (uint16_t)(n < max ? n : max);
    }
    return 0;
}

static void close_gaps(struct dc_parser *p)
{
    uint32_t to = 0;

    for (uint32_t i = 0; i < p->n_slots; i++) {
        const struct dc_column *c = p->slot[i];

        if (to != c->slot)
            memmove(p->id + to, p->id + c->slot, c->n_ids * sizeof(*p->id));
        if (p->weighted)
            memcpy(p->id_weight + to, p->slot_weight + c->slot, c->n_ids * sizeof(*p->id_weight));
        to += c->n_ids;
    }
    p->row.n_ids = to;
}

int dc_finish_row(struct dc_parser *parser)
{
    int err = 0;

    if (!parser->finish_dense(&parser->plan, parser->value, parser->dense))
        err = bad_dense(parser);
    if (!err && parser->varying)
        err = count_ids(parser);
    if (!err && (parser->counts || parser->frequent))
        err = weigh_ids(parser);
    if (!err && parser->varying)
        close_gaps(parser);
    return err;
}
