/* ctl/trace.c -- many processes' lines become one document.
 *
 *   trace/trainer-0.json     [\n{event},\n{event},\n ...     open to the end, perhaps cut (runtime/base/trace.c)
 *   trace.json               {"displayTimeUnit":"ms","traceEvents":[{event},...]}
 *
 * Lines are taken as they are. Of times only one thing is known: they are of the monotonic clock of a host. Those of
 * another host than the first file's are moved to that one's clock, by what both clocks were behind the time of day; so
 * across hosts they are as right as the hosts' times of day are. */
#include "ctl/trace.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "runtime/base/trace.h"

#include <argp.h>
#include <errno.h>
#include <glob.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define HOST_MAX 128

/* Where times of a file are from: its latest first line. */
struct clock {
    char host[HOST_MAX];
    int64_t wall_us; /* minus monotonic */
};

struct merging {
    FILE *out;
    struct clock base; /* of the first file; host "": not known yet */
    size_t events, files;
};

/* Is it the line that says whose file this is? */
static bool read_clock(const char *line, size_t size, struct clock *out)
{
    const char *host = NULL;
    json_int_t wall = 0;
    json_t *root;
    bool is_clock;

    if (!strstr(line, "\"wall_minus_monotonic_us\""))
        return false;
    root = json_loadb(line, size, JSON_DISABLE_EOF_CHECK, NULL);
    is_clock = root && json_unpack(root, "{s:{s:s, s:I}}", "args", "host", &host,
                                   "wall_minus_monotonic_us", &wall) == 0;
    if (is_clock) {
        snprintf(out->host, sizeof(out->host), "%s", host);
        out->wall_us = wall;
    }
    json_decref(root);
    return is_clock;
}

/* An event whose time begins the line: moved by so many microseconds. */
static void put_moved(FILE *out, const char *line, int64_t by_us)
{
    uint64_t us;
    int digits = 0;

    if (sscanf(line, "{\"ts\":%" SCNu64 "%n", &us, &digits) == 1)
        fprintf(out, "{\"ts\":%" PRId64 "%s", (int64_t)us + by_us, line + digits);
    else
        fputs(line, out);
}

/* A line without its end: whole events only. */
static void put_event(struct merging *merging, const char *line, const struct clock *clock)
{
    bool other = strcmp(clock->host, merging->base.host) != 0;

    fputs(merging->events++ ? ",\n" : "\n", merging->out);
    put_moved(merging->out, line, other ? clock->wall_us - merging->base.wall_us : 0);
}

static int merge_file(struct merging *merging, const char *path)
{
    char line[RT_TRACE_LINE_MAX + 2];
    struct clock clock = merging->base;
    bool whole = true; /* the next line begins where a line does */
    FILE *in = fopen(path, "re");

    if (!in)
        return RT_FAIL(RT_EFILE, "%s: cannot open: %s", path, strerror(errno));
    while (fgets(line, sizeof(line), in)) {
        size_t n = strlen(line);
        bool begins = whole;

        whole = n > 0 && line[n - 1] == '\n';
        if (!begins || n < 5 || line[0] != '{' || strcmp(line + n - 3, "},\n") != 0)
            continue;
        line[n - 2] = '\0';
        if (read_clock(line, n - 2, &clock) && !merging->base.host[0])
            merging->base = clock;
        put_event(merging, line, &clock);
    }
    fclose(in);
    merging->files++;
    return 0;
}

static int merge_files(struct merging *merging, const glob_t *found)
{
    int err = 0;

    fputs("{\"displayTimeUnit\":\"ms\",\"traceEvents\":[", merging->out);
    for (size_t i = 0; i < found->gl_pathc && !err; i++)
        err = merge_file(merging, found->gl_pathv[i]);
    fputs("\n]}\n", merging->out);
    return err;
}

/* Written beside it, for a viewer may have the old one open. */
static int write_merged(struct merging *merging, const glob_t *found, const char *path)
{
    char *temporary = rt_xasprintf("%s.tmp", path);
    int err = 0;

    merging->out = fopen(temporary, "we");
    if (!merging->out) {
        err = RT_FAIL(RT_EFILE, "%s: cannot create: %s", temporary, strerror(errno));
        rt_free(temporary);
        return err;
    }
    err = merge_files(merging, found);
    bool bad = ferror(merging->out);
    bad |= fclose(merging->out) != 0;
    if (!err && (bad || rename(temporary, path) != 0))
        err = RT_FAIL(RT_EFILE, "%s: cannot write: %s", path, strerror(errno));
    if (err)
        unlink(temporary);
    rt_free(temporary);
    return err;
}

int ctl_trace_merge(const char *run_dir, size_t *events, size_t *files)
{
    struct merging merging = {0};
    char *pattern = rt_path_join(run_dir, "trace/*.json"), *path;
    glob_t found = {0};
    int err = glob(pattern, 0, NULL, &found);

    if (err == GLOB_NOMATCH) {
        err = RT_FAIL(RT_EUSAGE, "--run-dir %s: no trace of any process in it", run_dir);
    } else if (err) {
        err = RT_FAIL(RT_EFILE, "%s: cannot list", pattern);
    } else {
        path = rt_path_join(run_dir, "trace.json");
        err = write_merged(&merging, &found, path);
        rt_free(path);
    }
    globfree(&found);
    rt_free(pattern);
    *events = merging.events;
    *files = merging.files;
    return err;
}

/* ---- the command ---- */

#define KEY_RUN_DIR 256

static const struct argp_option option[] = {
    {"run-dir", KEY_RUN_DIR, "DIR", 0, "the run: the folder that holds trace/ (needed)", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    const char **run_dir = state->input;

    switch (key) {
    case KEY_RUN_DIR:
        *run_dir = arg;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument '%s'", arg);
        return 0;
    case ARGP_KEY_END:
        if (!*run_dir)
            argp_error(state, "which run? give --run-dir DIR");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int ctl_trace(int argc, char **argv)
{
    static const struct argp argp = {
        .options = option,
        .parser = parse,
        .doc = "Make one trace, DIR/trace.json, of those that the processes of a run wrote into "
               "DIR/trace/ (--trace).\v`saffron local --trace` does it by itself. Files of several "
               "machines are put on one clock by the machines' times of day."};
    const char *run_dir = NULL;
    size_t events, files;
    int err;

    argp_parse(&argp, argc, argv, 0, NULL, &run_dir);
    err = ctl_trace_merge(run_dir, &events, &files);
    if (err)
        fprintf(stderr, "saffron trace: %s\n", rt_err_text());
    else
        printf("%s/trace.json: %zu events of %zu processes; open it in ui.perfetto.dev\n", run_dir,
               events, files);
    return rt_exit_code(err);
}
