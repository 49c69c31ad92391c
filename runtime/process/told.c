/* runtime/process/told.c -- from flags to a job, from a job to words. */
#include "runtime/process/told.h"
#include "runtime/base/assert.h"
#include "runtime/base/log.h"

#include <stdio.h>

int rt_told_load(const struct rt_flags *flags, struct rt_job **out)
{
    struct rt_job_source source = {
        .folder = flags->config,
        .name = flags->job,
        .data_dir = flags->data_dir,
        .models_dir = flags->models_dir,
        .model = flags->model,
        .set = flags->set,
        .n_set = flags->n_set,
    };

    for (size_t i = 0; i < ARRAY_LEN(source.path); i++)
        source.path[i] = flags->path[i];
    return rt_job_load(&source, out);
}

void rt_told_log(const struct rt_job *job)
{
    rt_log(RT_LOG_INFO,
           "config config_hash=%016llx plan_hash=%016llx mode=%s exact=%s staleness=%u seed=%llu",
           (unsigned long long)job->config_hash, (unsigned long long)job->plan_hash,
           rt_mode_name(job->global.mode), job->global.exact ? "true" : "false",
           job->global.staleness, (unsigned long long)job->global.seed);
    rt_log(RT_LOG_INFO,
           "data name=%s batch_size=%u epochs=%u splits=%u train_files=%u test_files=%u tables=%u "
           "features=%u dense=%u labels=%u model=%s",
           job->data.name, job->data.batch_size, job->data.epochs, job->data.splits,
           job->data.n_train, job->data.n_test, job->n_tables, job->n_features, job->data.n_dense,
           job->data.n_labels, job->model_name);
}

void rt_told_print(const struct rt_job *job)
{
    printf("job %s: %s, config_hash %016llx, plan_hash %016llx\n", job->name,
           rt_mode_name(job->global.mode), (unsigned long long)job->config_hash,
           (unsigned long long)job->plan_hash);
    printf("data %s: %u train and %u test files, %u dense columns, %u features in %u tables\n",
           job->data.name, job->data.n_train, job->data.n_test, job->data.n_dense, job->n_features,
           job->n_tables);
}
