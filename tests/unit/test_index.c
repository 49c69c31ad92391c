/* tests/unit/test_index.c -- entries against what was put in: at every size, growing, shrinking, without memory. */
#include "embedding_server/index.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <cmocka.h>

struct pair {
    struct ebs_slab slab;
    struct ebs_index index;
};

static void begin(struct pair *pair, struct ebs_budget *budget)
{
    ebs_slab_init(&pair->slab, 12, budget);
    assert_int_equal(ebs_index_init(&pair->index, 3, budget), 0);
}

static void end(struct pair *pair)
{
    ebs_index_release(&pair->index);
    ebs_slab_release(&pair->slab);
}

static int insert(struct pair *pair, uint64_t id)
{
    uint32_t row;
    int err = ebs_slab_alloc(&pair->slab, id, &row);

    if (err)
        return err;
    err = ebs_index_insert(&pair->index, &pair->slab, ebs_index_hash(&pair->index, id), row);
    if (err)
        ebs_slab_free(&pair->slab, row);
    return err;
}

/* Where the home line tells: the row that is there, or the new one in it. false: it does not, and nothing has changed. */
static bool claim(struct pair *pair, uint64_t id, bool present)
{
    uint64_t hash = ebs_index_hash(&pair->index, id), count = pair->index.count;
    uint32_t row, found;
    bool told;

    assert_int_equal(ebs_slab_alloc(&pair->slab, id, &row), 0);
    told = ebs_index_claim(&pair->index, &pair->slab, ebs_index_home(&pair->index, hash),
                           ebs_index_tag(hash), id, row, &found);
    if (told)
        assert_true((found == EBS_ROW_NONE) == !present);
    assert_int_equal(pair->index.count, count + (told && !present));
    if (told && present)
        assert_true(found != row && ebs_row_id(ebs_slab_at(&pair->slab, found)) == id);
    if (!told || present)
        ebs_slab_free(&pair->slab, row);
    return told;
}

static bool holds(const struct pair *pair, uint64_t id)
{
    uint64_t hash = ebs_index_hash(&pair->index, id);
    uint32_t row = ebs_index_find(&pair->index, &pair->slab, hash, id);

    if (row == EBS_ROW_NONE)
        return false;
    assert_true(ebs_index_candidate(&pair->index, hash) != EBS_ROW_NONE);
    return ebs_row_id(ebs_slab_at(&pair->slab, row)) == id;
}

static void drop(struct pair *pair, uint64_t id)
{
    uint32_t row =
        ebs_index_remove(&pair->index, &pair->slab, ebs_index_hash(&pair->index, id), id);

    assert_int_not_equal(row, EBS_ROW_NONE);
    assert_true(ebs_row_id(ebs_slab_at(&pair->slab, row)) == id);
    ebs_slab_free(&pair->slab, row);
}

static bool has_row(const struct ebs_line *line, uint32_t row)
{
    for (unsigned i = 0; i < EBS_LINE_SLOTS; i++)
        if (line->tag[i] && line->row[i] == row)
            return true;
    return false;
}

/* Count a row in each line that it went past. */
static void walk(const struct ebs_index *index, uint64_t id, uint32_t row, uint32_t *passed)
{
    uint64_t hash = ebs_index_hash(index, id);
    struct ebs_group group = ebs_index_group(index, hash);
    uint32_t at = ebs_group_home(group, hash);

    for (uint32_t tried = 0; tried < group.layout.n_lines; tried++) {
        uint32_t line = ebs_group_line(group, at);

        assert_true(line < index->n_lines);
        if (has_row(&index->line[line], row))
            return;
        passed[line]++;
        at = at + 1 < group.layout.n_lines ? at + 1 : 0;
    }
    fail_msg("row %u stands nowhere in its group", row);
}

/* What must hold at any time: each entry counted once, and each line says how many went past it. */
static void check(const struct pair *pair)
{
    const struct ebs_index *index = &pair->index;
    uint32_t *passed = calloc(index->n_lines, sizeof(*passed));
    uint64_t entries = 0;

    assert_non_null(passed);
    for (uint32_t row = 0; (row = ebs_slab_next_live(&pair->slab, row)) != EBS_ROW_NONE; row++)
        walk(index, ebs_row_id(ebs_slab_at(&pair->slab, row)), row, passed);
    for (uint32_t at = 0; at < index->n_lines; at++) {
        for (unsigned i = 0; i < EBS_LINE_SLOTS; i++)
            entries += index->line[at].tag[i] != 0;
        assert_int_equal(index->line[at].passed, passed[at]);
    }
    free(passed);
    assert_int_equal(entries, index->count);
    assert_int_equal(entries, pair->slab.count);
    assert_true(index->n_lines * sizeof(struct ebs_line) <= index->region.size);
}

/* One after the other up to several doublings of the groups, and down again: all are found at each size, the load
 * stays, and the memory comes back. */
static void every_size_up_and_down(void **test)
{
    enum { ROWS = 60000 };
    struct ebs_budget budget = {0};
    struct pair pair;

    (void)test;
    begin(&pair, &budget);
    for (uint64_t id = 0; id < ROWS; id++) {
        assert_int_equal(insert(&pair, id), 0);
        if (id % 4096 && id > 500)
            continue;
        for (uint64_t known = 0; known <= id + 10; known++)
            assert_true(holds(&pair, known) == (known <= id));
        check(&pair);
        if (id > 10000)
            assert_true((double)ebs_index_bytes(&pair.index) / (double)id <
                        7.27 + 4096.0 / (double)id);
    }
    assert_true(pair.index.layout[0].shift >= 3);
    for (uint64_t id = 0; id < ROWS; id++) {
        drop(&pair, id);
        if (id % 4096 && ROWS - id > 500)
            continue;
        for (uint64_t known = 0; known < ROWS; known++)
            assert_true(holds(&pair, known) == (known > id));
        check(&pair);
        if (ROWS - id > 10000)
            assert_true((double)ebs_index_bytes(&pair.index) / (double)(ROWS - id) <
                        7.73 + 4096.0 / (double)(ROWS - id));
    }
    assert_int_equal(ebs_index_resident(&pair.index), EBS_PAGE);
    end(&pair);
    assert_int_equal(budget.used, 0);
}

static void moved_rows_are_found(void **test)
{
    enum { ROWS = 5000 };
    struct pair pair;
    uint32_t from, to, moves = 0;

    (void)test;
    begin(&pair, NULL);
    for (uint64_t id = 0; id < ROWS; id++)
        assert_int_equal(insert(&pair, id), 0);
    for (uint64_t id = 0; id < ROWS; id += 2)
        drop(&pair, id);
    while (ebs_slab_compact_next(&pair.slab, &from, &to)) {
        uint64_t id = ebs_row_id(ebs_slab_at(&pair.slab, from));

        ebs_index_move(&pair.index, ebs_index_hash(&pair.index, id), from, to);
        ebs_slab_move(&pair.slab, from, to);
        moves++;
    }
    ebs_slab_trim(&pair.slab);
    assert_in_range(moves, ROWS / 8, ROWS / 2);
    for (uint64_t id = 0; id < ROWS; id++)
        assert_true(holds(&pair, id) == (id % 2 == 1));
    end(&pair);
}

/* The n-th allocation fails, or the budget refuses: the index is as before, and goes on with memory. */
static void without_memory_nothing_changes(void **test)
{
    enum { ROWS = 9000 };
    struct ebs_budget budget = {0};
    struct pair pair;
    uint64_t failed = 0, refused = 0;

    (void)test;
    begin(&pair, &budget);
    for (uint64_t id = 0; id < ROWS; id++) {
        int err;

        rt_fault_alloc(0);
        err = insert(&pair, id);
        rt_fault_alloc(-1);
        if (err) {
            assert_int_equal(err, RT_ENOMEM);
            assert_false(holds(&pair, id));
            failed++;
            check(&pair);
            budget.limit = budget.used;
            err = insert(&pair, id);
            refused += err == RT_EFULL;
            assert_true(!err || err == RT_EFULL);
            budget.limit = 0;
            if (err)
                assert_int_equal(insert(&pair, id), 0);
        }
    }
    assert_true(failed > 20 && refused > 2); /* of the slab; the index goes on for a while */
    for (uint64_t id = 0; id < ROWS; id++)
        assert_true(holds(&pair, id));
    check(&pair);
    /* Shrinking without memory: later. */
    for (uint64_t id = 0; id < ROWS; id++) {
        rt_fault_alloc(0);
        drop(&pair, id);
        rt_fault_alloc(-1);
    }
    check(&pair);
    end(&pair);
    assert_int_equal(budget.used, 0);
}

/* A budget that ends at so many rows: the index fills up beyond its usual load, then refuses, and takes a row for each
 * that goes. */
static void end_the_budget_at(uint64_t rows)
{
    struct ebs_budget budget = {0};
    struct pair pair;
    uint64_t id = 0;
    uint32_t row;
    int err;

    begin(&pair, &budget);
    /* Rows there are, lines there are not. */
    for (uint64_t n = 0; n < 2 * rows; n++)
        assert_int_equal(ebs_slab_alloc(&pair.slab, n, &row), 0);
    for (uint32_t n = 0; n < 2 * rows; n++)
        ebs_slab_free(&pair.slab, n);
    for (; id < rows; id++)
        assert_int_equal(insert(&pair, id), 0);
    budget.limit = budget.used;
    while ((err = insert(&pair, id)) == 0)
        id++;
    assert_int_equal(err, RT_EFULL);
    assert_in_range(id * 1000, 740 * 12 * (uint64_t)pair.index.n_lines,
                    750 * 12 * (uint64_t)pair.index.n_lines);
    for (uint64_t n = 0; n < 50000; n++) {
        drop(&pair, id - 20000);
        assert_int_equal(insert(&pair, id++), 0);
    }
    check(&pair);
    end(&pair);
    assert_int_equal(budget.used, 0);
}

/* At all parts of a sweep, for the groups that it has yet to come to are fuller than the others; the last with 128
 * groups, of which 125 have a fifth unit. */
static void at_the_budget_rows_are_replaced(void **test)
{
    (void)test;
    for (uint64_t rows = 30000; rows < 62000; rows += 1500)
        end_the_budget_at(rows);
    end_the_budget_at(359500);
}

/* Ids come and go at random, more in one phase and fewer in the next, against a plain array. */
static void random_against_an_array(void **test)
{
    enum { IDS = 40000, OPERATIONS = 1500000 };
    static bool present[IDS];
    uint64_t seed = (uint64_t)time(NULL), claimed = 0, made = 0;
    struct pair pair;

    (void)test;
    print_message("seed %llu\n", (unsigned long long)seed);
    begin(&pair, NULL);
    for (uint64_t i = 0; i < OPERATIONS; i++) {
        uint64_t draw = rt_draw(seed, i), id = draw % IDS;
        bool filling = i / (OPERATIONS / 6) % 2 == 0;

        /* Ids spread over all 64 bits. */
        if (holds(&pair, id * 0x0123456789abcdefull) != present[id])
            fail_msg("operation %llu: id %llu", (unsigned long long)i, (unsigned long long)id);
        if (present[id] && (draw >> 40) % 4 < (filling ? 1 : 3)) {
            drop(&pair, id * 0x0123456789abcdefull);
            present[id] = false;
        } else if (present[id] && (draw >> 44) % 4 == 0) {
            (void)claim(&pair, id * 0x0123456789abcdefull, true);
        } else if (!present[id] && (draw >> 40) % 4 < (filling ? 3 : 1)) {
            if ((draw >> 44) % 2 && claim(&pair, id * 0x0123456789abcdefull, false))
                claimed++;
            else
                assert_int_equal(insert(&pair, id * 0x0123456789abcdefull), 0);
            made++;
            present[id] = true;
        }
        if (i % 100000 == 0)
            check(&pair);
    }
    check(&pair);
    assert_true(claimed > made / 4);
    end(&pair);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_size_up_and_down),
        cmocka_unit_test(moved_rows_are_found),
        cmocka_unit_test(without_memory_nothing_changes),
        cmocka_unit_test(at_the_budget_rows_are_replaced),
        cmocka_unit_test(random_against_an_array),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
