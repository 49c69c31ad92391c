/* runtime/job/column.c -- the columns of data.yml: what each field of a row is.
 *
 * A column is `NAME: kind` or `NAME: {kind: ..., ...}`. Columns keep the file's order: where the data
 * has no header line that is the order of its fields. The n-th `dense` column is dense input n, the
 * n-th `label` is label n. A key that means nothing for a column's kind is refused: it was meant for
 * something. */
#include "runtime/job/read.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/strbuf.h"
#include "runtime/conf/option.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define COLUMNS_MAX 8192
#define CLASSES_MAX 65536
#define KINDS       "feature|dense|label|weight|group|key|ignore"

struct column_keys {
    uint32_t kind, transform, min_frequency, classes;
    const char *feature, *separator, *weight_separator, *missing;
    const struct rt_node *clip;
    bool standardize, integer, real;
};
#define AT(field) offsetof(struct column_keys, field)

static const struct rt_option option[] = {
    {"kind", RT_OPT_ENUM, AT(kind), "feature", 0, 0, KINDS,
     "what the column is. weight: of the sample, a number >= 0, in the loss and in the metrics; "
     "group: "
     "whom the sample belongs to; key: bytes that name the sample; at most one of each of these"},
    {"feature", RT_OPT_STR, AT(feature), NULL, 0, 0, NULL,
     "feature: which one takes the ids; default: the column's own name"},
    {"separator", RT_OPT_STR, AT(separator), NULL, 0, 0, NULL,
     "feature in tsv, csv, criteo: one character between the ids of a field; empty items are left "
     "out; a "
     "list over the feature's max_length is a bad row, unless the feature says `truncate`"},
    {"weight_separator", RT_OPT_STR, AT(weight_separator), NULL, 0, 0, NULL,
     "feature in tsv, csv, criteo, libsvm: one character between an id and its weight, as in "
     "`12:0.5`; libsvm: `:`, and values are weights"},
    {"integer", RT_OPT_BOOL, AT(integer), "false", 0, 0, NULL,
     "feature, group: the field is a decimal integer of 64 bits (signed or not), taken as it is; "
     "anything "
     "else is a bad row. Without it the XXH3-64 of the field's bytes is taken"},
    {"min_frequency", RT_OPT_U32, AT(min_frequency), "1", 1, 1000000000, NULL,
     "feature: ids that the training files have fewer times than this become one id; counted in "
     "one pass "
     "by each data-compose when it starts (see data.frequency_memory)"},
    {"missing", RT_OPT_STR, AT(missing), NULL, 0, 0, NULL,
     "an empty field. dense: the value it stands for (default 0), or `bad`: a bad row. feature: "
     "`id`: the "
     "empty string is a category (default), `none`: no id (default with separator), `bad` (default "
     "with "
     "integer)"},
    {"clip", RT_OPT_NODE, AT(clip), NULL, 0, 0, NULL,
     "dense: [low, high]: values outside become the nearest bound; after missing, before the "
     "transform"},
    {"transform", RT_OPT_ENUM, AT(transform), "none", 0, 0, "none|log1p",
     "dense: log1p is log(1 + max(x, 0))"},
    {"standardize", RT_OPT_BOOL, AT(standardize), "false", 0, 0, NULL,
     "dense: (x - mean) / deviation over the training files, after the transform"},
    {"classes", RT_OPT_U32, AT(classes), "2", 2, CLASSES_MAX, NULL,
     "label: it is one of the integers from 0 to this less one; anything else is a bad row"},
    {"real", RT_OPT_BOOL, AT(real), "false", 0, 0, NULL,
     "label: it is any number, what `mse` learns; `classes` says nothing then"},
};

/* ---- one column ---- */

static const char *kind_name(uint32_t kind)
{
    static const char *const name[] = {"feature", "dense", "label", "weight",
                                       "group",   "key",   "ignore"};

    return name[kind];
}

static int check_kind(const struct rt_node *node, uint32_t kind)
{
    enum {
        F = 1 << RT_COLUMN_FEATURE,
        D = 1 << RT_COLUMN_DENSE,
        L = 1 << RT_COLUMN_LABEL,
        G = 1 << RT_COLUMN_GROUP
    };
    static const struct {
        const char *key;
        uint32_t kinds;
        const char *names;
    } row[] = {
        {"feature", F, "feature"},
        {"separator", F, "feature"},
        {"weight_separator", F, "feature"},
        {"integer", F | G, "feature or group"},
        {"min_frequency", F, "feature"},
        {"missing", F | D, "feature or dense"},
        {"classes", L, "label"},
        {"real", L, "label"},
        {"clip", D, "dense"},
        {"transform", D, "dense"},
        {"standardize", D, "dense"},
    };

    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        const struct rt_node *key = rt_node_get(node, row[i].key);

        if (key && !(row[i].kinds >> kind & 1))
            return rt_node_fail(key, "goes with kind %s, this column is kind %s", row[i].names,
                                kind_name(kind));
    }
    return 0;
}

static int read_separator(const struct rt_node *node, const char *text, const struct rt_job *job,
                          struct rt_column_conf *c)
{
    uint32_t format = job->data.format;

    if (!text)
        return 0;
    node = rt_node_get(node, "separator");
    if (format == RT_FORMAT_LIBSVM || format == RT_FORMAT_SYNTHETIC)
        return rt_node_fail(node, "goes with format tsv, csv or criteo");
    if (strlen(text) != 1 || strchr("\"\r\n", text[0]) ||
        (text[0] == '\t' && format != RT_FORMAT_CSV && format != RT_FORMAT_BINARY))
        return rt_node_fail(node, "expected one character that can stand in a field, got '%s'",
                            text);
    if (c->integer && strchr("-0123456789", text[0]))
        return rt_node_fail(node, "'%s' can be part of an integer", text);
    c->separator = text[0];
    return 0;
}

/* Weights are numbers, so neither separator may be part of one. */
static int read_weight_separator(const struct rt_node *node, const char *text,
                                 const struct rt_job *job, struct rt_column_conf *c)
{
    static const char number[] = "+-.0123456789eE";
    uint32_t format = job->data.format;

    if (!text)
        return 0;
    node = rt_node_get(node, "weight_separator");
    if (format == RT_FORMAT_SYNTHETIC)
        return rt_node_fail(node, "goes with format tsv, csv, criteo, libsvm or binary");
    if (format == RT_FORMAT_LIBSVM && strcmp(text, ":") != 0)
        return rt_node_fail(node, "expected ':' in libsvm, got '%s'", text);
    if (strlen(text) != 1 || strchr("\"\r\n", text[0]) || strchr(number, text[0]) ||
        (text[0] == '\t' && format != RT_FORMAT_CSV && format != RT_FORMAT_BINARY))
        return rt_node_fail(node,
                            "expected one character that can stand in a field and in no number, "
                            "got '%s'",
                            text);
    if (c->separator && (c->separator == text[0] || strchr(number, c->separator)))
        return rt_node_fail(node,
                            "expected a separator beside it that is another one and in no "
                            "number, got '%c'",
                            c->separator);
    c->weight_separator = text[0];
    return 0;
}

static int read_missing(const struct rt_node *node, const char *text, struct rt_column_conf *c)
{
    bool feature = c->kind == RT_COLUMN_FEATURE;

    if (feature)
        c->empty = c->separator ? RT_EMPTY_NONE : c->integer ? RT_EMPTY_BAD : RT_EMPTY_ID;
    if (!text)
        return 0;
    node = rt_node_get(node, "missing");
    if (strcmp(text, "bad") == 0)
        c->empty = RT_EMPTY_BAD;
    else if (!feature)
        return rt_node_f64(node, -DBL_MAX, DBL_MAX, &c->missing);
    else if (strcmp(text, "none") == 0)
        c->empty = RT_EMPTY_NONE;
    else if (strcmp(text, "id") == 0 && !c->integer)
        c->empty = RT_EMPTY_ID;
    else
        return rt_node_fail(node, "expected %snone or bad, got '%s'", c->integer ? "" : "id, ",
                            text);
    return 0;
}

static int read_clip(const struct rt_node *clip, struct rt_column_conf *c)
{
    c->low = -INFINITY;
    c->high = INFINITY;
    if (!clip)
        return 0;
    int err = rt_node_want_list(clip);
    if (!err && rt_node_count(clip) != 2)
        err = rt_node_fail(clip, "expected [low, high], got %zu values", rt_node_count(clip));
    if (!err)
        err = rt_node_f64(rt_node_at(clip, 0), -DBL_MAX, DBL_MAX, &c->low);
    if (!err)
        err = rt_node_f64(rt_node_at(clip, 1), -DBL_MAX, DBL_MAX, &c->high);
    if (!err && c->low > c->high)
        err = rt_node_fail(clip, "expected low <= high, got %g and %g", c->low, c->high);
    return err;
}

static int find_feature(const struct rt_job *job, const struct rt_node *node, const char *name,
                        uint32_t *out)
{
    for (uint32_t f = 0; f < job->n_features; f++) {
        if (strcmp(job->feature[f].name, name) == 0) {
            *out = f;
            return 0;
        }
    }
    const char **names = rt_arena_array(job->arena, const char *, job->n_features);
    for (uint32_t f = 0; names && f < job->n_features; f++)
        names[f] = job->feature[f].name;
    const char *near = names ? rt_nearest(name, names, job->n_features) : NULL;
    return rt_node_fail(node, "embedding.yml has no feature '%s'%s%s%s", name,
                        near ? " (did you mean '" : "", near ? near : "", near ? "'?)" : "");
}

/* `age: dense` is short for `age: {kind: dense}`. */
static int read_keys(const struct rt_node *node, struct column_keys *keys, struct rt_arena *arena)
{
    bool word = rt_node_kind(node) == RT_NODE_SCALAR;
    int err = rt_options_load(option, ARRAY_LEN(option), word ? NULL : node, keys, arena);

    if (!err && word)
        err = rt_node_choice(node, KINDS, &keys->kind);
    return err ? err : check_kind(word ? NULL : node, keys->kind);
}

static int read_column(const struct rt_node *node, struct rt_job *job, const char *name,
                       struct rt_column_conf *c)
{
    struct column_keys keys;
    int err = read_keys(node, &keys, job->arena);

    if (err)
        return err;
    *c = (struct rt_column_conf){.name = name,
                                 .kind = keys.kind,
                                 .transform = keys.transform,
                                 .standardize = keys.standardize,
                                 .integer = keys.integer,
                                 .min_frequency = keys.min_frequency,
                                 .classes = keys.classes,
                                 .real = keys.real};
    if (c->kind == RT_COLUMN_FEATURE)
        err = find_feature(job, node, keys.feature ? keys.feature : name, &c->target);
    if (!err)
        err = read_separator(node, keys.separator, job, c);
    if (!err)
        err = read_weight_separator(node, keys.weight_separator, job, c);
    if (!err)
        err = read_missing(node, keys.missing, c);
    return err ? err : read_clip(keys.clip, c);
}

/* ---- all of them ---- */

/* Whose n-th it is; and what there may be one of. */
static int place(const struct rt_node *node, struct rt_data_conf *data, struct rt_column_conf *c,
                 const char **dense, const char **label, uint32_t *label_classes)
{
    bool *only = c->kind == RT_COLUMN_WEIGHT  ? &data->weighted
                 : c->kind == RT_COLUMN_GROUP ? &data->grouped
                 : c->kind == RT_COLUMN_KEY   ? &data->keyed
                                              : NULL;

    if (c->kind == RT_COLUMN_DENSE)
        dense[c->target = data->n_dense++] = c->name;
    if (c->kind == RT_COLUMN_LABEL) {
        label_classes[data->n_labels] = rt_label_classes(c);
        label[c->target = data->n_labels++] = c->name;
    }
    if (only && *only)
        return rt_node_fail(node, "expected at most one column of kind %s", kind_name(c->kind));
    if (only)
        *only = true;
    return 0;
}

int rt_job_read_columns(const struct rt_node *columns, struct rt_job *job)
{
    struct rt_data_conf *data = &job->data;
    int err = rt_node_want_map(columns);
    if (err)
        return err;
    size_t n = rt_node_count(columns);
    if (n < 1 || n > COLUMNS_MAX)
        return rt_node_fail(columns, "expected 1..%d columns, got %zu", COLUMNS_MAX, n);
    struct rt_column_conf *column = rt_arena_array(job->arena, struct rt_column_conf, n);
    const char **dense = rt_arena_array(job->arena, const char *, n);
    const char **label = rt_arena_array(job->arena, const char *, n);
    uint32_t *label_classes = rt_arena_array(job->arena, uint32_t, n);
    if (!column || !dense || !label || !label_classes)
        return RT_FAIL(RT_ENOMEM, "no memory for %zu columns", n);
    for (size_t i = 0; i < n; i++) {
        const struct rt_node *node = rt_node_at(columns, i);

        err = read_column(node, job, rt_node_key_at(columns, i), &column[i]);
        if (!err)
            err = place(node, data, &column[i], dense, label, label_classes);
        if (err)
            return err;
    }
    data->column = column;
    data->n_columns = (uint32_t)n;
    job->dense = dense;
    job->label = label;
    job->label_classes = label_classes;
    return 0;
}

/* Criteo's own layout: label, I1..I13 (log1p, missing 0), C1..C26 to the features c1..c26. */
int rt_job_criteo_columns(struct rt_job *job)
{
    enum { DENSE = 13, FEATURES = 26, ALL = 1 + DENSE + FEATURES };
    struct rt_column_conf *column = rt_arena_array(job->arena, struct rt_column_conf, ALL);
    const char **dense = rt_arena_array(job->arena, const char *, DENSE);
    const char **label = rt_arena_array(job->arena, const char *, 1);
    if (!column || !dense || !label)
        return RT_FAIL(RT_ENOMEM, "no memory for %d columns", ALL);
    column[0] = (struct rt_column_conf){.name = label[0] = "label", .kind = RT_COLUMN_LABEL};
    for (int i = 0; i < DENSE + FEATURES; i++) {
        char name[8], feature[8];
        bool is_dense = i < DENSE;
        snprintf(name, sizeof name, "%c%d", is_dense ? 'I' : 'C', is_dense ? i + 1 : i - DENSE + 1);
        struct rt_column_conf *c = &column[1 + i];
        *c = (struct rt_column_conf){
            .name = rt_arena_strdup(job->arena, name), .low = -INFINITY, .high = INFINITY};
        if (!c->name)
            return RT_FAIL(RT_ENOMEM, "no memory for %d columns", ALL);
        if (is_dense) {
            c->kind = RT_COLUMN_DENSE;
            c->transform = RT_TRANSFORM_LOG1P;
            c->target = (uint32_t)i;
            dense[i] = c->name;
            continue;
        }
        snprintf(feature, sizeof feature, "c%d", i - DENSE + 1);
        c->kind = RT_COLUMN_FEATURE;
        c->empty = RT_EMPTY_ID;
        int err =
            find_feature(job, rt_yaml_root(job->file[RT_FILE_EMBEDDING]), feature, &c->target);
        if (err)
            return err;
    }
    job->data.column = column;
    job->data.n_columns = ALL;
    job->data.n_dense = DENSE;
    job->data.n_labels = 1;
    job->dense = dense;
    job->label = label;
    return 0;
}

void rt_job_describe_columns(const struct rt_job *job, struct rt_strbuf *out)
{
    for (uint32_t i = 0; i < job->data.n_columns; i++) {
        const struct rt_column_conf *c = &job->data.column[i];

        rt_strbuf_addf(out, "column %s %u %u %u %d %u %.17g %.17g %.17g %d %d %u %d %u\n", c->name,
                       c->kind, c->target, c->transform, c->standardize, c->empty, c->missing,
                       c->low, c->high, c->separator, c->integer, c->min_frequency,
                       c->weight_separator, rt_label_classes(c));
    }
}

void rt_job_document_columns(struct rt_strbuf *out)
{
    rt_options_help(option, ARRAY_LEN(option), "data.columns.NAME.", out);
}
