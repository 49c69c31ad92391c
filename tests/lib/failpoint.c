/* tests/lib/failpoint.c -- what happens at a failpoint (runtime/base/failpoint.h), in programs that are built with RT_FAILPOINTS.
 *
 *   SAFFRON_FAILPOINTS="P9.after_apply=kill@400 P12.rows=wait:2000"     SAFFRON_FAILPOINTS_DIR=/tmp/somewhere
 *   each: NAME=ACTION[@PASSAGE][/PROGRAM]
 *     kill          the process ends by SIGKILL
 *     fail          the place has an error
 *     wait:MS       the thread sleeps
 *   at the so many-th passage of a process (1 if it is not said), of that program alone if it is said (saffron-trainer)
 *
 * Each happens once in a job, whatever process comes first and however often it is started again: to who makes the file NAME in
 * the folder, which so tells that it has happened, and where. Touch: any thread. */
#ifdef RT_FAILPOINTS
#include "runtime/base/failpoint.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define POINTS_MAX 8

static struct {
    char name[48], action[8], program[32];
    unsigned wait_ms, at;
    atomic_uint passed;
} point[POINTS_MAX];
static unsigned n_points;
static const char *folder;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static _Noreturn void wrong(const char *word)
{
    fprintf(stderr, "SAFFRON_FAILPOINTS: '%s': expected NAME=kill|fail|wait:MS[@N][/PROGRAM]\n",
            word);
    exit(2);
}

static void read_one(char *word)
{
    char *program = strchr(word, '/'), *at = strchr(word, '@'), *wait = strchr(word, ':'), end;
    unsigned i = n_points++;

    if (i == POINTS_MAX)
        wrong(word);
    point[i].at = at ? (unsigned)strtoul(at + 1, NULL, 10) : 1;
    point[i].wait_ms = wait ? (unsigned)strtoul(wait + 1, NULL, 10) : 0;
    if (program)
        snprintf(point[i].program, sizeof(point[i].program), "%s", program + 1);
    if (sscanf(word, "%47[^=]=%7[a-z]%c", point[i].name, point[i].action, &end) < 2 ||
        point[i].at == 0 || (strcmp(point[i].action, "wait") == 0) != (point[i].wait_ms > 0))
        wrong(word);
}

static void read_all(void)
{
    const char *words = getenv("SAFFRON_FAILPOINTS");
    char *copy = strdup(words ? words : ""), *rest = NULL;

    folder = getenv("SAFFRON_FAILPOINTS_DIR");
    for (char *word = strtok_r(copy, " ", &rest); word; word = strtok_r(NULL, " ", &rest))
        read_one(word);
    free(copy);
    if (n_points > 0 && !folder)
        wrong("no SAFFRON_FAILPOINTS_DIR");
}

/* false: it has happened already, to somebody. */
static int be_first(const char *name)
{
    char path[4096];
    int fd;

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0)
        return 0;
    dprintf(fd, "%s %d\n", program_invocation_short_name, (int)getpid());
    close(fd);
    return 1;
}

static int happen(unsigned i)
{
    struct timespec pause = {point[i].wait_ms / 1000, point[i].wait_ms % 1000 * 1000000L};

    rt_log(RT_LOG_INFO, "failpoint name=%s action=%s", point[i].name, point[i].action);
    if (strcmp(point[i].action, "kill") == 0)
        (void)kill(getpid(), SIGKILL);
    else if (strcmp(point[i].action, "fail") == 0)
        return RT_FAIL(RT_EFILE, "failpoint %s", point[i].name);
    else
        (void)nanosleep(&pause, NULL);
    return 0;
}

int rt_failpoint(const char *name)
{
    (void)pthread_once(&once, read_all);
    for (unsigned i = 0; i < n_points; i++) {
        if (strcmp(point[i].name, name) != 0 ||
            (point[i].program[0] && strcmp(point[i].program, program_invocation_short_name) != 0))
            continue;
        if (atomic_fetch_add(&point[i].passed, 1) + 1 == point[i].at && be_first(name))
            return happen(i);
    }
    return 0;
}
#else
typedef int rt_no_failpoints; /* ISO C wants something in a file */
#endif
