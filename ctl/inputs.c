/* ctl/inputs.c -- see inputs.h. */
#include "ctl/inputs.h"
#include "ctl/check.h"
#include "ctl/program.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "runtime/job/save.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static int load_job(const struct ctl_options *options, struct rt_job **job)
{
    struct rt_job_source source = {
        .folder = options->config,
        .data_dir = options->data,
        .models_dir = getenv("SAFFRON_MODELS_DIR"),
        .model = options->model,
        .set = (const char *const *)options->set,
        .n_set = options->n_set,
    };

    ctl_program_job_paths(source.path);
    rt_job_destroy(*job);
    *job = NULL;
    return rt_job_load(&source, job);
}

/* The roles share this machine's cores: unless the job says how many loops, one each is right. */
static int load_job_for_one_machine(struct ctl_options *options, struct rt_job **job)
{
    int err = load_job(options, job);
    bool again = false;

    if (!err && (*job)->global.embedding_server_workers == 0) {
        ctl_options_set(options, "global.embedding_server.workers=1");
        again = true;
    }
    if (!err && (*job)->global.middleware_loops == 0) {
        ctl_options_set(options, "global.middleware.loops=1");
        again = true;
    }
    return again ? load_job(options, job) : err;
}

/* Is there a model, of these tables? What its files are like the roles will see. */
static int check_init_from(const struct ctl_options *options, const struct rt_job *job)
{
    const char *dir = options->init_from;
    char *path;
    int err = 0;

    if (!dir)
        return 0;
    path = rt_save_dense_path(dir);
    if (!rt_file_exists(path))
        err = RT_FAIL(RT_EUSAGE, "--init-from %s: no saved model: there is no %s", dir, path);
    rt_free(path);
    for (uint32_t t = 0; t < job->n_tables && !err; t++) {
        path = rt_save_table_path(dir, job->table[t].name, 0, 0);
        if (!rt_file_exists(path))
            err = RT_FAIL(RT_EUSAGE, "--init-from %s: it has no rows of table %s: there is no %s",
                          dir, job->table[t].name, path);
        rt_free(path);
    }
    return err;
}

/* Scores are never written over, nor beside those of a run with more trainers, which are FILE.0, FILE.1 and so on. */
static int check_no_scores(const char *file)
{
    char *first = rt_xasprintf("%s.0", file);
    const char *there = rt_file_exists(file) ? file : rt_file_exists(first) ? first : NULL;
    int err = 0;

    if (there)
        err = RT_FAIL(RT_EUSAGE, "--predict %s: %s is there already; name a new file", file, there);
    rt_free(first);
    return err;
}

/* Can the file be there? That its folder can be written the trainers will see. */
static int check_predict(const char *file)
{
    const char *slash = file ? strrchr(file, '/') : NULL;
    struct stat st;
    int err = 0;

    if (!file)
        return 0;
    if (slash && slash > file) {
        char *dir = rt_xasprintf("%.*s", (int)(slash - file), file);

        if (stat(dir, &st) != 0 || !S_ISDIR(st.st_mode))
            err = RT_FAIL(RT_EUSAGE, "--predict %s: there is no folder %s", file, dir);
        rt_free(dir);
    }
    if (!err && (!file[0] || (stat(file, &st) == 0 && !S_ISREG(st.st_mode))))
        err = RT_FAIL(RT_EUSAGE, "--predict %s: expected the name of a file", file);
    return err ? err : check_no_scores(file);
}

int ctl_inputs_check(struct ctl_options *options, struct rt_job **job)
{
    int err = load_job_for_one_machine(options, job);

    if (!err)
        err = check_predict(options->predict);
    if (!err)
        err = rt_job_check_run(*job, options->init_from, options->predict);
    if (!err)
        err = check_init_from(options, *job);
    if (!err)
        err = ctl_check_model(options);
    return err;
}
