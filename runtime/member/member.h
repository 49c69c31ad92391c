/* runtime/member/member.h -- presence and control over NATS, on the process' control loop.
 *
 * Says hello each second until ready, then each 5 s; listens to the hellos of the roles it talks to, and to
 * trainer/0's, by which all learn that the job is done; answers `who` and control requests. NATS threads only
 * enqueue; every callback here runs on the loop. Nothing is published while NATS is away; old sequences and lower
 * incarnations are ignored; absence of hellos removes nobody. A hello of our own identity with a higher
 * incarnation: replaced(). Whoever says hello with a lower incarnation than we know of it is told the number that we
 * hold: held(), on its side. */
#ifndef RT_MEMBER_H
#define RT_MEMBER_H

#include "runtime/net/loop.h"
#include "runtime/wire/member.h"

struct rt_member;

struct rt_member_conf {
    struct rt_loop *loop;
    const char *nats_url;
    struct wire_hello
        self;            /* sequence and state are kept by the member; pointers must stay valid */
    uint32_t listens_to; /* RT_ROLE_BIT()s */
    void *ctx;
    /* A hello that is news: first, other address, other incarnation, other state. Valid in the call. Not told
     * of processes whose handshake would be refused (other wire version, configuration or data plan): see
     * stranger. */
    void (*hello)(void *ctx, const struct wire_hello *hello);
    /* A control request meant for us. Fill status, and text (owned by ctx until the next call). */
    void (*control)(void *ctx, const struct wire_control_request *request,
                    struct wire_control_reply *reply);
    /* A hello that is news, of a process that runs our job with other files: one line about that. May be NULL. */
    void (*stranger)(void *ctx, const struct wire_hello *hello, const char *text);
    void (*replaced)(void *ctx, const struct wire_hello *by); /* a hello of ours, but newer */
    /* A peer remembers a higher incarnation of us; whether that process lives is not said. May be NULL. */
    void (*held)(void *ctx, uint64_t incarnation);
};

/* Starts connecting and keeps trying for ever; says so in the log every 5 s while it cannot. */
int rt_member_create(const struct rt_member_conf *conf, struct rt_member **out);
void rt_member_destroy(struct rt_member *member);
void rt_member_set_state(struct rt_member *member, enum wire_state state); /* says hello at once */
/* What we wait for ("embedding_server/0"), for status and log; NULL: nothing. Copied. */
void rt_member_set_waiting(struct rt_member *member, const char *what);
const char *rt_member_waiting(const struct rt_member *member);
bool rt_member_connected(const struct rt_member *member);
uint64_t rt_member_incarnation(const struct rt_member *member);

/* Ask a role from outside (ctl): NULL index asks the whole role. Blocking, for `saffron` only; not on a
 * loop. One reply per process arrives until timeout_ms; returns their number or an error. */
struct rt_control_client;
int rt_control_connect(const char *nats_url, uint32_t timeout_ms, struct rt_control_client **out);
void rt_control_close(struct rt_control_client *client);
int rt_control_ask(struct rt_control_client *client, const char *job, enum rt_role role,
                   const uint32_t *index, const struct wire_control_request *request,
                   uint32_t timeout_ms, uint32_t want, void *ctx,
                   void (*reply)(void *ctx, const struct wire_control_reply *reply));

#endif
