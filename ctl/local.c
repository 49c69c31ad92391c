/* ctl/local.c -- the supervisor behind `saffron local`.
 *
 *   STARTING -start_roles-> RUNNING <-> SAVING (ctl/finish.h)
 *   any -begin_stop-> ASKING -> DRAINING -go_down-> STOPPING -all gone-> loop ends -> summary
 *
 * ASKING is one more round of questions, so that the summary of a run that fails tells how far it came; a run
 * that has succeeded was asked when it was done. DRAINING, of a run that its user stops: trainer/0 alone is told to end, so
 * that it can make a last checkpoint with the others' help.
 * One loop on the main thread: SIGCHLD (who ended, and how), signals of the user, news from the poll thread
 * (ctl/poll.h), the time limit. The run is a success when every trainer has said `done`; any end of a role
 * before that is the run's failure, told once (with --restart: ctl/roles.h), and everything else is stopped: SIGTERM, after 3 s
 * SIGKILL. nats-server is stopped last so that no role complains about it, and is started again if it dies
 * before that: it is not a role.
 * Roles read the same files with the same --set as the supervisor did; what they amount to is written into
 * the run directory. Rejected: to have the roles read that copy, since globs and models are found relative to
 * the job's own folder. */
#include "ctl/local.h"
#include "ctl/finish.h"
#include "ctl/inputs.h"
#include "ctl/nats.h"
#include "ctl/options.h"
#include "ctl/poll.h"
#include "ctl/progress.h"
#include "ctl/restore.h"
#include "ctl/roles.h"
#include "ctl/rundir.h"
#include "ctl/summary.h"
#include "ctl/trace.h"
#include "ctl/view.h"
#include "ctl/voids.h"
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "runtime/base/strbuf.h"
#include "runtime/job/job.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#define POLL_EVERY_MS 250
#define KILL_AFTER_MS 3000
#define LAST_ROUND_MS 600   /* for the answers of a run that fails; who is dead takes 500 of it */
#define DRAIN_MS      30000 /* for a last checkpoint, as a pod's grace */
#define SIGNALS       4

struct local {
    struct ctl_options options;
    struct rt_job *job;
    char *run_dir, *checkpoint_dir;
    int run_lock;                   /* of ctl_rundir_create() */
    struct ctl_restorable restored; /* what it goes on from */
    char *nats_job;                 /* the job's name in subjects */
    const char *nats_url;
    struct ctl_nats nats;
    struct ctl_roles roles;
    uv_loop_t loop;
    uv_signal_t on_signal[SIGNALS];
    uv_timer_t limit, last_round, drain, killer;
    struct ctl_poll *poll;
    struct ctl_progress progress;
    struct ctl_snapshot last; /* the newest round of answers */
    struct ctl_finish finish;
    struct ctl_voids voids;
    bool nats_away; /* it was said that NATS does not answer */
    bool by_user;   /* stopped by a signal */
    bool stopping, draining, going_down;
    int exit_code;
    char *error; /* NULL: none so far */
};

/* ---- stopping ---- */

/* When the roles are gone nats-server goes; when that is gone the loop ends. */
static void stop_next(struct local *local)
{
    if (ctl_roles_running(&local->roles) > 0)
        return;
    if (local->nats.child.pid != 0)
        ctl_child_signal(&local->nats.child, SIGTERM);
    else
        uv_stop(&local->loop);
}

static void on_kill_time(uv_timer_t *timer)
{
    struct local *local = timer->data;

    ctl_roles_signal(&local->roles, SIGKILL);
    ctl_child_signal(&local->nats.child, SIGKILL);
}

static void go_down(struct local *local)
{
    if (local->going_down)
        return;
    local->going_down = true;
    uv_timer_stop(&local->last_round);
    uv_timer_stop(&local->drain);
    if (local->poll)
        ctl_poll_cancel(local->poll);
    ctl_roles_signal(&local->roles, SIGTERM);
    uv_timer_start(&local->killer, on_kill_time, KILL_AFTER_MS, 0);
    stop_next(local);
}

static void on_drained(uv_timer_t *timer)
{
    go_down(timer->data);
}

static struct ctl_role *first_trainer(struct local *local)
{
    return ctl_roles_find(&local->roles, RT_ROLE_TRAINER, 0);
}

/* A user who stops a job may want to go on with it: trainer/0 is told first, and has all others for its last checkpoint. */
static void after_last_round(struct local *local)
{
    struct ctl_role *trainer = first_trainer(local);

    if (local->draining || local->going_down)
        return;
    if (!local->by_user || !trainer || trainer->child.pid == 0) {
        go_down(local);
        return;
    }
    local->draining = true;
    uv_timer_stop(&local->last_round);
    ctl_child_signal(&trainer->child, SIGTERM);
    uv_timer_start(&local->drain, on_drained, DRAIN_MS, 0);
}

static void on_last_round_over(uv_timer_t *timer)
{
    after_last_round(timer->data);
}

/* The first reason is the run's; `error` NULL is success. Takes the text. */
static void begin_stop(struct local *local, int exit_code, char *error)
{
    if (local->stopping) {
        rt_free(error);
        return;
    }
    local->stopping = true;
    ctl_roles_stop(&local->roles);
    ctl_nats_stop(&local->nats);
    local->exit_code = exit_code;
    local->error = error;
    ctl_progress_end(&local->progress);
    if (error)
        fprintf(stderr, "saffron local: %s\n", error);
    if (!error || !local->poll || ctl_roles_running(&local->roles) == 0) {
        go_down(local);
        return;
    }
    ctl_poll_now(local->poll);
    uv_timer_start(&local->last_round, on_last_round_over, LAST_ROUND_MS, 0);
}

/* ---- what happens ---- */

static void on_failed(void *ctx, int exit_code, char *why)
{
    begin_stop(ctx, exit_code, why);
}

/* It will be started again, and what it said is not true any more. */
static void on_role_ended(void *ctx, enum rt_role role, uint32_t index)
{
    struct local *local = ctx;

    ctl_snapshot_forget(&local->last, role, index);
    ctl_finish_not_yet(&local->finish, role == RT_ROLE_TRAINER && index == 0);
}

static void on_child_signal(struct local *local)
{
    ctl_roles_reap(&local->roles);
    ctl_nats_reap(&local->nats);
    if (local->draining && first_trainer(local)->child.pid == 0)
        go_down(local);
    if (local->stopping && ctl_roles_running(&local->roles) == 0)
        go_down(local);
    if (local->going_down)
        stop_next(local);
}

static void on_signal(uv_signal_t *handle, int signal)
{
    struct local *local = handle->data;

    if (signal == SIGCHLD) {
        on_child_signal(local);
    } else if (local->stopping) { /* asked twice */
        on_kill_time(&local->killer);
    } else {
        local->by_user = true;
        begin_stop(local, 128 + signal,
                   signal == SIGINT
                       ? rt_xstrdup("stopped by Ctrl-C")
                       : rt_xasprintf("stopped by signal %d (%s)", signal, strsignal(signal)));
    }
}

static void on_limit(uv_timer_t *timer)
{
    struct local *local = timer->data;
    char waiting[CTL_NATS_TEXT];

    if (local->last.nats[0])
        snprintf(waiting, sizeof(waiting), "%s", local->last.nats);
    else
        ctl_view_waiting(&local->last, waiting, sizeof(waiting));
    begin_stop(local, 1,
               rt_xasprintf("not done after %u s (--timeout)%s%s", local->options.timeout_s,
                            waiting[0] ? "; " : "", waiting));
}

/* A nats-server of our own that dies is told of elsewhere, and is back at once. */
static void tell_of_nats(struct local *local)
{
    bool away = local->last.nats[0] != '\0';

    if (!local->options.nats || away == local->nats_away)
        return;
    local->nats_away = away;
    if (away)
        ctl_progress_say(&local->progress, "%s; trying again", local->last.nats);
    else
        ctl_progress_say(&local->progress, "NATS answers");
}

/* ---- news ---- */

static void on_news(void *ctx, struct ctl_snapshot *snapshot)
{
    struct local *local = ctx;
    struct ctl_view view;
    char waiting[200], *error;
    int exit_code;

    if (local->going_down) {
        ctl_snapshot_release(snapshot);
        return;
    }
    ctl_roles_forget(&local->roles, snapshot);
    ctl_snapshot_keep(snapshot, &local->last);
    local->last = *snapshot;
    if (local->stopping) {
        after_last_round(local);
        return;
    }
    ctl_view_read(snapshot, &view);
    tell_of_nats(local);
    ctl_voids_look(&local->voids, snapshot, &local->progress);
    if (!local->finish.saving) {
        ctl_view_waiting(snapshot, waiting, sizeof(waiting));
        ctl_progress_show(&local->progress, &view, snapshot->nats[0] ? snapshot->nats : waiting);
    }
    if (ctl_finish_look(&local->finish, snapshot, &view, &exit_code, &error))
        begin_stop(local, exit_code, error);
}

/* ---- starting ---- */

/* One that is empty was left out. */
static const char *from_environment(const char *name)
{
    const char *text = getenv(name);

    return text && text[0] ? text : NULL;
}

static int start_roles(struct local *local)
{
    struct ctl_roles_conf conf = {
        .loop = &local->loop,
        .options = &local->options,
        .run_dir = local->run_dir,
        .job_name = local->job->name,
        .nats_url = local->nats_url,
        .nats_job = local->nats_job,
        .checkpoint_dir = local->checkpoint_dir,
        .progress = &local->progress,
        .ctx = local,
        .failed = on_failed,
        .ended = on_role_ended,
    };

    return ctl_roles_start(&local->roles, &conf);
}

static int start_poll(struct local *local)
{
    struct ctl_poll_conf conf = {
        .loop = &local->loop,
        .nats_url = local->nats_url,
        .job = local->nats_job,
        .every_ms = POLL_EVERY_MS,
        .ctx = local,
        .news = on_news,
    };
    int err;

    memcpy(conf.replicas, local->options.replicas, sizeof(conf.replicas));
    err = ctl_poll_start(&conf, &local->poll);
    local->finish = (struct ctl_finish){.options = &local->options,
                                        .job = local->job,
                                        .run_dir = local->run_dir,
                                        .roles = &local->roles,
                                        .poll = local->poll,
                                        .progress = &local->progress};
    return err;
}

static void start_loop(struct local *local)
{
    static const int wanted[SIGNALS] = {SIGCHLD, SIGINT, SIGTERM, SIGHUP};
    int err = uv_loop_init(&local->loop);

    rt_assert(err == 0);
    signal(SIGPIPE, SIG_IGN); /* a reader of our output may leave */
    for (int i = 0; i < SIGNALS; i++) {
        uv_signal_init(&local->loop, &local->on_signal[i]);
        local->on_signal[i].data = local;
        uv_signal_start(&local->on_signal[i], on_signal, wanted[i]);
    }
    uv_timer_init(&local->loop, &local->limit);
    uv_timer_init(&local->loop, &local->last_round);
    uv_timer_init(&local->loop, &local->drain);
    uv_timer_init(&local->loop, &local->killer);
    local->limit.data = local->last_round.data = local->drain.data = local;
    local->killer.data = local;
    if (local->options.timeout_s)
        uv_timer_start(&local->limit, on_limit, local->options.timeout_s * 1000ull, 0);
}

/* Somebody else's may come later: the roles and the poll thread keep trying. */
static int start_nats(struct local *local)
{
    struct ctl_nats_conf conf = {
        .loop = &local->loop,
        .run_dir = local->run_dir,
        .progress = &local->progress,
        .ctx = local,
        .failed = on_failed,
    };

    if (local->options.nats) {
        local->nats_url = local->options.nats;
        return 0;
    }
    local->nats_url = local->nats.url;
    return ctl_nats_start(&local->nats, &conf);
}

/* Who shares a NATS with others needs a name of its own there. The job keeps its name, by which its checkpoints know it. */
static char *name_on_nats(const struct local *local)
{
    if (!local->options.nats)
        return rt_xstrdup(local->job->name);
    return rt_xasprintf("%s-%llu-%ld", local->job->name, (unsigned long long)rt_wall_ms(),
                        (long)getpid());
}

/* That of the environment may be there already, and be of another job. */
static int check_begins_anew(const char *dir)
{
    struct ctl_restorable newest = {0};
    int err = 0;

    ctl_restore_newest(dir, &newest);
    if (newest.name)
        err = RT_FAIL(RT_EUSAGE,
                      "SAFFRON_CHECKPOINT_DIR %s: it holds checkpoints, the newest is %s; "
                      "--restore latest goes "
                      "on from it, or name another folder",
                      dir, newest.name);
    ctl_restorable_release(&newest);
    return err;
}

/* In which folder are they, and which one is the run to go on from? */
static int find_checkpoints(struct local *local)
{
    const struct ctl_options *options = &local->options;
    const char *named = from_environment("SAFFRON_CHECKPOINT_DIR");

    if (named)
        local->checkpoint_dir = rt_xstrdup(named);
    else if (options->run_dir)
        local->checkpoint_dir = rt_path_join(options->run_dir, "checkpoints");
    if (!options->restore)
        return named ? check_begins_anew(named) : 0;
    if (!local->checkpoint_dir)
        return RT_FAIL(RT_EUSAGE,
                       "--restore %s: of which run? give --run-dir, or SAFFRON_CHECKPOINT_DIR",
                       options->restore);
    return ctl_restore_choose(local->checkpoint_dir, options->restore, local->job, &local->progress,
                              &local->restored);
}

static int make_run_dir(struct local *local)
{
    const struct ctl_options *options = &local->options;
    int err = ctl_rundir_create(options->run_dir, local->job->name, options->restore,
                                &local->run_dir, &local->run_lock);

    if (!err && !local->checkpoint_dir)
        local->checkpoint_dir = rt_path_join(local->run_dir, "checkpoints");
    if (!err)
        err = rt_mkdir_all(local->checkpoint_dir);
    if (!err && options->restore)
        err = ctl_restore_go_back(local->checkpoint_dir, &local->restored, &local->progress);
    else if (!err && local->job->data.epochs > 0)
        err = ctl_restore_check_free(local->checkpoint_dir);
    return err;
}

/* Everything that can be wrong before a process is started is found here. */
static int prepare(struct local *local)
{
    struct ctl_run run = {.pid = (long)getpid()};
    int err = ctl_inputs_check(&local->options, &local->job);
    char *config;

    if (!err)
        err = find_checkpoints(local);
    if (!err)
        err = make_run_dir(local);
    if (err)
        return err;
    config = rt_path_join(local->run_dir, "config");
    err = rt_job_write(local->job, config);
    rt_free(config);
    if (err)
        return err;
    start_loop(local);
    local->nats_job = name_on_nats(local);
    err = start_nats(local);
    if (!err) {
        snprintf(run.job, sizeof(run.job), "%s", local->nats_job);
        snprintf(run.nats, sizeof(run.nats), "%s", local->nats_url);
        memcpy(run.replicas, local->options.replicas, sizeof(run.replicas));
        err = ctl_rundir_write(local->run_dir, &run);
    }
    return err;
}

/* ---- the end ---- */

static void close_handle(uv_handle_t *handle, void *arg)
{
    (void)arg;
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

static void close_loop(struct local *local)
{
    int err;

    ctl_poll_stop(local->poll);
    uv_walk(&local->loop, close_handle, NULL);
    uv_run(&local->loop, UV_RUN_DEFAULT);
    err = uv_loop_close(&local->loop);
    rt_assert(err == 0);
}

static void write_summary(struct local *local)
{
    struct ctl_restorable newest = {0};
    struct ctl_summary summary = {
        .job = local->job, .final = &local->last, .checkpoint = &newest, .error = local->error};

    ctl_restore_newest(local->checkpoint_dir, &newest);
    ctl_roles_sum(&local->roles, &summary);
    if (!local->error)
        ctl_summary_print(&summary, local->run_dir);
    if (ctl_summary_write(&summary, local->run_dir) != 0) {
        fprintf(stderr, "saffron local: %s\n", rt_err_text());
        if (local->exit_code == 0)
            local->exit_code = 1;
    } else if (local->error && !local->options.quiet) {
        fprintf(stderr, "saffron local: logs and summary are in %s%s%s\n", local->run_dir,
                newest.name ? "; --restore latest goes on from the checkpoint " : "",
                newest.name ? newest.name : "");
    }
    ctl_restorable_release(&newest);
}

/* Of a run that failed too: it may tell why. */
static void write_trace(struct local *local)
{
    size_t events, files;

    if (local->options.trace == 0)
        return;
    if (ctl_trace_merge(local->run_dir, &events, &files) != 0) {
        fprintf(stderr, "saffron local: %s\n", rt_err_text());
        if (local->exit_code == 0)
            local->exit_code = 1;
    } else {
        ctl_progress_say(&local->progress,
                         "%zu events of %zu processes: %s/trace.json, for ui.perfetto.dev", events,
                         files, local->run_dir);
    }
}

static void release(struct local *local)
{
    ctl_roles_release(&local->roles);
    ctl_child_release(&local->nats.child);
    ctl_snapshot_release(&local->last);
    ctl_options_release(&local->options);
    rt_job_destroy(local->job);
    rt_free(local->run_dir);
    rt_free(local->checkpoint_dir);
    ctl_restorable_release(&local->restored);
    if (local->run_lock > 0)
        close(local->run_lock);
    rt_free(local->nats_job);
    rt_free(local->error);
}

static void say_what_starts(struct local *local)
{
    struct rt_strbuf several;
    bool is_first = true;

    rt_strbuf_init(&several);
    for (int role = RT_ROLE_COUNT - 1; role >= 0; role--) {
        uint32_t n = local->options.replicas[role];

        if (n > 1)
            rt_strbuf_addf(&several, "%s%u %ss", is_first ? " with " : ", ", n,
                           rt_role_name((enum rt_role)role));
        is_first &= n == 1;
    }
    ctl_progress_say(&local->progress, "%s: %s %s%s; logs in %s/logs", local->job->name,
                     local->job->data.epochs ? "training" : "evaluating", local->job->model_name,
                     several.len ? several.text : "", local->run_dir);
    rt_strbuf_release(&several);
    if (local->job->global.mode == RT_MODE_ASYNC && local->options.replicas[RT_ROLE_TRAINER] > 1)
        ctl_progress_say(&local->progress,
                         "no checkpoints are made: in mode `async` each of several trainers has "
                         "weights of its own");
}

int ctl_local(int argc, char **argv)
{
    struct local local = {0};
    int err;

    ctl_options_parse(argc, argv, &local.options);
    unsetenv("NPROC_PER_NODE"); /* of a container: here every process has its place from us */
    unsetenv("SAFFRON_LOCAL_RANK");
    if (!local.options.data)
        local.options.data = getenv("SAFFRON_DATA_DIR");
    if (!local.options
             .init_from) /* the roles would see it, and begin with what nobody has looked at */
        local.options.init_from = from_environment("SAFFRON_INIT_FROM");
    if (!local.options.predict)
        local.options.predict = from_environment("SAFFRON_PREDICT");
    ctl_progress_init(&local.progress, local.options.quiet);
    err = prepare(&local);
    if (err && !local.nats_job) { /* no run yet: nothing to stop or to sum up */
        fprintf(stderr, "saffron local: %s\n", rt_err_text());
        release(&local);
        return rt_exit_code(err);
    }
    if (!err)
        say_what_starts(&local);
    if (!err)
        err = start_roles(&local);
    if (!err)
        err = start_poll(&local);
    if (err)
        begin_stop(&local, rt_exit_code(err), rt_xstrdup(rt_err_text()));
    uv_run(&local.loop, UV_RUN_DEFAULT);
    close_loop(&local);
    write_summary(&local);
    write_trace(&local);
    err = local.exit_code;
    release(&local);
    return err;
}
