/* trainer/between.c -- what the step thread reads between two steps: the weights, for their digest or to write them to disk, or a model
 * that is to be imported. A step is open meanwhile, so that nothing changes them. */
#include "trainer/state.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "trainer/save.h"

#include <stdio.h>

static void start_read(struct tr_trainer *trainer, void (*run)(void *), void (*done)(void *))
{
    trainer->step_open = true;
    trainer->step_kind = TR_READ;
    tr_step_work(trainer, run, done);
}

/* What came meanwhile, the last ack of an epoch, found a step open. */
static void read_done(struct tr_trainer *trainer)
{
    tr_phase_check(trainer);
    tr_pump(trainer);
}

static void digested(void *arg)
{
    struct tr_trainer *trainer = arg;
    tr_step_close(trainer);
    tr_agree_made_now(trainer);
    read_done(trainer);
}

static void write_save(void *arg)
{
    struct tr_trainer *trainer = arg;
    struct tr_saved what = tr_saved_now(trainer->job, trainer->model, trainer->optimizer,
                                        tr_age(trainer, trainer->step));
    what.statistics = trainer->statistics;
    what.n_statistics = trainer->n_statistics;
    trainer->step_err = tr_save_dense(&what, trainer->save);
    if (trainer->step_err)
        snprintf(trainer->step_text, sizeof trainer->step_text, "%s", rt_err_text());
}

/* That it failed is no failure of the training's. */
static void save_written(void *arg)
{
    struct tr_trainer *trainer = arg;
    struct rt_save *save = trainer->save;
    int err = trainer->step_err ? RT_FAIL(trainer->step_err, "%s", trainer->step_text) : 0;
    trainer->save = NULL;
    trainer->step_err = 0;
    tr_step_close(trainer);
    rt_save_end(save, err);
    read_done(trainer);
}

static void checked(void *arg)
{
    struct tr_trainer *trainer = arg;
    tr_step_close(trainer);
    tr_import_checked(trainer);
    read_done(trainer);
}

static void check_import(void *arg)
{
    tr_import_check(arg);
}

bool tr_between_start(struct tr_trainer *trainer)
{
    bool statistics = trainer->kind == WIRE_PHASE_STATISTICS; /* they may still change */
    if (tr_agree_wants(trainer))
        start_read(trainer, tr_agree_make_now, digested);
    else if (trainer->save && !statistics)
        start_read(trainer, write_save, save_written);
    else if (tr_import_reads(&trainer->import))
        start_read(trainer, check_import, checked);
    else
        return false;
    return true;
}

void tr_trainer_save(struct tr_trainer *trainer, struct rt_save *save)
{
    rt_assert(!trainer->save);
    trainer->save = save;
    tr_pump(trainer);
}
