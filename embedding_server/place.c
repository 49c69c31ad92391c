/* embedding_server/place.c -- the machine's nodes and cores, from /sys; a thread's core and memory, by system calls.
 *
 * DESIGN: no libnuma: what is needed of it is one system call, and files of a few bytes. Memory is preferred on the
 * node, not bound to it: a full node then costs speed and not the process. */
#include "embedding_server/place.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <linux/mempolicy.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NODES_DIR    "/sys/devices/system/node"
#define LIST_MAX     65536u /* bytes of a cpulist */
#define WORD_BITS    64u
#define NUMBER_CHARS 6u /* digits of a number that may be a core or a node, at most */

/* ---- sets of cores ---- */

static bool has(const struct ebs_cores *cores, uint32_t core)
{
    return cores->bit[core / WORD_BITS] >> (core % WORD_BITS) & 1;
}

static void add(struct ebs_cores *cores, uint32_t core)
{
    cores->bit[core / WORD_BITS] |= 1ull << (core % WORD_BITS);
}

uint32_t ebs_cores_count(const struct ebs_cores *cores)
{
    uint32_t n = 0;

    for (uint32_t w = 0; w < EBS_CORES_MAX / WORD_BITS; w++)
        n += (uint32_t)__builtin_popcountll(cores->bit[w]);
    return n;
}

/* Digits at *text, below `limit`; *text moves past them. */
static bool number(const char **text, uint32_t limit, uint32_t *out)
{
    uint32_t value = 0, digits = 0;

    for (; **text >= '0' && **text <= '9' && digits < NUMBER_CHARS; ++*text, digits++)
        value = value * 10 + (uint32_t)(**text - '0');
    *out = value;
    return digits > 0 && value < limit;
}

int ebs_cores_parse(const char *text, struct ebs_cores *out)
{
    const char *at = text;

    *out = (struct ebs_cores){0};
    while (*at && *at != '\n') {
        uint32_t from, to;
        bool fine = number(&at, EBS_CORES_MAX, &from);

        to = from;
        if (fine && *at == '-') {
            at++;
            fine = number(&at, EBS_CORES_MAX, &to);
        }
        if (!fine || to < from || (*at && *at != ',' && *at != '\n') || (*at == ',' && !at[1]))
            return RT_FAIL(RT_EDATA, "byte %zu: expected a list like 0-3,8 of numbers below %u",
                           (size_t)(at - text), EBS_CORES_MAX);
        for (; from <= to; from++)
            add(out, from);
        at += *at == ',';
    }
    return 0;
}

int ebs_cores_allowed(struct ebs_cores *out)
{
    *out = (struct ebs_cores){0};
    if (sched_getaffinity(0, sizeof(*out), (cpu_set_t *)out) != 0)
        return RT_FAIL(-errno, "the cores that this process may use: %s", strerror(errno));
    return 0;
}

/* ---- nodes ---- */

/* One more node: node_of[core] for each of its cores. */
static int read_node(const char *dir, uint32_t node, uint32_t *node_of)
{
    char *path = rt_xasprintf("%s/node%u/cpulist", dir, node), *text = NULL;
    struct ebs_cores cores;
    size_t size;
    int err = rt_file_read(path, LIST_MAX, &text, &size);

    if (!err) {
        err = ebs_cores_parse(text, &cores);
        if (err)
            rt_fail_prefix(err, "%s: ", path);
    }
    for (uint32_t core = 0; !err && core < EBS_CORES_MAX; core++)
        if (has(&cores, core))
            node_of[core] = node;
    rt_free(text);
    rt_free(path);
    return err;
}

/* node_of[EBS_CORES_MAX]; EBS_NODE_NONE for a core that no node has. */
static int read_nodes(const char *dir, uint32_t *node_of)
{
    DIR *folder = opendir(dir);
    struct dirent *entry;
    uint32_t n = 0;
    int err = 0;

    if (!folder)
        return RT_FAIL(RT_EFILE, "%s: %s", dir, strerror(errno));
    while (!err && (entry = readdir(folder))) {
        const char *at = entry->d_name + strlen("node");
        uint32_t node;

        if (strncmp(entry->d_name, "node", strlen("node")) != 0 ||
            !number(&at, EBS_NODES_MAX, &node) || *at)
            continue;
        err = read_node(dir, node, node_of);
        n++;
    }
    closedir(folder);
    if (!err && n == 0)
        err = RT_FAIL(RT_EFILE, "%s: no node in it", dir);
    return err;
}

/* ---- places ---- */

struct slot {
    uint32_t rank; /* of the core among those of its node */
    struct ebs_place place;
};

static int in_turn(const void *a, const void *b)
{
    const struct slot *x = a, *y = b;

    if (x->rank != y->rank)
        return x->rank < y->rank ? -1 : 1;
    return (x->place.node > y->place.node) - (x->place.node < y->place.node);
}

/* The allowed cores, a core of each node in turn. Returns how many. */
static uint32_t list_slots(const struct ebs_cores *allowed, const uint32_t *node_of,
                           struct slot *out)
{
    uint32_t *taken = rt_xcalloc(EBS_NODES_MAX + 1, sizeof(*taken)); /* cores by node so far */
    uint32_t n = 0;

    for (uint32_t core = 0; core < EBS_CORES_MAX; core++) {
        uint32_t node = node_of[core];

        if (has(allowed, core))
            out[n++] = (struct slot){.rank = taken[node < EBS_NODES_MAX ? node : EBS_NODES_MAX]++,
                                     .place = {.core = core, .node = node}};
    }
    qsort(out, n, sizeof(*out), in_turn);
    rt_free(taken);
    return n;
}

int ebs_place_plan(const char *nodes, const struct ebs_cores *allowed, uint32_t first, uint32_t n,
                   struct ebs_place *out)
{
    uint32_t cores = ebs_cores_count(allowed), *node_of;
    struct slot *slot;

    if (n > cores)
        return RT_FAIL(RT_EUSAGE,
                       "embedding_server.pin: expected at most as many workers as the %u cores "
                       "that this process may use, got %u: set embedding_server.workers",
                       cores, n);
    node_of = rt_xmalloc(EBS_CORES_MAX * sizeof(*node_of));
    memset(node_of, 0xff, EBS_CORES_MAX * sizeof(*node_of));
    if (read_nodes(nodes ? nodes : NODES_DIR, node_of) != 0) {
        rt_log(RT_LOG_WARN, "nodes_unknown error=\"%s\" taken_as=one", rt_err_text());
        memset(node_of, 0xff, EBS_CORES_MAX * sizeof(*node_of));
    }
    slot = rt_xcalloc(EBS_CORES_MAX, sizeof(*slot));
    list_slots(allowed, node_of, slot);
    for (uint32_t w = 0; w < n; w++)
        out[w] = slot[((uint64_t)first + w) % cores].place;
    rt_free(slot);
    rt_free(node_of);
    return 0;
}

static int prefer_node(uint32_t node)
{
    unsigned long mask[EBS_NODES_MAX / WORD_BITS] = {0};

    if (node >= EBS_NODES_MAX)
        return RT_FAIL(RT_EUSAGE, "the node of the core is not known");
    mask[node / WORD_BITS] = 1ul << (node % WORD_BITS);
    /* maxnode counts one more than there are bits. */
    if (syscall(SYS_set_mempolicy, MPOL_PREFERRED, mask, EBS_NODES_MAX + 1ul) != 0)
        return RT_FAIL(-errno, "memory of node %u: %s", node, strerror(errno));
    return 0;
}

int ebs_place_take(const struct ebs_place *place, bool local)
{
    struct ebs_cores only = {0};

    rt_assert(place->core < EBS_CORES_MAX);
    add(&only, place->core);
    if (sched_setaffinity(0, sizeof(only), (const cpu_set_t *)&only) != 0)
        return RT_FAIL(-errno, "core %u: %s", place->core, strerror(errno));
    return local ? prefer_node(place->node) : 0;
}
