/* tests/unit/test_place.c -- which process of a job this is, its ports and folders, from environment and flags. */
#include "ctl/ranks.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/process/flags.h"
#include "runtime/process/place.h"
#include "tests/lib/checkpoint_bed.h"
#include "tests/lib/temp.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#define WORDS_MAX 6

struct place {
    uint32_t index, size, n_local, local_rank, port, admin_port;
};

/* In a child, since a wrong command line ends the process. Returns its exit status. */
static int parse(const char *const env[WORDS_MAX], const char *const flags[WORDS_MAX],
                 bool may_be_several, struct place *out)
{
    const struct rt_job job = {.global = {.port_trainer = 7600, .port_admin = 9100}};
    int pipe_fd[2], status;
    pid_t pid;

    assert_int_equal(pipe(pipe_fd), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        char *argv[WORDS_MAX + 4] = {(char *)"test", (char *)"--config", (char *)"."};
        struct rt_flags parsed;
        int argc = 3;

        clearenv();
        for (size_t i = 0; i < WORDS_MAX && env[i]; i++)
            putenv((char *)env[i]);
        for (size_t i = 0; i < WORDS_MAX && flags[i]; i++)
            argv[argc++] = (char *)flags[i];
        if (!freopen("/dev/null", "w", stderr))
            _exit(3);
        rt_flags_parse(argc, argv, "test", "", may_be_several, &parsed);
        *out = (struct place){parsed.index,
                              parsed.size,
                              parsed.n_local,
                              parsed.local_rank,
                              rt_place_port(&parsed, &job, RT_ROLE_TRAINER),
                              rt_place_admin_port(&parsed, &job)};
        _exit(write(pipe_fd[1], out, sizeof(*out)) != sizeof(*out));
    }
    close(pipe_fd[1]);
    memset(out, 0, sizeof(*out));
    (void)!read(pipe_fd[0], out, sizeof(*out));
    close(pipe_fd[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void places(void **state)
{
    static const struct {
        const char *name;
        const char *env[WORDS_MAX], *flags[WORDS_MAX];
        bool one_only; /* a role that is once on a host */
        int status;
        struct place want;
    } row[] = {
        {.name = "alone", .env = {"REPLICA_INDEX=0"}, .want = {0, 1, 1, 0, 0, 0}},
        {.name = "fixed ports",
         .env = {"REPLICA_INDEX=1", "REPLICA_SIZE=2"},
         .flags = {"--fixed-ports"},
         .want = {1, 2, 1, 0, 7600, 9100}},
        {.name = "a flag wins",
         .env = {"REPLICA_INDEX=1", "REPLICA_SIZE=9"},
         .flags = {"--index=5", "--port=81", "--admin-port", "0"},
         .want = {5, 9, 1, 0, 81, 0}},
        {.name = "empty is unset",
         .env = {"REPLICA_INDEX=0", "NPROC_PER_NODE=", "SAFFRON_LOCAL_RANK="},
         .want = {0, 1, 1, 0, 0, 0}},
        {.name = "third of four on the second of three hosts",
         .env = {"REPLICA_INDEX=1", "REPLICA_SIZE=3", "NPROC_PER_NODE=4", "SAFFRON_LOCAL_RANK=2"},
         .flags = {"--fixed-ports"},
         .want = {6, 12, 4, 2, 7602, 9102}},
        {.name = "the same by flags",
         .flags = {"--index=1", "--size=3", "--per-host=4", "--local-rank=2", "--fixed-ports"},
         .want = {6, 12, 4, 2, 7602, 9102}},
        {.name = "the last of the most",
         .env = {"REPLICA_INDEX=1023", "REPLICA_SIZE=1024", "NPROC_PER_NODE=64",
                 "SAFFRON_LOCAL_RANK=63"},
         .want = {65535, 65536, 64, 63, 0, 0}},
        {.name = "too many in all",
         .env = {"REPLICA_INDEX=0", "REPLICA_SIZE=1025", "NPROC_PER_NODE=64"},
         .status = 2},
        {.name = "65 on a host", .env = {"REPLICA_INDEX=0", "NPROC_PER_NODE=65"}, .status = 2},
        {.name = "none on a host", .env = {"REPLICA_INDEX=0", "NPROC_PER_NODE=0"}, .status = 2},
        {.name = "third of two",
         .env = {"REPLICA_INDEX=0", "NPROC_PER_NODE=2", "SAFFRON_LOCAL_RANK=2"},
         .status = 2},
        {.name = "host 3 of 3",
         .env = {"REPLICA_INDEX=3", "REPLICA_SIZE=3", "NPROC_PER_NODE=2"},
         .status = 2},
        {.name = "a rank where there is one",
         .env = {"REPLICA_INDEX=0", "SAFFRON_LOCAL_RANK=1"},
         .status = 2},
        {.name = "one port for two",
         .env = {"REPLICA_INDEX=0", "NPROC_PER_NODE=2"},
         .flags = {"--port=81"},
         .status = 2},
        {.name = "one admin port for two",
         .env = {"REPLICA_INDEX=0", "NPROC_PER_NODE=2"},
         .flags = {"--admin-port=81"},
         .status = 2},
        {.name = "two middlewares on a host",
         .env = {"REPLICA_INDEX=0", "NPROC_PER_NODE=2"},
         .one_only = true,
         .status = 2},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct place got;
        int status = parse(row[i].env, row[i].flags, !row[i].one_only, &got);

        if (status != row[i].status || memcmp(&got, &row[i].want, sizeof(got)) != 0)
            fail_msg("%s: status %d, %u of %u, %u of %u here, ports %u and %u", row[i].name, status,
                     got.index, got.size, got.local_rank, got.n_local, got.port, got.admin_port);
    }
}

static void folders(void **state)
{
    char top[TEMP_PATH_MAX], there[512], missing[512], file[512], below_file[520];
    const struct {
        const char *name, *run_dir, *checkpoint_dir;
        enum rt_role role;
        bool make;
        const char *says; /* NULL: fine */
    } row[] = {
        {"none", NULL, NULL, RT_ROLE_TRAINER, true, NULL},
        {"both there", there, there, RT_ROLE_TRAINER, true, NULL},
        {"run dir not there, to look at", missing, NULL, RT_ROLE_TRAINER, false, NULL},
        {"run dir below a file", below_file, NULL, RT_ROLE_DATA_COMPOSE, true, "SAFFRON_RUN_DIR"},
        {"run dir is a file", file, NULL, RT_ROLE_DATA_COMPOSE, false, "expected a folder"},
        {"no checkpoints", NULL, missing, RT_ROLE_EMBEDDING_SERVER, true, "SAFFRON_CHECKPOINT_DIR"},
        {"checkpoints in a file", NULL, file, RT_ROLE_TRAINER, true, "expected a folder"},
        {"who writes none", NULL, missing, RT_ROLE_MIDDLEWARE, true, NULL},
        {"run dir is made", missing, NULL, RT_ROLE_TRAINER, true, NULL},
    };

    (void)state;
    temp_folder(top);
    snprintf(there, sizeof(there), "%s/there", top);
    snprintf(missing, sizeof(missing), "%s/missing/deep", top);
    snprintf(file, sizeof(file), "%s/file", top);
    snprintf(below_file, sizeof(below_file), "%s/x", file);
    assert_int_equal(rt_mkdir_all(there), 0);
    assert_int_equal(rt_file_write(file, "", 0), 0);
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct rt_flags flags = {.run_dir = row[i].run_dir,
                                 .checkpoint_dir = row[i].checkpoint_dir};
        int err = rt_place_check(&flags, row[i].role, row[i].make);

        if (row[i].says ? err != RT_EUSAGE || !strstr(rt_err_text(), row[i].says) : err != 0)
            fail_msg("%s: %d, %s", row[i].name, err, err ? rt_err_text() : "no error");
    }
    assert_true(rt_file_exists(missing));
}

static void devices(void **state)
{
    static const struct {
        const char *list; /* NULL: the variable is not set */
        unsigned rank, n;
        const char *want; /* NULL: refused */
    } row[] = {
        {NULL, 0, 2, "0"},
        {NULL, 7, 8, "7"},
        {"", 1, 2, ""},
        {"3", 0, 1, "3"},
        {"3,7", 0, 2, "3"},
        {"3,7", 1, 2, "7"},
        {"GPU-aa,GPU-bb,GPU-cc", 1, 2, "GPU-bb"},
        {"3", 0, 2, NULL},
        {"3,,5", 1, 3, NULL},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        char got[CTL_DEVICE_MAX];
        int err = ctl_ranks_device(row[i].list, row[i].rank, row[i].n, got);

        if (row[i].want ? err != 0 || strcmp(got, row[i].want) != 0 : err != RT_EUSAGE)
            fail_msg("'%s', %u of %u: %d, '%s'", row[i].list ? row[i].list : "unset", row[i].rank,
                     row[i].n, err, err ? rt_err_text() : got);
    }
}

/* --restore=none is obeyed once: a pod that is started again has the same flags. */
static void none_is_obeyed_once(void **state)
{
    char dir[TEMP_PATH_MAX];
    struct rt_flags flags = {.from_scratch = true};
    struct checkpoint_spec spec = {
        .name = "old", .attempt = 1, .owners = 1, .rows = 5, .dense = 10, .run = 5};

    (void)state;
    temp_folder(dir);
    assert_false(rt_place_restores(&flags));
    flags.checkpoint_dir = dir;
    assert_false(rt_place_restores(&flags));
    assert_int_equal(checkpoint_bed_write(dir, &spec), 0);
    assert_false(rt_place_restores(&flags));
    spec.name = "new";
    spec.attempt = 2;
    spec.run = 6;
    spec.anew = true;
    assert_int_equal(checkpoint_bed_write(dir, &spec), 0);
    rt_log_set_level(RT_LOG_ERROR);
    assert_true(rt_place_restores(&flags));
    rt_log_set_level(RT_LOG_INFO);
    flags.checkpoint_dir = "/no/such/folder"; /* it says so itself when it is to go on */
    assert_true(rt_place_restores(&flags));
    flags.from_scratch = false;
    assert_true(rt_place_restores(&flags));
}

int main(void)
{
    const struct CMUnitTest test[] = {cmocka_unit_test(places), cmocka_unit_test(folders),
                                      cmocka_unit_test(devices),
                                      cmocka_unit_test(none_is_obeyed_once)};
    return cmocka_run_group_tests(test, NULL, NULL);
}
