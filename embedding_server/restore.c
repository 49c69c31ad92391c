/* embedding_server/restore.c -- see restore.h.
 *
 * DESIGN: rows go into the tables while their files are read, and what proves bad at its end is thrown away again. To verify
 * first and load then reads everything twice; that something is bad is rare. */
#include "embedding_server/restore.h"
#include "embedding_server/chain.h"
#include "embedding_server/serve.h"
#include "embedding_server/table_cut.h"
#include "runtime/base/err.h"
#include "runtime/base/failpoint.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "runtime/checkpoint/store.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define TEXT  1024u
#define TRIES 8u /* of checkpoints that go while they are read */
#define GONE  1  /* no error: what was tried is not there any more */

/* One owner's part. Touched by: its thread, until that is joined. */
struct part {
    const struct ebs_restore *restore;
    const struct ebs_chain *chain;
    uint32_t number;
    pthread_t thread;
    bool runs;
    struct ebs_chain_loaded loaded;
    int err;
    char text[TEXT];
};

/* ---- one checkpoint ---- */

static int make_sums(struct part *part, size_t n, uint32_t n_tables)
{
    part->loaded.sum = rt_try_calloc(n, sizeof(*part->loaded.sum));
    for (size_t i = 0; part->loaded.sum && i < n; i++) {
        part->loaded.sum[i].table = rt_try_calloc(n_tables, sizeof(struct rt_rowfile_table));
        if (!part->loaded.sum[i].table)
            return RT_FAIL(RT_ENOMEM, "no memory for %zu checkpoints", n);
    }
    return part->loaded.sum ? 0 : RT_FAIL(RT_ENOMEM, "no memory for %zu checkpoints", n);
}

static void release_sums(struct part *part, size_t n)
{
    for (size_t i = 0; part->loaded.sum && i < n; i++)
        rt_free(part->loaded.sum[i].table);
    rt_free(part->loaded.sum);
}

static void run_part(struct part *part)
{
    const struct ebs_restore *restore = part->restore;

    part->err = ebs_chain_load(part->chain, restore->owner[part->number], &part->loaded);
    if (part->err) /* texts belong to threads */
        snprintf(part->text, sizeof(part->text), "%s", rt_err_text());
}

static void *part_main(void *arg)
{
    struct part *part = arg;

    if (part->restore->begin)
        part->restore->begin(part->restore->ctx, part->number);
    run_part(part);
    return NULL;
}

/* Where a thread cannot be had its part is done here. */
static int run_parts(struct part *part, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        part[i].runs = pthread_create(&part[i].thread, NULL, part_main, &part[i]) == 0;
        if (!part[i].runs)
            run_part(&part[i]);
    }
    for (uint32_t i = 0; i < n; i++)
        if (part[i].runs)
            (void)pthread_join(part[i].thread, NULL);
    for (uint32_t i = 0; i < n; i++)
        if (part[i].err)
            return RT_FAIL(part[i].err, "%s", part[i].text);
    return 0;
}

/* Of a checkpoint whose files were all read here: do they add up to what its manifest says? */
static int check_sums(const struct ebs_chain *chain, size_t which, const struct part *part,
                      uint32_t n)
{
    const struct rt_manifest *manifest = chain->manifest[which];
    uint64_t files = 0, expected = 0;

    for (uint32_t f = 0; f < manifest->n_files; f++)
        expected += manifest->file[f].is_rows;
    for (uint32_t i = 0; i < n; i++)
        files += part[i].loaded.sum[which].files;
    for (uint32_t t = 0; t < manifest->n_tables && files == expected; t++) {
        const struct rt_manifest_table *table = &manifest->table[t];
        struct rt_rowfile_table sum = {0};

        for (uint32_t i = 0; i < n; i++) {
            sum.rows += part[i].loaded.sum[which].table[t].rows;
            sum.removed += part[i].loaded.sum[which].table[t].removed;
            sum.digest += part[i].loaded.sum[which].table[t].digest;
        }
        if (sum.rows != table->rows || sum.removed != table->removed || sum.digest != table->digest)
            return RT_FAIL(RT_EDATA,
                           "%s/%s: table '%.100s' has %llu rows and %llu removed ids with digest "
                           "%016llx in its files, the manifest says %llu, %llu and %016llx",
                           part[0].restore->dir, manifest->name, table->name,
                           (unsigned long long)sum.rows, (unsigned long long)sum.removed,
                           (unsigned long long)sum.digest, (unsigned long long)table->rows,
                           (unsigned long long)table->removed, (unsigned long long)table->digest);
    }
    return 0;
}

/* Where we have all shards: is every row here that was there at the cut? */
static int check_live(const struct ebs_restore *restore, const struct rt_manifest *newest)
{
    uint32_t shards = 0;

    for (uint32_t i = 0; i < restore->n; i++)
        shards += restore->owner[i]->shard_end - restore->owner[i]->shard_first;
    for (uint32_t t = 0; t < newest->n_tables && shards == RT_SHARDS; t++) {
        uint64_t rows = 0;

        for (uint32_t i = 0; i < restore->n; i++)
            rows += ebs_table_rows(restore->owner[i]->table[t]);
        if (rows != newest->table[t].live)
            return RT_FAIL(RT_EDATA,
                           "%s/%s: table '%.100s' has %llu rows with what it goes on from, the "
                           "manifest says %llu",
                           restore->dir, newest->name, newest->table[t].name,
                           (unsigned long long)rows, (unsigned long long)newest->table[t].live);
    }
    return 0;
}

static int take_filters(const struct ebs_restore *restore, const struct rt_manifest *newest)
{
    int err = 0;

    for (uint32_t i = 0; i < restore->n; i++)
        for (uint32_t s = 0; s < newest->n_ledger && !err; s++) {
            const struct wire_split_ledger *ledger = &newest->ledger[s];
            struct ebs_filter *filter = restore->owner[i]->filter;

            err = ebs_filter_reserve(filter, (uint64_t)ledger->split << EBS_SEQUENCE_BITS);
            if (!err)
                err = ebs_filter_add(filter, ledger->split, ledger->finished_low, ledger->finished,
                                     ledger->finished_bytes);
        }
    return err;
}

/* Has the owner the rows of its own file, byte by byte, and no others? Then it may go on from there as who wrote it would have: an
 * increment to that checkpoint is what changes from now on. What it lacks of the ledger is lost in both. */
static bool is_as_written(const struct ebs_owner *owner, const struct rt_manifest *newest,
                          const struct ebs_chain_loaded *loaded)
{
    const struct rt_manifest_file *file;

    if (newest->owners != owner->owners || loaded->left_out > 0 || loaded->shifted)
        return false;
    file = &newest->file[owner->conf.owner]; /* row files stand by owner */
    return file->shard_first == owner->shard_first && file->shard_end == owner->shard_end;
}

static void settle(const struct ebs_restore *restore, const struct rt_manifest *newest,
                   const struct part *part, struct ebs_restored *out)
{
    snprintf(out->name, sizeof(out->name), "%s", newest->name);
    out->attempt = newest->attempt;
    out->step = newest->step;
    for (uint32_t i = 0; i < restore->n; i++) {
        struct ebs_owner *owner = restore->owner[i];
        bool follows = is_as_written(owner, newest, &part[i].loaded);

        owner->cutter.latest = newest->attempt; /* older ones are over */
        owner->cutter.kept = follows ? newest->attempt : 0;
        owner->history.base = newest->attempt;
        owner->history.base_step = newest->step;
        ebs_set(&owner->stats.step, newest->step);
        for (uint32_t t = 0; t < restore->job->n_tables; t++) {
            if (follows)
                ebs_table_follow(owner->table[t]);
            out->rows += ebs_table_rows(owner->table[t]);
            ebs_count_table(owner, t);
        }
    }
}

static int load(const struct ebs_restore *restore, const struct ebs_chain *chain,
                struct ebs_restored *out)
{
    const struct rt_manifest *newest = chain->manifest[chain->n - 1];
    struct part *part = rt_xcalloc(restore->n, sizeof(*part));
    int err = 0;

    for (uint32_t i = 0; i < restore->n; i++) {
        part[i].restore = restore;
        part[i].chain = chain;
        part[i].number = i;
        if (!err)
            err = make_sums(&part[i], chain->n, restore->job->n_tables);
    }
    RT_FAILPOINT("P12.rows");
    if (!err)
        err = run_parts(part, restore->n);
    for (uint32_t i = 0; i < restore->n && !err; i++) {
        out->left_out += part[i].loaded.left_out;
        out->bytes += part[i].loaded.bytes;
        out->counts_left_out |= part[i].loaded.counts_left_out;
    }
    for (size_t i = 0; i < chain->n && !err; i++)
        err = check_sums(chain, i, part, restore->n);
    if (!err && out->left_out == 0)
        err = check_live(restore, newest);
    if (!err)
        err = take_filters(restore, newest);
    RT_FAILPOINT("P12.rows_loaded");
    if (!err)
        settle(restore, newest, part, out);
    for (uint32_t i = 0; i < restore->n; i++)
        release_sums(&part[i], chain->n);
    rt_free(part);
    return err;
}

static int clear(const struct ebs_restore *restore)
{
    int err = 0;

    for (uint32_t i = 0; i < restore->n; i++)
        for (uint32_t t = 0; t < restore->job->n_tables && !err; t++)
            err = ebs_table_clear(restore->owner[i]->table[t]);
    return err;
}

/* ---- which checkpoint ---- */

/* So that all of it can be taken over, or nothing. */
static int check_ledger(const struct ebs_restore *restore, const struct rt_manifest *newest)
{
    uint32_t most = ebs_filter_window(restore->owner[0]->filter) / 8;

    for (uint32_t s = 0; s < newest->n_ledger; s++)
        if (newest->ledger[s].finished_bytes > most)
            return RT_FAIL(RT_EDATA,
                           "%s/%s: ledger of split %u: bitmap of %u bytes, expected at most %u",
                           restore->dir, newest->name, newest->ledger[s].split,
                           newest->ledger[s].finished_bytes, most);
    return 0;
}

/* All that one needs is there, and of this job. */
static int find_chain(const struct ebs_restore *restore, const struct rt_store_list *list,
                      size_t which, const struct rt_manifest **manifest, size_t *n)
{
    size_t chain[RT_STORE_CHAIN_MAX];
    int err = rt_store_chain(list, which, chain, n);

    for (size_t i = 0; !err && i < *n; i++) {
        manifest[i] = list->at[chain[i]].manifest;
        err = rt_manifest_check_job(manifest[i], restore->job);
        if (!err)
            err = rt_store_check_there(restore->dir, manifest[i]);
    }
    return err;
}

/* What says nothing of the checkpoint: this server has no room, or its disk does not answer. An older one would not be better. */
static bool is_fatal(int err)
{
    return err == RT_ENOMEM || err == RT_ELIMIT || err == RT_EFULL || err == RT_EFILE;
}

/* Is it, or one that it needs, not there any more since the folder was listed? Retention or an operator has removed it. */
static bool has_gone(const char *dir, const struct rt_store_list *list, size_t which)
{
    size_t chain[RT_STORE_CHAIN_MAX], n;

    if (rt_store_chain(list, which, chain, &n) != 0) {
        chain[0] = which;
        n = 1;
    }
    for (size_t i = 0; i < n; i++)
        if (rt_store_is_there(dir, list->at[chain[i]].manifest) == 0)
            return true;
    return false;
}

static int try_one(const struct ebs_restore *restore, const struct rt_store_list *list,
                   size_t which, struct ebs_restored *out)
{
    const struct rt_manifest *manifest[RT_STORE_CHAIN_MAX];
    struct ebs_chain chain = {.dir = restore->dir, .job = restore->job, .manifest = manifest};
    int err = find_chain(restore, list, which, manifest, &chain.n), again;

    if (!err)
        err = check_ledger(restore, manifest[chain.n - 1]);
    if (err)
        return err;
    err = load(restore, &chain, out);
    if (!err || (is_fatal(err) && err != RT_EFILE))
        return err;
    *out = (struct ebs_restored){.skipped = out->skipped};
    again = clear(restore);
    return again ? again : err;
}

static void skip(const struct rt_stored *stored, const char *why, struct ebs_restored *out)
{
    char name[128], text[2 * TEXT];

    rt_log(RT_LOG_WARN, "checkpoint_skipped name=%s reason=\"%s\"",
           rt_log_escape(stored->name, name, sizeof(name)), rt_log_escape(why, text, sizeof(text)));
    out->skipped++;
}

/* What was found damaged before one was taken: nobody is to go on from what another cannot. In `exact` all would go back to it again and
 * again, so that it stays is an error. */
static int set_aside(const struct ebs_restore *restore, const struct rt_store_list *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int err = list->at[i].why ? rt_store_set_aside(restore->dir, list->at[i].name) : 0;

        if (err && restore->job->global.exact)
            return rt_fail_prefix(
                err, "checkpoint '%s' is damaged and cannot be set aside: ", list->at[i].name);
        if (err)
            rt_log(RT_LOG_WARN, "checkpoint_not_set_aside name=%s reason=\"%s\"", list->at[i].name,
                   rt_err_text());
    }
    return 0;
}

/* The one at `which` was tried in vain, for the reason in rt_err_text(). 0: on to the next one; GONE; an error: that was all. */
static int pass_over(const struct ebs_restore *restore, struct rt_store_list *list, size_t which,
                     int err, struct ebs_restored *out)
{
    struct rt_stored *stored = &list->at[which];
    char why[TEXT], text[2 * TEXT];

    snprintf(why, sizeof(why), "%s", rt_err_text());
    if ((!is_fatal(err) || err == RT_EFILE) && has_gone(restore->dir, list, which)) {
        rt_log(RT_LOG_WARN, "checkpoint_vanished name=%s reason=\"%s\"", stored->name,
               rt_log_escape(why, text, sizeof(text)));
        return GONE;
    }
    /* `exact`: one that is refused, and not damaged, stays for others: they would take it. */
    if (is_fatal(err) || (err == RT_EUSAGE && restore->job->global.exact))
        return RT_FAIL(err, "%s", why);
    if (err == RT_EDATA)
        stored->why = rt_xstrdup(why);
    skip(stored, why, out);
    return 0;
}

/* Those whose manifest cannot be believed stand last in the list, whatever their age. */
static int choose(const struct ebs_restore *restore, struct rt_store_list *list,
                  struct ebs_restored *out)
{
    for (size_t i = 0; i < list->n; i++)
        if (!list->at[i].manifest)
            skip(&list->at[i], list->at[i].why, out);
    for (size_t i = 0; i < list->n && list->at[i].manifest; i++) {
        int err = rt_manifest_check_job(list->at[i].manifest, restore->job);

        if (err)
            return rt_fail_prefix(err, "%s: ", restore->dir);
        err =
            rt_store_same_run(list, i)
                ? try_one(restore, list, i, out)
                : RT_FAIL(RT_EDATA, "it is of another run of the job than '%s'", list->at[0].name);
        if (!err)
            err = set_aside(restore, list, i);
        else
            err = pass_over(restore, list, i, err, out);
        if (err || out->name[0] != '\0')
            return err;
    }
    if (list->n == 0)
        return 0;
    return RT_FAIL(RT_EUSAGE,
                   "%s: none of its %zu checkpoints can be used: expected one that is whole, or "
                   "another folder to begin anew in",
                   restore->dir, list->n);
}

/* One that has gone says nothing of those that are there now: the newest of them is looked for anew. */
int ebs_restore(const struct ebs_restore *restore, struct ebs_restored *out)
{
    int err = GONE;

    for (uint32_t tries = 0; err == GONE && tries < TRIES; tries++) {
        struct rt_store_list list = {0};

        *out = (struct ebs_restored){0};
        err = rt_store_list(restore->dir, &list);
        if (!err)
            err = choose(restore, &list, out);
        rt_store_list_release(&list);
    }
    if (err == GONE)
        return RT_FAIL(RT_EFILE, "%s: %u checkpoints went one after the other as they were read",
                       restore->dir, TRIES);
    return err;
}
