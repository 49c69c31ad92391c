/* runtime/net/near.h -- the short way to a listener of this machine: a Unix socket beside its TCP port.
 *
 * A listener on a loopback address also listens on an abstract Unix socket whose name is the address, and
 * who connects to a loopback address tries that name first. Both belong to the same network namespace, so the name
 * can mean no other listener; a listener of another user is not trusted. Where the short way is not there, TCP is.
 * It saves the payload's checksum and a third of the kernel's work (conn.c). Linux only. */
#ifndef RT_NEAR_H
#define RT_NEAR_H

#include "runtime/net/address.h"

#include <stdbool.h>

bool rt_near_is(const struct rt_address *address); /* TCP on a loopback address */
/* A socket that is bound, or connected, not blocking; -1: use TCP. @address: as printed, with its port. */
int rt_near_bind(const char *address);
int rt_near_connect(const char *address);

void rt_near_set(bool on); /* tests only: off, it is TCP as between machines */

#endif
