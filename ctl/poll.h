/* ctl/poll.h -- asks all roles of a job for their status, again and again, on a thread of its own.
 *
 * The control client blocks, so it may not run on the supervisor's loop: each round of answers is handed
 * over through a mutex and uv_async_send, and only the newest is kept. */
#ifndef CTL_POLL_H
#define CTL_POLL_H

#include "runtime/base/role.h"
#include "runtime/member/member.h"

#include <jansson.h>
#include <uv.h>

#define CTL_NATS_TEXT 256

/* One round: for each role an array of its replicas' status objects, null where there was no answer. The
 * trainers are asked first: once they say done, the others' figures of the same round are final too. */
struct ctl_snapshot {
    json_t *role[RT_ROLE_COUNT];
    uint32_t silent;          /* replicas that did not answer */
    uint64_t asked_ns;        /* when the round began; 0: there was none */
    char nats[CTL_NATS_TEXT]; /* why NATS cannot be asked; "": it can */
    char save[CTL_NATS_TEXT]; /* who refused to save the model, and why; "": nobody */
};
void ctl_snapshot_release(struct ctl_snapshot *snapshot);
/* Who is silent in `newer` has there what `older` says of it. `older` is released. */
void ctl_snapshot_keep(struct ctl_snapshot *newer, struct ctl_snapshot *older);
/* What one process told is not true any more: it is silent. */
void ctl_snapshot_forget(struct ctl_snapshot *snapshot, enum rt_role role, uint32_t index);

/* Ask one role, blocking, half a second at most. Never fails: whoever does not answer is silent. */
void ctl_snapshot_ask(struct rt_control_client *client, const char *job, enum rt_role role,
                      uint32_t replicas, struct ctl_snapshot *snapshot);

struct ctl_poll_conf {
    uv_loop_t *loop;
    const char *nats_url, *job; /* must stay */
    uint32_t replicas[RT_ROLE_COUNT];
    uint32_t every_ms;
    void *ctx;
    /* On the loop. The snapshot is the callee's. */
    void (*news)(void *ctx, struct ctl_snapshot *snapshot);
};

struct ctl_poll;
int ctl_poll_start(const struct ctl_poll_conf *conf, struct ctl_poll **out);
void ctl_poll_now(struct ctl_poll *poll); /* begin the next round at once */
/* From now on each round has them save the model first, as RT_SAVE_NAME: ctl_save_ask(). */
void ctl_poll_save(struct ctl_poll *poll, bool rows, bool with_state);
void ctl_poll_save_not(struct ctl_poll *poll); /* no more */
void ctl_poll_cancel(struct ctl_poll *poll);   /* no more news; the thread ends when it can */
/* Waits for the thread (at most about a second), then frees on the loop, which must run once more. NULL is
 * legal. */
void ctl_poll_stop(struct ctl_poll *poll);

#endif
