/* tests/unit/test_slab.c -- rows that are allocated, freed, moved, given back; bits that go with them. */
#include "embedding_server/slab.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

static uint32_t alloc(struct ebs_slab *slab, uint64_t id)
{
    uint32_t row;

    assert_int_equal(ebs_slab_alloc(slab, id, &row), 0);
    return row;
}

static void freed_rows_are_used_lowest_first(void **test)
{
    enum { ROWS = 20000 };
    struct ebs_slab slab;

    (void)test;
    ebs_slab_init(&slab, 12, NULL);
    for (uint32_t i = 0; i < ROWS; i++)
        assert_int_equal(alloc(&slab, i), i);
    for (uint32_t i = ROWS; i-- > 0;)
        if (i % 3 == 0)
            ebs_slab_free(&slab, i);
    assert_int_equal(slab.count, ROWS - (ROWS + 2) / 3);
    for (uint32_t i = 0; i < ROWS; i += 3)
        assert_int_equal(alloc(&slab, i), i);
    assert_int_equal(alloc(&slab, ROWS), ROWS);
    ebs_slab_free(&slab, 17000);
    ebs_slab_free(&slab, 5);
    assert_false(ebs_slab_is_live(&slab, 5));
    assert_false(ebs_slab_is_live(&slab, ROWS + 1));
    assert_int_equal(alloc(&slab, 5), 5);
    assert_int_equal(alloc(&slab, 6), 17000);
    assert_int_equal(alloc(&slab, 7), ROWS + 1);
    ebs_slab_release(&slab);
}

static void marks_go_with_their_rows(void **test)
{
    struct ebs_slab slab;
    uint32_t from, to;

    (void)test;
    ebs_slab_init(&slab, 4096, NULL);
    for (uint32_t i = 0; i < 200; i++)
        alloc(&slab, i);
    ebs_slab_mark(&slab, 7);
    ebs_slab_mark(&slab, 199);
    ebs_slab_mark(&slab, 150);
    ebs_slab_mark(&slab, 150);
    assert_int_equal(slab.marked, 3);
    ebs_slab_free(&slab, 7);
    assert_int_equal(slab.marked, 2);
    assert_false(ebs_slab_marked(&slab, 7));
    alloc(&slab, 1000);
    assert_false(ebs_slab_marked(&slab, 7));
    for (uint32_t i = 10; i < 20; i++)
        ebs_slab_free(&slab, i);
    assert_true(ebs_slab_compact_next(&slab, &from, &to));
    assert_int_equal(from, 199);
    assert_int_equal(to, 10);
    ebs_slab_move(&slab, from, to);
    assert_true(ebs_slab_marked(&slab, 10));
    assert_int_equal(ebs_row_id(ebs_slab_at(&slab, 10)), 199);
    assert_false(ebs_slab_is_live(&slab, 199));
    assert_int_equal(slab.marked, 2);
    assert_int_equal(ebs_slab_next_live(&slab, 10), 10);
    assert_int_equal(ebs_slab_next_live(&slab, 11), 20);
    ebs_slab_release(&slab);
}

/* Two blocks and a part of a third. */
static void a_cut_is_passed_in_blocks(void **test)
{
    struct ebs_slab slab;

    (void)test;
    ebs_slab_init(&slab, 12, NULL);
    ebs_slab_cut(&slab, true);
    assert_int_equal(slab.cut_end, 0); /* of nothing */
    for (uint32_t i = 0; i < 150; i++)
        alloc(&slab, i);
    for (uint32_t i = 60; i < 70; i++)
        ebs_slab_mark(&slab, i);
    ebs_slab_free(&slab, 100);
    ebs_slab_cut(&slab, false);
    assert_int_equal(slab.marked, 0);
    assert_false(ebs_slab_keep(&slab, 59)); /* not of the increment */
    ebs_slab_mark(&slab, 59);
    assert_true(ebs_slab_keep(&slab, 60));
    assert_false(ebs_slab_keep(&slab, 60)); /* again */
    ebs_slab_mark(&slab, 60);
    assert_true(ebs_slab_keep(&slab, 65));
    ebs_slab_free(&slab, 65);
    assert_int_equal(alloc(&slab, 1000), 65); /* made since: not pending */
    assert_false(ebs_slab_keep(&slab, 65));
    assert_int_equal(alloc(&slab, 1001), 100);
    ebs_slab_mark(&slab, 100);
    assert_int_equal(slab.marked, 3);
    assert_true(ebs_slab_cut_pass(&slab) == 0xeull << 60); /* 61, 62, 63 */
    assert_false(ebs_slab_keep(&slab, 61));
    assert_true(ebs_slab_cut_pass(&slab) == 0x3d); /* 64, 66..69 */
    assert_int_equal(alloc(&slab, 1002), 150);
    ebs_slab_mark(&slab, 150);
    assert_true(ebs_slab_cut_pass(&slab) == 0);
    assert_int_equal(slab.cut_end, 0);
    for (uint32_t i = 0; i <= 150; i++) {
        assert_true(ebs_slab_marked(&slab, i) == (i == 59 || i == 60 || i == 100 || i == 150));
        assert_int_equal(ebs_slab_bits(&slab, i)->saved, 0);
    }
    assert_int_equal(slab.marked, 4);
    ebs_slab_cut(&slab, true);
    assert_true(ebs_slab_keep(&slab, 3));
    assert_true(ebs_slab_cut_pass(&slab) == ~(1ull << 3));
    assert_true(ebs_slab_cut_pass(&slab) == UINT64_MAX);
    assert_true(ebs_slab_cut_pass(&slab) == (1ull << 23) - 1);
    assert_int_equal(slab.marked, 0);
    ebs_slab_release(&slab);
}

/* In its midst: nothing is to be kept any more, and what changes is known all the same. */
static void a_cut_is_dropped(void **test)
{
    struct ebs_slab slab;

    (void)test;
    ebs_slab_init(&slab, 12, NULL);
    for (uint32_t i = 0; i < 300; i++)
        alloc(&slab, i);
    for (uint32_t i = 60; i < 110; i++)
        ebs_slab_mark(&slab, i);
    ebs_slab_cut(&slab, true);
    assert_true(ebs_slab_cut_pass(&slab) == UINT64_MAX);
    assert_true(ebs_slab_keep(&slab, 100));
    ebs_slab_mark(&slab, 100);
    ebs_slab_cut_drop(&slab);
    assert_false(ebs_slab_keep(&slab, 101));
    ebs_slab_mark(&slab, 101); /* was marked before the cut */
    assert_false(ebs_slab_keep(&slab, 200));
    ebs_slab_mark(&slab, 200);
    ebs_slab_free(&slab, 102);
    assert_int_equal(alloc(&slab, 1000), 102);
    ebs_slab_mark(&slab, 102);
    assert_int_equal(slab.marked, 4);
    assert_true(ebs_slab_cut_let_go(&slab, 2));
    assert_false(ebs_slab_cut_let_go(&slab, 2));
    assert_int_equal(slab.cut_end, 0);
    for (uint32_t i = 0; i < 300; i++) {
        assert_true(ebs_slab_marked(&slab, i) == ((i >= 100 && i <= 102) || i == 200));
        assert_int_equal(ebs_slab_bits(&slab, i)->saved, 0);
    }
    assert_int_equal(slab.marked, 4);
    ebs_slab_cut(&slab, false);
    assert_true(ebs_slab_keep(&slab, 200));
    ebs_slab_release(&slab);
}

static void compact(struct ebs_slab *slab)
{
    uint32_t from, to;

    while (ebs_slab_compact_next(slab, &from, &to))
        ebs_slab_move(slab, from, to);
    ebs_slab_trim(slab);
}

/* Bytes of a mapping that are in memory. */
static size_t resident(const struct ebs_region *region)
{
    static unsigned char in[1 << 16];
    size_t n = 0, pages = region->reserved / EBS_PAGE;

    assert_true(pages <= sizeof(in));
    assert_int_equal(mincore(region->at, region->reserved, in), 0);
    for (size_t i = 0; i < pages; i++)
        n += in[i] & 1;
    return n * EBS_PAGE;
}

static void memory_follows_live_rows(void **test)
{
    enum { ROWS = 300000, ROW = 108 };
    struct ebs_budget budget = {0};
    struct ebs_slab slab;

    (void)test;
    ebs_slab_init(&slab, ROW, &budget);
    for (uint32_t i = 0; i < ROWS; i++) {
        alloc(&slab, i);
        assert_true(budget.used == slab.rows.size + slab.bits.size);
        assert_true(slab.rows.size - slab.fresh * (size_t)ROW < EBS_HUGE_PAGE + (64 << 10) + ROW);
    }
    assert_true(resident(&slab.rows) >= ROWS * (size_t)ROW);
    assert_true(resident(&slab.rows) <= slab.rows.size);
    for (uint32_t i = 0; i < ROWS; i++)
        if (i % 10)
            ebs_slab_free(&slab, i);
    compact(&slab);
    assert_true(slab.fresh - slab.count <= slab.fresh / 64);
    assert_true(resident(&slab.rows) <= ebs_region_round(ROWS / 10 * ROW * 65 / 64));
    assert_int_equal(budget.used, slab.rows.size + slab.bits.size);
    for (uint32_t row = 0, n = 0; n < slab.count; row++, n++) {
        row = ebs_slab_next_live(&slab, row);
        assert_int_equal(ebs_row_id(ebs_slab_at(&slab, row)) % 10, 0);
    }
    for (uint32_t i = 0; i < ROWS; i++)
        alloc(&slab, i);
    for (uint32_t row; (row = ebs_slab_next_live(&slab, 0)) != EBS_ROW_NONE;)
        ebs_slab_free(&slab, row);
    compact(&slab);
    assert_int_equal(resident(&slab.rows), 0);
    assert_int_equal(budget.used, 0);
    ebs_slab_release(&slab);
}

static void memory_is_touched_ahead_of_growth(void **test)
{
    enum { ROW = 1024, BLOCK = 4096 };
    struct ebs_slab slab;
    unsigned calls = 0;

    (void)test;
    ebs_slab_init(&slab, ROW, NULL);
    for (uint32_t i = 0; i < EBS_HUGE_FROM / 2 / ROW; i++)
        alloc(&slab, i);
    assert_false(ebs_slab_touch_ahead(&slab, 1)); /* small pages */
    for (uint32_t i = 0; i < 45 * BLOCK; i++)
        alloc(&slab, i);
    while (ebs_slab_touch_ahead(&slab, 1))
        calls++;
    assert_in_range(calls, 1, 3);
    assert_true(resident(&slab.rows) > slab.fresh * (size_t)ROW + EBS_HUGE_PAGE);
    assert_false(ebs_slab_touch_ahead(&slab, 1 << 20));
    ebs_slab_trim(&slab); /* keeps it */
    assert_true(resident(&slab.rows) > slab.fresh * (size_t)ROW + EBS_HUGE_PAGE);
    ebs_slab_release(&slab);
}

/* All kinds of refusal leave rows and bits as they were. */
static void without_memory_nothing_changes(void **test)
{
    struct ebs_budget budget = {0};
    struct ebs_slab slab;
    uint64_t failed = 0, refused = 0;

    (void)test;
    ebs_slab_init(&slab, 1000, &budget);
    for (uint32_t i = 0; i < 20000; i++) {
        uint32_t row;
        int err;

        rt_fault_alloc((int64_t)(i % 3));
        err = ebs_slab_alloc(&slab, i, &row);
        rt_fault_alloc(-1);
        if (err) {
            assert_int_equal(err, RT_ENOMEM);
            failed++;
            assert_int_equal(slab.count, i);
            budget.limit = budget.used;
            err = ebs_slab_alloc(&slab, i, &row);
            budget.limit = 0;
            if (err) {
                assert_int_equal(err, RT_EFULL);
                refused++;
                row = alloc(&slab, i);
            }
        }
        assert_int_equal(row, i);
    }
    assert_true(failed > 20 && refused > 20);
    for (uint32_t i = 0; i < 20000; i++)
        assert_int_equal(ebs_row_id(ebs_slab_at(&slab, i)), i);
    ebs_slab_release(&slab);
    assert_int_equal(budget.used, 0);
}

/* Mappings of the process that have a part of what is in use. */
static size_t mappings(const struct ebs_region *region)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    uintptr_t at = (uintptr_t)region->at;
    unsigned long from, end;
    char line[512];
    size_t n = 0;

    assert_non_null(maps);
    while (fgets(line, sizeof(line), maps))
        n += sscanf(line, "%lx-%lx ", &from, &end) == 2 && from < at + region->size && at < end;
    fclose(maps);
    return n;
}

/* Contents survive that addresses run out (64 MiB, 128 MiB), also after a fork. It stays one mapping: no system moves
 * the page tables of several at once but the newest. */
static void regions_move_without_loss(void **test)
{
    struct ebs_region region;

    (void)test;
    ebs_region_init(&region, NULL);
    for (size_t size = 1 << 20; size <= (size_t)144 << 20; size += 1 << 20) {
        assert_int_equal(ebs_region_grow(&region, size), 0);
        assert_int_equal(region.at[size - 1], 0);
        memcpy(region.at + size - sizeof(size), &size, sizeof(size));
        if (size == (size_t)100 << 20 && fork() == 0)
            _exit(0);
    }
    assert_int_equal(mappings(&region), 1);
    for (size_t size = 1 << 20; size <= (size_t)144 << 20; size += 1 << 20)
        assert_memory_equal(region.at + size - sizeof(size), &size, sizeof(size));
    ebs_region_shrink(&region, 5000);
    assert_int_equal(region.size, 8192);
    assert_int_equal(ebs_region_grow(&region, (size_t)9 << 20), 0);
    for (size_t at = 8192; at < region.size; at++)
        assert_int_equal(region.at[at], 0);
    assert_int_equal(mappings(&region), 1);
    ebs_region_release(&region);
}

/* Thousands of tables in eight owners have more regions than a process may have mappings (65,530). */
static void there_are_many_small_ones(void **test)
{
    enum { REGIONS = 100000 };
    static struct ebs_region region[REGIONS];

    (void)test;
    for (size_t i = 0; i < REGIONS; i++) {
        ebs_region_init(&region[i], NULL);
        if (ebs_region_grow(&region[i], 1) != 0)
            fail_msg("region %zu: %s", i, rt_err_text());
        if (i % 32 == 0)
            region[i].at[0] = (uint8_t)i;
    }
    for (size_t i = 0; i < REGIONS; i += 4) {
        assert_int_equal(ebs_region_grow(&region[i], 100000), 0);
        assert_int_equal(region[i].at[0], i % 32 == 0 ? (uint8_t)i : 0);
    }
    for (size_t i = 0; i < REGIONS; i++)
        ebs_region_release(&region[i]);
}

static void random_against_an_array(void **test)
{
    enum { ROWS = 30000, OPERATIONS = 1000000 };
    static struct {
        uint64_t id;
        bool live, marked;
    } model[ROWS];
    uint64_t seed = (uint64_t)time(NULL), count = 0;
    struct ebs_slab slab;

    (void)test;
    print_message("seed %llu\n", (unsigned long long)seed);
    ebs_slab_init(&slab, 24, NULL);
    for (uint64_t i = 0; i < OPERATIONS; i++) {
        uint64_t draw = rt_draw(seed, i);
        uint32_t row = (uint32_t)(draw % ROWS);
        bool filling = i / (OPERATIONS / 5) % 2 == 0;

        assert_true(ebs_slab_is_live(&slab, row) == model[row].live);
        assert_true(ebs_slab_marked(&slab, row) == model[row].marked);
        if (model[row].live) {
            assert_true(ebs_row_id(ebs_slab_at(&slab, row)) == model[row].id);
            if ((draw >> 60) % 2)
                ebs_slab_mark(&slab, row);
            model[row].marked |= (draw >> 60) % 2;
        }
        if (filling && count < ROWS) {
            uint32_t got = alloc(&slab, draw);

            assert_true(got < ROWS && !model[got].live && (got == 0 || model[got - 1].live));
            model[got].id = draw;
            model[got].live = true;
            count++;
        } else if (model[row].live) {
            ebs_slab_free(&slab, row);
            model[row].live = model[row].marked = false;
            count--;
        }
        if (draw % 1000 < 2) {
            uint32_t from, to;

            for (int n = 0; n < 50 && ebs_slab_compact_next(&slab, &from, &to); n++) {
                ebs_slab_move(&slab, from, to);
                model[to] = model[from];
                model[from].live = model[from].marked = false;
            }
            ebs_slab_trim(&slab);
        }
        assert_true(slab.count == count);
    }
    ebs_slab_release(&slab);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(freed_rows_are_used_lowest_first),
        cmocka_unit_test(marks_go_with_their_rows),
        cmocka_unit_test(a_cut_is_passed_in_blocks),
        cmocka_unit_test(a_cut_is_dropped),
        cmocka_unit_test(memory_follows_live_rows),
        cmocka_unit_test(memory_is_touched_ahead_of_growth),
        cmocka_unit_test(without_memory_nothing_changes),
        cmocka_unit_test(regions_move_without_loss),
        cmocka_unit_test(there_are_many_small_ones),
        cmocka_unit_test(random_against_an_array),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
