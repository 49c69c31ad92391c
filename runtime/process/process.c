/* runtime/process/process.c -- a role's process around its work.
 *
 * Start: flags, job, control loop, admin page. Announce: presence (presence.c), as soon as the role has
 * addresses. Run: the control loop until somebody says stop (a signal, ctl, the role) or something failed. End: what
 * was set up goes down in the opposite order.
 *
 * Told to stop, a role ends what it is at (drain), or stays for who is at something (linger.h), or goes.
 *
 * The first failure wins: its text is kept, since error texts belong to threads. The first SIGTERM or SIGINT
 * ends the run in order; a second one ends the process at once. As PID 1 of a container a process is sent no
 * signal that it does not handle, so they are held back until it does; and orphans are its to reap. */
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "runtime/base/trace.h"
#include "runtime/process/address.h"
#include "runtime/process/inside.h"
#include "runtime/process/place.h"
#include "runtime/process/status.h"
#include "runtime/process/told.h"
#include "runtime/process/version.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define POOL_BYTES                                                                                 \
    ((size_t)2 << 30) /* payload buffers of the control loop, where roles put data on it */

/* ---- what it says of itself ---- */

bool rt_process_is_ready(struct rt_process *process)
{
    return process->member && process->role.ready(process->role.ctx) != 0;
}

static int page_ready(void *ctx)
{
    return rt_process_is_ready(ctx);
}

static int page_connected(void *ctx)
{
    const struct rt_process *p = ctx;

    return p->member && rt_member_connected(p->member);
}

static char *status_json(struct rt_process *p)
{
    struct rt_usage usage;
    json_t *o;

    rt_usage_now(&usage);
    o = json_pack("{s:s, s:s, s:I, s:I, s:s, s:s, s:I, s:f, s:f, s:I, s:I, s:s, s:s, s:b}", "role",
                  rt_role_name(p->role.role), "job", p->job->name, "index",
                  (json_int_t)p->flags.index, "incarnation", (json_int_t)p->incarnation, "state",
                  wire_state_name(p->state), "waiting", p->waiting, "pid", (json_int_t)getpid(),
                  "uptime_seconds", (double)(rt_now_ns() - p->started_ns) * 1e-9, "cpu_seconds",
                  usage.cpu_seconds, "rss_bytes", (json_int_t)usage.rss_bytes, "peak_rss_bytes",
                  (json_int_t)usage.peak_rss_bytes, "version", RT_VERSION, "admin",
                  p->admin_address, "nats_connected", page_connected(p));
    rt_assert(o);
    json_object_set_new(o, "replicas", json_integer(p->flags.size));
    rt_status_put_purposes(o);
    if (p->stranger[0])
        json_object_set_new(o, "refused", json_string(p->stranger));
    if (p->member && p->role.status)
        p->role.status(p->role.ctx, o);
    return rt_status_text(o);
}

static void page_status(void *ctx, struct rt_strbuf *json)
{
    char *text = status_json(ctx);

    rt_strbuf_addf(json, "%s\n", text);
    rt_free(text);
}

/* ---- what it is told ---- */

/* It had its time. */
static void on_drained(void *arg)
{
    rt_log(RT_LOG_WARN, "not_drained seconds=%d", (int)(RT_DRAIN_NS / RT_S));
    rt_process_stop(arg);
}

static bool is_needed(void *arg)
{
    const struct rt_process *p = arg;

    return !p->job_is_done && !p->no_folder && p->role.needed && p->role.needed(p->role.ctx);
}

static bool is_for_leader(void *arg)
{
    const struct rt_process *p = arg;
    bool awaited = p->role.awaited && p->role.awaited(p->role.ctx);

    return awaited || p->leader_ends || !rt_member_connected(p->member);
}

static void on_needed_no_more(void *arg)
{
    rt_process_stop(arg);
}

/* Now, or when the role has ended what it is at, or trainer/0 what it needs us for. */
static void stop_in_time(struct rt_process *p)
{
    bool stays;

    if (p->state == WIRE_DRAINING)
        return;
    stays = p->member && p->role.drain && p->role.drain(p->role.ctx);
    if (stays) {
        p->drain = (struct rt_timer){.fire = on_drained, .arg = p};
        rt_timer_start(rt_loop_io(p->loop), &p->drain, RT_DRAIN_NS);
    } else {
        p->linger = (struct rt_linger){.io = rt_loop_io(p->loop),
                                       .ctx = p,
                                       .most_ns = RT_DRAIN_NS,
                                       .needed = is_needed,
                                       .for_leader = is_for_leader,
                                       .over = on_needed_no_more};
        stays = p->member && rt_linger_begin(&p->linger);
    }
    if (stays)
        rt_process_set_state(p, WIRE_DRAINING);
    else
        rt_process_stop(p);
}

static int run_command(struct rt_process *p, const struct wire_control_request *request,
                       struct wire_control_reply *reply)
{
    enum rt_log_level level;
    int err;

    switch (request->command) {
    case WIRE_CTL_STATUS:
        rt_free(p->status_text);
        p->status_text = status_json(p);
        reply->text = p->status_text;
        return 0;
    case WIRE_CTL_STOP:
        rt_log(RT_LOG_INFO, "stopping by=control");
        stop_in_time(p);
        return 0;
    case WIRE_CTL_LOG_LEVEL:
        err = rt_log_level_parse(request->text, &level);
        if (!err)
            rt_log_set_level(level);
        return err;
    default:
        if (p->role.control)
            return p->role.control(p->role.ctx, request);
        return RT_FAIL(RT_EUSAGE, "%s does not know command %d", p->role.program,
                       (int)request->command);
    }
}

void rt_process_control(void *ctx, const struct wire_control_request *request,
                        struct wire_control_reply *reply)
{
    struct rt_process *p = ctx;

    reply->status = run_command(p, request, reply);
    if (reply->status == 0)
        return;
    snprintf(p->reply_text, sizeof(p->reply_text), "%s", rt_err_text());
    reply->text = p->reply_text;
}

static void on_signal(uv_signal_t *handle, int number)
{
    struct rt_process *p = handle->data;

    rt_log(RT_LOG_INFO, "stopping by=%s", number == SIGTERM ? "SIGTERM" : "SIGINT");
    uv_signal_stop(&p->on_term); /* the next one ends the process at once */
    uv_signal_stop(&p->on_int);
    stop_in_time(p);
}

/* ---- start ---- */

static void signals(int how)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    pthread_sigmask(how, &set, NULL);
}

static int make_loop(struct rt_process *p)
{
    struct rt_loop_conf conf = {.name = "control", .pool_budget = POOL_BYTES};
    int err = rt_loop_create(&conf, &p->loop);

    if (err)
        return err;
    p->on_term.data = p->on_int.data = p;
    err = uv_signal_init(rt_loop_uv(p->loop), &p->on_term);
    if (!err)
        err = uv_signal_init(rt_loop_uv(p->loop), &p->on_int);
    if (!err)
        err = uv_signal_start(&p->on_term, on_signal, SIGTERM);
    if (!err)
        err = uv_signal_start(&p->on_int, on_signal, SIGINT);
    signals(SIG_UNBLOCK);
    return err ? RT_FAIL(err, "signals: %s", uv_strerror(err)) : 0;
}

static int make_page(struct rt_process *p)
{
    struct rt_page_conf conf = {
        .loop = p->loop,
        .role = p->role.role,
        .job = p->job->name,
        .index = p->flags.index,
        .bind = p->flags.bind,
        .port = (uint16_t)rt_place_admin_port(&p->flags, p->job),
        .gateway = p->flags.gateway,
        .ctx = p,
        .ready = page_ready,
        .connected = page_connected,
        .status = page_status,
    };
    int err = rt_page_create(&conf, &p->page);

    if (!err)
        rt_address_join(p->ip, rt_page_port(p->page), p->admin_address, sizeof(p->admin_address));
    return err;
}

/* The address that peers are told. */
static int find_ip(struct rt_process *p)
{
    const char *ip = p->flags.advertise ? p->flags.advertise : p->flags.bind;

    if (rt_address_is_any(ip))
        return rt_address_of_host(p->flags.bind, p->ip, sizeof(p->ip));
    snprintf(p->ip, sizeof(p->ip), "%s", ip);
    return 0;
}

static void log_configuration(const struct rt_process *p)
{
    const struct rt_job *job = p->job;

    rt_log(RT_LOG_INFO, "start version=%s job=%s index=%u size=%u incarnation=%llu pid=%d admin=%s",
           RT_VERSION, job->name, p->flags.index, p->flags.size, (unsigned long long)p->incarnation,
           (int)getpid(), p->admin_address);
    rt_told_log(job);
}

/* --describe: the job as this role understands it, and no more. */
static int describe(struct rt_process *p)
{
    const struct rt_job *job;
    int err = rt_told_load(&p->flags, &p->job);

    if (!err)
        err = rt_place_check(&p->flags, p->role.role, false);
    if (err)
        return err;
    job = p->job;
    if (p->flags.picture) {
        err = p->role.picture ? p->role.picture(job)
                              : RT_FAIL(RT_EUSAGE,
                                        "--describe=dot: saffron-trainer has a model to "
                                        "draw, %s has none",
                                        p->role.program);
    } else {
        rt_told_print(job);
        rt_place_print(&p->flags, job, p->role.role);
        err = p->role.describe ? p->role.describe(job) : 0;
    }
    if (fflush(stdout) != 0 && !err)
        err = RT_FAIL(RT_EFILE, "standard output: %s", strerror(errno));
    return err;
}

/* Into the run directory, a file for each process. */
static int open_trace(const struct rt_process *p)
{
    struct rt_trace_conf conf = {.every = p->flags.trace,
                                 .role = p->role.role,
                                 .index = p->flags.index,
                                 .host = p->host_id,
                                 .method_name = wire_method_name};
    char *dir, *path;
    int err;

    if (conf.every == 0)
        return 0;
    dir = rt_path_join(p->flags.run_dir, "trace");
    path = rt_xasprintf("%s/%s-%u.json", dir, rt_role_name(p->role.role), p->flags.index);
    conf.path = path;
    err = rt_mkdir_all(dir);
    if (!err)
        err = rt_trace_open(&conf);
    rt_free(dir);
    rt_free(path);
    return err;
}

static int set_up(struct rt_process *p)
{
    int err = rt_place_check(&p->flags, p->role.role, true);

    if (!err)
        err = find_ip(p);
    if (!err)
        err = rt_told_load(&p->flags, &p->job);
    if (!err)
        rt_incarnation_take(&p->start, p->flags.run_dir, p->role.role, p->flags.index);
    p->incarnation = p->start.number;
    if (!err)
        err = open_trace(p);
    if (!err)
        err = make_loop(p);
    if (!err)
        err = make_page(p);
    return err;
}

int rt_process_start(int argc, char **argv, const struct rt_process_role *role,
                     struct rt_process **out)
{
    struct rt_process *p = rt_xcalloc(1, sizeof(*p));
    int err;

    rt_assert(role->ready);
    p->role = *role;
    p->started_ns = rt_now_ns();
    err = pthread_mutex_init(&p->lock, NULL);
    rt_assert(err == 0);
    p->argv = argv;
    signals(SIG_BLOCK);
    if (getpid() == 1)
        signal(SIGCHLD, SIG_IGN); /* the kernel reaps */
    rt_flags_parse(argc, argv, role->program, role->doc, role->role == RT_ROLE_TRAINER, &p->flags);
    rt_log_set_level(p->flags.log_level);
    rt_log_identity(rt_role_name(role->role), p->flags.index);
    gethostname(p->host, sizeof(p->host) - 1);
    rt_host_id(p->host_id);
    if (p->flags.describe)
        exit(rt_process_end(p, describe(p)));
    err = set_up(p);
    if (err) {
        rt_process_end(p, err);
        return err;
    }
    log_configuration(p);
    *out = p;
    return 0;
}

/* ---- what roles ask for ---- */

const struct rt_job *rt_process_job(const struct rt_process *process)
{
    return process->job;
}

struct rt_loop *rt_process_loop(struct rt_process *process)
{
    return process->loop;
}

struct rt_metrics *rt_process_metrics(struct rt_process *process)
{
    return rt_page_metrics(process->page);
}

uint32_t rt_process_index(const struct rt_process *process)
{
    return process->flags.index;
}

uint32_t rt_process_size(const struct rt_process *process)
{
    return process->flags.size;
}

const char *rt_process_run_dir(const struct rt_process *process)
{
    return process->flags.run_dir;
}

const char *rt_process_init_from(const struct rt_process *process)
{
    return process->flags.init_from;
}

const char *rt_process_checkpoint_dir(const struct rt_process *process)
{
    return process->flags.checkpoint_dir;
}

bool rt_process_restores(const struct rt_process *process)
{
    return process->job->data.epochs > 0 && rt_place_restores(&process->flags);
}

bool rt_process_begins_anew(const struct rt_process *process)
{
    return process->flags.from_scratch;
}

const char *rt_process_predict(const struct rt_process *process)
{
    return process->flags.predict;
}

void rt_process_identity(const struct rt_process *process, uint32_t loop, struct rt_identity *out)
{
    *out = (struct rt_identity){
        .role = process->role.role,
        .index = process->flags.index,
        .loop = loop,
        .incarnation = process->incarnation,
        .wire_version = RT_WIRE_VERSION,
        .config_hash = process->job->config_hash,
        .plan_hash = process->job->plan_hash,
    };
    snprintf(out->job, sizeof(out->job), "%s",
             process->flags.nats_job ? process->flags.nats_job : process->job->name);
}

void rt_process_listen_address(const struct rt_process *process, uint32_t loop,
                               char out[RT_ADDRESS_MAX])
{
    uint32_t base = rt_place_port(&process->flags, process->job, process->role.role);
    char ip_port[RT_PROCESS_ADMIN_MAX];

    rt_address_join(process->flags.bind, base ? base + loop : 0, ip_port, sizeof(ip_port));
    snprintf(out, RT_ADDRESS_MAX, "tcp:%s", ip_port);
}

/* ---- run and end ---- */

static int failure(struct rt_process *process)
{
    int err;

    pthread_mutex_lock(&process->lock);
    err = process->err ? RT_FAIL(process->err, "%s", process->reason) : 0;
    pthread_mutex_unlock(&process->lock);
    return err;
}

int rt_process_run(struct rt_process *process)
{
    int err = failure(process);

    if (!err)
        err = rt_loop_run(process->loop);
    rt_page_last(process->page);
    return err ? err : failure(process);
}

void rt_process_stop(struct rt_process *process)
{
    rt_loop_stop(process->loop);
}

void rt_process_fail(struct rt_process *process, int err)
{
    rt_assert(err < 0);
    pthread_mutex_lock(&process->lock);
    if (!process->err) {
        process->err = err;
        snprintf(process->reason, sizeof(process->reason), "%s", rt_err_text());
    }
    pthread_mutex_unlock(&process->lock);
    rt_process_stop(process);
}

static void add_text(char *text, size_t size, const char *more)
{
    size_t n = strlen(text);

    snprintf(text + n, size - n, "%s", more);
}

int rt_process_end(struct rt_process *process, int err)
{
    struct rt_process *p = process;

    if (err) {
        char text[1024];

        snprintf(text, sizeof(text), "%s", p->err == err ? p->reason : rt_err_text());
        if (err == UV_EADDRINUSE)
            add_text(text, sizeof(text),
                     "; --port and --admin-port, or `ports:` of global.yml, choose others");
        if (p->member)
            rt_process_set_state(p, WIRE_FAILED);
        fprintf(stderr, "%s: %s\n", p->role.program, text[0] ? text : rt_err_meaning(err));
    } else if (!p->flags.describe) {
        rt_log(RT_LOG_INFO, "end");
    }
    if (p->loop) {
        rt_timer_stop(rt_loop_io(p->loop), &p->tick);
        rt_timer_stop(rt_loop_io(p->loop), &p->drain);
        if (p->linger.io)
            rt_linger_stop(&p->linger);
    }
    rt_member_destroy(p->member);
    rt_page_destroy(p->page);
    rt_loop_destroy(p->loop);
    rt_trace_close();
    rt_job_destroy(p->job);
    for (uint32_t i = 0; i < p->n_addresses; i++)
        rt_free(p->address[i]);
    rt_free(p->address);
    rt_free(p->status_text);
    rt_incarnation_release(&p->start);
    rt_flags_release(&p->flags);
    pthread_mutex_destroy(&p->lock);
    rt_free(p);
    return rt_exit_code(err);
}
