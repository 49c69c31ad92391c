/* trainer/collective/nccl.c -- when NCCL is asked for what: the states of a communicator, and of the sum that is open.
 *
 * NCCL has no notion of a rank that comes back: a communicator that has lost one waits for ever, or fails, and can then only be thrown
 * away. So there is one for each group epoch. Its unique id is made by rank 0 and fetched by the others, who ask until it is there; of an older
 * epoch none is given. Making, opening and giving up are jobs for the helper thread, which steps run on too, first in first out:
 * what a step queues on the device after an abort finds nobody else at its gradients.
 *
 * A sum goes bucket by bucket, from the last to the first, one all-reduce each, whenever they were ready: all ranks ask for the same ones in the
 * same order, as NCCL wants it. The ranks' flags are one more, behind them. That all are complete is told by a thread of CUDA's through `post`,
 * within microseconds; a timer of the loop's, which counts milliseconds, would be felt in each step. The timer that there is (look) is the
 * watchdog: it asks every 100 ms for errors, in a pause too, for a sum that is complete unheard, and for one that makes no progress. */
#include "trainer/collective/nccl.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "runtime/wire/step.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define AGAIN_NS    (20 * RT_MS) /* rank 0 has no id yet, or is not to be reached */
#define JOINING_NS  (5 * RT_MS)
#define BUSY_NS     (1 * RT_MS)
#define WATCHDOG_NS (100 * RT_MS)

_Static_assert(TR_NCCL_ID_BYTES == WIRE_NCCL_ID_BYTES, "an id travels as it is");

static const struct tr_collective_ops nccl_ops;

enum state { IDLE, MAKING, ASKING, OPENING, JOINING, UP, FAILED };

struct nccl;

/* For the helper thread. */
struct job {
    struct job *next;
    struct rt_work work;
    struct nccl *nccl;
    enum { MAKE_ID, OPEN, CLOSE } kind;
    uint64_t group_epoch; /* that it is for */
    struct tr_nccl_open open;
    struct tr_nccl_link *link; /* opened, or to be closed */
    bool ran;
    int err;
    char text[1024];
};

/* How a thread of CUDA's tells the loop. */
struct wake {
    struct nccl *nccl;  /* NULL: destroyed. Touched by: loop thread */
    atomic_bool posted; /* the loop will call. Touched by: any */
    int (*post)(void *ctx, void (*run)(void *arg), void *arg);
    void *ctx;
};

struct nccl {
    struct tr_collective base;
    struct tr_nccl_conf conf;
    enum state state;
    uint64_t group_epoch;
    uint32_t version;
    struct tr_nccl_open open; /* of this group epoch, but for the id until it is there */
    struct tr_nccl_link *link;
    struct job *jobs;
    int err; /* FAILED: why */
    char text[1024];

    bool is_open, began, completed, nonfinite, flags_given; /* began: the link has heard of it */
    float *value;
    size_t n, n_buckets;
    size_t ready_from, given_from; /* buckets from this one on are ready; NCCL's */
    uint32_t dtype;
    tr_reduced_fn done;
    void *arg;
    uint64_t summed, moved_ns; /* progress: how far, and when it was made */
    uint8_t *flag;             /* [world] */

    struct rt_timer look, again;
    struct wake *wake;
    struct rt_arena *scratch;
    struct wire_out out;
};

struct ask {
    struct nccl *nccl;
    uint64_t group_epoch;
};

static void look(void *arg);

static void enter(struct nccl *nccl, enum state state)
{
    nccl->state = state;
    nccl->moved_ns = rt_io_now(nccl->conf.io);
}

static void finish(struct nccl *nccl, int err)
{
    const float *flags = err ? NULL : nccl->conf.api->flags(nccl->link);
    nccl->is_open = false;
    for (uint32_t r = 0; r < nccl->conf.world && flags; r++)
        nccl->flag[r] = flags[r] != 0;
    nccl->done(nccl->arg, err, err ? NULL : nccl->flag);
}

/* ---- what goes wrong ---- */

/* NCCL says what happened, and not what to do about it. */
static int explain(int err)
{
    char said[900];
    snprintf(said, sizeof said, "%s", rt_err_text());
    if (strstr(said, "interface found"))
        return RT_FAIL(
            RT_EUSAGE,
            "NCCL finds no network interface (%s): set NCCL_SOCKET_IFNAME to one of this "
            "host's",
            said);
    if (strstr(said, "Duplicate GPU"))
        return RT_FAIL(
            RT_EUSAGE,
            "two ranks have the same GPU (%s): NPROC_PER_NODE over the number of GPUs, or "
            "the same CUDA_VISIBLE_DEVICES for both",
            said);
    if (strstr(said, "Mismatched NCCL version"))
        return RT_FAIL(RT_EUSAGE, "the ranks' versions of NCCL differ (%s)", said);
    if (strstr(said, "shared memory") && strstr(said, "No space left"))
        return RT_FAIL(
            RT_EUSAGE,
            "NCCL finds /dev/shm too small (%s): make it larger (--shm-size, an emptyDir of "
            "medium Memory), or set NCCL_SHM_DISABLE=1",
            said);
    if (strstr(said, "exceeded error retry count"))
        return RT_FAIL(RT_EPEER,
                       "NCCL does not reach another rank (%s): NCCL_SOCKET_IFNAME has to name the "
                       "interface of the network that all hosts share",
                       said);
    return err;
}

/* The worker does it before any step that is begun later. */
static void start_job(struct nccl *nccl, int kind, struct tr_nccl_link *link);

static void close_link(struct nccl *nccl)
{
    if (nccl->link)
        start_job(nccl, CLOSE, nccl->link);
    nccl->link = NULL;
    rt_timer_stop(nccl->conf.io, &nccl->look);
    rt_timer_stop(nccl->conf.io, &nccl->again);
}

/* With what rt_err_text says. */
static void fail(struct nccl *nccl, int err)
{
    nccl->err = explain(err);
    snprintf(nccl->text, sizeof nccl->text, "%s", rt_err_text());
    rt_log(RT_LOG_WARN, "nccl_failed epoch=%" PRIu64 " error=\"%s\"", nccl->group_epoch,
           nccl->text);
    enter(nccl, FAILED);
    close_link(nccl);
    if (nccl->is_open)
        look(nccl);
}

/* ---- jobs ---- */

static void run_job(void *arg)
{
    struct job *job = arg;
    const struct tr_nccl_conf *conf = &job->nccl->conf;
    if (job->kind == MAKE_ID)
        job->err = conf->api->make_id(conf->cuda, job->open.id);
    else if (job->kind == OPEN)
        job->err = conf->api->open(conf->cuda, &job->open, &job->link);
    else
        conf->api->close(job->link);
    job->ran = true;
    if (job->err) /* the text belongs to this thread */
        snprintf(job->text, sizeof job->text, "%s", rt_err_text());
}

static void forget_job(struct job *job)
{
    struct job **at = &job->nccl->jobs;
    while (*at != job)
        at = &(*at)->next;
    *at = job->next;
    rt_free(job);
}

/* The id is here. */
static void take_id(struct nccl *nccl, const uint8_t *id)
{
    memcpy(nccl->open.id, id, sizeof nccl->open.id);
    enter(nccl, OPENING);
    start_job(nccl, OPEN, NULL);
}

static void job_done(void *arg)
{
    struct job *job = arg;
    struct nccl *nccl = job->nccl;
    bool wanted =
        job->group_epoch == nccl->group_epoch && ((job->kind == MAKE_ID && nccl->state == MAKING) ||
                                                  (job->kind == OPEN && nccl->state == OPENING));
    if (!wanted) {
        if (job->kind == OPEN && job->link)
            start_job(nccl, CLOSE, job->link);
    } else if (job->err) {
        rt_fail(job->err, "%s", job->text);
        fail(nccl, job->err);
    } else if (job->kind == MAKE_ID) {
        take_id(nccl, job->open.id);
    } else {
        nccl->link = job->link;
        enter(nccl, JOINING);
        look(nccl);
    }
    forget_job(job);
}

static void start_job(struct nccl *nccl, int kind, struct tr_nccl_link *link)
{
    struct job *job = rt_xcalloc(1, sizeof *job);
    job->work = (struct rt_work){.run = run_job, .done = job_done, .arg = job};
    job->nccl = nccl;
    job->kind = kind;
    job->group_epoch = nccl->group_epoch;
    job->open = nccl->open;
    job->link = link;
    job->next = nccl->jobs;
    nccl->jobs = job;
    rt_io_work(nccl->conf.io, &job->work);
}

/* ---- the id ---- */

static void ask(void *arg);

static void ask_again(struct nccl *nccl)
{
    nccl->again.fire = ask;
    nccl->again.arg = nccl;
    rt_timer_start(nccl->conf.io, &nccl->again, AGAIN_NS);
}

static int take_answer(struct nccl *nccl, const struct rt_frame *reply)
{
    struct wire_ask_communicator_reply m;
    rt_arena_reset(nccl->scratch);
    int err = wire_ask_communicator_reply_unpack(reply->message, reply->header.message_size,
                                                 nccl->scratch, &m);
    if (!err && m.group_epoch != nccl->group_epoch)
        err =
            RT_FAIL(RT_EPROTO, "AskCommunicatorReply of group epoch %" PRIu64 ", expected %" PRIu64,
                    m.group_epoch, nccl->group_epoch);
    if (!err)
        take_id(nccl, m.id);
    return err;
}

static void on_answer(void *arg, int err, const struct rt_frame *reply)
{
    struct ask *asked = arg;
    struct nccl *nccl = asked->nccl;
    bool wanted = asked->group_epoch == nccl->group_epoch && nccl->state == ASKING;
    rt_free(asked);
    if (!wanted)
        return;
    if (!err)
        err = take_answer(nccl, reply);
    if (err == RT_ENOTREADY || err == RT_EPEER || err == RT_EFULL || err == RT_ECANCELED)
        ask_again(nccl);
    else if (err &&
             err != RT_ESTALE) /* then the group has formed again without us: we hear of it */
        fail(nccl, err == RT_EREFUSED ? rt_fail_prefix(RT_EPEER, "trainer/0: ") : err);
}

static void ask(void *arg)
{
    struct nccl *nccl = arg;
    struct wire_ask_communicator m = {nccl->group_epoch, nccl->version};
    struct ask *asked = rt_xmalloc(sizeof *asked);
    *asked = (struct ask){nccl, nccl->group_epoch};
    int err = wire_ask_communicator_pack(&m, &nccl->out);
    struct rt_outgoing out = {.message = nccl->out.data, .message_size = nccl->out.size};
    if (!err)
        err = rt_rpc_call(nccl->conf.first, WIRE_ASK_COMMUNICATOR, &out, 0, on_answer, asked);
    if (err) {
        rt_free(asked);
        ask_again(nccl);
    }
}

#define NUMBER(version) (version) / 10000, (version) / 100 % 100, (version) % 100

static int check_ask(struct nccl *nccl, uint32_t from, const struct wire_ask_communicator *m)
{
    if (nccl->conf.rank != 0 || from == 0 || from >= nccl->conf.world)
        return RT_FAIL(RT_EPROTO, "AskCommunicator of rank %u of %u, at rank %u", from,
                       nccl->conf.world, nccl->conf.rank);
    if (m->group_epoch != nccl->group_epoch)
        return RT_FAIL(m->group_epoch > nccl->group_epoch ? RT_ENOTREADY : RT_ESTALE,
                       "AskCommunicator of group epoch %" PRIu64 ", this rank is in %" PRIu64,
                       m->group_epoch, nccl->group_epoch);
    if (m->version != nccl->version)
        return RT_FAIL(
            RT_EUSAGE,
            "trainer/%u has NCCL %u.%u.%u, trainer/0 has %u.%u.%u: expected the same version "
            "on all hosts",
            from, NUMBER(m->version), NUMBER(nccl->version));
    if (nccl->state == FAILED)
        return RT_FAIL(RT_EREFUSED, "%s", nccl->text);
    if (nccl->state == IDLE || nccl->state == MAKING)
        return RT_FAIL(RT_ENOTREADY, "AskCommunicator: there is no id yet");
    return 0;
}

void tr_nccl_serve(struct tr_collective *collective, struct rt_call *call,
                   const struct rt_frame *request)
{
    struct nccl *nccl = (struct nccl *)collective;
    struct wire_ask_communicator m;
    if (collective->ops != &nccl_ops) {
        rt_call_fail(call, RT_EUSAGE,
                     "AskCommunicator: trainer/0 sums by the ring, this trainer by NCCL: expected "
                     "a GPU for all "
                     "trainers, or global.trainer.collective=ring");
        return;
    }
    rt_arena_reset(nccl->scratch);
    int err = wire_ask_communicator_unpack(request->message, request->header.message_size,
                                           nccl->scratch, &m);
    if (!err)
        err = check_ask(nccl, rt_call_from(call)->index, &m);
    struct wire_ask_communicator_reply reply = {nccl->group_epoch, nccl->version, nccl->open.id};
    if (!err)
        err = wire_ask_communicator_reply_pack(&reply, &nccl->out);
    if (!err) {
        rt_call_reply(
            call, &(struct rt_outgoing){.message = nccl->out.data, .message_size = nccl->out.size});
        return;
    }
    rt_call_fail(call, err, rt_err_text());
    if (err == RT_EUSAGE && nccl->state != FAILED) /* it will not come */
        fail(nccl, err);
}

/* ---- the open sum ---- */

static bool has_more(const struct nccl *nccl)
{
    return nccl->is_open &&
           (nccl->given_from > nccl->ready_from || (nccl->completed && !nccl->flags_given));
}

static void woken(void *arg)
{
    struct wake *wake = arg;
    atomic_store(&wake->posted, false);
    if (wake->nccl)
        look(wake->nccl);
    else
        rt_free(wake);
}

/* By a thread of CUDA's. */
static void wake_up(void *arg)
{
    struct wake *wake = arg;
    if (wake->post && !atomic_exchange(&wake->posted, true) &&
        wake->post(wake->ctx, woken, wake) != 0)
        atomic_store(&wake->posted, false);
}

static int give_one(struct nccl *nccl)
{
    const struct tr_nccl_conf *conf = &nccl->conf;
    if (!nccl->began)
        conf->api->begin(nccl->link);
    nccl->began = true;
    if (nccl->given_from == nccl->ready_from) {
        nccl->flags_given = true;
        return conf->api->sum_flags(nccl->link, nccl->nonfinite, wake_up, nccl->wake);
    }
    size_t from = --nccl->given_from * nccl->base.bucket, left = nccl->n - from;
    return conf->api->sum(nccl->link, nccl->value + from,
                          left < nccl->base.bucket ? left : nccl->base.bucket, nccl->dtype,
                          conf->written ? conf->written(conf->ctx, from) : NULL);
}

/* The link's word, after it was given all that it takes. */
static int give(struct nccl *nccl, uint64_t *summed)
{
    int now = nccl->conf.api->poll(nccl->link, summed);
    if (now == TR_NCCL_FREE && nccl->state == JOINING) {
        enter(nccl, UP);
        rt_log(RT_LOG_INFO, "nccl_up epoch=%" PRIu64 " ranks=%u version=%u.%u.%u",
               nccl->group_epoch, nccl->conf.world, NUMBER(nccl->version));
    }
    while (now == TR_NCCL_FREE && has_more(nccl)) {
        now = give_one(nccl);
        if (!now)
            now = nccl->conf.api->poll(nccl->link, summed);
    }
    return now;
}

/* When to look again; by itself, or because nobody may tell. */
static void set_watch(struct nccl *nccl, int now)
{
    uint64_t after = WATCHDOG_NS;
    if (nccl->state == JOINING)
        after = JOINING_NS;
    else if (nccl->is_open && nccl->state == UP &&
             (now == TR_NCCL_BUSY || (nccl->completed && !nccl->conf.post)))
        after = BUSY_NS;
    nccl->look.fire = look;
    nccl->look.arg = nccl;
    if (nccl->link || (nccl->is_open && nccl->completed))
        rt_timer_start(nccl->conf.io, &nccl->look, after);
}

static bool has_stalled(struct nccl *nccl)
{
    if (!nccl->is_open || !nccl->completed ||
        rt_io_now(nccl->conf.io) - nccl->moved_ns < nccl->conf.stall_ns)
        return false;
    rt_fail(RT_EDEADLINE, "the all-reduce has made no progress for %" PRIu64 " s",
            nccl->conf.stall_ns / 1000000000);
    return true;
}

/* All that there is to do now, and when to look again. */
static void look(void *arg)
{
    struct nccl *nccl = arg;
    uint64_t summed = 0;
    if (nccl->state == FAILED) {
        if (nccl->is_open)
            finish(nccl, rt_fail(nccl->err, "%s", nccl->text));
        return;
    }
    int now = nccl->link ? give(nccl, &summed) : TR_NCCL_BUSY;
    if (now < 0) {
        fail(nccl, now);
        return;
    }
    if (nccl->began && summed != nccl->summed) {
        nccl->summed = summed;
        nccl->moved_ns = rt_io_now(nccl->conf.io);
    }
    set_watch(nccl, now);
    if (nccl->is_open && nccl->flags_given && nccl->summed == nccl->n_buckets + 1)
        finish(nccl, 0);
    else if (has_stalled(nccl))
        fail(nccl, RT_EDEADLINE);
}

static void begin(struct tr_collective *collective, float *value, size_t n, uint32_t dtype,
                  tr_reduced_fn done, void *arg)
{
    struct nccl *nccl = (struct nccl *)collective;
    rt_assert(!nccl->is_open && n <= nccl->conf.n_max);
    nccl->is_open = true;
    nccl->began = nccl->completed = nccl->flags_given = false;
    nccl->value = value;
    nccl->n = n;
    nccl->n_buckets = (n + collective->bucket - 1) / collective->bucket;
    nccl->ready_from = nccl->given_from = nccl->n_buckets;
    nccl->dtype = dtype;
    nccl->done = done;
    nccl->arg = arg;
    nccl->summed = 0;
}

/* The first bucket goes when all is complete, as its owner tells of the others alone. */
static void ready(struct tr_collective *collective, size_t from)
{
    struct nccl *nccl = (struct nccl *)collective;
    size_t first = (from + collective->bucket - 1) / collective->bucket;
    if (!nccl->is_open || first >= nccl->ready_from)
        return;
    nccl->ready_from = first;
    look(nccl);
}

static void complete(struct tr_collective *collective, bool nonfinite)
{
    struct nccl *nccl = (struct nccl *)collective;
    rt_assert(nccl->is_open && !nccl->completed);
    nccl->completed = true;
    nccl->nonfinite = nonfinite;
    nccl->ready_from = 0;
    nccl->moved_ns = rt_io_now(nccl->conf.io);
    look(nccl);
}

/* ---- life ---- */

static void abort_open(struct tr_collective *collective)
{
    struct nccl *nccl = (struct nccl *)collective;
    close_link(nccl);
    enter(nccl, IDLE);
    if (nccl->is_open)
        finish(nccl, RT_FAIL(RT_ECANCELED, "the all-reduce was given up"));
}

static void form(struct tr_collective *collective, uint64_t group_epoch)
{
    struct nccl *nccl = (struct nccl *)collective;
    rt_assert(!nccl->is_open && group_epoch > nccl->group_epoch);
    close_link(nccl);
    nccl->group_epoch = group_epoch;
    enter(nccl, nccl->conf.rank == 0 ? MAKING : ASKING);
    if (nccl->conf.rank == 0)
        start_job(nccl, MAKE_ID, NULL);
    else
        ask(nccl);
}

static void destroy(struct tr_collective *collective)
{
    struct nccl *nccl = (struct nccl *)collective;
    while (nccl->jobs) { /* the helper thread is at rest: what has not been run will not be */
        struct job *job = nccl->jobs;
        if (job->link && (job->kind == OPEN || !job->ran))
            nccl->conf.api->close(job->link);
        forget_job(job);
    }
    if (nccl->link)
        nccl->conf.api->close(nccl->link);
    rt_timer_stop(nccl->conf.io, &nccl->look);
    rt_timer_stop(nccl->conf.io, &nccl->again);
    if (nccl->wake && atomic_load(&nccl->wake->posted))
        nccl->wake->nccl = NULL; /* the loop frees it */
    else
        rt_free(nccl->wake);
    rt_arena_destroy(nccl->scratch);
    wire_out_release(&nccl->out);
    rt_free(nccl->flag);
    rt_free(nccl);
}

static const struct tr_collective_ops nccl_ops = {"nccl",     begin, ready,  complete,
                                                  abort_open, form,  destroy};

int tr_collective_nccl(const struct tr_nccl_conf *conf, struct tr_collective **out)
{
    rt_assert(conf->rank < conf->world && conf->bucket > 0 && (conf->rank == 0 || conf->first));
    struct nccl *nccl = rt_xcalloc(1, sizeof *nccl);
    nccl->base.ops = &nccl_ops;
    nccl->base.bucket = conf->bucket;
    nccl->base.on_gpu = true;
    nccl->conf = *conf;
    if (nccl->conf.stall_ns == 0)
        nccl->conf.stall_ns = TR_STALL_NS;
    nccl->version = conf->api->version();
    nccl->open =
        (struct tr_nccl_open){.world = conf->world,
                              .rank = conf->rank,
                              .bucket = conf->bucket,
                              .n_buckets = (conf->n_max + conf->bucket - 1) / conf->bucket};
    nccl->wake = rt_xcalloc(1, sizeof *nccl->wake);
    *nccl->wake = (struct wake){.nccl = nccl, .post = conf->post, .ctx = conf->ctx};
    nccl->flag = rt_try_calloc(conf->world, 1);
    int err = rt_arena_create(1 << 16, &nccl->scratch);
    if (!err && !nccl->flag)
        err = RT_FAIL(RT_ENOMEM, "no memory for a group of %u ranks", conf->world);
    if (err) {
        destroy(&nccl->base);
        return err;
    }
    *out = &nccl->base;
    return 0;
}
