/* tests/fuzz/fuzz_wire.c -- every codec: what unpacks also packs, and unpacks to the same bytes again.
 *
 * The first byte chooses the codec (modulo their number), the rest is the message. Packing asserts all
 * checks of the sender, so a receiver that lets through what no sender may send is found here. */
#include "runtime/base/assert.h"
#include "runtime/wire/batch.h"
#include "runtime/wire/checkpoint.h"
#include "runtime/wire/member.h"
#include "runtime/wire/rows.h"
#include "runtime/wire/step.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

#define ARENA_LIMIT ((size_t)64 << 20)

/* The handshake has no codec of its own kind: the one that an rpc takes. */
struct wire_handshake {
    struct rt_identity id;
};

static int wire_handshake_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                                 struct wire_handshake *out)
{
    (void)arena;
    return wire_greeting.unpack(data, size, &out->id);
}

static int wire_handshake_pack(const struct wire_handshake *in, struct wire_out *out)
{
    if (!out->data) {
        out->capacity = 4096;
        out->data = rt_xmalloc(out->capacity);
    }
    return wire_greeting.pack(&in->id, out->data, out->capacity, &out->size);
}

/* The order is the corpus's: append only. */
/* clang-format off */
#define ALL(X) \
    X(put_batch) X(put_batch_reply) X(train_batch) X(train_batch_reply) X(lookup_batch) \
    X(lookup_batch_reply) X(push_gradients) X(push_gradients_reply) X(release_batch) \
    X(await_phase) X(await_phase_reply) X(end_of_epoch) X(lookup_rows) X(lookup_rows_reply) \
    X(apply_gradients) X(apply_gradients_reply) X(cut) X(cut_reply) X(await_cut) \
    X(await_cut_reply) X(end_cut) X(tell_ledger) X(tell_ledger_reply) X(step_header) X(hello) X(who) \
    X(control_request) X(control_reply) X(step_headers) X(join_group) X(join_group_reply) \
    X(fetch_state) X(fetch_state_reply) X(reduce_chunk) \
    X(nothing_yet) X(tell_phase) X(scores) X(held) X(handshake) X(tell_finished) X(go_back) \
    X(ask_communicator) X(ask_communicator_reply)
/* clang-format on */

/* Unpack and pack; an error is the message's fault only in the unpacking. */
#define X(name)                                                                                    \
    static int again_##name(const uint8_t *data, size_t size, struct rt_arena *arena,              \
                            struct wire_out *out)                                                  \
    {                                                                                              \
        struct wire_##name m;                                                                      \
        int err = wire_##name##_unpack(data, size, arena, &m);                                     \
                                                                                                   \
        if (err)                                                                                   \
            return err;                                                                            \
        rt_assert(wire_##name##_pack(&m, out) == 0);                                               \
        return 0;                                                                                  \
    }
ALL(X)
#undef X

static int (*const again[])(const uint8_t *data, size_t size, struct rt_arena *arena,
                            struct wire_out *out) = {
#define X(name) again_##name,
    ALL(X)
#undef X
};

int fuzz_wire(const uint8_t *data, size_t size)
{
    struct rt_arena *arena;
    struct wire_out first = {0}, second = {0};

    if (size < 1)
        return 0;
    size_t codec = data[0] % ARRAY_LEN(again);
    rt_assert(rt_arena_create(ARENA_LIMIT, &arena) == 0);
    if (again[codec](data + 1, size - 1, arena, &first) == 0) {
        rt_assert(again[codec](first.data, first.size, arena, &second) == 0);
        rt_assert(first.size == second.size);
        rt_assert(!first.size || memcmp(first.data, second.data, first.size) == 0);
    }
    wire_out_release(&first);
    wire_out_release(&second);
    rt_arena_destroy(arena);
    return 0;
}
