/* runtime/process/flags.c -- what a role's program is told on the command line and by the environment.
 *
 * The environment is read first, as if each variable were its flag, then argp reads the flags over it; so
 * both are checked by the same code, and a complaint names the one that was wrong. What belongs to the job
 * has no flag of its own but --set (and --seed and --model, for convenience). */
#include "runtime/process/flags.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/process/address.h"
#include "runtime/process/push.h"
#include "runtime/process/version.h"
#include "runtime/wire/member.h"

#include <argp.h>
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum key {
    KEY_INDEX = 256,
    KEY_SIZE,
    KEY_N_LOCAL,
    KEY_LOCAL_RANK,
    KEY_JOB,
    KEY_NATS,
    KEY_NATS_JOB,
    KEY_CONFIG,
    KEY_GLOBAL, /* the four files, in the order of RT_FILE_* */
    KEY_EMBEDDING,
    KEY_DATA_FILE,
    KEY_MODEL_FILE,
    KEY_DATA,
    KEY_MODELS_DIR,
    KEY_MODEL,
    KEY_BIND,
    KEY_ADVERTISE,
    KEY_PORT,
    KEY_ADMIN_PORT,
    KEY_FIXED_PORTS,
    KEY_RUN_DIR,
    KEY_CHECKPOINT_DIR,
    KEY_INIT_FROM,
    KEY_RESTORE,
    KEY_PREDICT,
    KEY_GATEWAY,
    KEY_SEED,
    KEY_SET,
    KEY_LOG_LEVEL,
    KEY_TRACE,
    KEY_DESCRIBE,
};

/* Variables that stand for a flag, or for one that does not exist. */
static const struct {
    const char *name;
    int key;
} variable[] = {
    {"REPLICA_INDEX", KEY_INDEX},
    {"REPLICA_SIZE", KEY_SIZE},
    {"NPROC_PER_NODE", KEY_N_LOCAL},
    {"SAFFRON_LOCAL_RANK", KEY_LOCAL_RANK},
    {"SAFFRON_JOB", KEY_JOB},
    {"SAFFRON_NATS_URL", KEY_NATS},
    {"SAFFRON_GLOBAL_CONFIG", KEY_GLOBAL},
    {"SAFFRON_EMBEDDING_CONFIG", KEY_EMBEDDING},
    {"SAFFRON_DATA_CONFIG", KEY_DATA_FILE},
    {"SAFFRON_MODEL_CONFIG", KEY_MODEL_FILE},
    {"SAFFRON_DATA_DIR", KEY_DATA},
    {"SAFFRON_MODELS_DIR", KEY_MODELS_DIR},
    {"SAFFRON_BIND", KEY_BIND},
    {"SAFFRON_ADVERTISE", KEY_ADVERTISE},
    {"SAFFRON_RUN_DIR", KEY_RUN_DIR},
    {"SAFFRON_CHECKPOINT_DIR", KEY_CHECKPOINT_DIR},
    {"SAFFRON_INIT_FROM", KEY_INIT_FROM},
    {"SAFFRON_RESTORE", KEY_RESTORE},
    {"SAFFRON_PREDICT", KEY_PREDICT},
    {"SAFFRON_METRICS_GATEWAY_ADDR", KEY_GATEWAY},
    {"LOG_LEVEL", KEY_LOG_LEVEL},
    {"SAFFRON_TRACE", KEY_TRACE},
};

static const struct argp_option option[] = {
    {0, 0, 0, 0, "Place in the job", 1},
    {"index", KEY_INDEX, "N", 0,
     "which of its kind this is (REPLICA_INDEX; default: the number at the end of the host name; 0 "
     "when "
     "there is none and --size is 1)",
     0},
    {"size", KEY_SIZE, "N", 0, "how many there are of its kind (REPLICA_SIZE; default 1)", 0},
    {"per-host", KEY_N_LOCAL, "N", 0,
     "trainer: processes of this host (NPROC_PER_NODE; default 1); with more than 1, --index and "
     "--size count hosts",
     0},
    {"local-rank", KEY_LOCAL_RANK, "N", 0,
     "which of this host's processes this is; ports of --fixed-ports are that much higher "
     "(SAFFRON_LOCAL_RANK; default 0)",
     0},
    {"job", KEY_JOB, "NAME", 0,
     "the job's name, the same for all its roles (SAFFRON_JOB; default: the name of the --config "
     "folder)",
     0},
    {"nats", KEY_NATS, "URL", 0,
     "where NATS listens (SAFFRON_NATS_URL; default nats://127.0.0.1:4222)", 0},
    {"nats-job", KEY_NATS_JOB, "NAME", 0,
     "the job's name there, the same for all its roles, where runs of one job share a NATS "
     "(default: "
     "the job's name)",
     0},
    {0, 0, 0, 0, "The job", 2},
    {"config", KEY_CONFIG, "DIR", 0,
     "folder with global.yml, embedding.yml, data.yml, model.yml; each is replaced by a file that "
     "SAFFRON_{GLOBAL,EMBEDDING,DATA,MODEL}_CONFIG names (default: none; needed unless all four "
     "are named)",
     0},
    {"data", KEY_DATA, "DIR", 0,
     "folder that the data globs are relative to (SAFFRON_DATA_DIR; default: the --config folder)",
     0},
    {"model", KEY_MODEL, "NAME|FILE", 0,
     "replaces `use:` of model.yml; NAME is looked for in the job's models/ and in "
     "SAFFRON_MODELS_DIR "
     "(default: what model.yml says)",
     0},
    {"seed", KEY_SEED, "N", 0, "short for --set global.seed=N (default: what global.yml says)", 0},
    {"set", KEY_SET, "FILE.KEY=VALUE", 0,
     "replace one value of the four files, as data.batch_size=1024; may be given again (default: "
     "none)",
     0},
    {0, 0, 0, 0, "The process", 3},
    {"bind", KEY_BIND, "ADDRESS", 0, "IP address to listen on (SAFFRON_BIND; default 127.0.0.1)",
     0},
    {"advertise", KEY_ADVERTISE, "ADDRESS", 0,
     "IP address that peers connect to (SAFFRON_ADVERTISE; default: --bind, or the address of the "
     "default "
     "route when that is 0.0.0.0 or ::)",
     0},
    {"port", KEY_PORT, "N", 0,
     "first port of the data plane, one for each event loop; 0: free ones (default: as "
     "--fixed-ports says)",
     0},
    {"admin-port", KEY_ADMIN_PORT, "N", 0,
     "port of /metrics /healthz /readyz /status; 0: a free one (default: as --fixed-ports says)",
     0},
    {"fixed-ports", KEY_FIXED_PORTS, 0, 0,
     "listen on the ports of global.yml, `ports:` (default: on free ports)", 0},
    {"run-dir", KEY_RUN_DIR, "DIR", 0,
     "where files of this run are written (SAFFRON_RUN_DIR; default: none are)", 0},
    {"checkpoint-dir", KEY_CHECKPOINT_DIR, "DIR", 0,
     "folder that trainers and embedding servers share for checkpoints: has to be there and "
     "writable (SAFFRON_CHECKPOINT_DIR; default: none, and no checkpoints are made)",
     0},
    {"restore", KEY_RESTORE, "WHICH", 0,
     "latest: go on from the newest checkpoint of --checkpoint-dir, if there is one; none: begin "
     "anew, until the run that begins so has a checkpoint of its own (SAFFRON_RESTORE; default "
     "latest)",
     0},
    {"init-from", KEY_INIT_FROM, "DIR", 0,
     "folder of a saved model that trainers and embedding servers begin with, the same for all of "
     "them (SAFFRON_INIT_FROM; default: none, initial values are drawn)",
     0},
    {"predict", KEY_PREDICT, "FILE", 0,
     "trainer: write the scores of the test rows with their keys; of several trainers each writes "
     "FILE.RANK (SAFFRON_PREDICT; default: they are not written)",
     0},
    {"metrics-gateway", KEY_GATEWAY, "HOST:PORT", 0,
     "Prometheus push gateway that is sent the metrics each 15 s and at the end "
     "(SAFFRON_METRICS_GATEWAY_ADDR; default: none is)",
     0},
    {"log-level", KEY_LOG_LEVEL, "LEVEL", 0, "error, warn, info or debug (LOG_LEVEL; default info)",
     0},
    {"trace", KEY_TRACE, "N", 0,
     "write what each N-th batch went through into trace/ of --run-dir, for ui.perfetto.dev; the "
     "same N for all roles (SAFFRON_TRACE; default 0: nothing)",
     0},
    {"describe", KEY_DESCRIBE, "dot", OPTION_ARG_OPTIONAL,
     "check the job's files, print what this role makes of them, and end; =dot: a trainer's layers "
     "as a graph for Graphviz, instead",
     0},
    {0},
};

struct parsing {
    struct rt_flags *options;
    bool has_index, may_be_several;
};

/* ---- values; on error the text is set, without the flag's name ---- */

static int take_number(const char *text, unsigned long long min, unsigned long long max,
                       unsigned long long *out)
{
    unsigned long long value;
    char *end;

    errno = 0;
    value = strtoull(text, &end, 10);
    if (!isdigit((unsigned char)text[0]) || *end || errno || value < min || value > max)
        return RT_FAIL(RT_EUSAGE, "expected an integer in %llu..%llu, got '%s'", min, max, text);
    *out = value;
    return 0;
}

static int take_address(const char *text, const char **out)
{
    uint8_t raw[sizeof(struct in6_addr)];

    if (inet_pton(AF_INET, text, raw) != 1 && inet_pton(AF_INET6, text, raw) != 1)
        return RT_FAIL(RT_EUSAGE, "expected an IP address, got '%s'", text);
    *out = text;
    return 0;
}

static int take_set(struct rt_flags *options, const char *text)
{
    if (options->n_set == RT_SETS_MAX)
        return RT_FAIL(RT_EUSAGE, "at most %d of them", RT_SETS_MAX);
    options->set[options->n_set++] = text;
    return 0;
}

static int take_token(const char *text, const char **out)
{
    if (!wire_is_token(text))
        return RT_FAIL(RT_EUSAGE, "expected 1 to 63 of A-Z a-z 0-9 _ -, got '%s'", text);
    *out = text;
    return 0;
}

static int take_seed(struct rt_flags *options, const char *text)
{
    unsigned long long seed;
    int err = take_number(text, 0, UINT64_MAX, &seed);

    if (err)
        return err;
    if (options->seed_set)
        return RT_FAIL(RT_EUSAGE, "given twice");
    options->seed_set = rt_xasprintf("global.seed=%llu", seed);
    return take_set(options, options->seed_set);
}

static int take_u32(const char *text, uint32_t min, uint32_t max, uint32_t *out)
{
    unsigned long long n = 0;
    int err = take_number(text, min, max, &n);

    if (!err)
        *out = (uint32_t)n;
    return err;
}

static int take_port(const char *text, int *out)
{
    unsigned long long n = 0;
    int err = take_number(text, 0, UINT16_MAX, &n);

    if (!err)
        *out = (int)n;
    return err;
}

/* Words that are taken as they are. */
static const char **word_of(struct rt_flags *o, int key)
{
    switch (key) {
    case KEY_NATS:
        return &o->nats;
    case KEY_GATEWAY:
        return &o->gateway;
    case KEY_CONFIG:
        return &o->config;
    case KEY_DATA:
        return &o->data_dir;
    case KEY_MODELS_DIR:
        return &o->models_dir;
    case KEY_MODEL:
        return &o->model;
    case KEY_RUN_DIR:
        return &o->run_dir;
    case KEY_CHECKPOINT_DIR:
        return &o->checkpoint_dir;
    case KEY_INIT_FROM:
        return &o->init_from;
    case KEY_PREDICT:
        return &o->predict;
    default:
        rt_assert(key >= KEY_GLOBAL && key <= KEY_MODEL_FILE);
        return &o->path[key - KEY_GLOBAL];
    }
}

static int take_word(struct rt_flags *o, int key, const char *text)
{
    int err = 0;

    if (key == KEY_NATS)
        err = rt_address_check_nats(text);
    else if (key == KEY_GATEWAY)
        err = rt_push_check(text);
    else if (!text[0])
        err = RT_FAIL(RT_EUSAGE, "expected a value, got nothing");
    if (!err)
        *word_of(o, key) = text;
    return err;
}

static int take_restore(struct rt_flags *o, const char *text)
{
    bool latest = strcmp(text, "latest") == 0;

    if (!latest && strcmp(text, "none") != 0)
        return RT_FAIL(RT_EUSAGE, "expected latest or none, got '%s'", text);
    o->from_scratch = !latest;
    return 0;
}

static int take(struct parsing *parsing, int key, const char *text)
{
    struct rt_flags *o = parsing->options;

    switch (key) {
    case KEY_INDEX:
        parsing->has_index = true;
        return take_u32(text, 0, WIRE_REPLICAS_MAX - 1, &o->index);
    case KEY_SIZE:
        return take_u32(text, 1, WIRE_REPLICAS_MAX, &o->size);
    case KEY_N_LOCAL:
        return take_u32(text, 1, RT_LOCAL_MAX, &o->n_local);
    case KEY_LOCAL_RANK:
        return take_u32(text, 0, RT_LOCAL_MAX - 1, &o->local_rank);
    case KEY_PORT:
        return take_port(text, &o->port);
    case KEY_ADMIN_PORT:
        return take_port(text, &o->admin_port);
    case KEY_JOB:
        return take_token(text, &o->job);
    case KEY_NATS_JOB:
        return take_token(text, &o->nats_job);
    case KEY_BIND:
        return take_address(text, &o->bind);
    case KEY_ADVERTISE:
        return take_address(text, &o->advertise);
    case KEY_SEED:
        return take_seed(o, text);
    case KEY_SET:
        return take_set(o, text);
    case KEY_LOG_LEVEL:
        return rt_log_level_parse(text, &o->log_level);
    case KEY_TRACE:
        return take_u32(text, 0, UINT32_MAX, &o->trace);
    case KEY_RESTORE:
        return take_restore(o, text);
    default:
        return take_word(o, key, text);
    }
}

/* ---- environment, host name, argp ---- */

static void read_environment(struct parsing *parsing, const char *program)
{
    for (size_t i = 0; i < ARRAY_LEN(variable); i++) {
        const char *text = getenv(variable[i].name);

        /* A variable that is there but empty is one that a manifest left out. */
        if (text && text[0] && take(parsing, variable[i].key, text) != 0) {
            fprintf(stderr, "%s: %s: %s\n", program, variable[i].name, rt_err_text());
            exit(2);
        }
    }
}

static const char *flag_of(int key)
{
    for (size_t i = 0; i < ARRAY_LEN(option); i++) {
        if (option[i].name && option[i].key == key)
            return option[i].name;
    }
    return "?";
}

/* The number at the end of the host name: "trainer-3" of a StatefulSet. */
static bool ordinal(char *host, size_t size, uint32_t *out)
{
    unsigned long long n;
    const char *dash;

    if (gethostname(host, size) != 0)
        return false;
    host[size - 1] = '\0';
    host[strcspn(host, ".")] = '\0';
    dash = strrchr(host, '-');
    if (!dash || take_number(dash + 1, 0, WIRE_REPLICAS_MAX - 1, &n) != 0)
        return false;
    *out = (uint32_t)n;
    return true;
}

static void settle_index(struct parsing *parsing, struct argp_state *state)
{
    struct rt_flags *o = parsing->options;
    char host[HOST_NAME_MAX + 1];

    if (parsing->has_index) {
        if (o->index >= o->size)
            argp_error(state,
                       "--index (or REPLICA_INDEX) is %u, expected less than --size (or "
                       "REPLICA_SIZE), %u",
                       o->index, o->size);
    } else if (ordinal(host, sizeof(host), &o->index)) {
        if (o->index >= o->size)
            argp_error(state,
                       "the host name '%s' makes this number %u of %u; give --index, or the "
                       "right --size",
                       host, o->index, o->size);
    } else if (o->size > 1) {
        argp_error(state, "one of %u, but which? give --index or REPLICA_INDEX", o->size);
    }
}

/* From here on the index and the size are those of processes. */
static void settle_ranks(const struct parsing *parsing, struct argp_state *state)
{
    struct rt_flags *o = parsing->options;

    if (o->n_local > 1 && !parsing->may_be_several)
        argp_error(state,
                   "--per-host (or NPROC_PER_NODE) is %u, expected 1: only trainers are several "
                   "on a host",
                   o->n_local);
    if (o->local_rank >= o->n_local)
        argp_error(state,
                   "--local-rank (or SAFFRON_LOCAL_RANK) is %u, expected less than --per-host "
                   "(or NPROC_PER_NODE), %u",
                   o->local_rank, o->n_local);
    if (o->size > WIRE_REPLICAS_MAX / o->n_local)
        argp_error(state, "%u hosts with %u processes each: expected at most %u processes", o->size,
                   o->n_local, WIRE_REPLICAS_MAX);
    if (o->n_local > 1 && (o->port > 0 || o->admin_port > 0))
        argp_error(state,
                   "--port and --admin-port are one process's, and there are %u on this host: set "
                   "global.ports.trainer and global.ports.admin, which are counted on from",
                   o->n_local);
    o->index = o->index * o->n_local + o->local_rank;
    o->size *= o->n_local;
}

static void check_sources(const struct rt_flags *o, struct argp_state *state)
{
    for (size_t i = 0; i < ARRAY_LEN(o->path) && !o->config; i++) {
        if (!o->path[i])
            argp_error(state, "which job? give --config DIR, or all of "
                              "SAFFRON_{GLOBAL,EMBEDDING,DATA,MODEL}_CONFIG");
    }
    if (!o->config && !o->job)
        argp_error(state, "without --config the job needs a name: give --job or SAFFRON_JOB");
    if (o->trace && !o->run_dir && !o->describe)
        argp_error(state, "--trace (or SAFFRON_TRACE) writes into the run directory: give "
                          "--run-dir or SAFFRON_RUN_DIR");
}

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct parsing *parsing = state->input;

    switch (key) {
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument '%s'", text);
        break;
    case ARGP_KEY_END:
        settle_index(parsing, state);
        settle_ranks(parsing, state);
        check_sources(parsing->options, state);
        break;
    case KEY_DESCRIBE:
        parsing->options->describe = true;
        parsing->options->picture = text != NULL;
        if (text && strcmp(text, "dot") != 0)
            argp_error(state, "--describe: expected nothing or dot, got '%s'", text);
        break;
    case KEY_FIXED_PORTS:
        parsing->options->fixed_ports = true;
        break;
    default:
        if (key < KEY_INDEX || key > KEY_TRACE)
            return ARGP_ERR_UNKNOWN;
        if (take(parsing, key, text) != 0)
            argp_error(state, "--%s: %s", flag_of(key), rt_err_text());
        break;
    }
    return 0;
}

void rt_flags_parse(int argc, char **argv, const char *program, const char *doc,
                    bool may_be_several, struct rt_flags *out)
{
    static char version[64];
    struct parsing parsing = {.options = out, .may_be_several = may_be_several};
    char *text = rt_xasprintf(
        "%s\v"
        "A value comes from its flag, else from the variable in parentheses, else it is "
        "the default.\n\n"
        "Exit status: 0 done (or told to stop), 1 failure, 2 wrong usage or "
        "configuration.",
        doc);
    struct argp argp = {.options = option, .parser = parse, .doc = text};

    *out = (struct rt_flags){.size = 1,
                             .n_local = 1,
                             .nats = "nats://127.0.0.1:4222",
                             .bind = "127.0.0.1",
                             .port = -1,
                             .admin_port = -1,
                             .log_level = RT_LOG_INFO};
    snprintf(version, sizeof(version), "%s %s", program, RT_VERSION);
    argp_program_version = version;
    argp_err_exit_status = 2;
    read_environment(&parsing, program);
    argp_parse(&argp, argc, argv, 0, NULL, &parsing);
    rt_free(text);
}

void rt_flags_release(struct rt_flags *options)
{
    rt_free(options->seed_set);
    options->seed_set = NULL;
}
