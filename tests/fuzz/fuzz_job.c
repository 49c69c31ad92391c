/* tests/fuzz/fuzz_job.c -- the four files of a job, then any number of --set lines, each a part.
 *
 * The files lie in memory and are read through /proc/self/fd, so nothing is left behind and nothing is waited
 * for. A job that loads keeps its limits, loads again with the same hashes from what it writes, and can be
 * handed to the readers of its model. */
#include "data_compose/parse.h"
#include "runtime/base/assert.h"
#include "runtime/base/mem.h"
#include "runtime/base/strbuf.h"
#include "runtime/job/job.h"
#include "tests/fuzz/fuzz.h"
#include "trainer/model/parse.h"
#include "trainer/model/spec.h"
#include "trainer/optimizer.h"
#include "trainer/optimizer_conf.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SETS_MAX 8

struct files {
    int fd[4];
    char path[4][32];
    struct rt_job_source source;
};

static void open_files(struct files *f)
{
    f->source = (struct rt_job_source){.name = "fuzz", .data_dir = "/"};
    for (int i = 0; i < 4; i++) {
        f->fd[i] = memfd_create("fuzz", MFD_CLOEXEC);
        rt_assert(f->fd[i] >= 0);
        snprintf(f->path[i], sizeof f->path[i], "/proc/self/fd/%d", f->fd[i]);
        f->source.path[i] = f->path[i];
    }
}

static void put(const struct files *f, int i, const char *text, size_t size)
{
    rt_assert(ftruncate(f->fd[i], 0) == 0);
    rt_assert(pwrite(f->fd[i], text, size, 0) == (ssize_t)size);
}

static void close_files(const struct files *f)
{
    for (int i = 0; i < 4; i++)
        close(f->fd[i]);
}

static void check_job(const struct rt_job *job)
{
    rt_assert(job->n_tables <= WIRE_TABLES_MAX && job->n_features <= WIRE_FEATURES_MAX);
    for (uint32_t t = 0; t < job->n_tables; t++)
        rt_assert(job->table[t].dim >= 1 && job->table[t].dim <= WIRE_DIM_MAX);
    for (uint32_t f = 0; f < job->n_features; f++)
        rt_assert(job->feature[f].table < job->n_tables);
    for (uint32_t t = 0; t < job->n_tables; t++)
        rt_assert(!job->table[t].hash_functions == !job->table[t].hash_rows &&
                  job->table[t].hash_functions <= RT_HASH_FUNCTIONS_MAX);
    rt_assert(job->global.wire.rows <= WIRE_BF16 && job->global.wire.row_gradients <= WIRE_BF16);
    rt_assert(job->global.wire.embeddings <= WIRE_BF16 && job->global.wire.gradients <= WIRE_BF16);
    rt_assert(job->data.n_dense <= job->data.n_columns && job->data.n_labels >= 1 &&
              job->data.n_labels <= job->data.n_columns + 1);
}

static void use_job(const struct rt_job *job)
{
    struct dc_parser *parser = NULL;
    struct tr_spec *spec = NULL;
    struct tr_optimizer_conf conf;
    double rate;

    if (dc_parser_create(job, &parser) == 0) {
        if (dc_parser_wants_header(parser))
            (void)dc_parser_header(parser, "fuzz.tsv", "label", 5);
        else if (job->data.format != RT_FORMAT_SYNTHETIC && job->data.format != RT_FORMAT_BINARY)
            (void)dc_parser_row(parser, "0\t1\t1", 5);
        dc_parser_destroy(parser);
    }
    if (tr_parse_model(job->model, job->model == job->model_conf, job->params, &spec) == 0)
        tr_spec_destroy(spec);
    (void)tr_parse_optimizer(rt_node_get(job->model_conf, "optimizer"), &conf, &rate);
}

/* What rt_job_write() writes, but into the files in memory. */
static void write_files(const struct rt_job *job, const struct files *f)
{
    for (int i = 0; i < 4; i++) {
        struct rt_strbuf text;

        rt_strbuf_init(&text);
        rt_yaml_write(rt_yaml_root(job->file[i]), &text);
        put(f, i, text.text, text.len);
        rt_strbuf_release(&text);
    }
}

static void load(struct files *f)
{
    struct rt_job *job, *again;

    if (rt_job_load(&f->source, &job) != 0)
        return;
    check_job(job);
    use_job(job);
    write_files(job, f);
    f->source.n_set = 0; /* they are in the trees now */
    rt_assert(rt_job_load(&f->source, &again) == 0);
    rt_assert(again->config_hash == job->config_hash && again->plan_hash == job->plan_hash);
    rt_job_destroy(again);
    rt_job_destroy(job);
}

int fuzz_job(const uint8_t *data, size_t size)
{
    struct files f;
    char *part, *set[SETS_MAX];
    size_t at = 0, part_size, n_set = 0;
    int n = 0;

    open_files(&f);
    while (n_set < SETS_MAX && (part = fuzz_part(data, size, &at, &part_size))) {
        if (n < 4) {
            put(&f, n++, part, part_size);
            rt_free(part);
            continue;
        }
        part[strcspn(part, "\n")] = 0;
        set[n_set++] = part;
    }
    f.source.set = (const char *const *)set;
    f.source.n_set = n_set;
    if (n == 4)
        load(&f);
    for (size_t i = 0; i < n_set; i++)
        rt_free(set[i]);
    close_files(&f);
    return 0;
}
