/* tests/unit/test_cut.c -- the rows of an owner's cut: what is in its file, however much changes meanwhile, and what becomes of it where disk
 * or room fail.
 *
 * The rows of the instant are copied by the test when Cut is answered, for nothing was sent since; then updates come, large ones in slices,
 * while the file is written with the smallest buffer; then the file is read back. */
#include "embedding_server/cut_write.h"
#include "embedding_server/serve.h"
#include "embedding_server/table_cut.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "tests/unit/cut_bed.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <cmocka.h>

#ifdef RT_DEBUG
#define CUTS 6
#else
#define CUTS 30
#endif

static void rows_while_they_change(void **state)
{
    static const uint32_t slices[] = {0, 64, 300};
    const struct ebs_owner_stats *stats;

    (void)state;
    for (size_t s = 0; s < ARRAY_LEN(slices); s++) {
        owner_bed_close(&cut_bed.owner);
        cut_bed_open(slices[s], cut_bed.dir);
        stats = ebs_owner_stats(cut_bed.owner.owner);
        for (int u = 0; u < 8; u++)
            cut_bed_update(CUT_BED_UPDATE, ++cut_bed.step, 1);
        cut_bed_run(8);
        for (int c = 0; c < CUTS; c++) {
            bool full = c % 5 == 0;

            cut_bed_whole_cut(full ? 0 : cut_bed.attempt, (int)cut_bed_draw(12),
                              1 + (uint32_t)cut_bed_draw(CUT_BED_UPDATE));
            cut_bed_expect(cut_bed_end(cut_bed.attempt, true), 0, "");
        }
        print_message("slices of %u: %llu rows, %llu copies, %llu waits\n", slices[s],
                      (unsigned long long)stats->cut_rows, (unsigned long long)stats->cut_copies,
                      (unsigned long long)stats->cut_waits);
        assert_true(stats->cut_copies > 0);
        assert_int_equal(stats->cuts_failed, 0);
        assert_int_equal(stats->cut_writing, 0);
        assert_true(stats->cut_seconds > 0);
    }
}

/* ---- what fails ---- */

/* A file that cannot be written is gone, the attempt has failed, and the next one is whole. */
static void disks_that_are_full(void **state)
{
    static const rlim_t limits[] = {0, 100, 3000, 40000, 200000};
    struct rlimit before, limit;
    struct cut_bed_answer *awaited;

    (void)state;
    cut_bed_fill();
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    for (size_t i = 0; i < ARRAY_LEN(limits); i++) {
        limit = (struct rlimit){.rlim_cur = limits[i], .rlim_max = before.rlim_max};
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
        cut_bed_expect(cut_bed_make(++cut_bed.attempt, 0), 0, "");
        awaited = cut_bed_await(cut_bed.attempt);
        cut_bed_update(CUT_BED_UPDATE, ++cut_bed.step, 1);
        cut_bed_run(2);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        cut_bed_expect(awaited, RT_EFILE, "/c/rows.00000.partial: cannot write at byte ");
        assert_non_null(strstr(awaited->text, "File too large"));
        cut_bed_expect(cut_bed_make(cut_bed.attempt + 1, cut_bed.attempt), RT_ESTALE,
                       "an increment to attempt");
        assert_false(cut_bed_is_there("rows.00000"));
    }
    assert_int_equal(ebs_owner_stats(cut_bed.owner.owner)->cuts_failed, ARRAY_LEN(limits));
    cut_bed_whole_cut(0, 5, CUT_BED_UPDATE);
    assert_false(cut_bed_is_there("rows.00000.partial"));
}

/* Rows change without asking for room, as an import has them do. */
static void no_room_for_copies(void **state)
{
    const float weight[16] = {1.0f};
    struct wire_cut m = {.name = "c"};
    struct cut_bed_answer *awaited;

    (void)state;
    cut_bed_fill();
    m.attempt = ++cut_bed.attempt;
    m.step = m.age = cut_bed.step;
    assert_int_equal(ebs_cut_make(cut_bed.owner.owner, &m), 0);
    for (size_t k = 0; k < CUT_BED_ROWS; k++)
        assert_int_equal(
            ebs_table_put(cut_bed.owner.owner->table[CUT_BED_WIDE], cut_bed_id_of(k), weight, NULL),
            0);
    awaited = cut_bed_await(cut_bed.attempt);
    cut_bed_run(1);
    cut_bed_expect(awaited, RT_EFULL, "(global.checkpoint.buffer) had no room for them");
    cut_bed_whole_cut(0, 5, CUT_BED_UPDATE);
}

/* Refused, and nothing has begun. */
static void no_memory(void **state)
{
    struct wire_cut m = {.attempt = 1, .name = "c"};
    struct ebs_owner *owner = cut_bed.owner.owner;
    int err, nth = 0;

    (void)state;
    cut_bed_fill();
    m.step = m.age = cut_bed.step;
    for (;; nth++) {
        rt_fault_alloc(nth);
        err = ebs_cut_make(owner, &m);
        rt_fault_alloc(-1);
        if (err == 0)
            break;
        assert_int_equal(err, RT_ENOMEM);
        assert_null(owner->cutter.cut);
        assert_int_equal(owner->cutter.latest, 0);
        assert_true(nth < 100);
    }
    assert_true(nth > 3);
}

static void stopped_in_the_midst(void **state)
{
    (void)state;
    cut_bed_fill();
    cut_bed_expect(cut_bed_make(1, 0), 0, "");
    cut_bed_await(1);
    cut_bed.wanted = 2;
    owner_bed_close(&cut_bed.owner);
    assert_false(cut_bed_is_there("rows.00000.partial"));
    cut_bed_open(0, cut_bed.dir);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, cut_bed_set_up, cut_bed_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(rows_while_they_change), TEST(disks_that_are_full),
        TEST(no_room_for_copies),     TEST(no_memory),
        TEST(stopped_in_the_midst),
    };

    return cmocka_run_group_tests_name("cut", tests, NULL, NULL);
}
