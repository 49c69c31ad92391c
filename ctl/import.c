/* ctl/import.c -- see import.h.
 *
 *   CHECK  trainer/0 and all servers read the model, and complain        nothing has changed: any error ends it here
 *   HOLD   trainer/0 makes no more steps, until no gradient is on its way
 *   LOAD   told to trainer/0 first, then servers load rows               from here on an error ends the job
 *   TAKE   trainer/0 takes the dense weights; training goes on
 *
 * Each round asks for the stage that is due, tells trainer/0 that we are there still, and reads in the status who is done with it:
 * so it does not matter which questions or answers are lost. */
#include "ctl/import.h"
#include "ctl/poll.h"
#include "ctl/target.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "runtime/checkpoint/manifest.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define CONNECT_TIMEOUT_MS 3000
#define ASK_TIMEOUT_MS     500
#define PAUSE_NS           (100 * RT_MS)
#define STILL_MS           60000 /* without getting on: it has failed */

struct importing {
    struct ctl_target target;
    struct rt_control_client *client;
    const char *arg; /* the folder, as it was given */
    char dir[PATH_MAX];
    uint32_t flags;
    uint64_t number;
    uint32_t stage;   /* enum wire_import_stage that is due */
    bool told;        /* trainer/0 is in it: servers may be asked for LOAD */
    uint64_t rows;    /* read so far, by all servers */
    uint64_t more_ns; /* when it got on */
    char refused[256];
};

static void on_reply(void *ctx, const struct wire_control_reply *reply)
{
    struct importing *importing = ctx;

    if (reply->status != 0 && reply->status != RT_ENOTREADY &&
        (unsigned)reply->role < RT_ROLE_COUNT)
        snprintf(importing->refused, sizeof(importing->refused), "%s/%u: %s",
                 rt_role_name(reply->role), reply->index, reply->text ? reply->text : "refused");
}

static void tell(struct importing *importing, enum rt_role role, uint32_t stage, const char *text)
{
    uint32_t n = role == RT_ROLE_TRAINER ? 1 : importing->target.run.replicas[role];
    const uint32_t first = 0;
    struct wire_control_request request = {.id = rt_now_ns(),
                                           .ttl_ms = ASK_TIMEOUT_MS,
                                           .command = WIRE_CTL_IMPORT,
                                           .text = text,
                                           .number = (double)importing->number,
                                           .flags = importing->flags,
                                           .stage = stage};

    rt_control_ask(importing->client, importing->target.run.job, role,
                   role == RT_ROLE_TRAINER ? &first : NULL, &request, ASK_TIMEOUT_MS, n, importing,
                   on_reply);
}

/* How far a process is with this import. false: it does not tell of it, or not of this stage. */
static bool is_done(struct importing *importing, const json_t *status, enum rt_role role,
                    size_t index)
{
    const json_t *import = json_object_get(status, "import");
    const char *state = json_string_value(json_object_get(import, "state"));
    const char *error = json_string_value(json_object_get(import, "error"));
    json_int_t stage = json_integer_value(json_object_get(import, "stage"));
    bool ours =
        (uint64_t)json_integer_value(json_object_get(import, "number")) == importing->number;

    if (json_is_object(status) && !ours && importing->stage == WIRE_IMPORT_LOAD && importing->told)
        snprintf(importing->refused, sizeof(importing->refused), "%s/%zu has been started again",
                 rt_role_name(role), index);
    if (!ours || !state)
        return false;
    if (strcmp(state, "failed") == 0)
        snprintf(importing->refused, sizeof(importing->refused), "%s/%zu: %s", rt_role_name(role),
                 index, error && *error ? error : "it does not say why");
    importing->rows += (uint64_t)json_integer_value(json_object_get(import, "rows"));
    return stage >= (json_int_t)importing->stage && strcmp(state, "done") == 0;
}

static bool servers_done(struct importing *importing, const struct ctl_snapshot *snapshot)
{
    const json_t *servers = snapshot->role[RT_ROLE_EMBEDDING_SERVER];
    bool all = json_array_size(servers) > 0;

    for (size_t i = 0; i < json_array_size(servers); i++)
        all &= is_done(importing, json_array_get(servers, i), RT_ROLE_EMBEDDING_SERVER, i);
    return all;
}

static bool asks_servers(const struct importing *importing)
{
    return importing->stage == WIRE_IMPORT_CHECK ||
           (importing->stage == WIRE_IMPORT_LOAD && importing->told);
}

/* One round of questions. @return the stage is done, everywhere. */
static bool ask(struct importing *importing)
{
    const struct ctl_run *run = &importing->target.run;
    struct ctl_snapshot snapshot = {0};
    uint64_t before = importing->rows;
    bool servers = asks_servers(importing), done;

    if (!importing->client &&
        rt_control_connect(run->nats, CONNECT_TIMEOUT_MS, &importing->client) != 0)
        return false;
    tell(importing, RT_ROLE_TRAINER, importing->stage, importing->dir);
    if (servers)
        tell(importing, RT_ROLE_EMBEDDING_SERVER, importing->stage, importing->dir);
    ctl_snapshot_ask(importing->client, run->job, RT_ROLE_TRAINER, 1, &snapshot);
    ctl_snapshot_ask(importing->client, run->job, RT_ROLE_EMBEDDING_SERVER,
                     run->replicas[RT_ROLE_EMBEDDING_SERVER], &snapshot);
    importing->rows = 0;
    done =
        is_done(importing, json_array_get(snapshot.role[RT_ROLE_TRAINER], 0), RT_ROLE_TRAINER, 0);
    if (importing->stage == WIRE_IMPORT_LOAD && !importing->told && done) {
        importing->told = true;
        done = false;
    }
    if (servers)
        done &= servers_done(importing, &snapshot);
    if (importing->rows != before)
        importing->more_ns = rt_now_ns();
    if (snapshot.silent == 1 + run->replicas[RT_ROLE_EMBEDDING_SERVER]) {
        rt_control_close(importing->client); /* NATS may have been away: another one next time */
        importing->client = NULL;
    }
    ctl_snapshot_release(&snapshot);
    return done && !importing->refused[0];
}

/* A stage to its end. */
static int go_through(struct importing *importing)
{
    const struct timespec pause = {.tv_nsec = PAUSE_NS};

    importing->more_ns = rt_now_ns();
    while (!ask(importing)) {
        if (importing->refused[0])
            return RT_FAIL(RT_EFILE, "%s", importing->refused);
        if (rt_now_ns() - importing->more_ns > STILL_MS * RT_MS)
            return RT_FAIL(RT_EDEADLINE, "it does not get on for %d s", STILL_MS / 1000);
        nanosleep(&pause, NULL);
    }
    return 0;
}

static int run(struct importing *importing)
{
    static const char *const end[] = {[WIRE_IMPORT_CHECK] = "the job goes on without it",
                                      [WIRE_IMPORT_HOLD] = "the job goes on without it",
                                      [WIRE_IMPORT_LOAD] = "the job ends, for rows had changed",
                                      [WIRE_IMPORT_TAKE] = "see the log of trainer/0"};
    char why[WIRE_TEXT_MAX + 1];
    int err = 0;

    importing->number = rt_wall_ms();
    importing->stage = WIRE_IMPORT_CHECK;
    while (!(err = go_through(importing)) && importing->stage < WIRE_IMPORT_TAKE)
        importing->stage++;
    if (!err)
        return 0;
    snprintf(why, sizeof(why), "%s", rt_err_text());
    if (importing->client && importing->stage < WIRE_IMPORT_TAKE)
        tell(importing, RT_ROLE_TRAINER, WIRE_IMPORT_FAIL, why);
    return RT_FAIL(err, "the model was not imported, %s: %s", end[importing->stage], why);
}

/* ---- the command ---- */

enum option_key { KEY_REPLACE = 512, KEY_FRESH };

static const struct argp_option option[] = {
    {"replace", KEY_REPLACE, NULL, 0,
     "forget the rows that the model has not; without it they stay as they are", 0},
    {"fresh-state", KEY_FRESH, NULL, 0,
     "optimizers begin anew, whatever state was saved with the model", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct importing *importing = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &importing->target;
        break;
    case KEY_REPLACE:
        importing->flags |= WIRE_CTL_REPLACE;
        break;
    case KEY_FRESH:
        importing->flags |= WIRE_CTL_FRESH;
        break;
    case ARGP_KEY_ARG:
        if (importing->arg)
            return ARGP_ERR_UNKNOWN;
        importing->arg = arg;
        break;
    case ARGP_KEY_END:
        if (!importing->arg)
            argp_error(state, "expected the folder of a saved model");
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

/* A checkpoint's rows are in files of another kind. It may be a folder that is not seen from here. */
static int check_kind(const char *dir)
{
    char *path = rt_path_join(dir, RT_MANIFEST_NAME);
    bool checkpoint = rt_file_exists(path);

    rt_free(path);
    if (!checkpoint)
        return 0;
    return RT_FAIL(RT_EUSAGE,
                   "%s: is a checkpoint, expected a saved model; make one of it: saffron export "
                   "CHECKPOINT FOLDER",
                   dir);
}

/* As the job's processes name it: where it is here, or a path of theirs. */
static int take_folder(struct importing *importing)
{
    char here[PATH_MAX] = "";
    bool whole = importing->arg[0] == '/';

    if (!whole && !getcwd(here, sizeof(here)))
        return RT_FAIL(RT_EFILE, "the current folder has no name");
    if (snprintf(importing->dir, sizeof(importing->dir), "%s%s%s", here, whole ? "" : "/",
                 importing->arg) > (int)WIRE_TEXT_MAX)
        return RT_FAIL(RT_EUSAGE, "%s: expected a path of at most %u bytes", importing->arg,
                       WIRE_TEXT_MAX);
    return check_kind(importing->dir);
}

static int find_target(int argc, char **argv, struct importing *importing)
{
    const struct argp_child child[] = {{.argp = &ctl_target_argp}, {0}};
    const struct argp argp = {
        .options = option,
        .parser = parse,
        .args_doc = "DIR",
        .children = child,
        .doc = "Load a saved model into a running job, between two steps: dense weights, rows, and "
               "the optimizers' state if it was saved. All of it is read and checked before "
               "anything changes."};
    int err;

    ctl_target_begin(&importing->target);
    argp_parse(&argp, argc, argv, 0, NULL, importing);
    err = ctl_target_end(&importing->target);
    return err ? err : take_folder(importing);
}

static int connect_and_run(struct importing *importing)
{
    struct ctl_target *target = &importing->target;
    int err = rt_control_connect(target->run.nats, CONNECT_TIMEOUT_MS, &importing->client);

    if (!err)
        err = ctl_target_count(target, importing->client, RT_ROLE_TRAINER);
    if (!err)
        err = ctl_target_count(target, importing->client, RT_ROLE_EMBEDDING_SERVER);
    if (err)
        return ctl_target_complain(err);
    if (target->run.replicas[RT_ROLE_TRAINER] == 0 ||
        target->run.replicas[RT_ROLE_EMBEDDING_SERVER] == 0)
        return ctl_target_nobody(target);
    err = run(importing);
    if (err)
        return ctl_target_complain(err);
    printf("imported: %s\n", importing->dir);
    return 0;
}

int ctl_import(int argc, char **argv)
{
    struct importing importing = {0};
    int status, err = find_target(argc, argv, &importing);

    if (err)
        return ctl_target_complain(err);
    status = connect_and_run(&importing);
    if (importing.client)
        rt_control_close(importing.client);
    return status;
}
