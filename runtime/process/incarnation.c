/* runtime/process/incarnation.c -- max(wall clock, stored + 1, highest that a peer names + 1).
 *
 * The wall clock grows by itself, but for machines whose clock is put back, and identities that move to a machine
 * whose clock is behind: then peers, which remember, refuse the new process as an old one. The run directory
 * remembers too, where there is one. And who is refused before any peer has taken it starts anew above
 * the number that the refusal names: by exec, since every frame, hello and connection of every loop carries the
 * number, and a start is the one moment in which nobody does so yet. Rejected: changing it in place. */
#include "runtime/process/incarnation.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RAISED_TO  "SAFFRON_INCARNATION" /* in the environment of the new start */
#define FILE_BYTES 64

/* A number alone, perhaps with a newline; 0 for anything else. */
static uint64_t parse(const char *text)
{
    char *end;
    unsigned long long n;

    if (!text || *text < '0' || *text > '9')
        return 0;
    errno = 0;
    n = strtoull(text, &end, 10);
    return errno || (*end && strcmp(end, "\n") != 0) || n >= INT64_MAX ? 0 : n;
}

static uint64_t stored(const struct rt_incarnation *in)
{
    char *text = NULL;
    size_t size;
    uint64_t n;

    if (!in->path || !rt_file_exists(in->path))
        return 0;
    if (rt_file_read(in->path, FILE_BYTES, &text, &size) != 0) {
        rt_log(RT_LOG_WARN, "incarnation_not_read reason=\"%s\"", rt_err_text());
        return 0;
    }
    n = parse(text);
    if (!n)
        rt_log(RT_LOG_WARN, "incarnation_not_read reason=\"%s: no number\"", in->path);
    rt_free(text);
    return n;
}

void rt_incarnation_store(const struct rt_incarnation *in, uint64_t number)
{
    char text[FILE_BYTES];
    int n = snprintf(text, sizeof(text), "%llu\n", (unsigned long long)number);

    if (in->path && rt_file_write(in->path, text, (size_t)n) != 0)
        rt_log(RT_LOG_WARN, "incarnation_not_stored reason=\"%s\"", rt_err_text());
}

static void find_path(struct rt_incarnation *in, const char *run_dir, enum rt_role role,
                      uint32_t index)
{
    char *dir;

    if (!run_dir)
        return;
    dir = rt_path_join(run_dir, "incarnations");
    if (rt_mkdir_all(dir) == 0)
        in->path = rt_xasprintf("%s/%s-%u", dir, rt_role_name(role), index);
    else
        rt_log(RT_LOG_WARN, "incarnation_not_stored reason=\"%s\"", rt_err_text());
    rt_free(dir);
}

void rt_incarnation_take(struct rt_incarnation *in, const char *run_dir, enum rt_role role,
                         uint32_t index)
{
    uint64_t raised_to = parse(getenv(RAISED_TO)), last;

    find_path(in, run_dir, role, index);
    last = stored(in);
    in->raised = raised_to > 0;
    in->number = rt_wall_ms();
    if (last >= in->number)
        in->number = last + 1;
    if (raised_to > in->number)
        in->number = raised_to;
    rt_incarnation_store(in, in->number);
}

void rt_incarnation_release(struct rt_incarnation *in)
{
    rt_free(in->path);
    in->path = NULL;
}

int rt_incarnation_raise(uint64_t held, char *const *argv)
{
    char number[FILE_BYTES];

    snprintf(number, sizeof(number), "%llu", (unsigned long long)held + 1);
    if (setenv(RAISED_TO, number, 1) != 0)
        return RT_FAIL(-errno, "cannot start anew: %s", strerror(errno));
    close_range(3, ~0u,
                CLOSE_RANGE_UNSHARE); /* not those of the other threads, which go on until execv */
    execv("/proc/self/exe", argv);
    return RT_FAIL(-errno, "cannot start anew: %s", strerror(errno));
}
