/* runtime/process/limit.h -- how much memory the kernel lets this process have. */
#ifndef RT_LIMIT_H
#define RT_LIMIT_H

#include <stdint.h>

/* The least of the limits of its cgroup (version 1 or 2) and of those above it, and the machine's memory; bytes.
 * root: "" or, in tests, a folder that has proc/self/cgroup and sys/fs/cgroup. Reads small files: not in a step. */
uint64_t rt_memory_limit(const char *root);

#endif
