/* runtime/job/job.c -- a job's four files, put together: found, overridden by --set, read, hashed.
 *
 * model.yml either has `layers:` itself or says `use: NAME`; then the layers are in another file, found
 * in <folder>/models, then in the models directory beside launch.sh (SAFFRON_MODELS_DIR). Everything
 * a role keeps points into the job's arena or its trees, and dies with the job. */
#include "runtime/job/job.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/hash.h"
#include "runtime/base/mem.h"
#include "runtime/base/strbuf.h"
#include "runtime/job/read.h"

#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define JOB_BYTES_MAX (256u << 20)

static const char *const file_key[] = {"global", "embedding", "data", "model"};
static const char *const file_name[] = {"global.yml", "embedding.yml", "data.yml", "model.yml"};

static int load_files(const struct rt_job_source *source, struct rt_job *job)
{
    for (size_t i = 0; i < ARRAY_LEN(job->file); i++) {
        char *path = source->path[i] ? rt_xstrdup(source->path[i])
                                     : rt_path_join(source->folder, file_name[i]);
        int err = rt_yaml_load(path, &job->file[i]);
        rt_free(path);
        if (err)
            return err == RT_EFILE ? RT_FAIL(RT_EUSAGE, "%s", rt_err_text()) : err;
    }
    return 0;
}

/* "data.batch_size=512": the word before the first dot names the file. */
static int apply_set(struct rt_job *job, const char *set)
{
    const char *dot = strchr(set, '.'), *equals = strchr(set, '=');
    if (!dot || !equals || equals < dot || equals == dot + 1)
        return RT_FAIL(RT_EUSAGE,
                       "--set '%s': expected FILE.key.path=value with FILE one of global, "
                       "embedding, data, model",
                       set);
    for (size_t i = 0; i < ARRAY_LEN(file_key); i++) {
        if (strlen(file_key[i]) != (size_t)(dot - set) ||
            strncmp(file_key[i], set, (size_t)(dot - set)) != 0)
            continue;
        char *path = rt_xstrdup(dot + 1);
        path[equals - dot - 1] = '\0';
        int err = rt_yaml_set(job->file[i], path, equals + 1);
        rt_free(path);
        return err ? rt_fail_prefix(RT_EUSAGE, "--set '%s': ", set) : 0;
    }
    return RT_FAIL(RT_EUSAGE, "--set '%s': '%.*s' is none of global, embedding, data, model", set,
                   (int)(dot - set), set);
}

static int apply_sets(const struct rt_job_source *source, struct rt_job *job)
{
    for (size_t i = 0; i < source->n_set; i++) {
        int err = apply_set(job, source->set[i]);
        if (err)
            return err;
    }
    return source->model ? rt_yaml_set(job->file[RT_FILE_MODEL], "use", source->model) : 0;
}

/* "x/dlrm.yml" and "dlrm" are both called dlrm. */
static const char *model_name(struct rt_arena *arena, const char *use)
{
    const char *slash = strrchr(use, '/');
    char *name = rt_arena_strdup(arena, slash ? slash + 1 : use);
    size_t size = name ? strlen(name) : 0;
    if (size > 4 && strcmp(name + size - 4, ".yml") == 0)
        name[size - 4] = '\0';
    return name ? name : "model";
}

/* Path of the model file that `use` names; the caller's. NULL when there is none. */
static char *find_model(const struct rt_job_source *source, const char *use)
{
    if (strchr(use, '/') || (strlen(use) > 4 && strcmp(use + strlen(use) - 4, ".yml") == 0))
        return rt_xstrdup(use);
    char *beside = rt_xasprintf("%s/models/%s.yml", source->folder ? source->folder : ".", use);
    if (rt_file_exists(beside) || !source->models_dir)
        return beside;
    rt_free(beside);
    return rt_xasprintf("%s/%s.yml", source->models_dir, use);
}

static int read_model(const struct rt_job_source *source, struct rt_job *job)
{
    const struct rt_node *root = rt_yaml_root(job->file[RT_FILE_MODEL]);
    const struct rt_node *use = rt_node_get(root, "use");
    static const char *const known[] = {"use",       "params",   "layers",
                                        "optimizer", "schedule", "precision"};
    int err = rt_node_known_keys(root, known, ARRAY_LEN(known));
    if (err)
        return err;
    uint32_t half = 0;
    err = rt_node_choice(rt_node_get(root, "precision"), "float32|bfloat16", &half);
    if (err)
        return err;
    job->precision = half ? WIRE_BF16 : WIRE_F32;
    job->model_conf = root;
    job->params = rt_node_get(root, "params");
    job->model = root;
    job->model_name = "model";
    if (!use)
        return rt_node_get(root, "layers") ? 0 : rt_node_fail(root, "expected `use:` or `layers:`");
    const char *word;
    err = rt_node_str(use, &word);
    if (err)
        return err;
    job->model_name = model_name(job->arena, word);
    char *path = find_model(source, word);
    if (!rt_file_exists(path))
        err =
            source->model
                ? RT_FAIL(RT_EUSAGE, "--model %s: there is no model file '%s'", source->model, path)
                : rt_node_fail(use, "there is no model file '%s'%s", path,
                               source->models_dir ? "" : " (SAFFRON_MODELS_DIR is not set)");
    else
        err = rt_yaml_load(path, &job->model_file);
    rt_free(path);
    if (!err)
        job->model = rt_yaml_root(job->model_file);
    return err;
}

/* What was added to `text` behind `from` belongs to the part; returns where the next one begins. */
static size_t end_part(struct rt_job *job, enum wire_job_part part, const struct rt_strbuf *text,
                       size_t from)
{
    job->part_hash[part] =
        rt_hash_bytes_seed(text->text + from, text->len - from, job->part_hash[part]);
    return text->len;
}

static void describe_section(const struct rt_node *map, const char *key, struct rt_strbuf *text)
{
    const struct rt_node *node = rt_node_get(map, key);

    if (!node || rt_node_is_null(node))
        return;
    rt_strbuf_addf(text, "%s ", key);
    rt_yaml_canonical(node, text);
}

/* Also one that says nothing but the learning rate is as none. */
static void describe_optimizer(const struct rt_node *node, struct rt_strbuf *text)
{
    static const char rate[] = "learning_rate";

    if (!node || rt_node_kind(node) != RT_NODE_MAP ||
        rt_node_count(node) == (rt_node_get(node, rate) != NULL))
        return;
    rt_strbuf_addf(text, "optimizer ");
    rt_yaml_canonical_without(node, rate, text);
}

/* The layers, what fills them in, what they multiply, and what their weights are changed by; a learning rate may change. */
static void describe_model(const struct rt_job *job, struct rt_strbuf *text)
{
    describe_section(job->model, "layers", text);
    describe_section(job->model, "params", text);
    if (job->model != job->model_conf)
        describe_section(job->model_conf, "params", text);
    if (job->precision != WIRE_F32)
        rt_strbuf_addf(text, "precision %s ", rt_dtype_name(job->precision));
    describe_optimizer(rt_node_get(job->model_conf, "optimizer"), text);
    describe_section(job->model_conf, "schedule", text);
}

/* The plan is the seed, data and files; the configuration is all of it. */
static void hash_job(struct rt_job *job)
{
    struct rt_strbuf text;
    size_t at = 0;
    rt_strbuf_init(&text);
    rt_strbuf_addf(&text, "seed %" PRIu64 "\n", job->global.seed);
    at = end_part(job, WIRE_PART_GLOBAL, &text, at);
    rt_job_describe_data(job, &text);
    at = end_part(job, WIRE_PART_DATA, &text, at);
    rt_job_describe_files(job, &text);
    at = end_part(job, WIRE_PART_FILES, &text, at);
    job->plan_hash = rt_hash_bytes(text.text, text.len);
    const struct rt_wire_conf *wire = &job->global.wire;
    rt_strbuf_addf(&text, "wire %u %u %u %u %u %u buckets %u shards %u\n", wire->rows,
                   wire->row_gradients, wire->embeddings, wire->gradients, wire->all_reduce,
                   wire->compression, job->global.trainer_bucket_bytes, RT_SHARDS);
    at = end_part(job, WIRE_PART_GLOBAL, &text, at);
    rt_job_describe_tables(job, &text);
    at = end_part(job, WIRE_PART_EMBEDDING, &text, at);
    describe_model(job, &text);
    end_part(job, WIRE_PART_MODEL, &text, at);
    job->config_hash = rt_hash_bytes(text.text, text.len);
    rt_strbuf_release(&text);
}

/* The job is called as its folder is. */
static const char *name_of(struct rt_arena *arena, const char *folder)
{
    char real[PATH_MAX];
    if (!folder || !realpath(folder, real))
        return "job";
    const char *slash = strrchr(real, '/');
    return rt_arena_strdup(arena, slash && slash[1] ? slash + 1 : "job");
}

/* What globs are relative to; NULL: nobody wants the files. */
static const char *data_base(const struct rt_job_source *source, const struct rt_job *job)
{
    if (source->without_data)
        return NULL;
    return source->data_dir ? source->data_dir : job->folder;
}

int rt_job_load(const struct rt_job_source *source, struct rt_job **out)
{
    rt_assert(source->folder ||
              (source->path[0] && source->path[1] && source->path[2] && source->path[3]));
    struct rt_job *job = rt_xcalloc(1, sizeof *job);
    int err = rt_arena_create(JOB_BYTES_MAX, &job->arena);
    if (err)
        goto out;
    job->folder = rt_arena_strdup(job->arena, source->folder ? source->folder : ".");
    job->name = source->name ? rt_arena_strdup(job->arena, source->name)
                             : name_of(job->arena, source->folder);
    if (!job->folder || !job->name) {
        err = RT_FAIL(RT_ENOMEM, "no memory for the job");
        goto out;
    }
    err = load_files(source, job);
    if (!err)
        err = apply_sets(source, job);
    if (!err)
        err = rt_job_read_global(rt_yaml_root(job->file[RT_FILE_GLOBAL]), job);
    if (!err)
        err = rt_job_read_embedding(rt_yaml_root(job->file[RT_FILE_EMBEDDING]), job);
    if (!err)
        err = rt_job_read_data(rt_yaml_root(job->file[RT_FILE_DATA]), job, data_base(source, job));
    if (!err)
        err = read_model(source, job);
    if (!err)
        hash_job(job);
out:
    if (err) {
        rt_job_destroy(job);
        job = NULL;
    }
    *out = job;
    return err;
}

void rt_job_destroy(struct rt_job *job)
{
    if (!job)
        return;
    for (size_t i = 0; i < ARRAY_LEN(job->file); i++)
        rt_yaml_destroy(job->file[i]);
    rt_yaml_destroy(job->model_file);
    rt_arena_destroy(job->arena);
    rt_free(job);
}

int rt_job_check_run(const struct rt_job *job, const char *init_from, const char *predict)
{
    if (job->data.epochs == 0 && !init_from)
        return RT_FAIL(RT_EUSAGE, "data.epochs: 0 trains nothing: expected --init-from DIR, the "
                                  "saved model to evaluate");
    if (job->data.epochs == 0 && !rt_job_has_test(job))
        return RT_FAIL(RT_EUSAGE, "data.epochs: 0 trains nothing, and data.yml has no `test:` "
                                  "files to evaluate on");
    if (predict && !job->data.keyed)
        return RT_FAIL(RT_EUSAGE,
                       "--predict %s: data.yml has no column to know a row by: expected "
                       "one of kind `key`",
                       predict);
    if (predict && !rt_job_has_test(job))
        return RT_FAIL(RT_EUSAGE, "--predict %s: data.yml has no `test:` files to score", predict);
    return 0;
}

static int write_tree(const struct rt_node *root, const char *dir, const char *name)
{
    struct rt_strbuf text;
    rt_strbuf_init(&text);
    rt_yaml_write(root, &text);
    char *path = rt_path_join(dir, name);
    int err = rt_file_write(path, text.text ? text.text : "", text.len);
    rt_free(path);
    rt_strbuf_release(&text);
    return err;
}

/* The written folder stands alone, so its globs become the files that they matched here. */
static int fix_files(struct rt_job *job, const char *key, const char *const *path, uint32_t n)
{
    if (n == 0)
        return 0;
    struct rt_strbuf list;
    rt_strbuf_init(&list);
    for (uint32_t i = 0; i < n; i++) {
        char real[PATH_MAX];
        const char *p = realpath(path[i], real) ? real : path[i];
        rt_strbuf_addf(&list, "%s\"", i ? ", " : "[");
        for (; *p; p++)
            rt_strbuf_addf(&list, *p == '"' || *p == '\\' ? "\\%c" : "%c", *p);
        rt_strbuf_addf(&list, "\"");
    }
    rt_strbuf_addf(&list, "]");
    int err = rt_yaml_set(job->file[RT_FILE_DATA], key, list.text);
    rt_strbuf_release(&list);
    return err;
}

int rt_job_write(struct rt_job *job, const char *dir)
{
    int err = fix_files(job, "train", job->data.train, job->data.n_train);
    if (!err)
        err = fix_files(job, "test", job->data.test, job->data.n_test);
    char *models = rt_path_join(dir, "models");
    if (!err)
        err = rt_mkdir_all(models);
    char *file = rt_xasprintf("%s.yml", job->model_name);
    if (!err && job->model_file)
        err = write_tree(job->model, models, file);
    if (!err && job->model_file)
        err = rt_yaml_set(job->file[RT_FILE_MODEL], "use", job->model_name);
    rt_free(file);
    rt_free(models);
    for (size_t i = 0; !err && i < ARRAY_LEN(job->file); i++)
        err = write_tree(rt_yaml_root(job->file[i]), dir, file_name[i]);
    return err;
}
