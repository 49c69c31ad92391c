/* data_compose/parse.c -- columns bound to places in the row and to the fields of a file.
 *
 * Layers: row_loops.inc.h (tabs) and parse_text.c cut a line into fields; field.c turns a field into an id, a
 * float or a label by the column that it is bound to, but for the plain cases, which row_loops.inc.h does
 * itself; the row is then complete by construction, for every format
 * checks that each bound column was met exactly once. */
#include "data_compose/parse_row.h"

#include "data_compose/source.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/strbuf.h"
#include "runtime/wire/method.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define STOP_SLACK 80u /* a block of 64 bytes may be all tabs; 16 are written at once */

/* ---- columns ---- */

static int bind_column(struct dc_parser *p, struct dc_column *c, uint32_t *next_slot)
{
    const struct rt_column_conf *conf = c->conf;
    uint32_t format = p->job->data.format, kind = conf->kind;

    if (kind == RT_COLUMN_FEATURE) {
        c->slot = next_slot[conf->target];
        next_slot[conf->target] += c->room;
    } else if (kind == RT_COLUMN_DENSE || kind == RT_COLUMN_LABEL) {
        c->slot = conf->target;
    }
    if (format == RT_FORMAT_SYNTHETIC && kind != RT_COLUMN_IGNORE &&
        !dc_synthetic_column(conf->name, kind, &c->given))
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

        if (conf->kind == RT_COLUMN_LABEL && !p->label_column) {
            p->label_column = &p->column[i];
            continue;
        }
        if (conf->kind != RT_COLUMN_FEATURE && conf->kind != RT_COLUMN_IGNORE)
            return RT_FAIL(RT_EUSAGE, "data.yml: columns.%s: libsvm has a label and features only",
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

static void plan_weights(struct dc_parser *p, size_t places)
{
    p->slot_weight = rt_xcalloc(places + 1, sizeof(*p->slot_weight));
    p->id_weight = rt_xcalloc(places + 1, sizeof(*p->id_weight));
    for (size_t i = 0; i < places; i++)
        p->slot_weight[i] = 1;
}

/* The most ids of a row; where each feature's ids begin goes to first[]. */
static int plan_ids(struct dc_parser *p, uint32_t *first)
{
    const struct rt_job *job = p->job;
    uint64_t *room = rt_xcalloc(job->n_features + 1, sizeof(*room)), total = 0;
    int err = 0;

    for (uint32_t i = 0; i < job->data.n_columns; i++) {
        struct dc_column *c = &p->column[i];

        *c = (struct dc_column){.conf = &job->data.column[i], .room = 1, .n_ids = 1};
        if (c->conf->kind != RT_COLUMN_FEATURE)
            continue;
        if (c->conf->weight_separator && !p->weighted)
            p->weighted = rt_xcalloc(job->n_features, 1);
        if (c->conf->weight_separator)
            p->weighted[c->conf->target] = 1;
        if (c->conf->separator)
            c->room = job->feature[c->conf->target].max_length;
        p->cuts = p->cuts || job->feature[c->conf->target].truncate != RT_TRUNCATE_REFUSE;
        p->varying = p->varying || c->conf->separator || c->conf->empty == RT_EMPTY_NONE;
        room[c->conf->target] += c->room;
        p->count[c->conf->target]++;
    }
    for (uint32_t f = 0; !err && f < job->n_features; f++) {
        uint32_t max = job->feature[f].max_length;

        first[f] = (uint32_t)total;
        total += room[f];
        p->ids_max += room[f] < max ? (uint32_t)room[f] : max;
        if (p->count[f] > max)
            err = RT_FAIL(RT_EUSAGE,
                          "data.yml: feature %s has %u columns, more than its max_length %u",
                          job->feature[f].name, p->count[f], max);
        else if (total > WIRE_IDS_MAX)
            err = RT_FAIL(RT_EUSAGE,
                          "data.yml: a row may have over %u ids; expected features with a smaller "
                          "max_length in embedding.yml",
                          WIRE_IDS_MAX);
    }
    rt_free(room);
    p->row.n_ids = (uint32_t)total; /* exact where rows do not vary */
    if (!err)
        p->id = rt_xcalloc(total + 1, sizeof(*p->id));
    if (!err && p->weighted)
        plan_weights(p, (size_t)total);
    return err;
}

static int by_slot(const void *a, const void *b)
{
    uint32_t x = (*(struct dc_column *const *)a)->slot, y = (*(struct dc_column *const *)b)->slot;

    return x < y ? -1 : x > y;
}

static int bind_columns(struct dc_parser *p)
{
    const struct rt_job *job = p->job;
    uint32_t *next = rt_xcalloc(job->n_features + 1, sizeof(*next));
    int err = plan_ids(p, next);

    for (uint32_t i = 0; !err && i < job->data.n_columns; i++) {
        struct dc_column *c = &p->column[i];

        err = bind_column(p, c, next);
        if (c->conf->kind == RT_COLUMN_FEATURE)
            p->slot[p->n_slots++] = c;
    }
    qsort((void *)p->slot, p->n_slots, sizeof(*p->slot), by_slot);
    rt_free(next);
    return err;
}

/* One array for each, padded with values that change nothing. */
static void plan_dense(struct dc_parser *p)
{
    struct dc_dense_plan *plan = &p->plan;

    plan->n = (p->job->data.n_dense + DC_DENSE_LANES - 1) / DC_DENSE_LANES * DC_DENSE_LANES;
    p->value = rt_xcalloc(plan->n + 1, sizeof(*p->value));
    p->dense = rt_xcalloc(plan->n + 1, sizeof(*p->dense));
    plan->missing = rt_xcalloc(plan->n + 1, sizeof(*plan->missing));
    plan->low = rt_xcalloc(plan->n + 1, sizeof(*plan->low));
    plan->high = rt_xcalloc(plan->n + 1, sizeof(*plan->high));
    plan->mean = rt_xcalloc(plan->n + 1, sizeof(*plan->mean));
    plan->deviation = rt_xcalloc(plan->n + 1, sizeof(*plan->deviation));
    plan->log1p = rt_xcalloc(plan->n + 1, sizeof(*plan->log1p));
    for (uint32_t i = 0; i < plan->n; i++) {
        plan->low[i] = -INFINITY;
        plan->high[i] = INFINITY;
        plan->deviation[i] = 1;
    }
    for (uint32_t i = 0; i < p->job->data.n_columns; i++) {
        const struct rt_column_conf *conf = &p->job->data.column[i];

        if (conf->kind != RT_COLUMN_DENSE)
            continue;
        plan->missing[conf->target] = conf->empty == RT_EMPTY_BAD ? (double)NAN : conf->missing;
        plan->low[conf->target] = conf->low;
        plan->high[conf->target] = conf->high;
        plan->any_clip = plan->any_clip || isfinite(conf->low) || isfinite(conf->high);
        if (conf->transform == RT_TRANSFORM_LOG1P) {
            plan->log1p[conf->target] = UINT64_MAX;
            plan->any_log1p = true;
        }
    }
}

static int allocate(struct dc_parser *p)
{
    const struct rt_data_conf *data = &p->job->data;
    size_t n = data->n_columns + 1;

    if (data->n_columns > UINT16_MAX)
        return RT_FAIL(RT_EUSAGE, "data.yml: %u columns; at most %d are read", data->n_columns,
                       UINT16_MAX);
    p->column = rt_xcalloc(n, sizeof(*p->column));
    p->field = (struct dc_column **)rt_xcalloc(n, sizeof(*p->field));
    p->slot = (struct dc_column **)rt_xcalloc(n, sizeof(*p->slot));
    p->run = rt_xcalloc(n, sizeof(*p->run));
    p->stop = rt_xcalloc(n + STOP_SLACK, sizeof(*p->stop));
    p->count = rt_xcalloc(p->job->n_features + 1, sizeof(*p->count));
    p->label = rt_xcalloc(data->n_labels + 1, sizeof(*p->label));
    if (data->keyed)
        p->key = rt_xmalloc(RT_KEY_MAX);
    plan_dense(p);
    return 0;
}

static enum dc_run_sort sort_of(const struct rt_column_conf *conf)
{
    if (conf->kind == RT_COLUMN_DENSE)
        return DC_RUN_DENSE;
    if (conf->kind == RT_COLUMN_FEATURE && !conf->separator && !conf->weight_separator &&
        !conf->integer && (conf->empty == RT_EMPTY_ID || conf->empty == RT_EMPTY_VALUE))
        return DC_RUN_IDS;
    return DC_RUN_OTHER;
}

/* Fields have their columns: which of them are read alike. */
static void plan_fields(struct dc_parser *p)
{
    struct dc_run *run = p->run;

    *run = (struct dc_run){0};
    for (uint32_t i = 0; i < p->n_fields && p->field[i]; i++) {
        enum dc_run_sort sort = sort_of(p->field[i]->conf);

        uint32_t slot = p->field[i]->slot;

        if (i > run->first &&
            (sort != run->sort || (sort != DC_RUN_OTHER && slot != run->slot + (i - run->first))))
            *++run = (struct dc_run){.first = i};
        if (i == run->first)
            run->slot = slot;
        run->sort = sort;
        run->end = i + 1;
    }
    if (p->n_fields)
        *++run = (struct dc_run){.first = p->n_fields};
}

int dc_parser_create(const struct rt_job *job, struct dc_parser **out)
{
    static int (*const line[])(struct dc_parser *, const char *, size_t) = {
        [RT_FORMAT_CRITEO] = NULL,     [RT_FORMAT_TSV] = NULL,
        [RT_FORMAT_CSV] = dc_line_csv, [RT_FORMAT_LIBSVM] = dc_line_libsvm,
        [RT_FORMAT_SYNTHETIC] = NULL,  [RT_FORMAT_BINARY] = NULL,
    };
    struct dc_parser *p = rt_xcalloc(1, sizeof(*p));
    int err;

    p->job = job;
    const struct dc_row_loops *loops = dc_row_select();
    p->line = line[job->data.format];
    if (job->data.format == RT_FORMAT_CRITEO || job->data.format == RT_FORMAT_TSV)
        p->line = loops->tsv;
    p->finish_dense = loops->dense;
    p->varying = job->data.format == RT_FORMAT_LIBSVM;
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
    plan_fields(p);
    if (err) {
        dc_parser_destroy(p);
        return err;
    }
    p->row = (struct dc_row){.n_ids = p->row.n_ids,
                             .id = p->id,
                             .id_weight = p->varying ? p->id_weight : p->slot_weight,
                             .count = p->count,
                             .dense = p->dense,
                             .label = p->label,
                             .weight = 1,
                             .key = p->key};
    *out = p;
    return 0;
}

void dc_parser_destroy(struct dc_parser *parser)
{
    if (!parser)
        return;
    struct dc_dense_plan *plan = &parser->plan;
    double *const number[] = {parser->value, plan->missing, plan->low,
                              plan->high,    plan->mean,    plan->deviation};

    for (size_t i = 0; i < ARRAY_LEN(number); i++)
        rt_free(number[i]);
    rt_free(plan->log1p);
    rt_free(parser->column);
    rt_free((void *)parser->field);
    rt_free((void *)parser->slot);
    rt_free(parser->run);
    rt_free(parser->stop);
    rt_free(parser->id);
    rt_free(parser->slot_weight);
    rt_free(parser->id_weight);
    rt_free(parser->weighted);
    rt_free(parser->count);
    rt_free(parser->dense);
    rt_free(parser->label);
    rt_free(parser->key);
    rt_free(parser->unquoted);
    rt_free(parser);
}

const struct dc_row *dc_parser_view(const struct dc_parser *parser)
{
    return &parser->row;
}

uint32_t dc_parser_ids_max(const struct dc_parser *parser)
{
    return parser->ids_max;
}

const uint8_t *dc_parser_weighted(const struct dc_parser *parser)
{
    return parser->weighted;
}

int dc_parser_varying(const struct dc_parser *parser)
{
    return parser->varying;
}

void dc_parser_count(struct dc_parser *parser, struct dc_frequency *counts)
{
    parser->counts = counts;
}

void dc_parser_frequent(struct dc_parser *parser, const struct dc_frequency *frequent)
{
    parser->frequent = frequent;
}

int dc_parser_row(struct dc_parser *parser, const char *text, size_t size)
{
    /* A column of one id has that again, whatever was cut off the row before. */
    for (uint32_t i = 0; parser->cuts && i < parser->n_slots; i++)
        parser->slot[i]->n_ids = 1;
    return parser->line(parser, text, size);
}

void dc_parser_standardize(struct dc_parser *parser, uint32_t target, double mean, double deviation)
{
    rt_assert(target < parser->job->data.n_dense);
    parser->plan.any_standardized = true;
    parser->plan.mean[target] = mean;
    parser->plan.deviation[target] = deviation > 0 ? deviation : 1;
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
    char word[DC_SHOWN_MAX + 1];
    int err;

    size = (size_t)dc_shown(size);
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
    int err = missing_column(parser, path, n);
    if (!err)
        plan_fields(parser);
    return err;
}
