/* runtime/process/status.c -- usage, and JSON as text. */
#include "runtime/process/status.h"
#include "runtime/base/assert.h"
#include "runtime/base/mem.h"
#include "runtime/base/purpose.h"
#include "runtime/job/batch_id.h"
#include "runtime/net/frame.h"

#include <dirent.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

static double seconds(const struct timeval *t)
{
    return (double)t->tv_sec + (double)t->tv_usec * 1e-6;
}

/* Resident pages by /proc; 0 where it is not there. */
static uint64_t resident_bytes(void)
{
    FILE *file = fopen("/proc/self/statm", "re");
    unsigned long long total, resident = 0;

    if (!file)
        return 0;
    if (fscanf(file, "%llu %llu", &total, &resident) != 2)
        resident = 0;
    fclose(file);
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

void rt_usage_now(struct rt_usage *out)
{
    struct rusage usage;
    int err = getrusage(RUSAGE_SELF, &usage);

    rt_assert(err == 0);
    out->cpu_seconds = seconds(&usage.ru_utime) + seconds(&usage.ru_stime);
    out->rss_bytes = resident_bytes();
    out->peak_rss_bytes = (uint64_t)usage.ru_maxrss * 1024;
    if (out->peak_rss_bytes < out->rss_bytes) /* the two are counted apart, and lazily */
        out->peak_rss_bytes = out->rss_bytes;
}

uint64_t rt_open_files(void)
{
    DIR *folder = opendir("/proc/self/fd");
    uint64_t n = 0;

    if (!folder)
        return 0;
    while (readdir(folder))
        n++;
    closedir(folder);
    return n - 3; /* ".", "..", and the folder itself */
}

uint64_t rt_open_files_limit(void)
{
    struct rlimit limit;
    int err = getrlimit(RLIMIT_NOFILE, &limit);

    rt_assert(err == 0);
    return limit.rlim_cur;
}

_Static_assert((uint64_t)RT_SPLIT_EVALUATE << 48 == RT_BATCH_EVALUATES,
               "a frame's batch_id tells evaluation from training");

void rt_status_put_purposes(json_t *object)
{
    json_t *seconds_of = json_object(), *bytes_of = json_object();

    for (int purpose = 0; purpose < RT_PURPOSES; purpose++) {
        const char *name = rt_purpose_name((enum rt_purpose)purpose);
        json_t *hops = json_object();

        for (int to = 0; to < RT_ROLE_COUNT; to++) {
            uint64_t bytes = atomic_load_explicit(
                rt_purpose_sent_bytes((enum rt_purpose)purpose, (enum rt_role)to),
                memory_order_relaxed);

            if (bytes)
                json_object_set_new(hops, rt_role_name((enum rt_role)to),
                                    json_integer((json_int_t)bytes));
        }
        json_object_set_new(bytes_of, name, hops);
        json_object_set_new(seconds_of, name,
                            json_real((double)rt_purpose_cpu_ns((enum rt_purpose)purpose) * 1e-9));
    }
    json_object_set_new(object, "purpose_cpu_seconds", seconds_of);
    json_object_set_new(object, "hop_bytes", bytes_of);
}

char *rt_status_text(json_t *object)
{
    char *text = json_dumps(object, JSON_COMPACT), *copy;

    rt_assert(text);
    copy = rt_xstrdup(text);
    free(text); /* jansson's, from its allocator */
    json_decref(object);
    return copy;
}
