/* data_compose/convert.c -- the `convert` command: a job in, the same job with binary files out.
 *
 *   OUT/train.sfb, OUT/test.sfb        the rows of each set, in their order; complete or absent (block.h)
 *   OUT/quarantine/data_compose-0.tsv  rows that could not be parsed: they are left out, counted, judged as in training
 *   OUT/{global,embedding,data,model}.yml, OUT/models/   written last: the job, with `format: binary`
 *
 * So OUT is a job of its own that trains at once, and there is no job before all of its rows are. Files of rows and the
 * list of bad ones are made anew if an earlier run left some; a folder that has a job already is refused: it may be the one that is read. */
#include "data_compose/convert.h"
#include "data_compose/feed.h"
#include "data_compose/parse_binary.h"
#include "data_compose/quarantine.h"
#include "data_compose/synthetic.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "runtime/base/strbuf.h"
#include "runtime/job/job.h"
#include "runtime/net/loop.h"
#include "runtime/process/version.h"

#include <argp.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SETS_MAX    64u /* --set */
#define POOL_BUDGET (1u << 20)

enum key { KEY_CONFIG = 256, KEY_DATA, KEY_OUT, KEY_SET, KEY_ZSTD };

static const struct argp_option option[] = {
    {"config", KEY_CONFIG, "DIR", 0, "the job's folder (needed)", 0},
    {"data", KEY_DATA, "DIR", 0, "what the data globs are relative to (default: the job's folder)",
     0},
    {"out", KEY_OUT, "DIR", 0, "folder of the new job, made where it is missing (needed)", 0},
    {"set", KEY_SET, "FILE.KEY=VALUE", 0, "override one value of the job; may be repeated", 0},
    {"zstd", KEY_ZSTD, NULL, 0, "pack blocks with zstd: smaller, slower to read (default: LZ4)", 0},
    {0},
};

static const char doc[] =
    "Parse a job's files once and write its rows as columns in checksummed blocks, with a job "
    "beside "
    "them that trains on these: same rows, order and batches, less work to read.\v"
    "What depends on one row is done now: ids are hashed, lists cut, dense values clipped and "
    "transformed. Standardizing and min_frequency are still done by the training. Rows that cannot "
    "be "
    "parsed are left out and written to quarantine/; more of them than data.max_bad_ratio are an "
    "error.\n\n"
    "Exit status: 0 done, 1 failure, 2 wrong usage.";

struct convert {
    const char *program, *out;
    struct rt_job_source source;
    const char *set[SETS_MAX];
    enum dc_block_packing packing;
    struct rt_job *job;
    struct rt_loop *loop;
    struct dc_synthetic *synthetic; /* NULL: files */
    struct dc_synthetic_conf synthetic_conf;
    struct dc_quarantine *quarantine;
};

static const char *const set_name[2] = {"train", "test"};

/* ---- the command line ---- */

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct convert *c = state->input;

    switch (key) {
    case KEY_CONFIG:
        c->source.folder = arg;
        break;
    case KEY_DATA:
        c->source.data_dir = arg;
        break;
    case KEY_OUT:
        c->out = arg;
        break;
    case KEY_SET:
        if (c->source.n_set == SETS_MAX)
            argp_error(state, "--set: at most %u of them", SETS_MAX);
        c->set[c->source.n_set++] = arg;
        break;
    case KEY_ZSTD:
        c->packing = DC_BLOCK_ZSTD;
        break;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument '%s'", arg);
        break;
    case ARGP_KEY_END:
        if (!c->source.folder || !c->out)
            argp_error(state, "--config DIR and --out DIR are needed: the job, and the new one");
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

/* ---- rows ---- */

struct counts {
    uint64_t rows, bad, bytes;
};

static int bad_row(struct convert *c, bool test, const struct dc_feed *feed, struct counts *counts)
{
    counts->bad++;
    dc_quarantine_add(c->quarantine, test, dc_feed_file(feed), dc_feed_line(feed), rt_err_text(),
                      dc_feed_row_text(feed), dc_feed_row_bytes(feed));
    return dc_quarantine_check(c->quarantine, test, counts->bad, counts->rows, false);
}

static int copy_rows(struct convert *c, bool test, struct dc_feed *feed, struct dc_binary *binary,
                     struct dc_block_writer *writer, struct counts *counts)
{
    int rc;

    while ((rc = dc_feed_next(feed)) > 0) {
        counts->rows++;
        int err = dc_feed_parse(feed);

        if (!err) {
            dc_binary_put(binary, writer);
            err = dc_block_end_row(writer);
        } else if (err == RT_EDATA) {
            err = bad_row(c, test, feed, counts);
        }
        if (err)
            return err;
    }
    return rc ? rc : dc_quarantine_check(c->quarantine, test, counts->bad, counts->rows, true);
}

static void print_set(const char *path, const struct counts *counts)
{
    printf("%s: %" PRIu64 " rows, %" PRIu64 " bytes", path, counts->rows - counts->bad,
           counts->bytes);
    if (counts->bad)
        printf(", %" PRIu64 " bad rows left out: see quarantine/ beside it", counts->bad);
    printf("\n");
}

static int write_set(struct convert *c, bool test)
{
    char *path = rt_xasprintf("%s/%s" DC_BLOCK_SUFFIX, c->out, set_name[test]);
    struct dc_feed_conf conf = {
        .io = rt_loop_io(c->loop),
        .job = c->job,
        .synthetic = c->synthetic,
        .synthetic_rows = test ? c->synthetic_conf.test_rows : c->synthetic_conf.rows,
        .evaluate = test,
    };
    struct dc_block_writer *writer = NULL;
    struct dc_binary *binary = NULL;
    struct dc_feed *feed = NULL;
    struct counts counts = {0};
    int err = dc_parser_create(c->job, &conf.parser);

    if (!err) {
        binary = dc_binary_create(conf.parser);
        feed = dc_feed_create(&conf);
        err = dc_block_writer_create(path, dc_binary_shape(binary), c->packing, &writer);
    }
    if (!err)
        err = copy_rows(c, test, feed, binary, writer, &counts);
    if (!err)
        err = dc_block_writer_finish(writer, &counts.bytes);
    if (!err)
        print_set(path, &counts);
    dc_block_writer_destroy(writer);
    dc_feed_destroy(feed);
    dc_binary_destroy(binary);
    dc_parser_destroy(conf.parser);
    rt_free(path);
    return err;
}

/* ---- the new job ---- */

/* Columns that a format has without saying so, or says as only it can, become words: Criteo's layout, and the label
 * and the ids of libsvm, whose `0` after an id is no id. Their names need no quotes. */
static void describe_column(const struct rt_job *job, const struct rt_column_conf *col,
                            struct rt_strbuf *out)
{
    static const char *const kind[] = {"feature", "dense", "label", "weight",
                                       "group",   "key",   "ignore"};

    rt_strbuf_addf(out, "\"%s\": {kind: %s", col->name, kind[col->kind]);
    if (col->kind == RT_COLUMN_FEATURE)
        rt_strbuf_addf(out, ", feature: \"%s\", min_frequency: %u", job->feature[col->target].name,
                       col->min_frequency ? col->min_frequency : 1);
    if (col->kind == RT_COLUMN_FEATURE && job->data.format == RT_FORMAT_LIBSVM)
        rt_strbuf_addf(out, ", missing: none%s",
                       col->weight_separator ? ", weight_separator: \":\"" : "");
    if (col->kind == RT_COLUMN_LABEL && rt_label_classes(col))
        rt_strbuf_addf(out, ", classes: %u", rt_label_classes(col));
    else if (col->kind == RT_COLUMN_LABEL)
        rt_strbuf_addf(out, ", real: true");
    if (col->kind == RT_COLUMN_DENSE && col->transform == RT_TRANSFORM_LOG1P)
        rt_strbuf_addf(out, ", transform: log1p");
    rt_strbuf_addf(out, "}, ");
}

static int set_columns(struct rt_job *job)
{
    const struct rt_data_conf *data = &job->data;
    bool labelled = false;
    struct rt_strbuf text;

    if (data->format != RT_FORMAT_LIBSVM &&
        rt_node_get(rt_yaml_root(job->file[RT_FILE_DATA]), "columns"))
        return 0;
    rt_strbuf_init(&text);
    for (uint32_t i = 0; i < data->n_columns; i++)
        labelled = labelled || data->column[i].kind == RT_COLUMN_LABEL;
    rt_strbuf_addf(&text, labelled ? "{" : "{label: label, ");
    for (uint32_t i = 0; i < data->n_columns; i++)
        describe_column(job, &data->column[i], &text);
    rt_strbuf_addf(&text, "}");
    int err = rt_yaml_set(job->file[RT_FILE_DATA], "columns", text.text);
    rt_strbuf_release(&text);
    return err;
}

static int write_job(struct convert *c, const bool made[2])
{
    struct rt_yaml *data = c->job->file[RT_FILE_DATA];
    int err = set_columns(c->job);

    for (int set = 0; set < 2 && !err; set++) {
        char *list = rt_xasprintf("[%s" DC_BLOCK_SUFFIX "]", set_name[set]);

        if (made[set])
            err = rt_yaml_set(data, set_name[set], list);
        rt_free(list);
    }
    if (!err)
        err = rt_yaml_set(data, "format", "binary");
    if (!err && c->job->data.synthetic)
        err = rt_yaml_set(data, "synthetic", "{}");
    c->job->data.n_train = c->job->data.n_test = 0; /* the lists say it: relative to the folder */
    return err ? err : rt_job_write(c->job, c->out);
}

/* ---- all of it ---- */

static int check_free(const char *out)
{
    static const char *const name[] = {"global.yml", "embedding.yml", "data.yml", "model.yml"};
    int err = 0;

    for (size_t i = 0; i < ARRAY_LEN(name) && !err; i++) {
        char *path = rt_path_join(out, name[i]);

        if (rt_file_exists(path))
            err = RT_FAIL(RT_EUSAGE,
                          "%s is there: %s has a job already; remove it, or choose another --out",
                          path, out);
        rt_free(path);
    }
    return err;
}

static int load(struct convert *c)
{
    c->source.models_dir = getenv("SAFFRON_MODELS_DIR");
    c->source.set = c->set;
    int err = rt_job_load(&c->source, &c->job);

    if (!err && c->job->data.format == RT_FORMAT_BINARY)
        err = RT_FAIL(RT_EUSAGE, "%s: the job is in the binary form already", c->source.folder);
    if (!err && c->job->data.format == RT_FORMAT_SYNTHETIC) {
        err = dc_synthetic_conf_read(c->job->data.synthetic, NULL, &c->synthetic_conf);
        if (!err)
            c->synthetic = dc_synthetic_create(c->synthetic_conf.seed);
    }
    return err;
}

static int convert(struct convert *c)
{
    const struct rt_loop_conf loop = {.name = "convert", .pool_budget = POOL_BUDGET};
    int err = load(c);

    if (!err)
        err = check_free(c->out);
    if (!err)
        err = rt_mkdir_all(c->out);
    if (!err)
        err = rt_loop_create(&loop, &c->loop);
    if (err)
        return err;
    const struct rt_data_conf *data = &c->job->data;
    const bool wanted[2] = {true,
                            c->synthetic ? c->synthetic_conf.test_rows > 0 : data->n_test > 0};
    c->quarantine = dc_quarantine_create(c->out, 0, data->max_bad_ratio);
    dc_quarantine_renew(c->quarantine); /* of a run that failed: its rows are read again */
    for (int set = 0; set < 2 && !err; set++)
        if (wanted[set])
            err = write_set(c, set == 1);
    return err ? err : write_job(c, wanted);
}

int dc_convert(int argc, char **argv)
{
    static const struct argp argp = {.options = option, .parser = parse, .doc = doc};
    struct convert c = {.program = argv[0], .packing = DC_BLOCK_LZ4};

    argp_err_exit_status = 2;
    argp_program_version = "saffron-data-compose " RT_VERSION;
    argp_parse(&argp, argc, argv, 0, NULL, &c);
    int err = convert(&c);
    if (err)
        fprintf(stderr, "%s: %s\n", c.program, rt_err_text());
    dc_quarantine_destroy(c.quarantine);
    dc_synthetic_destroy(c.synthetic);
    rt_loop_destroy(c.loop);
    rt_job_destroy(c.job);
    return rt_exit_code(err);
}
