/* trainer/checkpoint_disk.c -- what the disk thread does of a checkpoint: checkpoint.h says when. */
#include "trainer/checkpoint.h"
#include "trainer/state.h"

#include "runtime/base/err.h"
#include "runtime/base/failpoint.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "runtime/checkpoint/store.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* What could not be removed when its time had come. */
static int sweep_left(struct tr_trainer *trainer)
{
    struct tr_checkpoint_job *job = &trainer->checkpoint.job;
    int swept = job->left ? rt_store_sweep(trainer->conf.checkpoint_dir, NULL) : 0;
    job->left = swept < 0;
    return swept < 0 ? swept : 0;
}

/* Once: what an earlier trainer/0 left unfinished is swept, and its attempts are over. */
static int know_folder(struct tr_trainer *trainer)
{
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    const char *dir = trainer->conf.checkpoint_dir;
    struct rt_store_list list = {0};
    if (checkpoint->folder_known)
        return sweep_left(trainer);
    int swept = rt_store_sweep(dir, NULL);
    int err = swept < 0 ? swept : rt_store_list(dir, &list);
    if (err)
        return err;
    for (size_t i = 0; i < list.n; i++)
        if (list.at[i].manifest && list.at[i].manifest->attempt > checkpoint->known_attempt)
            checkpoint->known_attempt = list.at[i].manifest->attempt;
    rt_store_list_release(&list);
    checkpoint->folder_known = true;
    return 0;
}

/* A name that is taken: of a checkpoint that cannot be believed, from which nobody went on. */
static int make_folder(struct tr_trainer *trainer)
{
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    struct tr_checkpoint_job *job = &checkpoint->job;
    uint64_t wall = trainer->io->ops->wall_ms(trainer->io);
    int err = know_folder(trainer);
    if (err)
        return err;
    job->attempt = wall > checkpoint->known_attempt ? wall : checkpoint->known_attempt + 1;
    err = rt_store_begin(trainer->conf.checkpoint_dir, job->name);
    if (err != RT_EUSAGE || checkpoint->now.number > 0)
        return err;
    snprintf(job->name, sizeof job->name, "step-%09" PRIu64 "-%" PRIx64, checkpoint->now.step,
             job->attempt);
    return rt_store_begin(trainer->conf.checkpoint_dir, job->name);
}

/* Somebody may have taken it away, or what it goes on from. An increment to it would be worth nothing. */
static bool has_base(const struct tr_trainer *trainer)
{
    const struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    if (checkpoint->last_attempt == 0)
        return false;
    if (rt_store_check_whole(trainer->conf.checkpoint_dir, checkpoint->last_name,
                             checkpoint->last_attempt) == 0)
        return true;
    rt_log(RT_LOG_WARN, "checkpoint_base_gone name=%s reason=\"%s\"", checkpoint->last_name,
           rt_err_text());
    return false;
}

int tr_checkpoint_open_folder(struct tr_trainer *trainer)
{
    int err = RT_FAILPOINT_FAILS("P11.folder");
    if (!err)
        err = make_folder(trainer);
    trainer->checkpoint.job.made = !err;
    trainer->checkpoint.job.has_base = !err && has_base(trainer);
    return err;
}

int tr_checkpoint_write_dense(struct tr_trainer *trainer)
{
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    char id[96];
    char *dir = rt_path_join(trainer->conf.checkpoint_dir, checkpoint->job.name);
    snprintf(id, sizeof id, "%s-%" PRIu64, checkpoint->job.name, checkpoint->job.attempt);
    int err = tr_snapshot_write(trainer, &checkpoint->snapshot, dir, id);
    if (!err)
        err = RT_FAILPOINT_FAILS("P11.dense");
    rt_free(dir);
    return err;
}

/* Where that is taken it keeps the one that it was begun with. */
static int take_final_name(struct tr_trainer *trainer)
{
    struct tr_checkpoint_job *job = &trainer->checkpoint.job;
    if (strcmp(job->name, job->final) == 0)
        return 0;
    int err = rt_store_rename(trainer->conf.checkpoint_dir, job->name, job->final);
    if (!err)
        memcpy(job->name, job->final, sizeof job->name);
    else if (err != RT_EUSAGE) /* it may have the new name all the same */
        job->left = true;
    return err == RT_EUSAGE ? 0 : err;
}

/* After an error it may be there all the same: its manifest was renamed, and the disk has not said that it stays so. Then it is not
 * taken away, for others may go on from it; but older ones stay beside it, and the next one does not need it (checkpoint.c). */
int tr_checkpoint_write_manifest(struct tr_trainer *trainer)
{
    const struct rt_manifest *manifest = &trainer->checkpoint.snapshot.manifest;
    struct tr_checkpoint_job *job = &trainer->checkpoint.job;
    const char *dir = trainer->conf.checkpoint_dir;
    char why[900];
    job->doubted = false;
    int err = RT_FAILPOINT_FAILS("P11.manifest");
    if (!err)
        err = take_final_name(trainer);
    if (err)
        return err;
    err = rt_store_publish(dir, manifest);
    if (!err)
        return 0;
    snprintf(why, sizeof why, "%s", rt_err_text());
    job->doubted = rt_store_is_there(dir, manifest) != 0;
    if (!job->doubted)
        return RT_FAIL(err, "%s", why);
    job->left = true;
    snprintf(job->text, sizeof job->text,
             "it may be there, and may be gone after a power failure: %s", why);
    return 0;
}

int tr_checkpoint_remove_old(struct tr_trainer *trainer)
{
    RT_FAILPOINT("P11.retain");
    int removed =
        rt_store_retain(trainer->conf.checkpoint_dir, trainer->job->global.checkpoint.keep);
    trainer->checkpoint.job.left |= removed < 0;
    return removed < 0 ? removed : 0;
}

int tr_checkpoint_remove_void(struct tr_trainer *trainer)
{
    struct tr_checkpoint_job *job = &trainer->checkpoint.job;
    if (!job->made) /* what is there by this name is another's */
        return 0;
    int err = rt_store_remove(trainer->conf.checkpoint_dir, job->name);
    job->left |= err != 0;
    return err;
}
