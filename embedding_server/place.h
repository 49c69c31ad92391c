/* embedding_server/place.h -- owners' threads on cores of their own, their memory beside them.
 *
 * `embedding_server.pin`: worker w of server i has place (i * workers + w), modulo the cores, in an order of the
 * cores that the process may use (its affinity: cpusets and taskset are kept to), which takes a core of each NUMA node
 * in turn, the lowest of each first; on most machines the second threads of cores come last. So servers that stand on one
 * machine do not meet as long as there are cores. `embedding_server.numa_local`: pages that an owner's thread
 * touches first come from the node of its core, and from others when that is full.
 *
 * More workers than cores is an error. Nodes that cannot be read are one node, and a system that refuses (seccomp
 * profiles of containers forbid set_mempolicy) is left alone: a warning each, since only speed is lost. */
#ifndef EBS_PLACE_H
#define EBS_PLACE_H

#include <stdbool.h>
#include <stdint.h>

#define EBS_CORES_MAX 8192u /* as the most that Linux is built for */
#define EBS_NODES_MAX 1024u
#define EBS_NODE_NONE UINT32_MAX

struct ebs_cores {
    uint64_t bit[EBS_CORES_MAX / 64];
};

struct ebs_place {
    uint32_t core;
    uint32_t node; /* EBS_NODE_NONE: not known */
};

/* "0-3,8,10-11\n", as in cpulist files; "" and "\n" are none. RT_EDATA. */
int ebs_cores_parse(const char *text, struct ebs_cores *out);
/* The cores that this process may use. */
int ebs_cores_allowed(struct ebs_cores *out);
uint32_t ebs_cores_count(const struct ebs_cores *cores);

/* ebs_place_plan() - a place for each of n workers.
 * @nodes: folder with node<N>/cpulist; NULL: the system's. When it cannot be read, logs that once.
 * @first: place of worker 0.      @out: [n]
 * RT_EUSAGE: fewer cores than n. */
int ebs_place_plan(const char *nodes, const struct ebs_cores *allowed, uint32_t first, uint32_t n,
                   struct ebs_place *out);

/* The calling thread goes there for good; with `local`, so does memory that it touches first from now on. */
int ebs_place_take(const struct ebs_place *place, bool local);

#endif
