/* data_compose/parse.c -- columns, header lines, and what the values of fields must be.
 *
 * Three layers: parse_text.c cuts a line into fields; dc_put_field() here turns a field into an id, a
 * float or a label by the column that it is bound to; the row is then complete by construction, for every
 * format checks that each bound column was met exactly once.
 *
 * Numbers: up to 15 digits without exponent are converted exactly by one division; everything else goes
 * through strtod. Words like `nan`, hexadecimal floats and blanks around a number are refused: they
 * are mistakes in a log more often than they are meant. */
#include "data_compose/parse_row.h"

#include "data_compose/source.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/hash.h"
#include "runtime/base/mem.h"
#include "runtime/base/strbuf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SHOWN 40 /* bytes of a bad field in its reason */

/* ---- values ---- */

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

static bool parse_number(const char *text, size_t size, double *out)
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

static int shown(size_t size)
{
    return size > SHOWN ? SHOWN : (int)size;
}

int dc_put_label(struct dc_parser *parser, const struct dc_column *column, const char *text,
                 size_t size)
{
    double value;

    if (!parse_number(text, size, &value) || (value != 0 && value != 1))
        return RT_FAIL(RT_EDATA, "label: expected 0 or 1, got '%.*s'", shown(size), text);
    parser->label[column ? column->slot : 0] = (float)value;
    return 0;
}

int dc_put_dense(struct dc_parser *parser, const struct dc_column *column, double value)
{
    if (column->conf->transform == RT_TRANSFORM_LOG1P)
        value = log1p(value > 0 ? value : 0);
    float result = (float)((value - column->mean) / column->deviation);
    if (!isfinite(result))
        return RT_FAIL(RT_EDATA, "%s: %g is out of the range of float32", column->conf->name,
                       value);
    parser->dense[column->slot] = result;
    return 0;
}

int dc_put_field(struct dc_parser *parser, const struct dc_column *column, const char *text,
                 size_t size)
{
    double value = column->conf->missing;

    switch ((enum rt_column_kind)column->conf->kind) {
    case RT_COLUMN_FEATURE:
        parser->id[column->slot] = rt_hash_bytes(text, size);
        return 0;
    case RT_COLUMN_DENSE:
        if (size > 0 && !parse_number(text, size, &value))
            return RT_FAIL(RT_EDATA, "%s: expected a finite number, got '%.*s'", column->conf->name,
                           shown(size), text);
        return dc_put_dense(parser, column, value);
    case RT_COLUMN_LABEL:
        return dc_put_label(parser, column, text, size);
    default:
        return 0;
    }
}

/* ---- columns ---- */

static int bind_column(struct dc_parser *p, struct dc_column *c, uint32_t *next_id)
{
    const struct rt_column_conf *conf = c->conf;

    switch ((enum rt_column_kind)conf->kind) {
    case RT_COLUMN_FEATURE:
        c->slot = next_id[conf->target]++;
        break;
    case RT_COLUMN_DENSE:
    case RT_COLUMN_LABEL:
        c->slot = conf->target;
        break;
    case RT_COLUMN_IGNORE:
        break;
    default:
        return RT_FAIL(
            RT_EUSAGE,
            "data.yml: columns.%s: kind weight, group or key is not read by data-compose; "
            "expected feature, dense, label or ignore",
            conf->name);
    }
    if (p->job->data.format == RT_FORMAT_SYNTHETIC && conf->kind != RT_COLUMN_IGNORE &&
        !dc_synthetic_column(conf->name, conf->kind, &c->given))
        return RT_FAIL(RT_EUSAGE,
                       "data.yml: columns.%s: the synthetic log has label, x1..x4 (dense), c1..c8 "
                       "(feature)",
                       conf->name);
    return 0;
}

/* libsvm: a column's name is its position after the label; every position has one column. */
static int bind_positions(struct dc_parser *p)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < p->job->data.n_columns; i++)
        n += p->column[i].conf->kind != RT_COLUMN_LABEL;
    p->n_fields = n;
    for (uint32_t i = 0; i < p->job->data.n_columns; i++) {
        const struct rt_column_conf *conf = p->column[i].conf;
        char *end;
        unsigned long position = strtoul(conf->name, &end, 10);

        if (conf->kind == RT_COLUMN_LABEL)
            continue;
        if (conf->kind == RT_COLUMN_DENSE)
            return RT_FAIL(RT_EUSAGE, "data.yml: columns.%s: libsvm has no dense columns",
                           conf->name);
        if (*end || end == conf->name || position >= n || p->field[position])
            return RT_FAIL(
                RT_EUSAGE,
                "data.yml: columns.%s: expected the positions 0..%u after the label, each once",
                conf->name, n - 1);
        p->field[position] = &p->column[i];
    }
    return 0;
}

static int bind_columns(struct dc_parser *p)
{
    const struct rt_job *job = p->job;
    uint32_t *next_id = rt_xcalloc(job->n_features + 1, sizeof(*next_id)), total = 0;
    int err = 0;

    for (uint32_t i = 0; i < job->data.n_columns; i++)
        if (job->data.column[i].kind == RT_COLUMN_FEATURE)
            p->width[job->data.column[i].target]++;
    for (uint32_t f = 0; !err && f < job->n_features; f++) {
        next_id[f] = total;
        total += p->width[f];
        if (p->width[f] > job->feature[f].max_length)
            err = RT_FAIL(RT_EUSAGE,
                          "data.yml: feature %s has %u columns, more than its max_length %u",
                          job->feature[f].name, p->width[f], job->feature[f].max_length);
    }
    p->row.n_ids = total;
    for (uint32_t i = 0; !err && i < job->data.n_columns; i++) {
        struct dc_column *c = &p->column[i];

        *c = (struct dc_column){.conf = &job->data.column[i], .deviation = 1};
        err = bind_column(p, c, next_id);
    }
    rt_free(next_id);
    return err;
}

static int allocate(struct dc_parser *p)
{
    const struct rt_data_conf *data = &p->job->data;
    size_t n = data->n_columns + 1;

    if (data->n_columns > UINT16_MAX)
        return RT_FAIL(RT_EUSAGE, "data.yml: %u columns; at most %d are read", data->n_columns,
                       UINT16_MAX);
    p->column = rt_xcalloc(n, sizeof(*p->column));
    p->field = rt_xcalloc(n, sizeof(*p->field));
    p->id = rt_xcalloc(n, sizeof(*p->id));
    p->absent = rt_xcalloc(n, sizeof(*p->absent));
    p->width = rt_xcalloc(p->job->n_features + 1, sizeof(*p->width));
    p->count = rt_xcalloc(p->job->n_features + 1, sizeof(*p->count));
    p->dense = rt_xcalloc(data->n_dense + 1, sizeof(*p->dense));
    p->label = rt_xcalloc(data->n_labels + 1, sizeof(*p->label));
    p->row = (struct dc_row){0, p->id, p->count, p->dense, p->label};
    return 0;
}

int dc_parser_create(const struct rt_job *job, struct dc_parser **out)
{
    static int (*const line[])(struct dc_parser *, const char *, size_t) = {
        [RT_FORMAT_CRITEO] = dc_line_tsv, [RT_FORMAT_TSV] = dc_line_tsv,
        [RT_FORMAT_CSV] = dc_line_csv,    [RT_FORMAT_LIBSVM] = dc_line_libsvm,
        [RT_FORMAT_SYNTHETIC] = NULL,
    };
    struct dc_parser *p = rt_xcalloc(1, sizeof(*p));
    int err;

    p->job = job;
    p->line = line[job->data.format];
    err = allocate(p);
    if (!err)
        err = bind_columns(p);
    if (!err && job->data.format == RT_FORMAT_LIBSVM) {
        err = bind_positions(p);
    } else if (!err) {
        p->n_fields = job->data.n_columns;
        for (uint32_t i = 0; i < p->n_fields; i++)
            p->field[i] = &p->column[i];
    }
    if (err) {
        dc_parser_destroy(p);
        return err;
    }
    memcpy(p->count, p->width, job->n_features * sizeof(*p->count));
    *out = p;
    return 0;
}

void dc_parser_destroy(struct dc_parser *parser)
{
    if (!parser)
        return;
    rt_free(parser->column);
    rt_free(parser->field);
    rt_free(parser->id);
    rt_free(parser->absent);
    rt_free(parser->width);
    rt_free(parser->count);
    rt_free(parser->dense);
    rt_free(parser->label);
    rt_free(parser->unquoted);
    rt_free(parser);
}

const struct dc_row *dc_parser_view(const struct dc_parser *parser)
{
    return &parser->row;
}

uint32_t dc_parser_ids_max(const struct dc_parser *parser)
{
    uint32_t n = 0;

    for (uint32_t f = 0; f < parser->job->n_features; f++)
        n += parser->width[f];
    return n;
}

int dc_parser_row(struct dc_parser *parser, const char *text, size_t size)
{
    return parser->line(parser, text, size);
}

void dc_parser_standardize(struct dc_parser *parser, uint32_t target, double mean, double deviation)
{
    for (uint32_t i = 0; i < parser->job->data.n_columns; i++) {
        struct dc_column *c = &parser->column[i];

        if (c->conf->kind == RT_COLUMN_DENSE && c->slot == target) {
            c->mean = mean;
            c->deviation = deviation > 0 ? deviation : 1;
        }
    }
}

/* ---- header lines ---- */

int dc_parser_wants_header(const struct dc_parser *parser)
{
    const struct rt_data_conf *data = &parser->job->data;

    return data->header && (data->format == RT_FORMAT_TSV || data->format == RT_FORMAT_CSV);
}

static int unknown_column(const struct dc_parser *p, const char *path, const char *name,
                          size_t size)
{
    const struct rt_data_conf *data = &p->job->data;
    const char **names = rt_xcalloc(data->n_columns + 1, sizeof(*names));
    char word[SHOWN + 1];
    int err;

    size = (size_t)shown(size);
    memcpy(word, name, size);
    word[size] = 0;
    for (uint32_t i = 0; i < data->n_columns; i++)
        names[i] = data->column[i].name;
    const char *near = rt_nearest(word, names, data->n_columns);
    err = RT_FAIL(RT_EUSAGE, "%s:1: column '%s' is not in data.yml%s%s%s", path, word,
                  near ? " (did you mean '" : "", near ? near : "",
                  near ? "'?)" : "; name it there, with kind ignore if it is of no use");
    rt_free(names);
    return err;
}

/* Field number `at` of the header is called `name`. */
static int bind_name(struct dc_parser *p, const char *path, uint32_t at, const char *name,
                     size_t size)
{
    for (uint32_t i = 0; i < p->job->data.n_columns; i++) {
        const char *own = p->column[i].conf->name;

        if (strlen(own) != size || memcmp(own, name, size) != 0)
            continue;
        for (uint32_t k = 0; k < at; k++)
            if (p->field[k] == &p->column[i])
                return RT_FAIL(RT_EUSAGE, "%s:1: column '%s' is there twice", path, own);
        p->field[at] = &p->column[i];
        return 0;
    }
    return unknown_column(p, path, name, size);
}

/* Fewer names than columns: say the first one that is missing. */
static int missing_column(const struct dc_parser *p, const char *path, uint32_t n)
{
    for (uint32_t i = 0; i < p->job->data.n_columns; i++) {
        bool found = false;

        for (uint32_t k = 0; k < n; k++)
            found = found || p->field[k] == &p->column[i];
        if (!found)
            return RT_FAIL(
                RT_EUSAGE,
                "%s:1: column '%s' of data.yml is not in the header (%u names; does the file "
                "have a header line?)",
                path, p->column[i].conf->name, n);
    }
    return 0;
}

int dc_parser_header(struct dc_parser *parser, const char *path, const char *text, size_t size)
{
    bool csv = parser->job->data.format == RT_FORMAT_CSV;
    uint32_t n = 0;
    size_t at = 0;

    if (size >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) { /* a byte order mark */
        text += 3;
        size -= 3;
    }
    while (at <= size) {
        const char *name = text + at;
        size_t name_size;
        int err = 0;

        if (csv) {
            if (!parser->unquoted)
                parser->unquoted = rt_xmalloc(DC_LINE_MAX);
            err = dc_csv_field(text, size, &at, parser->unquoted, &name, &name_size);
        } else {
            const char *tab = at < size ? memchr(name, '\t', size - at) : NULL;
            name_size = tab ? (size_t)(tab - name) : size - at;
            at += name_size + 1;
        }
        if (err)
            return rt_fail_prefix(RT_EUSAGE, "%s:1: ", path);
        if (n == parser->job->data.n_columns)
            return unknown_column(parser, path, name, name_size);
        err = bind_name(parser, path, n++, name, name_size);
        if (err)
            return err;
    }
    return missing_column(parser, path, n);
}
