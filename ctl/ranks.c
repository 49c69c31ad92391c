/* ctl/ranks.c -- `saffron ranks PROGRAM ARG...`: the processes of a trainer's host, as PID 1 of its container.
 *
 * Each is told its number by SAFFRON_LOCAL_RANK and sees one GPU, its own. One that ends before it was told to
 * takes the others with it: a container is started anew as a whole, and the other hosts' ranks keep what was
 * trained. TERM, INT and HUP mean the same to all of them: end in order.
 *
 *   RUNNING -TERM, INT, HUP-> ENDING   all were sent SIGTERM        -all have ended-> exit
 *   RUNNING -one has ended->  ENDING   the others were sent SIGTERM
 *   ENDING -END_S->           SIGKILL to who is left
 *
 * A program and not a shell script, since a shell's `wait -n` forgets children that ended before it was called. Signals are
 * blocked but while they are waited for, so none is lost, not even by PID 1, for whom the kernel drops
 * those that have no handler. Children that are not ours, orphans of the container, are reaped with them. */
#include "ctl/ranks.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/process/flags.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define END_S 20 /* less than a pod's grace of 30 s */

struct ranks {
    pid_t pid[RT_LOCAL_MAX]; /* 0: has ended */
    unsigned n, left;
    bool ending, told;
    int status; /* of the first that failed */
    time_t kill_at;
};

static time_t now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec;
}

int ctl_ranks_device(const char *list, unsigned rank, unsigned n, char out[CTL_DEVICE_MAX])
{
    unsigned entries = 1;
    size_t size;

    rt_assert(rank < n);
    out[0] = '\0';
    if (!list)
        snprintf(out, CTL_DEVICE_MAX, "%u", rank);
    if (!list || !list[0])
        return 0;
    for (const char *p = list; *p; p++)
        entries += *p == ',';
    if (entries < n)
        return RT_FAIL(RT_EUSAGE,
                       "CUDA_VISIBLE_DEVICES: '%s' names %u, expected one for each of the %u "
                       "processes that NPROC_PER_NODE asks for",
                       list, entries, n);
    for (unsigned i = 0; i < rank; i++)
        list = strchr(list, ',') + 1;
    size = strcspn(list, ",");
    if (size == 0 || size >= CTL_DEVICE_MAX)
        return RT_FAIL(RT_EUSAGE, "CUDA_VISIBLE_DEVICES: entry %u has %zu characters", rank, size);
    memcpy(out, list, size);
    out[size] = '\0';
    return 0;
}

/* In the child; never returns. Its own group: Ctrl-C reaches us alone, and comes once. TERM and INT stay blocked: a
 * role handles them once it can, and before that they would kill it, which is no end in order. */
static void become(char **argv, unsigned rank, const char *device, const sigset_t *before)
{
    sigset_t mask = *before;
    char number[16];

    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    snprintf(number, sizeof(number), "%u", rank);
    if (setenv("SAFFRON_LOCAL_RANK", number, 1) == 0 &&
        setenv("CUDA_VISIBLE_DEVICES", device, 1) == 0) {
        sigaddset(&mask, SIGTERM);
        sigaddset(&mask, SIGINT);
        sigprocmask(SIG_SETMASK, &mask, NULL);
        execvp(argv[0], argv);
    }
    fprintf(stderr, "saffron ranks: %s: %s\n", argv[0], strerror(errno));
    _exit(127);
}

static void tell_all(struct ranks *ranks, int signal)
{
    for (unsigned i = 0; i < ranks->n; i++) {
        if (ranks->pid[i])
            kill(ranks->pid[i], signal);
    }
}

/* Told again, they do not get more time. */
static void end_all(struct ranks *ranks)
{
    if (!ranks->ending)
        ranks->kill_at = now_s() + END_S;
    ranks->ending = true;
    tell_all(ranks, SIGTERM);
}

static int start_all(struct ranks *ranks, char **argv, const sigset_t *before)
{
    char device[RT_LOCAL_MAX][CTL_DEVICE_MAX];

    for (unsigned i = 0; i < ranks->n; i++) {
        int err = ctl_ranks_device(getenv("CUDA_VISIBLE_DEVICES"), i, ranks->n, device[i]);

        if (err)
            return err;
    }
    for (unsigned i = 0; i < ranks->n; i++) {
        pid_t pid = fork();

        if (pid == 0)
            become(argv, i, device[i], before);
        if (pid < 0) {
            end_all(ranks);
            return RT_FAIL(-errno, "cannot start a process: %s", strerror(errno));
        }
        ranks->pid[i] = pid;
        ranks->left++;
    }
    return 0;
}

static void one_ended(struct ranks *ranks, unsigned rank, int how)
{
    int status = WIFSIGNALED(how) ? 128 + WTERMSIG(how) : WEXITSTATUS(how);

    ranks->pid[rank] = 0;
    ranks->left--;
    if (status != 0 && ranks->status == 0)
        ranks->status = status;
    if (ranks->ending)
        return;
    fprintf(stderr,
            "saffron ranks: the process with SAFFRON_LOCAL_RANK %u %s %d; ending the other %u\n",
            rank, WIFSIGNALED(how) ? "was killed by signal" : "exited with status",
            WIFSIGNALED(how) ? WTERMSIG(how) : status, ranks->left);
    end_all(ranks);
}

static void reap(struct ranks *ranks)
{
    pid_t pid;
    int how;

    while ((pid = waitpid(-1, &how, WNOHANG)) > 0) {
        for (unsigned i = 0; i < ranks->n; i++) {
            if (ranks->pid[i] == pid)
                one_ended(ranks, i, how);
        }
    }
}

static void end_by_force(struct ranks *ranks)
{
    fprintf(stderr, "saffron ranks: %u of %u processes are still there after %d s: killed\n",
            ranks->left, ranks->n, END_S);
    ranks->kill_at += END_S;
    tell_all(ranks, SIGKILL);
}

static void supervise(struct ranks *ranks, const sigset_t *set)
{
    while (ranks->left > 0) {
        struct timespec wait = {.tv_sec = 1};
        int number = sigtimedwait(set, NULL, &wait);

        if (number > 0 && number != SIGCHLD) {
            if (!ranks->ending ||
                ranks->told) /* twice is a hurry; what we told them does not count */
                end_all(ranks);
            ranks->told = true;
        }
        reap(ranks); /* also when the time is over: several deaths may be one signal */
        if (ranks->ending && ranks->left > 0 && now_s() >= ranks->kill_at)
            end_by_force(ranks);
    }
}

/* NPROC_PER_NODE is the programs' own variable too, and they check it. */
static int count(unsigned *out)
{
    const char *text = getenv("NPROC_PER_NODE");
    char *end = NULL;
    unsigned long n = text ? strtoul(text, &end, 10) : 1;

    if (end && (end == text || *end || n < 1 || n > RT_LOCAL_MAX))
        return RT_FAIL(RT_EUSAGE, "NPROC_PER_NODE: expected an integer in 1..%d, got '%s'",
                       RT_LOCAL_MAX, text);
    *out = (unsigned)n;
    return 0;
}

int ctl_ranks(int argc, char **argv)
{
    struct ranks ranks = {0};
    sigset_t set, before;
    int err;

    if (argc < 2 || argv[1][0] == '-') {
        fprintf(argc < 2 ? stderr : stdout,
                "Usage: saffron ranks PROGRAM [ARG...]\n\n"
                "Run PROGRAM as often as NPROC_PER_NODE says, each time with its own "
                "SAFFRON_LOCAL_RANK and GPU,\nand end all when one ends. launch.sh calls it.\n");
        return argc < 2 ? 2 : 0;
    }
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, &before);
    err = count(&ranks.n);
    if (!err)
        err = start_all(&ranks, argv + 1, &before);
    if (err)
        fprintf(stderr, "saffron ranks: %s\n", rt_err_text());
    supervise(&ranks, &set);
    return err ? rt_exit_code(err) : ranks.status;
}
