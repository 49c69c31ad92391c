/* ctl/checkpoint.c -- see checkpoint.h.
 *
 * trainer/0 is asked again and again until its status tells of this checkpoint, known by a number that is made here; from then on its
 * status alone is read. So it does not matter which question or answer is lost, and a checkpoint that was published is not
 * asked for a second time. */
#include "ctl/checkpoint.h"
#include "ctl/checkpoints.h"
#include "ctl/poll.h"
#include "ctl/target.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/wire/member.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define CONNECT_TIMEOUT_MS 3000
#define ASK_TIMEOUT_MS     500
#define PAUSE_NS           (100 * RT_MS)
#define STILL_MS           60000 /* without a word of it from trainer/0: it has failed */

struct asking {
    struct ctl_target target;
    struct ctl_words words;
    struct rt_control_client *client;
    const char *name;
    uint64_t number; /* of this request: when it was made */
    bool seen;       /* trainer/0 tells of it */
    uint64_t told_ns;
    char waits[WIRE_TEXT_MAX + 1]; /* what it waits for, as it was said last; "": nothing */
    uint64_t step;                 /* of the checkpoint, when it is there */
    int refused;                   /* an error, of the trainer's; 0: none */
    char why[WIRE_TEXT_MAX + 1];
};

static void on_reply(void *ctx, const struct wire_control_reply *reply)
{
    struct asking *asking = ctx;

    if (reply->status == 0 || reply->status == RT_ENOTREADY || reply->status == RT_EFULL)
        return; /* it will, or it is busy with another one */
    asking->refused = reply->status;
    snprintf(asking->why, sizeof(asking->why), "%s", reply->text ? reply->text : "refused");
}

static void ask_for_it(struct asking *asking)
{
    const uint32_t first = 0;
    const struct wire_control_request request = {.id = rt_now_ns(),
                                                 .ttl_ms = ASK_TIMEOUT_MS,
                                                 .command = WIRE_CTL_CHECKPOINT,
                                                 .text = asking->name,
                                                 .number = (double)asking->number};

    rt_control_ask(asking->client, asking->target.run.job, RT_ROLE_TRAINER, &first, &request,
                   ASK_TIMEOUT_MS, 1, asking, on_reply);
}

/* What trainer/0 tells of this one, while it makes it or afterwards; NULL: nothing. */
static const json_t *find(const json_t *status, uint64_t number)
{
    const json_t *ended = json_object_get(status, "checkpoints_before");
    const json_t *one = json_object_get(status, "checkpoint");

    for (size_t i = 0;
         one && (uint64_t)json_integer_value(json_object_get(one, "number")) != number; i++)
        one = json_array_get(ended, i);
    return one;
}

/* Once for each thing that it waits for; how long it may is trainer/0's to decide. */
static void tell_of_wait(struct asking *asking, const json_t *it)
{
    const char *waits = json_string_value(json_object_get(it, "waits_for"));

    if (!waits || !*waits || strcmp(waits, asking->waits) == 0)
        return;
    snprintf(asking->waits, sizeof(asking->waits), "%s", waits);
    fprintf(stderr, "saffron: the checkpoint is not begun yet: it waits for %s\n", waits);
}

/* @return 1: it is there; 0: not yet, or it does not tell */
static int read_status(struct asking *asking, const json_t *status)
{
    const json_t *it = find(status, asking->number);
    const char *state = json_string_value(json_object_get(it, "state"));
    const char *error = json_string_value(json_object_get(it, "error"));

    if (!state)
        return 0;
    asking->seen = true;
    asking->told_ns = rt_now_ns();
    asking->step = (uint64_t)json_integer_value(json_object_get(it, "step"));
    tell_of_wait(asking, it);
    if (strcmp(state, "failed") == 0)
        return RT_FAIL(RT_EFILE, "the checkpoint was not made: %s",
                       error && *error ? error : "trainer/0 does not say why");
    return strcmp(state, "done") == 0;
}

/* One round. When nobody answers NATS may have been away, and its client does not come back: the next round makes another. */
static int go_on(struct asking *asking)
{
    const struct ctl_run *run = &asking->target.run;
    struct ctl_snapshot snapshot = {0};
    int rc;

    if (!asking->client && rt_control_connect(run->nats, CONNECT_TIMEOUT_MS, &asking->client) != 0)
        return 0;
    if (!asking->seen)
        ask_for_it(asking);
    ctl_snapshot_ask(asking->client, run->job, RT_ROLE_TRAINER, 1, &snapshot);
    rc = read_status(asking, json_array_get(snapshot.role[RT_ROLE_TRAINER], 0));
    if (snapshot.silent == 1) {
        rt_control_close(asking->client);
        asking->client = NULL;
    }
    ctl_snapshot_release(&snapshot);
    if (rc == 0 && !asking->seen && asking->refused)
        rc = RT_FAIL(asking->refused, "the checkpoint was not made: trainer/0: %s", asking->why);
    return rc;
}

static int run(struct asking *asking)
{
    const struct timespec pause = {.tv_nsec = PAUSE_NS};
    int rc;

    asking->number = rt_wall_ms();
    asking->told_ns = rt_now_ns();
    while ((rc = go_on(asking)) == 0) {
        if (rt_now_ns() - asking->told_ns > STILL_MS * RT_MS)
            return RT_FAIL(RT_EDEADLINE,
                           "the checkpoint may be there or not: trainer/0 has told nothing of it "
                           "for %d s",
                           STILL_MS / 1000);
        nanosleep(&pause, NULL);
    }
    return rc < 0 ? rc : 0;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct asking *asking = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &asking->words;
        state->child_inputs[1] = &asking->target;
        return 0;
    case ARGP_KEY_END:
        asking->name = asking->words.word[0];
        if (asking->name && !wire_is_token(asking->name))
            argp_error(state, "expected 1 to 63 of A-Z a-z 0-9 _ -, got '%s'", asking->name);
        return 0;
    default:
        (void)arg;
        return ARGP_ERR_UNKNOWN;
    }
}

static int find_target(int argc, char **argv, struct asking *asking)
{
    const struct argp_child child[] = {{.argp = &ctl_words_argp}, {.argp = &ctl_target_argp}, {0}};
    const struct argp argp = {
        .parser = parse,
        .args_doc = "NAME",
        .children = child,
        .doc = "Have a running job make a checkpoint, NAME, in its checkpoint folder now, and wait "
               "until it is there. Training goes on."};

    ctl_target_begin(&asking->target);
    asking->words = (struct ctl_words){.expected = "NAME", .least = 1, .most = 1};
    argp_parse(&argp, argc, argv, 0, NULL, asking);
    return ctl_target_end(&asking->target);
}

static int connect_and_run(struct asking *asking)
{
    struct ctl_target *target = &asking->target;
    int err = rt_control_connect(target->run.nats, CONNECT_TIMEOUT_MS, &asking->client);

    if (!err)
        err = ctl_target_count(target, asking->client, RT_ROLE_TRAINER);
    if (!err && target->run.replicas[RT_ROLE_TRAINER] == 0)
        return ctl_target_nobody(target);
    if (!err)
        err = run(asking);
    if (err)
        return ctl_target_complain(err);
    printf("checkpoint: %s, of step %llu\n", asking->name, (unsigned long long)asking->step);
    return 0;
}

int ctl_checkpoint(int argc, char **argv)
{
    struct asking asking = {0};
    int status, err = find_target(argc, argv, &asking);

    if (err)
        return ctl_target_complain(err);
    status = connect_and_run(&asking);
    if (asking.client)
        rt_control_close(asking.client);
    return status;
}
