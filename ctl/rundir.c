/* ctl/rundir.c -- make the folder of a run; say in it who supervises. */
#include "ctl/rundir.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "runtime/wire/method.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define NAME_TRIES     100
#define RUN_FILE_BYTES 65536

/* A lock ends with its process, however that ends. */
static int hold(const char *dir, const char *pids, int *lock)
{
    int fd = open(pids, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        return RT_FAIL(RT_EFILE, "%s: %s", pids, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        close(fd);
        return RT_FAIL(RT_EUSAGE, "--run-dir %s: a run goes on in it", dir);
    }
    *lock = fd;
    return 0;
}

/* Exactly one process makes pids/: that run owns the folder. RT_EUSAGE when another one does. */
static int claim(const char *dir, bool again, int *lock)
{
    char *pids = rt_path_join(dir, "pids"), *summary = rt_path_join(dir, "summary.json");
    int err = rt_mkdir_all(dir);

    if (!err && !again && rt_file_exists(summary))
        err = RT_FAIL(RT_EUSAGE, "--run-dir %s: holds another run; name a new folder", dir);
    if (!err && mkdir(pids, 0755) != 0 && !(again && errno == EEXIST)) {
        if (errno == EEXIST)
            err = RT_FAIL(RT_EUSAGE, "--run-dir %s: holds another run; name a new folder", dir);
        else
            err = RT_FAIL(RT_EFILE, "%s: %s", pids, strerror(errno));
    }
    if (!err)
        err = hold(dir, pids, lock);
    if (!err && again && unlink(summary) != 0 && errno != ENOENT)
        err = RT_FAIL(RT_EFILE, "%s: %s", summary, strerror(errno));
    rt_free(pids);
    rt_free(summary);
    return err;
}

/* A model is written into an empty folder: of another number of servers it has other files. */
static int set_model_aside(const char *dir)
{
    char *model = rt_path_join(dir, "model");
    int err = 0;

    for (int i = 1; rmdir(model) != 0 && errno != ENOENT && !err; i++) {
        char *aside = rt_xasprintf("%s.%d", model, i);

        if (!rt_file_exists(aside) && rename(model, aside) != 0)
            err =
                RT_FAIL(RT_EFILE, "%s: cannot be renamed to %s: %s", model, aside, strerror(errno));
        rt_free(aside);
    }
    rt_free(model);
    return err;
}

/* Two runs may start within one second: the second becomes runs/JOB-TIME-2. */
static int claim_default(const char *job_name, char **out, int *lock)
{
    time_t now = time(NULL);
    struct tm local;
    char stamp[32];
    int err = 0;

    localtime_r(&now, &local);
    strftime(stamp, sizeof(stamp), "%Y%m%d-%H%M%S", &local);
    for (int i = 1; i <= NAME_TRIES; i++) {
        char *dir = i == 1 ? rt_xasprintf("runs/%s-%s", job_name, stamp)
                           : rt_xasprintf("runs/%s-%s-%d", job_name, stamp, i);

        err = claim(dir, false, lock);
        if (!err) {
            *out = dir;
            return 0;
        }
        rt_free(dir);
        if (err != RT_EUSAGE)
            return rt_fail_prefix(err, "the folder of this run (--run-dir chooses another): ");
    }
    return err;
}

int ctl_rundir_create(const char *wanted, const char *job_name, bool again, char **out, int *lock)
{
    static const char *const part[] = {"config", "logs", "quarantine", "model"};
    int err;

    if (wanted) {
        err = claim(wanted, again, lock);
        if (!err && again)
            err = set_model_aside(wanted);
        if (err)
            return err;
        *out = rt_xstrdup(wanted);
    } else {
        err = claim_default(job_name, out, lock);
        if (err)
            return err;
    }
    for (size_t i = 0; i < ARRAY_LEN(part) && !err; i++) {
        char *path = rt_path_join(*out, part[i]);

        err = rt_mkdir_all(path);
        rt_free(path);
    }
    if (err) {
        rt_free(*out);
        *out = NULL;
    }
    return err;
}

static json_t *pack(const struct ctl_run *run)
{
    json_t *replicas = json_object();

    for (int role = 0; role < RT_ROLE_COUNT; role++)
        json_object_set_new(replicas, rt_role_name((enum rt_role)role),
                            json_integer(run->replicas[role]));
    return json_pack("{s:s, s:s, s:I, s:o}", "job", run->job, "nats", run->nats, "pid",
                     (json_int_t)run->pid, "replicas", replicas);
}

int ctl_rundir_write(const char *dir, const struct ctl_run *run)
{
    json_t *root = pack(run);
    char *path = rt_path_join(dir, "local.json");
    char *text = root ? json_dumps(root, JSON_INDENT(2)) : NULL;
    char *line = text ? rt_xasprintf("%s\n", text) : NULL;
    int err = line ? rt_file_write(path, line, strlen(line))
                   : RT_FAIL(RT_EUSAGE, "%s: a name is not UTF-8", path);

    free(text);
    rt_free(line);
    json_decref(root);
    rt_free(path);
    return err;
}

int ctl_rundir_read(const char *dir, struct ctl_run *out)
{
    char *path = rt_path_join(dir, "local.json");
    const char *job = NULL, *nats = NULL;
    json_t *root = NULL;
    json_int_t pid = 0;
    char *text = NULL;
    size_t size;
    int err = 0;

    if (!rt_file_exists(path))
        err = RT_FAIL(RT_EUSAGE, "--run-dir %s: no run of `saffron local` (no local.json in it)",
                      dir);
    if (!err)
        err = rt_file_read(path, RUN_FILE_BYTES, &text, &size);
    if (!err) {
        root = json_loadb(text, size, 0, NULL);
        if (json_unpack(root, "{s:s, s:s, s:I}", "job", &job, "nats", &nats, "pid", &pid) != 0)
            err = RT_FAIL(RT_EDATA, "%s: expected {job, nats, pid}", path);
    }
    if (!err) {
        snprintf(out->job, sizeof(out->job), "%s", job);
        snprintf(out->nats, sizeof(out->nats), "%s", nats);
        out->pid = (long)pid;
        for (int role = 0; role < RT_ROLE_COUNT; role++) {
            json_int_t n = json_integer_value(json_object_get(json_object_get(root, "replicas"),
                                                              rt_role_name((enum rt_role)role)));

            out->replicas[role] = n > 0 && n <= WIRE_REPLICAS_MAX ? (uint32_t)n : 0;
        }
    }
    json_decref(root);
    rt_free(text);
    rt_free(path);
    return err;
}
