/* runtime/process/presence.c -- what others hear of a process, and it of them (process.h): its state, hellos, and who takes its place.
 *
 *   STARTING -announce-> WAITING <-ready()-> READY      the tick asks the role
 *   any -rt_process_set_state-> DRAINING, DONE          and then leaves it alone
 *   READY <-trainer/0 is, is not done-> DONE            roles that hear of the end by its hello alone
 *   any -rt_process_end with an error-> FAILED */
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/failpoint.h"
#include "runtime/base/mem.h"
#include "runtime/process/address.h"
#include "runtime/process/inside.h"
#include "runtime/process/version.h"

#include <stdio.h>
#include <string.h>

#define TICK_NS (200 * RT_MS)

/* ---- its state ---- */

void rt_process_set_state(struct rt_process *process, enum wire_state state)
{
    process->state = state;
    if (process->member)
        rt_member_set_state(process->member, state);
}

void rt_process_set_waiting(struct rt_process *process, const char *what)
{
    snprintf(process->waiting, sizeof(process->waiting), "%s", what ? what : "");
    if (process->member)
        rt_member_set_waiting(process->member, what);
}

/* Data-compose is told by the trainers, who know; to the others it only matters what they show. */
static bool follows_trainer(const struct rt_process *p)
{
    return !(p->role.listens_to & RT_ROLE_BIT(RT_ROLE_TRAINER));
}

static enum wire_state next_state(const struct rt_process *p, bool ready)
{
    if (p->state > WIRE_READY && !(p->state == WIRE_DONE && follows_trainer(p)))
        return p->state;
    if (!ready)
        return WIRE_WAITING;
    return p->job_is_done ? WIRE_DONE : WIRE_READY;
}

static void on_tick(void *arg)
{
    struct rt_process *p = arg;
    bool ready = rt_process_is_ready(p);

    rt_timer_start(rt_loop_io(p->loop), &p->tick, TICK_NS);
    p->was_ready |= ready;
    rt_process_set_state(p, next_state(p, ready));
}

/* ---- who takes its place ---- */

/* `where` is "" when only its incarnation is known. */
static void be_replaced(struct rt_process *p, uint64_t by_incarnation, const char *where)
{
    rt_process_fail(
        p,
        RT_FAIL(RT_EFENCED, "replaced: a newer %s/%u is there%s, incarnation %llu (this is %llu)",
                rt_role_name(p->role.role), p->flags.index, where,
                (unsigned long long)by_incarnation, (unsigned long long)p->incarnation));
}

static void on_replaced(void *ctx, const struct wire_hello *by)
{
    char host[128], admin[128], where[300];

    snprintf(where, sizeof(where), " on host %s (admin %s)",
             rt_log_escape(by->host, host, sizeof(host)),
             rt_log_escape(by->admin, admin, sizeof(admin)));
    be_replaced(ctx, by->incarnation, where);
}

/* Two were given different files: who came later ends, unless it has worked already. A job that runs is
 * not harmed by a newcomer. */
static void on_stranger(void *ctx, const struct wire_hello *hello, const char *text)
{
    struct rt_process *p = ctx;

    snprintf(p->stranger, sizeof(p->stranger), "%s", text);
    if (!p->was_ready && hello->incarnation < p->incarnation && hello->state != WIRE_FAILED)
        rt_process_fail(p, RT_FAIL(RT_EUSAGE, "%s; it was there first", text));
}

/* On the control loop. Who has worked with its number, or has raised it once, has been replaced. */
static void take_held(void *arg)
{
    struct rt_process *p = arg;
    uint64_t held = atomic_load(&p->held);
    bool is_known = p->was_ready && rt_rpc_links_made() > 0;

    if (held <= p->incarnation)
        return;
    if (!p->start.raised && !is_known) {
        rt_log(RT_LOG_WARN,
               "incarnation_raised reason=\"a peer holds incarnation %llu of us, this is %llu: the "
               "clock was put back?\"",
               (unsigned long long)held, (unsigned long long)p->incarnation);
        rt_process_fail(p, rt_incarnation_raise(held, p->argv));
        return;
    }
    rt_incarnation_store(&p->start, held);
    be_replaced(p, held, "");
}

void rt_process_fenced(struct rt_process *process, uint64_t held)
{
    uint64_t known = atomic_load(&process->held);

    while (held > known && !atomic_compare_exchange_weak(&process->held, &known, held))
        ;
    if (rt_loop_post(process->loop, take_held, process) != 0)
        rt_process_fail(
            process, RT_FAIL(RT_EFENCED, "replaced by incarnation %llu", (unsigned long long)held));
}

static void on_held(void *ctx, uint64_t incarnation)
{
    rt_process_fenced(ctx, incarnation);
}

/* ---- hellos ---- */

/* Roles hear of addresses as they are to be connected to. */
static void tell_role(struct rt_process *p, const struct wire_hello *hello)
{
    struct wire_hello told = *hello;
    char **address = rt_host_addresses(p->host_id, hello);

    told.address = (const char *const *)address;
    p->role.hello(p->role.ctx, &told);
    rt_host_addresses_free(address, hello->n_addresses);
}

static void on_hello(void *ctx, const struct wire_hello *hello)
{
    struct rt_process *p = ctx;

    p->stranger[0] = '\0';
    if (hello->role == RT_ROLE_TRAINER && hello->index == 0) {
        p->leader_ends = hello->state == WIRE_DRAINING;
        p->no_folder = !hello->has_folder;
    }
    if (follows_trainer(p) && hello->role == RT_ROLE_TRAINER)
        p->job_is_done = hello->index == 0 && hello->state == WIRE_DONE;
    else if (p->role.hello)
        tell_role(p, hello);
}

int rt_process_announce(struct rt_process *process, const char *const *address, uint32_t n)
{
    struct rt_process *p = process;
    struct rt_member_conf conf;
    int err;

    rt_assert(!p->member && n <= WIRE_LOOPS_MAX);
    p->address = rt_xcalloc(n, sizeof(*p->address));
    p->n_addresses = n;
    for (uint32_t i = 0; i < n; i++)
        p->address[i] = rt_address_told(p->ip, address[i]);
    conf = (struct rt_member_conf){
        .loop = p->loop,
        .nats_url = p->flags.nats,
        .self = {.job = p->flags.nats_job ? p->flags.nats_job : p->job->name,
                 .role = p->role.role,
                 .index = p->flags.index,
                 .incarnation = p->incarnation,
                 .state = p->state,
                 .replicas = p->flags.size,
                 .n_addresses = n,
                 .address = (const char *const *)p->address,
                 .host_id = p->host_id,
                 .config_hash = p->job->config_hash,
                 .plan_hash = p->job->plan_hash,
                 .wire_version = RT_WIRE_VERSION,
                 .admin = p->admin_address,
                 .version = RT_VERSION,
                 .host = p->host,
                 .has_folder = p->flags.checkpoint_dir != NULL},
        .listens_to = p->role.listens_to,
        .ctx = p,
        .hello = on_hello,
        .control = rt_process_control,
        .stranger = on_stranger,
        .replaced = on_replaced,
        .held = on_held,
    };
    memcpy(conf.self.part_hash, p->job->part_hash, sizeof(conf.self.part_hash));
    RT_FAILPOINT("P1.register");
    err = rt_member_create(&conf, &p->member);
    if (err)
        return err;
    rt_member_set_waiting(p->member, p->waiting);
    p->tick.fire = on_tick;
    p->tick.arg = p;
    rt_timer_start(rt_loop_io(p->loop), &p->tick, 0);
    RT_FAILPOINT("P1.registered");
    return 0;
}
