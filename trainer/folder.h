/* trainer/folder.h -- trainer/0 has the checkpoint folder to itself (runtime/checkpoint/lock.h) before it reads in it, and until it ends.
 *
 * The one before it may be making its last checkpoint still, or be dying: so its lock is waited for, TR_FOLDER_WAIT_NS at most. A
 * job that is given another one's folder ends then, and has warned of it at once. Touch: the io's thread. */
#ifndef TR_FOLDER_H
#define TR_FOLDER_H

#include "runtime/net/io.h"

#include <stdbool.h>

#define TR_FOLDER_WAIT_NS (60 * 1000000000ull)

struct tr_folder {
    struct rt_io *io;
    const char *dir, *job;
    void *ctx;
    /* 0: it is ours. Else RT_EUSAGE: another has it, RT_EFILE; text in rt_err_text(). Once, and perhaps inside tr_folder_take(). */
    void (*taken)(void *ctx, int err);
    /* all zero at first: */
    struct rt_timer timer;
    uint64_t since_ns; /* 0: not refused yet */
    int lock;
    bool held;
};

void tr_folder_take(struct tr_folder *folder);
void tr_folder_give(
    struct tr_folder *folder); /* also while it is waited for, and before it ever was */

#endif
