/* trainer/snapshot.c -- see snapshot.h. */
#include "trainer/snapshot.h"
#include "trainer/state.h"

#include "runtime/base/cpu.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/hash.h"
#include "runtime/checkpoint/rowfile.h"
#include "runtime/job/shard.h"
#include "runtime/process/version.h"
#include "trainer/save.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define LEDGER_BYTES ((size_t)64 << 20)
#define READ_BYTES   ((size_t)1 << 20)

/* ---- the copy ---- */

static int take_room(struct tr_trainer *trainer, uint32_t owners, struct tr_snapshot *snapshot)
{
    size_t n_state, n = tr_model_count(trainer->model);
    (void)tr_optimizer_state(trainer->optimizer, &n_state);
    if (!snapshot->param) {
        snapshot->param = rt_try_malloc((n + 1) * sizeof *snapshot->param);
        snapshot->state = rt_try_malloc((n_state + 1) * sizeof *snapshot->state);
        snapshot->table = rt_xcalloc(trainer->job->n_tables + 1, sizeof *snapshot->table);
    }
    if (!snapshot->param || !snapshot->state)
        return RT_FAIL(RT_ENOMEM, "no memory for a copy of %zu weights and their state", n);
    if (snapshot->owners != owners) {
        rt_free(snapshot->file);
        snapshot->file = rt_xcalloc(owners + TR_DENSE_FILES, sizeof *snapshot->file);
        snapshot->owners = owners;
    }
    if (snapshot->arena)
        rt_arena_reset(snapshot->arena);
    return snapshot->arena ? 0 : rt_arena_create(LEDGER_BYTES, &snapshot->arena);
}

static void copy_dense(struct tr_trainer *trainer, struct tr_snapshot *snapshot)
{
    size_t n_state, n = tr_model_count(trainer->model);
    const float *state = tr_optimizer_state(trainer->optimizer, &n_state);
    if (n > 0)
        memcpy(snapshot->param, tr_model_params(trainer->model), n * sizeof(float));
    if (n_state > 0)
        memcpy(snapshot->state, state, n_state * sizeof(float));
    snapshot->optimizer_steps = tr_optimizer_steps(trainer->optimizer);
}

/* What training had come to: in an evaluation it is that of the phase before, whose batches are all in the ledger. */
static void describe_place(const struct tr_trainer *trainer, struct rt_manifest *out)
{
    bool evaluates = trainer->kind == WIRE_PHASE_EVALUATE;
    out->step = trainer->step;
    out->age = tr_age(trainer, trainer->step);
    out->epoch = trainer->epoch;
    out->phase = evaluates ? trainer->train_phase : trainer->phase;
    out->pass = evaluates ? trainer->epoch : trainer->pass;
    out->train_ms = trainer->carried_train_ms + tr_train_ns(trainer) / 1000000;
    if (evaluates && !trainer->epoch_open && isfinite(trainer->count.train_loss)) {
        out->epoch_samples = trainer->count.samples_epoch; /* it will be closed again */
        out->epoch_loss_sum = trainer->count.train_loss * (double)trainer->count.samples_epoch;
    }
}

static uint64_t finished_batches(const struct wire_split_ledger *ledger, uint32_t n)
{
    uint64_t batches = 0;
    for (uint32_t s = 0; s < n; s++) {
        batches += ledger[s].finished_low;
        for (uint32_t i = 0; i < ledger[s].finished_bytes; i++)
            batches += (unsigned)__builtin_popcount(ledger[s].finished[i]);
    }
    return batches;
}

/* What a rank had counted and not told died with it, and what it had told may be of weights that were lost: the ledger knows. Batches
 * that are too few or too many count as whole ones, which only a split's last one of an epoch may not be, until an epoch is over and
 * rows are known. */
static void count_by_ledger(struct tr_trainer *trainer, struct rt_manifest *manifest)
{
    uint64_t finished = finished_batches(manifest->ledger, manifest->n_ledger), read, bad;
    uint64_t told = manifest->batches_trained + manifest->batches_dropped;
    uint64_t each = trainer->job->data.batch_size, before = manifest->samples_trained,
             exact = before;
    rt_ledger_rows(trainer->ledger, &read, &bad);
    bad += manifest->samples_dropped;
    if (!trainer->epoch_open)
        exact = read > bad ? read - bad : 0;
    else if (finished > told)
        exact = before + (finished - told) * each;
    else if (before > (told - finished) * each)
        exact = before - (told - finished) * each;
    manifest->samples_trained = exact;
    manifest->batches_trained =
        finished > manifest->batches_dropped ? finished - manifest->batches_dropped : 0;
    if (finished > told) { /* ours to tell from here on */
        trainer->carried.batches_trained += finished - told;
        trainer->carried.samples_trained += exact > before ? exact - before : 0;
    }
}

/* Of all ranks, and of those and the runs before. */
static void sum_counts(const struct tr_trainer *trainer, struct rt_manifest *manifest)
{
    const struct tr_group *group = trainer->group;
    for (uint32_t r = 0; r < trainer->conf.world; r++) {
        struct wire_rank_counts own = tr_own_counts(trainer);
        const struct wire_rank_counts *counts = r == 0 ? &own : &group->counts[r];
        manifest->samples_trained += counts->samples_trained;
        manifest->samples_dropped += counts->samples_dropped;
        manifest->batches_trained += counts->batches_trained;
        manifest->batches_dropped += counts->batches_dropped;
        manifest->epoch_loss_sum += counts->epoch_loss_sum;
        manifest->epoch_samples += counts->epoch_samples;
    }
    manifest->samples_trained += trainer->carried.samples_trained;
    manifest->samples_dropped += trainer->carried.samples_dropped;
    manifest->batches_trained += trainer->carried.batches_trained;
    manifest->batches_dropped += trainer->carried.batches_dropped;
}

static void describe(const struct tr_trainer *trainer, struct rt_manifest *out)
{
    const struct rt_job *job = trainer->job;
    *out = (struct rt_manifest){
        .made_ms = trainer->io->ops->wall_ms(trainer->io),
        .job = job->name,
        .version = RT_VERSION,
        .config_hash = job->config_hash,
        .plan_hash = job->plan_hash,
        .row_job = rt_rowfile_job(job),
        .seed = job->global.seed,
        .mode = rt_mode_name(job->global.mode),
        .exact = job->global.exact,
        .cpu = rt_isa_name(rt_cpu_isa()),
        .world = trainer->conf.world,
        .splits = job->data.splits,
        .threads = job->global.trainer_threads,
        .run = trainer->run,
        .anew = trainer->anew,
        .generation = trainer->generation,
        .imports = trainer->imports,
        .learning_factor = trainer->learning_factor,
        .suspect = trainer->checkpoint.now.suspect,
        .n_statistics = trainer->n_statistics,
        .statistics = trainer->statistics,
        .n_tables = job->n_tables,
    };
    memcpy(out->part_hash, job->part_hash, sizeof out->part_hash);
}

int tr_snapshot_take(struct tr_trainer *trainer, uint32_t owners, struct tr_snapshot *snapshot)
{
    struct rt_manifest *manifest = &snapshot->manifest;
    struct wire_split_ledger *ledger = NULL;
    int err = take_room(trainer, owners, snapshot);
    if (err)
        return err;
    describe(trainer, manifest);
    describe_place(trainer, manifest);
    sum_counts(trainer, manifest);
    err = rt_ledger_export(trainer->ledger, snapshot->arena, &ledger, &manifest->n_ledger);
    if (err)
        return err;
    manifest->ledger = ledger;
    count_by_ledger(trainer, manifest);
    manifest->owners = owners;
    manifest->file = snapshot->file;
    manifest->n_files = owners + TR_DENSE_FILES;
    manifest->table = snapshot->table;
    memset(snapshot->file, 0, manifest->n_files * sizeof *snapshot->file);
    memset(snapshot->table, 0, manifest->n_tables * sizeof *snapshot->table);
    for (uint32_t t = 0; t < manifest->n_tables; t++)
        snapshot->table[t].name = trainer->job->table[t].name;
    copy_dense(trainer, snapshot);
    return 0;
}

/* ---- owners' files ---- */

int tr_snapshot_add(const struct tr_trainer *trainer, struct tr_snapshot *snapshot, uint32_t owner,
                    const struct wire_await_cut_reply *reply)
{
    const struct tr_owners *owners = &trainer->owners;
    struct rt_shard_map map;
    if (reply->n_tables != snapshot->manifest.n_tables)
        return RT_FAIL(RT_EPROTO, "AwaitCut reply of owner %u: %u tables, expected %u", owner,
                       reply->n_tables, snapshot->manifest.n_tables);
    int err = rt_shard_map_init(&map, owners->servers, owners->workers);
    if (err)
        return err;
    const char *name = rt_arena_strdup(snapshot->arena, reply->file);
    if (!name)
        return RT_FAIL(RT_ENOMEM, "no memory for the name of a file of owner %u", owner);
    struct rt_manifest_file *file = &snapshot->file[owner];
    *file = (struct rt_manifest_file){.name = name,
                                      .bytes = reply->bytes,
                                      .digest = reply->digest,
                                      .is_rows = true,
                                      .owner = owner,
                                      .shard_first = rt_shard_first(&map, owner),
                                      .shard_end = rt_shard_first(&map, owner + 1),
                                      .knows_live = true};
    for (uint32_t t = 0; t < reply->n_tables; t++) {
        struct rt_manifest_table *table = &snapshot->table[t];
        table->rows += reply->table[t].rows;
        table->removed += reply->table[t].removed;
        table->digest += reply->table[t].digest;
        table->live += reply->table[t].live;
        file->live += reply->table[t].live;
        file->live_bytes += reply->table[t].live * rt_row_layout(&trainer->job->table[t]).row_bytes;
    }
    return 0;
}

/* ---- the dense network ---- */

/* As it is on the disk now: what was written is what the manifest vouches for. */
static int describe_file(const char *path, const char *name, struct rt_manifest_file *out)
{
    char *part = rt_xmalloc(READ_BYTES);
    struct rt_hash *hash = rt_hash_create();
    FILE *file = fopen(path, "rb");
    int err = file && hash ? 0 : RT_FAIL(RT_EFILE, "%s: %s", path, strerror(errno));
    *out = (struct rt_manifest_file){.name = name};
    for (size_t n = 1; !err && n > 0;) {
        n = fread(part, 1, READ_BYTES, file);
        rt_hash_add(hash, part, n);
        out->bytes += n;
    }
    if (!err && ferror(file))
        err = RT_FAIL(RT_EFILE, "%s: %s", path, strerror(errno));
    if (!err)
        out->digest = rt_hash_value(hash);
    if (file)
        (void)fclose(file);
    rt_hash_destroy(hash);
    rt_free(part);
    return err;
}

int tr_snapshot_write(const struct tr_trainer *trainer, struct tr_snapshot *snapshot,
                      const char *dir, const char *id)
{
    static const char *const name[TR_DENSE_FILES] = {"dense.safetensors", "dense_state.safetensors",
                                                     "model.yml"};
    const struct rt_manifest *manifest = &snapshot->manifest;
    const struct tr_saved what = {.job = trainer->job,
                                  .model = trainer->model,
                                  .optimizer = trainer->optimizer,
                                  .param = snapshot->param,
                                  .state = snapshot->state,
                                  .step = manifest->age,
                                  .optimizer_steps = snapshot->optimizer_steps,
                                  .statistics = manifest->statistics,
                                  .n_statistics = manifest->n_statistics};
    struct rt_save save = {.dir = dir, .id = id, .with_state = true};
    int err = tr_save_dense(&what, &save);
    for (int i = 0; i < TR_DENSE_FILES && !err; i++) {
        char *path = rt_path_join(dir, name[i]);
        err = describe_file(path, name[i], &snapshot->file[manifest->owners + i]);
        rt_free(path);
    }
    return err;
}

void tr_snapshot_release(struct tr_snapshot *snapshot)
{
    rt_free(snapshot->param);
    rt_free(snapshot->state);
    rt_free(snapshot->file);
    rt_free(snapshot->table);
    rt_arena_destroy(snapshot->arena);
}
