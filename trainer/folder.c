/* trainer/folder.c -- see folder.h. */
#include "trainer/folder.h"

#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/checkpoint/lock.h"

#include <stdio.h>
#include <unistd.h>

#define AGAIN_NS (100 * RT_MS)

static int try_lock(struct tr_folder *folder)
{
    char host[64] = "", who[RT_STORE_HOLDER_MAX];
    (void)gethostname(host, sizeof host - 1);
    snprintf(who, sizeof who, "trainer/0 of job %.64s, pid %ld on host %s", folder->job,
             (long)getpid(), host);
    return rt_store_lock(folder->dir, who, &folder->lock);
}

static void look(void *arg)
{
    struct tr_folder *folder = arg;
    uint64_t now = rt_io_now(folder->io);
    int err = try_lock(folder);
    folder->held = err == 0;
    if (err == RT_EFULL && folder->since_ns == 0) {
        folder->since_ns = now;
        rt_log(RT_LOG_WARN, "folder_held reason=\"%s\" waits_s=%d", rt_err_text(),
               (int)(TR_FOLDER_WAIT_NS / RT_S));
    }
    if (err == RT_EFULL && now - folder->since_ns < TR_FOLDER_WAIT_NS) {
        rt_timer_start(folder->io, &folder->timer, AGAIN_NS);
        return;
    }
    if (err == RT_EFULL)
        err = RT_FAIL(RT_EUSAGE,
                      "%s; a checkpoint folder is one job's: stop that process, or give another "
                      "--checkpoint-dir",
                      rt_err_text());
    folder->taken(folder->ctx, err);
}

void tr_folder_take(struct tr_folder *folder)
{
    folder->timer = (struct rt_timer){.fire = look, .arg = folder};
    look(folder);
}

void tr_folder_give(struct tr_folder *folder)
{
    if (folder->io)
        rt_timer_stop(folder->io, &folder->timer);
    if (folder->held)
        rt_store_unlock(folder->lock);
    folder->held = false;
}
