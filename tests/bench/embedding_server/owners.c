/* tests/bench/embedding_server/owners.c -- two owners against one: a thread and a table each, no lock between them.
 *
 * Each is pinned to a core of its own and has half of BENCH_GIB, dim 64, row-wise Adagrad. First one owner works
 * while the other sleeps, then both at once. */
#include "runtime/base/assert.h"
#include "runtime/base/mem.h"
#include "tests/bench/embedding_server/entry.h"
#include "tests/bench/embedding_server/measure.h"
#include "tests/bench/embedding_server/parts.h"
#include "tests/bench/embedding_server/tables.h"

#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

enum { OWNERS = 2, LOOKUP = 0, UPDATE = 1, FIGURES = 2 };

struct owner {
    pthread_t thread;
    unsigned number;
    pthread_barrier_t *barrier;
    struct subject subject;
    struct ebs_table *table;
    double alone[FIGURES], together[FIGURES]; /* rows per second of CPU time */
};

static double measure(struct owner *owner, int what)
{
    return (what == LOOKUP ? subject_lookup : subject_update)(&owner->subject, owner->table,
                                                              IDS_UNIFORM, owner->number + 1, NULL);
}

/* All owners go through the same turns. */
static void *work(void *arg)
{
    struct owner *owner = arg;

    bench_pin(owner->number);
    rt_mem_bind_thread();
    owner->table = subject_create(&owner->subject);
    subject_fill(owner->table, 0, owner->subject.rows, FILL_IDS);
    for (int what = 0; what < FIGURES; what++) {
        for (unsigned turn = 0; turn < OWNERS; turn++) {
            pthread_barrier_wait(owner->barrier);
            if (turn == owner->number)
                owner->alone[what] = measure(owner, what);
        }
        pthread_barrier_wait(owner->barrier);
        owner->together[what] = measure(owner, what);
    }
    ebs_table_destroy(owner->table);
    return NULL;
}

static void report(const struct owner *owner, int what)
{
    double alone = 0, together = 0;

    for (unsigned i = 0; i < OWNERS; i++) {
        alone += owner[i].alone[what] / OWNERS;
        together += owner[i].together[what];
    }
    entry_put(&(struct entry){.name = what == LOOKUP ? "owners_2_lookup" : "owners_2_update",
                              .value = together / alone,
                              .unit = "x one owner",
                              .limit = OWNERS,
                              .limit_name = "owners",
                              .demanded = 0.9});
}

void part_owners(const char *unused)
{
    struct owner owner[OWNERS] = {0};
    pthread_barrier_t barrier;

    (void)unused;
    if (sysconf(_SC_NPROCESSORS_ONLN) < OWNERS) {
        fprintf(stderr, "bench: skipped owners: one core\n");
        return;
    }
    pthread_barrier_init(&barrier, NULL, OWNERS);
    for (unsigned i = 0; i < OWNERS; i++) {
        owner[i].number = i;
        owner[i].barrier = &barrier;
        owner[i].subject =
            subject_make(64, RT_OPT_ROWWISE_ADAGRAD, bench_bytes() / OWNERS / (64 * sizeof(float)));
        if (pthread_create(&owner[i].thread, NULL, work, &owner[i]) != 0)
            die("no thread");
    }
    for (unsigned i = 0; i < OWNERS; i++)
        pthread_join(owner[i].thread, NULL);
    pthread_barrier_destroy(&barrier);
    report(owner, LOOKUP);
    report(owner, UPDATE);
}
