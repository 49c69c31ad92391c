/* tests/bench/embedding_server/measure.c -- see the header. */
#include "tests/bench/embedding_server/measure.h"
#include "runtime/base/mem.h"
#include "tests/lib/bench.h"

#include <math.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define HUGE_PAGE   ((size_t)2 << 20)
#define GIB_DEFAULT 6.0
#define ROWS_MIN    20000u

void die(const char *fmt, ...)
{
    va_list args;

    fprintf(stderr, "bench: ");
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fprintf(stderr, "\n");
    exit(1);
}

/* ---- sizes ---- */

static double gib(void)
{
    const char *text = getenv("BENCH_GIB");
    double value = text ? strtod(text, NULL) : GIB_DEFAULT;

    if (!(value >= 0.001 && value <= 1024))
        die("BENCH_GIB: expected 0.001..1024, got %s", text);
    return value;
}

size_t bench_bytes(void)
{
    return rt_align_up((size_t)(gib() * (double)(1u << 30)), HUGE_PAGE);
}

uint64_t bench_rows(double rows)
{
    double scaled = rows * gib() / GIB_DEFAULT;

    return scaled < ROWS_MIN ? ROWS_MIN : (uint64_t)scaled;
}

size_t bench_requests(void)
{
    return gib() < 0.05 ? 2 : gib() < 0.5 ? 8 : 64;
}

/* ---- clocks and numbers ---- */

uint64_t bench_wall_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

double quantile(double *value, size_t n, double q)
{
    qsort(value, n, sizeof(*value), compare);
    return value[(size_t)ceil(q * (double)(n - 1))];
}

bool same_floats(const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (a[i] != b[i])
            return false;
    return true;
}

double median(double *value, size_t n)
{
    return quantile(value, n, 0.5);
}

void bench_pin(unsigned core)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(core, &set);
    if (sched_setaffinity(0, sizeof(set), &set) != 0)
        fprintf(stderr, "bench: cannot be pinned to core %u; going on without\n", core);
}

double bench_process_cpu(int pid)
{
    clockid_t clock;
    struct timespec t;

    if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &t) != 0)
        die("the processor time of process %d cannot be read", pid);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- memory ---- */

size_t bench_resident(void)
{
    char line[128];
    size_t kib = 0;
    FILE *file = fopen("/proc/self/smaps_rollup", "r");

    if (!file)
        die("no /proc/self/smaps_rollup");
    while (fgets(line, sizeof(line), file))
        if (strncmp(line, "Rss:", 4) == 0)
            kib = strtoul(line + 4, NULL, 10);
    fclose(file);
    return kib << 10;
}

void *bench_array(size_t bytes)
{
    size_t room = rt_align_up(bytes, HUGE_PAGE) + HUGE_PAGE;
    uint8_t *all = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint8_t *array;

    if (all == MAP_FAILED)
        die("no %zu bytes of memory: set BENCH_GIB", room);
    array = (uint8_t *)rt_align_up((size_t)all, HUGE_PAGE);
    if (array > all)
        munmap(all, (size_t)(array - all));
    munmap(array + room - HUGE_PAGE, HUGE_PAGE - (size_t)(array - all));
    madvise(array, room - HUGE_PAGE, MADV_HUGEPAGE);
    for (size_t at = 0; at < bytes; at += 4096)
        array[at] = 0;
    return array;
}

void bench_array_free(void *array, size_t bytes)
{
    munmap(array, rt_align_up(bytes, HUGE_PAGE));
}

void bench_child(void (*run)(const void *arg, double *out), const void *arg, double *out, size_t n)
{
    double *shared =
        mmap(NULL, n * sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int status = 0;
    pid_t pid;

    if (shared == MAP_FAILED)
        die("no memory for %zu results", n);
    fflush(NULL);
    pid = fork();
    if (pid == 0) {
        run(arg, shared);
        exit(0);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
        die("a part's process failed (status %d)", status);
    memcpy(out, shared, n * sizeof(*out));
    munmap(shared, n * sizeof(*shared));
}

/* ---- rounds ---- */

#define ROUNDS_STILL 20u

/* The first, which warms up, is not counted. */
double bench_rounds(const struct rounds *r)
{
    size_t n = (r->requests ? r->requests : bench_requests()) * REQUEST_IDS;
    uint64_t *id = bench_array(n * sizeof(*id)), last[REQUEST_IDS];
    double rate[ROUNDS + 1];
    unsigned still = 0;

    for (int round = 0; round <= ROUNDS; round++) {
        uint64_t begin, ns;

        ids_positions(r->ids, id, n);
        memcpy(last, id + n - REQUEST_IDS, sizeof(last));
        if (r->each)
            r->each(r->ctx, id, n);
        if (r->as_ids)
            ids_from_positions(id, n);
        begin = bench_cpu_ns();
        for (size_t at = 0; at < n; at += REQUEST_IDS)
            r->run(r->ctx, id + at, REQUEST_IDS);
        ns = bench_cpu_ns() - begin;
        rate[round] = 1e9 * (double)n / (double)ns;
        if (r->verify)
            r->verify(r->ctx, last, REQUEST_IDS);
        /* Where a hypervisor takes time away, the clock of a thread can stand still for some milliseconds. */
        if (ns == 0) {
            round--;
            if (++still > ROUNDS_STILL)
                die("the clock of this thread stood still in %u rounds", still);
        }
    }
    bench_array_free(id, n * sizeof(*id));
    if (r->rate)
        memcpy(r->rate, rate + 1, ROUNDS * sizeof(*rate));
    return median(rate + 1, ROUNDS);
}
