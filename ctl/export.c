/* ctl/export.c -- see export.h. Of a checkpoint: export_checkpoint.c.
 *
 * The processes write, each into a folder of its own run directory, of a name that is new with each exporting. They are asked again
 * and again, and their status tells how far they are, so it does not matter which answers are lost (ctl/save.h). */
#include "ctl/export.h"
#include "ctl/amount.h"
#include "ctl/checkpoints.h"
#include "ctl/export_checkpoint.h"
#include "ctl/fold.h"
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

enum option_key { KEY_STATE = 512, KEY_MEMORY };

struct exporting {
    struct ctl_target target;
    struct ctl_words words; /* a checkpoint and a folder; none: of a running job */
    double memory;          /* bytes of rows, of a checkpoint */
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
    {"memory", KEY_MEMORY, "BYTES", 0,
     "of a checkpoint: of rows at a time (default " CTL_FOLD_MEMORY
     "); with less its files are read more often",
     0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct exporting *exporting = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &exporting->words;
        state->child_inputs[1] = &exporting->target;
        break;
    case KEY_STATE:
        exporting->with_state = true;
        break;
    case KEY_MEMORY:
        ctl_fold_memory_option(state, arg, &exporting->memory);
        break;
    case ARGP_KEY_END:
        if (exporting->words.n == 1)
            argp_error(state, "expected %s", exporting->words.expected);
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static int find_target(int argc, char **argv, struct exporting *exporting)
{
    const struct argp_child child[] = {{.argp = &ctl_words_argp}, {.argp = &ctl_target_argp}, {0}};
    const struct argp argp = {
        .options = option,
        .parser = parse,
        .args_doc = "[CHECKPOINT FOLDER]",
        .children = child,
        .doc =
            "Save the model of a running job, while it trains: each process into a folder of "
            "its run directory, export-TIME. Or make a saved model of a checkpoint, whose folder "
            "CHECKPOINT is, in a new FOLDER; no job is asked then."};

    ctl_target_begin(&exporting->target);
    exporting->words = (struct ctl_words){.expected = "CHECKPOINT FOLDER", .most = 2};
    exporting->memory = CTL_FOLD_MEMORY_BYTES;
    argp_parse(&argp, argc, argv, 0, NULL, exporting);
    return exporting->words.n > 0 ? 0 : ctl_target_end(&exporting->target);
}

/* Of the job that was found. */
static int export_job(struct exporting *exporting)
{
    const uint32_t *replicas = exporting->target.run.replicas;
    int err =
        rt_control_connect(exporting->target.run.nats, CONNECT_TIMEOUT_MS, &exporting->client);

    if (!err)
        err = ctl_target_count(&exporting->target, exporting->client, RT_ROLE_TRAINER);
    if (!err)
        err = ctl_target_count(&exporting->target, exporting->client, RT_ROLE_EMBEDDING_SERVER);
    if (err)
        return ctl_target_complain(err);
    if (replicas[RT_ROLE_TRAINER] == 0 || replicas[RT_ROLE_EMBEDDING_SERVER] == 0)
        return ctl_target_nobody(&exporting->target);
    err = run(exporting);
    if (err)
        return ctl_target_complain(err);
    print(exporting);
    return 0;
}

static int export_checkpoint(const struct exporting *exporting)
{
    const struct ctl_export_checkpoint what = {.checkpoint = exporting->words.word[0],
                                               .folder = exporting->words.word[1],
                                               .with_state = exporting->with_state,
                                               .memory = exporting->memory};
    int err = ctl_export_checkpoint(&what);

    return err ? ctl_target_complain(err) : 0;
}

int ctl_export(int argc, char **argv)
{
    struct exporting exporting = {0};
    int status, err = find_target(argc, argv, &exporting);

    if (err)
        return ctl_target_complain(err);
    if (exporting.words.n > 0)
        return export_checkpoint(&exporting);
    status = export_job(&exporting);
    if (exporting.client)
        rt_control_close(exporting.client);
    return status;
}
