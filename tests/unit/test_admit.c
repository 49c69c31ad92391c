/* tests/unit/test_admit.c -- who gets a row: exact for few ids, within the stated errors for many. */
#include "embedding_server/admit.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#define SHARDS 65536u
#define LINE   64u

static struct rt_table_conf counting(uint32_t count, uint64_t bytes)
{
    return (struct rt_table_conf){
        .name = "users",
        .admission = {.kind = RT_ADMIT_COUNT, .count = count, .sketch_bytes = bytes}};
}

static struct ebs_admit *create(const struct rt_table_conf *conf, uint64_t seed, uint32_t shards)
{
    struct ebs_admit *admit = NULL;

    assert_int_equal(ebs_admit_create(conf, seed, shards, &admit), 0);
    return admit;
}

static void always(void **test)
{
    struct rt_table_conf conf = {.name = "t"};
    struct ebs_admit *admit = create(&conf, 1, 1);

    (void)test;
    assert_null(admit);
    assert_true(ebs_admit_ask(admit, 7, 1));
    ebs_admit_prefetch(admit, 7);
    ebs_admit_forget(admit, 7);
    assert_int_equal(ebs_admit_bytes(admit), 0);
    ebs_admit_destroy(admit);
}

static void the_kth_occurrence(void **test)
{
    static const uint32_t count[] = {1, 2, 3, 20, 255};
    static const uint64_t id[] = {0, 1, UINT64_MAX, 0x123456789abcdefull, 1ull << 63};

    (void)test;
    for (size_t c = 0; c < ARRAY_LEN(count); c++) {
        struct rt_table_conf conf = counting(count[c], 1 << 16);
        struct ebs_admit *admit = create(&conf, 1, SHARDS);

        for (int life = 0; life < 2; life++) {
            for (uint32_t seen = 1; seen <= count[c] + 3; seen++) {
                for (size_t i = 0; i < ARRAY_LEN(id); i++) {
                    bool got = ebs_admit_ask(admit, id[i], seen);

                    if (got != (seen >= count[c]))
                        fail_msg("count %u, id %zu: occurrence %u: got %d", count[c], i, seen, got);
                }
            }
            for (size_t i = 0; i < ARRAY_LEN(id); i++)
                ebs_admit_forget(admit, id[i]); /* and all over again */
        }
        ebs_admit_destroy(admit);
    }
}

static void by_lot(void **test)
{
    struct rt_table_conf conf = {.name = "users",
                                 .admission = {.kind = RT_ADMIT_PROBABILITY, .probability = 0.3}};
    struct ebs_admit *a = create(&conf, 9, SHARDS), *b = create(&conf, 9, 1);
    struct ebs_admit *other = create(&conf, 10, SHARDS);
    uint32_t yes = 0, differs = 0, again = 0, n = 100000;

    (void)test;
    for (uint32_t i = 0; i < n; i++) {
        bool got = ebs_admit_ask(a, i, 5);

        assert_int_equal(got, ebs_admit_ask(a, i, 5)); /* a repeat */
        assert_int_equal(got, ebs_admit_ask(b, i, 5)); /* another server */
        yes += got;
        differs += got != ebs_admit_ask(other, i, 5);
        again += got && ebs_admit_ask(a, i, 6);
    }
    assert_true(fabs(yes / (double)n - 0.3) < 0.006);     /* 4 deviations */
    assert_true(fabs(differs / (double)n - 0.42) < 0.01); /* 2 * 0.3 * 0.7: unrelated */
    assert_true(fabs(again / (double)n - 0.09) < 0.005);
    ebs_admit_destroy(a);
    ebs_admit_destroy(b);
    ebs_admit_destroy(other);
    for (int p = 0; p <= 1; p++) {
        conf.admission.probability = p;
        a = create(&conf, 9, SHARDS);
        for (uint32_t i = 0; i < 1000; i++)
            assert_int_equal(ebs_admit_ask(a, i, i), p);
        ebs_admit_destroy(a);
    }
}

/* Ids that come once each: the share that is taken for another one. Bound: 21 / 65,536. */
static void too_early(void **test)
{
    const uint32_t lines = 4096, n = 1000000;
    const double bound = EBS_ADMIT_ENTRIES / 65536.0;
    struct rt_table_conf conf = counting(2, lines * LINE);
    struct ebs_admit *admit = create(&conf, 3, SHARDS);
    uint32_t early = 0;

    (void)test;
    for (uint32_t i = 0; i < n; i++)
        early += ebs_admit_ask(admit, rt_draw(77, i), 0);
    printf("too early: %.4f %% of ids with every line full; stated: at most %.4f %%\n",
           100.0 * early / n, 100 * bound);
    assert_true(early > 0.7 * bound * n && early < (bound + 4 * sqrt(bound / n)) * n);
    ebs_admit_destroy(admit);
}

static double poisson_tail(double mean, int from)
{
    double p = exp(-mean), sum = 0;

    for (int i = 0; i < from; i++) {
        sum += p;
        p *= mean / (i + 1);
    }
    return 1 - sum;
}

/* An id comes, x others come, it comes again: was it forgotten? */
static void too_late(void **test)
{
    static const double load[] = {4, 6, 10, 15, 20, 30, 40};
    const uint32_t lines = 2048,
                   group = 1000; /* ids that are watched at once: half a line's worth */

    (void)test;
    for (size_t l = 0; l < ARRAY_LEN(load); l++) {
        double want = poisson_tail(load[l], EBS_ADMIT_ENTRIES), n = 0, late = 0, error;

        for (uint64_t seed = 1; seed <= 10; seed++) {
            struct rt_table_conf conf = counting(2, lines * LINE);
            struct ebs_admit *admit = create(&conf, seed, SHARDS);
            uint32_t others =
                (uint32_t)(load[l] * lines) - group / 2; /* and the watched, half of them */

            for (uint32_t i = 0; i < group + others; i++)
                ebs_admit_ask(admit, i, 0);
            for (uint32_t i = group;
                 i-- > 0;) { /* backwards, so that half of them came since, for each */
                late += !ebs_admit_ask(admit, i, 0);
                n++;
            }
            ebs_admit_destroy(admit);
        }
        error = 5 * sqrt(want / n) + 0.03 * want + 2 / n;
        printf("forgotten at %2.0f ids per line: %8.4f %%; stated %8.4f %%\n", load[l],
               100 * late / n, 100 * want);
        if (late / n > want + error || late / n < want - error)
            fail_msg("at %g others per line %g are forgotten, not %g", load[l], late / n, want);
    }
}

static void an_owner_has_its_share(void **test)
{
    static const struct {
        uint64_t bytes;
        uint32_t shards, lines;
    } row[] = {{1 << 20, SHARDS, 16384}, {1 << 20, SHARDS / 4, 4096}, {1 << 20, 1, 1}, {4096, 1, 1},
               {4096, SHARDS, 64},       {100000, 32768, 781}};

    (void)test;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct rt_table_conf conf = counting(2, row[i].bytes);
        struct ebs_admit *admit = create(&conf, 1, row[i].shards);

        assert_in_range(ebs_admit_bytes(admit), row[i].lines * LINE,
                        (row[i].lines + 3) * LINE + row[i].lines / 8 + 8);
        for (uint32_t id = 0; id < 5000; id++) {
            ebs_admit_prefetch(admit, id);
            ebs_admit_ask(admit, id, 0);
        }
        ebs_admit_destroy(admit);
    }
}

static void wrong_numbers_are_refused(void **test)
{
    static const struct {
        struct rt_admission_conf admission;
        uint32_t shards;
    } row[] = {{{.kind = 9}, 1},
               {{.kind = RT_ADMIT_COUNT, .count = 0, .sketch_bytes = 4096}, 1},
               {{.kind = RT_ADMIT_COUNT, .count = 256, .sketch_bytes = 4096}, 1},
               {{.kind = RT_ADMIT_COUNT, .count = 2, .sketch_bytes = 4096}, 0},
               {{.kind = RT_ADMIT_COUNT, .count = 2, .sketch_bytes = 4096}, 65537},
               {{.kind = RT_ADMIT_PROBABILITY, .probability = 1.5}, 1},
               {{.kind = RT_ADMIT_PROBABILITY, .probability = NAN}, 1}};

    (void)test;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct rt_table_conf conf = {.name = "users", .admission = row[i].admission};
        struct ebs_admit *admit;

        if (ebs_admit_create(&conf, 1, row[i].shards, &admit) != RT_EUSAGE)
            fail_msg("row %zu was accepted", i);
        assert_non_null(strstr(rt_err_text(), "users"));
    }
}

static void out_of_memory(void **test)
{
    struct rt_table_conf conf = counting(2, 1 << 16);
    struct ebs_admit *admit;
    int nth = 0;

    (void)test;
    for (;; nth++) {
        int err;

        rt_fault_alloc(nth);
        err = ebs_admit_create(&conf, 1, SHARDS, &admit);
        rt_fault_alloc(-1);
        if (!err)
            break;
        assert_int_equal(err, RT_ENOMEM);
        assert_non_null(strstr(rt_err_text(), "users"));
    }
    assert_int_equal(nth, 3);
    ebs_admit_destroy(admit);
}

/* One line against a list of the 21 ids that were counted last. */
struct naive {
    uint64_t id[EBS_ADMIT_ENTRIES + 1];
    uint32_t count[EBS_ADMIT_ENTRIES + 1], n;
};

static uint32_t naive_take(struct naive *naive, uint64_t id)
{
    for (uint32_t i = 0; i < naive->n; i++) {
        uint32_t count = naive->count[i];

        if (naive->id[i] != id)
            continue;
        for (naive->n--; i < naive->n; i++) {
            naive->id[i] = naive->id[i + 1];
            naive->count[i] = naive->count[i + 1];
        }
        return count;
    }
    return 0;
}

static bool naive_ask(struct naive *naive, uint64_t id, uint32_t want)
{
    uint32_t count = naive_take(naive, id) + 1;

    if (naive->n == EBS_ADMIT_ENTRIES)
        naive_take(naive, naive->id[0]);
    naive->id[naive->n] = id;
    naive->count[naive->n++] = count;
    return count >= want;
}

static void by_chance(void **test)
{
    uint64_t seed = (uint64_t)time(NULL), draw = 0;
    const uint32_t ids = 35; /* with seed 1 no two of them have the same 16 bits */

    (void)test;
    printf("seed %llu\n", (unsigned long long)seed);
    for (uint32_t want = 2; want < 40; want++) {
        struct rt_table_conf conf = counting(want, 4096);
        struct ebs_admit *admit = create(&conf, 1, 1);
        struct naive naive = {0};

        for (uint32_t step = 0; step < 20000; step++) {
            uint64_t id = rt_below(rt_draw(seed, draw++), ids);

            if (rt_below(rt_draw(seed, draw++), 10) == 0) {
                ebs_admit_forget(admit, id);
                naive_take(&naive, id);
            } else if (ebs_admit_ask(admit, id, step) != naive_ask(&naive, id, want)) {
                fail_msg("seed %llu, count %u, step %u", (unsigned long long)seed, want, step);
            }
        }
        ebs_admit_destroy(admit);
    }
}

static double cpu_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

/* For the reader; asserted only against something being wrong by far. */
static void cost(void **test)
{
    struct rt_table_conf conf = counting(3, 16 << 20);
    struct ebs_admit *admit = create(&conf, 1, SHARDS);
    const uint64_t n = 400000, stretch = 64;
    double from, ns;

    (void)test;
    for (int round = 0; round < 2; round++) { /* the first one touches the memory */
        from = cpu_ns();
        for (uint64_t i = 0; i < n; i += stretch) {
            for (uint64_t j = 0; j < stretch; j++)
                ebs_admit_prefetch(admit, i + j);
            for (uint64_t j = 0; j < stretch; j++)
                ebs_admit_ask(admit, i + j, 0);
        }
        ns = (cpu_ns() - from) / (double)n;
    }
    printf("ask, prefetched, 16 MiB: %.0f ns\n", ns);
    assert_true(ns < 5000);
    ebs_admit_destroy(admit);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(always),
        cmocka_unit_test(the_kth_occurrence),
        cmocka_unit_test(by_lot),
        cmocka_unit_test(too_early),
        cmocka_unit_test(too_late),
        cmocka_unit_test(an_owner_has_its_share),
        cmocka_unit_test(wrong_numbers_are_refused),
        cmocka_unit_test(out_of_memory),
        cmocka_unit_test(by_chance),
        cmocka_unit_test(cost),
    };

    return cmocka_run_group_tests_name("admit", tests, NULL, NULL);
}
