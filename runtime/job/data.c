/* runtime/job/data.c -- data.yml: files, format, and the numbers that make the data plan. Columns are in
 * column.c, lists of files in files.c.
 *
 * The plan's hash sees names and sizes, not contents: these are checked as they
 * are read. */
#include "runtime/job/read.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "runtime/base/strbuf.h"
#include "runtime/conf/option.h"
#include "runtime/job/batch_id.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct data_keys {
    struct rt_data_conf conf;
    const struct rt_node *columns, *train, *test;
};
#define AT(field) offsetof(struct data_keys, field)

static const struct rt_option option[] = {
    {"name", RT_OPT_STR, AT(conf.name), NULL, 0, 0, NULL, "of the data set, for the summary"},
    {"format", RT_OPT_ENUM, AT(conf.format), "tsv", 0, 0, "criteo|tsv|csv|libsvm|synthetic|binary",
     "how a row is written; binary: as `saffron-data-compose convert` writes it"},
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
    {"epochs", RT_OPT_U32, AT(conf.epochs), "1", 0, 100000, NULL,
     "passes over the training files; 0: none, only evaluate what --init-from names"},
    {"splits", RT_OPT_U32, AT(conf.splits), "64", 1, RT_DATA_SPLITS_MAX, NULL,
     "fixed parts of the data; at least as many as data-compose replicas"},
    {"block_rows", RT_OPT_U32, AT(conf.block_rows), "8192", 1, 1 << 24, NULL,
     "rows that go to one split together"},
    {"shuffle", RT_OPT_BOOL, AT(conf.shuffle), "true", 0, 0, NULL,
     "permute the rows of each chunk"},
    {"shuffle_rows", RT_OPT_U32, AT(conf.shuffle_rows), "8192", 1, 1 << 24, NULL,
     "rows of a split that are permuted together"},
    {"window", RT_OPT_U32, AT(conf.window), "8", 1, 1024, NULL,
     "batches for each trainer rank that are made and not done; those beyond what it trains at a "
     "time wait ready"},
    {"max_bad_ratio", RT_OPT_F64, AT(conf.max_bad_ratio), "0.001", 0, 1, NULL,
     "share of bad rows that stops the job; more than 10 of them before a pass ends; each "
     "data-compose "
     "judges the rows of its splits"},
    {"frequency_memory", RT_OPT_U64, AT(conf.frequency_memory), "1073741824", 1 << 16,
     1099511627776.0, NULL,
     "bytes in which data-compose may count ids for min_frequency, about 16 to 24 per distinct id"},
    {"synthetic", RT_OPT_NODE, AT(conf.synthetic), NULL, 0, 0, NULL,
     "keys of the synthetic click log"},
};

/* The most rows that a batch may ask for where ids are hashed: several for each id. */
static int check_hashed(const struct rt_node *root, const struct rt_job *job)
{
    const struct rt_data_conf *d = &job->data;
    uint64_t rows = 0;
    bool hashed = false;

    for (uint32_t i = 0; i < d->n_columns; i++) {
        const struct rt_column_conf *c = &d->column[i];

        if (c->kind != RT_COLUMN_FEATURE)
            continue;
        const struct rt_feature_conf *f = &job->feature[c->target];
        uint32_t functions = job->table[f->table].hash_functions;
        rows += (uint64_t)(c->separator ? f->max_length : 1) * (functions ? functions : 1);
        hashed = hashed || functions;
    }
    if (!hashed || rows * d->batch_size <= WIRE_IDS_MAX)
        return 0;
    return rt_node_fail(root,
                        "batch_size: expected at most %llu, got %u: a sample may take %llu rows, "
                        "hashed tables counted, and a batch %u",
                        (unsigned long long)(WIRE_IDS_MAX / rows), d->batch_size,
                        (unsigned long long)rows, WIRE_IDS_MAX);
}

/* A sequence is sent place by place, and none of its ids has a weight. */
static int check_sequences(const struct rt_node *root, const struct rt_job *job)
{
    const struct rt_data_conf *d = &job->data;
    uint64_t places = 0;

    for (uint32_t i = 0; i < d->n_columns; i++) {
        const struct rt_column_conf *c = &d->column[i];

        if (c->kind != RT_COLUMN_FEATURE || !rt_feature_is_sequence(job, c->target))
            continue;
        if (c->weight_separator)
            return rt_node_fail(root,
                                "columns.%s: expected no weight_separator, its feature has "
                                "pooling none",
                                c->name);
        places += c->separator ? job->feature[c->target].max_length : 1;
    }
    if (places * d->batch_size <= WIRE_IDS_MAX)
        return 0;
    return rt_node_fail(root,
                        "batch_size: expected at most %llu, got %u: the features with pooling none "
                        "have %llu places a sample (max_length), and a batch %u",
                        (unsigned long long)(WIRE_IDS_MAX / places), d->batch_size,
                        (unsigned long long)places, WIRE_IDS_MAX);
}

/* Of a sample whose lists are all as long as they may be. No feature has more ids than its max_length. */
static uint64_t most_ids(const struct rt_job *job)
{
    const struct rt_data_conf *d = &job->data;
    uint64_t ids = 0;

    for (uint32_t f = 0; f < job->n_features; f++) {
        uint64_t room = 0, max = job->feature[f].max_length;

        for (uint32_t i = 0; i < d->n_columns; i++)
            if (d->column[i].kind == RT_COLUMN_FEATURE && d->column[i].target == f)
                room += d->column[i].separator ? max : 1;
        ids += room < max ? room : max;
    }
    return ids;
}

static int check_sample(const struct rt_node *root, const struct rt_job *job)
{
    uint64_t ids = most_ids(job);

    if (ids <= WIRE_IDS_MAX)
        return 0;
    return rt_node_fail(root,
                        "columns: a sample may have %llu ids (max_length of lists), expected at "
                        "most %u",
                        (unsigned long long)ids, WIRE_IDS_MAX);
}

static int check_batch(const struct rt_node *root, const struct rt_job *job)
{
    const struct rt_data_conf *d = &job->data;
    uint64_t ids = most_ids(job);

    if (ids * d->batch_size <= WIRE_IDS_MAX)
        return 0;
    return rt_node_fail(root,
                        "batch_size: expected at most %llu, got %u: a sample may have %llu ids "
                        "(max_length of lists), and a batch %u",
                        (unsigned long long)(WIRE_IDS_MAX / ids), d->batch_size,
                        (unsigned long long)ids, WIRE_IDS_MAX);
}

/* Without training its files are needed to count ids at most. */
static bool wants_training_files(const struct rt_data_conf *d)
{
    bool wants = d->epochs > 0;

    for (uint32_t i = 0; i < d->n_columns; i++)
        wants = wants || d->column[i].min_frequency > 1;
    return wants;
}

static int check(const struct rt_node *root, const struct rt_job *job, bool looked)
{
    const struct rt_data_conf *d = &job->data;
    bool files = d->format != RT_FORMAT_SYNTHETIC;
    if (looked && files != (d->n_train > 0) && (!files || wants_training_files(d)))
        return rt_node_fail(root, files ? "expected `train:` with at least one file"
                                        : "expected no `train:` beside `format: synthetic`");
    if (d->n_labels < 1 || d->n_labels > WIRE_LABELS_MAX)
        return rt_node_fail(root, "expected 1..%u `label` columns, got %u", WIRE_LABELS_MAX,
                            d->n_labels);
    if (d->keyed && (uint64_t)d->batch_size * RT_KEY_MAX > WIRE_KEY_BYTES_MAX)
        return rt_node_fail(root,
                            "expected a batch_size of at most %u beside a `key` column, got %u",
                            WIRE_KEY_BYTES_MAX / RT_KEY_MAX, d->batch_size);
    for (uint32_t f = 0; f < job->n_features; f++) {
        uint32_t c = 0;
        while (c < d->n_columns &&
               (d->column[c].kind != RT_COLUMN_FEATURE || d->column[c].target != f))
            c++;
        if (c == d->n_columns)
            return rt_node_fail(root,
                                "columns: expected every feature of embedding.yml to have a "
                                "column, '%s' has none",
                                job->feature[f].name);
    }
    int err = check_sample(root, job);
    if (!err)
        err = check_sequences(root, job);
    if (!err)
        err = check_hashed(root, job);
    return err ? err : check_batch(root, job);
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
        err = rt_job_read_columns(keys.columns, job);
    else if (data->format == RT_FORMAT_CRITEO)
        err = rt_job_criteo_columns(job);
    else
        err = rt_node_fail(root, "expected `columns:`");
    if (err)
        return err;
    if (data->format == RT_FORMAT_LIBSVM && data->n_labels == 0) {
        static const char *const label[] = {"label"}; /* a libsvm row begins with it */
        job->label = label;
        job->label_classes = NULL;
        data->n_labels = 1;
    }
    if (base && wants_training_files(data))
        err = rt_job_read_files(keys.train, base, job, &data->train, &data->n_train);
    if (base && !err)
        err = rt_job_read_files(keys.test, base, job, &data->test, &data->n_test);
    for (uint32_t i = 0; !err && i < data->n_train; i++) {
        struct stat st;
        data->train_bytes += stat(data->train[i], &st) == 0 ? (uint64_t)st.st_size : 0;
    }
    return err ? err : check(root, job, base != NULL);
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

void rt_job_describe_data(const struct rt_job *job, struct rt_strbuf *out)
{
    const struct rt_data_conf *d = &job->data;
    rt_strbuf_addf(out, "format %u header %d batch %u splits %u block %u shuffle %d %u\n",
                   d->format, d->header, d->batch_size, d->splits, d->block_rows, d->shuffle,
                   d->shuffle_rows);
    rt_job_describe_columns(job, out);
    if (d->synthetic)
        rt_yaml_canonical(d->synthetic, out);
}

void rt_job_describe_files(const struct rt_job *job, struct rt_strbuf *out)
{
    describe_files(job->data.train, job->data.n_train, out);
    describe_files(job->data.test, job->data.n_test, out);
}

void rt_job_document_data(struct rt_strbuf *out)
{
    rt_options_help(option, ARRAY_LEN(option), "data.", out);
    rt_job_document_columns(out);
}
