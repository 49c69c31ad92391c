/* runtime/process/place.c -- ports and folders of a process. */
#include "runtime/process/place.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/checkpoint/store.h"
#include "runtime/member/bus.h"
#include "runtime/process/address.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LISTEN_MAX 96

/* Processes of one host have their ports side by side. */
static uint32_t base_port(const struct rt_global_conf *global, enum rt_role role)
{
    switch (role) {
    case RT_ROLE_MIDDLEWARE:
        return global->port_middleware;
    case RT_ROLE_EMBEDDING_SERVER:
        return global->port_embedding_server;
    case RT_ROLE_TRAINER:
        return global->port_trainer;
    default:
        return 0;
    }
}

uint32_t rt_place_port(const struct rt_flags *flags, const struct rt_job *job, enum rt_role role)
{
    uint32_t base = base_port(&job->global, role);

    if (flags->port >= 0)
        return (uint32_t)flags->port;
    return flags->fixed_ports && base ? base + flags->local_rank : 0;
}

uint32_t rt_place_admin_port(const struct rt_flags *flags, const struct rt_job *job)
{
    if (flags->admin_port >= 0)
        return (uint32_t)flags->admin_port;
    return flags->fixed_ports ? job->global.port_admin + flags->local_rank : 0;
}

/* A mount that is not there or is read-only is found now, not when something is to be written. */
static int check_folder(const char *what, const char *path)
{
    struct stat st;

    if (stat(path, &st) != 0)
        return RT_FAIL(RT_EUSAGE, "%s: %s: %s", what, path, strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return RT_FAIL(RT_EUSAGE, "%s: %s: expected a folder", what, path);
    if (access(path, W_OK | X_OK) != 0)
        return RT_FAIL(RT_EUSAGE, "%s: %s: cannot be written to: %s", what, path, strerror(errno));
    return 0;
}

int rt_place_check(const struct rt_flags *flags, enum rt_role role, bool make)
{
    static const char run_dir[] = "--run-dir (or SAFFRON_RUN_DIR)";
    bool saves = role == RT_ROLE_TRAINER || role == RT_ROLE_EMBEDDING_SERVER;
    int err = 0;

    if (flags->run_dir && make && rt_mkdir_all(flags->run_dir) != 0)
        return RT_FAIL(RT_EUSAGE, "%s: %s", run_dir, rt_err_text());
    if (flags->run_dir && (make || rt_file_exists(flags->run_dir)))
        err = check_folder(run_dir, flags->run_dir);
    if (!err && flags->checkpoint_dir && saves)
        err = check_folder("--checkpoint-dir (or SAFFRON_CHECKPOINT_DIR)", flags->checkpoint_dir);
    return err;
}

/* A pod that is started again has the flags of the first time. Where nobody can read the folder nothing is begun beside it: going
 * on fails, and says why. */
bool rt_place_restores(const struct rt_flags *flags)
{
    int anew;

    if (!flags->checkpoint_dir || !flags->from_scratch)
        return flags->checkpoint_dir != NULL;
    anew = rt_store_begun_anew(flags->checkpoint_dir);
    if (anew > 0)
        rt_log(RT_LOG_WARN,
               "restore_none_obeyed_before dir=%s reason=\"the run that began so has made "
               "checkpoints: it goes on from the newest\"",
               flags->checkpoint_dir);
    return anew != 0;
}

static void print_port(const char *what, const char *bind, uint32_t port)
{
    char text[LISTEN_MAX];

    rt_address_join(bind, port, text, sizeof(text));
    if (port)
        printf("  %-12s %s\n", what, text);
    else
        printf("  %-12s %s, a free port\n", what, bind);
}

static void print_folder(const char *what, const char *path)
{
    printf("  %-12s %s\n", what, path ? path : "none");
}

void rt_place_print(const struct rt_flags *flags, const struct rt_job *job, enum rt_role role)
{
    char url[RT_BUS_URL_MAX];

    printf("process %s/%u of %u", rt_role_name(role), flags->index, flags->size);
    if (flags->n_local > 1)
        printf(", number %u of the %u on this host", flags->local_rank, flags->n_local);
    printf("\n");
    print_folder("NATS", rt_bus_shown_url(flags->nats, url, sizeof(url)));
    if (role != RT_ROLE_DATA_COMPOSE) /* it calls, and is not called */
        print_port("data plane", flags->bind, rt_place_port(flags, job, role));
    print_port("admin", flags->bind, rt_place_admin_port(flags, job));
    print_folder("run dir", flags->run_dir);
    print_folder("checkpoints", flags->checkpoint_dir);
    if (flags->init_from)
        print_folder("begins with", flags->init_from);
    if (flags->predict)
        print_folder("predictions", flags->predict);
}
