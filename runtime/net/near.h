/* runtime/net/near.h -- the short way to a listener of this host: a Unix socket beside its TCP port.
 *
 * A TCP listener also listens on an abstract Unix socket whose name is the address that it is bound to. Who connects to
 * an address of this network namespace (loopback, or told by "near:") tries that name first, and then the name of
 * a listener on all addresses (0.0.0.0, [::]) with its port. Names and ports both belong to the
 * namespace, so a name can mean no other listener; a listener of another user is not trusted. Where the short way is
 * not there, TCP is: so a listener that is told of by an address it is not bound to is reached by TCP, through
 * whatever listens there. It saves the payload's checksum and a third of the kernel's work (conn.c). Linux only. */
#ifndef RT_NEAR_H
#define RT_NEAR_H

#include "runtime/net/address.h"

#include <stdbool.h>

/* Is the address one of this namespace, whose listener may have a short way? */
bool rt_near_is(const struct rt_address *address);
/* A socket that is bound, not blocking; -1: there is none. @bound: where TCP listens, as printed, with its port. */
int rt_near_bind(const char *bound);
/* A socket that is connected, not blocking; -1: use TCP. */
int rt_near_connect(const struct rt_address *address);

void rt_near_set(bool on); /* tests only: off, it is TCP as between machines */

#endif
