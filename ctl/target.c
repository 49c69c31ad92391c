/* ctl/target.c -- see target.h. */
#include "ctl/target.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/process/address.h"

#include <argp.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#define ASK_TIMEOUT_MS 500

enum option_key { KEY_NATS = 256, KEY_JOB, KEY_RUN_DIR };

static const struct argp_option option[] = {
    {"nats", KEY_NATS, "URL", 0,
     "where NATS listens (default: SAFFRON_NATS_URL, else nats://127.0.0.1:4222)", 0},
    {"job", KEY_JOB, "NAME", 0, "name of the job (default: SAFFRON_JOB)", 0},
    {"run-dir", KEY_RUN_DIR, "DIR", 0, "a run directory of `saffron local`: it knows NATS and job",
     0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct ctl_target *target = state->input;

    switch (key) {
    case KEY_NATS:
        if (rt_address_check_nats(arg) != 0)
            argp_error(state, "--nats: %s", rt_err_text());
        snprintf(target->run.nats, sizeof(target->run.nats), "%s", arg);
        break;
    case KEY_JOB:
        snprintf(target->run.job, sizeof(target->run.job), "%s", arg);
        break;
    case KEY_RUN_DIR:
        target->run_dir = arg;
        break;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument '%s'", arg);
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

const struct argp ctl_target_argp = {.options = option, .parser = parse};

void ctl_target_begin(struct ctl_target *out)
{
    const char *nats = getenv("SAFFRON_NATS_URL"), *job = getenv("SAFFRON_JOB");

    *out = (struct ctl_target){0};
    snprintf(out->run.nats, sizeof(out->run.nats), "%s", nats ? nats : "nats://127.0.0.1:4222");
    snprintf(out->run.job, sizeof(out->run.job), "%s", job ? job : "");
}

int ctl_target_end(struct ctl_target *target)
{
    if (target->run_dir)
        return ctl_rundir_read(target->run_dir, &target->run);
    if (!target->run.job[0])
        return RT_FAIL(RT_EUSAGE, "which job? give --run-dir DIR, or --job NAME (and --nats URL)");
    return 0;
}

int ctl_target_find(int argc, char **argv, const char *doc, struct ctl_target *out)
{
    const struct argp argp = {.options = option, .parser = parse, .doc = doc};

    ctl_target_begin(out);
    argp_parse(&argp, argc, argv, 0, NULL, out);
    return ctl_target_end(out);
}

static void take_replicas(void *ctx, const struct wire_control_reply *reply)
{
    uint32_t *replicas = ctx;
    json_t *status = reply->text ? json_loads(reply->text, 0, NULL) : NULL;
    json_int_t n = json_integer_value(json_object_get(status, "replicas"));

    if (n > 0 && n <= WIRE_REPLICAS_MAX)
        *replicas = (uint32_t)n;
    json_decref(status);
}

int ctl_target_count(struct ctl_target *target, struct rt_control_client *client, enum rt_role role)
{
    struct wire_control_request request = {
        .id = rt_now_ns(), .ttl_ms = ASK_TIMEOUT_MS, .command = WIRE_CTL_STATUS, .text = ""};
    int got = 0;

    if (target->run.replicas[role] == 0)
        got = rt_control_ask(client, target->run.job, role, NULL, &request, ASK_TIMEOUT_MS, 1,
                             &target->run.replicas[role], take_replicas);
    return got < 0 ? got : 0;
}

int ctl_target_complain(int err)
{
    fprintf(stderr, "saffron: %s\n", rt_err_text());
    return rt_exit_code(err);
}

int ctl_target_nobody(const struct ctl_target *target)
{
    fprintf(stderr, "saffron: nobody of job '%s' answers on %s\n", target->run.job,
            target->run.nats);
    return 1;
}
