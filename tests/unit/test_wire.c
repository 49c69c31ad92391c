/* tests/unit/test_wire.c -- every message there and back, refused messages with their texts, every
 * truncation, random damage, memory that runs out.
 *
 * A sample has all its fields set to values that are not the default and packs to `fields` tags; unpacking
 * and packing again must give the same bytes, so a field that either side forgets is seen. */
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/rand.h"
#include "runtime/wire/batch.h"
#include "runtime/wire/checkpoint.h"
#include "runtime/wire/member.h"
#include "runtime/wire/rows.h"
#include "runtime/wire/step.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define ARENA_LIMIT ((size_t)64 << 20)

/* ---- samples ---- */

static const uint32_t n_ids[] = {4, 9}, layout[] = {WIRE_LAYOUT_ONE, WIRE_LAYOUT_LENGTHS};
static const uint8_t weighted[] = {0, 1};
static const uint32_t dim[] = {16, 1024}, table[] = {3, 7};
static const uint32_t rows[] = {0, 3}, places[] = {0, 9};
static const float scale[] = {1, 0x1p15f};
static const uint64_t finished[] = {1ull << 48, 2, UINT64_MAX};
static const char *const address[] = {"tcp:127.0.0.1:7100", "unix:/run/x.sock"};
static const struct wire_statistics statistics[] = {{"age", 38.5, 13.25, 32561}, {"x", -1, 0.5, 7}};
static const struct wire_split_ledger ledger[] = {
    {.split = 65535,
     .stepped_low = WIRE_SEQUENCE_MAX,
     .finished_low = 3,
     .stepped = (const uint8_t *)"\2\1",
     .finished = (const uint8_t *)"\0\4\1",
     .stepped_bytes = 2,
     .finished_bytes = 3,
     .rows_read = 100,
     .rows_quarantined = 100,
     .end_sequence = 12},
};

static const struct wire_put_batch put_batch = {4,      1,        true, 77, 2,   n_ids,
                                                layout, weighted, 5,    3,  true};
static const struct wire_put_batch_reply put_batch_reply = {1ull << 40};
static const struct wire_train_batch train_batch = {
    65535, 13, 1, true, true, true, 64u << 20, 3, 2, 1700000000000ull,
    77,    9,  1, true, 12,   true, 13};
static const struct wire_train_batch_reply train_batch_reply = {WIRE_RETRY, "middleware/0 lost",
                                                                true};
static const struct wire_lookup_batch lookup_batch = {11, 4, true, 77};
static const struct wire_lookup_batch_reply lookup_batch_reply = {4,   WIRE_BF16, 2,
                                                                  dim, rows,      places};
static const struct wire_push_gradients push_gradients = {
    11, 0.5, 4, 77, 1, 2, WIRE_F16, true, 2, dim, 10, rows, scale, 6, 1011};
static const struct wire_push_gradients_reply push_gradients_reply = {12345, 1};
static const struct wire_release_batch release_batch = {"dropped"};
static const struct wire_await_phase await_phase = {6, 1, 2, 2, statistics, true};
static const struct wire_await_phase_reply await_phase_reply = {
    7, WIRE_PHASE_STATISTICS, 2, 1, ledger, 2, statistics, 3, true};
static const struct wire_end_of_epoch end_of_epoch = {7, 2, true, 1, 1, ledger};
static const struct wire_nothing_yet nothing_yet = {7, 1, 2, true, 12};
static const uint64_t incarnation[] = {4, 5};
static const struct wire_tell_finished tell_finished = {7, 2, incarnation};
static const struct wire_tell_phase tell_phase = {7, WIRE_PHASE_EVALUATE, 2, 3, true,
                                                  2, statistics,          2, 1, ledger};
static const struct wire_scores scores = {7, 1, true, 2, 100};
static const struct wire_lookup_rows lookup_rows = {99, 11, 2, table, n_ids, WIRE_F16};
static const struct wire_lookup_rows_reply lookup_rows_reply = {2, n_ids, WIRE_BF16};
static const struct wire_apply_gradients apply_gradients = {
    99, 1, 2, 11, 0.25, 1, 2, true, 2, table, n_ids, WIRE_F16, 77, 10, scale, 6, 1011};
static const struct wire_apply_gradients_reply apply_gradients_reply = {WIRE_ALREADY, 12, 1};
static const struct wire_cut cut = {3, 11, "step-11", 2, 1011, (const uint8_t *)"ledger", 6};
static const struct wire_cut_reply cut_reply = {1000};
static const struct wire_await_cut await_cut = {3};
static const struct wire_cut_table cut_table[] = {{900, 7, 99, 1000}, {0, 0, 1, 0}};
static const struct wire_await_cut_reply await_cut_reply = {3, "rows.0", 4096, 77, 2, cut_table};
static const struct wire_end_cut end_cut = {3, true, true};
static const uint32_t place[] = {1, 2};
static const struct wire_tell_ledger tell_ledger = {
    (const uint8_t *)"ledger", 6, 11, 2, place, 3, 8, true, true};
static const struct wire_tell_ledger_reply tell_ledger_reply = {9,    2,  incarnation, n_ids,
                                                                true, 12, true};
static const struct wire_go_back go_back = {3, "step-11", "trainer/1 was started anew"};
static const struct wire_step_header step_header = {
    2,  11, true, true, 5, 256, 3, finished, 1.5, 7, 4, false, 8, 9, {7, 6, 5, 4, 0.25, 3, true},
    12, 99};
static const struct wire_step_headers step_headers = {2, 7, 1, &step_header};
static const struct wire_join_group join_group = {2, 11, true, (const uint8_t *)"state", 5, 99,
                                                  3, 4,  200,  "trainer/1 has others"};
static const struct wire_join_group_reply join_group_reply = {
    3, 1, 12, (const uint8_t *)"state", 5, 2, incarnation, 4, 5};
static const struct wire_fetch_state fetch_state = {3, 1};
static const struct wire_owed owed[] = {{5, 11, 512, 1, 2, 0.5, 7}};
static const struct wire_fetch_state_reply fetch_state_reply = {11, 1, 2, 1000, 10, 1, owed, 77};
static const struct wire_reduce_chunk reduce_chunk = {3, 9, 1, 2, 1000, WIRE_BF16};
static const struct wire_ask_communicator ask_communicator = {3, 22809};
static const uint8_t nccl_id[WIRE_NCCL_ID_BYTES] = {1, 2, [WIRE_NCCL_ID_BYTES - 1] = 3};
static const struct wire_ask_communicator_reply ask_communicator_reply = {3, 22809, nccl_id};
static const struct wire_hello hello = {"adult",  RT_ROLE_MIDDLEWARE,
                                        1,        1700000000000ull,
                                        12,       WIRE_READY,
                                        2,        2,
                                        address,  "host-1",
                                        8,        9,
                                        1,        "127.0.0.1:9100",
                                        "0.1.0",  {11, 12, 13, 14, 15},
                                        "node-7", true};
static const struct wire_who who = {RT_ROLE_TRAINER, 3};
static const struct wire_held held = {RT_ROLE_TRAINER, 3, 1700000000000ull};
static const struct wire_control_request control_request = {1,       2,   3000, WIRE_CTL_LOG_LEVEL,
                                                            "debug", 0.1, 1,    2};
static const struct wire_control_reply control_reply = {1, 2, RT_ROLE_TRAINER, 1, RT_EUSAGE, "no"};

/* pack_x: the sample. again_x: unpack, pack again. */
#define CODEC(x)                                                                                   \
    static int pack_##x(struct wire_out *out)                                                      \
    {                                                                                              \
        return wire_##x##_pack(&x, out);                                                           \
    }                                                                                              \
    static int again_##x(const uint8_t *data, size_t size, struct rt_arena *arena,                 \
                         struct wire_out *out)                                                     \
    {                                                                                              \
        struct wire_##x m;                                                                         \
        int err = wire_##x##_unpack(data, size, arena, &m);                                        \
                                                                                                   \
        return err || !out ? err : wire_##x##_pack(&m, out);                                       \
    }
/* clang-format off */
#define ALL(X) \
    X(put_batch, 10) X(put_batch_reply, 1) X(train_batch, 17) X(train_batch_reply, 3) \
    X(lookup_batch, 4) X(lookup_batch_reply, 5) X(push_gradients, 14) X(push_gradients_reply, 2) \
    X(release_batch, 1) X(await_phase, 5) X(await_phase_reply, 7) X(end_of_epoch, 5) \
    X(nothing_yet, 5) X(tell_finished, 2) X(tell_phase, 8) X(scores, 5) \
    X(lookup_rows, 5) X(lookup_rows_reply, 2) X(apply_gradients, 16) X(apply_gradients_reply, 3) \
    X(cut, 6) X(cut_reply, 1) X(await_cut, 1) X(await_cut_reply, 5) X(end_cut, 3) \
    X(tell_ledger, 7) X(tell_ledger_reply, 6) X(go_back, 3) X(step_header, 21) X(step_headers, 3) X(join_group, 9) X(join_group_reply, 7) \
    X(fetch_state, 2) X(fetch_state_reply, 13) X(reduce_chunk, 6) X(ask_communicator, 2) X(ask_communicator_reply, 3) X(hello, 17) X(who, 2) X(held, 3) X(control_request, 8) \
    X(control_reply, 6)
/* clang-format on */
#define X(name, fields) CODEC(name)
ALL(X)
#undef X

static const struct codec {
    const char *name;
    unsigned fields;
    int (*pack)(struct wire_out *out);
    int (*again)(const uint8_t *data, size_t size, struct rt_arena *arena, struct wire_out *out);
} codec[] = {
#define X(name, fields) {#name, fields, pack_##name, again_##name},
    ALL(X)
#undef X
};

static const struct codec *find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(codec); i++) {
        if (strcmp(codec[i].name, name) == 0)
            return &codec[i];
    }
    fail_msg("no codec '%s'", name);
    return NULL;
}

static struct rt_arena *new_arena(void)
{
    struct rt_arena *arena;

    assert_int_equal(rt_arena_create(ARENA_LIMIT, &arena), 0);
    return arena;
}

/* ---- raw messages ---- */

static size_t put_varint(uint8_t *out, uint64_t v)
{
    size_t n = 0;

    for (; v >= 0x80; v >>= 7)
        out[n++] = (uint8_t)(v | 0x80);
    out[n++] = (uint8_t)v;
    return n;
}

static uint64_t get_varint(const uint8_t *in, size_t *at)
{
    uint64_t v = 0;

    for (unsigned shift = 0;; shift += 7) {
        v |= (uint64_t)(in[*at] & 0x7f) << shift;
        if (!(in[(*at)++] & 0x80))
            return v;
    }
}

/* Number of different tags at the top level. */
static unsigned count_tags(const uint8_t *data, size_t size)
{
    uint64_t seen = 0;

    for (size_t at = 0; at < size;) {
        uint64_t key = get_varint(data, &at);

        seen |= 1ull << (key >> 3);
        if ((key & 7) == 0)
            (void)get_varint(data, &at);
        else if ((key & 7) == 1)
            at += 8;
        else
            at += get_varint(data, &at);
    }
    return (unsigned)__builtin_popcountll(seen);
}

struct piece {
    unsigned field;
    char type; /* v: varint, b: bytes, d: double; 0 ends */
    uint64_t value;
    const char *bytes;
    size_t size;
    double real;
};
#define V(f, v)                                                                                    \
    {                                                                                              \
        .field = (f), .type = 'v', .value = (v)                                                    \
    }
#define B(f, s)                                                                                    \
    {                                                                                              \
        .field = (f), .type = 'b', .bytes = (s), .size = sizeof(s) - 1                             \
    }
#define D(f, v)                                                                                    \
    {                                                                                              \
        .field = (f), .type = 'd', .real = (v)                                                     \
    }
#define F_ONE    "\0\0\x80\x3f" /* 1 as float32 */
#define TEXT_513 "x" T64 T64 T64 T64 T64 T64 T64 T64
#define T64      "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static size_t build(const struct piece *piece, uint8_t *out)
{
    size_t n = 0;

    for (; piece->type; piece++) {
        unsigned wire_type = piece->type == 'v' ? 0 : piece->type == 'd' ? 1 : 2;

        n += put_varint(out + n, piece->field << 3 | wire_type);
        if (piece->type == 'v') {
            n += put_varint(out + n, piece->value);
        } else if (piece->type == 'd') {
            memcpy(out + n, &piece->real, 8);
            n += 8;
        } else {
            n += put_varint(out + n, piece->size);
            memcpy(out + n, piece->bytes, piece->size);
            n += piece->size;
        }
    }
    return n;
}

/* ---- tests ---- */

static void round_trips(void **state)
{
    struct rt_arena *arena = new_arena();
    struct wire_out first = {0}, second = {0};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(codec); i++) {
        if (codec[i].pack(&first))
            fail_msg("%s: pack: %s", codec[i].name, rt_err_text());
        if (count_tags(first.data, first.size) != codec[i].fields)
            fail_msg("%s: %u fields on the wire, expected %u", codec[i].name,
                     count_tags(first.data, first.size), codec[i].fields);
        if (codec[i].again(first.data, first.size, arena, &second))
            fail_msg("%s: unpack: %s", codec[i].name, rt_err_text());
        if (first.size != second.size || memcmp(first.data, second.data, first.size) != 0)
            fail_msg("%s: differs after a round trip", codec[i].name);
        rt_arena_reset(arena);
    }
    wire_out_release(&first);
    wire_out_release(&second);
    rt_arena_destroy(arena);
}

static void values(void **state)
{
    struct rt_arena *arena = new_arena();
    struct wire_out out = {0};
    struct wire_put_batch put;
    struct wire_await_phase_reply phase;
    struct wire_hello heard;

    (void)state;
    assert_int_equal(pack_put_batch(&out), 0);
    assert_int_equal(wire_put_batch_unpack(out.data, out.size, arena, &put), 0);
    assert_int_equal(put.n_features, 2);
    assert_memory_equal(put.n_ids, n_ids, sizeof(n_ids));
    assert_memory_equal(put.layout, layout, sizeof(layout));
    assert_memory_equal(put.weighted, weighted, sizeof(weighted));
    assert_int_equal(put.composer_incarnation, 5);

    assert_int_equal(pack_await_phase_reply(&out), 0);
    assert_int_equal(wire_await_phase_reply_unpack(out.data, out.size, arena, &phase), 0);
    assert_int_equal(phase.n_ledger, 1);
    assert_int_equal(phase.ledger[0].finished_bytes, 3);
    assert_memory_equal(phase.ledger[0].finished, ledger[0].finished, 3);
    assert_int_equal(phase.ledger[0].end_sequence, 12);
    assert_string_equal(phase.statistics[1].column, "x");
    assert_true(phase.statistics[0].deviation == 13.25);

    assert_int_equal(pack_hello(&out), 0);
    assert_int_equal(wire_hello_unpack(out.data, out.size, arena, &heard), 0);
    assert_int_equal(heard.role, RT_ROLE_MIDDLEWARE);
    assert_int_equal(heard.state, WIRE_READY);
    assert_string_equal(heard.address[1], address[1]);
    assert_true(heard.has_folder);
    wire_out_release(&out);
    rt_arena_destroy(arena);
}

/* Absent fields read as zero, "" and none; a field of a later version is passed over, and so are those of an older one (9, 10). */
static void defaults(void **state)
{
    static const struct piece later[] = {V(2, 1),      V(9, 3),  V(10, 2), V(29, 5),
                                         B(30, "new"), D(31, 1), {0}};
    struct wire_train_batch_reply reply;
    struct rt_arena *arena = new_arena();
    struct wire_step_header header;
    uint8_t data[64];

    (void)state;
    assert_int_equal(wire_step_header_unpack(data, 0, arena, &header), 0);
    assert_int_equal(header.n_finished, 0);
    assert_int_equal(wire_step_header_unpack(data, build(later, data), arena, &header), 0);
    assert_int_equal(header.step, 1);
    data[0] = 1 << 3;
    data[1] = WIRE_TRAINED;
    assert_int_equal(wire_train_batch_reply_unpack(data, 2, arena, &reply), 0);
    assert_string_equal(reply.reason, "");
    rt_arena_destroy(arena);
}

static const struct bad {
    const char *codec;
    struct piece piece[10];
    const char *want;
} bad[] = {
    {"put_batch", {{0}}, "PutBatch: samples is 0, expected 1..65535"},
    {"put_batch", {V(1, 65536)}, "samples is 65536"},
    {"put_batch", {V(1, 4), V(2, 65536)}, "rank is 65536"},
    {"put_batch", {V(1, 4), B(5, "\4\4\4"), B(6, "\0\0")}, "n_ids has 3 entries, layout has 2"},
    {"put_batch",
     {V(1, 4), B(5, "\4"), B(6, "\0"), B(7, "\1\1")},
     "n_ids has 1 entries, weighted has 2"},
    {"put_batch",
     {V(1, 4), B(5, "\4"), B(6, "\2")},
     "layout[0] is 2, expected 0 (one) or 1 (lengths)"},
    {"put_batch",
     {V(1, 4), B(5, "\4\5"), B(6, "\0\0")},
     "n_ids[1] is 5 with one id per sample, expected 4"},
    {"put_batch",
     {V(1, 4), B(5, "\x81\x80\x40"), B(6, "\1")},
     "PutBatch: n_ids sum to more than 1048576"},
    {"put_batch",
     {V(1, 4), B(5, "\xff\xff\xff\xff\x0f\xff\xff\xff\xff\x0f"), B(6, "\1\1")},
     "n_ids sum to more than"},
    {"train_batch", {V(13, 1)}, "TrainBatch: samples is 0"},
    {"train_batch", {V(1, 1), V(2, 5000), V(13, 1)}, "n_dense is 5000"},
    {"train_batch", {V(1, 1), V(3, 257), V(13, 1)}, "n_labels is 257"},
    {"train_batch", {V(1, 1), V(6, (64u << 20) + 1), V(13, 1)}, "key_bytes is 67108865"},
    {"train_batch", {V(1, 1), V(8, 70000), V(13, 1)}, "middleware is 70000"},
    {"train_batch", {V(1, 1), V(9, 256), V(13, 1)}, "middleware_loop is 256"},
    {"train_batch", {V(1, 1)}, "attempt is 0, expected 1.."},
    {"train_batch_reply", {{0}}, "TrainBatchReply: outcome is 0, expected 1..4"},
    {"train_batch_reply", {V(1, 5)}, "outcome is 5"},
    {"train_batch_reply", {V(1, 1), B(2, "a\0b")}, "reason has a NUL inside"},
    {"train_batch_reply", {V(1, 1), B(2, "a\0")}, "reason has a NUL inside"},
    {"train_batch_reply", {V(1, 1), B(2, TEXT_513)}, "reason is longer than 512 bytes"},
    {"lookup_batch", {{0}}, "LookupBatch: samples is 0"},
    {"lookup_batch_reply", {V(1, 1), V(2, 3), B(3, "\1")}, "dtype is 3, expected 0 (float32)"},
    {"lookup_batch_reply",
     {V(1, 1), B(3, "\1\0")},
     "LookupBatchReply: dim[1] is 0, expected 1..1024"},
    {"lookup_batch_reply", {V(1, 1), B(3, "\x81\x08")}, "dim[0] is 1025"},
    {"lookup_batch_reply",
     {V(1, 1), B(3, "\1\1"), B(4, "\1"), B(5, "\1")},
     "LookupBatchReply: dim has 2 entries, rows has 1"},
    {"lookup_batch_reply", {V(1, 1), B(3, "\1"), B(4, "\1")}, "dim has 1 entries, places has 0"},
    {"lookup_batch_reply", {V(1, 1), B(3, "\1"), B(5, "\1")}, "dim has 1 entries, rows has 0"},
    {"lookup_batch_reply", {V(1, 1), B(4, "\1"), B(5, "\1")}, "dim has 0 entries, rows has 1"},
    {"lookup_batch_reply",
     {V(1, 1), B(3, "\1"), B(4, "\2"), B(5, "\1")},
     "rows[0] is 2 for 1 places"},
    {"lookup_batch_reply",
     {V(1, 1), B(3, "\1\1"), B(4, "\0\0"), B(5, "\0\1")},
     "rows[1] is 0 for 1 places"},
    {"lookup_batch_reply",
     {V(1, 1), B(3, "\1\1"), B(4, "\1\1"), B(5, "\x80\x80\x40\1")},
     "LookupBatchReply: places sum to more than 1048576"},
    {"push_gradients", {V(3, 1), V(6, 1), D(2, NAN)}, "learning_rate is nan, expected a finite"},
    {"push_gradients", {V(3, 1), V(6, 1), D(2, INFINITY)}, "learning_rate is inf"},
    {"push_gradients", {V(3, 1), V(6, 1), D(2, -0.5)}, "learning_rate is -0.5"},
    {"push_gradients", {V(3, 1), V(5, 2), V(6, 2)}, "rank is 2, expected 0..1"},
    {"push_gradients", {V(3, 1)}, "world is 0"},
    {"push_gradients",
     {V(1, 5), V(3, 1), V(6, 1), V(10, 5)},
     "applied_through is 5, expected 0..4"},
    {"push_gradients", {V(6, 1)}, "samples is 0"},
    {"push_gradients",
     {V(3, 1), V(6, 1), B(9, "\1\1"), B(11, "\1")},
     "PushGradients: dim has 2 entries, rows has 1"},
    {"push_gradients",
     {V(3, 1), V(6, 1), B(9, "\1"), B(11, "\x81\x80\x40")},
     "rows sum to more than 1048576"},
    {"push_gradients",
     {V(3, 1), V(6, 1), B(9, "\1\1"), B(12, F_ONE)},
     "dim has 2 entries, scale has 1"},
    {"push_gradients",
     {V(3, 1), V(6, 1), B(9, "\1\1"), B(12, F_ONE "\0\0\x40\x40")},
     "scale[1] is 3, expected a power of two in 1.17549e-38..8.50706e+37"},
    {"push_gradients", {V(3, 1), V(6, 1), B(9, "\1"), B(12, "\0\0\0\0")}, "scale[0] is 0"},
    {"push_gradients", {V(3, 1), V(6, 1), B(9, "\1"), B(12, "\0\0\x80\xbf")}, "scale[0] is -1"},
    {"push_gradients", {V(3, 1), V(6, 1), B(9, "\1"), B(12, "\0\0\x80\x7f")}, "scale[0] is inf"},
    {"push_gradients", {V(3, 1), V(6, 1), B(9, "\1"), B(12, "\0\0\xc0\x7f")}, "scale[0] is nan"},
    {"push_gradients", {V(3, 1), V(6, 1), B(9, "\1"), B(12, "\0\0\0\x7f")}, "scale[0] is 1.7"},
    {"push_gradients", {V(3, 1), V(6, 1), B(9, "\1"), B(12, "\0\0\x40\0")}, "scale[0] is 5.8"},
    {"release_batch", {B(1, "\0")}, "ReleaseBatch: reason has a NUL inside"},
    {"await_phase", {{0}}, "composers is 0"},
    {"await_phase", {V(2, 1), V(3, 1)}, "composer is 1, expected 0..0"},
    {"await_phase", {V(3, 1), B(4, "")}, "statistics[0].column is empty"},
    {"await_phase", {V(3, 1), B(4, "\x0a\3a\0b")}, "column has a NUL inside"},
    {"await_phase",
     {V(3, 1), B(4, "\x0a\1a\x11\0\0\0\0\0\0\xf8\x7f")},
     "statistics.mean is nan, expected a finite number"},
    {"await_phase",
     {V(3, 1), B(4, "\x0a\1a\x19\0\0\0\0\0\0\xf0\xbf")},
     "statistics.deviation is -1, expected a finite number >= 0"},
    {"end_cut", {V(1, 3), V(3, 1)}, "last is true of an attempt that is not kept"},
    {"await_phase_reply", {V(1, 1)}, "AwaitPhaseReply: kind is 0"},
    {"await_phase_reply", {V(2, 1)}, "phase is 0"},
    {"await_phase_reply", {V(1, 1), V(2, 1), B(4, "\x08\x80\x80\x04")}, "split is 65536"},
    {"await_phase_reply",
     {V(1, 1), V(2, 1), B(4, "\x10\x80\x80\x80\x80\x80\x80\x40")},
     "stepped_low is 281474976710656"},
    {"end_of_epoch", {B(4, "\x30\1\x38\2")}, "EndOfEpoch: rows_quarantined is 2, expected 0..1"},
    {"end_of_epoch", {V(5, 65536)}, "composer is 65536"},
    {"nothing_yet", {V(1, 1)}, "NothingYet: composers is 0"},
    {"nothing_yet", {V(2, 1), V(3, 1)}, "composer is 1, expected 0..0"},
    {"tell_phase", {V(1, 1)}, "TellPhase: kind is 0"},
    {"tell_phase", {V(2, 1)}, "phase is 0"},
    {"tell_phase", {V(1, 1), V(2, 1)}, "composers is 0"},
    {"scores", {{0}}, "Scores: phase is 0"},
    {"scores", {V(1, 1), V(5, (1u << 19) + 1)}, "samples is 524289"},
    {"scores", {V(1, 1), V(4, 2), V(5, 1)}, "batches is 2, expected 0..1"},
    {"lookup_rows", {{0}}, "LookupRows: count of table is 0"},
    {"lookup_rows", {B(3, "\1\2"), B(4, "\1")}, "table has 2 entries, n_ids has 1"},
    {"lookup_rows",
     {B(3, "\2\2"), B(4, "\1\1")},
     "table[1] is 2 after 2, expected growing numbers"},
    {"lookup_rows", {B(3, "\x80\x20"), B(4, "\1")}, "table[0] is 4096, expected 0..4095"},
    {"lookup_rows", {B(3, "\1\2"), B(4, "\1\0")}, "n_ids[1] is 0, expected at least 1"},
    {"lookup_rows", {B(3, "\1\2"), B(4, "\x80\x80\x40\1")}, "sum to more than 1048576"},
    {"lookup_rows", {B(3, "\1"), B(4, "\1"), V(5, 9)}, "dtype is 9"},
    {"lookup_rows_reply", {{0}}, "LookupRowsReply: count of n_ids is 0"},
    {"apply_gradients", {V(7, 1)}, "ApplyGradients: parts is 0"},
    {"apply_gradients", {V(2, 2), V(3, 2), V(7, 1)}, "part is 2, expected 0..1"},
    {"apply_gradients", {V(3, 1), V(7, 1), B(9, "\1")}, "table has 1 entries, n_ids has 0"},
    {"apply_gradients", {V(3, 1), V(7, 1), D(5, NAN)}, "learning_rate is nan"},
    {"apply_gradients", {V(3, 1)}, "world is 0"},
    {"apply_gradients", {V(3, 1), V(7, 1), V(13, 1)}, "applied_through is 1, expected 0..0"},
    {"apply_gradients",
     {V(3, 1), V(7, 1), B(9, "\1"), B(10, "\1"), B(14, F_ONE F_ONE)},
     "ApplyGradients: table has 1 entries, scale has 2"},
    {"apply_gradients",
     {V(3, 1), V(7, 1), B(9, "\1"), B(10, "\1"), B(14, "\0\0\xa0\x3f")},
     "scale[0] is 1.25"},
    {"apply_gradients_reply", {V(1, 3)}, "ApplyGradientsReply: outcome is 3, expected 1..2"},
    {"step_header", {V(5, 4)}, "StepHeader: samples is 4, expected 0..0"},
    {"step_header", {D(8, -INFINITY)}, "learning_rate is -inf"},
    {"step_header", {D(20, NAN)}, "epoch_loss_sum is nan"},
    {"step_headers", {B(3, "\x28\4")}, "StepHeader: samples is 4, expected 0..0"},
    {"join_group", {B(9, TEXT_513)}, "JoinGroup: differs is longer than 512 bytes"},
    {"join_group_reply", {V(2, 4096)}, "JoinGroupReply: rank is 4096, expected 0..4095"},
    {"fetch_state", {V(2, 65536)}, "FetchState: part is 65536"},
    {"fetch_state_reply", {V(1, 1)}, "FetchStateReply: parts is 0"},
    {"fetch_state_reply", {V(2, 2), V(3, 2)}, "part is 2, expected 0..1"},
    {"fetch_state_reply", {V(3, 1), B(8, "\1")}, "owed_step has 1 entries, owed_batch has 0"},
    {"reduce_chunk", {V(3, 65536)}, "ReduceChunk: bucket is 65536"},
    {"reduce_chunk", {V(4, 8193)}, "turn is 8193, expected 0..8192"},
    {"reduce_chunk", {V(5, 1048577)}, "count is 1048577, expected 0..1048576"},
    {"reduce_chunk", {V(6, 1)}, "dtype is 1, expected 0 or 2"},
    {"ask_communicator", {V(1, 1ull << 32)}, "AskCommunicator: group_epoch is 4294967296"},
    {"ask_communicator_reply",
     {V(1, 1)},
     "AskCommunicatorReply: size of id is 0, expected 128..128"},
    {"ask_communicator_reply", {B(3, TEXT_513)}, "size of id is 513"},
    {"hello", {V(4, 1), V(7, 1)}, "Hello: job is '', expected 1 to 63 of"},
    {"hello", {B(1, "a.b"), V(4, 1), V(7, 1)}, "job is 'a.b'"},
    {"hello", {B(1, "a>\n"), V(4, 1), V(7, 1)}, "job is 'a>\\x0a'"},
    {"hello", {B(1, T64), V(4, 1), V(7, 1)}, "expected 1 to 63"},
    {"hello", {B(1, "a"), V(2, 4), V(4, 1), V(7, 1)}, "role is 4"},
    {"hello", {B(1, "a"), V(4, 1), V(7, 1), V(3, 1)}, "index is 1, expected 0..0"},
    {"hello", {B(1, "a"), V(7, 1)}, "incarnation is 0"},
    {"hello", {B(1, "a"), V(4, 1)}, "replicas is 0"},
    {"hello", {B(1, "a"), V(4, 1), V(7, 1), V(6, 6)}, "state is 6"},
    {"hello", {B(1, "a"), V(4, 1), V(7, 1), B(8, "")}, "address[0] is empty"},
    {"hello",
     {B(1, "a"), V(4, 1), V(7, 1), B(8, "x"), B(8, T64 T64)},
     "address is longer than 127"},
    {"hello", {B(1, "a"), V(4, 1), V(7, 1), B(8, "x"), B(8, "x\0y")}, "address has a NUL inside"},
    {"hello", {B(1, "a"), V(4, 1), V(7, 1), B(14, TEXT_513)}, "version is longer than 512"},
    {"hello", {B(1, "a"), V(4, 1), V(7, 1), B(16, TEXT_513)}, "host is longer than 512"},
    {"who", {V(1, 9)}, "Who: role is 9"},
    {"held", {V(1, 9), V(3, 1)}, "Held: role is 9"},
    {"held", {V(2, 1)}, "Held: incarnation is 0"},
    {"control_request", {{0}}, "ControlRequest: command is 0"},
    {"control_request", {V(4, 9)}, "command is 9"},
    {"control_request", {V(4, 1), V(7, 8)}, "flags is 8, expected 0..7"},
    {"control_request", {V(4, 8), V(8, 6)}, "stage is 6, expected 0..5"},
    {"control_request", {V(4, 1), D(6, INFINITY)}, "number is inf, expected a finite number"},
    {"control_reply", {V(2, 4)}, "ControlReply: role is 4"},
    {"control_reply", {V(5, 2)}, "status is 1, expected 0 or an error"},
    {"who", {B(1, "x")}, "Who: 3 bytes are not a valid message"},
};

static void refused(void **state)
{
    struct rt_arena *arena = new_arena();
    uint8_t data[2048];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        int err = find(bad[i].codec)->again(data, build(bad[i].piece, data), arena, NULL);

        if (err != RT_EPROTO)
            fail_msg("row %zu (%s): got %d, expected RT_EPROTO", i, bad[i].want, err);
        if (!strstr(rt_err_text(), bad[i].want))
            fail_msg("row %zu: '%s', expected '%s'", i, rt_err_text(), bad[i].want);
        rt_arena_reset(arena);
    }
    rt_arena_destroy(arena);
}

/* Unpack from a block of exactly that size, so that a sanitizer sees any read beyond. */
static void try_unpack(const struct codec *c, const uint8_t *data, size_t size)
{
    struct rt_arena *arena = new_arena();
    uint8_t *exact = malloc(size ? size : 1);
    int err;

    memcpy(exact, data, size);
    err = c->again(exact, size, arena, NULL);
    if (err != 0 && err != RT_EPROTO)
        fail_msg("%s: %zu bytes: error %d (%s)", c->name, size, err, rt_err_text());
    free(exact);
    rt_arena_destroy(arena);
}

static void truncated(void **state)
{
    struct wire_out out = {0};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(codec); i++) {
        assert_int_equal(codec[i].pack(&out), 0);
        for (size_t size = 0; size < out.size; size++)
            try_unpack(&codec[i], out.data, size);
    }
    wire_out_release(&out);
}

static void damaged(void **state)
{
    uint64_t seed = (uint64_t)(uintptr_t)&seed >> 4; /* differs from run to run */
    struct wire_out out = {0};

    (void)state;
    print_message("damaged: seed %llu\n", (unsigned long long)seed);
    for (uint64_t n = 0; n < 20000; n++) {
        const struct codec *c = &codec[n % ARRAY_LEN(codec)];
        uint64_t flips = 1 + rt_below(rt_draw(seed, 16 * n), 4);

        assert_int_equal(c->pack(&out), 0);
        for (uint64_t f = 0; f < flips; f++)
            out.data[rt_below(rt_draw(seed, 16 * n + 2 * f + 1), out.size)] =
                (uint8_t)rt_draw(seed, 16 * n + 2 * f + 2);
        try_unpack(c, out.data, out.size);
    }
    wire_out_release(&out);
}

static void memory_fails(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(codec); i++) {
        struct wire_out in = {0}, out = {0};
        int64_t nth;
        int err;

        assert_int_equal(codec[i].pack(&in), 0);
        for (nth = 0;; nth++) {
            struct rt_arena *arena = new_arena();

            wire_out_release(&out);
            rt_fault_alloc(nth);
            err = codec[i].again(in.data, in.size, arena, &out);
            rt_fault_alloc(-1);
            rt_arena_destroy(arena);
            if (!err)
                break;
            if (err != RT_ENOMEM)
                fail_msg("%s: allocation %lld: error %d (%s)", codec[i].name, (long long)nth, err,
                         rt_err_text());
        }
        assert_true(nth >= 1);
        wire_out_release(&in);
        wire_out_release(&out);
    }
}

/* A megabyte of empty sub-messages would inflate fifty-fold. */
static void inflation(void **state)
{
    enum { SIZE = 1 << 20 };
    uint8_t *data = malloc(SIZE + 2);
    struct wire_await_phase_reply reply;
    struct rt_arena *arena = new_arena(), *small;

    (void)state;
    for (size_t i = 0; i < SIZE + 2; i += 2) {
        data[i] = 4 << 3 | 2;
        data[i + 1] = 0;
    }
    assert_int_equal(wire_await_phase_reply_unpack(data, SIZE, arena, &reply), RT_EPROTO);
    assert_non_null(strstr(rt_err_text(), "unpack to more than"));
    assert_int_equal(wire_await_phase_reply_unpack(data, SIZE + 2, arena, &reply), RT_EPROTO);
    assert_non_null(strstr(rt_err_text(), "limit 1048576"));
    assert_int_equal(rt_arena_create(1 << 20, &small), 0);
    assert_int_equal(wire_await_phase_reply_unpack(data, SIZE, small, &reply), RT_ENOMEM);
    assert_true(rt_arena_used(small) <= 1 << 20);
    rt_arena_destroy(small);
    rt_arena_destroy(arena);
    free(data);
}

/* A large ledger is packed, or refused by its size; the buffer serves the next message again. */
static void large_ledger(void **state)
{
    enum { SPLITS = 32768 };
    struct wire_split_ledger *many = calloc(SPLITS, sizeof(*many));
    struct wire_await_phase_reply in = {1, WIRE_PHASE_TRAIN, 0, SPLITS, many, 0, NULL, 0, false},
                                  back;
    struct rt_arena *arena = new_arena();
    struct wire_out out = {0};
    uint8_t *bits = calloc(1, WIRE_BITMAP_MAX);
    const uint8_t *before;

    (void)state;
    for (uint32_t i = 0; i < SPLITS; i++)
        many[i] = (struct wire_split_ledger){
            .split = i, .stepped_low = 1000, .finished_low = 999, .rows_read = 1u << 20};
    assert_int_equal(wire_await_phase_reply_pack(&in, &out), 0);
    assert_int_equal(wire_await_phase_reply_unpack(out.data, out.size, arena, &back), 0);
    assert_int_equal(back.n_ledger, SPLITS);
    assert_int_equal(back.ledger[SPLITS - 1].split, SPLITS - 1);
    before = out.data;
    assert_int_equal(pack_cut(&out), 0);
    assert_ptr_equal(out.data, before);
    for (uint32_t i = 0; i < 9; i++) {
        many[i].stepped = bits;
        many[i].stepped_bytes = WIRE_BITMAP_MAX;
    }
    assert_int_equal(wire_await_phase_reply_pack(&in, &out), RT_ELIMIT);
    free(bits);
    free(many);
    wire_out_release(&out);
    rt_arena_destroy(arena);
}

static void greeting(void **state)
{
    struct rt_identity id = {.job = "adult",
                             .role = RT_ROLE_TRAINER,
                             .index = 2,
                             .loop = 1,
                             .incarnation = 1700000000000ull,
                             .wire_version = 7,
                             .config_hash = 8,
                             .plan_hash = 9};
    struct rt_identity back;
    static const struct {
        const char *name;
        struct piece piece[6];
        const char *want;
    } row[] = {
        {"empty", {{0}}, "Handshake: job is ''"},
        {"role", {B(1, "a"), V(2, 4), V(5, 1)}, "role is 4"},
        {"loop", {B(1, "a"), V(4, 256), V(5, 1)}, "loop is 256"},
        {"incarnation", {B(1, "a")}, "incarnation is 0"},
        {"nul", {B(1, "a\0b"), V(5, 1)}, "job has a NUL inside"},
    };
    uint8_t data[256];
    size_t size;

    (void)state;
    assert_int_equal(wire_greeting.pack(&id, data, sizeof(data), &size), 0);
    assert_int_equal(count_tags(data, size), 8);
    assert_int_equal(wire_greeting.unpack(data, size, &back), 0);
    assert_string_equal(back.job, id.job);
    assert_int_equal(back.role, id.role);
    assert_int_equal(back.index, 2);
    assert_int_equal(back.loop, 1);
    assert_int_equal(back.incarnation, id.incarnation);
    assert_int_equal(back.wire_version, 7);
    assert_int_equal(back.config_hash, 8);
    assert_int_equal(back.plan_hash, 9);
    assert_int_equal(wire_greeting.pack(&id, data, size - 1, &size), RT_ELIMIT);
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        if (wire_greeting.unpack(data, build(row[i].piece, data), &back) != RT_EPROTO ||
            !strstr(rt_err_text(), row[i].want))
            fail_msg("%s: '%s', expected '%s'", row[i].name, rt_err_text(), row[i].want);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trips),  cmocka_unit_test(values),    cmocka_unit_test(defaults),
        cmocka_unit_test(refused),      cmocka_unit_test(truncated), cmocka_unit_test(damaged),
        cmocka_unit_test(memory_fails), cmocka_unit_test(inflation), cmocka_unit_test(large_ledger),
        cmocka_unit_test(greeting),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
