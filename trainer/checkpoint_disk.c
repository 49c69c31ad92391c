/* trainer/checkpoint_disk.c -- what the disk thread does of a checkpoint: checkpoint.h says when. */
#include "trainer/checkpoint.h"
#include "trainer/state.h"

#include "runtime/base/err.h"
#include "runtime/base/failpoint.h"
#include "runtime/base/file.h"
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

/* Somebody may have taken it away. An increment to it would be worth nothing. */
static bool has_base(const struct tr_trainer *trainer)
{
    const struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    char *path = rt_xasprintf("%s/%s/" RT_MANIFEST_NAME, trainer->conf.checkpoint_dir,
                              checkpoint->last_name);
    bool there = checkpoint->last_attempt > 0 && rt_file_exists(path);
    rt_free(path);
    return there;
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

/* An error after the rename leaves a checkpoint that is there. */
int tr_checkpoint_write_manifest(struct tr_trainer *trainer)
{
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    const struct rt_manifest *manifest = &checkpoint->snapshot.manifest;
    const char *dir = trainer->conf.checkpoint_dir;
    struct rt_manifest *found = NULL;
    int err = RT_FAILPOINT_FAILS("P11.manifest");
    if (!err)
        err = take_final_name(trainer);
    if (err)
        return err;
    err = rt_store_publish(dir, manifest);
    checkpoint->job.there = err == 0;
    if (err) {
        char why[sizeof checkpoint->job.text];
        snprintf(why, sizeof why, "%s", rt_err_text());
        checkpoint->job.there = rt_manifest_read(dir, manifest->name, &found) == 0 &&
                                found->attempt == manifest->attempt;
        rt_manifest_destroy(found);
        err = RT_FAIL(err, "%s", why);
    }
    return checkpoint->job.there ? 0 : err;
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
