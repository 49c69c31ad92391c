/* tests/lib/job_fixture.c -- see job_fixture.h. */
#include "tests/lib/job_fixture.h"

#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "tests/lib/temp.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static const struct {
    const char *name, *text;
} file[] = {
    {"global.yml", "mode: hybrid\nstaleness: 2\nseed: 3\nmiddleware: {loops: 1}\n"
                   "embedding_server: {workers: 2}\n"},
    {"embedding.yml", "defaults: {dim: 4, initializer: {type: constant, value: 0}, optimizer: "
                      "{type: sgd, learning_rate: 1}}\n"
                      "tables: {user: {}, item: {}}\n"
                      "features: {user: {}, item: {pooling: mean}}\n"},
    {"data.yml",
     "format: tsv\nheader: false\nbatch_size: 16\nsplits: 2\nblock_rows: 32\nshuffle_rows: 32\n"
     "window: 4\ntrain: [train.tsv]\ntest: [test.tsv]\n"
     "columns: {y: label, a: dense, b: dense, user: feature, item: feature}\n"},
    {"model.yml", "layers:\n"
                  "  - {name: all, type: concat, inputs: [features, dense]}\n"
                  "  - {name: top, type: mlp, inputs: [all], sizes: [8, 1]}\n"
                  "  - {name: loss, type: bce, inputs: [top]}\n"
                  "optimizer: {type: sgd, learning_rate: 0.1}\n"},
};

static void put(const char *dir, const char *name, const char *text, size_t size)
{
    char *path = rt_path_join(dir, name);
    if (rt_file_write(path, text, size) != 0)
        fail_msg("%s", rt_err_text());
    rt_free(path);
}

/* Rows whose label follows from the user, so that there is something to learn. */
static void put_rows(const char *dir, const char *name, unsigned n)
{
    char *text = rt_xmalloc((size_t)n * 64);
    size_t at = 0;
    for (unsigned i = 0; i < n; i++) {
        unsigned user = (i * 7 + i / 5) % 13, item = (i * 3) % 5;
        at += (size_t)snprintf(text + at, 64, "%d\t%.2f\t%.2f\tu%u\ti%u\n", user % 3 == 0,
                               (double)(i % 10) / 10, (double)item / 5, user, item);
    }
    put(dir, name, text, at);
    rt_free(text);
}

struct rt_job *job_fixture(const char *const *set, size_t n_set)
{
    char dir[TEMP_PATH_MAX];
    temp_folder(dir);
    for (size_t i = 0; i < sizeof file / sizeof file[0]; i++)
        put(dir, file[i].name, file[i].text, strlen(file[i].text));
    put_rows(dir, "train.tsv", 200);
    put_rows(dir, "test.tsv", 60);
    struct rt_job_source source = {.folder = dir, .name = "fixture", .set = set, .n_set = n_set};
    struct rt_job *job;
    if (rt_job_load(&source, &job) != 0)
        fail_msg("%s", rt_err_text());
    return job;
}

void job_fixture_destroy(struct rt_job *job)
{
    static const char *const name[] = {"global.yml", "embedding.yml", "data.yml",
                                       "model.yml",  "train.tsv",     "test.tsv"};
    for (size_t i = 0; i < sizeof name / sizeof name[0]; i++) {
        char *path = rt_path_join(job->folder, name[i]);
        unlink(path);
        rt_free(path);
    }
    rmdir(job->folder);
    rt_job_destroy(job);
}
