/* ctl/checkpoints.c -- see checkpoints.h. */
#include "ctl/checkpoints.h"
#include "ctl/amount.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define DRAW_NS (200 * RT_MS)

/* ---- the command line ---- */

static error_t parse_words(int key, char *arg, struct argp_state *state)
{
    struct ctl_words *words = state->input;

    switch (key) {
    case ARGP_KEY_ARG:
        if (words->n == words->most)
            argp_error(state, "unexpected argument '%s'", arg);
        else
            words->word[words->n++] = arg;
        return 0;
    case ARGP_KEY_END:
        if (words->n < words->least)
            argp_error(state, "expected %s", words->expected);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp ctl_words_argp = {.parser = parse_words};

void ctl_words_parse(int argc, char **argv, const char *doc, struct ctl_words *words)
{
    const struct argp argp = {.parser = parse_words, .args_doc = words->expected, .doc = doc};

    argp_parse(&argp, argc, argv, 0, NULL, words);
}

/* ---- a folder of them ---- */

static bool is_folder(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static bool has_manifest(const char *dir)
{
    char *path = rt_path_join(dir, RT_MANIFEST_NAME);
    bool there = rt_file_exists(path);

    rt_free(path);
    return there;
}

/* One checkpoint's folder as that of all and its name, which the caller frees. */
static int split_folder(const char *path, char **dir, char **name)
{
    char *whole = realpath(path, NULL), *slash = whole ? strrchr(whole, '/') : NULL;

    if (!slash) {
        free(whole); /* realpath's, from its allocator */
        return RT_FAIL(RT_EFILE, "%s: %s", path, strerror(errno));
    }
    *name = rt_xstrdup(slash + 1);
    *slash = '\0';
    *dir = rt_xstrdup(slash == whole ? "/" : whole);
    free(whole);
    return 0;
}

static int find_named(struct ctl_checkpoints *from, const char *name)
{
    for (size_t i = 0; i < from->list.n; i++) {
        if (strcmp(from->list.at[i].name, name) == 0) {
            from->which = i;
            return 0;
        }
    }
    return RT_FAIL(RT_EUSAGE, "%s: no checkpoint is called '%s'", from->dir, name);
}

int ctl_checkpoints_open(const char *dir, const char *name, struct ctl_checkpoints *out)
{
    char *own = NULL; /* name, of a checkpoint's own folder */
    int err = 0;

    *out = (struct ctl_checkpoints){.which = CTL_ALL};
    if (!is_folder(dir))
        return RT_FAIL(RT_EUSAGE, "%s: expected a folder of checkpoints", dir);
    if (!has_manifest(dir))
        out->dir = rt_xstrdup(dir);
    else if (name)
        err = RT_FAIL(RT_EUSAGE, "%s: is one checkpoint's own folder: leave out '%s'", dir, name);
    else
        err = split_folder(dir, &out->dir, &own);
    if (!err)
        err = rt_store_list(out->dir, &out->list);
    if (!err && out->list.n == 0)
        err = RT_FAIL(RT_EUSAGE, "%s: no checkpoint is in it", out->dir);
    if (!err && (own || name))
        err = find_named(out, own ? own : name);
    rt_free(own);
    if (err)
        ctl_checkpoints_close(out);
    return err;
}

void ctl_checkpoints_close(struct ctl_checkpoints *from)
{
    rt_store_list_release(&from->list);
    rt_free(from->dir);
    *from = (struct ctl_checkpoints){0};
}

int ctl_checkpoints_one(const struct ctl_checkpoints *from, size_t *which)
{
    size_t at = from->which == CTL_ALL ? 0 : from->which;

    *which = at;
    return from->list.at[at].manifest ? 0 : RT_FAIL(RT_EDATA, "%s", from->list.at[at].why);
}

int ctl_checkpoints_look(const struct ctl_checkpoints *from, size_t which)
{
    size_t chain[RT_STORE_CHAIN_MAX], n;
    int err = 0;

    if (!from->list.at[which].manifest)
        return RT_FAIL(RT_EDATA, "%s", from->list.at[which].why);
    err = rt_store_chain(&from->list, which, chain, &n);
    for (size_t i = 0; !err && i < n; i++)
        err = rt_store_check_there(from->dir, from->list.at[chain[i]].manifest);
    return err;
}

int ctl_checkpoints_match(const char *path, const struct rt_manifest_file *file, uint64_t bytes,
                          uint64_t digest)
{
    if (bytes == file->bytes && digest == file->digest)
        return 0;
    return RT_FAIL(RT_EDATA,
                   "%s: has %" PRIu64 " bytes of digest %016" PRIx64 ", its manifest says %" PRIu64
                   " of %016" PRIx64,
                   path, bytes, digest, file->bytes, file->digest);
}

const struct rt_manifest_file *ctl_checkpoint_file(const struct rt_manifest *manifest,
                                                   const char *name)
{
    for (uint32_t k = 0; k < manifest->n_files; k++)
        if (strcmp(manifest->file[k].name, name) == 0)
            return &manifest->file[k];
    return NULL;
}

struct ctl_checkpoint_sum ctl_checkpoint_sum(const struct rt_manifest *manifest)
{
    struct ctl_checkpoint_sum sum = {0};

    for (uint32_t t = 0; t < manifest->n_tables; t++) {
        sum.rows += manifest->table[t].rows;
        sum.removed += manifest->table[t].removed;
        sum.live += manifest->table[t].live;
    }
    for (uint32_t k = 0; k < manifest->n_files; k++)
        sum.bytes += manifest->file[k].bytes;
    return sum;
}

const char *ctl_checkpoint_time(uint64_t wall_ms, char out[CTL_TIME_BYTES])
{
    time_t seconds = (time_t)(wall_ms / 1000);
    struct tm local;

    if (!localtime_r(&seconds, &local) ||
        strftime(out, CTL_TIME_BYTES, "%Y-%m-%d %H:%M:%S", &local) == 0)
        snprintf(out, CTL_TIME_BYTES, "-");
    return out;
}

/* ---- how far reading is ---- */

void ctl_reading_begin(struct ctl_reading *reading, const char *what, uint64_t total)
{
    *reading = (struct ctl_reading){
        .terminal = isatty(STDERR_FILENO), .what = what, .total = total, .next_ns = rt_now_ns()};
}

void ctl_reading_at(void *ctx, uint64_t bytes)
{
    struct ctl_reading *reading = ctx;
    char done[CTL_AMOUNT_MAX], all[CTL_AMOUNT_MAX];

    reading->now = bytes;
    if (!reading->terminal || rt_now_ns() < reading->next_ns)
        return;
    reading->next_ns = rt_now_ns() + DRAW_NS;
    reading->drawn = true;
    fprintf(stderr, "\r\033[K%s: %s of %s", reading->what,
            ctl_amount((double)(reading->before + bytes), "B", done),
            ctl_amount((double)reading->total, "B", all));
}

void ctl_reading_part_done(struct ctl_reading *reading)
{
    reading->before += reading->now;
    reading->now = 0;
}

void ctl_reading_end(struct ctl_reading *reading)
{
    if (reading->drawn)
        fputs("\r\033[K", stderr);
    reading->drawn = false;
}
