/* ctl/check.c -- a job's model is checked by the trainer's program, run once for that.
 *
 * Only the trainer knows what layers there are and which shapes fit. Rejected: to link its parser into
 * `saffron`, which would bring the tensor library with it. */
#include "ctl/check.h"
#include "ctl/program.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define COMPLAINT_MAX 4096

extern char **environ;

void ctl_job_args(const struct ctl_options *options, struct ctl_child *child)
{
    ctl_child_arg(child, "--config");
    ctl_child_arg(child, options->config);
    if (options->data) {
        ctl_child_arg(child, "--data");
        ctl_child_arg(child, options->data);
    }
    if (options->model) {
        ctl_child_arg(child, "--model");
        ctl_child_arg(child, options->model);
    }
    for (size_t i = 0; i < options->n_set; i++) {
        ctl_child_arg(child, "--set");
        ctl_child_arg(child, options->set[i]);
    }
}

/* What it says on `stream`, 1 or 2, goes to `to`; on the other, nowhere. */
static int start(char *const *argv, int stream, int to, pid_t *out)
{
    posix_spawn_file_actions_t files;
    int failed = posix_spawn_file_actions_init(&files);

    if (failed)
        return RT_FAIL(-failed, "%s: %s", argv[0], strerror(failed));
    failed = posix_spawn_file_actions_addopen(&files, 3 - stream, "/dev/null", O_WRONLY, 0);
    if (!failed)
        failed = posix_spawn_file_actions_adddup2(&files, to, stream);
    if (!failed)
        failed = posix_spawn(out, argv[0], &files, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&files);
    return failed ? RT_FAIL(-failed, "%s cannot be started: %s", argv[0], strerror(failed)) : 0;
}

/* The first COMPLAINT_MAX bytes; the rest is read and forgotten, so that the writer can end. */
static void read_to_end(int fd, char out[COMPLAINT_MAX + 1])
{
    char rest[512];
    size_t size = 0;
    ssize_t n;

    for (;;) {
        bool full = size == COMPLAINT_MAX;

        n = read(fd, full ? rest : out + size, full ? sizeof(rest) : COMPLAINT_MAX - size);
        if (n == 0 || (n < 0 && errno != EINTR))
            break;
        if (n > 0 && !full)
            size += (size_t)n;
    }
    out[size] = '\0';
}

/* "saffron-trainer: model.yml:3: ..." is told as ours: without the program's name. */
static int tell(int status, const char *program, char *complaint)
{
    const char *slash = strrchr(program, '/'), *name = slash ? slash + 1 : program;
    char clean[1024], *line = complaint;
    size_t n = strlen(name);

    complaint[strcspn(complaint, "\n")] = '\0';
    if (strncmp(line, name, n) == 0 && strncmp(line + n, ": ", 2) == 0)
        line += n + 2;
    rt_log_escape(line, clean, sizeof(clean));
    if (WIFEXITED(status) && WEXITSTATUS(status) == 2)
        return RT_FAIL(RT_EUSAGE, "%s", clean);
    if (WIFEXITED(status))
        return RT_FAIL(RT_ECANCELED, "%s --describe exited with status %d: %s", name,
                       WEXITSTATUS(status), clean);
    return RT_FAIL(RT_ECANCELED, "%s --describe was killed by signal %d (%s)", name,
                   WTERMSIG(status), strsignal(WTERMSIG(status)));
}

static int run(char *const *argv)
{
    char complaint[COMPLAINT_MAX + 1];
    int fd[2], status = 0, err;
    pid_t pid;

    if (pipe2(fd, O_CLOEXEC) != 0)
        return RT_FAIL(-errno, "no pipe: %s", strerror(errno));
    err = start(argv, STDERR_FILENO, fd[1], &pid);
    close(fd[1]);
    if (!err) {
        read_to_end(fd[0], complaint);
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            continue;
        err = status ? tell(status, argv[0], complaint) : 0;
    }
    close(fd[0]);
    return err;
}

/* `saffron-trainer --describe` of a job. */
static void describe(const struct ctl_options *options, struct ctl_child *child)
{
    char *program = ctl_program_path(RT_ROLE_TRAINER);

    ctl_child_arg(child, program);
    ctl_child_arg(child, "--describe");
    ctl_job_args(options, child);
    rt_free(program);
}

int ctl_check_model(const struct ctl_options *options)
{
    struct ctl_child child = {0};
    int err;

    describe(options, &child);
    err = run(child.argv);
    ctl_child_release(&child);
    return err;
}

/* The number that a line of it begins with. */
static uint64_t read_dense(int fd)
{
    FILE *file = fdopen(fd, "r");
    char *line = NULL;
    size_t room = 0;
    uint64_t found = 0;

    if (!file) {
        close(fd);
        return 0;
    }
    while (getline(&line, &room, file) > 0) {
        char *end;
        uint64_t n = strtoull(line, &end, 10);

        if (end > line && strncmp(end, " dense parameters", 17) == 0)
            found = n;
    }
    free(line); /* getline's */
    fclose(file);
    return found;
}

uint64_t ctl_ask_dense(const struct ctl_options *options)
{
    struct ctl_child child = {0};
    uint64_t n = 0;
    int fd[2], status;
    pid_t pid;

    if (pipe2(fd, O_CLOEXEC) != 0)
        return 0;
    describe(options, &child);
    if (start(child.argv, STDOUT_FILENO, fd[1], &pid) == 0) {
        close(fd[1]);
        n = read_dense(fd[0]);
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            continue;
    } else {
        close(fd[0]);
        close(fd[1]);
    }
    ctl_child_release(&child);
    return n;
}
