/* tests/lib/greeting.h -- a handshake without a codec, for tests of the rpc alone. */
#ifndef GREETING_H
#define GREETING_H

#include "runtime/net/rpc.h"

/* The identity as it lies in memory. */
extern const struct rt_greeting plain_greeting;

#endif
