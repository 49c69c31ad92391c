/* tests/unit/test_nccl.c -- trainer/collective/nccl.c, R ranks on simulated links, over a table that stands for NCCL.
 *
 * The table's communicators meet by their id, as NCCL's do: a sum is made when all ranks of it have asked for it, in their order, and takes a time
 * that is drawn. What NCCL does with other ranks' deaths is here too: nothing, or an error after a while. */
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
#include "trainer/collective/nccl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { RANKS_MAX = 4, N_MAX = 1000, SUMS_MAX = 1024, GROUPS_MAX = 64 };

/* ---- what stands for NCCL ---- */

struct asked {
    float *value;
    size_t n;
    uint32_t dtype;
};

/* All communicators of one id. */
struct fake_group {
    struct tr_nccl_link *link[RANKS_MAX];
    uint32_t world, here;
};

struct tr_nccl_link {
    struct fake_group *group;
    struct tr_cuda *cuda;
    uint32_t rank;
    struct asked asked[SUMS_MAX];
    size_t n_asked, n_made, n_before; /* n_before: when this operation began */
    float flags[RANKS_MAX];
    void (*wake)(void *arg);
    void *wake_arg;
    bool told, closed;
    unsigned busy; /* polls, until it takes more */
    size_t bucket, n_buckets;
};

/* A rank's "device": what its table is given. */
struct tr_cuda {
    struct rank *rank;
};

static struct {
    struct fake_group group[GROUPS_MAX];
    unsigned n_groups, open, opened;
    uint32_t version[RANKS_MAX];
    int id_err, open_err, sum_err; /* of rank `failing` */
    const char *text;
    uint32_t failing;
    int async_err; /* that every poll of `failing` gives */
    uint64_t key, draws;
    bool busy; /* communicators are, now and then */
} fake;

struct rank {
    struct world *world;
    struct tr_cuda cuda;
    struct rt_rpc *rpc;
    uint64_t incarnation;
    struct tr_collective *nccl;
    float value[N_MAX + 1];
    uint8_t nonfinite[RANKS_MAX];
    int done, err;
    char text[512];
    void (*run)(void *arg); /* posted */
    void *arg;
    struct rt_timer post;
    unsigned posts;
};

struct world {
    struct sim *sim;
    unsigned ranks;
    struct rank rank[RANKS_MAX];
    int wanted;
    uint32_t dtype;
    bool posts; /* a sum that is complete is told */
};

static uint32_t fake_version_of_0(void)
{
    return fake.version[0];
}

static uint32_t fake_version_of_1(void)
{
    return fake.version[1];
}

static int fake_make_id(struct tr_cuda *cuda, uint8_t id[TR_NCCL_ID_BYTES])
{
    (void)cuda;
    if (fake.id_err)
        return RT_FAIL(fake.id_err, "%s", fake.text);
    assert_true(fake.n_groups < GROUPS_MAX);
    memset(id, 0xa5, TR_NCCL_ID_BYTES);
    id[TR_NCCL_ID_BYTES - 1] = (uint8_t)fake.n_groups++;
    return 0;
}

static int fake_open(struct tr_cuda *cuda, const struct tr_nccl_open *open,
                     struct tr_nccl_link **out)
{
    struct fake_group *group = &fake.group[open->id[TR_NCCL_ID_BYTES - 1]];
    assert_int_equal(open->id[0], 0xa5);
    assert_true(group < fake.group + fake.n_groups);
    if (fake.open_err && fake.failing == open->rank)
        return RT_FAIL(fake.open_err, "%s", fake.text);
    struct tr_nccl_link *link = rt_xcalloc(1, sizeof *link);
    *link = (struct tr_nccl_link){.group = group,
                                  .cuda = cuda,
                                  .rank = open->rank,
                                  .bucket = open->bucket,
                                  .n_buckets = open->n_buckets};
    assert_null(group->link[open->rank]);
    assert_true(group->world == 0 || group->world == open->world);
    group->world = open->world;
    group->link[open->rank] = link;
    group->here++;
    fake.open++;
    fake.opened++;
    *out = link;
    return 0;
}

/* The next sum of a group, if all have asked for it. */
static bool make_one(struct fake_group *group, size_t k)
{
    static float sum[N_MAX];
    for (uint32_t r = 0; r < group->world; r++) {
        const struct tr_nccl_link *link = group->link[r];
        if (!link || link->closed || link->n_made != k || link->n_asked <= k)
            return false;
    }
    const struct asked *first = &group->link[0]->asked[k];
    for (uint32_t r = 1; r < group->world; r++) { /* NCCL would hang, or worse */
        assert_int_equal(group->link[r]->asked[k].n, first->n);
        assert_int_equal(group->link[r]->asked[k].dtype, first->dtype);
    }
    for (size_t i = 0; i < first->n; i++) {
        sum[i] = 0;
        for (uint32_t r = 0; r < group->world; r++)
            sum[i] += group->link[r]->asked[k].value[i];
    }
    for (uint32_t r = 0; r < group->world; r++) {
        memcpy(group->link[r]->asked[k].value, sum, first->n * sizeof *sum);
        group->link[r]->n_made++;
    }
    return true;
}

static void tell(struct tr_nccl_link *link)
{
    if (link->wake && link->n_made == link->n_asked && !link->told) {
        link->told = true;
        link->wake(link->wake_arg);
    }
}

static int fake_poll(struct tr_nccl_link *link, uint64_t *summed)
{
    struct fake_group *group = link->group;
    assert_false(link->closed);
    *summed = link->n_made - link->n_before;
    if (fake.async_err && fake.failing == link->rank)
        return RT_FAIL(fake.async_err, "%s", fake.text);
    if (group->here < group->world)
        return TR_NCCL_BUSY;
    if (link->busy > 0) {
        link->busy--;
        return TR_NCCL_BUSY;
    }
    while (make_one(group, link->n_made)) {
    }
    for (uint32_t r = 0; r < group->world; r++)
        if (group->link[r])
            tell(group->link[r]);
    *summed = link->n_made - link->n_before;
    return TR_NCCL_FREE;
}

static void fake_begin(struct tr_nccl_link *link)
{
    assert_int_equal(link->n_made, link->n_asked);
    link->n_before = link->n_made;
    link->wake = NULL;
    link->told = false;
}

static int fake_ask(struct tr_nccl_link *link, float *value, size_t n, uint32_t dtype)
{
    assert_false(link->closed);
    assert_int_equal(link->busy, 0); /* it was not free */
    assert_true(link->n_asked < SUMS_MAX && link->group->here == link->group->world);
    link->asked[link->n_asked++] = (struct asked){value, n, dtype};
    link->busy = fake.busy ? (unsigned)rt_below(rt_draw(fake.key, fake.draws++), 4) : 0;
    return 0;
}

static int fake_sum(struct tr_nccl_link *link, float *value, size_t n, uint32_t dtype, void *after)
{
    assert_null(after);
    assert_true(n > 0 && n <= link->bucket && link->n_asked - link->n_before < link->n_buckets);
    if (fake.sum_err && fake.failing == link->rank)
        return RT_FAIL(fake.sum_err, "%s", fake.text);
    return fake_ask(link, value, n, dtype);
}

static int fake_sum_flags(struct tr_nccl_link *link, bool nonfinite, void (*wake)(void *arg),
                          void *arg)
{
    for (uint32_t r = 0; r < link->group->world; r++)
        link->flags[r] = r == link->rank && nonfinite;
    link->wake = wake;
    link->wake_arg = arg;
    return fake_ask(link, link->flags, link->group->world, RT_DTYPE_F32);
}

static const float *fake_flags(struct tr_nccl_link *link)
{
    assert_int_equal(link->n_made, link->n_asked);
    return link->flags;
}

static void fake_close(struct tr_nccl_link *link)
{
    assert_false(link->closed);
    link->group->link[link->rank] = NULL;
    link->closed = true;
    fake.open--;
    rt_free(link);
}

static const struct tr_nccl_api fake_api[2] = {
    {fake_version_of_0, fake_make_id, fake_open, fake_poll, fake_begin, fake_sum, fake_sum_flags,
     fake_flags, fake_close},
    {fake_version_of_1, fake_make_id, fake_open, fake_poll, fake_begin, fake_sum, fake_sum_flags,
     fake_flags, fake_close},
};

/* ---- ranks ---- */

static void serve(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    tr_nccl_serve(((struct rank *)ctx)->nccl, call, request);
}

static const struct rt_method_def method[] = {
    {WIRE_ASK_COMMUNICATOR, "AskCommunicator", RT_ROLE_BIT(RT_ROLE_TRAINER), 4096, 0, serve}};

static void run_posted(void *arg)
{
    struct rank *rank = arg;
    rank->run(rank->arg);
}

/* rt_loop_post, as the loop's thread sees it: a little later. */
static int post(void *ctx, void (*run)(void *arg), void *arg)
{
    struct rank *rank = ctx;
    rank->run = run;
    rank->arg = arg;
    rank->posts++;
    rank->post = (struct rt_timer){.fire = run_posted, .arg = rank, .impl = rank->post.impl};
    rt_timer_start(sim_node(rank->world->sim, (unsigned)(rank - rank->world->rank)), &rank->post,
                   1000);
    return 0;
}

static struct rt_peer *first_of(struct rank *rank)
{
    return rt_rpc_peer(rank->rpc, RT_ROLE_TRAINER, 0, 0);
}

/* Its rpc, and where rank 0 is. */
static void make_rank(struct world *w, unsigned r, uint64_t incarnation)
{
    char address[RT_ADDRESS_MAX], bound[RT_ADDRESS_MAX];
    struct rt_rpc_conf c = {.io = sim_node(w->sim, r),
                            .self = {.job = "nccl",
                                     .role = RT_ROLE_TRAINER,
                                     .index = r,
                                     .incarnation = incarnation,
                                     .wire_version = RT_WIRE_VERSION},
                            .greeting = &wire_greeting,
                            .methods = method,
                            .n_methods = 1,
                            .ctx = &w->rank[r]};
    w->rank[r].world = w;
    w->rank[r].cuda.rank = &w->rank[r];
    w->rank[r].incarnation = incarnation;
    assert_int_equal(rt_rpc_create(&c, &w->rank[r].rpc), 0);
    snprintf(address, sizeof address, "sim:%u:1", r);
    assert_int_equal(rt_rpc_listen(w->rank[r].rpc, address, bound), 0);
    for (unsigned q = 1; q < w->ranks; q++)
        if (w->rank[q].rpc && w->rank[0].rpc && (q == r || r == 0))
            rt_peer_set_address(first_of(&w->rank[q]), "sim:0:1", w->rank[0].incarnation);
}

/* What a process leaves behind: nothing. */
static void kill_rank(struct world *w, unsigned r)
{
    rt_rpc_destroy(w->rank[r].rpc);
    w->rank[r].rpc = NULL;
    sim_forget_work(w->sim, r);
    w->rank[r].nccl->ops->destroy(w->rank[r].nccl);
}

static void make_nccl(struct world *w, unsigned r)
{
    struct tr_nccl_conf c = {.io = sim_node(w->sim, r),
                             .api = &fake_api[r == 1],
                             .cuda = &w->rank[r].cuda,
                             .world = w->ranks,
                             .rank = r,
                             .first = r > 0 ? first_of(&w->rank[r]) : NULL,
                             .n_max = N_MAX,
                             .bucket = 100,
                             .post = w->posts ? post : NULL,
                             .ctx = &w->rank[r]};
    assert_int_equal(tr_collective_nccl(&c, &w->rank[r].nccl), 0);
}

static void start(struct world *w, uint64_t seed, unsigned ranks, bool posts)
{
    memset(w, 0, sizeof *w);
    memset(&fake, 0, sizeof fake);
    fake.key = rt_draw_key(seed, "nccl", NULL);
    fake.busy = seed % 2;
    fake.text = "something";
    for (unsigned r = 0; r < RANKS_MAX; r++)
        fake.version[r] = 22809;
    w->ranks = ranks;
    w->posts = posts;
    w->sim = sim_create(&(struct sim_conf){.seed = seed, .n_nodes = ranks});
    for (unsigned r = 0; r < ranks; r++)
        make_rank(w, r, 1);
    for (unsigned r = 0; r < ranks; r++)
        make_nccl(w, r);
}

static void form(struct world *w, unsigned r, uint64_t epoch)
{
    w->rank[r].nccl->ops->form(w->rank[r].nccl, epoch);
}

static void form_all(struct world *w, uint64_t epoch)
{
    for (unsigned r = 0; r < w->ranks; r++)
        form(w, r, epoch);
}

static void stop(struct world *w)
{
    for (unsigned r = 0; r < w->ranks; r++)
        kill_rank(w, r);
    assert_int_equal(fake.open, 0);
    sim_run_until(w->sim, NULL, NULL, RT_S);
    sim_destroy(w->sim);
}

static void on_reduced(void *arg, int err, const uint8_t *nonfinite)
{
    struct rank *rank = arg;
    rank->done++;
    rank->err = err;
    snprintf(rank->text, sizeof rank->text, "%s", err ? rt_err_text() : "");
    if (!err)
        memcpy(rank->nonfinite, nonfinite, rank->world->ranks);
}

static bool all_done(void *arg)
{
    const struct world *w = arg;
    for (unsigned r = 0; r < w->ranks; r++)
        if (w->rank[r].done < w->wanted)
            return false;
    return true;
}

static bool all_up(void *arg)
{
    const struct world *w = arg;
    return fake.open == w->ranks;
}

static float element(uint64_t key, unsigned rank, size_t i)
{
    return (float)(rt_below(rt_draw(key, i * RANKS_MAX + rank), 2001)) - 1000;
}

static void begin(struct world *w, unsigned r, uint64_t key, size_t n)
{
    struct rank *rank = &w->rank[r];
    for (size_t i = 0; i < n; i++)
        rank->value[i] = element(key, r, i);
    rank->value[n] = 0.5f;
    rank->nccl->ops->begin(rank->nccl, rank->value, n, w->dtype, on_reduced, rank);
}

static void complete(struct world *w, unsigned r, bool nonfinite)
{
    w->rank[r].nccl->ops->complete(w->rank[r].nccl, nonfinite);
}

static void check(struct world *w, uint64_t key, size_t n, unsigned flags)
{
    for (unsigned r = 0; r < w->ranks; r++) {
        if (w->rank[r].err)
            fail_msg("rank %u: %s", r, w->rank[r].text);
        for (size_t i = 0; i < n; i++) {
            float sum = 0;
            for (unsigned q = 0; q < w->ranks; q++)
                sum += element(key, q, i);
            if (w->rank[r].value[i] != sum)
                fail_msg("rank %u, element %zu of %zu: got %g, expected %g", r, i, n,
                         (double)w->rank[r].value[i], (double)sum);
        }
        assert_true(w->rank[r].value[n] == 0.5f);
        for (unsigned q = 0; q < w->ranks; q++)
            assert_int_equal(w->rank[r].nonfinite[q], flags >> q & 1);
    }
}

/* One sum by all, to its end. */
static void sum_all(struct world *w, uint64_t key, size_t n, unsigned flags)
{
    w->wanted = w->rank[0].done = 0;
    for (unsigned r = 0; r < w->ranks; r++) {
        w->rank[r].done = 0;
        begin(w, r, key, n);
    }
    for (unsigned r = 0; r < w->ranks; r++)
        complete(w, r, flags >> r & 1);
    w->wanted = 1;
    assert_true(sim_run_until(w->sim, all_done, w, 10 * RT_S));
    check(w, key, n, flags);
}

/* ---- tests ---- */

static void test_sums(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 99, 100, 101, 250, N_MAX};
    for (unsigned ranks = 1; ranks <= RANKS_MAX; ranks++)
        for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
            struct world w;
            start(&w, i + 1, ranks, i % 3 > 0);
            form_all(&w, 1);
            for (uint64_t operation = 1; operation <= 4; operation++) {
                w.dtype = operation < 3 ? RT_DTYPE_F32 : RT_DTYPE_BF16;
                sum_all(&w, operation, sizes[i], operation == 2 ? 1u << (i % ranks) : 0);
            }
            assert_int_equal(fake.opened, ranks); /* one communicator for all of them */
            stop(&w);
        }
}

/* Ranks whose gradients are ready at other times ask for the same sums, and those that are ready are made before the rest is. */
static void test_pieces(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        struct world w;
        unsigned ranks = 1 + (unsigned)(seed % RANKS_MAX);
        uint64_t key = rt_draw_key(seed, "pieces", NULL), draw = 0;
        start(&w, seed, ranks, seed % 3);
        form_all(&w, 1);
        size_t from[RANKS_MAX], n = 200 + rt_below(rt_draw(key, draw++), N_MAX - 199);
        for (unsigned r = 0; r < ranks; r++) {
            begin(&w, r, seed, n);
            from[r] = n;
        }
        for (unsigned i = 0; i < 20; i++) {
            unsigned r = (unsigned)rt_below(rt_draw(key, draw++), ranks);
            from[r] -= rt_below(rt_draw(key, draw++), from[r] / 2 + 1);
            w.rank[r].nccl->ops->ready(w.rank[r].nccl, from[r]);
            sim_run_until(w.sim, NULL, NULL, rt_below(rt_draw(key, draw++), 20 * RT_MS));
        }
        for (unsigned r = 0; r < ranks; r++)
            w.rank[r].nccl->ops->ready(w.rank[r].nccl, 100);
        sim_run_until(w.sim, NULL, NULL, RT_S);
        for (unsigned r = 0; r < ranks; r++) {
            float sum = 0;
            for (unsigned q = 0; q < ranks; q++)
                sum += element(seed, q, n - 1);
            assert_true(w.rank[r].value[n - 1] == sum); /* there, and */
            assert_true(w.rank[r].value[0] == element(seed, r, 0));
            assert_int_equal(w.rank[r].done, 0);
        }
        for (unsigned r = 0; r < ranks; r++)
            complete(&w, r, r == 1);
        w.wanted = 1;
        assert_true(sim_run_until(w.sim, all_done, &w, 10 * RT_S));
        check(&w, seed, n, ranks > 1 ? 2 : 0);
        stop(&w);
    }
}

/* Who is told hears of a complete sum at once, and who is not within a millisecond or two. */
static void test_latency(void **state)
{
    (void)state;
    for (unsigned posts = 0; posts < 2; posts++) {
        struct world w;
        start(&w, 2, 2, posts);
        form_all(&w, 1);
        sum_all(&w, 1, 300, 0);
        for (unsigned r = 0; r < 2; r++) {
            w.rank[r].done = 0;
            begin(&w, r, 2, 300);
            complete(&w, r, false);
        }
        assert_true(sim_run_until(w.sim, all_done, &w, posts ? 10000 : 2 * RT_MS));
        assert_true(!posts || w.rank[0].posts >= 2);
        stop(&w);
    }
}

/* Given up at any point of forming and of a sum, by all ranks one after the other, as a group that breaks does; and formed again. */
static void test_abort(void **state)
{
    (void)state;
    for (unsigned ranks = 1; ranks <= RANKS_MAX; ranks++)
        for (uint64_t seed = 1; seed <= 60; seed++) {
            struct world w;
            start(&w, seed, ranks, seed % 3);
            form_all(&w, 1);
            for (unsigned r = 0; r < ranks; r++)
                begin(&w, r, 1, 500);
            sim_run_until(w.sim, NULL, NULL, seed % 20 * RT_MS);
            for (unsigned r = 0; r < ranks && seed % 5; r++)
                w.rank[r].nccl->ops->ready(w.rank[r].nccl, 100 * (r + 1));
            sim_run_until(w.sim, NULL, NULL, seed % 7 * RT_MS / 2);
            for (unsigned r = 1; r < ranks && seed % 2; r++) /* not rank 0: none is done */
                complete(&w, r, false);
            for (unsigned r = 0; r < ranks; r++) {
                sim_run_until(w.sim, NULL, NULL, seed % 11 * RT_MS / 4);
                w.rank[r].nccl->ops->abort(w.rank[r].nccl);
                assert_int_equal(w.rank[r].done, 1);
                assert_true(ranks == 1 || w.rank[r].err == RT_ECANCELED);
                w.rank[r].nccl->ops->ready(w.rank[r].nccl, 0); /* late, and of nothing */
            }
            form_all(&w, 2 + seed % 2);
            sum_all(&w, 2, 777, 1);
            assert_int_equal(fake.open, ranks); /* the old ones are closed */
            stop(&w);
        }
}

/* A rank that dies at any point, and comes back: the others find out by a stall or an error, or are told and give up; then all form again. */
static void test_death(void **state)
{
    (void)state;
    for (unsigned ranks = 1; ranks <= RANKS_MAX; ranks++)
        for (uint64_t seed = 1; seed <= 60; seed++) {
            struct world w;
            unsigned dies = (unsigned)(seed % ranks);
            start(&w, seed, ranks, seed % 3);
            form_all(&w, 1);
            for (unsigned r = 0; r < ranks; r++)
                if (r != dies || seed % 4 > 0)
                    begin(&w, r, 1, 500);
            sim_run_until(w.sim, NULL, NULL, seed % 20 * RT_MS);
            kill_rank(&w, dies);
            for (unsigned r = 0; r < ranks; r++)
                if (r != dies)
                    complete(&w, r, false);
            sim_run_until(w.sim, NULL, NULL, seed % 3 ? 2 * TR_STALL_NS : seed * RT_MS);
            make_rank(&w, dies, 2);
            make_nccl(&w, dies);
            for (unsigned r = 0; r < ranks; r++) {
                if (r != dies)
                    assert_int_equal(w.rank[r].done, seed % 3 > 0);
                if (r != dies && seed % 3)
                    assert_int_equal(w.rank[r].err, RT_EDEADLINE);
                w.rank[r].nccl->ops->abort(w.rank[r].nccl);
                form(&w, r, 2);
            }
            w.rank[dies].done = 0;
            sum_all(&w, 2, 777, 1u << dies);
            stop(&w);
        }
}

/* No progress is an error after a while, and not before; progress is whatever moves. */
static void test_stall(void **state)
{
    (void)state;
    struct world w;
    start(&w, 2, 2, true);
    form_all(&w, 1);
    begin(&w, 0, 1, 300);
    sim_run_until(w.sim, NULL, NULL, 3 * TR_STALL_NS); /* no clock runs until it is complete */
    complete(&w, 0, false);
    sim_run_until(w.sim, NULL, NULL, TR_STALL_NS - RT_S);
    assert_int_equal(w.rank[0].done, 0);
    begin(&w, 1, 1, 300);
    w.rank[1].nccl->ops->ready(w.rank[1].nccl, 200);
    sim_run_until(w.sim, NULL, NULL, TR_STALL_NS - RT_S);
    assert_int_equal(w.rank[0].done, 0);
    sim_run_until(w.sim, NULL, NULL, 3 * RT_S);
    assert_int_equal(w.rank[0].done, 1);
    assert_int_equal(w.rank[0].err, RT_EDEADLINE);
    assert_non_null(strstr(w.rank[0].text, "no progress for 30 s"));
    stop(&w);
}

/* An error of NCCL's own is heard within 100 ms, in a sum and between two, with its words. */
static void test_async_error(void **state)
{
    (void)state;
    for (unsigned open = 0; open < 2; open++) {
        struct world w;
        start(&w, 2, 3, true);
        form_all(&w, 1);
        sum_all(&w, 1, 300, 0);
        for (unsigned r = 0; r < 3 && open; r++) {
            w.rank[r].done = 0;
            begin(&w, r, 2, 300);
            if (r != 2)
                complete(&w, r, false);
        }
        fake.failing = 1;
        fake.async_err = RT_EPEER;
        fake.text = "NCCL: communicator: remote process exited";
        sim_run_until(w.sim, NULL, NULL, 110 * RT_MS);
        if (!open) { /* the next one fails then, when it may say so */
            w.rank[1].done = 0;
            begin(&w, 1, 2, 300);
            assert_int_equal(w.rank[1].done, 0);
            w.rank[1].nccl->ops->ready(w.rank[1].nccl, 100);
        }
        assert_int_equal(w.rank[1].done, 1);
        assert_int_equal(w.rank[1].err, RT_EPEER);
        assert_string_equal(w.rank[1].text, fake.text);
        fake.async_err = 0;
        for (unsigned r = 0; r < 3; r++)
            w.rank[r].nccl->ops->abort(w.rank[r].nccl);
        form_all(&w, 2);
        sum_all(&w, 3, 300, 0);
        stop(&w);
    }
}

/* What NCCL says, and what a user reads: the variable to set. */
static void test_set_up(void **state)
{
    (void)state;
    static const struct {
        const char *said, *wants;
        int err, means;
    } row[] = {
        {"NCCL: ncclGetUniqueId: unhandled system error: Bootstrap : no socket interface found",
         "NCCL_SOCKET_IFNAME", RT_EPEER, RT_EUSAGE},
        {"NET/Socket : No usable listening interface found", "NCCL_SOCKET_IFNAME", RT_EPEER,
         RT_EUSAGE},
        {"invalid usage: Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 1000",
         "NPROC_PER_NODE", RT_EUSAGE, RT_EUSAGE},
        {"Error while creating shared memory segment /dev/shm/nccl-X (size 9), error: No space "
         "left on "
         "device (28)",
         "NCCL_SHM_DISABLE", RT_EPEER, RT_EUSAGE},
        {"Mismatched NCCL version detected : rank 0 version 1 rank 1 version 2",
         "versions of NCCL differ", RT_EUSAGE, RT_EUSAGE},
        {"connect to 10.0.0.1 returned Connection refused, exceeded error retry count after 3 "
         "attempts",
         "NCCL_SOCKET_IFNAME", RT_EPEER, RT_EPEER},
        {"unhandled cuda error", "unhandled cuda error", RT_EBACKEND, RT_EBACKEND},
    };
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct world w;
        start(&w, 2, 2, true);
        fake.failing = 1;
        fake.open_err = row[i].err;
        fake.text = row[i].said;
        form_all(&w, 1);
        begin(&w, 1, 1, 300);
        sim_run_until(w.sim, NULL, NULL, RT_S);
        assert_int_equal(w.rank[1].done, 1); /* at once, not when it stalls */
        assert_int_equal(w.rank[1].err, row[i].means);
        if (!strstr(w.rank[1].text, row[i].wants) || !strstr(w.rank[1].text, row[i].said))
            fail_msg("row %zu: '%s'", i, w.rank[1].text);
        stop(&w);
    }
}

/* Rank 0 cannot make an id: all hear why. */
static void test_no_id(void **state)
{
    (void)state;
    struct world w;
    start(&w, 2, 3, true);
    fake.id_err = RT_EPEER;
    fake.text = "Bootstrap : no socket interface found";
    form_all(&w, 1);
    for (unsigned r = 0; r < 3; r++)
        begin(&w, r, 1, 300);
    sim_run_until(w.sim, NULL, NULL, RT_S);
    for (unsigned r = 0; r < 3; r++) {
        assert_int_equal(w.rank[r].done, 1);
        assert_int_equal(w.rank[r].err, RT_EUSAGE);
        assert_non_null(strstr(w.rank[r].text, "NCCL_SOCKET_IFNAME"));
    }
    stop(&w);
}

/* Rank 1 has another version: both sides name both. */
static void test_versions(void **state)
{
    (void)state;
    struct world w;
    start(&w, 2, 2, true);
    fake.version[1] = 21805;
    w.rank[1].nccl->ops->destroy(w.rank[1].nccl); /* it asks when it is made */
    make_nccl(&w, 1);
    form_all(&w, 1);
    for (unsigned r = 0; r < 2; r++)
        begin(&w, r, 1, 300);
    sim_run_until(w.sim, NULL, NULL, RT_S);
    for (unsigned r = 0; r < 2; r++) {
        assert_int_equal(w.rank[r].done, 1);
        assert_int_equal(w.rank[r].err, RT_EUSAGE);
        assert_non_null(strstr(w.rank[r].text, "trainer/1 has NCCL 2.18.5, trainer/0 has 2.28.9"));
    }
    assert_int_equal(fake.open, 0); /* nobody waits for it */
    stop(&w);
}

struct answer {
    int err;
    bool done;
    uint8_t last; /* of the id */
};

static void on_answer(void *arg, int err, const struct rt_frame *reply)
{
    struct answer *answer = arg;
    struct wire_ask_communicator_reply m;
    struct rt_arena *arena;
    *answer = (struct answer){.err = err, .done = true};
    if (err)
        return;
    assert_int_equal(rt_arena_create(1 << 16, &arena), 0);
    assert_int_equal(
        wire_ask_communicator_reply_unpack(reply->message, reply->header.message_size, arena, &m),
        0);
    answer->last = m.id[TR_NCCL_ID_BYTES - 1];
    rt_arena_destroy(arena);
}

/* Of an older epoch there is no id, of a newer one not yet; one of now gives the id that all have. */
static void test_epochs(void **state)
{
    (void)state;
    static const struct {
        uint64_t epoch;
        int err;
    } row[] = {{2, RT_ESTALE}, {3, 0}, {4, RT_ENOTREADY}, {0, RT_ESTALE}};
    struct world w;
    struct wire_out out = {0};
    start(&w, 2, 2, true);
    form_all(&w, 2);
    sim_run_until(w.sim, all_up, &w, RT_S);
    for (unsigned r = 0; r < 2; r++)
        w.rank[r].nccl->ops->abort(w.rank[r].nccl);
    form_all(&w, 3);
    sum_all(&w, 1, 300, 0);
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct answer answer = {0};
        struct wire_ask_communicator m = {row[i].epoch, 22809};
        assert_int_equal(wire_ask_communicator_pack(&m, &out), 0);
        struct rt_outgoing o = {.message = out.data, .message_size = out.size};
        assert_int_equal(
            rt_rpc_call(first_of(&w.rank[1]), WIRE_ASK_COMMUNICATOR, &o, 0, on_answer, &answer), 0);
        sim_run_until(w.sim, NULL, NULL, RT_S);
        assert_true(answer.done);
        if (answer.err != row[i].err || (!answer.err && answer.last != 1))
            fail_msg("epoch %d: %s, id %u", (int)row[i].epoch, rt_err_name(answer.err),
                     answer.last);
    }
    wire_out_release(&out);
    stop(&w);
}

/* Rank 0 forms last, and links break meanwhile: asked again until it is there. */
static void test_late(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct world w;
        start(&w, seed, 3, true);
        form(&w, 1, 1);
        form(&w, 2, 1);
        for (unsigned i = 0; i < 5; i++) {
            sim_run_until(w.sim, NULL, NULL, seed * 7 * RT_MS);
            sim_break(w.sim, 1 + i % 2, 0);
        }
        form(&w, 0, 1);
        sum_all(&w, 1, 300, 4);
        stop(&w);
    }
}

/* Rank 0 has no GPU: the others hear it, and a ring's chunk finds no ring at them. */
static void test_other_kind(void **state)
{
    (void)state;
    struct world w;
    start(&w, 2, 2, true);
    w.rank[0].nccl->ops->destroy(w.rank[0].nccl);
    assert_int_equal(tr_collective_single(&w.rank[0].nccl), 0);
    form_all(&w, 1);
    begin(&w, 1, 1, 300);
    sim_run_until(w.sim, NULL, NULL, RT_S);
    assert_int_equal(w.rank[1].done, 1);
    assert_int_equal(w.rank[1].err, RT_EUSAGE);
    assert_non_null(strstr(w.rank[1].text, "expected a GPU for all trainers"));
    tr_ring_peer_up(w.rank[1].nccl);
    stop(&w);
}

static void test_no_memory(void **state)
{
    (void)state;
    struct world w;
    start(&w, 1, 1, true);
    struct tr_nccl_conf conf = {
        .io = sim_node(w.sim, 0), .api = fake_api, .world = 1, .n_max = N_MAX, .bucket = 10};
    struct tr_collective *nccl = NULL;
    int failures = 0;
    for (int64_t nth = 0; !nccl; nth++) {
        rt_fault_alloc(nth);
        int err = tr_collective_nccl(&conf, &nccl);
        rt_fault_alloc(-1);
        assert_int_equal(err, nccl ? 0 : RT_ENOMEM);
        failures += err != 0;
    }
    assert_true(failures >= 1);
    nccl->ops->destroy(nccl);
    stop(&w);
}

int main(void)
{
    rt_log_set_level(RT_LOG_ERROR);
    const struct CMUnitTest test[] = {
        cmocka_unit_test(test_sums),        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_latency),     cmocka_unit_test(test_abort),
        cmocka_unit_test(test_death),       cmocka_unit_test(test_stall),
        cmocka_unit_test(test_async_error), cmocka_unit_test(test_set_up),
        cmocka_unit_test(test_no_id),       cmocka_unit_test(test_versions),
        cmocka_unit_test(test_epochs),      cmocka_unit_test(test_late),
        cmocka_unit_test(test_other_kind),  cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(test, NULL, NULL);
}
