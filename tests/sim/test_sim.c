/* tests/sim/test_sim.c -- thousands of small whole jobs in simulated time, in which every role dies: `make sim SEEDS=n SEED=first`.
 *
 * A seed is a job (sim_plan.h) and what happens to it (sim_trouble.h); whatever that is, its end has to be right (sim_seed.h). All roles
 * of it are one thread, under the clock, network and disk of the simulator; two processes share the seeds. Seeds that have found
 * something are run first, always. A seed that fails is told with the commit, what died when, and the command that runs it again;
 * with TEST_LOG=info (warn, debug) the roles' logs come too. The last line counts all of it. */
#include "tests/unit/disk_watch.inc.h"

#include "tests/lib/oracle.h"
#include "tests/lib/temp.h"
#include "tests/sim/sim_seed.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/log.h"

#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <cmocka.h>

enum { WORKERS = 2, FAILURES_MAX = 5, SECONDS_MAX = 120 /* of one seed, real ones */ };
#ifdef RT_DEBUG /* sanitizers are slow */
#define SEEDS_USUAL 200
#else
#define SEEDS_USUAL 2000
#endif

/* Seeds that have found something. */
static const struct {
    uint64_t seed;
    const char *what;
} kept[] = {
    {124, "a batch that was lost with its rank found no permit, and a pause that waited for it no "
          "end (trainer/step.c)"},
    {195, "the same, where there is one permit"},
    {6386, "an evaluation before the first batch was taken off the time of training "
           "(trainer/evaluate.c)"},
    {193, "a pause for an owner that came back waited for a batch that comes behind others, which "
          "need steps (trainer/owners.c)"},
    {4297, "full: a lookup at an owner that came back waited for a step that all others had "
           "(trainer/owners.c)"},
    {11706,
     "full: an owner that came back waited for a batch that was finished, and the round that "
     "would have told that waited for the others of its step (trainer/owners.c)"},
    {3729, "exact: a batch of the next epoch, of a data-compose that had not heard yet that all "
           "went back, was stepped in this one "
           "(trainer/feed.c)"},
    {2283, "the same, where all went back to the beginning"},
    {10192, "exact, one trainer: an owner had been compared, and its connection was reset while "
            "the last of them was (trainer/owners.c)"},
    {1000888, "an evaluation began while batches of the step before it had to come again, from a "
              "data-compose that was told no "
              "phase (trainer/phase.c)"},
    {3001,
     "full, gone on with by more ranks: a rank waited for a batch that did not come, the latest of "
     "the closed turns being finished (data_compose/end.c)"},
    {314, "what an owner had lost was counted again each time that it was compared "
          "(embedding_server/lost.c)"},
};

struct worker {
    pid_t pid;
    int log; /* what it says, for when it fails */
    struct sim_story story;
    struct sim_tally tally;
};

/* Of all processes. */
static struct shared {
    _Atomic uint64_t next;
    struct worker worker[WORKERS];
} * shared;

static char folder[TEMP_PATH_MAX];
static uint64_t seeds, first;
static unsigned workers, failures;

/* ---- the disk ---- */

static void disk_arm(uint64_t nth, uint64_t more, int with, const char *below)
{
    disk_below = below;
    disk_errno = with;
    disk_more = (int64_t)more;
    disk_fault = (int64_t)nth;
    disk_hit = false;
}

static void disk_heal(void)
{
    disk_fault = -1;
    disk_more = 0;
}

static bool disk_has_failed(void)
{
    return disk_hit;
}

static const struct sim_disk disk = {disk_arm, disk_heal, disk_has_failed};

/* ---- a worker ---- */

static struct worker *self;

/* The n-th of all: those that are kept stand before the others, unless a single one is run again. */
static uint64_t seed_of(uint64_t n)
{
    uint64_t before = seeds > 1 ? ARRAY_LEN(kept) : 0;
    return n < before ? kept[n].seed : first + n - before;
}

static uint64_t seeds_in_all(void)
{
    return seeds + (seeds > 1 ? ARRAY_LEN(kept) : 0);
}

/* This process's own, with the job in it. Caller frees (rt_free). */
static char *make_folder(void)
{
    char *path = rt_xasprintf("%s/%d", folder, (int)getpid());
    if (mkdir(path, 0700) != 0)
        fail_msg("%s: no folder can be made there", path);
    oracle_write(path, &sim_shape);
    return path;
}

static bool is_compared(void *arg)
{
    const struct job_world *w = arg;
    return w->owner[0]->history.compared;
}

/* What the tests of this test do: the first owner takes a batch that it never had for applied; in `exact` after it was compared with the
 * ledger, which would find that at once. */
static void forget_a_batch(struct job_world *w)
{
    if (w->job->global.exact)
        assert_true(sim_run_until(w->sim, is_compared, w, 60 * RT_S));
    assert_int_equal(ebs_filter_reserve(w->owner[0]->filter, 0), 0);
    ebs_filter_set(w->owner[0]->filter, 0);
}

static void test_seeds_of_worker(void **state)
{
    char *path = make_folder();
    uint64_t n;
    (void)state;
    while ((n = atomic_fetch_add(&shared->next, 1)) < seeds_in_all()) {
        struct sim_seed run = {.seed = seed_of(n),
                               .folder = path,
                               .disk = &disk,
                               .story = &self->story,
                               .tally = &self->tally,
                               .at_start = getenv("SIM_FORGETS") ? forget_a_batch : NULL};
        alarm(SECONDS_MAX);
        sim_seed_run(&run);
        if (run.why[0])
            fail_msg("seed %" PRIu64 ": %s", run.seed, run.why);
    }
    alarm(0);
    rt_free(path);
}

static bool talks(void)
{
    return getenv("TEST_LOG") != NULL;
}

static void begin(unsigned i)
{
    self = &shared->worker[i];
    if (ftruncate(self->log, 0) != 0 || lseek(self->log, 0, SEEK_SET) != 0)
        fail_msg("the log of a worker");
    fflush(NULL);
    pid_t pid = fork(); /* `self` is shared */
    if (pid < 0)
        fail_msg("no process could be started");
    if (pid > 0) {
        self->pid = pid;
        return;
    }
    const struct CMUnitTest test[] = {cmocka_unit_test(test_seeds_of_worker)};
    if (!talks()) {
        dup2(self->log, STDOUT_FILENO);
        dup2(self->log, STDERR_FILENO);
    }
    exit(cmocka_run_group_tests(test, NULL, NULL) ? 1 : 0);
}

/* ---- the failures ---- */

/* tests/run.sh and `make sim` know it. */
static void tell_commit(void)
{
    const char *commit = getenv("SAFFRON_COMMIT");
    print_message("commit %s\n", commit && *commit ? commit : "unknown");
}

static void tell_log(const struct worker *w)
{
    char line[4096];
    FILE *log = fdopen(dup(w->log), "r");
    if (!log)
        return;
    rewind(log);
    while (fgets(line, sizeof line, log))
        if (line[0] != '[') /* the test runner's */
            print_message("    %s", line);
    fclose(log);
}

static void tell_failure(const struct worker *w, int status)
{
    const struct sim_story *story = &w->story;
    uint64_t from = story->n > SIM_EVENTS ? story->n - SIM_EVENTS : 0;
    print_message("FAILED: seed %" PRIu64 "\n", story->seed);
    tell_commit();
    if (WIFSIGNALED(status))
        print_message("    ended by signal %d%s\n", WTERMSIG(status),
                      WTERMSIG(status) == SIGALRM ? ": it runs on and on" : "");
    tell_log(w);
    print_message("  %s\n", story->plan);
    for (uint64_t i = from; i < story->n; i++)
        print_message("  %s\n", story->event[i % SIM_EVENTS]);
    print_message("again: make sim SEEDS=1 SEED=%" PRIu64 "\n", story->seed);
}

static struct worker *worker_of(pid_t pid)
{
    for (unsigned i = 0; i < workers; i++)
        if (shared->worker[i].pid == pid)
            return &shared->worker[i];
    return NULL;
}

static void test_seeds(void **state)
{
    unsigned running = workers;
    int status;
    (void)state;
    for (unsigned i = 0; i < workers; i++)
        begin(i);
    while (running > 0) {
        struct worker *w = worker_of(wait(&status));
        if (!w)
            continue;
        running--;
        if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
            continue;
        tell_failure(w, status);
        if (++failures >= FAILURES_MAX)
            atomic_store(&shared->next, UINT64_MAX / 2);
        begin((unsigned)(w - shared->worker));
        running++;
    }
    assert_int_equal(failures, 0);
}

/* ---- the simulator itself ---- */

static struct sim_seed one(uint64_t seed, const char *path)
{
    static struct sim_tally tally; /* of none that count */
    return (struct sim_seed){.seed = seed,
                             .folder = path,
                             .disk = &disk,
                             .story = &shared->worker[0].story,
                             .tally = &tally};
}

/* A seed is the same run each time. */
static void test_same_again(void **state)
{
    char *path = make_folder();
    (void)state;
    for (uint64_t n = 1; n <= 12; n++) {
        uint64_t seed = n % 2 ? n : SIM_FIRST_SEEDS + n;
        struct sim_seed run = one(seed, path), again = one(seed, path);
        sim_seed_run(&run);
        sim_seed_run(&again);
        assert_string_equal(run.why, again.why);
        assert_int_equal(run.digest, again.digest);
    }
    temp_remove(path);
    rt_free(path);
}

/* It finds what is lost: in jobs whose rows count, and in those whose bits do. */
static void test_finds(void **state)
{
    char *path = make_folder();
    unsigned found[2] = {0};
    (void)state;
    for (uint64_t seed = 1; found[0] == 0 || found[1] == 0; seed++) {
        struct sim_plan plan;
        struct sim_seed run = one(seed, path);
        sim_plan_make(&plan, seed);
        if (plan.troubles > 0)
            continue;
        run.at_start = forget_a_batch;
        sim_seed_run(&run);
        if (!strstr(run.why, plan.exact ? "of an undisturbed run" : " lost that nobody"))
            fail_msg("seed %" PRIu64 ": a batch is lost, and it says '%s'", seed, run.why);
        found[plan.exact]++;
    }
    temp_remove(path);
    rt_free(path);
}

/* ---- all of it ---- */

static void tell_all(uint64_t began_ns)
{
    struct sim_tally sum = {0};
    for (unsigned i = 0; i < workers; i++) {
        const struct sim_tally *t = &shared->worker[i].tally;
        sum.seeds += t->seeds;
        for (int k = 0; k < SIM_VICTIMS; k++)
            sum.kills[k] += t->kills[k];
        sum.all_died += t->all_died;
        sum.restores += t->restores;
        sum.resumed += t->resumed;
        sum.checkpoints += t->checkpoints;
        sum.voided += t->voided;
        sum.faults += t->faults;
        sum.disk_errors += t->disk_errors;
        sum.lost += t->lost;
        sum.went_back += t->went_back;
        sum.sim_ns += t->sim_ns;
        sum.cpu_ns += t->cpu_ns;
        if (t->longest_ns > sum.longest_ns) {
            sum.longest_ns = t->longest_ns;
            sum.longest_seed = t->longest_seed;
        }
    }
    print_message(
        "longest from the last trouble to the end: %.1f s (seed %" PRIu64 "); %.1f s in all\n",
        (double)sum.longest_ns * 1e-9, sum.longest_seed, (double)(rt_now_ns() - began_ns) * 1e-9);
    print_message(
        "sim: %" PRIu64 " seeds, kills of trainers %" PRIu64 ", embedding servers %" PRIu64
        ", middlewares %" PRIu64 ", data-composes %" PRIu64 ", whole jobs %" PRIu64 "; %" PRIu64
        " restores of servers, %" PRIu64 " of trainers, %" PRIu64 " checkpoints, %" PRIu64
        " void, %" PRIu64 " faults, %" PRIu64 " of the disk, %" PRIu64
        " updates declared lost, %" PRIu64 " processes ended to go back; simulated %.0f seconds in "
        "%.1f of a core: %.0fx real time, %u "
        "failures\n",
        sum.seeds, sum.kills[SIM_TRAINER], sum.kills[SIM_SERVER], sum.kills[SIM_MIDDLEWARE],
        sum.kills[SIM_COMPOSER], sum.all_died, sum.restores, sum.resumed, sum.checkpoints,
        sum.voided, sum.faults, sum.disk_errors, sum.lost, sum.went_back, (double)sum.sim_ns * 1e-9,
        (double)sum.cpu_ns * 1e-9, (double)sum.sim_ns / (double)(sum.cpu_ns + 1), failures);
}

static uint64_t number(const char *name, uint64_t usual)
{
    const char *text = getenv(name);
    return text && text[0] ? strtoull(text, NULL, 10) : usual;
}

static int set_up(void **state)
{
    enum rt_log_level level = RT_LOG_ERROR;
    (void)state;
    if (talks() && rt_log_level_parse(getenv("TEST_LOG"), &level) != 0)
        return -1;
    rt_log_set_level(level);
    seeds = number("SEEDS", SEEDS_USUAL);
    first = number("SEED", SIM_FIRST_SEEDS + 1);
    workers = seeds > 1 && !talks() ? WORKERS : 1;
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        return -1;
    for (unsigned i = 0; i < workers; i++)
        shared->worker[i].log = memfd_create("log", MFD_CLOEXEC);
    temp_folder(folder);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    temp_remove(folder);
    return 0;
}

int main(void)
{
    const struct CMUnitTest test[] = {cmocka_unit_test(test_seeds), cmocka_unit_test(test_finds),
                                      cmocka_unit_test(test_same_again)};
    uint64_t began_ns = rt_now_ns();
    int failed = cmocka_run_group_tests(test, set_up, tear_down);
    if (shared)
        tell_all(began_ns);
    return failed;
}
