/* ctl/roles.c -- see roles.h. */
#include "ctl/roles.h"
#include "ctl/check.h"
#include "ctl/program.h"
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

/* ---- starting ---- */

static int start(struct ctl_role *role)
{
    role->started_ns = rt_now_ns();
    return ctl_child_start(&role->child);
}

static void flag(struct ctl_child *child, const char *name, const char *value)
{
    ctl_child_arg(child, name);
    ctl_child_arg(child, value);
}

static void flag_number(struct ctl_child *child, const char *name, uint32_t value)
{
    char text[16];

    snprintf(text, sizeof(text), "%u", value);
    flag(child, name, text);
}

/* The place and the folders, for all roles; who has weights or rows gets more. What the environment says is for roles of a
 * cluster: here each flag is given, so that none is taken from there. */
static void give_args(const struct ctl_roles_conf *conf, struct ctl_role *role)
{
    const struct ctl_options *options = conf->options;
    struct ctl_child *child = &role->child;
    bool trains = role->role == RT_ROLE_TRAINER;
    char *program = ctl_program_path(role->role);

    ctl_child_arg(child, program);
    rt_free(program);
    flag_number(child, "--index", role->index);
    flag_number(child, "--size", options->replicas[role->role]);
    flag(child, "--job", conf->job_name);
    flag(child, "--nats", conf->nats_url);
    flag(child, "--nats-job", conf->nats_job);
    flag(child, "--run-dir", conf->run_dir);
    flag_number(child, "--trace", options->trace);
    if (trains || role->role == RT_ROLE_EMBEDDING_SERVER) {
        flag(child, "--checkpoint-dir", conf->checkpoint_dir);
        flag(child, "--restore", "latest");
        if (options->init_from)
            flag(child, "--init-from", options->init_from);
    }
    if (options->predict && trains)
        flag(child, "--predict", options->predict);
    ctl_job_args(options, child);
}

static void make(struct ctl_roles *roles, struct ctl_role *role, enum rt_role kind, uint32_t index)
{
    const char *name = rt_role_name(kind), *dir = roles->conf.run_dir;
    struct ctl_child *child = &role->child;

    role->role = kind;
    role->index = index;
    role->roles = roles;
    uv_timer_init(roles->conf.loop, &role->again);
    role->again.data = role;
    snprintf(child->name, sizeof(child->name), "%s/%u", name, index);
    child->log_path = rt_xasprintf("%s/logs/%s-%u.log", dir, name, index);
    child->pid_path = rt_xasprintf("%s/pids/%s-%u", dir, name, index);
    give_args(&roles->conf, role);
}

int ctl_roles_start(struct ctl_roles *roles, const struct ctl_roles_conf *conf)
{
    static const enum rt_role order[] = {RT_ROLE_EMBEDDING_SERVER, RT_ROLE_MIDDLEWARE,
                                         RT_ROLE_TRAINER, RT_ROLE_DATA_COMPOSE};
    size_t n = 0;
    int err = 0;

    roles->conf = *conf;
    for (int role = 0; role < RT_ROLE_COUNT; role++)
        n += conf->options->replicas[role];
    roles->at = rt_xcalloc(n, sizeof(*roles->at));
    for (size_t i = 0; i < ARRAY_LEN(order) && !err; i++) {
        for (uint32_t k = 0; k < conf->options->replicas[order[i]] && !err; k++) {
            make(roles, &roles->at[roles->n], order[i], k);
            err = start(&roles->at[roles->n++]);
        }
    }
    return err;
}

/* ---- ends ---- */

static void fail(struct ctl_roles *roles, int exit_code, char *why)
{
    roles->stopping = true;
    roles->conf.failed(roles->conf.ctx, exit_code, why);
}

static void on_again(uv_timer_t *timer)
{
    struct ctl_role *role = timer->data;

    if (role->roles->stopping)
        return;
    role->restarts++;
    if (start(role) != 0)
        fail(role->roles, 1,
             rt_xasprintf("%s cannot be started again: %s", role->child.name, rt_err_text()));
}

/* Its end in words: how, and what it said last. Who was killed from outside, or ended without complaint, had no last words,
 * unless it had complained before. */
static char *end_of(const struct ctl_child *child)
{
    bool killed = WIFSIGNALED(child->status) && WTERMSIG(child->status) == SIGKILL;
    bool ended_well = WIFEXITED(child->status) && WEXITSTATUS(child->status) == 0;
    char how[80], last[1024];

    ctl_child_how(child, how, sizeof(how));
    if (!ctl_log_last_error(child->log_path, child->log_from, last, sizeof(last)) &&
        (killed || ended_well))
        last[0] = '\0';
    return rt_xasprintf("%s %s%s%s", child->name, how, last[0] ? ": " : "", last);
}

static bool asks_for_it(const struct ctl_child *child)
{
    return WIFEXITED(child->status) && WEXITSTATUS(child->status) == RT_EXIT_AGAIN;
}

static void start_again(struct ctl_role *role, const char *end)
{
    struct ctl_roles *roles = role->roles;
    int pause_ms = asks_for_it(&role->child)
                       ? (int)ctl_backoff_asked(&role->asked, role->started_ns, role->ended_ns)
                       : ctl_backoff_ended(&role->backoff, role->started_ns, role->ended_ns);

    if (pause_ms < 0) {
        fail(roles, 1,
             rt_xasprintf(
                 "%s; it was started again %u times within %u s, and is not any more (log: %s)",
                 end, CTL_BACKOFF_MAX, CTL_BACKOFF_WITHIN_S, role->child.log_path));
        return;
    }
    ctl_progress_say(roles->conf.progress, "%s; starting it again in %.1f s", end,
                     pause_ms / 1000.);
    uv_timer_start(&role->again, on_again, (uint64_t)pause_ms, 0);
    roles->conf.ended(roles->conf.ctx, role->role, role->index);
}

static void ended(struct ctl_role *role)
{
    const struct ctl_child *child = &role->child;
    bool usage = WIFEXITED(child->status) && WEXITSTATUS(child->status) == 2;
    struct ctl_roles *roles = role->roles;
    char *end;

    role->ended_ns = rt_now_ns();
    if (roles->stopping)
        return;
    end = end_of(child);
    if ((roles->conf.options->restart && !usage) || asks_for_it(child))
        start_again(role, end);
    else
        fail(roles, usage ? 2 : 1, rt_xasprintf("%s (log: %s)", end, child->log_path));
    rt_free(end);
}

void ctl_roles_reap(struct ctl_roles *roles)
{
    for (size_t i = 0; i < roles->n; i++) {
        if (ctl_child_reap(&roles->at[i].child))
            ended(&roles->at[i]);
    }
}

void ctl_roles_stop(struct ctl_roles *roles)
{
    roles->stopping = true;
    for (size_t i = 0; i < roles->n; i++)
        uv_timer_stop(&roles->at[i].again);
}

void ctl_roles_signal(struct ctl_roles *roles, int signal)
{
    for (size_t i = 0; i < roles->n; i++)
        ctl_child_signal(&roles->at[i].child, signal);
}

/* ---- what there is ---- */

size_t ctl_roles_running(const struct ctl_roles *roles)
{
    size_t n = 0;

    for (size_t i = 0; i < roles->n; i++)
        n += roles->at[i].child.pid != 0;
    return n;
}

bool ctl_roles_all_run(const struct ctl_roles *roles)
{
    return ctl_roles_running(roles) == roles->n;
}

struct ctl_role *ctl_roles_find(struct ctl_roles *roles, enum rt_role role, uint32_t index)
{
    for (size_t i = 0; i < roles->n; i++) {
        if (roles->at[i].role == role && roles->at[i].index == index)
            return &roles->at[i];
    }
    return NULL;
}

void ctl_roles_forget(const struct ctl_roles *roles, struct ctl_snapshot *snapshot)
{
    for (size_t i = 0; i < roles->n; i++) {
        const struct ctl_role *role = &roles->at[i];

        if (role->ended_ns > snapshot->asked_ns)
            ctl_snapshot_forget(snapshot, role->role, role->index);
    }
}

void ctl_roles_sum(const struct ctl_roles *roles, struct ctl_summary *summary)
{
    for (size_t i = 0; i < roles->n; i++) {
        const struct ctl_role *role = &roles->at[i];

        summary->cpu_seconds[role->role] += role->child.cpu_s;
        summary->peak_rss_bytes[role->role] += role->child.peak_rss_bytes;
        summary->restarts[role->role] += role->restarts;
    }
}

void ctl_roles_release(struct ctl_roles *roles)
{
    for (size_t i = 0; i < roles->n; i++)
        ctl_child_release(&roles->at[i].child);
    rt_free(roles->at);
    *roles = (struct ctl_roles){0};
}
