/* runtime/job/data.c -- data.yml: files, format, columns, and the numbers that make the data plan.
 *
 * A column is `NAME: kind` or `NAME: {kind: ..., ...}`. Columns keep the file's order: where the data
 * has no header line that is the order of its fields. The n-th `dense` column is dense input n, the
 * n-th `label` is label n. */
#include "runtime/job/read.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "runtime/base/strbuf.h"
#include "runtime/conf/option.h"
#include "runtime/job/batch_id.h"

#include <glob.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define COLUMNS_MAX 8192
#define FILES_MAX   100000
#define KINDS       "feature|dense|label|weight|group|key|ignore"

struct data_keys {
    struct rt_data_conf conf;
    const struct rt_node *columns, *train, *test;
};
#define AT(field) offsetof(struct data_keys, field)

static const struct rt_option option[] = {
    {"name", RT_OPT_STR, AT(conf.name), NULL, 0, 0, NULL, "of the data set, for the summary"},
    {"format", RT_OPT_ENUM, AT(conf.format), "tsv", 0, 0, "criteo|tsv|csv|libsvm|synthetic",
     "how a row is written"},
    {"header", RT_OPT_BOOL, AT(conf.header), "true", 0, 0, NULL,
     "tsv, csv: the first line of every file names the columns"},
    {"columns", RT_OPT_NODE, AT(columns), NULL, 0, 0, NULL,
     "NAME: kind, or NAME: {kind, ...}; in file order where there is no header"},
    {"train", RT_OPT_NODE, AT(train), NULL, 0, 0, NULL,
     "list of globs, relative to --data or the job"},
    {"test", RT_OPT_NODE, AT(test), NULL, 0, 0, NULL,
     "list of globs; without it there is no test AUC"},
    {"batch_size", RT_OPT_U32, AT(conf.batch_size), "1024", 1, WIRE_SAMPLES_MAX, NULL,
     "samples of one batch: what one rank takes in one step"},
    {"epochs", RT_OPT_U32, AT(conf.epochs), "1", 1, 100000, NULL, "passes over the training files"},
    {"splits", RT_OPT_U32, AT(conf.splits), "64", 1, RT_DATA_SPLITS_MAX, NULL,
     "fixed parts of the data; at least as many as data-compose replicas"},
    {"block_rows", RT_OPT_U32, AT(conf.block_rows), "8192", 1, 1 << 24, NULL,
     "rows that go to one split together"},
    {"shuffle", RT_OPT_BOOL, AT(conf.shuffle), "true", 0, 0, NULL,
     "permute the rows of each chunk"},
    {"shuffle_rows", RT_OPT_U32, AT(conf.shuffle_rows), "8192", 1, 1 << 24, NULL,
     "rows of a split that are permuted together"},
    {"window", RT_OPT_U32, AT(conf.window), "8", 1, 1024, NULL,
     "batches that data-compose keeps open per trainer rank"},
    {"max_bad_ratio", RT_OPT_F64, AT(conf.max_bad_ratio), "0.001", 0, 1, NULL,
     "share of quarantined rows that stops the job"},
    {"synthetic", RT_OPT_NODE, AT(conf.synthetic), NULL, 0, 0, NULL,
     "keys of the synthetic click log"},
};

struct column_keys {
    uint32_t kind, transform;
    const char *feature;
    bool standardize;
    double missing;
};
static const struct rt_option column_option[] = {
    {"kind", RT_OPT_ENUM, offsetof(struct column_keys, kind), "feature", 0, 0, KINDS,
     "what the column is"},
    {"feature", RT_OPT_STR, offsetof(struct column_keys, feature), NULL, 0, 0, NULL,
     "feature that takes the ids; default: the column's own name"},
    {"transform", RT_OPT_ENUM, offsetof(struct column_keys, transform), "none", 0, 0, "none|log1p",
     "dense: log1p is log(1 + max(x, 0))"},
    {"standardize", RT_OPT_BOOL, offsetof(struct column_keys, standardize), "false", 0, 0, NULL,
     "dense: (x - mean) / deviation over the training files, after the transform"},
    {"missing", RT_OPT_F64, offsetof(struct column_keys, missing), "0", 0, 0, NULL,
     "dense: value of an empty field, before the transform"},
};

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
static int read_column_keys(const struct rt_node *node, struct column_keys *keys,
                            struct rt_arena *arena)
{
    bool word = rt_node_kind(node) == RT_NODE_SCALAR;
    int err =
        rt_options_load(column_option, ARRAY_LEN(column_option), word ? NULL : node, keys, arena);
    if (!err && word)
        err = rt_node_choice(node, KINDS, &keys->kind);
    return err;
}

static int read_columns(const struct rt_node *columns, struct rt_job *job)
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
    if (!column || !dense || !label)
        return RT_FAIL(RT_ENOMEM, "no memory for %zu columns", n);
    for (size_t i = 0; i < n; i++) {
        const struct rt_node *node = rt_node_at(columns, i);
        struct column_keys keys;
        err = read_column_keys(node, &keys, job->arena);
        if (err)
            return err;
        struct rt_column_conf *c = &column[i];
        *c = (struct rt_column_conf){.name = rt_node_key_at(columns, i),
                                     .kind = keys.kind,
                                     .transform = keys.transform,
                                     .standardize = keys.standardize,
                                     .missing = keys.missing};
        if (c->kind == RT_COLUMN_FEATURE)
            err = find_feature(job, node, keys.feature ? keys.feature : c->name, &c->target);
        else if (c->kind == RT_COLUMN_DENSE)
            dense[c->target = data->n_dense++] = c->name;
        else if (c->kind == RT_COLUMN_LABEL)
            label[c->target = data->n_labels++] = c->name;
        if (err)
            return err;
    }
    data->column = column;
    data->n_columns = (uint32_t)n;
    job->dense = dense;
    job->label = label;
    return 0;
}

/* Criteo's own layout: label, I1..I13 (log1p, missing 0), C1..C26 to the features c1..c26. */
static int criteo_columns(struct rt_job *job)
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
        c->name = rt_arena_strdup(job->arena, name);
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

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int expand_one(const struct rt_node *node, const char *base, glob_t *found, size_t *matched)
{
    const char *pattern;
    int err = rt_node_str(node, &pattern);
    if (err)
        return err;
    char *path = rt_path_join(base, pattern);
    size_t before = found->gl_pathc;
    int rc = glob(path, GLOB_BRACE | (before ? GLOB_APPEND : 0), NULL, found);
    if (rc == GLOB_NOSPACE)
        err = RT_FAIL(RT_ENOMEM, "no memory for the files of '%s'", path);
    else if (rc != 0)
        err = rt_node_fail(
            node, "no file matches '%s' (--data or SAFFRON_DATA_DIR names the folder)", path);
    *matched = found->gl_pathc - before;
    rt_free(path);
    return err;
}

/* A list of globs -> sorted paths, each once; a glob that matches nothing is an error. */
static int read_files(const struct rt_node *list, const char *base, struct rt_job *job,
                      const char *const **out, uint32_t *n_out)
{
    if (!list)
        return 0;
    glob_t found = {0};
    int err = rt_node_want_list(list);
    for (size_t i = 0; !err && i < rt_node_count(list); i++) {
        size_t matched = 0;
        err = expand_one(rt_node_at(list, i), base, &found, &matched);
        if (!err && found.gl_pathc > FILES_MAX)
            err =
                rt_node_fail(list, "expected at most %d files, got %zu", FILES_MAX, found.gl_pathc);
    }
    const char **path = err ? NULL : rt_arena_array(job->arena, const char *, found.gl_pathc + 1);
    if (!err && !path)
        err = RT_FAIL(RT_ENOMEM, "no memory for %zu paths", found.gl_pathc);
    uint32_t n = 0;
    for (size_t i = 0; !err && i < found.gl_pathc; i++) {
        path[n] = rt_arena_strdup(job->arena, found.gl_pathv[i]);
        if (!path[n++])
            err = RT_FAIL(RT_ENOMEM, "no memory for %zu paths", found.gl_pathc);
    }
    globfree(&found);
    if (err)
        return err;
    qsort(path, n, sizeof *path, by_name);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++)
        if (!kept || strcmp(path[kept - 1], path[i]) != 0)
            path[kept++] = path[i];
    *out = path;
    *n_out = kept;
    return 0;
}

static int check(const struct rt_node *root, const struct rt_job *job)
{
    const struct rt_data_conf *d = &job->data;
    bool files = d->format != RT_FORMAT_SYNTHETIC;
    if (files != (d->n_train > 0))
        return rt_node_fail(root, files ? "expected `train:` with at least one file"
                                        : "expected no `train:` beside `format: synthetic`");
    if (d->n_labels != 1)
        return rt_node_fail(root, "expected one `label` column, got %u", d->n_labels);
    uint32_t used = 0;
    for (uint32_t f = 0; f < job->n_features; f++)
        for (uint32_t c = 0; c < d->n_columns; c++)
            if (d->column[c].kind == RT_COLUMN_FEATURE && d->column[c].target == f) {
                used++;
                break;
            }
    if (used != job->n_features)
        return rt_node_fail(root,
                            "columns: expected every feature of embedding.yml to have a column; "
                            "%u of %u have one",
                            used, job->n_features);
    return 0;
}

int rt_job_read_data(const struct rt_node *root, struct rt_job *job, const char *base)
{
    struct data_keys keys = {0};
    int err = rt_options_load(option, ARRAY_LEN(option), root, &keys, job->arena);
    if (err)
        return err;
    job->data = keys.conf;
    struct rt_data_conf *data = &job->data;
    if (!data->name)
        data->name = job->name;
    if (keys.columns)
        err = read_columns(keys.columns, job);
    else if (data->format == RT_FORMAT_CRITEO)
        err = criteo_columns(job);
    else
        err = rt_node_fail(root, "expected `columns:`");
    if (err)
        return err;
    if (data->format == RT_FORMAT_LIBSVM && data->n_labels == 0) {
        static const char *const label[] = {"label"}; /* a libsvm row begins with it */
        job->label = label;
        data->n_labels = 1;
    }
    err = read_files(keys.train, base, job, &data->train, &data->n_train);
    if (!err)
        err = read_files(keys.test, base, job, &data->test, &data->n_test);
    for (uint32_t i = 0; !err && i < data->n_train; i++) {
        struct stat st;
        data->train_bytes += stat(data->train[i], &st) == 0 ? (uint64_t)st.st_size : 0;
    }
    return err ? err : check(root, job);
}

static void describe_files(const char *const *path, uint32_t n, struct rt_strbuf *out)
{
    for (uint32_t i = 0; i < n; i++) {
        const char *slash = strrchr(path[i], '/');
        struct stat st;
        long long size = stat(path[i], &st) == 0 ? (long long)st.st_size : -1;
        rt_strbuf_addf(out, "file %s %lld\n", slash ? slash + 1 : path[i], size);
    }
}

void rt_job_describe_plan(const struct rt_job *job, struct rt_strbuf *out)
{
    const struct rt_data_conf *d = &job->data;
    rt_strbuf_addf(
        out, "seed %" PRIu64 " format %u header %d batch %u splits %u block %u shuffle %d %u\n",
        job->global.seed, d->format, d->header, d->batch_size, d->splits, d->block_rows, d->shuffle,
        d->shuffle_rows);
    for (uint32_t c = 0; c < d->n_columns; c++)
        rt_strbuf_addf(out, "column %s %u %u %u %d %.17g\n", d->column[c].name, d->column[c].kind,
                       d->column[c].target, d->column[c].transform, d->column[c].standardize,
                       d->column[c].missing);
    describe_files(d->train, d->n_train, out);
    describe_files(d->test, d->n_test, out);
    if (d->synthetic)
        rt_yaml_canonical(d->synthetic, out);
}

void rt_job_document_data(struct rt_strbuf *out)
{
    rt_options_help(option, ARRAY_LEN(option), "data.", out);
    rt_options_help(column_option, ARRAY_LEN(column_option), "data.columns.NAME.", out);
}
