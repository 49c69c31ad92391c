/* runtime/net/credit.h -- how much may wait to be sent: by one connection, and by all of a process.
 *
 * One of these per process, shared by the rpcs of its loops. What it lends is what waits beyond the kernel's
 * buffers, counted from RT_CREDIT_FREE bytes of a connection on. Zero it, set the limit, give it to rt_rpc_conf. */
#ifndef RT_CREDIT_H
#define RT_CREDIT_H

#include <stdatomic.h>
#include <stdint.h>

#define RT_CREDIT_BYTES (256ull << 20) /* of a connection, unless rt_rpc_conf says otherwise */
#define RT_CREDIT_FREE  (64u << 10)    /* less waits only until the end of a turn of the loop */
#define RT_CREDIT_LINKS                                                                            \
    4 /* credits that a process lends: more peers than that stop seldom at once */

struct rt_credit {
    uint64_t limit;        /* bytes; fixed before the first rpc joins */
    _Atomic uint64_t lent; /* Touched by: the loops; relaxed */
    _Atomic uint32_t rpcs; /* that share it */
};

#endif
