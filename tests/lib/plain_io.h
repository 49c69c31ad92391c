/* tests/lib/plain_io.h -- an rt_io with files, a pool and a clock and nothing else, for tests of readers. */
#ifndef PLAIN_IO_H
#define PLAIN_IO_H

#include "runtime/net/io.h"

struct rt_io *plain_io_create(size_t pool_budget);
void plain_io_destroy(struct rt_io *io); /* asserts that all buffers are back */
/* Reads return at most this many bytes (0: no limit): short reads are legal and must not matter. */
void plain_io_set_read_max(struct rt_io *io, size_t bytes);

#endif
