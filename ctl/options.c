/* ctl/options.c -- the command line of `saffron local`.
 *
 * Job keys change by --set; --epochs, --max-steps and --seed are short for one. Everything else is a matter of the
 * processes. Long options only, as everywhere. */
#include "ctl/options.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/process/address.h"

#include <argp.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TRACE_EVERY "100" /* --trace without a number */

enum option_key {
    KEY_CONFIG = 256,
    KEY_DATA,
    KEY_RUN_DIR,
    KEY_MODEL,
    KEY_INIT_FROM,
    KEY_PREDICT,
    KEY_EPOCHS,
    KEY_SEED,
    KEY_SET,
    KEY_NATS,
    KEY_TIMEOUT,
    KEY_QUIET,
    KEY_MAX_STEPS,
    KEY_TRACE,
    KEY_RESTART,
    KEY_RESTORE,
    KEY_REPLICAS, /* + enum rt_role; the last */
};

static const struct argp_option option[] = {
    {NULL, 0, NULL, 0, "What to train:", 1},
    {"config", KEY_CONFIG, "DIR", 0, "folder of the job's four files (default configs/synthetic)",
     1},
    {"data", KEY_DATA, "DIR", 0,
     "folder that its data globs are relative to (SAFFRON_DATA_DIR; default: the job's)", 1},
    {"model", KEY_MODEL, "NAME|FILE", 0, "another model (default: what model.yml says)", 1},
    {"init-from", KEY_INIT_FROM, "DIR", 0,
     "begin with the weights and rows of a saved model, as in runs/JOB-TIME/model", 1},
    {"predict", KEY_PREDICT, "FILE", 0,
     "write the scores of the test rows, with the column of kind key: FILE, or of several trainers "
     "FILE.0, FILE.1 and so on",
     1},
    {"epochs", KEY_EPOCHS, "N", 0,
     "the same as --set data.epochs=N; 0: only evaluate the model of --init-from", 1},
    {"max-steps", KEY_MAX_STEPS, "N", 0,
     "stop training after N steps, evaluate and end: the same as --set global.max_steps=N", 1},
    {"seed", KEY_SEED, "N", 0, "the same as --set global.seed=N", 1},
    {"set", KEY_SET, "FILE.key.path=VALUE", 0,
     "change a key of the job, as in --set data.batch_size=512; may be repeated", 1},
    {NULL, 0, NULL, 0, "How:", 2},
    {"run-dir", KEY_RUN_DIR, "DIR", 0, "where results and logs go (default runs/JOB-TIME)", 2},
    {"trainers", KEY_REPLICAS + RT_ROLE_TRAINER, "N", 0,
     "trainer ranks; each takes data.batch_size samples a step (default 1)", 2},
    {"middlewares", KEY_REPLICAS + RT_ROLE_MIDDLEWARE, "N", 0, "middlewares (default 1)", 2},
    {"embedding-servers", KEY_REPLICAS + RT_ROLE_EMBEDDING_SERVER, "N", 0,
     "embedding servers (default 1)", 2},
    {"data-composes", KEY_REPLICAS + RT_ROLE_DATA_COMPOSE, "N", 0, "data composers (default 1)", 2},
    {"restart", KEY_RESTART, "WHEN", 0,
     "on-failure: a role that ends before the job is done is started again, as Kubernetes would; "
     "default never: then the run ends",
     2},
    {"restore", KEY_RESTORE, "NAME|latest", 0,
     "go on from a checkpoint of the run in --run-dir, or in SAFFRON_CHECKPOINT_DIR; newer ones "
     "are "
     "set aside",
     2},
    {"nats", KEY_NATS, "URL", 0, "use this NATS (default: a nats-server of its own on a free port)",
     2},
    {"timeout", KEY_TIMEOUT, "SECONDS", 0, "give up after this time (default 0: never)", 2},
    {"trace", KEY_TRACE, "N", OPTION_ARG_OPTIONAL,
     "write what each N-th batch (default each 100th) went through in all roles into trace.json of "
     "the run directory, for ui.perfetto.dev",
     2},
    {"quiet", KEY_QUIET, NULL, 0, "no progress, only the result, or the one line of the error", 2},
    {0},
};

bool ctl_parse_u64(const char *text, uint64_t min, uint64_t max, uint64_t *out)
{
    char *end;
    uint64_t value;

    if (text[0] < '0' || text[0] > '9')
        return false;
    errno = 0;
    value = strtoull(text, &end, 10);
    if (errno || *end || value < min || value > max)
        return false;
    *out = value;
    return true;
}

static uint64_t number(struct argp_state *state, const char *name, const char *text, uint64_t min,
                       uint64_t max)
{
    uint64_t value = min;

    if (!ctl_parse_u64(text, min, max, &value))
        argp_error(state, "--%s: expected an integer in %llu..%llu, got '%s'", name,
                   (unsigned long long)min, (unsigned long long)max, text);
    return value;
}

static void add_set(struct argp_state *state, struct ctl_options *options, char *text)
{
    if (options->n_set == CTL_SETS_MAX) {
        rt_free(text);
        argp_error(state, "--set: at most %d of them", CTL_SETS_MAX);
        return;
    }
    options->set[options->n_set++] = text;
}

static void set_replicas(struct argp_state *state, struct ctl_options *options, enum rt_role role,
                         const char *text)
{
    static const char *const name[RT_ROLE_COUNT] = {
        [RT_ROLE_DATA_COMPOSE] = "data-composes",
        [RT_ROLE_MIDDLEWARE] = "middlewares",
        [RT_ROLE_EMBEDDING_SERVER] = "embedding-servers",
        [RT_ROLE_TRAINER] = "trainers",
    };

    options->replicas[role] = (uint32_t)number(state, name[role], text, 1, CTL_REPLICAS_MAX);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct ctl_options *options = state->input;

    switch (key) {
    case KEY_CONFIG:
        options->config = arg;
        break;
    case KEY_DATA:
        options->data = arg;
        break;
    case KEY_RUN_DIR:
        options->run_dir = arg;
        break;
    case KEY_MODEL:
        options->model = arg;
        break;
    case KEY_INIT_FROM:
        options->init_from = arg;
        break;
    case KEY_PREDICT:
        options->predict = arg;
        break;
    case KEY_NATS:
        if (rt_address_check_nats(arg) != 0)
            argp_error(state, "--nats: %s", rt_err_text());
        options->nats = arg;
        break;
    case KEY_QUIET:
        options->quiet = true;
        break;
    case KEY_TIMEOUT:
        options->timeout_s = (uint32_t)number(state, "timeout", arg, 0, 100000000);
        break;
    case KEY_EPOCHS:
        number(state, "epochs", arg, 0, UINT32_MAX);
        add_set(state, options, rt_xasprintf("data.epochs=%s", arg));
        break;
    case KEY_SEED:
        number(state, "seed", arg, 0, UINT64_MAX);
        add_set(state, options, rt_xasprintf("global.seed=%s", arg));
        break;
    case KEY_SET:
        add_set(state, options, rt_xstrdup(arg));
        break;
    case KEY_TRACE:
        options->trace = (uint32_t)number(state, "trace", arg ? arg : TRACE_EVERY, 1, UINT32_MAX);
        break;
    case KEY_MAX_STEPS:
        number(state, "max-steps", arg, 1, UINT64_MAX);
        add_set(state, options, rt_xasprintf("global.max_steps=%s", arg));
        break;
    case KEY_RESTART:
        options->restart = strcmp(arg, "on-failure") == 0;
        if (!options->restart && strcmp(arg, "never") != 0)
            argp_error(state, "--restart: expected on-failure or never, got '%s'", arg);
        break;
    case KEY_RESTORE:
        options->restore = arg;
        break;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument '%s'", arg);
        break;
    default:
        if (key < KEY_REPLICAS || key >= KEY_REPLICAS + RT_ROLE_COUNT)
            return ARGP_ERR_UNKNOWN;
        set_replicas(state, options, (enum rt_role)(key - KEY_REPLICAS), arg);
    }
    return 0;
}

void ctl_options_parse(int argc, char **argv, struct ctl_options *out)
{
    static const struct argp argp = {
        .options = option,
        .parser = parse,
        .doc = "Train one job on this machine: all roles as processes, supervised until the end.\v"
               "Exit status: 0 done, 1 failure, 2 wrong usage or configuration, 130 stopped by "
               "Ctrl-C.",
    };

    *out = (struct ctl_options){.config = "configs/synthetic"};
    for (int role = 0; role < RT_ROLE_COUNT; role++)
        out->replicas[role] = 1;
    argp_parse(&argp, argc, argv, 0, NULL, out);
}

void ctl_options_set(struct ctl_options *options, const char *text)
{
    rt_assert(options->n_set < ARRAY_LEN(options->set));
    options->set[options->n_set++] = rt_xstrdup(text);
}

void ctl_options_release(struct ctl_options *options)
{
    for (size_t i = 0; i < options->n_set; i++)
        rt_free(options->set[i]);
    options->n_set = 0;
}
