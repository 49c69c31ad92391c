/* tests/unit/test_job_files.c -- globs of data.yml: which files, in which order, and what is refused. */
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "runtime/job/job.h"
#include "tests/lib/temp.h"

#include <linux/capability.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

static char dir[TEMP_PATH_MAX];
static char *data; /* a folder whose name would be a pattern */

static void put(const char *folder, const char *name, const char *text)
{
    char *path = rt_path_join(folder, name);

    assert_int_equal(rt_file_write(path, text, strlen(text)), 0);
    rt_free(path);
}

static int setup(void **state)
{
    static const char *const file[] = {"b.tsv", "a.tsv",     "c.tsv",
                                       "c.csv", "day=2/p-1", "day=1/p-1"};

    (void)state;
    temp_folder(dir);
    data = rt_path_join(dir, "odd [a]{b,c}*\\~");
    for (int day = 1; day <= 2; day++) {
        char *folder = rt_xasprintf("%s/day=%d", data, day);
        assert_int_equal(rt_mkdir_all(folder), 0);
        rt_free(folder);
    }
    put(dir, "global.yml", "mode: hybrid\n");
    put(dir, "embedding.yml", "tables: {u: {}}\nfeatures: {u: {}}\n");
    put(dir, "data.yml", "columns: {y: label, u: feature}\n");
    put(dir, "model.yml", "use: none\n");
    char *models = rt_path_join(dir, "models");
    assert_int_equal(rt_mkdir_all(models), 0);
    put(models, "none.yml", "layers: []\n");
    rt_free(models);
    for (size_t i = 0; i < ARRAY_LEN(file); i++)
        put(data, file[i], "y\tu\n");
    char *pipe = rt_path_join(data, "pipe.fifo"), *gone = rt_path_join(data, "gone.lost"),
         *twin = rt_path_join(data, "twin.tsv2");
    assert_int_equal(mkfifo(pipe, 0600), 0);
    assert_int_equal(symlink("no-such-file", gone), 0);
    assert_int_equal(symlink("a.tsv", twin), 0);
    rt_free(pipe);
    rt_free(gone);
    rt_free(twin);
    return 0;
}

static int teardown(void **state)
{
    char *command[] = {"rm", "-rf", dir, NULL};
    pid_t pid = fork();

    (void)state;
    rt_free(data);
    if (pid == 0) {
        execvp("rm", command);
        _exit(1);
    }
    return waitpid(pid, NULL, 0) == pid ? 0 : -1;
}

static int load(const char *train, struct rt_job **out)
{
    char *set = rt_xasprintf("data.train=%s", train);
    const char *list[] = {set};
    struct rt_job_source source = {.folder = dir, .data_dir = data, .set = list, .n_set = 1};
    int err = rt_job_load(&source, out);

    rt_free(set);
    return err;
}

static void files(void **state)
{
    static const struct {
        const char *train, *want; /* names in the folder, in order, each with ' ' after it */
    } row[] = {
        {"['*.tsv']", "a.tsv b.tsv c.tsv "},
        {"[c.tsv, a.tsv]", "a.tsv c.tsv "},
        {"['*.tsv', a.tsv, 'a*', '*.csv']", "a.tsv b.tsv c.csv c.tsv "},
        {"['{c,a}.tsv']", "a.tsv c.tsv "},
        {"['[bc].tsv']", "b.tsv c.tsv "},
        {"['?.csv']", "c.csv "},
        {"['day=*/p-*']", "day=1/p-1 day=2/p-1 "},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct rt_job *job;
        char got[256] = "";

        if (load(row[i].train, &job) != 0)
            fail_msg("%s: %s", row[i].train, rt_err_text());
        for (uint32_t k = 0; k < job->data.n_train; k++) {
            assert_memory_equal(job->data.train[k], data, strlen(data));
            snprintf(got + strlen(got), sizeof(got) - strlen(got), "%s ",
                     job->data.train[k] + strlen(data) + 1);
        }
        if (strcmp(got, row[i].want) != 0)
            fail_msg("%s: got %s, want %s", row[i].train, got, row[i].want);
        rt_job_destroy(job);
    }
}

static void refused(void **state)
{
    static const struct {
        const char *train, *want;
    } row[] = {
        {"['*.gz']", "no file matches '*.gz' in "},
        {"['*.tsv', 'x?']", "no file matches 'x?' in "},
        {"[/nowhere/x]", "no file matches '/nowhere/x' in / "},
        {"['**/p-1']", "'**' is not supported; write a '*' for each level"},
        {"['day=*']", "day=1: expected a file, got a folder (name its files"},
        {"['.']", "expected a file, got a folder"},
        {"['*.fifo']", "pipe.fifo: expected a file, got a pipe, socket or device"},
        {"['*.lost']", "gone.lost: cannot be read: No such file"},
        {"['a.tsv', './a.tsv']", "are the same file"},
        {"['*.tsv*']", "a.tsv and "},
        {"['']", "expected a file name or pattern, got nothing"},
        {"[[a.tsv]]", "expected"},
        {"a.tsv", "expected a list"},
        {"[]", "expected `train:` with at least one file"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct rt_job *job = NULL;
        int err = load(row[i].train, &job);

        if (err != RT_EUSAGE || !strstr(rt_err_text(), row[i].want))
            fail_msg("%s: got %d '%s', want '%s'", row[i].train, err, rt_err_text(), row[i].want);
        assert_null(job);
    }
}

/* Root may read everything: without its capabilities it is as any other user. */
static bool drop_capabilities(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {{0}};

    return syscall(SYS_capset, &header, none) == 0;
}

/* What may not be read is found before anything starts. */
static void unreadable(void **state)
{
    char *path = rt_path_join(data, "b.tsv");
    int status = -1;

    (void)state;
    assert_int_equal(chmod(path, 0), 0);
    pid_t pid = fork();
    if (pid == 0) {
        struct rt_job *job = NULL;
        if (!drop_capabilities())
            _exit(3);
        int err = load("['*.tsv']", &job);
        _exit(err == RT_EUSAGE && strstr(rt_err_text(), "b.tsv: cannot be read: Permission denied")
                  ? 0
                  : 4);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(chmod(path, 0600), 0);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    rt_free(path);
}

int main(void)
{
    const struct CMUnitTest test[] = {
        cmocka_unit_test(files),
        cmocka_unit_test(refused),
        cmocka_unit_test(unreadable),
    };

    return cmocka_run_group_tests(test, setup, teardown);
}
