/* trainer/import.c -- see import.h. */
#include "trainer/state.h"

#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "trainer/load.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define LOOK_NS 1000000000ull /* between two looks at the lease */

/* Rows are of two models, or of another one than the weights: that is no job to go on with. */
static int cut_off_error(const char *why)
{
    return RT_FAIL(RT_EFILE,
                   "an import was cut off when rows may have begun to change: %s; begin anew with "
                   "--init-from",
                   why);
}

bool tr_import_holds(const struct tr_import *import)
{
    return !import->failed &&
           (import->stage == WIRE_IMPORT_HOLD || import->stage == WIRE_IMPORT_LOAD);
}

bool tr_import_reads(struct tr_import *import)
{
    import->reading = import->reading || import->due;
    if (!import->due)
        return false;
    import->due = false;
    return true;
}

uint64_t tr_import_due(const struct tr_trainer *trainer)
{
    if (trainer->conf.self.index != 0)
        return trainer->imports_due;
    return trainer->imports + tr_import_holds(&trainer->import);
}

/* If we die from here on, the others do not take the weights that they have for the ones that go with the rows. */
bool tr_import_is_known(const struct tr_trainer *trainer)
{
    const struct tr_group *group = trainer->group;
    bool all = true;
    if (!group || !tr_import_holds(&trainer->import))
        return true;
    for (uint32_t r = 0; r < group->world && all; r++)
        all = group->seat[r].in && group->seat[r].header.imports_due == tr_import_due(trainer);
    return all;
}

/* Whoever was in the group in this life knows how its import stands. */
int tr_import_check_seats(const struct tr_group *group, uint64_t imports)
{
    for (uint32_t r = 0; r < group->world && !group->was_formed; r++)
        if (group->seat[r].imports_due > imports)
            return cut_off_error("trainer/0 was started again");
    return 0;
}

static bool is_quiet(const struct tr_trainer *trainer)
{
    return tr_hold_is_quiet(trainer) && tr_import_is_known(trainer);
}

bool tr_import_done(const struct tr_trainer *trainer)
{
    const struct tr_import *import = &trainer->import;
    if (import->failed)
        return false;
    if (import->stage == WIRE_IMPORT_CHECK)
        return import->loaded != NULL;
    return import->stage != WIRE_IMPORT_HOLD || is_quiet(trainer);
}

/* ---- its end ---- */

static void end(struct tr_trainer *trainer)
{
    struct tr_import *import = &trainer->import;
    rt_timer_stop(trainer->io, &import->lease);
    tr_loaded_free(import->loaded);
    import->loaded = NULL;
    import->due = false;
}

static void fail(struct tr_trainer *trainer, const char *why)
{
    struct tr_import *import = &trainer->import;
    snprintf(import->error, sizeof import->error, "%s", why);
    import->failed = true;
    end(trainer);
    tr_pump(trainer);
}

static void cut_off(struct tr_trainer *trainer, const char *why)
{
    int err = cut_off_error(why);
    end(trainer);
    tr_fail(trainer, err);
}

static void look(void *arg)
{
    struct tr_trainer *trainer = arg;
    struct tr_import *import = &trainer->import;
    if (import->reading || rt_io_now(trainer->io) - import->asked_ns < TR_IMPORT_LEASE_NS)
        rt_timer_start(trainer->io, &import->lease, LOOK_NS);
    else if (import->stage == WIRE_IMPORT_LOAD)
        cut_off(trainer, "nobody has asked for it any more");
    else
        fail(trainer, "nobody has asked for it any more");
}

void tr_import_release(struct tr_trainer *trainer)
{
    end(trainer);
    tr_loaded_free(trainer->import.read);
}

/* ---- stages ---- */

void tr_import_check(struct tr_trainer *trainer)
{
    struct tr_import *import = &trainer->import;
    trainer->step_err = tr_load_dense(import->dir, import->fresh, trainer->model,
                                      trainer->optimizer, &import->read);
    if (!trainer->step_err && import->read->state)
        trainer->step_err = tr_schedule_check_start(&trainer->schedule, import->read->step);
    if (trainer->step_err) {
        tr_loaded_free(import->read);
        import->read = NULL;
    }
    if (trainer->step_err) /* the text belongs to this thread */
        snprintf(import->read_error, sizeof import->read_error, "%s", rt_err_text());
}

void tr_import_checked(struct tr_trainer *trainer)
{
    struct tr_import *import = &trainer->import;
    int err = trainer->step_err;
    import->reading = false;
    import->loaded = import->read;
    import->read = NULL;
    trainer->step_err = 0;
    if (import->failed) /* it was given up meanwhile */
        end(trainer);
    else if (err)
        fail(trainer, import->read_error);
}

static int begin(struct tr_trainer *trainer, const struct wire_control_request *request)
{
    struct tr_import *import = &trainer->import;
    bool over = import->failed || import->stage == WIRE_IMPORT_TAKE;
    if (import->number > 0 && (!over || import->reading))
        return RT_FAIL(RT_EFULL, "%s is being imported already", import->dir);
    end(trainer);
    *import =
        (struct tr_import){.number = (uint64_t)request->number,
                           .stage = WIRE_IMPORT_CHECK,
                           .fresh = request->flags & WIRE_CTL_FRESH,
                           .due = true,
                           .asked_ns = rt_io_now(trainer->io),
                           .lease = {.fire = look, .arg = trainer, .impl = import->lease.impl}};
    snprintf(import->dir, sizeof import->dir, "%s", request->text);
    rt_timer_start(trainer->io, &import->lease, LOOK_NS);
    return 0;
}

static void take(struct tr_trainer *trainer)
{
    struct tr_import *import = &trainer->import;
    const struct tr_loaded *loaded = import->loaded;
    tr_loaded_take(loaded, trainer->model, trainer->optimizer);
    if (loaded->state)
        trainer->steps_before = loaded->step - trainer->step;
    trainer->imports++;
    tr_alarm_reset(trainer);
    import->stage = WIRE_IMPORT_TAKE;
    rt_log(RT_LOG_INFO, "imported step=%" PRIu64 " with_state=%d steps=%" PRIu64 " from=\"%s\"",
           trainer->step, loaded->state != NULL, tr_age(trainer, trainer->step), import->dir);
    end(trainer);
    if (trainer->group)
        tr_group_break(trainer->group, "a model was imported");
    tr_feed_return(trainer);
}

/* From one stage to the next. */
static int go_on(struct tr_trainer *trainer, const struct wire_control_request *request)
{
    struct tr_import *import = &trainer->import;
    if (import->number != (uint64_t)request->number || import->failed)
        return RT_FAIL(RT_EUSAGE, "the import of %s is not under way here%s%s", request->text,
                       import->failed ? ": " : "", import->failed ? import->error : "");
    import->asked_ns = rt_io_now(trainer->io);
    if (import->stage == WIRE_IMPORT_HOLD && !is_quiet(trainer))
        tr_hold_ask_news(trainer);
    if (request->stage <= import->stage)
        return 0;
    if (request->stage != import->stage + 1 || !tr_import_done(trainer))
        return RT_FAIL(RT_ENOTREADY, "stage %u of the import comes after stage %u", request->stage,
                       import->stage);
    if (request->stage == WIRE_IMPORT_TAKE)
        take(trainer);
    else
        import->stage = request->stage;
    return 0;
}

static int check_request(const struct tr_trainer *trainer,
                         const struct wire_control_request *request)
{
    if (trainer->conf.self.index != 0)
        return RT_FAIL(RT_EUSAGE, "a model is imported by trainer/0");
    if (!(request->number >= 1 && request->number < 0x1p53))
        return RT_FAIL(RT_EUSAGE, "the number of an import: expected a whole one from 1 on, got %g",
                       request->number);
    if (trainer->group && trainer->job->global.mode == RT_MODE_ASYNC)
        return RT_FAIL(RT_EUSAGE, "no import in mode `async` with several trainers: each has "
                                  "weights of its own");
    if (!tr_back_may_work(trainer))
        return RT_FAIL(RT_ENOTREADY, "roles of an `exact` job are being compared: nothing is under "
                                     "way yet; try again");
    if (trainer->kind == WIRE_PHASE_DONE)
        return RT_FAIL(RT_EUSAGE, "the job is done: begin another with --init-from");
    return 0;
}

int tr_trainer_import(struct tr_trainer *trainer, const struct wire_control_request *request)
{
    int err = check_request(trainer, request);
    if (err)
        return err;
    if (request->stage == WIRE_IMPORT_FAIL) {
        bool known = trainer->import.number == (uint64_t)request->number;
        if (known && trainer->import.stage < WIRE_IMPORT_LOAD)
            fail(trainer, request->text);
        else if (!known || trainer->import.stage == WIRE_IMPORT_LOAD)
            cut_off(trainer, request->text);
        return 0;
    }
    if (request->stage == WIRE_IMPORT_CHECK && trainer->import.number != (uint64_t)request->number)
        err = begin(trainer, request);
    else
        err = go_on(trainer, request);
    tr_phase_check(trainer);
    tr_pump(trainer);
    return err;
}

const struct tr_import *tr_trainer_imported(const struct tr_trainer *trainer)
{
    return &trainer->import;
}
