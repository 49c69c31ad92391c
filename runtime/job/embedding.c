/* runtime/job/embedding.c -- embedding.yml: `defaults:`, `tables:` and `features:`.
 *
 * A table is the built-in defaults, then the file's `defaults:`, then its own keys, all through one
 * option table. A feature names its table, or has the table of its own name. Indices follow the file's
 * order; messages and payloads use them. */
#include "runtime/job/read.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/strbuf.h"
#include "runtime/conf/option.h"

#include <string.h>

#define AT(field) offsetof(struct rt_table_conf, field)

static const struct rt_option table_option[] = {
    {"dim", RT_OPT_U32, AT(dim), "16", 1, WIRE_DIM_MAX, NULL, "width of a row"},
    {"dtype", RT_OPT_ENUM, AT(dtype), "float32", 0, 0, "float32|float16|bfloat16",
     "element type of the stored weights; the 16-bit ones are rounded stochastically at each "
     "update"},
    {"initializer.type", RT_OPT_ENUM, AT(init.kind), "normal", 0, 0,
     "uniform|normal|constant|truncated_normal|xavier_uniform",
     "initial value of a row: a pure function of (seed, table, id)"},
    {"initializer.low", RT_OPT_F64, AT(init.low), "-0.01", 0, 0, NULL, "uniform"},
    {"initializer.high", RT_OPT_F64, AT(init.high), "0.01", 0, 0, NULL, "uniform"},
    {"initializer.mean", RT_OPT_F64, AT(init.mean), "0", 0, 0, NULL, "normal, truncated_normal"},
    {"initializer.std", RT_OPT_F64, AT(init.std), "0.01", 0, 1e6, NULL,
     "normal; truncated_normal: of the normal before what lies beyond 2 std is cut off"},
    {"initializer.value", RT_OPT_F64, AT(init.value), "0", 0, 0, NULL, "constant"},
    {"initializer.gain", RT_OPT_F64, AT(init.gain), "1", 0, 1e6, NULL,
     "xavier_uniform: values within +- gain * sqrt(6 / (dim + rows))"},
    {"initializer.rows", RT_OPT_U64, AT(init.rows), "0", 0, 9007199254740992.0, NULL,
     "xavier_uniform: rows that the table is expected to have; must be said"},
    {"optimizer.type", RT_OPT_ENUM, AT(optimizer.kind), "adagrad", 0, 0,
     "sgd|adagrad|rowwise_adagrad|adam|ftrl", "how gradients change a row"},
    {"optimizer.learning_rate", RT_OPT_F64, AT(optimizer.learning_rate), "0.05", 0, 1e6, NULL,
     "times the step's factor"},
    {"optimizer.eps", RT_OPT_F64, AT(optimizer.eps), "1e-10", 1e-30, 1, NULL, "adagrad, adam"},
    {"optimizer.initial_accumulator", RT_OPT_F64, AT(optimizer.initial_accumulator), "0", 0, 1e6,
     NULL, "adagrad: sum of squares that a new row starts with"},
    {"optimizer.beta1", RT_OPT_F64, AT(optimizer.beta1), "0.9", 0, 0.9999999, NULL, "adam"},
    {"optimizer.beta2", RT_OPT_F64, AT(optimizer.beta2), "0.999", 0, 0.9999999, NULL, "adam"},
    {"optimizer.weight_decay", RT_OPT_F64, AT(optimizer.weight_decay), "0", 0, 1e6, NULL,
     "adds weight_decay * w to the gradient of rows that are updated"},
    {"optimizer.beta", RT_OPT_F64, AT(optimizer.ftrl_beta), "1", 0, 1e6, NULL,
     "ftrl: smooths the first steps' learning rate"},
    {"optimizer.l1", RT_OPT_F64, AT(optimizer.l1), "0", 0, 1e6, NULL,
     "ftrl: weights that matter less than this are 0"},
    {"optimizer.l2", RT_OPT_F64, AT(optimizer.l2), "0", 0, 1e6, NULL, "ftrl: pull towards 0"},
    {"optimizer.gradient_clip", RT_OPT_F64, AT(optimizer.gradient_clip), "0", 0, 1e6, NULL,
     "a row's gradient with a larger norm is scaled down to it; 0: none is"},
    {"optimizer.weight_bound", RT_OPT_F64, AT(optimizer.weight_bound), "0", 0, 1e6, NULL,
     "each weight is kept within +- this after an update; 0: no bound"},
    {"admission.type", RT_OPT_ENUM, AT(admission.kind), "always", 0, 0, "always|count|probability",
     "which ids get a row: all; those seen `count` times; each occurrence with `probability`"},
    {"admission.count", RT_OPT_U32, AT(admission.count), "2", 1, 255, NULL,
     "count: the occurrence from which on an id has a row"},
    {"admission.probability", RT_OPT_F64, AT(admission.probability), "1", 0, 1, NULL,
     "probability: of an id without row to get one with a gradient"},
    {"admission.sketch_bytes", RT_OPT_U64, AT(admission.sketch_bytes), "16777216", 4096,
     1099511627776.0, NULL, "count: memory that counts ids without row, of the whole table"},
    {"eviction.type", RT_OPT_ENUM, AT(eviction.kind), "none", 0, 0, "none|lru|lfu",
     "which rows make place when the table is full: none (new ids get no row), those longest "
     "without a gradient, those with the fewest"},
    {"eviction.rows", RT_OPT_U64, AT(eviction.rows), "0", 0, 9007199254740992.0, NULL,
     "most rows of the whole table; 0: any"},
    {"eviction.bytes", RT_OPT_U64, AT(eviction.bytes), "0", 0, 9007199254740992.0, NULL,
     "most bytes of the whole table, index and optimizer state included; 0: any"},
    {"eviction.half_life", RT_OPT_U64, AT(eviction.half_life), "100000", 1, 4294967295.0, NULL,
     "lfu: updates after which a gradient counts half"},
    {"ttl_seconds", RT_OPT_U64, AT(ttl_seconds), "0", 0, 3155760000.0, NULL,
     "a row that had no gradient for so long is forgotten; 0: never"},
    {"hash.functions", RT_OPT_U32, AT(hash_functions), "0", 0, RT_HASH_FUNCTIONS_MAX, NULL,
     "compositional hashing: an id's embedding is the sum of so many rows out of hash.rows; 0: "
     "each id has a row of its own"},
    {"hash.rows", RT_OPT_U64, AT(hash_rows), "0", 0, 9007199254740992.0, NULL,
     "rows that all ids of the table share; must be said beside hash.functions"},
};

struct feature_keys {
    const char *table;
    uint32_t pooling, max_length, truncate;
};
static const struct rt_option feature_option[] = {
    {"table", RT_OPT_STR, offsetof(struct feature_keys, table), NULL, 0, 0, NULL,
     "table that its ids belong to; default: the feature's own name"},
    {"pooling", RT_OPT_ENUM, offsetof(struct feature_keys, pooling), "sum", 0, 0,
     "sum|mean|sqrtn|none",
     "how the rows of a sample's ids become one vector; none: they stay a sequence, filled up with "
     "zeros to max_length"},
    {"max_length", RT_OPT_U32, offsetof(struct feature_keys, max_length), "256", 1, 65535, NULL,
     "most ids of one sample; see truncate"},
    {"truncate", RT_OPT_ENUM, offsetof(struct feature_keys, truncate), "refuse", 0, 0,
     "refuse|head|tail",
     "a list of more than max_length ids: refuse: a bad row; head, tail: that part of it is cut "
     "off"},
};

static int read_tables(const struct rt_node *root, struct rt_job *job)
{
    const struct rt_node *tables, *defaults = rt_node_get(root, "defaults");
    int err = rt_node_need(root, "tables", &tables);
    if (!err)
        err = rt_node_want_map(tables);
    if (err)
        return err;
    size_t n = rt_node_count(tables);
    if (n < 1 || n > WIRE_TABLES_MAX)
        return rt_node_fail(tables, "expected 1..%u tables, got %zu", WIRE_TABLES_MAX, n);
    struct rt_table_conf *table = rt_arena_array(job->arena, struct rt_table_conf, n);
    if (!table)
        return RT_FAIL(RT_ENOMEM, "no memory for %zu tables", n);
    for (size_t i = 0; i < n; i++) {
        const struct rt_node *node = rt_node_at(tables, i);
        err =
            rt_options_load(table_option, ARRAY_LEN(table_option), defaults, &table[i], job->arena);
        if (!err && !rt_node_is_null(node))
            err = rt_options_overlay(table_option, ARRAY_LEN(table_option), node, &table[i],
                                     job->arena);
        table[i].name = rt_node_key_at(tables, i);
        if (!err)
            err = rt_job_check_table(&(struct rt_table_keys){node, defaults}, &table[i],
                                     &job->global);
        if (err)
            return err;
    }
    job->table = table;
    job->n_tables = (uint32_t)n;
    return 0;
}

static int find_table(const struct rt_job *job, const struct rt_node *node, const char *name,
                      uint32_t *out)
{
    for (uint32_t t = 0; t < job->n_tables; t++) {
        if (strcmp(job->table[t].name, name) == 0) {
            *out = t;
            return 0;
        }
    }
    const char **names = rt_arena_array(job->arena, const char *, job->n_tables);
    for (uint32_t t = 0; names && t < job->n_tables; t++)
        names[t] = job->table[t].name;
    const char *near = names ? rt_nearest(name, names, job->n_tables) : NULL;
    return rt_node_fail(node, "there is no table '%s'%s%s%s", name, near ? " (did you mean '" : "",
                        near ? near : "", near ? "'?)" : "");
}

static int read_features(const struct rt_node *root, struct rt_job *job)
{
    const struct rt_node *features;
    int err = rt_node_need(root, "features", &features);
    if (!err)
        err = rt_node_want_map(features);
    if (err)
        return err;
    size_t n = rt_node_count(features);
    if (n < 1 || n > WIRE_FEATURES_MAX)
        return rt_node_fail(features, "expected 1..%u features, got %zu", WIRE_FEATURES_MAX, n);
    struct rt_feature_conf *feature = rt_arena_array(job->arena, struct rt_feature_conf, n);
    if (!feature)
        return RT_FAIL(RT_ENOMEM, "no memory for %zu features", n);
    for (size_t i = 0; i < n; i++) {
        const struct rt_node *node = rt_node_at(features, i);
        struct feature_keys keys;
        err = rt_options_load(feature_option, ARRAY_LEN(feature_option),
                              rt_node_is_null(node) ? NULL : node, &keys, job->arena);
        if (err)
            return err;
        feature[i] = (struct rt_feature_conf){.name = rt_node_key_at(features, i),
                                              .pooling = keys.pooling,
                                              .max_length = keys.max_length,
                                              .truncate = keys.truncate};
        const struct rt_node *said = rt_node_get(node, "table");
        err = find_table(job, said ? said : node, keys.table ? keys.table : feature[i].name,
                         &feature[i].table);
        if (err)
            return err;
    }
    job->feature = feature;
    job->n_features = (uint32_t)n;
    return 0;
}

int rt_job_read_embedding(const struct rt_node *root, struct rt_job *job)
{
    static const char *const known[] = {"defaults", "tables", "features"};
    int err = rt_node_known_keys(root, known, ARRAY_LEN(known));
    if (!err)
        err = read_tables(root, job);
    if (!err)
        err = read_features(root, job);
    return err;
}

void rt_job_describe_tables(const struct rt_job *job, struct rt_strbuf *out)
{
    for (uint32_t t = 0; t < job->n_tables; t++) {
        const struct rt_table_conf *c = &job->table[t];
        rt_strbuf_addf(out, "table %s dim %u dtype %u init %u %.17g %.17g %.17g %.17g %.17g ",
                       c->name, c->dim, c->dtype, c->init.kind, c->init.low, c->init.high,
                       c->init.mean, c->init.std, c->init.value);
        rt_strbuf_addf(out, "optimizer %u eps %.17g acc %.17g betas %.17g %.17g decay %.17g\n",
                       c->optimizer.kind, c->optimizer.eps, c->optimizer.initial_accumulator,
                       c->optimizer.beta1, c->optimizer.beta2, c->optimizer.weight_decay);
        rt_strbuf_addf(out, "gain %.17g rows %llu ftrl %.17g %.17g %.17g clip %.17g bound %.17g ",
                       c->init.gain, (unsigned long long)c->init.rows, c->optimizer.ftrl_beta,
                       c->optimizer.l1, c->optimizer.l2, c->optimizer.gradient_clip,
                       c->optimizer.weight_bound);
        rt_strbuf_addf(out, "admission %u %u %.17g %llu eviction %u %llu %llu %llu ttl %llu\n",
                       c->admission.kind, c->admission.count, c->admission.probability,
                       (unsigned long long)c->admission.sketch_bytes, c->eviction.kind,
                       (unsigned long long)c->eviction.rows, (unsigned long long)c->eviction.bytes,
                       (unsigned long long)c->eviction.half_life,
                       (unsigned long long)c->ttl_seconds);
        rt_strbuf_addf(out, "hash %u %llu\n", c->hash_functions, (unsigned long long)c->hash_rows);
    }
    for (uint32_t f = 0; f < job->n_features; f++) {
        const struct rt_feature_conf *c = &job->feature[f];
        rt_strbuf_addf(out, "feature %s table %u pooling %u length %u truncate %u\n", c->name,
                       c->table, c->pooling, c->max_length, c->truncate);
    }
}

void rt_job_document_embedding(struct rt_strbuf *out)
{
    rt_options_help(table_option, ARRAY_LEN(table_option), "embedding.tables.NAME.", out);
    rt_options_help(feature_option, ARRAY_LEN(feature_option), "embedding.features.NAME.", out);
}
