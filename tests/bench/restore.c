/* tests/bench/restore.c -- how fast an owner's rows come back from a checkpoint in the page cache, verification included.
 *
 * A table is trained, written as the full checkpoint of one owner, and loaded into an empty owner: each round from the
 * manifest on, as a server does it on the thread of each of its owners. Beside it what reading and verifying alone take
 * (rt_store_verify_file). Rates are of the file's bytes, in GB (10^9) a second of one thread's CPU time; the best of the rounds
 * counts. Demanded are 2 s per GB and core. */
#include "embedding_server/chain.h"
#include "embedding_server/serve.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "runtime/checkpoint/store.h"
#include "tests/lib/bench.h"
#include "tests/unit/restore_bed.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { ROUNDS = 5, UPDATE = 4096 };

#define DEMANDED 0.5 /* GB/s */

struct shape {
    const char *name;
    uint64_t rows;
    struct rt_table_conf conf;
};

static const struct shape shapes[] = {
    {"dim 16, adagrad",
     4000000,
     {.name = "t",
      .dim = 16,
      .optimizer = {.kind = RT_OPT_ADAGRAD, .learning_rate = 0.1, .eps = 1e-8}}},
    {"dim 16, bfloat16, rowwise_adagrad, lru",
     4000000,
     {.name = "t",
      .dim = 16,
      .dtype = WIRE_BF16,
      .optimizer = {.kind = RT_OPT_ROWWISE_ADAGRAD, .learning_rate = 0.1, .eps = 1e-8},
      .eviction = {.kind = RT_EVICT_LRU, .rows = 8000000}}},
    {"dim 64, adam",
     600000,
     {.name = "t",
      .dim = 64,
      .optimizer =
          {.kind = RT_OPT_ADAM, .learning_rate = 0.1, .eps = 1e-8, .beta1 = 0.9, .beta2 = 0.999}}},
};

static void must(int err)
{
    if (err) {
        fprintf(stderr, "%s\n", rt_err_text());
        exit(1);
    }
}

static void write_checkpoint(struct restore_bed *bed, const struct shape *shape)
{
    uint64_t id[UPDATE];

    restore_bed_open(bed, 1);
    for (uint64_t at = 0; at < shape->rows; at += UPDATE) {
        for (uint64_t i = 0; i < UPDATE; i++)
            id[i] = rt_draw(1, at + i);
        restore_bed_update(bed, 0, id, UPDATE, at + 1);
    }
    restore_bed_write(bed, "bench", true, 1, NULL, 0);
}

/* @return GB/s of the best round. *verify: the same of reading alone. */
static double measure(struct restore_bed *bed, const struct rt_manifest *manifest, double *verify)
{
    uint64_t load_ns = UINT64_MAX, verify_ns = UINT64_MAX, digest = 0;
    struct ebs_chain chain = {.dir = bed->dir, .job = bed->job, .manifest = &manifest, .n = 1};

    for (int round = 0; round < ROUNDS; round++) {
        struct rt_rowfile_table table = {0};
        struct ebs_chain_sum sum = {.table = &table};
        struct ebs_chain_loaded loaded = {.sum = &sum};
        uint64_t began;

        restore_bed_open(bed, 1);
        began = bench_cpu_ns();
        must(ebs_chain_load(&chain, bed->owner[0], &loaded));
        began = bench_cpu_ns() - began;
        load_ns = began < load_ns ? began : load_ns;
        digest = restore_bed_digest(bed);
        rt_assert(digest == manifest->table[0].digest && loaded.left_out == 0);
        restore_bed_close(bed);
        began = bench_cpu_ns();
        must(rt_store_verify_file(bed->dir, manifest, 0, bed->job, NULL, NULL));
        began = bench_cpu_ns() - began;
        verify_ns = began < verify_ns ? began : verify_ns;
    }
    *verify = (double)manifest->file[0].bytes / (double)verify_ns;
    return (double)manifest->file[0].bytes / (double)load_ns;
}

int main(void)
{
    struct bench *bench = bench_create("restore");

    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        const struct rt_job job = {.name = "bench",
                                   .n_tables = 1,
                                   .table = &shapes[i].conf,
                                   .global = {.seed = 1, .heartbeat_ms = 1000, .dead_ms = 5000}};
        struct rt_manifest *manifest = NULL;
        struct restore_bed bed;
        double load, verify;
        char name[64];

        restore_bed_begin(&bed, &job);
        write_checkpoint(&bed, &shapes[i]);
        must(rt_manifest_read(bed.dir, "bench", &manifest));
        load = measure(&bed, manifest, &verify);
        snprintf(name, sizeof(name), "%s: load", shapes[i].name);
        bench_more(bench, name, load, "GB/s", DEMANDED, "2 s per GB and core");
        bench_demand(bench, 1.0);
        snprintf(name, sizeof(name), "%s: verify", shapes[i].name);
        bench_more(bench, name, verify, "GB/s", NAN, NULL);
        must(rt_store_remove(bed.dir, "bench"));
        rt_manifest_destroy(manifest);
        restore_bed_end(&bed);
    }
    return bench_finish(bench);
}
