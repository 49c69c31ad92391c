/* tests/unit/test_ring.c -- the ring's all-reduce, R ranks on simulated links, against a plain sum. */
#include "tests/sim/sim_io.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/half.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "runtime/wire/member.h"
#include "runtime/wire/step.h"
#include "trainer/collective/collective.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { RANKS_MAX = 5, N_MAX = 1000 };

struct ring_rank {
    struct ring_world *world;
    struct rt_rpc *rpc;
    uint64_t incarnation;
    struct rt_peer *next;
    struct tr_collective *ring;
    float value[N_MAX + 1];
    uint8_t nonfinite[RANKS_MAX];
    int done, err; /* done: operations */
};

struct ring_world {
    struct sim *sim;
    unsigned ranks;
    size_t bucket;
    struct ring_rank rank[RANKS_MAX];
    int wanted;     /* operations that all shall have done */
    uint32_t dtype; /* of what travels */
};

static void serve(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    tr_ring_serve(((struct ring_rank *)ctx)->ring, call, request);
}

static void on_up(void *ctx, struct rt_peer *peer)
{
    (void)peer;
    tr_ring_peer_up(((struct ring_rank *)ctx)->ring);
}

static const struct rt_method_def method[] = {
    {WIRE_REDUCE_CHUNK, "ReduceChunk", RT_ROLE_BIT(RT_ROLE_TRAINER), 4096, 1 << 20, serve}};

/* Grains so small that vectors of some hundred elements have many. */
enum { GRAIN = 8, BUCKET = 1000 };

/* A process: its rpc, and its ring, which knows the next one. */
static void make_rank(struct ring_world *w, unsigned r, uint64_t incarnation)
{
    struct ring_rank *rank = &w->rank[r];
    char address[RT_ADDRESS_MAX], bound[RT_ADDRESS_MAX];
    struct rt_rpc_conf c = {.io = sim_node(w->sim, r),
                            .self = {.job = "ring",
                                     .role = RT_ROLE_TRAINER,
                                     .index = r,
                                     .incarnation = incarnation,
                                     .wire_version = RT_WIRE_VERSION},
                            .greeting = &wire_greeting,
                            .methods = method,
                            .n_methods = 1,
                            .ctx = rank,
                            .peer_up = on_up};
    rank->world = w;
    rank->incarnation = incarnation;
    assert_int_equal(rt_rpc_create(&c, &rank->rpc), 0);
    snprintf(address, sizeof address, "sim:%u:1", r);
    assert_int_equal(rt_rpc_listen(rank->rpc, address, bound), 0);
    rank->next = rt_rpc_peer(rank->rpc, RT_ROLE_TRAINER, (r + 1) % w->ranks, 0);
    struct tr_ring_conf ring = {.io = sim_node(w->sim, r),
                                .world = w->ranks,
                                .rank = r,
                                .next = rank->next,
                                .n_max = N_MAX,
                                .bucket = w->bucket,
                                .grain = GRAIN};
    assert_int_equal(w->ranks == 1 ? tr_collective_single(&rank->ring)
                                   : tr_collective_ring(&ring, &rank->ring),
                     0);
}

/* Where the next one is, as its hello tells. */
static void meet_next(struct ring_world *w, unsigned r)
{
    char address[RT_ADDRESS_MAX];
    unsigned next = (r + 1) % w->ranks;
    snprintf(address, sizeof address, "sim:%u:1", next);
    if (w->ranks > 1)
        rt_peer_set_address(w->rank[r].next, address, w->rank[next].incarnation);
}

static void start(struct ring_world *w, uint64_t seed, unsigned ranks, size_t bucket)
{
    memset(w, 0, sizeof *w);
    w->ranks = ranks;
    w->bucket = bucket ? bucket : BUCKET;
    struct sim_conf conf = {.seed = seed, .n_nodes = ranks};
    w->sim = sim_create(&conf);
    for (unsigned r = 0; r < ranks; r++)
        make_rank(w, r, 1);
    for (unsigned r = 0; r < ranks; r++) {
        w->rank[r].ring->ops->form(w->rank[r].ring, 1);
        meet_next(w, r);
    }
}

static void kill_rank(struct ring_world *w, unsigned r)
{
    rt_rpc_destroy(w->rank[r].rpc);
    w->rank[r].ring->ops->destroy(w->rank[r].ring);
}

static void stop(struct ring_world *w)
{
    for (unsigned r = 0; r < w->ranks; r++)
        kill_rank(w, r);
    sim_run_until(w->sim, NULL, NULL, RT_S);
    sim_destroy(w->sim);
}

static void on_reduced(void *arg, int err, const uint8_t *nonfinite)
{
    struct ring_rank *rank = arg;
    rank->done++;
    rank->err = err;
    if (!err)
        memcpy(rank->nonfinite, nonfinite, rank->world->ranks);
}

static bool all_done(void *arg)
{
    const struct ring_world *w = arg;
    for (unsigned r = 0; r < w->ranks; r++)
        if (w->rank[r].done < w->wanted)
            return false;
    return true;
}

/* Integers: their sums are exact in any order, in bfloat16 too, where they stay below 256. The element behind the vector must
 * stay. */
static float element(const struct ring_world *w, uint64_t key, unsigned rank, size_t i)
{
    uint32_t most = w->dtype == RT_DTYPE_F32 ? 1000 : 50;
    return (float)(rt_below(rt_draw(key, i * RANKS_MAX + rank), 2 * most + 1)) - (float)most;
}

static void begin(struct ring_world *w, unsigned r, uint64_t key, size_t n, unsigned flags)
{
    struct ring_rank *rank = &w->rank[r];
    for (size_t i = 0; i < n; i++)
        rank->value[i] = element(w, key, r, i);
    rank->value[n] = 0.5f;
    rank->ring->ops->begin(rank->ring, rank->value, n, w->dtype, on_reduced, rank);
    rank->ring->ops->complete(rank->ring, flags >> r & 1);
}

static void check(struct ring_world *w, uint64_t key, size_t n, unsigned flags, uint64_t seed)
{
    for (unsigned r = 0; r < w->ranks; r++) {
        const struct ring_rank *rank = &w->rank[r];
        assert_int_equal(rank->err, 0);
        assert_true(rank->value[n] == 0.5f);
        for (unsigned q = 0; q < w->ranks; q++)
            assert_int_equal(rank->nonfinite[q], flags >> q & 1);
        for (size_t i = 0; i < n; i++) {
            float sum = 0;
            for (unsigned q = 0; q < w->ranks; q++)
                sum += element(w, key, q, i);
            if (rank->value[i] != sum)
                fail_msg("seed %llu, %u ranks, n %zu: rank %u has %g at %zu, expected %g",
                         (unsigned long long)seed, w->ranks, n, r, (double)rank->value[i], i,
                         (double)sum);
        }
    }
}

static void test_sums(void **state)
{
    (void)state;
    static const struct {
        size_t n, bucket;
    } row[] = {{0, 0},    {1, 0},       {2, 1},   {3, 0},   {4, 4},    {5, 4},
               {7, 3},    {63, 10},     {64, 64}, {65, 64}, {129, 64}, {999, 100},
               {1000, 7}, {1000, 1000}, {17, 17}, {18, 17}, {997, 13}, {1000, 999}};
    for (unsigned ranks = 1; ranks <= RANKS_MAX; ranks++)
        for (size_t i = 0; i < ARRAY_LEN(row); i++) {
            struct ring_world w;
            start(&w, i + 1, ranks, row[i].bucket);
            for (unsigned operation = 1; operation <= 4; operation++) {
                w.dtype = operation < 3 ? RT_DTYPE_F32 : RT_DTYPE_BF16;
                unsigned flags = operation == 2 ? 1u << (i % ranks) : 0;
                w.wanted = (int)operation;
                for (unsigned r = 0; r < ranks; r++)
                    begin(&w, r, operation, row[i].n, flags);
                assert_true(sim_run_until(w.sim, all_done, &w, 10 * RT_S));
                check(&w, operation, row[i].n, flags, i + 1);
            }
            stop(&w);
        }
}

/* bfloat16 on the way: the same bits everywhere, each of them one of bfloat16, and the error that the header names. */
static void test_rounded(void **state)
{
    (void)state;
    for (unsigned ranks = 2; ranks <= RANKS_MAX; ranks++) {
        struct ring_world w;
        double worst = 0;
        start(&w, ranks, ranks, 100);
        w.dtype = RT_DTYPE_BF16;
        w.wanted = 1;
        for (unsigned r = 0; r < ranks; r++) {
            struct ring_rank *rank = &w.rank[r];
            for (size_t i = 0; i < N_MAX; i++)
                rank->value[i] = rt_normal_f32(rt_draw(ranks, i * RANKS_MAX + r));
            rank->ring->ops->begin(rank->ring, rank->value, N_MAX, w.dtype, on_reduced, rank);
            rank->ring->ops->complete(rank->ring, false);
        }
        assert_true(sim_run_until(w.sim, all_done, &w, 10 * RT_S));
        for (size_t i = 0; i < N_MAX; i++) {
            double sum = 0, most = 0;
            uint32_t bits;
            for (unsigned r = 0; r < ranks; r++) {
                double value = (double)rt_normal_f32(rt_draw(ranks, i * RANKS_MAX + r));
                sum += value;
                most += value < 0 ? -value : value;
            }
            double off = sum - (double)w.rank[0].value[i];
            off = (off < 0 ? -off : off) / most;
            worst = off > worst ? off : worst;
            memcpy(&bits, &w.rank[0].value[i], sizeof bits);
            assert_int_equal(bits & 0xffff, 0);
        }
        for (unsigned r = 1; r < ranks; r++)
            assert_memory_equal(w.rank[r].value, w.rank[0].value, N_MAX * sizeof(float));
        if (!(worst < ranks * 0x1p-8 && worst > 0x1p-11)) /* it is rounded */
            fail_msg("%u ranks: off by %g, expected %g to %g", ranks, worst, 0x1p-11,
                     ranks * 0x1p-8);
        stop(&w);
    }
}

/* ---- what is ready, and when ---- */

/* One rank's vector on its way: from the end on it is given what it shall be, and the ring. */
struct giving {
    struct ring_rank *rank;
    float *value; /* [n] what it shall be */
    size_t from;
};

static void give(struct giving *g, size_t from)
{
    for (size_t i = from; i < g->from; i++)
        g->rank->value[i] = g->value[i];
    g->from = from;
    g->rank->ring->ops->ready(g->rank->ring, from);
}

/* One sum of random vectors, each rank giving its own piece by piece while links break, or all at once (steps 0).
 * Out: the sum, of rank 0. */
static void sum_in_pieces(uint64_t seed, unsigned ranks, size_t n, size_t bucket, uint32_t dtype,
                          unsigned steps, float *out)
{
    static float value[RANKS_MAX][N_MAX];
    struct ring_world w;
    struct giving g[RANKS_MAX];
    uint64_t key = rt_draw_key(seed + bucket, "pieces", NULL), draw = 0;
    start(&w, seed, ranks, bucket);
    w.dtype = dtype;
    w.wanted = 1;
    for (unsigned r = 0; r < ranks; r++) {
        for (size_t i = 0; i < n; i++) {
            value[r][i] = rt_normal_f32(rt_draw(seed, i * RANKS_MAX + r));
            w.rank[r].value[i] = NAN; /* not to be looked at yet */
        }
        g[r] = (struct giving){&w.rank[r], value[r], n};
        w.rank[r].ring->ops->begin(w.rank[r].ring, w.rank[r].value, n, dtype, on_reduced,
                                   &w.rank[r]);
    }
    for (unsigned i = 0; i < steps; i++) {
        unsigned r = (unsigned)rt_below(rt_draw(key, draw++), ranks);
        give(&g[r], g[r].from - rt_below(rt_draw(key, draw++), g[r].from / 2 + 1));
        sim_run_until(w.sim, NULL, NULL, rt_below(rt_draw(key, draw++), RT_MS));
        unsigned broken = (unsigned)rt_below(rt_draw(key, draw++), 3 * ranks);
        if (broken < ranks)
            sim_break(w.sim, broken, (broken + 1) % ranks);
    }
    for (unsigned r = 0; r < ranks; r++) {
        assert_int_equal(w.rank[r].done, 0); /* flags are to come */
        for (size_t i = 0; i < g[r].from; i++)
            assert_true(isnan(w.rank[r].value[i])); /* nor written */
        give(&g[r], 0);
        w.rank[r].ring->ops->complete(w.rank[r].ring, r == 1);
    }
    if (!sim_run_until(w.sim, all_done, &w, 20 * RT_S))
        fail_msg("seed %llu, bucket %zu: not done", (unsigned long long)seed, bucket);
    for (unsigned r = 0; r < ranks; r++) {
        assert_int_equal(w.rank[r].err, 0);
        for (unsigned q = 0; q < ranks; q++)
            assert_int_equal(w.rank[r].nonfinite[q], q == 1);
        assert_memory_equal(w.rank[r].value, w.rank[0].value, n * sizeof(float));
    }
    memcpy(out, w.rank[0].value, n * sizeof(float));
    stop(&w);
}

/* Whatever the buckets, and whenever what is ready: the bits of one bucket that is ready as a whole. */
static void test_buckets(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        uint64_t key = rt_draw_key(seed, "buckets", NULL);
        unsigned ranks = 2 + (unsigned)(seed % 4);
        uint32_t dtype = seed % 3 ? RT_DTYPE_F32 : RT_DTYPE_BF16;
        size_t n = rt_below(rt_draw(key, 0), N_MAX + 1);
        const size_t bucket[] = {1 + rt_below(rt_draw(key, 1), 30), GRAIN,
                                 1 + rt_below(rt_draw(key, 2), 300), N_MAX};
        float whole[N_MAX], pieces[N_MAX];
        sum_in_pieces(seed, ranks, n, N_MAX, dtype, 0, whole);
        for (size_t i = 0; i < ARRAY_LEN(bucket); i++) {
            sum_in_pieces(seed, ranks, n, bucket[i], dtype, (unsigned)(seed % 40), pieces);
            if (memcmp(whole, pieces, n * sizeof(float)) != 0)
                fail_msg("seed %llu, %u ranks, n %zu, bucket %zu: other bits",
                         (unsigned long long)seed, ranks, n, bucket[i]);
        }
    }
}

/* Buckets that are ready go round while the others are not: their sum is there before `complete`. */
static void test_overlap(void **state)
{
    (void)state;
    enum { N = 900, READY = 300 };
    struct ring_world w;
    start(&w, 1, 3, 100);
    for (unsigned r = 0; r < 3; r++) {
        for (size_t i = 0; i < N; i++)
            w.rank[r].value[i] = (float)(r + 1);
        w.rank[r].ring->ops->begin(w.rank[r].ring, w.rank[r].value, N, RT_DTYPE_F32, on_reduced,
                                   &w.rank[r]);
        w.rank[r].ring->ops->ready(w.rank[r].ring, READY + 1);
    }
    sim_run_until(w.sim, NULL, NULL, 2 * TR_STALL_NS); /* no clock runs until it is complete */
    for (unsigned r = 0; r < 3; r++) {
        assert_int_equal(w.rank[r].done, 0);
        for (size_t i = 0; i < N; i++)
            assert_true(w.rank[r].value[i] == (i < READY + 100 ? (float)(r + 1) : 6));
    }
    w.wanted = 1;
    for (unsigned r = 0; r < 3; r++)
        w.rank[r].ring->ops->complete(w.rank[r].ring, false);
    assert_true(sim_run_until(w.sim, all_done, &w, 10 * RT_S));
    for (unsigned r = 0; r < 3; r++)
        for (size_t i = 0; i < N; i++)
            assert_true(w.rank[r].value[i] == 6);
    stop(&w);
}

/* Given up with some buckets summed and others not ready: what is ready later is nobody's, and the next sum is whole. */
static void test_abort_between(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct ring_world w;
        start(&w, seed, 3, 10);
        for (unsigned r = 0; r < 3; r++) {
            struct tr_collective *ring = w.rank[r].ring;
            ring->ops->begin(ring, w.rank[r].value, 100, w.dtype, on_reduced, &w.rank[r]);
            ring->ops->ready(ring, 20 * (r + 1));
        }
        sim_run_until(w.sim, NULL, NULL, seed * RT_MS / 10);
        for (unsigned r = 0; r < 3; r++) {
            struct tr_collective *ring = w.rank[r].ring;
            ring->ops->abort(ring);
            assert_int_equal(w.rank[r].done, 1);
            assert_int_equal(w.rank[r].err, RT_ECANCELED);
            ring->ops->ready(ring, 0);
            w.rank[r].done = 0;
            ring->ops->form(ring, 2);
        }
        for (unsigned r = 0; r < 3; r++)
            begin(&w, r, 2, 100, 0);
        w.wanted = 1;
        assert_true(sim_run_until(w.sim, all_done, &w, 10 * RT_S));
        check(&w, 2, 100, 0, seed);
        stop(&w);
    }
}

/* Ranks that begin at other times, links that break at any moment: the sums are the same. */
static void test_breaks(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        struct ring_world w;
        unsigned ranks = 2 + (unsigned)(seed % 4);
        uint64_t key = rt_draw_key(seed, "ring", NULL), draw = 0;
        start(&w, seed, ranks, 1 + rt_below(rt_draw(key, draw++), 300));
        for (unsigned operation = 1; operation <= 4; operation++) {
            size_t n = rt_below(rt_draw(key, draw++), N_MAX + 1);
            w.wanted = (int)operation;
            for (unsigned r = 0; r < ranks; r++) {
                begin(&w, (r + operation) % ranks, operation, n, 0);
                uint64_t pause = rt_below(rt_draw(key, draw++), 2 * RT_MS);
                sim_run_until(w.sim, NULL, NULL, pause);
                unsigned a = (unsigned)rt_below(rt_draw(key, draw++), ranks);
                sim_break(w.sim, a, (a + 1) % ranks);
            }
            if (!sim_run_until(w.sim, all_done, &w, 20 * RT_S))
                fail_msg("seed %llu: operation %u is not done", (unsigned long long)seed,
                         operation);
            check(&w, operation, n, 0, seed);
        }
        stop(&w);
    }
}

/* Given up while open, and formed again: chunks of the old epoch count for nothing. */
static void test_abort(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct ring_world w;
        start(&w, seed, 3, 10);
        begin(&w, 0, 1, 100, 0);
        begin(&w, 1, 1, 100, 0);
        sim_run_until(w.sim, NULL, NULL, seed * RT_MS / 10);
        for (unsigned r = 0; r < 3; r++) {
            struct tr_collective *ring = w.rank[r].ring;
            ring->ops->abort(ring);
            assert_int_equal(w.rank[r].done, r < 2);
            assert_int_equal(w.rank[r].err, r < 2 ? RT_ECANCELED : 0);
            w.rank[r].done = 0;
            ring->ops->form(ring, 2);
            begin(&w, r, 2, 77, 4);
            sim_run_until(w.sim, NULL, NULL, seed * RT_MS / 100);
        }
        w.wanted = 1;
        assert_true(sim_run_until(w.sim, all_done, &w, 10 * RT_S));
        check(&w, 2, 77, 4, seed);
        stop(&w);
    }
}

/* A rank that dies at any point of a sum and comes back with nothing: nobody is done meanwhile but by an error, and the group that forms again
 * sums as if nothing had been. The group of one loses its sum with itself. */
static void test_death(void **state)
{
    (void)state;
    for (unsigned ranks = 1; ranks <= 4; ranks++)
        for (uint64_t seed = 1; seed <= 60; seed++) {
            struct ring_world w;
            unsigned dies = (unsigned)(seed % ranks), before = (dies + ranks - 1) % ranks;
            start(&w, seed, ranks, 1 + seed % 3 * 100);
            for (unsigned r = 0; r < ranks; r++)
                if (r != dies || seed % 4 > 1) /* else it never came */
                    begin(&w, r, 1, 600, 0);
            sim_run_until(w.sim, NULL, NULL, seed * RT_MS / 20);
            kill_rank(&w, dies);
            sim_run_until(w.sim, NULL, NULL, seed % 2 ? 2 * TR_STALL_NS : seed * RT_MS);
            make_rank(&w, dies, 2);
            meet_next(&w, dies);
            meet_next(&w, before);
            for (unsigned r = 0; r < ranks; r++) {
                struct tr_collective *ring = w.rank[r].ring;
                ring->ops->abort(ring);
                if (r != dies)
                    assert_int_equal(w.rank[r].done,
                                     1); /* summed before it died, or with an error */
                if (r != dies && w.rank[r].err)
                    assert_int_equal(w.rank[r].err, seed % 2 ? RT_EDEADLINE : RT_ECANCELED);
                w.rank[r].done = 0;
                ring->ops->form(ring, 2);
            }
            for (unsigned r = 0; r < ranks; r++)
                begin(&w, r, 2, 77, 1);
            w.wanted = 1;
            assert_true(sim_run_until(w.sim, all_done, &w, 10 * RT_S));
            check(&w, 2, 77, 1, seed);
            stop(&w);
        }
}

/* A rank that never comes: no progress is an error after a while, and not before. */
static void test_stall(void **state)
{
    (void)state;
    struct ring_world w;
    start(&w, 1, 2, 0);
    begin(&w, 0, 1, 10, 0);
    sim_run_until(w.sim, NULL, NULL, TR_STALL_NS - RT_S);
    assert_int_equal(w.rank[0].done, 0);
    sim_run_until(w.sim, NULL, NULL, 2 * RT_S);
    assert_int_equal(w.rank[0].done, 1);
    assert_int_equal(w.rank[0].err, RT_EDEADLINE);
    stop(&w);
}

struct answer {
    int err;
    bool done;
};

static void on_answer(void *arg, int err, const struct rt_frame *reply)
{
    (void)reply;
    *(struct answer *)arg = (struct answer){err, true};
}

/* Chunks that fit nothing are refused one by one, and the operation goes on. */
static void test_refused(void **state)
{
    (void)state;
    static const struct {
        struct wire_reduce_chunk head;
        size_t floats;
        int err;
    } row[] = {
        {{1, 1, 0, 0, 10, WIRE_F32}, 9, RT_EPROTO},     /* bytes and count differ */
        {{0, 1, 0, 0, 10, WIRE_F32}, 10, RT_ESTALE},    /* older epoch */
        {{2, 1, 0, 0, 10, WIRE_F32}, 10, RT_ENOTREADY}, /* newer epoch */
        {{1, 3, 0, 0, 10, WIRE_F32}, 10, RT_EPROTO},    /* two operations ahead */
        {{1, 1, 1, 0, 10, WIRE_F32}, 10, RT_EPROTO},    /* no such bucket */
        {{1, 1, 0, 2, 10, WIRE_F32}, 10, RT_EPROTO},    /* no such turn */
        {{1, 1, 0, 0, 9, WIRE_F32}, 9, RT_EPROTO},      /* another size */
        {{1, 1, 0, 0, 10, WIRE_BF16}, 5, RT_EPROTO},    /* another dtype */
        {{1, 0, 0, 0, 10, WIRE_F32}, 10, 0},            /* of the operation before: not needed */
        {{1, 2, 40, 60, 3, WIRE_F32}, 3, 0}, /* ahead: kept, judged when its turn comes */
    };
    struct ring_world w;
    struct wire_out out = {0};
    start(&w, 1, 2, 0);
    begin(&w, 0, 1, 12, 0); /* grains of 8 and 4: chunks of 8 + 2 flags, and of 4 */
    sim_run_until(w.sim, NULL, NULL, RT_S);
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct answer answer = {0};
        float value[16] = {0};
        assert_int_equal(wire_reduce_chunk_pack(&row[i].head, &out), 0);
        struct rt_piece piece = {value, row[i].floats * sizeof(float), NULL};
        struct rt_outgoing o = {
            .message = out.data, .message_size = out.size, .pieces = &piece, .n_pieces = 1};
        assert_int_equal(rt_rpc_call(w.rank[1].next, WIRE_REDUCE_CHUNK, &o, 0, on_answer, &answer),
                         0);
        sim_run_until(w.sim, NULL, NULL, RT_S);
        assert_true(answer.done);
        if (answer.err != row[i].err)
            fail_msg("row %zu: got %s, expected %s", i, rt_err_name(answer.err),
                     rt_err_name(row[i].err));
    }
    begin(&w, 1, 1, 12, 0);
    w.wanted = 1;
    assert_true(sim_run_until(w.sim, all_done, &w, 10 * RT_S));
    check(&w, 1, 12, 0, 1);
    wire_out_release(&out);
    stop(&w);
}

static void test_no_memory(void **state)
{
    (void)state;
    struct ring_world w;
    start(&w, 1, 2, 0);
    struct tr_ring_conf conf = {
        .io = sim_node(w.sim, 0), .world = 2, .next = w.rank[0].next, .n_max = N_MAX, .bucket = 10};
    struct tr_collective *ring = NULL;
    int failures = 0;
    for (int64_t nth = 0; !ring; nth++) {
        rt_fault_alloc(nth);
        int err = tr_collective_ring(&conf, &ring);
        rt_fault_alloc(-1);
        assert_int_equal(err, ring ? 0 : RT_ENOMEM);
        failures += err != 0;
    }
    assert_true(failures >= 3);
    ring->ops->destroy(ring);
    stop(&w);
}

int main(void)
{
    rt_log_set_level(RT_LOG_ERROR);
    const struct CMUnitTest test[] = {
        cmocka_unit_test(test_sums),          cmocka_unit_test(test_rounded),
        cmocka_unit_test(test_buckets),       cmocka_unit_test(test_overlap),
        cmocka_unit_test(test_abort_between), cmocka_unit_test(test_breaks),
        cmocka_unit_test(test_abort),         cmocka_unit_test(test_death),
        cmocka_unit_test(test_stall),         cmocka_unit_test(test_refused),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(test, NULL, NULL);
}
