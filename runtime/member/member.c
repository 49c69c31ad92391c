/* runtime/member/member.c -- who is there, and what an operator tells us.
 *
 * Everything here runs on the control loop; runtime/member/bus.c brings messages from NATS' threads. A hello
 * is said each second until we are ready or done, then each 5 s, at once when our state changes or NATS
 * comes back, and soon (with jitter, for a whole job answers) when somebody asks who is there.
 *
 * Of each peer the latest {incarnation, sequence} is kept: lower ones are ignored, so a message that NATS
 * delivers late cannot bring back an old address. Peers are never removed for their silence. A hello of a lower
 * incarnation may be late, or of a process that was replaced, or of one that started anew after its clock was put
 * back: it is answered with the number held, and only the process itself can tell which it is.
 *
 * A control request may come twice (the asker saw no answer): the answers of the last few are kept by id
 * and said again, so the command runs once. */
#include "runtime/member/member.h"
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/hash.h"
#include "runtime/base/log.h"
#include "runtime/base/map.h"
#include "runtime/base/mem.h"
#include "runtime/base/strbuf.h"
#include "runtime/member/bus.h"
#include "runtime/member/service.h"
#include "runtime/member/stranger.h"
#include "runtime/member/subject.h"

#include <stdio.h>
#include <string.h>

#define HELLO_SOON_NS  (1 * RT_S)
#define HELLO_LATER_NS (5 * RT_S)
#define WHO_JITTER_NS  (200 * RT_MS)
#define TICK_NS        (1 * RT_S)
#define AWAY_LOG_NS    (5 * RT_S)
#define WAITING_LOG_NS (10 * RT_S)
#define ARENA_BYTES    ((size_t)256 << 10) /* what one message may unpack to */
#define ANSWERS_KEPT   32
#define WAITING_MAX    160

struct peer {
    uint64_t incarnation, sequence, digest; /* digest: of what makes a hello news */
    uint64_t told_ns;                       /* when it was last told what we hold */
};

struct answer {
    uint64_t id; /* 0: none */
    int32_t status;
    char text[WIRE_TEXT_MAX];
};

struct rt_member {
    struct rt_member_conf conf;
    struct rt_io *io;
    struct rt_bus *bus;
    struct rt_arena *arena; /* reset for each message */
    struct wire_out out;
    struct wire_hello self;
    struct rt_timer hello, tick;
    bool hello_is_near;  /* `hello` rings within the jitter of a who */
    struct rt_map peers; /* role << 32 | index -> struct peer * */
    struct answer answer[ANSWERS_KEPT];
    size_t next_answer;
    char waiting[WAITING_MAX];
    uint64_t waiting_since_ns, waiting_logged_ns;
    uint64_t away_since_ns, away_logged_ns; /* 0: NATS is there */
    uint64_t lost_logged;
    struct rt_service service;
    char *hello_subject, *who_subject, *service_name, *service_id, *control_subject;
    char last_error[WIRE_TEXT_MAX];
    char url[RT_BUS_URL_MAX]; /* as it may be shown */
};

/* ---- saying ---- */

static void say(struct rt_member *member, const char *subject)
{
    /* While NATS is away nothing is said; the hello on reconnect makes up for it. */
    (void)rt_bus_publish(member->bus, subject, member->out.data, member->out.size);
}

static void say_hello(struct rt_member *member)
{
    bool settled = member->self.state == WIRE_READY || member->self.state == WIRE_DONE;
    uint64_t period = settled ? HELLO_LATER_NS : HELLO_SOON_NS;
    uint64_t jitter = member->io->ops->random(member->io) % (period / 16);

    member->hello_is_near = false;
    rt_timer_start(member->io, &member->hello, period - jitter);
    member->self.sequence++;
    if (wire_hello_pack(&member->self, &member->out) != 0) {
        rt_log(RT_LOG_ERROR, "hello_not_said reason=\"%s\"", rt_err_text());
        return;
    }
    say(member, member->hello_subject);
}

static void on_hello_timer(void *arg)
{
    say_hello(arg);
}

static void ask_who(struct rt_member *member)
{
    struct wire_who who = {member->self.role, member->self.index};

    if (wire_who_pack(&who, &member->out) == 0)
        say(member, member->who_subject);
}

/* ---- hearing: hello and who ---- */

static uint64_t digest_of(const struct wire_hello *hello)
{
    uint64_t d = rt_hash_bytes_seed(hello->admin, strlen(hello->admin), hello->state);

    d = rt_hash_bytes_seed(&hello->replicas, sizeof(hello->replicas), d);
    for (uint32_t i = 0; i < hello->n_addresses; i++)
        d = rt_hash_bytes_seed(hello->address[i], strlen(hello->address[i]), d);
    return d;
}

/* Its handshake would be refused: its addresses are of no use, and what it says of its job misleads. */
static void refuse_peer(struct rt_member *member, const struct wire_hello *hello)
{
    char text[RT_STRANGER_TEXT];

    rt_stranger_text(&member->self, hello, text);
    rt_log(RT_LOG_WARN, "peer_refused reason=\"%s\"", text);
    if (member->conf.stranger)
        member->conf.stranger(member->conf.ctx, hello, text);
}

/* At most once in half a second: a hello comes each second. */
static void say_held(struct rt_member *member, struct peer *peer, const struct wire_hello *hello)
{
    struct wire_held held = {hello->role, hello->index, peer->incarnation};
    uint64_t now_ns = rt_io_now(member->io);
    char subject[RT_SUBJECT_MAX];

    if (peer->told_ns && now_ns - peer->told_ns < TICK_NS / 2)
        return;
    peer->told_ns = now_ns;
    rt_subject_held(subject, member->self.job, hello->role, hello->index);
    if (wire_held_pack(&held, &member->out) == 0)
        say(member, subject);
}

static void hear_peer(struct rt_member *member, const struct wire_hello *hello)
{
    uint64_t key = (uint64_t)hello->role << 32 | hello->index, digest = digest_of(hello);
    struct peer *peer = rt_map_get_ptr(&member->peers, key);
    bool news = !peer || hello->incarnation > peer->incarnation || digest != peer->digest;

    if (peer && hello->incarnation < peer->incarnation) {
        say_held(member, peer, hello);
        return;
    }
    if (peer && hello->incarnation == peer->incarnation && hello->sequence <= peer->sequence)
        return;
    if (!peer) {
        peer = rt_xcalloc(1, sizeof(*peer));
        if (rt_map_put_ptr(&member->peers, key, peer) != 0) {
            rt_free(peer);
            return; /* out of memory: heard at its next hello */
        }
    }
    *peer = (struct peer){hello->incarnation, hello->sequence, digest, 0};
    if (news && !rt_is_of_our_job(&member->self, hello))
        refuse_peer(member, hello);
    else if (news && member->conf.hello)
        member->conf.hello(member->conf.ctx, hello);
}

static void hear_hello(struct rt_member *member, const struct rt_bus_message *message)
{
    struct wire_hello hello;
    char subject[RT_SUBJECT_MAX];

    if (wire_hello_unpack(message->data, message->size, member->arena, &hello) != 0) {
        rt_log(RT_LOG_WARN, "hello_refused reason=\"%s\"", rt_err_text());
        return;
    }
    rt_subject_hello(subject, hello.job, hello.role, &hello.index);
    if (strcmp(subject, message->subject) != 0) {
        rt_log(RT_LOG_WARN, "hello_refused reason=\"says to be %s\"", subject);
        return;
    }
    if (hello.role != member->self.role || hello.index != member->self.index)
        hear_peer(member, &hello);
    else if (hello.incarnation > member->self.incarnation && member->conf.replaced)
        member->conf.replaced(member->conf.ctx, &hello);
}

static void hear_held(struct rt_member *member, const struct rt_bus_message *message)
{
    struct wire_held held;

    if (wire_held_unpack(message->data, message->size, member->arena, &held) == 0 &&
        held.role == member->self.role && held.index == member->self.index &&
        held.incarnation > member->self.incarnation && member->conf.held)
        member->conf.held(member->conf.ctx, held.incarnation);
}

static void hear_who(struct rt_member *member, const struct rt_bus_message *message)
{
    struct wire_who who;

    if (member->hello_is_near ||
        wire_who_unpack(message->data, message->size, member->arena, &who) != 0)
        return;
    member->hello_is_near = true;
    rt_timer_start(member->io, &member->hello, member->io->ops->random(member->io) % WHO_JITTER_NS);
}

/* ---- hearing: control ---- */

static const struct answer *find_answer(const struct rt_member *member, uint64_t id)
{
    for (size_t i = 0; i < ANSWERS_KEPT && id; i++) {
        if (member->answer[i].id == id)
            return &member->answer[i];
    }
    return NULL;
}

static void keep_answer(struct rt_member *member, const struct wire_control_reply *reply)
{
    struct answer *answer = &member->answer[member->next_answer];

    member->next_answer = (member->next_answer + 1) % ANSWERS_KEPT;
    answer->id = reply->id;
    answer->status = reply->status;
    snprintf(answer->text, sizeof(answer->text), "%s", reply->text);
}

/* Run a request that is in time and meant for us, unless it was run before. */
static void execute(struct rt_member *member, const struct wire_control_request *request,
                    struct wire_control_reply *reply)
{
    const struct answer *answer = find_answer(member, request->id);

    if (answer) {
        reply->status = answer->status;
        reply->text = answer->text;
        return;
    }
    if (!member->conf.control) {
        reply->status = RT_FAIL(RT_EUSAGE, "no commands are taken here");
        reply->text = rt_err_text();
        return;
    }
    member->conf.control(member->conf.ctx, request, reply);
    if (!reply->text)
        reply->text = "";
    if (strnlen(reply->text, WIRE_STATUS_MAX + 1) > WIRE_STATUS_MAX) {
        reply->status = RT_FAIL(RT_ELIMIT, "the answer is longer than %u bytes", WIRE_STATUS_MAX);
        reply->text = rt_err_text();
    }
    if (request->command !=
        WIRE_CTL_STATUS) /* asking for it again does no harm, and it may be long */
        keep_answer(member, reply);
}

static int check_request(const struct rt_member *member, const struct rt_bus_message *message,
                         const struct wire_control_request *request)
{
    uint64_t age_ms = (rt_now_ns() - message->arrived_ns) / RT_MS;

    if (request->ttl_ms && age_ms > request->ttl_ms)
        return RT_FAIL(RT_EDEADLINE, "request is %llu ms old, its limit is %u ms",
                       (unsigned long long)age_ms, request->ttl_ms);
    if (request->incarnation && request->incarnation != member->self.incarnation)
        return RT_FAIL(RT_ESTALE, "meant for incarnation %llu, this is %llu",
                       (unsigned long long)request->incarnation,
                       (unsigned long long)member->self.incarnation);
    return 0;
}

static void hear_control(struct rt_member *member, const struct rt_bus_message *message)
{
    struct wire_control_reply reply = {.role = member->self.role,
                                       .index = member->self.index,
                                       .incarnation = member->self.incarnation,
                                       .text = ""};
    struct wire_control_request request = {0};
    uint64_t begun_ns = rt_now_ns();
    int err;

    err = wire_control_request_unpack(message->data, message->size, member->arena, &request);
    if (!err)
        err = check_request(member, message, &request);
    reply.id = request.id;
    reply.status = err;
    if (err)
        reply.text = rt_err_text();
    else
        execute(member, &request, &reply);
    member->service.requests++;
    if (reply.status) {
        member->service.errors++;
        snprintf(member->last_error, sizeof(member->last_error), "%s", reply.text);
    }
    member->service.busy_ns += rt_now_ns() - begun_ns;
    if (message->reply && wire_control_reply_pack(&reply, &member->out) == 0)
        say(member, message->reply);
}

static void hear_service(struct rt_member *member, const struct rt_bus_message *message)
{
    struct rt_strbuf json;

    rt_strbuf_init(&json);
    if (message->reply && rt_service_answer(&member->service, message->subject, &json))
        (void)rt_bus_publish(member->bus, message->reply, json.text, json.len);
    rt_strbuf_release(&json);
}

static void on_message(void *ctx, const struct rt_bus_message *message)
{
    struct rt_member *member = ctx;
    char ours[RT_SUBJECT_MAX];
    size_t len = rt_subject_job(ours, member->self.job);

    rt_arena_reset(member->arena);
    if (strncmp(message->subject, "$SRV.", 5) == 0)
        hear_service(member, message);
    else if (strncmp(message->subject, ours, len) != 0)
        return;
    else if (strncmp(message->subject + len, "hello.", 6) == 0)
        hear_hello(member, message);
    else if (strncmp(message->subject + len, "held.", 5) == 0)
        hear_held(member, message);
    else if (strcmp(message->subject + len, "who") == 0)
        hear_who(member, message);
    else if (strncmp(message->subject + len, "ctl.", 4) == 0)
        hear_control(member, message);
}

/* ---- NATS comes and goes, and what is logged about waiting ---- */

static void on_change(void *ctx, bool connected)
{
    struct rt_member *member = ctx;

    if (connected) {
        rt_log(RT_LOG_INFO, "nats_connected url=%s", member->url);
        member->away_since_ns = 0;
        ask_who(member);
        say_hello(member);
        return;
    }
    rt_log(RT_LOG_WARN, "nats_lost url=%s", member->url);
    member->away_since_ns = member->away_logged_ns = rt_io_now(member->io);
}

static unsigned seconds_since(uint64_t now_ns, uint64_t then_ns)
{
    return (unsigned)((now_ns - then_ns + RT_S / 2) / RT_S);
}

static void on_tick(void *arg)
{
    struct rt_member *member = arg;
    uint64_t now_ns = rt_io_now(member->io), lost = rt_bus_lost(member->bus);

    rt_timer_start(member->io, &member->tick, TICK_NS);
    if (member->away_since_ns && now_ns - member->away_logged_ns >= AWAY_LOG_NS) {
        rt_log(RT_LOG_WARN, "nats_unreachable url=%s seconds=%u", member->url,
               seconds_since(now_ns, member->away_since_ns));
        member->away_logged_ns = now_ns;
    }
    if (member->waiting[0] && now_ns - member->waiting_logged_ns >= WAITING_LOG_NS) {
        rt_log(RT_LOG_INFO, "waiting for=\"%s\" seconds=%u", member->waiting,
               seconds_since(now_ns, member->waiting_since_ns));
        member->waiting_logged_ns = now_ns;
    }
    if (lost != member->lost_logged) {
        rt_log(RT_LOG_WARN, "nats_messages_lost total=%llu", (unsigned long long)lost);
        member->lost_logged = lost;
    }
}

void rt_member_set_waiting(struct rt_member *member, const char *what)
{
    if (!what)
        what = "";
    if (strncmp(member->waiting, what, sizeof(member->waiting) - 1) == 0)
        return;
    snprintf(member->waiting, sizeof(member->waiting), "%s", what);
    member->waiting_since_ns = member->waiting_logged_ns = rt_io_now(member->io);
    if (what[0])
        rt_log(RT_LOG_INFO, "waiting for=\"%s\"", member->waiting);
}

const char *rt_member_waiting(const struct rt_member *member)
{
    return member->waiting[0] ? member->waiting : NULL;
}

/* ---- life ---- */

static void name_things(struct rt_member *member)
{
    const struct wire_hello *self = &member->self;
    const char *role = rt_role_name(self->role);
    char subject[RT_SUBJECT_MAX];

    rt_subject_hello(subject, self->job, self->role, &self->index);
    member->hello_subject = rt_xstrdup(subject);
    rt_subject_who(subject, self->job);
    member->who_subject = rt_xstrdup(subject);
    rt_subject_control(subject, self->job, self->role, &self->index);
    member->control_subject = rt_xstrdup(subject);
    member->service_name = rt_xasprintf("saffron-%s", role);
    member->service_id = rt_xasprintf("%s-%s-%u-%llu", self->job, role, self->index,
                                      (unsigned long long)self->incarnation);
    member->service = (struct rt_service){
        .name = member->service_name,
        .id = member->service_id,
        .version = self->version,
        .description = "a role of a Saffron training job",
        .subject = member->control_subject,
        .started_ms = member->io->ops->wall_ms(member->io),
        .last_error = member->last_error,
    };
    rt_bus_shown_url(member->conf.nats_url, member->url, sizeof(member->url));
}

static int subscribe_all(struct rt_member *member)
{
    const struct wire_hello *self = &member->self;
    char subject[RT_SUBJECT_MAX];
    int err = rt_bus_subscribe(member->bus, member->who_subject);

    for (int role = 0; role < RT_ROLE_COUNT && !err; role++) {
        if (member->conf.listens_to & RT_ROLE_BIT(role)) {
            rt_subject_hello(subject, self->job, (enum rt_role)role, NULL);
            err = rt_bus_subscribe(member->bus, subject);
        }
    }
    /* Of the trainers at least the first, who says when the job is done. */
    if (!err && !(member->conf.listens_to & RT_ROLE_BIT(RT_ROLE_TRAINER))) {
        rt_subject_hello(subject, self->job, RT_ROLE_TRAINER, &(uint32_t){0});
        err = rt_bus_subscribe(member->bus, subject);
    }
    /* Our own: to hear of a successor. */
    if (!err && !(member->conf.listens_to & RT_ROLE_BIT(self->role)))
        err = rt_bus_subscribe(member->bus, member->hello_subject);
    rt_subject_held(subject, self->job, self->role, self->index);
    if (!err)
        err = rt_bus_subscribe(member->bus, subject);
    rt_subject_control(subject, self->job, self->role, NULL);
    if (!err)
        err = rt_bus_subscribe(member->bus, subject);
    if (!err)
        err = rt_bus_subscribe(member->bus, member->control_subject);
    if (!err)
        err = rt_bus_subscribe(member->bus, RT_SERVICE_SUBJECTS);
    return err;
}

static int check_conf(const struct rt_member_conf *conf)
{
    if (!wire_is_token(conf->self.job))
        return RT_FAIL(RT_EUSAGE, "job name '%s': expected 1 to 63 of A-Z a-z 0-9 _ -",
                       conf->self.job ? conf->self.job : "");
    if (conf->self.index >= conf->self.replicas)
        return RT_FAIL(RT_EUSAGE, "index %u: expected less than the number of replicas, %u",
                       conf->self.index, conf->self.replicas);
    return 0;
}

int rt_member_create(const struct rt_member_conf *conf, struct rt_member **out)
{
    struct rt_member *member;
    struct rt_bus_conf bus;
    int err = check_conf(conf);

    if (err)
        return err;
    member = rt_xcalloc(1, sizeof(*member));
    member->conf = *conf;
    member->self = conf->self;
    member->io = rt_loop_io(conf->loop);
    if (!member->self.incarnation)
        member->self.incarnation = member->io->ops->wall_ms(member->io);
    member->self.sequence = 0;
    rt_map_init(&member->peers);
    name_things(member);
    member->hello.fire = on_hello_timer;
    member->tick.fire = on_tick;
    member->hello.arg = member->tick.arg = member;
    member->away_since_ns = member->away_logged_ns = rt_io_now(member->io);
    bus = (struct rt_bus_conf){.loop = conf->loop,
                               .url = conf->nats_url,
                               .name = member->service_id,
                               .ctx = member,
                               .message = on_message,
                               .change = on_change};
    err = rt_arena_create(ARENA_BYTES, &member->arena);
    if (!err)
        err = rt_bus_create(&bus, &member->bus);
    if (!err)
        err = subscribe_all(member);
    if (err) {
        rt_member_destroy(member);
        return err;
    }
    if (!rt_bus_connected(member->bus))
        rt_log(RT_LOG_WARN, "nats_unreachable url=%s", member->url);
    rt_timer_start(member->io, &member->hello, HELLO_SOON_NS);
    rt_timer_start(member->io, &member->tick, TICK_NS);
    *out = member;
    return 0;
}

void rt_member_destroy(struct rt_member *member)
{
    uint64_t key, value;

    if (!member)
        return;
    rt_timer_stop(member->io, &member->hello);
    rt_timer_stop(member->io, &member->tick);
    rt_bus_destroy(member->bus);
    for (size_t i = 0; rt_map_next(&member->peers, &i, &key, &value);)
        rt_free((void *)(uintptr_t)value);
    rt_map_release(&member->peers);
    rt_arena_destroy(member->arena);
    wire_out_release(&member->out);
    rt_free(member->hello_subject);
    rt_free(member->who_subject);
    rt_free(member->control_subject);
    rt_free(member->service_name);
    rt_free(member->service_id);
    rt_free(member);
}

void rt_member_set_state(struct rt_member *member, enum wire_state state)
{
    if (member->self.state == state)
        return;
    member->self.state = state;
    rt_log(RT_LOG_INFO, "state now=%s", wire_state_name(state));
    say_hello(member);
}

bool rt_member_connected(const struct rt_member *member)
{
    return rt_bus_connected(member->bus);
}

uint64_t rt_member_incarnation(const struct rt_member *member)
{
    return member->self.incarnation;
}
