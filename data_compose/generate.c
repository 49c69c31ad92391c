/* data_compose/generate.c -- the `generate` command: click_log.c's rows into train.tsv and test.tsv.
 *
 *   train.tsv[.gz|.zst], test.tsv[...]   complete or absent (writer.h)
 *   generated.txt                        written last: the parameters and what came of them
 *
 * A second run with the same parameters finds generated.txt and the files' sizes as it says, and leaves them
 * alone, so that scripts may call it without asking first; one beside another waits for it (LOCK). Any other file in
 * the way is an error: this command never writes over data. */
#include "data_compose/generate.h"
#include "data_compose/click_log.h"
#include "data_compose/writer.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "runtime/process/version.h"

#include <argp.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define TEXT_BYTES   (1u << 20) /* rows are handed to the writer in such pieces */
#define RECORD       "generated.txt"
#define RECORD_BYTES 4096
#define LOCK         ".generate.lock" /* held while files are written; gone afterwards */

enum key {
    KEY_ROWS = 256,
    KEY_TEST_ROWS,
    KEY_FEATURES,
    KEY_IDS,
    KEY_DENSE,
    KEY_SEED,
    KEY_OUT,
    KEY_GZIP,
    KEY_ZSTD,
};

static const struct argp_option option[] = {
    {"out", KEY_OUT, "DIR", 0, "folder of the files, made where it is missing (needed)", 0},
    {"rows", KEY_ROWS, "N", 0, "training rows (default 2000000)", 0},
    {"test-rows", KEY_TEST_ROWS, "N", 0, "test rows; 0: no test file (default 100000)", 0},
    {"features", KEY_FEATURES, "N", 0, "columns of ids (default 26, what Criteo has)", 0},
    {"ids", KEY_IDS, "N", 0, "distinct ids of each such column (default 100000)", 0},
    {"dense", KEY_DENSE, "N", 0, "columns of numbers (default 13, what Criteo has)", 0},
    {"seed", KEY_SEED, "N", 0, "another log of the same kind (default 1)", 0},
    {"gzip", KEY_GZIP, NULL, 0, "write gzip files (default: plain)", 0},
    {"zstd", KEY_ZSTD, NULL, 0, "write zstd files (default: plain)", 0},
    {0},
};

static const char doc[] =
    "Write a click log with a planted truth as Criteo TSV: train.tsv and test.tsv of label, dense "
    "columns, id "
    "columns. The same parameters give the same bytes.\v"
    "Files that are complete and of the same parameters are kept as they are; any other file in "
    "the way is an error. "
    "With --features and --dense other than 26 and 13 the files are no longer `format: criteo`, "
    "but `format: tsv` with `header: false`.\n\n"
    "Exit status: 0 done, 1 failure, 2 wrong usage.";

struct generate {
    struct dc_click_log_conf log;
    uint64_t rows[2]; /* by enum dc_synthetic_set */
    const char *out;
    enum dc_packing packing;
    const char *program;
};

/* What came of a set. */
struct made {
    uint64_t bytes, clicks;
    double best_auc;
};

static const char *const set_name[2] = {
    [DC_SYNTHETIC_TRAIN] = "train",
    [DC_SYNTHETIC_TEST] = "test",
};
static const char *const suffix[] = {
    [DC_PACKING_NONE] = "",
    [DC_PACKING_GZIP] = ".gz",
    [DC_PACKING_ZSTD] = ".zst",
};

/* ---- the command line ---- */

static uint64_t number(struct argp_state *state, const char *name, const char *text, uint64_t min,
                       uint64_t max)
{
    char *end;

    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (!isdigit((unsigned char)text[0]) || *end || errno || value < min || value > max)
        argp_error(state, "--%s: expected an integer in %" PRIu64 "..%" PRIu64 ", got '%s'", name,
                   min, max, text);
    return value;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct generate *g = state->input;

    switch (key) {
    case KEY_OUT:
        g->out = arg;
        break;
    case KEY_ROWS:
        g->rows[DC_SYNTHETIC_TRAIN] = number(state, "rows", arg, 1, DC_SYNTHETIC_ROWS_MAX);
        break;
    case KEY_TEST_ROWS:
        g->rows[DC_SYNTHETIC_TEST] = number(state, "test-rows", arg, 0, DC_SYNTHETIC_ROWS_MAX);
        break;
    case KEY_FEATURES:
        g->log.features = (uint32_t)number(state, "features", arg, 1, DC_CLICK_FEATURES_MAX);
        break;
    case KEY_IDS:
        g->log.ids = (uint32_t)number(state, "ids", arg, 1, DC_CLICK_IDS_MAX);
        break;
    case KEY_DENSE:
        g->log.dense = (uint32_t)number(state, "dense", arg, 0, DC_CLICK_DENSE_MAX);
        break;
    case KEY_SEED:
        g->log.seed = number(state, "seed", arg, 0, UINT64_MAX);
        break;
    case KEY_GZIP:
    case KEY_ZSTD:
        if (g->packing != DC_PACKING_NONE)
            argp_error(state, "expected --gzip or --zstd once, got two of them");
        g->packing = key == KEY_GZIP ? DC_PACKING_GZIP : DC_PACKING_ZSTD;
        break;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument '%s'", arg);
        break;
    case ARGP_KEY_END:
        if (!g->out)
            argp_error(state, "--out DIR is needed: the folder of the files");
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

/* ---- files ---- */

static char *path_of(const struct generate *g, int set)
{
    return rt_xasprintf("%s/%s.tsv%s", g->out, set_name[set], suffix[g->packing]);
}

static int write_rows(const struct generate *g, const struct dc_click_log *log, int set,
                      struct dc_writer *writer, struct made *made)
{
    size_t row_bytes = DC_CLICK_ROW_BYTES(g->log.features, g->log.dense), n = 0;
    char *text = rt_xmalloc(TEXT_BYTES + row_bytes);
    struct dc_auc *auc = dc_auc_create();
    int err = 0;

    for (uint64_t i = 0; i < g->rows[set] && !err; i++) {
        double probability;
        float label;

        n += dc_click_log_row(log, (enum dc_synthetic_set)set, i, text + n, &probability, &label);
        dc_auc_add(auc, probability, label);
        made->clicks += label > 0;
        if (n >= TEXT_BYTES || i + 1 == g->rows[set]) {
            err = dc_writer_add(writer, text, n);
            n = 0;
        }
    }
    made->best_auc = dc_auc_value(auc);
    dc_auc_destroy(auc);
    rt_free(text);
    return err;
}

static int write_set(const struct generate *g, const struct dc_click_log *log, int set,
                     struct made *made)
{
    char *path = path_of(g, set);
    struct dc_writer *writer = NULL;
    int err = dc_writer_create(path, g->packing, &writer);

    if (!err)
        err = write_rows(g, log, set, writer, made);
    if (!err)
        err = dc_writer_finish(writer, &made->bytes);
    dc_writer_destroy(writer);
    rt_free(path);
    return err;
}

static void print_set(const struct generate *g, int set, const struct made *made)
{
    char *path = path_of(g, set);

    printf("%s: %" PRIu64 " rows, %" PRIu64 " bytes, %" PRIu64 " clicks, best possible AUC %.5f\n",
           path, g->rows[set], made->bytes, made->clicks, made->best_auc);
    rt_free(path);
}

/* ---- the record ---- */

/* The parameters as a line; a change of what they mean is a new number at its front. */
static char *parameters(const struct generate *g)
{
    return rt_xasprintf("click log 1: rows %" PRIu64 " test_rows %" PRIu64
                        " features %u ids %u dense %u seed %" PRIu64 " packing %d\n",
                        g->rows[0], g->rows[1], g->log.features, g->log.ids, g->log.dense,
                        g->log.seed, (int)g->packing);
}

static bool read_made(const char *text, const char *name, struct made *out)
{
    char *line = rt_xasprintf("\n%s ", name);
    const char *at = strstr(text, line);
    bool found = at && sscanf(at + strlen(line), "%" SCNu64 " %" SCNu64 " %lf", &out->bytes,
                              &out->clicks, &out->best_auc) == 3;

    rt_free(line);
    return found;
}

/* Whether the files of an earlier run are what this one would write. */
static bool is_there(const struct generate *g, struct made made[2])
{
    char *path = rt_path_join(g->out, RECORD), *want = parameters(g), *text = NULL;
    size_t size;
    bool same = rt_file_exists(path) && rt_file_read(path, RECORD_BYTES, &text, &size) == 0 &&
                strncmp(text, want, strlen(want)) == 0;

    for (int set = 0; same && set < 2; set++) {
        char *file = path_of(g, set);
        struct stat st;

        if (g->rows[set] > 0)
            same = read_made(text, set_name[set], &made[set]) && stat(file, &st) == 0 &&
                   (uint64_t)st.st_size == made[set].bytes;
        rt_free(file);
    }
    rt_free(path);
    rt_free(want);
    rt_free(text);
    return same;
}

static int write_record(const struct generate *g, const struct made made[2])
{
    char *path = rt_path_join(g->out, RECORD), *first = parameters(g);
    char *text =
        rt_xasprintf("%strain %" PRIu64 " %" PRIu64 " %.9f\ntest %" PRIu64 " %" PRIu64 " %.9f\n",
                     first, made[0].bytes, made[0].clicks, made[0].best_auc, made[1].bytes,
                     made[1].clicks, made[1].best_auc);
    int err = rt_file_write(path, text, strlen(text));

    rt_free(path);
    rt_free(first);
    rt_free(text);
    return err;
}

/* Nothing may be in the way, under none of the names that a set can have: a glob would find both. */
static int check_free(const struct generate *g)
{
    int err = 0;

    for (int set = 0; set < 2; set++) {
        for (size_t i = 0; !err && i < ARRAY_LEN(suffix); i++) {
            char *path = rt_xasprintf("%s/%s.tsv%s", g->out, set_name[set], suffix[i]);

            if (rt_file_exists(path))
                err = RT_FAIL(RT_EUSAGE,
                              "%s is there and not what these parameters make: remove it, or "
                              "choose another --out",
                              path);
            rt_free(path);
        }
    }
    return err;
}

/* ---- one at a time ---- */

/* Whether `path` names the open file still: its holder before us removed it at its end. */
static bool is_same_file(int fd, const char *path)
{
    struct stat open, named;

    return fstat(fd, &open) == 0 && stat(path, &named) == 0 && open.st_ino == named.st_ino &&
           open.st_dev == named.st_dev;
}

static int hold(const struct generate *g, const char *path, int fd)
{
    int err = flock(fd, LOCK_EX | LOCK_NB);

    if (err && errno == EWOULDBLOCK) {
        fprintf(stderr, "%s: %s: another process writes there, waiting for it\n", g->program,
                g->out);
        do {
            err = flock(fd, LOCK_EX);
        } while (err && errno == EINTR);
    }
    return err ? RT_FAIL(RT_EFILE, "%s: cannot lock: %s", path, strerror(errno)) : 0;
}

/* The folder is ours alone until unlock(). Whoever dies gives it up. */
static int lock(const struct generate *g, int *out)
{
    char *path = rt_path_join(g->out, LOCK);
    int err = 0, fd = -1;

    do {
        if (fd >= 0)
            close(fd);
        fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        err = fd < 0 ? RT_FAIL(RT_EFILE, "%s: cannot open: %s", path, strerror(errno))
                     : hold(g, path, fd);
    } while (!err && !is_same_file(fd, path));
    if (err && fd >= 0)
        close(fd);
    *out = fd;
    rt_free(path);
    return err;
}

static void unlock(const struct generate *g, int fd)
{
    char *path = rt_path_join(g->out, LOCK);

    unlink(path);
    close(fd);
    rt_free(path);
}

static int write_all(const struct generate *g, struct made made[2])
{
    int err = check_free(g);
    if (err)
        return err;
    struct dc_click_log *log = dc_click_log_create(&g->log);
    for (int set = 0; !err && set < 2; set++) {
        if (g->rows[set] == 0)
            continue;
        err = write_set(g, log, set, &made[set]);
        if (!err)
            print_set(g, set, &made[set]);
    }
    dc_click_log_destroy(log);
    return err ? err : write_record(g, made);
}

static int make(const struct generate *g)
{
    struct made made[2] = {{0}, {0}};
    bool there = is_there(g, made);
    int err = 0, fd;

    if (!there) {
        err = rt_mkdir_all(g->out);
        if (!err)
            err = lock(g, &fd);
        if (err)
            return err;
        there = is_there(g, made);
        if (!there)
            err = write_all(g, made);
        unlock(g, fd);
    }
    if (!there)
        return err;
    printf("%s: complete and of these parameters already\n", g->out);
    for (int set = 0; set < 2; set++)
        if (g->rows[set] > 0)
            print_set(g, set, &made[set]);
    return 0;
}

int dc_generate(int argc, char **argv)
{
    static const struct argp argp = {.options = option, .parser = parse, .doc = doc};
    struct generate g = {
        .log = {.features = 26, .dense = 13, .ids = 100000, .seed = 1},
        .rows = {2000000, 100000},
        .program = argv[0],
    };

    argp_err_exit_status = 2;
    argp_program_version = "saffron-data-compose " RT_VERSION;
    argp_parse(&argp, argc, argv, 0, NULL, &g);
    int err = make(&g);
    if (err)
        fprintf(stderr, "%s: %s\n", g.program, rt_err_text());
    return rt_exit_code(err);
}
