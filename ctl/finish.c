/* ctl/finish.c -- see finish.h. */
#include "ctl/finish.h"
#include "ctl/amount.h"
#include "ctl/save.h"
#include "runtime/base/clock.h"
#include "runtime/base/mem.h"
#include "runtime/job/save.h"

#define ANSWER_ROUNDS 20  /* that a finished job waits for roles that do not answer */
#define AGAIN_ROUNDS  100 /* the same since one was started again */

static bool fails(int *exit_code, char **error, char *why)
{
    *exit_code = 1;
    *error = why;
    return true;
}

/* It has a model and its evaluation, whatever became of the file of scores. */
static bool succeeds(const struct ctl_finish *finish, const struct ctl_snapshot *last,
                     int *exit_code, char **error)
{
    const struct ctl_options *options = finish->options;
    struct ctl_predictions p;
    char rows[32];

    if (options->predict) {
        ctl_view_predictions(last, &p);
        if (p.error[0])
            return fails(exit_code, error,
                         rt_xasprintf("the scores were not written: %s", p.error));
        ctl_progress_say(finish->progress, "the scores of %s rows: %s%s",
                         ctl_thousands(p.rows, rows, sizeof(rows)), options->predict,
                         options->replicas[RT_ROLE_TRAINER] > 1 ? ".*" : "");
    }
    *exit_code = 0;
    *error = NULL;
    return true;
}

static bool saves_rows(const struct ctl_finish *finish)
{
    return finish->job->global.save == RT_SAVE_ALL;
}

static bool check_saved(struct ctl_finish *finish, const struct ctl_snapshot *last, int *exit_code,
                        char **error)
{
    struct ctl_saved saved;
    char bytes[CTL_AMOUNT_MAX];

    ctl_save_read(last, RT_SAVE_NAME, saves_rows(finish), &saved);
    if (saved.bytes != finish->saved_bytes) {
        finish->saved_bytes = saved.bytes;
        finish->saved_ns = rt_now_ns();
    }
    if (saved.error[0] || last->save[0])
        return fails(exit_code, error,
                     rt_xasprintf("the model is trained, but was not saved: %s",
                                  saved.error[0] ? saved.error : last->save));
    if (saved.writing == 0) {
        ctl_progress_say(finish->progress, "the model: %s in %llu files of %s/%s",
                         ctl_amount((double)saved.bytes, "B", bytes),
                         (unsigned long long)saved.files, finish->run_dir, RT_SAVE_NAME);
        return succeeds(finish, last, exit_code, error);
    }
    if (rt_now_ns() - finish->saved_ns > CTL_SAVE_STILL_MS * RT_MS)
        return fails(exit_code, error,
                     rt_xasprintf("the model is trained, but was not saved: nothing more of it was "
                                  "written for %d s by %u processes; logs: %s/logs",
                                  CTL_SAVE_STILL_MS / 1000, saved.writing, finish->run_dir));
    return false;
}

/* All are done, as far as they answer. */
static bool begin_save(struct ctl_finish *finish, const struct ctl_snapshot *last, int *exit_code,
                       char **error)
{
    const struct rt_global_conf *global = &finish->job->global;

    if (global->save == RT_SAVE_NOTHING || finish->job->data.epochs == 0)
        return succeeds(finish, last, exit_code, error);
    finish->saving = true;
    finish->saved_ns = rt_now_ns();
    ctl_poll_save(finish->poll, saves_rows(finish), global->save_state);
    return false;
}

/* Ranks end together, within a round or two; who is started again hears of it from the others. */
static bool is_waiting(struct ctl_finish *finish, const struct ctl_snapshot *last,
                       const struct ctl_view *view)
{
    uint32_t most = finish->options->restart ? AGAIN_ROUNDS : ANSWER_ROUNDS;

    if (view->ranks_done == 0)
        return true;
    if (view->ranks_done == view->ranks && last->silent == 0)
        return false;
    return !ctl_roles_all_run(finish->roles) || ++finish->rounds < most;
}

bool ctl_finish_look(struct ctl_finish *finish, const struct ctl_snapshot *last,
                     const struct ctl_view *view, int *exit_code, char **error)
{
    if (finish->saving)
        return check_saved(finish, last, exit_code, error);
    if (is_waiting(finish, last, view))
        return false;
    if (view->ranks_done < view->ranks)
        return fails(exit_code, error,
                     rt_xasprintf("%u of %u trainers are done, the others are not; logs: %s/logs",
                                  view->ranks_done, view->ranks, finish->run_dir));
    if (finish->job->global.mode != RT_MODE_ASYNC && ctl_view_digests_differ(view))
        return fails(exit_code, error,
                     rt_xasprintf("the ranks ended with different dense weights: digest %s at "
                                  "trainer/%u, %s at trainer/%u; this is a bug, please report it",
                                  view->digest[0], view->digest_rank[0], view->digest[1],
                                  view->digest_rank[1]));
    return begin_save(finish, last, exit_code, error);
}

void ctl_finish_not_yet(struct ctl_finish *finish, bool is_first_trainer)
{
    finish->rounds = 0;
    if (!finish->saving || !is_first_trainer)
        return;
    finish->saving = false;
    ctl_poll_save_not(finish->poll);
}
