/* ctl/child.c -- start, reap and name the end of one process.
 *
 * fork and exec by hand, not uv_spawn: the child must ask for the death signal and for its group before it
 * runs, and wait4 must tell what it used. The supervisor has threads by the time nats-server is started
 * again, so between fork and exec the child calls nothing but system calls. No signal may come in between:
 * libuv's handler would run in the child and take the lock that it shares with the supervisor, for ever. */
#include "ctl/child.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define LOG_TAIL_BYTES 65536

void ctl_child_arg(struct ctl_child *child, const char *text)
{
    rt_assert(child->argc < CTL_CHILD_ARGS_MAX);
    child->argv[child->argc++] = rt_xstrdup(text);
    child->argv[child->argc] = NULL;
}

/* In the child. Never returns. */
static void become(const struct ctl_child *child, pid_t parent, int null_fd, int log_fd)
{
    static const char sorry[] = "ERROR cannot be started: exec failed\n";
    static const int handled[] = {SIGCHLD, SIGINT, SIGTERM, SIGHUP, SIGPIPE};
    struct sigaction dfl = {.sa_handler = SIG_DFL};
    sigset_t none;

    setpgid(0, 0);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent)
        _exit(1); /* the supervisor died before it could be asked for */
    for (size_t i = 0; i < ARRAY_LEN(handled); i++)
        sigaction(handled[i], &dfl, NULL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (dup2(null_fd, 0) < 0 || dup2(log_fd, 1) < 0 || dup2(log_fd, 2) < 0)
        _exit(1);
    close_range(3, ~0u, 0);
    execvp(child->argv[0], child->argv);
    (void)!write(2, sorry, sizeof(sorry) - 1);
    _exit(CTL_CHILD_NO_PROGRAM);
}

static int write_pid(const struct ctl_child *child)
{
    char text[32];
    int n = snprintf(text, sizeof(text), "%ld\n", (long)child->pid);

    return rt_file_write(child->pid_path, text, (size_t)n);
}

int ctl_child_start(struct ctl_child *child)
{
    pid_t parent = getpid();
    int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    int log_fd = open(child->log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    sigset_t all, before;
    int err = 0;
    pid_t pid;

    rt_assert(child->pid == 0);
    if (log_fd < 0 || null_fd < 0) {
        err = RT_FAIL(RT_EFILE, "%s: %s", child->log_path, strerror(errno));
        goto out;
    }
    child->log_from = lseek(log_fd, 0, SEEK_END);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pid = fork();
    if (pid == 0)
        become(child, parent, null_fd, log_fd);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (pid < 0) {
        err = RT_FAIL(-errno, "%s: cannot start a process: %s", child->name, strerror(errno));
        goto out;
    }
    setpgid(pid, pid); /* whoever is first; a failure means that the child was */
    child->pid = pid;
    err = write_pid(child);
out:
    if (null_fd >= 0)
        close(null_fd);
    if (log_fd >= 0)
        close(log_fd);
    return err;
}

bool ctl_child_reap(struct ctl_child *child)
{
    struct rusage usage;
    pid_t pid;

    if (child->pid == 0)
        return false;
    do
        pid = wait4(child->pid, &child->status, WNOHANG, &usage);
    while (pid < 0 && errno == EINTR);
    if (pid != child->pid)
        return false;
    kill(-child->pid, SIGKILL); /* whatever it may have started itself */
    child->pid = 0;
    child->cpu_s += (double)usage.ru_utime.tv_sec + (double)usage.ru_stime.tv_sec +
                    1e-6 * ((double)usage.ru_utime.tv_usec + (double)usage.ru_stime.tv_usec);
    if ((uint64_t)usage.ru_maxrss * 1024 > child->peak_rss_bytes)
        child->peak_rss_bytes = (uint64_t)usage.ru_maxrss * 1024;
    return true;
}

void ctl_child_signal(struct ctl_child *child, int signal)
{
    if (child->pid != 0)
        kill(-child->pid, signal);
}

void ctl_child_how(const struct ctl_child *child, char *out, size_t size)
{
    if (WIFSIGNALED(child->status))
        snprintf(out, size, "was killed by signal %d (%s)", WTERMSIG(child->status),
                 strsignal(WTERMSIG(child->status)));
    else
        snprintf(out, size, "exited with status %d", WEXITSTATUS(child->status));
}

void ctl_child_release(struct ctl_child *child)
{
    for (int i = 0; i < child->argc; i++)
        rt_free(child->argv[i]);
    rt_free(child->log_path);
    rt_free(child->pid_path);
    *child = (struct ctl_child){0};
}

/* A role's very last words, "saffron-trainer: model.yml:3: ...", have no stamp (runtime/process/process.c). */
static bool is_last_words(const char *line)
{
    return strncmp(line, "saffron-", 8) == 0 && strstr(line, ": ");
}

/* What a log line says behind its stamp: "2026-01-31T12:00:00.123Z ERROR trainer/0 event ..." */
static const char *behind_stamp(const char *line)
{
    const char *mark = strstr(line, " ERROR ");
    const char *text = mark ? strchr(mark + 7, ' ') : NULL;

    if (is_last_words(line))
        return strstr(line, ": ") + 2;

    return text ? text + 1 : line;
}

bool ctl_log_last_error(const char *path, off_t from, char *out, size_t size)
{
    char *tail = rt_xmalloc(LOG_TAIL_BYTES + 1), *best = NULL, *line, *next;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool best_is_error = false;
    ssize_t n = 0;
    off_t end;

    out[0] = '\0';
    if (fd >= 0) {
        end = lseek(fd, 0, SEEK_END);
        if (end - from > LOG_TAIL_BYTES)
            from = end - LOG_TAIL_BYTES;
        n = pread(fd, tail, LOG_TAIL_BYTES, from);
        close(fd);
    }
    tail[n > 0 ? n : 0] = '\0';
    for (line = tail; *line; line = next) {
        bool is_error;

        next = line + strcspn(line, "\n");
        if (*next)
            *next++ = '\0';
        is_error = strstr(line, " ERROR ") || is_last_words(line);
        if (*line && (is_error || !best_is_error)) {
            best = line;
            best_is_error = is_error;
        }
    }
    if (best)
        rt_log_escape(behind_stamp(best), out, size);
    rt_free(tail);
    return best_is_error;
}
