/* ctl/rollback.c -- see rollback.h. What it goes back to is looked at before anything is set aside, and trainer/0's lock is held
 * meanwhile, so no job goes on from what is on its way out. */
#include "ctl/rollback.h"
#include "ctl/checkpoints.h"
#include "ctl/target.h"
#include "runtime/base/err.h"
#include "runtime/checkpoint/lock.h"

#include <stdio.h>

/* @return how many were set aside */
static int roll_back(const struct ctl_checkpoints *from)
{
    int lock, n, err = ctl_checkpoints_look(from, from->which);

    if (err)
        return rt_fail_prefix(err, "nothing was set aside: ");
    err = rt_store_lock(from->dir, "saffron rollback", &lock);
    if (err == RT_EFULL)
        return RT_FAIL(RT_EUSAGE, "%s; a job makes checkpoints there: stop it first",
                       rt_err_text());
    if (err)
        return err;
    n = rt_store_roll_back(from->dir, from->list.at[from->which].name);
    rt_store_unlock(lock);
    return n;
}

int ctl_rollback(int argc, char **argv)
{
    struct ctl_words words = {.expected = "DIR NAME", .least = 2, .most = 2};
    struct ctl_checkpoints from;
    int n, err;

    ctl_words_parse(
        argc, argv,
        "Have a job that is started with --checkpoint-dir DIR go on from the checkpoint "
        "NAME: newer ones are set aside, renamed to NAME.abandoned.\vNo job may be "
        "running there.",
        &words);
    err = ctl_checkpoints_open(words.word[0], words.word[1], &from);
    if (err)
        return ctl_target_complain(err);
    n = roll_back(&from);
    if (n >= 0)
        printf("the newest checkpoint is %s, of step %llu; set aside: %d\n", words.word[1],
               (unsigned long long)from.list.at[from.which].manifest->step, n);
    ctl_checkpoints_close(&from);
    return n < 0 ? ctl_target_complain(n) : 0;
}
