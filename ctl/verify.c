/* ctl/verify.c -- see verify.h.
 *
 * `checkpoints` looks at manifests and sizes; `verify` reads every byte, the oldest first, so that of an increment it is known whether
 * what it goes on from is good. Both tell of every checkpoint, whatever is wrong with another. */
#include "ctl/verify.h"
#include "ctl/amount.h"
#include "ctl/checkpoints.h"
#include "ctl/progress.h"
#include "ctl/target.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define WHY_BYTES 1024

/* ---- the table ---- */

#define ROW "%-24s %12s  %-24s %-19s %15s %8s  %s\n"

static void print_row(const struct ctl_checkpoints *from, size_t which)
{
    const struct rt_stored *stored = &from->list.at[which];
    const struct rt_manifest *manifest = stored->manifest;
    bool whole = ctl_checkpoints_look(from, which) == 0;
    char step[32], made[CTL_TIME_BYTES], rows[32], bytes[CTL_AMOUNT_MAX], why[WHY_BYTES];

    rt_log_escape(!whole              ? rt_err_text()
                  : manifest->suspect ? "whole, suspect"
                                      : "whole",
                  why, sizeof(why));
    if (!manifest) {
        printf(ROW, stored->name, "-", "-", "-", "-", "-", why);
        return;
    }
    struct ctl_checkpoint_sum sum = ctl_checkpoint_sum(manifest);

    printf(ROW, stored->name, ctl_thousands((double)manifest->step, step, sizeof(step)),
           manifest->base ? manifest->base_name : "full",
           ctl_checkpoint_time(manifest->made_ms, made),
           ctl_thousands((double)sum.rows, rows, sizeof(rows)),
           ctl_amount((double)sum.bytes, "B", bytes), why);
}

int ctl_checkpoints(int argc, char **argv)
{
    struct ctl_words words = {.expected = "DIR", .least = 1, .most = 1};
    struct ctl_checkpoints from;
    int err;

    ctl_words_parse(
        argc, argv,
        "The checkpoints of a job, the newest first: full ones, and increments with the "
        "one that they go on from. DIR is the folder that the job was given as "
        "--checkpoint-dir.\vManifests and the sizes of files are looked at; `saffron "
        "verify` reads all of it.",
        &words);
    err = ctl_checkpoints_open(words.word[0], NULL, &from);
    if (err)
        return ctl_target_complain(err);
    printf(ROW, "NAME", "STEP", "GOES ON FROM", "MADE", "ROWS", "BYTES", "STATE");
    for (size_t i = 0; i < from.list.n; i++)
        if (from.which == CTL_ALL || from.which == i)
            print_row(&from, i);
    ctl_checkpoints_close(&from);
    return 0;
}

/* ---- everything ---- */

/* Its own files, then whether it has what it goes on from; bad: [n] of those that were read before. */
static int verify_one(const struct ctl_checkpoints *from, size_t which, const bool *bad,
                      struct ctl_reading *reading)
{
    const struct rt_manifest *manifest = from->list.at[which].manifest;
    size_t chain[RT_STORE_CHAIN_MAX], n;
    int err;

    if (!manifest)
        return RT_FAIL(RT_EDATA, "%s", from->list.at[which].why);
    err = rt_store_verify(from->dir, manifest, NULL, ctl_reading_at, reading);
    ctl_reading_part_done(reading);
    if (!err)
        err = rt_store_chain(&from->list, which, chain, &n);
    if (!err && n > 1 && bad[chain[n - 2]])
        err = RT_FAIL(RT_EDATA, "it goes on from %s, which is not good", manifest->base_name);
    return err;
}

/* Which are to be read: all, or one with all that it needs. @return an array, the caller's */
static bool *choose(const struct ctl_checkpoints *from)
{
    bool *wanted = rt_xcalloc(from->list.n, sizeof(*wanted));
    size_t chain[RT_STORE_CHAIN_MAX], n = 0;

    for (size_t i = 0; i < from->list.n; i++)
        wanted[i] = from->which == CTL_ALL || from->which == i;
    if (from->which != CTL_ALL && rt_store_chain(&from->list, from->which, chain, &n) == 0)
        for (size_t i = 0; i < n; i++)
            wanted[chain[i]] = true;
    return wanted;
}

static uint64_t bytes_of(const struct ctl_checkpoints *from, const bool *wanted)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < from->list.n; i++)
        if (wanted[i] && from->list.at[i].manifest)
            bytes += ctl_checkpoint_sum(from->list.at[i].manifest).bytes;
    return bytes;
}

static void print_good(const struct rt_manifest *manifest)
{
    char bytes[CTL_AMOUNT_MAX];

    printf("%-24s good: %s in %u files\n", manifest->name,
           ctl_amount((double)ctl_checkpoint_sum(manifest).bytes, "B", bytes), manifest->n_files);
}

static size_t verify_all(const struct ctl_checkpoints *from)
{
    bool *wanted = choose(from), *bad = rt_xcalloc(from->list.n, sizeof(*bad));
    struct ctl_reading reading;
    size_t n_bad = 0;

    ctl_reading_begin(&reading, "verifying", bytes_of(from, wanted));
    for (size_t i = from->list.n; i-- > 0;) {
        char why[WHY_BYTES];

        if (!wanted[i])
            continue;
        bad[i] = verify_one(from, i, bad, &reading) != 0;
        ctl_reading_end(&reading);
        if (bad[i])
            printf("%-24s BAD: %s\n", from->list.at[i].name,
                   rt_log_escape(rt_err_text(), why, sizeof(why)));
        else
            print_good(from->list.at[i].manifest);
        fflush(stdout);
        n_bad += bad[i];
    }
    rt_free(wanted);
    rt_free(bad);
    return n_bad;
}

int ctl_verify(int argc, char **argv)
{
    struct ctl_words words = {.expected = "DIR [NAME]", .least = 1, .most = 2};
    struct ctl_checkpoints from;
    size_t n_bad;
    int err;

    ctl_words_parse(argc, argv,
                    "Read all of every checkpoint of a folder, or of one and those that it goes on "
                    "from: every checksum, every digest, every number of rows.\vExit status: 0 all "
                    "are good, 1 one is not: file, offset and reason stand beside it.",
                    &words);
    err = ctl_checkpoints_open(words.word[0], words.word[1], &from);
    if (err)
        return ctl_target_complain(err);
    n_bad = verify_all(&from);
    ctl_checkpoints_close(&from);
    return n_bad > 0;
}
