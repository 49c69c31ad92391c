/* ctl/export.c -- see export.h.
 *
 * The processes write, each into a folder of its own run directory, of a name that is new with each exporting. They are asked again
 * and again, and their status tells how far they are, so it does not matter which answers are lost (ctl/save.h). */
#include "ctl/export.h"
#include "ctl/amount.h"
#include "ctl/save.h"
#include "ctl/target.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"

#include <stdio.h>
#include <time.h>

#define CONNECT_TIMEOUT_MS 3000
#define ASK_TIMEOUT_MS     500
#define PAUSE_NS           (250 * RT_MS)
#define NAME_MAX_BYTES     64

enum option_key { KEY_STATE = 512 };

struct exporting {
    struct ctl_target target;
    struct rt_control_client *client;
    char name[NAME_MAX_BYTES];
    uint64_t number; /* of the save: when it was asked for */
    bool with_state;
    struct ctl_saved saved;
    uint64_t more_ns; /* when its bytes became more */
};

/* One round of questions. When nobody answers NATS may have been away, and its client does not come back: the next round
 * makes another. */
static void ask(struct exporting *exporting, struct ctl_snapshot *snapshot)
{
    const struct ctl_run *run = &exporting->target.run;
    uint32_t trainers = run->replicas[RT_ROLE_TRAINER];
    uint32_t servers = run->replicas[RT_ROLE_EMBEDDING_SERVER];

    if (!exporting->client &&
        rt_control_connect(run->nats, CONNECT_TIMEOUT_MS, &exporting->client) != 0) {
        snprintf(snapshot->nats, sizeof(snapshot->nats), "%s", rt_err_text());
        return;
    }
    const struct ctl_save save = {.name = exporting->name,
                                  .number = exporting->number,
                                  .servers = servers,
                                  .with_state = exporting->with_state};

    ctl_save_ask(exporting->client, run->job, &save, snapshot);
    ctl_snapshot_ask(exporting->client, run->job, RT_ROLE_TRAINER, trainers, snapshot);
    ctl_snapshot_ask(exporting->client, run->job, RT_ROLE_EMBEDDING_SERVER, servers, snapshot);
    if (snapshot->silent == trainers + servers) {
        rt_control_close(exporting->client);
        exporting->client = NULL;
    }
}

static int still(const struct exporting *exporting, const struct ctl_snapshot *snapshot)
{
    if (snapshot->nats[0])
        return RT_FAIL(RT_EDEADLINE, "the model was not saved: NATS is away for %d s: %s",
                       CTL_SAVE_STILL_MS / 1000, snapshot->nats);
    return RT_FAIL(RT_EDEADLINE,
                   "the model was not saved: nothing more of it was written for %d s by %u "
                   "processes%s%s",
                   CTL_SAVE_STILL_MS / 1000, exporting->saved.writing,
                   exporting->saved.silent[0] ? "; no answer from " : "", exporting->saved.silent);
}

/* One round. 0: not at the end; 1: done. */
static int go_on(struct exporting *exporting)
{
    struct ctl_snapshot snapshot = {0};
    uint64_t before = exporting->saved.bytes;
    int rc = 0;

    ask(exporting, &snapshot);
    if (!snapshot.nats[0])
        ctl_save_read(&snapshot, exporting->name, true, &exporting->saved);
    if (exporting->saved.bytes != before)
        exporting->more_ns = rt_now_ns();
    if (exporting->saved.error[0] || snapshot.save[0])
        rc = RT_FAIL(RT_EFILE, "the model was not saved: %s",
                     exporting->saved.error[0] ? exporting->saved.error : snapshot.save);
    else if (!snapshot.nats[0] && exporting->saved.writing == 0)
        rc = 1;
    else if (rt_now_ns() - exporting->more_ns > CTL_SAVE_STILL_MS * RT_MS)
        rc = still(exporting, &snapshot);
    ctl_snapshot_release(&snapshot);
    return rc;
}

/* New, for a save of the same name would be taken for the one that is there. */
static void choose_name(char name[NAME_MAX_BYTES], uint64_t now_ms)
{
    time_t now = (time_t)(now_ms / 1000);
    struct tm local;
    size_t n;

    localtime_r(&now, &local);
    n = strftime(name, NAME_MAX_BYTES, "export-%Y%m%d-%H%M%S", &local);
    snprintf(name + n, NAME_MAX_BYTES - n, "-%03u", (unsigned)(now_ms % 1000));
}

static int run(struct exporting *exporting)
{
    const struct timespec pause = {.tv_nsec = PAUSE_NS};
    int rc;

    exporting->number = rt_wall_ms();
    choose_name(exporting->name, exporting->number);
    exporting->more_ns = rt_now_ns();
    while ((rc = go_on(exporting)) == 0)
        nanosleep(&pause, NULL);
    return rc < 0 ? rc : 0;
}

static void print(const struct exporting *exporting)
{
    const char *dir = exporting->target.run_dir;
    char bytes[CTL_AMOUNT_MAX];

    printf("the model: %s in %llu files of %s/%s\n",
           ctl_amount((double)exporting->saved.bytes, "B", bytes),
           (unsigned long long)exporting->saved.files, dir ? dir : "RUN-DIR", exporting->name);
}

static const struct argp_option option[] = {
    {"state", KEY_STATE, NULL, 0,
     "the optimizers' state too, so that a job that begins with the model goes on where this one "
     "is",
     0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct exporting *exporting = state->input;

    (void)arg;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &exporting->target;
        break;
    case KEY_STATE:
        exporting->with_state = true;
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static int find_target(int argc, char **argv, struct exporting *exporting)
{
    const struct argp_child child[] = {{.argp = &ctl_target_argp}, {0}};
    const struct argp argp = {
        .options = option,
        .parser = parse,
        .children = child,
        .doc = "Save the model of a running job, while it trains: each process into a folder of "
               "its run directory, export-TIME."};

    ctl_target_begin(&exporting->target);
    argp_parse(&argp, argc, argv, 0, NULL, exporting);
    return ctl_target_end(&exporting->target);
}

int ctl_export(int argc, char **argv)
{
    struct exporting exporting = {0};
    const uint32_t *replicas = exporting.target.run.replicas;
    int err = find_target(argc, argv, &exporting);

    if (!err)
        err = rt_control_connect(exporting.target.run.nats, CONNECT_TIMEOUT_MS, &exporting.client);
    if (err)
        return ctl_target_complain(err);
    err = ctl_target_count(&exporting.target, exporting.client, RT_ROLE_TRAINER);
    if (!err)
        err = ctl_target_count(&exporting.target, exporting.client, RT_ROLE_EMBEDDING_SERVER);
    if (err) {
        rt_control_close(exporting.client);
        return ctl_target_complain(err);
    }
    if (replicas[RT_ROLE_TRAINER] == 0 || replicas[RT_ROLE_EMBEDDING_SERVER] == 0) {
        rt_control_close(exporting.client);
        return ctl_target_nobody(&exporting.target);
    }
    err = run(&exporting);
    if (exporting.client)
        rt_control_close(exporting.client);
    if (err)
        return ctl_target_complain(err);
    print(&exporting);
    return 0;
}
