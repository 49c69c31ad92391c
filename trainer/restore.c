/* trainer/restore.c -- a rank goes on from a checkpoint: the newest one of this job whose manifest, chain and dense files are good.
 *
 * Each rank reads for itself. Ranks that found different ones (a newer was published between their starts) become one when the
 * group forms: the most advanced one's weights count, as ever (form.c; mode `exact`: all go to the newest, back.h). What was counted comes back at rank 0 alone, and only
 * where no rank has lived on. The rows are the embedding servers' to restore; those that have lived on are ahead of these
 * weights then, which mode hybrid allows: batches that come again step dense anew, and owners answer that they have them. */
#include "trainer/state.h"

#include "runtime/base/clock.h"
#include "runtime/base/cpu.h"
#include "runtime/base/err.h"
#include "runtime/base/failpoint.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "runtime/checkpoint/store.h"
#include "trainer/load.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define TRIES 8u /* of checkpoints that go while they are read */
#define GONE  1  /* no error: what was tried is not there any more */

static int verify_dense(const struct tr_trainer *trainer, const struct rt_manifest *manifest)
{
    int err = 0;
    for (uint32_t i = 0; i < manifest->n_files && !err; i++)
        if (!manifest->file[i].is_rows)
            err = rt_store_verify_file(trainer->conf.checkpoint_dir, manifest, i, trainer->job,
                                       NULL, NULL);
    return err;
}

static int load(struct tr_trainer *trainer, const struct rt_manifest *manifest)
{
    struct tr_loaded *loaded = NULL;
    char *dir = rt_path_join(trainer->conf.checkpoint_dir, manifest->name);
    RT_FAILPOINT("P12.dense");
    int err = verify_dense(trainer, manifest);
    if (!err)
        err = tr_load_dense(dir, false, trainer->model, trainer->optimizer, &loaded);
    if (!err)
        tr_loaded_take(loaded, trainer->model, trainer->optimizer);
    tr_loaded_free(loaded);
    rt_free(dir);
    return err;
}

/* Sums of float32 depend on these. */
static int check_exact(const struct tr_trainer *trainer, const struct rt_manifest *manifest)
{
    const struct rt_global_conf *global = &trainer->job->global;
    const char *cpu = rt_isa_name(rt_cpu_isa());
    if (!global->exact ||
        (manifest->world == trainer->conf.world && manifest->threads == global->trainer_threads &&
         strcmp(manifest->cpu, cpu) == 0))
        return 0;
    return RT_FAIL(
        RT_EUSAGE,
        "checkpoint '%s' was made by %u trainers of %u threads on a CPU of class %s, here "
        "are %u of %u on %s: expected the same with global.exact",
        manifest->name, manifest->world, manifest->threads, manifest->cpu, trainer->conf.world,
        global->trainer_threads, cpu);
}

/* Can it be gone on from? Its dense network is in the model then. */
static int try_one(struct tr_trainer *trainer, const struct rt_store_list *list, size_t i)
{
    const struct rt_stored *stored = &list->at[i];
    size_t chain[RT_STORE_CHAIN_MAX], n;
    if (!stored->manifest)
        return RT_FAIL(RT_EDATA, "%s", stored->why);
    if (!rt_store_same_run(list, i))
        return RT_FAIL(RT_EDATA, "it is of another run of the job than '%s'", list->at[0].name);
    int err = rt_manifest_check_job(stored->manifest, trainer->job);
    if (!err)
        err = rt_store_chain(list, i, chain, &n);
    if (!err)
        err = check_exact(trainer, stored->manifest);
    if (!err)
        err = tr_schedule_check_start(&trainer->schedule, stored->manifest->age);
    return err ? err : load(trainer, stored->manifest);
}

/* Nobody is to go on from one that is damaged: embedding servers would take it. In `exact` all would go back to it again and again,
 * so that it stays is an error. */
static int set_aside(const struct tr_trainer *trainer, const struct rt_store_list *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        bool damaged = list->at[i].manifest && list->at[i].why;
        const char *name = list->at[i].name;
        int err = damaged ? rt_store_set_aside(trainer->conf.checkpoint_dir, name) : 0;
        if (err && trainer->job->global.exact)
            return RT_FAIL(err, "checkpoint '%s' is damaged and cannot be set aside: %s", name,
                           rt_err_text());
        if (err)
            rt_log(RT_LOG_WARN, "checkpoint_not_set_aside name=%s reason=\"%s\"", name,
                   rt_err_text());
    }
    return 0;
}

/* GONE too. From `newest` on, the first that can be; those of the list before it were passed over already. In mode `exact` one that is refused for
 * what this job is, and not for what is wrong with it, is no reason to take an older one: embedding servers would not. */
static int take_one(struct tr_trainer *trainer, struct rt_store_list *list, const char *newest)
{
    char first[512] = "";
    size_t i = 0;
    while (i < list->n && strcmp(list->at[i].name, newest) != 0)
        i++;
    if (i == list->n)
        return GONE;
    for (; i < list->n; i++) {
        int err = try_one(trainer, list, i);
        if (!err) {
            err = set_aside(trainer, list, i);
            if (err)
                return err;
            trainer->restored = list->at[i].manifest;
            list->at[i].manifest = NULL;
            return 0;
        }
        if (err == RT_EFILE &&
            rt_store_is_there(trainer->conf.checkpoint_dir, list->at[i].manifest) == 0)
            return GONE;
        if (err == RT_ENOMEM || err == RT_EFILE) /* it may be good */
            return err;
        if (err == RT_EUSAGE && trainer->job->global.exact)
            return err;
        if (err == RT_EDATA && list->at[i].manifest)
            list->at[i].why = rt_xstrdup(rt_err_text());
        if (!first[0])
            snprintf(first, sizeof first, "%s", rt_err_text());
        rt_log(RT_LOG_WARN, "checkpoint_skipped name=%s reason=\"%s\"", list->at[i].name,
               rt_err_text());
    }
    return RT_FAIL(RT_EDATA, "%s: no checkpoint can be used; the newest: %s",
                   trainer->conf.checkpoint_dir, first);
}

static int take_newest(struct tr_trainer *trainer, const char *dir)
{
    struct rt_store_list list = {0};
    char *newest = NULL;
    int err = rt_store_choose(dir, "latest", trainer->job, &newest);
    if (err == RT_EUSAGE) /* there is none: the job begins */
        return 0;
    if (!err)
        err = rt_store_list(dir, &list);
    if (!err)
        err = take_one(trainer, &list, newest);
    rt_store_list_release(&list);
    rt_free(newest);
    return err;
}

/* Embedding servers choose by the same rule, and find out by themselves whether their files are good. */
int tr_restore_dense(struct tr_trainer *trainer)
{
    const char *dir = trainer->conf.checkpoint_dir;
    int err = GONE;
    if (!dir || !trainer->conf.restore || trainer->job->data.epochs == 0)
        return 0;
    for (uint32_t tries = 0; err == GONE && tries < TRIES; tries++)
        err = take_newest(trainer, dir);
    if (err == GONE)
        err = RT_FAIL(RT_EFILE, "%s: checkpoints vanish while they are read, %u times", dir, TRIES);
    if (err == RT_EDATA)
        err = RT_FAIL(RT_EUSAGE, "%s; a job begins anew in another folder", rt_err_text());
    return err;
}

static void take_counts(struct tr_trainer *trainer, const struct rt_manifest *manifest)
{
    trainer->carried = (struct wire_rank_counts){.samples_trained = manifest->samples_trained,
                                                 .samples_dropped = manifest->samples_dropped,
                                                 .batches_trained = manifest->batches_trained,
                                                 .batches_dropped = manifest->batches_dropped};
    trainer->carried_train_ms = manifest->train_ms;
    trainer->epoch_loss_sum[0] = manifest->epoch_loss_sum;
    trainer->epoch_samples = trainer->carried_epoch_samples = manifest->epoch_samples;
    trainer->count.head[0].train_loss = trainer->count.train_loss = tr_epoch_loss(trainer, 0);
}

void tr_restore_forget_counts(struct tr_trainer *trainer)
{
    trainer->carried = (struct wire_rank_counts){0};
    trainer->epoch_loss_sum[0] = 0;
    trainer->epoch_samples = trainer->carried_epoch_samples = 0;
    trainer->count.head[0].train_loss = trainer->count.train_loss = tr_epoch_loss(trainer, 0);
}

/* How long ago it was made, by two hosts' clocks: of use to who looks at it, and for nothing else. */
static void take_age(struct tr_trainer *trainer, uint64_t made_ms)
{
    uint64_t now_ms = trainer->io->ops->wall_ms(trainer->io);
    uint64_t age_ns = now_ms > made_ms ? (now_ms - made_ms) * RT_MS : 0;
    trainer->checkpoint.durable_ns = (int64_t)(rt_io_now(trainer->io) - age_ns);
}

int tr_restore_state(struct tr_trainer *trainer)
{
    struct rt_manifest *manifest = trainer->restored;
    if (!manifest)
        return 0;
    int err = rt_ledger_import(trainer->ledger, manifest->ledger, manifest->n_ledger);
    if (!err)
        err = tr_phase_take_statistics(trainer, manifest->statistics, manifest->n_statistics);
    if (err)
        return rt_fail_prefix(err, "%s/%s: ", trainer->conf.checkpoint_dir, manifest->name);
    trainer->conf.init_from = NULL; /* it has been gone on from long ago */
    trainer->step = manifest->step;
    trainer->steps_before = manifest->age - manifest->step;
    trainer->imports = trainer->imports_due = manifest->imports;
    trainer->learning_factor = manifest->learning_factor;
    trainer->phase = trainer->train_phase = manifest->phase;
    trainer->kind = WIRE_PHASE_TRAIN;
    trainer->epoch = manifest->epoch;
    trainer->pass = manifest->pass;
    trainer->epoch_open = true;
    /* One that was due at just this step may not have been made. */
    trainer->evaluated_step = trainer->step > 0 ? trainer->step - 1 : 0;
    trainer->back.base = manifest->attempt;
    trainer->back.base_step = manifest->step;
    trainer->back.base_imports = manifest->imports;
    if (trainer->generation <= manifest->generation)
        trainer->generation = trainer->back.known.number = manifest->generation + 1;
    if (manifest->run)
        trainer->run = manifest->run;
    trainer->anew = manifest->anew;
    if (trainer->conf.self.index == 0)
        take_counts(trainer, manifest);
    trainer->checkpoint.known_attempt = manifest->attempt;
    trainer->checkpoint.last_imports = trainer->imports;
    trainer->checkpoint.last_step = trainer->checkpoint.tried_step = trainer->step;
    take_age(trainer, manifest->made_ms);
    tr_set(&trainer->metric.epoch, trainer->epoch);
    tr_set(&trainer->metric.steps, trainer->step);
    rt_log(RT_LOG_INFO,
           "restored name=%s step=%" PRIu64 " epoch=%" PRIu64 " steps=%" PRIu64
           " world_then=%u run=%016" PRIx64,
           manifest->name, manifest->step, manifest->epoch, manifest->age, manifest->world,
           trainer->run);
    if (manifest->suspect)
        rt_log(RT_LOG_WARN,
               "checkpoint_suspect name=%s reason=\"it was made while the loss or the gradients "
               "stood above what was usual\"",
               manifest->name);
    RT_FAILPOINT("P12.state");
    rt_manifest_destroy(manifest);
    trainer->restored = NULL;
    return 0;
}
