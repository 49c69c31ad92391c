/* tests/gpu/bench/bare.c -- what a model asks of files that need libraries which a bare GPU machine has not (sources.mk).
 *
 * Traces: none are kept. Hashes of names, which initial parameters are drawn by: another hash, so other initial values than a trainer's; nothing
 * here compares the two. oneDNN: refused by the first product. */
#include <stdint.h>
#include <string.h>

#include "runtime/base/err.h"
#include "runtime/base/hash.h"
#include "runtime/base/trace.h"
#include "trainer/backend/backend.h"

_Atomic uint32_t rt_trace_every;

uint64_t rt_trace_now(void)
{
    return 0;
}

void rt_trace_put(uint64_t batch_id, uint32_t loop, const char *name, uint64_t from_ns,
                  uint64_t to_ns)
{
    (void)batch_id, (void)loop, (void)name, (void)from_ns, (void)to_ns;
}

/* FNV-1a */
uint64_t rt_hash_bytes_seed(const void *data, size_t size, uint64_t seed)
{
    const unsigned char *byte = data;
    uint64_t hash = 0xcbf29ce484222325ull ^ seed;
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ byte[i]) * 0x100000001b3ull;
    return hash;
}

static int absent(struct tr_backend *backend, const struct tr_space *space)
{
    (void)backend, (void)space;
    return RT_FAIL(RT_EBACKEND, "this program is built without oneDNN");
}

const struct tr_backend_ops tr_backend_onednn = {.name = "onednn", .prepare = absent};
