/* runtime/member/stranger.h -- does another process run our job with our files, and if not, what differs? */
#ifndef RT_STRANGER_H
#define RT_STRANGER_H

#include "runtime/wire/member.h"

#define RT_STRANGER_TEXT 512

/* Would its handshake be taken? */
bool rt_is_of_our_job(const struct wire_hello *self, const struct wire_hello *hello);

/* One line: who, which file, both hashes; for a hello that is not of our job. */
void rt_stranger_text(const struct wire_hello *self, const struct wire_hello *hello,
                      char out[RT_STRANGER_TEXT]);

#endif
