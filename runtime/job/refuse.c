/* runtime/job/refuse.c -- what a job may say before every role can do it.
 *
 * Keys, hashes and messages of a value are agreed before the roles that make it work, which learn it one at a time. Until a
 * role has, it refuses the job when it is made, with key and value, rather than train something else. */
#include "runtime/job/job.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"

#include <stdio.h>

#define KEY_MAX    256
#define LOOK_AHEAD 2 /* the defaults; 0: a job without files, made by hand */

static int refuse(const char *key, const char *value)
{
    return RT_FAIL(RT_EUSAGE, "%s: %s is not in this version", key, value);
}

static int refuse_number(const char *key, uint64_t value)
{
    char text[24];

    snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
    return refuse(key, text);
}

static int refuse_of(const char *of, const char *name, const char *key, const char *value)
{
    char text[KEY_MAX];

    snprintf(text, sizeof(text), "%s.%s.%s", of, name, key);
    return refuse(text, value);
}

static int check_global(const struct rt_global_conf *global, uint32_t refused)
{
    const struct {
        uint32_t bit, dtype;
        const char *key;
    } path[] = {
        {RT_REFUSE_ROWS, global->wire.rows, "global.wire.rows"},
        {RT_REFUSE_ROW_GRADIENTS, global->wire.row_gradients, "global.wire.row_gradients"},
        {RT_REFUSE_EMBEDDINGS, global->wire.embeddings, "global.wire.embeddings"},
        {RT_REFUSE_GRADIENTS, global->wire.gradients, "global.wire.gradients"},
    };

    for (size_t i = 0; i < ARRAY_LEN(path); i++)
        if (refused & path[i].bit && path[i].dtype != WIRE_F32)
            return refuse(path[i].key, rt_dtype_name(path[i].dtype));
    return 0;
}

static int check_embedding(const struct rt_job *job, uint32_t refused)
{
    for (uint32_t t = 0; refused & RT_REFUSE_HASHING && t < job->n_tables; t++)
        if (job->table[t].hash_functions)
            return refuse_of("embedding.tables", job->table[t].name, "hash", "hashing");
    for (uint32_t f = 0; f < job->n_features; f++) {
        const struct rt_feature_conf *conf = &job->feature[f];

        if (refused & RT_REFUSE_SEQUENCES && conf->pooling == RT_POOL_NONE)
            return refuse_of("embedding.features", conf->name, "pooling", "none");
        if (refused & RT_REFUSE_TRUNCATE && conf->truncate != RT_TRUNCATE_REFUSE)
            return refuse_of("embedding.features", conf->name, "truncate",
                             conf->truncate == RT_TRUNCATE_HEAD ? "head" : "tail");
    }
    return 0;
}

static int check_data(const struct rt_data_conf *data, uint32_t refused)
{
    for (uint32_t i = 0; refused & RT_REFUSE_ID_WEIGHTS && i < data->n_columns; i++)
        if (data->column[i].weight_separator)
            return refuse_of("data.columns", data->column[i].name, "weight_separator",
                             "a weight for each id");
    if (refused & RT_REFUSE_BINARY && data->format == RT_FORMAT_BINARY)
        return refuse("data.format", "binary");
    if (refused & RT_REFUSE_LOOK_AHEAD && data->look_ahead && data->look_ahead != LOOK_AHEAD)
        return refuse_number("data.look_ahead", data->look_ahead);
    return 0;
}

int rt_job_refuse(const struct rt_job *job, uint32_t refused)
{
    int err = check_global(&job->global, refused);

    if (!err)
        err = check_embedding(job, refused);
    return err ? err : check_data(&job->data, refused);
}
