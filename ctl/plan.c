/* ctl/plan.c -- the command line of `saffron plan`: a job's files and some numbers, made a question (plan_sum.h).
 *
 * What only the trainer's program knows, the number of dense parameters, is asked of it; where it does not tell, as without
 * the job's data, the plan has no all-reduce. Else the data need not be there: planning comes before copying. */
#include "ctl/plan.h"
#include "ctl/amount.h"
#include "ctl/check.h"
#include "ctl/options.h"
#include "ctl/plan_print.h"
#include "ctl/program.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/strbuf.h"

#include <argp.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define WORKERS_MAX     8 /* what a machine with so many cores takes: embedding_server/main.c */
#define LOOPS_MAX       4 /* middleware/service.c */
#define DISTINCT        0.5
#define OWNER_RATE      1e6
#define REPLICAS_MAX    65536
#define ASSIGNMENTS_MAX 8192 /* --rows, --ids: of the one or the other */

enum option_key {
    KEY_CONFIG = 256,
    KEY_MODEL,
    KEY_SET,
    KEY_ROWS,
    KEY_SAMPLES,
    KEY_IDS,
    KEY_DISTINCT,
    KEY_SERVER_MEMORY,
    KEY_OWNER_RATE,
    KEY_DENSE,
    KEY_JSON,
    KEY_REPLICAS, /* + enum rt_role; the last */
};

static const struct argp_option option[] = {
    {NULL, 0, NULL, 0, "What is planned:", 1},
    {"config", KEY_CONFIG, "DIR", 0,
     "folder of the job's four files; its data need not be there (default configs/synthetic)", 1},
    {"model", KEY_MODEL, "NAME|FILE", 0, "another model (default: what model.yml says)", 1},
    {"set", KEY_SET, "FILE.key.path=VALUE", 0,
     "change a key of the job, as in --set global.embedding_server.workers=8; may be repeated", 1},
    {"rows", KEY_ROWS, "[TABLE=]N", 0,
     "rows of a table, or of each table that is not named: 20M, 1.5e9; may be repeated (default: "
     "a table's eviction.rows or eviction.bytes)",
     1},
    {NULL, 0, NULL, 0, "Its traffic:", 2},
    {"samples-per-second", KEY_SAMPLES, "N", 0,
     "of all trainers together (default: none, and no bytes a second)", 2},
    {"ids", KEY_IDS, "[FEATURE=]N", 0,
     "ids of a sample on average, of a feature, or of each that is not named; may be repeated "
     "(default: 1, but for columns with a separator)",
     2},
    {"distinct", KEY_DISTINCT, "SHARE", 0,
     "of the ids of a batch, how many are different ones: distinct_ratio in a middleware's status "
     "(default 0.5)",
     2},
    {"dense-parameters", KEY_DENSE, "N", 0,
     "of the model (default: the trainer's program is asked)", 2},
    {NULL, 0, NULL, 0, "On what:", 3},
    {"trainers", KEY_REPLICAS + RT_ROLE_TRAINER, "N", 0, "trainer ranks (default 1)", 3},
    {"middlewares", KEY_REPLICAS + RT_ROLE_MIDDLEWARE, "N", 0, "middlewares (default 1)", 3},
    {"data-composes", KEY_REPLICAS + RT_ROLE_DATA_COMPOSE, "N", 0, "data composers (default 1)", 3},
    {"embedding-servers", KEY_REPLICAS + RT_ROLE_EMBEDDING_SERVER, "N", 0,
     "embedding servers (default: as many as it takes)", 3},
    {"server-memory", KEY_SERVER_MEMORY, "BYTES", 0,
     "what one embedding server may take: 2TB, 512GiB (default: no limit)", 3},
    {"owner-rate", KEY_OWNER_RATE, "ROWS", 0,
     "rows a second that one owner is counted on for, each read and written (default 1M)", 3},
    {NULL, 0, NULL, 0, "How:", 4},
    {"json", KEY_JSON, NULL, 0, "one JSON object with all digits", 4},
    {0},
};

/* "users=20M": name and value; or the value of all that are not named. */
struct assignment {
    const char *name; /* up to its '='; NULL: all others */
    size_t name_size;
    double value;
};
struct assignments {
    const char *flag;
    struct assignment *at;
    size_t n;
};

struct request {
    struct ctl_options job; /* config, model, set[] */
    struct assignments rows, ids;
    struct ctl_question question;
    bool json, distinct_given;
};

/* ---- the command line ---- */

/* What a flag takes. */
struct kind {
    double least, most;
    bool bytes;
    const char *example;
};
static const struct kind some = {1, CTL_AMOUNT_MOST, false, "20M or 1.5e9"};
static const struct kind any = {0, CTL_AMOUNT_MOST, false, "7.5 or 20k"};
static const struct kind size = {1, CTL_AMOUNT_MOST, true, "512GiB or 2TB"};
static const struct kind share = {1e-6, 1, false, "0.3"};

static double amount(struct argp_state *state, const char *flag, const char *text,
                     const struct kind *kind)
{
    double value = kind->least;

    if (!ctl_amount_parse(text, kind->bytes, &value) || value < kind->least || value > kind->most)
        argp_error(state, "--%s: expected a number in %g..%g, as %s, got '%s'", flag, kind->least,
                   kind->most, kind->example, text);
    return value;
}

static void assign(struct argp_state *state, struct assignments *to, const char *text,
                   const struct kind *kind)
{
    const char *equals = strrchr(text, '=');

    if (to->n == ASSIGNMENTS_MAX)
        argp_error(state, "--%s: at most %d of them", to->flag, ASSIGNMENTS_MAX);
    to->at = rt_xrealloc(to->at, (to->n + 1) * sizeof(*to->at));
    to->at[to->n++] =
        (struct assignment){.name = equals ? text : NULL,
                            .name_size = equals ? (size_t)(equals - text) : 0,
                            .value = amount(state, to->flag, equals ? equals + 1 : text, kind)};
}

static void set_replicas(struct argp_state *state, struct ctl_question *question, int key,
                         const char *text)
{
    const struct argp_option *flag = option;
    uint64_t n = 1;

    while (flag->key != key)
        flag++;
    if (!ctl_parse_u64(text, 1, REPLICAS_MAX, &n))
        argp_error(state, "--%s: expected an integer in %d..%d, got '%s'", flag->name, 1,
                   REPLICAS_MAX, text);
    question->replicas[key - KEY_REPLICAS] = (uint32_t)n;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct request *request = state->input;
    struct ctl_question *question = &request->question;

    switch (key) {
    case KEY_CONFIG:
        request->job.config = arg;
        break;
    case KEY_MODEL:
        request->job.model = arg;
        break;
    case KEY_SET:
        if (request->job.n_set == CTL_SETS_MAX)
            argp_error(state, "--set: at most %d of them", CTL_SETS_MAX);
        ctl_options_set(&request->job, arg);
        break;
    case KEY_ROWS:
        assign(state, &request->rows, arg, &some);
        break;
    case KEY_IDS:
        assign(state, &request->ids, arg, &any);
        break;
    case KEY_SAMPLES:
        question->samples_per_second = amount(state, "samples-per-second", arg, &any);
        break;
    case KEY_DISTINCT:
        question->distinct = amount(state, "distinct", arg, &share);
        request->distinct_given = true;
        break;
    case KEY_DENSE:
        question->dense_parameters = (uint64_t)amount(state, "dense-parameters", arg, &some);
        break;
    case KEY_SERVER_MEMORY:
        question->server_memory = (uint64_t)amount(state, "server-memory", arg, &size);
        break;
    case KEY_OWNER_RATE:
        question->owner_rate = amount(state, "owner-rate", arg, &some);
        break;
    case KEY_JSON:
        request->json = true;
        break;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument '%s'", arg);
        break;
    default:
        if (key < KEY_REPLICAS || key >= KEY_REPLICAS + RT_ROLE_COUNT)
            return ARGP_ERR_UNKNOWN;
        set_replicas(state, question, key, arg);
    }
    return 0;
}

static void parse_all(int argc, char **argv, struct request *out)
{
    static const struct argp argp = {
        .options = option,
        .parser = parse,
        .doc =
            "What a job takes: bytes of its tables, embedding servers, memory, connections and "
            "traffic of each process.\v"
            "Nothing is started. Bytes of rows are exact, those of an index within 1 %; memory "
            "that is not rows is about right. Numbers take k M G T P, bytes also Ki Mi Gi Ti Pi.",
    };

    *out = (struct request){
        .job = {.config = "configs/synthetic"},
        .rows = {.flag = "rows"},
        .ids = {.flag = "ids"},
        .question = {.distinct = DISTINCT, .owner_rate = OWNER_RATE, .replicas = {1, 1, 0, 1}},
    };
    argp_parse(&argp, argc, argv, 0, NULL, out);
}

/* ---- the question ---- */

/* What was given to `name`; the last that named it counts, or the last without a name. NULL: nothing. */
static const struct assignment *given(const struct assignments *in, const char *name)
{
    const struct assignment *found = NULL;

    for (size_t i = 0; i < in->n; i++) {
        const struct assignment *a = &in->at[i];

        if (!a->name && (!found || !found->name))
            found = a;
        if (a->name && strlen(name) == a->name_size && memcmp(a->name, name, a->name_size) == 0)
            found = a;
    }
    return found;
}

/* Each name that was given is one of these. */
static int check_names(const struct assignments *in, const char *kind, const char *const *name,
                       uint32_t n)
{
    for (size_t i = 0; i < in->n; i++) {
        const struct assignment *a = &in->at[i];
        bool known = !a->name;

        for (uint32_t k = 0; k < n && !known; k++)
            known = strlen(name[k]) == a->name_size && memcmp(a->name, name[k], a->name_size) == 0;
        if (!known) {
            char *word = rt_xasprintf("%.*s", (int)a->name_size, a->name);
            const char *near = rt_nearest(word, name, n);
            int err = RT_FAIL(RT_EUSAGE, "--%s: there is no %s '%s'%s%s%s", in->flag, kind, word,
                              near ? " (did you mean '" : "", near ? near : "", near ? "'?)" : "");

            rt_free(word);
            return err;
        }
    }
    return 0;
}

static int take_rows(const struct request *request, const struct rt_job *job, uint64_t *rows)
{
    const char **name = rt_xcalloc(job->n_tables, sizeof(*name));
    int err;

    for (uint32_t t = 0; t < job->n_tables; t++)
        name[t] = job->table[t].name;
    err = check_names(&request->rows, "table", name, job->n_tables);
    for (uint32_t t = 0; t < job->n_tables && !err; t++) {
        const struct assignment *a = given(&request->rows, name[t]);

        rows[t] = a ? (uint64_t)llrint(a->value) : job->table[t].hash_rows;
        if (!a && rows[t] == 0 && rt_table_capacity(&job->table[t]) == 0)
            err = RT_FAIL(RT_EUSAGE,
                          "table %s: how many rows? give --rows %s=N, or --rows N for all tables",
                          name[t], name[t]);
    }
    rt_free(name);
    return err;
}

/* One id, unless its column has a separator. */
static bool is_single(const struct rt_job *job, uint32_t feature)
{
    for (uint32_t c = 0; c < job->data.n_columns; c++) {
        const struct rt_column_conf *column = &job->data.column[c];

        if (column->kind == RT_COLUMN_FEATURE && column->target == feature)
            return column->separator == 0;
    }
    return true;
}

static int take_ids(const struct request *request, const struct rt_job *job, double *ids)
{
    const char **name = rt_xcalloc(job->n_features, sizeof(*name));
    int err;

    for (uint32_t f = 0; f < job->n_features; f++)
        name[f] = job->feature[f].name;
    err = check_names(&request->ids, "feature", name, job->n_features);
    for (uint32_t f = 0; f < job->n_features && !err; f++) {
        const struct assignment *a = given(&request->ids, name[f]);

        ids[f] = a ? a->value : 1;
        if (!a && !is_single(job, f) && request->question.samples_per_second > 0)
            err = RT_FAIL(RT_EUSAGE,
                          "feature %s: how many ids has a sample on average? give --ids %s=N",
                          name[f], name[f]);
        else if (ids[f] > job->feature[f].max_length)
            err = RT_FAIL(RT_EUSAGE, "--ids: feature %s has a max_length of %u, got %g", name[f],
                          job->feature[f].max_length, ids[f]);
    }
    rt_free(name);
    return err;
}

static int load(const struct request *request, struct rt_job **out)
{
    struct rt_job_source source = {
        .folder = request->job.config,
        .models_dir = getenv("SAFFRON_MODELS_DIR"),
        .model = request->job.model,
        .without_data = true,
        .set = (const char *const *)request->job.set,
        .n_set = request->job.n_set,
    };

    ctl_program_job_paths(source.path);
    return rt_job_load(&source, out);
}

/* What the page leaves out of its sums, or took for granted. */
static void print_notes(const struct request *request, const struct ctl_question *q)
{
    if (q->job->global.embedding_server_workers == 0)
        printf("embedding_server.workers: %u, as on a machine of %d cores or more\n", q->workers,
               WORKERS_MAX);
    if (q->job->global.middleware_loops == 0)
        printf("middleware.loops: %u, as on a machine of %d cores or more\n", q->loops, LOOPS_MAX);
    if (!request->distinct_given)
        printf("half of a batch's ids taken for different ones: --distinct\n");
    if (q->dense_parameters == 0 && q->replicas[RT_ROLE_TRAINER] > 1)
        printf("without the trainers' all-reduce: their model is not known here; "
               "--dense-parameters\n");
}

static int answer(struct request *request, const struct rt_job *job)
{
    struct ctl_question *q = &request->question;
    struct ctl_plan plan = {0};
    uint64_t *rows = rt_xcalloc(job->n_tables, sizeof(*rows));
    double *ids = rt_xcalloc(job->n_features, sizeof(*ids));
    uint32_t workers = job->global.embedding_server_workers, loops = job->global.middleware_loops;
    int err = take_rows(request, job, rows);

    if (!err)
        err = take_ids(request, job, ids);
    q->job = job;
    q->rows = rows;
    q->ids = ids;
    q->workers = workers ? workers : WORKERS_MAX;
    q->loops = loops ? loops : LOOPS_MAX;
    if (q->dense_parameters == 0)
        q->dense_parameters = ctl_ask_dense(&request->job);
    if (!err)
        err = ctl_plan_sum(q, &plan);
    if (!err && request->json) {
        json_t *object = ctl_plan_json(q, &plan);

        json_dumpf(object, stdout, JSON_INDENT(1) | JSON_PRESERVE_ORDER);
        putchar('\n');
        json_decref(object);
    } else if (!err) {
        ctl_plan_print(q, &plan, stdout);
        putchar('\n');
        print_notes(request, q);
    }
    ctl_plan_release(&plan);
    rt_free(rows);
    rt_free(ids);
    return err;
}

int ctl_plan(int argc, char **argv)
{
    struct request request;
    struct rt_job *job = NULL;
    int err;

    parse_all(argc, argv, &request);
    err = load(&request, &job);
    if (!err)
        err = answer(&request, job);
    if (err)
        fprintf(stderr, "saffron: %s\n", rt_err_text());
    rt_job_destroy(job);
    ctl_options_release(&request.job);
    rt_free(request.rows.at);
    rt_free(request.ids.at);
    return rt_exit_code(err);
}
