/* tests/unit/test_turn.c -- turns: dealt by the data alone, none without a batch, closed ones stay closed, and
 * a group that follows them never waits for ever. */
#include "data_compose/turn.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/rand.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

enum { BATCHES = 400, WORLD_MAX = 5, WINDOW_MAX = 6 };

/* Batches are named by their number; `rank` in the order in which they are cut. */
static void table(void **state)
{
    static const struct {
        const char *name, *rank;
        uint32_t world, window;
        int before[8]; /* -1: of the first turn */
        int closed;    /* batch of the latest closed turn; -1: none */
    } row[] = {
        {"one rank", "0000", 1, 2, {-1, 0, 1, 2}, 1},
        {"in turns", "010101", 2, 4, {-1, -1, 0, 0, 2, 2}, -1},
        {"a row of one rank", "00001", 2, 2, {-1, 0, 1, 2, 1}, 1},
        {"window of one", "0011", 2, 1, {-1, 0, 0, 1}, 1},
        {"late rank", "0000001", 2, 4, {-1, 0, 1, 2, 3, 4, 1}, 1},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct dc_turns turns;
        uint64_t before;

        dc_turns_init(&turns, row[i].world, row[i].window);
        for (uint32_t b = 0; row[i].rank[b]; b++) {
            bool has = dc_turns_deal(&turns, (uint32_t)(row[i].rank[b] - '0'), b, false, &before);
            if (has != (row[i].before[b] >= 0) || (has && (int)before != row[i].before[b]))
                fail_msg("%s: batch %u: has %d before %d, want %d", row[i].name, b, has,
                         (int)before, row[i].before[b]);
        }
        bool closed = dc_turns_closed(&turns, &before);
        if (closed != (row[i].closed >= 0) || (closed && (int)before != row[i].closed))
            fail_msg("%s: closed %d at %d, want %d", row[i].name, closed, (int)before,
                     row[i].closed);
        dc_turns_release(&turns);
    }
}

/* Finished before the pass began: whole turns, or some batches of them. */
static void mixed(void **state)
{
    static const struct {
        const char *name, *rank, *finished;
        bool mixed;
    } row[] = {
        {"a new pass", "0101", "0000", false},
        {"all", "0101", "1111", false},
        {"whole turns", "010101", "110000", false},
        {"a part of a turn", "010101", "111000", true},
        {"the later part of a turn", "010101", "110100", true},
        {"a later turn", "0101", "0011", true},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct dc_turns turns;
        uint64_t before;

        dc_turns_init(&turns, 2, 2);
        for (uint32_t b = 0; row[i].rank[b]; b++)
            dc_turns_deal(&turns, (uint32_t)(row[i].rank[b] - '0'), b, row[i].finished[b] == '1',
                          &before);
        if (dc_turns_mixed(&turns) != row[i].mixed)
            fail_msg("%s: expected mixed %d", row[i].name, row[i].mixed);
        dc_turns_release(&turns);
    }
}

struct group {
    struct dc_turns turns;
    uint32_t rank[BATCHES];
    uint64_t before[BATCHES];
    bool has_before[BATCHES], stepped[BATCHES], sent[BATCHES];
    uint32_t open[WORLD_MAX];
    int held; /* -1: none */
    unsigned made;
    bool closed;
    uint64_t until;
};

/* The composer: make and send until a batch is held. */
static void compose(struct group *g)
{
    for (;;) {
        if (g->held >= 0) {
            if (g->open[g->rank[g->held]] == g->turns.window)
                return;
            g->sent[g->held] = true;
            g->open[g->rank[g->held]]++;
            g->held = -1;
        }
        if (g->made == BATCHES)
            return;
        unsigned b = g->made++;
        g->has_before[b] = dc_turns_deal(&g->turns, g->rank[b], b, false, &g->before[b]);
        g->closed = dc_turns_closed(&g->turns, &g->until);
        g->held = (int)b;
    }
}

/* The batch of a rank that may be stepped now; -1: it joins without one; -2: it has to wait. */
static int choose(const struct group *g, uint32_t rank)
{
    for (unsigned b = 0; b < g->made; b++) {
        if (g->rank[b] != rank || g->stepped[b] || !g->sent[b])
            continue;
        return !g->has_before[b] || g->stepped[g->before[b]] ? (int)b : -1;
    }
    if (g->held < 0) /* the pass is over */
        return -1;
    return g->closed && !g->stepped[g->until] ? -1 : -2;
}

/* What is stepped together is the same in whichever order the replies came back. */
static void deterministic(void **state)
{
    uint64_t seed = rt_wall_ms(), key = rt_draw_key(seed, "turns", NULL), draw = 0;

    (void)state;
    print_message("turns: seed %llu\n", (unsigned long long)seed);
    for (int run = 0; run < 300; run++) {
        static struct group g[2];
        static int step_of[2][BATCHES];
        uint32_t world = 1 + (uint32_t)rt_below(rt_draw(key, draw++), WORLD_MAX);
        uint32_t window = 1 + (uint32_t)rt_below(rt_draw(key, draw++), WINDOW_MAX);
        uint64_t skew = rt_below(rt_draw(key, draw++), 30);

        for (int k = 0; k < 2; k++) {
            memset(&g[k], 0, sizeof(g[k]));
            dc_turns_init(&g[k].turns, world, window);
            g[k].held = -1;
        }
        for (unsigned b = 0; b < BATCHES; b++) {
            bool stay = b > 0 && rt_below(rt_draw(key, draw++), 30) < skew;
            g[0].rank[b] = g[1].rank[b] =
                stay ? g[0].rank[b - 1] : (uint32_t)rt_below(rt_draw(key, draw++), world);
        }
        for (int k = 0; k < 2; k++) {
            unsigned done = 0;
            for (int step = 0; done < BATCHES; step++) {
                int chosen[WORLD_MAX];
                bool any = false;
                /* The second run: replies trickle in, and the composer goes on after each. */
                compose(&g[k]);
                for (uint32_t r = 0; r < world; r++) {
                    chosen[r] = choose(&g[k], r);
                    if (chosen[r] == -2)
                        fail_msg("world %u window %u: rank %u waits for ever", world, window, r);
                    any = any || chosen[r] >= 0;
                }
                assert_true(any);
                for (uint32_t i = 0; i < world; i++) {
                    uint32_t r = k ? world - 1 - i : i;
                    if (chosen[r] < 0)
                        continue;
                    g[k].stepped[chosen[r]] = true;
                    step_of[k][chosen[r]] = step;
                    done++;
                    g[k].open[r]--;
                    if (k)
                        compose(&g[k]);
                }
            }
            dc_turns_release(&g[k].turns);
        }
        assert_memory_equal(step_of[0], step_of[1], sizeof(step_of[0]));
    }
}

int main(void)
{
    const struct CMUnitTest test[] = {cmocka_unit_test(table), cmocka_unit_test(mixed),
                                      cmocka_unit_test(deterministic)};

    return cmocka_run_group_tests(test, NULL, NULL);
}
