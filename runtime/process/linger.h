/* runtime/process/linger.h -- a process that is told to stop stays for as long as trainer/0 could need it for a last checkpoint.
 *
 * All of a job may be told to stop at once, as when its pods are deleted. Then trainer/0 makes a last checkpoint, for which it
 * needs owners of rows, middlewares with gradients on their way to them, and the other ranks. Those ask, again and again, whether it
 * is there still; it closes its connections when it has ended. One that is told to stop alone finds out by trainer/0's not being told
 * so too: RT_ALONE_NS is what it takes until all of a job that is deleted have heard of it; it is counted from when trainer/0 last
 * awaited us: after a checkpoint that had begun before, the one for us comes. For an embedding server trainer/0 makes a
 * checkpoint then, and tells it when it is needed no more; so it stays to the end of one that has begun. Where trainer/0 has no folder for
 * checkpoints nobody is needed, and nobody stays. Touch: the io's thread. */
#ifndef RT_LINGER_H
#define RT_LINGER_H

#include "runtime/net/io.h"

#include <stdbool.h>

#define RT_ALONE_NS (5 * 1000000000ull)

struct rt_linger {
    struct rt_io *io;
    void *ctx;
    uint64_t most_ns;              /* however long it is needed */
    bool (*needed)(void *ctx);     /* trainer/0 is there, makes checkpoints, and is not done */
    bool (*for_leader)(void *ctx); /* trainer/0 is told too, or awaits us; or is not heard of */
    void (*over)(void *ctx);       /* once */
    /* its own: */
    struct rt_timer timer;
    uint64_t since_ns, alone_ns; /* alone_ns: since when it is not for the leader */
};

/* @return false: nobody needs us, over() is not called */
bool rt_linger_begin(struct rt_linger *linger);
void rt_linger_stop(struct rt_linger *linger); /* also before it began, if io is set */

#endif
