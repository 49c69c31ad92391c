/* ctl/local.c -- the supervisor behind `saffron local`.
 *
 *   STARTING -start_roles-> RUNNING -begin_save-> SAVING -begin_stop-> ASKING -go_down-> STOPPING -all gone-> loop ends
 *   -> summary
 *
 * SAVING: all trainers are done, and the model goes into the run directory, as global.save wants it: as long as that takes,
 * but not without getting on. The summary is the same whether that succeeds or not, but for the error.
 * ASKING is one more round of questions, so that the summary of a run that fails tells how far it came; a run
 * that has succeeded was asked when it was done.
 * One loop on the main thread: SIGCHLD (who ended, and how), signals of the user, news from the poll thread
 * (ctl/poll.h), the time limit. The run is a success when every trainer has said `done`; any end of a role
 * before that is the run's failure, told once, and everything else is stopped: SIGTERM, after 3 s
 * SIGKILL. nats-server is stopped last so that no role complains about it, and is started again if it dies
 * before that: it is not a role.
 * Roles read the same files with the same --set as the supervisor did; what they amount to is written into
 * the run directory. Rejected: to have the roles read that copy, since globs and models are found relative to
 * the job's own folder. */
#include "ctl/local.h"
#include "ctl/amount.h"
#include "ctl/check.h"
#include "ctl/child.h"
#include "ctl/nats.h"
#include "ctl/options.h"
#include "ctl/poll.h"
#include "ctl/program.h"
#include "ctl/progress.h"
#include "ctl/rundir.h"
#include "ctl/save.h"
#include "ctl/summary.h"
#include "ctl/trace.h"
#include "ctl/view.h"
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "runtime/base/strbuf.h"
#include "runtime/job/job.h"
#include "runtime/job/save.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>

#define POLL_EVERY_MS  250
#define KILL_AFTER_MS  3000
#define ANSWER_ROUNDS  20   /* rounds that a finished job waits for roles that do not answer */
#define NATS_QUICK_MS  1000 /* nats-server ends sooner than this: it cannot run here, most likely */
#define NATS_QUICK_MAX 20   /* such ends in a row: the run fails */
#define NATS_PAUSE_MS  200  /* before it is started after one */
#define LAST_ROUND_MS  600  /* for the answers of a run that fails; who is dead takes 500 of it */
#define SIGNALS        4

struct local {
    struct ctl_options options;
    struct rt_job *job;
    char *run_dir;
    char *job_name; /* in subjects */
    const char *nats_url;
    struct ctl_nats nats;
    struct ctl_child *role; /* [n_roles], in the order of starting */
    enum rt_role *role_of;  /* [n_roles] */
    size_t n_roles;
    uv_loop_t loop;
    uv_signal_t on_signal[SIGNALS];
    uv_timer_t limit, last_round, killer, nats_again;
    struct ctl_poll *poll;
    struct ctl_progress progress;
    struct ctl_snapshot last; /* the newest round of answers */
    uint32_t rounds_done;     /* rounds since the first trainer said done */
    uint32_t nats_quick;      /* ends of nats-server in a row that came soon after its start */
    uint64_t nats_started_ns;
    bool saving;
    uint64_t saved_bytes, saved_ns; /* of the model, and when that became more */
    bool nats_away;                 /* it was said that NATS does not answer */
    bool stopping, going_down;
    int exit_code;
    char *error; /* NULL: none so far */
};

/* ---- stopping ---- */

static size_t n_running(const struct local *local)
{
    size_t n = 0;

    for (size_t i = 0; i < local->n_roles; i++)
        n += local->role[i].pid != 0;
    return n;
}

static void signal_roles(struct local *local, int signal)
{
    for (size_t i = 0; i < local->n_roles; i++)
        ctl_child_signal(&local->role[i], signal);
}

/* When the roles are gone nats-server goes; when that is gone the loop ends. */
static void stop_next(struct local *local)
{
    if (n_running(local) > 0)
        return;
    if (local->nats.child.pid != 0)
        ctl_child_signal(&local->nats.child, SIGTERM);
    else
        uv_stop(&local->loop);
}

static void on_kill_time(uv_timer_t *timer)
{
    struct local *local = timer->data;

    signal_roles(local, SIGKILL);
    ctl_child_signal(&local->nats.child, SIGKILL);
}

static void go_down(struct local *local)
{
    if (local->going_down)
        return;
    local->going_down = true;
    uv_timer_stop(&local->last_round);
    if (local->poll)
        ctl_poll_cancel(local->poll);
    signal_roles(local, SIGTERM);
    uv_timer_start(&local->killer, on_kill_time, KILL_AFTER_MS, 0);
    stop_next(local);
}

static void on_last_round_over(uv_timer_t *timer)
{
    go_down(timer->data);
}

/* The first reason is the run's; `error` NULL is success. Takes the text. */
static void begin_stop(struct local *local, int exit_code, char *error)
{
    if (local->stopping) {
        rt_free(error);
        return;
    }
    local->stopping = true;
    local->exit_code = exit_code;
    local->error = error;
    ctl_progress_end(&local->progress);
    if (error)
        fprintf(stderr, "saffron local: %s\n", error);
    if (!error || !local->poll || n_running(local) == 0) {
        go_down(local);
        return;
    }
    ctl_poll_now(local->poll);
    uv_timer_start(&local->last_round, on_last_round_over, LAST_ROUND_MS, 0);
}

/* ---- what happens ---- */

static void on_nats_again(uv_timer_t *timer)
{
    struct local *local = timer->data;

    local->nats_started_ns = rt_now_ns();
    if (!local->stopping && ctl_child_start(&local->nats.child) != 0)
        begin_stop(local, 1, rt_xasprintf("nats-server: %s", rt_err_text()));
}

/* It may be killed as often as somebody likes. What ends the run is a server that cannot stay up. */
static void nats_ended(struct local *local)
{
    bool quick = rt_now_ns() - local->nats_started_ns < NATS_QUICK_MS * RT_MS;
    char how[80];

    if (local->stopping)
        return;
    ctl_child_how(&local->nats.child, how, sizeof(how));
    local->nats_quick = quick ? local->nats_quick + 1 : 0;
    if (local->nats_quick > NATS_QUICK_MAX) {
        begin_stop(local, 1,
                   rt_xasprintf("nats-server %s, %u times in a row within %d ms of its start; its "
                                "log: %s",
                                how, local->nats_quick, NATS_QUICK_MS, local->nats.child.log_path));
        return;
    }
    ctl_progress_say(&local->progress, "nats-server %s; starting it again", how);
    uv_timer_start(&local->nats_again, on_nats_again, quick ? NATS_PAUSE_MS : 0, 0);
}

/* A role's own complaint about configuration is the user's business: exit 2, as if we had found it. Who was
 * killed from outside had no last words, unless it had complained before. */
static void role_ended(struct local *local, struct ctl_child *child)
{
    bool usage = WIFEXITED(child->status) && WEXITSTATUS(child->status) == 2;
    bool killed = WIFSIGNALED(child->status) && WTERMSIG(child->status) == SIGKILL;
    char how[80], last[1024];

    if (local->stopping)
        return;
    ctl_child_how(child, how, sizeof(how));
    if (!ctl_log_last_error(child->log_path, last, sizeof(last)) && killed)
        last[0] = '\0';
    begin_stop(local, usage ? 2 : 1,
               rt_xasprintf("%s %s%s%s (log: %s)", child->name, how, last[0] ? ": " : "", last,
                            child->log_path));
}

static void on_child_signal(struct local *local)
{
    for (size_t i = 0; i < local->n_roles; i++) {
        if (ctl_child_reap(&local->role[i]))
            role_ended(local, &local->role[i]);
    }
    if (ctl_child_reap(&local->nats.child))
        nats_ended(local);
    if (local->stopping && n_running(local) == 0)
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

/* ---- the end of a job that went well ---- */

/* It has a model and its evaluation, whatever became of the file of scores. */
static void succeed(struct local *local)
{
    struct ctl_predictions p;
    char rows[32];

    if (local->options.predict) {
        ctl_view_predictions(&local->last, &p);
        if (p.error[0]) {
            begin_stop(local, 1, rt_xasprintf("the scores were not written: %s", p.error));
            return;
        }
        ctl_progress_say(&local->progress, "the scores of %s rows: %s%s",
                         ctl_thousands(p.rows, rows, sizeof(rows)), local->options.predict,
                         local->options.replicas[RT_ROLE_TRAINER] > 1 ? ".*" : "");
    }
    begin_stop(local, 0, NULL);
}

static bool saves_rows(const struct local *local)
{
    return local->job->global.save == RT_SAVE_ALL;
}

static void begin_save(struct local *local)
{
    if (local->job->global.save == RT_SAVE_NOTHING || local->job->data.epochs == 0) {
        succeed(local);
        return;
    }
    local->saving = true;
    local->saved_ns = rt_now_ns();
    ctl_poll_save(local->poll, saves_rows(local), local->job->global.save_state);
}

static void check_saved(struct local *local)
{
    struct ctl_saved saved;
    char bytes[CTL_AMOUNT_MAX];

    ctl_save_read(&local->last, RT_SAVE_NAME, saves_rows(local), &saved);
    if (saved.bytes != local->saved_bytes) {
        local->saved_bytes = saved.bytes;
        local->saved_ns = rt_now_ns();
    }
    if (saved.error[0] || local->last.save[0]) {
        begin_stop(local, 1,
                   rt_xasprintf("the model is trained, but was not saved: %s",
                                saved.error[0] ? saved.error : local->last.save));
    } else if (saved.writing == 0) {
        ctl_progress_say(&local->progress, "the model: %s in %llu files of %s/%s",
                         ctl_amount((double)saved.bytes, "B", bytes),
                         (unsigned long long)saved.files, local->run_dir, RT_SAVE_NAME);
        succeed(local);
    } else if (rt_now_ns() - local->saved_ns > CTL_SAVE_STILL_MS * RT_MS) {
        begin_stop(local, 1,
                   rt_xasprintf("the model is trained, but was not saved: nothing more of it was "
                                "written for %d s by %u processes; logs: %s/logs",
                                CTL_SAVE_STILL_MS / 1000, saved.writing, local->run_dir));
    }
}

/* Ranks end together, within a round or two. */
static void check_done(struct local *local, const struct ctl_view *view)
{
    bool all = view->ranks_done == view->ranks && local->last.silent == 0;

    if (view->ranks_done == 0 || (!all && ++local->rounds_done < ANSWER_ROUNDS))
        return;
    if (view->ranks_done < view->ranks)
        begin_stop(local, 1,
                   rt_xasprintf("%u of %u trainers are done, the others are not; logs: %s/logs",
                                view->ranks_done, view->ranks, local->run_dir));
    else if (local->job->global.mode != RT_MODE_ASYNC && ctl_view_digests_differ(view))
        begin_stop(local, 1,
                   rt_xasprintf("the ranks ended with different dense weights: digest %s at "
                                "trainer/%u, %s at trainer/%u; this is a bug, please report it",
                                view->digest[0], view->digest_rank[0], view->digest[1],
                                view->digest_rank[1]));
    else
        begin_save(local);
}

static void on_news(void *ctx, struct ctl_snapshot *snapshot)
{
    struct local *local = ctx;
    struct ctl_view view;
    char waiting[200];

    if (local->going_down) {
        ctl_snapshot_release(snapshot);
        return;
    }
    ctl_snapshot_keep(snapshot, &local->last);
    local->last = *snapshot;
    if (local->stopping) {
        go_down(local);
        return;
    }
    ctl_view_read(snapshot, &view);
    tell_of_nats(local);
    if (local->saving) {
        check_saved(local);
        return;
    }
    ctl_view_waiting(snapshot, waiting, sizeof(waiting));
    ctl_progress_show(&local->progress, &view, snapshot->nats[0] ? snapshot->nats : waiting);
    check_done(local, &view);
}

/* ---- starting ---- */

static int start_role(struct local *local, enum rt_role role, uint32_t index)
{
    struct ctl_child *child = &local->role[local->n_roles];
    const struct ctl_options *options = &local->options;
    char *program = ctl_program_path(role), number[16];
    int err;

    snprintf(child->name, sizeof(child->name), "%s/%u", rt_role_name(role), index);
    child->log_path = rt_xasprintf("%s/logs/%s-%u.log", local->run_dir, rt_role_name(role), index);
    child->pid_path = rt_xasprintf("%s/pids/%s-%u", local->run_dir, rt_role_name(role), index);
    ctl_child_arg(child, program);
    rt_free(program);
    ctl_child_arg(child, "--index");
    snprintf(number, sizeof(number), "%u", index);
    ctl_child_arg(child, number);
    ctl_child_arg(child, "--size");
    snprintf(number, sizeof(number), "%u", options->replicas[role]);
    ctl_child_arg(child, number);
    ctl_child_arg(child, "--job");
    ctl_child_arg(child, local->job_name);
    ctl_child_arg(child, "--nats");
    ctl_child_arg(child, local->nats_url);
    ctl_child_arg(child, "--run-dir");
    ctl_child_arg(child, local->run_dir);
    ctl_child_arg(child, "--trace"); /* 0 too: what SAFFRON_TRACE says is for roles of a cluster */
    snprintf(number, sizeof(number), "%u", options->trace);
    ctl_child_arg(child, number);
    if (options->init_from && (role == RT_ROLE_TRAINER || role == RT_ROLE_EMBEDDING_SERVER)) {
        ctl_child_arg(child, "--init-from");
        ctl_child_arg(child, options->init_from);
    }
    if (options->predict && role == RT_ROLE_TRAINER) {
        ctl_child_arg(child, "--predict");
        ctl_child_arg(child, options->predict);
    }
    ctl_job_args(options, child);
    err = ctl_child_start(child);
    local->role_of[local->n_roles++] = role;
    return err;
}

static int start_roles(struct local *local)
{
    static const enum rt_role order[] = {RT_ROLE_EMBEDDING_SERVER, RT_ROLE_MIDDLEWARE,
                                         RT_ROLE_TRAINER, RT_ROLE_DATA_COMPOSE};
    size_t n = 0;
    int err = 0;

    for (int role = 0; role < RT_ROLE_COUNT; role++)
        n += local->options.replicas[role];
    local->role = rt_xcalloc(n, sizeof(*local->role));
    local->role_of = rt_xcalloc(n, sizeof(*local->role_of));
    for (size_t i = 0; i < ARRAY_LEN(order) && !err; i++) {
        for (uint32_t k = 0; k < local->options.replicas[order[i]] && !err; k++)
            err = start_role(local, order[i], k);
    }
    return err;
}

static int start_poll(struct local *local)
{
    struct ctl_poll_conf conf = {
        .loop = &local->loop,
        .nats_url = local->nats_url,
        .job = local->job_name,
        .every_ms = POLL_EVERY_MS,
        .ctx = local,
        .news = on_news,
    };

    memcpy(conf.replicas, local->options.replicas, sizeof(conf.replicas));
    return ctl_poll_start(&conf, &local->poll);
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
    uv_timer_init(&local->loop, &local->killer);
    uv_timer_init(&local->loop, &local->nats_again);
    local->limit.data = local->last_round.data = local;
    local->killer.data = local->nats_again.data = local;
    if (local->options.timeout_s)
        uv_timer_start(&local->limit, on_limit, local->options.timeout_s * 1000ull, 0);
}

/* Somebody else's may come later: the roles and the poll thread keep trying. */
static int start_nats(struct local *local)
{
    if (local->options.nats) {
        local->nats_url = local->options.nats;
        return 0;
    }
    local->nats_url = local->nats.url;
    return ctl_nats_start(&local->nats, local->run_dir);
}

/* Who shares a NATS with others needs a name of its own. */
static char *subject_name(const struct local *local)
{
    if (!local->options.nats)
        return rt_xstrdup(local->job->name);
    return rt_xasprintf("%s-%llu-%ld", local->job->name, (unsigned long long)rt_wall_ms(),
                        (long)getpid());
}

static int load_job(struct local *local)
{
    struct rt_job_source source = {
        .folder = local->options.config,
        .data_dir = local->options.data,
        .models_dir = getenv("SAFFRON_MODELS_DIR"),
        .model = local->options.model,
        .set = (const char *const *)local->options.set,
        .n_set = local->options.n_set,
    };

    ctl_program_job_paths(source.path);
    rt_job_destroy(local->job);
    local->job = NULL;
    return rt_job_load(&source, &local->job);
}

/* The roles share this machine's cores: unless the job says how many loops, one each is right. */
static int load_job_for_one_machine(struct local *local)
{
    int err = load_job(local);
    bool again = false;

    if (!err && local->job->global.embedding_server_workers == 0) {
        ctl_options_set(&local->options, "global.embedding_server.workers=1");
        again = true;
    }
    if (!err && local->job->global.middleware_loops == 0) {
        ctl_options_set(&local->options, "global.middleware.loops=1");
        again = true;
    }
    return again ? load_job(local) : err;
}

/* Is there a model, of these tables? What its files are like the roles will see. */
static int check_init_from(const struct local *local)
{
    const char *dir = local->options.init_from;
    char *path;
    int err = 0;

    if (!dir)
        return 0;
    path = rt_save_dense_path(dir);
    if (!rt_file_exists(path))
        err = RT_FAIL(RT_EUSAGE, "--init-from %s: no saved model: there is no %s", dir, path);
    rt_free(path);
    for (uint32_t t = 0; t < local->job->n_tables && !err; t++) {
        path = rt_save_table_path(dir, local->job->table[t].name, 0, 0);
        if (!rt_file_exists(path))
            err = RT_FAIL(RT_EUSAGE, "--init-from %s: it has no rows of table %s: there is no %s",
                          dir, local->job->table[t].name, path);
        rt_free(path);
    }
    return err;
}

/* Scores are never written over, nor beside those of a run with more trainers, which are FILE.0, FILE.1 and so on. */
static int check_no_scores(const char *file)
{
    char *first = rt_xasprintf("%s.0", file);
    const char *there = rt_file_exists(file) ? file : rt_file_exists(first) ? first : NULL;
    int err = 0;

    if (there)
        err = RT_FAIL(RT_EUSAGE, "--predict %s: %s is there already; name a new file", file, there);
    rt_free(first);
    return err;
}

/* Can the file be there? That its folder can be written the trainers will see. */
static int check_predict(const char *file)
{
    const char *slash = file ? strrchr(file, '/') : NULL;
    struct stat st;
    int err = 0;

    if (!file)
        return 0;
    if (slash && slash > file) {
        char *dir = rt_xasprintf("%.*s", (int)(slash - file), file);

        if (stat(dir, &st) != 0 || !S_ISDIR(st.st_mode))
            err = RT_FAIL(RT_EUSAGE, "--predict %s: there is no folder %s", file, dir);
        rt_free(dir);
    }
    if (!err && (!file[0] || (stat(file, &st) == 0 && !S_ISREG(st.st_mode))))
        err = RT_FAIL(RT_EUSAGE, "--predict %s: expected the name of a file", file);
    return err ? err : check_no_scores(file);
}

/* Everything that can be wrong before a process is started is found here. */
static int prepare(struct local *local)
{
    struct ctl_run run = {.pid = (long)getpid()};
    int err = load_job_for_one_machine(local);
    char *config;

    if (!err)
        err = check_predict(local->options.predict);
    if (!err)
        err = rt_job_check_run(local->job, local->options.init_from, local->options.predict);
    if (!err)
        err = check_init_from(local);
    if (!err)
        err = ctl_check_model(&local->options);
    if (err)
        return err;
    err = ctl_rundir_create(local->options.run_dir, local->job->name, &local->run_dir);
    if (err)
        return err;
    config = rt_path_join(local->run_dir, "config");
    err = rt_job_write(local->job, config);
    rt_free(config);
    if (err)
        return err;
    start_loop(local);
    local->job_name = subject_name(local);
    err = start_nats(local);
    if (!err) {
        snprintf(run.job, sizeof(run.job), "%s", local->job_name);
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
    struct ctl_summary summary = {.job = local->job, .final = &local->last, .error = local->error};

    for (size_t i = 0; i < local->n_roles; i++) {
        summary.cpu_seconds[local->role_of[i]] += local->role[i].cpu_s;
        summary.peak_rss_bytes[local->role_of[i]] += local->role[i].peak_rss_bytes;
    }
    if (!local->error)
        ctl_summary_print(&summary, local->run_dir);
    if (ctl_summary_write(&summary, local->run_dir) != 0) {
        fprintf(stderr, "saffron local: %s\n", rt_err_text());
        if (local->exit_code == 0)
            local->exit_code = 1;
    } else if (local->error && !local->options.quiet) {
        fprintf(stderr, "saffron local: logs and summary are in %s\n", local->run_dir);
    }
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
    for (size_t i = 0; i < local->n_roles; i++)
        ctl_child_release(&local->role[i]);
    rt_free(local->role);
    rt_free(local->role_of);
    ctl_child_release(&local->nats.child);
    ctl_snapshot_release(&local->last);
    ctl_options_release(&local->options);
    rt_job_destroy(local->job);
    rt_free(local->run_dir);
    rt_free(local->job_name);
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
}

/* One that is empty was left out. */
static const char *from_environment(const char *name)
{
    const char *text = getenv(name);

    return text && text[0] ? text : NULL;
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
    if (err && !local.job_name) { /* no run yet: nothing to stop or to sum up */
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
