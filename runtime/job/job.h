/* runtime/job/job.h -- the four files of a job, read, checked and hashed: what every role knows of it.
 *
 * global.yml, embedding.yml, data.yml, model.yml under one option table each (runtime/conf/option.h).
 * The first error ends the reading; its text has file, line, key, expected, got. All memory is the
 * job's. Immutable after loading: any thread may read it. */
#ifndef RT_JOB_H
#define RT_JOB_H

#include "runtime/conf/yaml.h"
#include "runtime/job/shard.h"
#include "runtime/wire/method.h"

enum rt_mode { RT_MODE_FULL, RT_MODE_HYBRID, RT_MODE_ASYNC };
enum rt_pooling { RT_POOL_SUM, RT_POOL_MEAN, RT_POOL_SQRTN, RT_POOL_NONE };
enum rt_truncate { RT_TRUNCATE_REFUSE, RT_TRUNCATE_HEAD, RT_TRUNCATE_TAIL };
enum rt_save_what { RT_SAVE_ALL, RT_SAVE_DENSE, RT_SAVE_NOTHING };
enum rt_compress { RT_COMPRESS_NONE, RT_COMPRESS_LZ4 };
enum rt_init_kind {
    RT_INIT_UNIFORM,
    RT_INIT_NORMAL,
    RT_INIT_CONSTANT,
    RT_INIT_TRUNCATED_NORMAL,
    RT_INIT_XAVIER_UNIFORM
};
enum rt_optimizer_kind {
    RT_OPT_SGD,
    RT_OPT_ADAGRAD,
    RT_OPT_ROWWISE_ADAGRAD,
    RT_OPT_ADAM,
    RT_OPT_FTRL
};
enum rt_admission_kind { RT_ADMIT_ALWAYS, RT_ADMIT_COUNT, RT_ADMIT_PROBABILITY };
enum rt_eviction_kind { RT_EVICT_NONE, RT_EVICT_LRU, RT_EVICT_LFU };

/* What travels between processes: enum wire_dtype on each path. */
struct rt_wire_conf {
    uint32_t rows;          /* E -> M */
    uint32_t row_gradients; /* M -> E */
    uint32_t embeddings;    /* M -> T */
    uint32_t gradients;     /* T -> M */
    uint32_t all_reduce;    /* T -> T, the dense network's: WIRE_F32 or WIRE_BF16 */
    uint32_t compression;   /* enum rt_compress, of payloads */
};

/* global.yml. `embedding_server.workers` and `middleware.loops`: 0 = min(cores, 8) and min(cores, 4). */
#define RT_SYNC_EVERY_MAX                                                                          \
    60000u /* what is finished between two averages must fit into one message */

#define RT_CHECKPOINTS_MAX 4096u /* in one folder */

struct rt_checkpoint_conf {
    uint64_t every_s, every_steps; /* 0: none by time, by steps */
    uint32_t full_every, keep;     /* >= 1 */
    uint64_t buffer;               /* bytes of an owner, for rows on their way to the file */
    uint64_t cut_timeout_ms;
};

/* What trainers look at while they train: trainer/alarm.h, trainer/agree.h. */
struct rt_guard_conf {
    double spike_deviations;                            /* 0: no alarm */
    uint32_t spike_window, spike_warmup, spike_history; /* steps; window, history >= 1 */
    uint32_t digest_every; /* steps between two comparisons of dense weights: 0, none, or >= 2 */
};

/* What computes the dense network. */
enum rt_device { RT_DEVICE_AUTO, RT_DEVICE_CPU, RT_DEVICE_GPU };
/* What sums dense gradients over trainers. */
enum rt_collective { RT_COLLECTIVE_AUTO, RT_COLLECTIVE_RING, RT_COLLECTIVE_NCCL };

struct rt_global_conf {
    uint32_t mode; /* enum rt_mode */
    bool exact;
    uint32_t save;               /* enum rt_save_what */
    bool save_state, load_state; /* of optimizers: saved with the model, and taken up with it */
    uint32_t staleness;
    uint32_t
        sync_every; /* 1..RT_SYNC_EVERY_MAX; async: local steps between two averages of the weights */
    uint64_t max_steps;      /* 0: no limit */
    uint64_t evaluate_every; /* steps; 0: at the ends of epochs only */
    uint64_t seed;
    struct rt_wire_conf wire;
    uint64_t heartbeat_ms, dead_ms; /* of a connection; 0: RT_HEARTBEAT_NS, RT_DEAD_NS */
    uint64_t credit;                /* bytes that one peer may have waiting here */
    uint32_t middleware_loops, embedding_server_workers, trainer_threads;
    uint32_t trainer_device;          /* enum rt_device */
    uint32_t trainer_collective;      /* enum rt_collective */
    uint32_t trainer_bucket_bytes;    /* of dense gradients, in float32, that ranks sum at once */
    uint64_t middleware_memory;       /* bytes of batches held per loop */
    uint64_t embedding_server_memory; /* bytes of tables per process; 0: no cap */
    bool embedding_server_pin;        /* owners' threads to cores of their own */
    bool embedding_server_numa_local; /* their memory from the node of that core */
    struct rt_checkpoint_conf checkpoint;
    struct rt_guard_conf guard;
    uint32_t port_middleware, port_embedding_server, port_trainer,
        port_admin; /* base ports; 0: free */
};

struct rt_init_conf {
    uint32_t kind;    /* enum rt_init_kind */
    double low, high; /* uniform */
    double mean, std; /* normal; truncated normal: cut at mean +- 2 std */
    double value;     /* constant */
    double gain;      /* Xavier-uniform: +- gain * sqrt(6 / (dim + rows)) */
    uint64_t rows;    /* Xavier-uniform: rows that the table is expected to have */
};

struct rt_sparse_optimizer_conf {
    uint32_t kind; /* enum rt_optimizer_kind */
    double learning_rate, eps, initial_accumulator, beta1, beta2, weight_decay;
    double ftrl_beta, l1, l2; /* FTRL-proximal */
    double gradient_clip;     /* most that the norm of a row's gradient may be; 0: any */
    double weight_bound;      /* a weight stays in +- this after an update; 0: no bound */
};

/* Which ids get a row at all. */
struct rt_admission_conf {
    uint32_t kind;         /* enum rt_admission_kind */
    uint32_t count;        /* RT_ADMIT_COUNT: occurrences, 1..255 */
    double probability;    /* RT_ADMIT_PROBABILITY: of each occurrence */
    uint64_t sketch_bytes; /* RT_ADMIT_COUNT: of the whole table, shared out over its owners */
};

/* Which rows go when there are too many. Of the whole table; each owner has the share that its shards are. */
struct rt_eviction_conf {
    uint32_t kind;      /* enum rt_eviction_kind */
    uint64_t rows;      /* capacity; 0: any */
    uint64_t bytes;     /* capacity, everything included; 0: any */
    uint64_t half_life; /* RT_EVICT_LFU: updates of an owner until a count weighs half */
};

struct rt_table_conf {
    const char *name;
    uint32_t dim;
    uint32_t dtype; /* enum wire_dtype of the stored weights */
    struct rt_init_conf init;
    struct rt_sparse_optimizer_conf optimizer;
    struct rt_admission_conf admission;
    struct rt_eviction_conf eviction;
    uint64_t ttl_seconds; /* a row without gradients for so long goes; 0: never */
    /* Compositional hashing: an id's embedding is the sum of this many rows out of hash_rows; 0: its own row. */
    uint32_t hash_functions;
    uint64_t hash_rows;
};

#define RT_HASH_FUNCTIONS_MAX 8

/* The largest magnitude of a gradient that is applied, summed over all that a step brings to one weight. Beyond it its
 * square may overflow and leave the optimizer's state at infinity for ever. Trainers drop a batch whose part
 * of such a sum could lead there; owners leave out a row whose sum is there all the same. */
#define RT_GRADIENT_MAX 1e15f

struct rt_feature_conf {
    const char *name;
    uint32_t table;      /* index into tables */
    uint32_t pooling;    /* enum rt_pooling */
    uint32_t max_length; /* most ids of one sample; RT_POOL_NONE: of its sequence */
    uint32_t truncate; /* enum rt_truncate: of a longer list, which part is cut off; or it is bad */
};

enum rt_format {
    RT_FORMAT_CRITEO,
    RT_FORMAT_TSV,
    RT_FORMAT_CSV,
    RT_FORMAT_LIBSVM,
    RT_FORMAT_SYNTHETIC,
    RT_FORMAT_BINARY
};
enum rt_column_kind {
    RT_COLUMN_FEATURE,
    RT_COLUMN_DENSE,
    RT_COLUMN_LABEL,
    RT_COLUMN_WEIGHT,
    RT_COLUMN_GROUP,
    RT_COLUMN_KEY,
    RT_COLUMN_IGNORE,
};
enum rt_transform { RT_TRANSFORM_NONE, RT_TRANSFORM_LOG1P }; /* log(1 + max(x, 0)) */
/* An empty field: dense: `missing`; feature: the empty string is a category, or there is no id; either: bad. */
enum rt_empty { RT_EMPTY_VALUE, RT_EMPTY_ID, RT_EMPTY_NONE, RT_EMPTY_BAD };

#define RT_KEY_MAX 4096u /* bytes of one sample's key */

/* A dense value goes: missing -> clip -> transform -> standardize. */
struct rt_column_conf {
    const char *name;   /* in the file's header; libsvm: its position as text */
    uint32_t kind;      /* enum rt_column_kind */
    uint32_t target;    /* feature: index into features; dense, label: position in its own list */
    uint32_t transform; /* dense: enum rt_transform, before standardizing */
    bool standardize;   /* dense: (x - mean) / deviation over the training files */
    uint32_t empty;     /* dense, feature: enum rt_empty */
    double missing;     /* dense: value of an empty field */
    double low, high;   /* dense: clip; -inf, inf where there is none */
    char separator;     /* feature: between the ids of a field; 0: a field is one id */
    bool integer;       /* feature, group: the field is a decimal integer, taken as it is */
    uint32_t min_frequency; /* feature: ids seen less often are one id; 0 and 1: all are kept */
    char weight_separator;  /* feature: between an id and its weight; 0: ids have none */
    uint32_t classes;       /* label: one of 0..classes-1; 0: of 0 and 1 */
    bool real;              /* label: any number */
};

/* Values that a label may have, 0..n-1; 0: any number. NULL: a label that no column is of. */
static inline uint32_t rt_label_classes(const struct rt_column_conf *column)
{
    return !column || !(column->real || column->classes) ? 2 : column->real ? 0 : column->classes;
}

static inline bool rt_label_fits(uint32_t classes, double value)
{
    if (!classes)
        return (float)value - (float)value == 0; /* finite */
    return value >= 0 && value < classes && value == (uint32_t)value;
}

struct rt_data_conf {
    uint32_t format; /* enum rt_format */
    bool header;     /* tsv, csv: the first line of every file names the columns */
    uint32_t n_columns;
    const struct rt_column_conf *column; /* in file order where there is no header */
    uint32_t n_dense, n_labels;
    bool weighted, grouped, keyed; /* there is such a column */
    uint32_t n_train, n_test;
    const char *const *train, *const *test; /* paths, globs expanded, sorted; none for synthetic */
    uint64_t train_bytes;                   /* of the train files together, for progress */
    uint32_t batch_size, epochs, splits, block_rows, shuffle_rows, window;
    bool shuffle;
    double max_bad_ratio;
    uint64_t frequency_memory;       /* bytes for the counts behind min_frequency */
    const struct rt_node *synthetic; /* the `synthetic:` section, or NULL: defaults */
    const char *name;                /* of the data set, for the summary */
};

struct rt_job {
    const char *name, *folder;
    struct rt_global_conf global;
    struct rt_data_conf data;
    uint32_t n_tables, n_features;
    const struct rt_table_conf *table;
    const struct rt_feature_conf *feature;
    const char *const *dense;         /* [data.n_dense] names */
    const char *const *label;         /* [data.n_labels] names */
    const uint32_t *label_classes;    /* [data.n_labels] rt_label_classes(); NULL: 2 each */
    const struct rt_node *model;      /* the layers: a model file, `use:` resolved */
    const struct rt_node *params;     /* `params:` of model.yml over it; may be NULL */
    const struct rt_node *model_conf; /* model.yml itself: optimizer, precision */
    const char *model_name;
    uint32_t
        precision; /* enum wire_dtype: float32 or bfloat16, of what the dense network multiplies */
    uint64_t
        config_hash; /* tables, layers, optimizers, schedule, seed, shards, wire, data plan; not the learning rate */
    uint64_t plan_hash;                  /* files (names and sizes), splits, batch size, seed */
    uint64_t part_hash[WIRE_PART_COUNT]; /* of what the config hash is made of */
    struct rt_arena *arena;
    struct rt_yaml *file[4];    /* effective trees: global, embedding, data, model */
    struct rt_yaml *model_file; /* what `use:` named; NULL: model.yml has the layers */
};

enum { RT_FILE_GLOBAL, RT_FILE_EMBEDDING, RT_FILE_DATA, RT_FILE_MODEL };

/* Where to read. Paths that are NULL come from `folder`. */
struct rt_job_source {
    const char *folder;   /* the job's folder; may be NULL when all four paths are given */
    const char *name;     /* SAFFRON_JOB; NULL: the folder's name */
    const char *path[4];  /* SAFFRON_{GLOBAL,EMBEDDING,DATA,MODEL}_CONFIG */
    const char *data_dir; /* --data; NULL: globs are relative to the folder */
    bool
        without_data; /* files are not looked for: n_train and n_test are 0, plan_hash means nothing */
    const char *models_dir; /* where `use: NAME` is looked up after <folder>/models */
    const char *model;      /* --model NAME|FILE, replaces `use:` */
    const char *const *set; /* "FILE.key.path=value" */
    size_t n_set;
};

/* RT_EUSAGE with one clear line for anything wrong, globs that match nothing included. */
int rt_job_load(const struct rt_job_source *source, struct rt_job **out);
void rt_job_destroy(struct rt_job *job);
const char *rt_mode_name(uint32_t mode);     /* "hybrid" of RT_MODE_HYBRID */
const char *rt_dtype_name(uint32_t dtype);   /* "bfloat16" of WIRE_BF16 */
const char *rt_eviction_name(uint32_t kind); /* "lru" of RT_EVICT_LRU */

/* Are there rows to evaluate on? */
static inline bool rt_job_has_test(const struct rt_job *job)
{
    return job->data.n_test > 0 || job->data.format == RT_FORMAT_SYNTHETIC;
}

/* Does the job go with --init-from and --predict, NULL: not given? RT_EUSAGE. */
int rt_job_check_run(const struct rt_job *job, const char *init_from, const char *predict);

static inline bool rt_feature_is_sequence(const struct rt_job *job, uint32_t feature)
{
    return job->feature[feature].pooling == RT_POOL_NONE;
}

/* Write the effective files into `dir` (global.yml ... and models/NAME.yml): a job folder that stands
 * alone and means the same. Do it before other threads read the job's trees. */
int rt_job_write(struct rt_job *job, const char *dir);

/* Rows of docs/config.md for the first three files, made from the option tables. */
struct rt_strbuf;
void rt_job_document_global(struct rt_strbuf *out);
void rt_job_document_embedding(struct rt_strbuf *out);
void rt_job_document_data(struct rt_strbuf *out);

#endif
