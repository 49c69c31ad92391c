/* runtime/admin/net_metrics.h -- what loops and rpcs count of themselves, on the page: the same names in every role.
 *
 * Each loop of a process registers its own; the page adds them up where the labels are the same. What is
 * registered has to live as long as the metrics are printed. */
#ifndef RT_NET_METRICS_H
#define RT_NET_METRICS_H

#include "runtime/admin/metrics.h"
#include "runtime/net/loop.h"
#include "runtime/net/rpc.h"

/* Requests by method: those that `role` asks and those that the rpc serves; what went over its connections. What ranks
 * ask of each other is left out where the rpc does not serve it: that trainer is alone. On the io's thread, or before it
 * runs. */
void rt_metrics_rpc(struct rt_metrics *metrics, enum rt_role role, struct rt_rpc *rpc);

/* Bytes of frames that this process sent, by the role that they went to and by what it worked on (runtime/base/purpose.h):
 * over the trained samples they are the summary's bytes_per_sample. Once a process. */
void rt_metrics_hops(struct rt_metrics *metrics, enum rt_role role);

/* How long the loop works at a stretch, and in all; what waits in its sockets. name: of the label `loop`; loops of
 * one kind share it or have their own ("control", "data/0"). */
void rt_metrics_loop(struct rt_metrics *metrics, enum rt_role role, const char *name,
                     const struct rt_loop *loop);

#endif
