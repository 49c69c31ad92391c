/* tests/unit/test_stage.c -- where a stretch's rows are: each instruction set says what the index says of one id. */
#include "embedding_server/stage.h"
#include "runtime/base/assert.h"
#include "runtime/base/cpu.h"
#include "runtime/base/rand.h"
#include "runtime/job/shard.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <cmocka.h>

#define ROW_BYTES 76

static const struct {
    enum rt_isa isa;
    ebs_stage_fn run;
    ebs_outside_fn outside;
} stages[] = {{RT_ISA_PLAIN, ebs_stage_plain, ebs_outside_plain},
              {RT_ISA_AVX2, ebs_stage_avx2, ebs_outside_avx2},
              {RT_ISA_AVX512, ebs_stage_avx512, ebs_outside_avx512}};

/* n ids, of which a third has no row. */
static void check(const struct ebs_index *index, const struct ebs_slab *slab, uint64_t rows,
                  size_t n, uint64_t seed)
{
    const struct ebs_finder finder = {*index, slab->rows.at, slab->row_bytes, ROW_BYTES};
    uint64_t id[EBS_STRETCH];

    for (size_t i = 0; i < n; i++)
        id[i] = rt_draw(1, rt_draw(seed, i) % (rows + rows / 2 + 1));
    for (size_t s = 0; s < ARRAY_LEN(stages); s++) {
        struct ebs_stretch out;

        if (stages[s].isa > rt_cpu_isa())
            continue; /* main() says so */
        stages[s].run(&finder, id, n, &out);
        assert_int_equal(out.n, n);
        assert_ptr_equal(out.id, id);
        for (size_t i = 0; i < n; i++) {
            uint32_t row = ebs_index_candidate(index, ebs_index_hash(index, id[i]));

            assert_ptr_equal(out.row[i], row == EBS_ROW_NONE ? NULL : ebs_slab_at(slab, row));
        }
    }
}

/* As the index grows: one line, one group, many of them, some laid out as the next sweep has them. */
static void as_the_index_grows(void **state)
{
    uint64_t seed = (uint64_t)time(NULL), rows = 0;
    struct ebs_slab slab;
    struct ebs_index index;

    (void)state;
    printf("seed %llu\n", (unsigned long long)seed);
    ebs_slab_init(&slab, ROW_BYTES, NULL);
    assert_int_equal(ebs_index_init(&index, 3, NULL), 0);
    while (rows < 200000) {
        uint64_t id = rt_draw(1, rows++);
        uint32_t row;

        assert_int_equal(ebs_slab_alloc(&slab, id, &row), 0);
        assert_int_equal(ebs_index_insert(&index, &slab, ebs_index_hash(&index, id), row), 0);
        if (rows < 100 || rt_draw(seed, rows) % 200 == 0)
            check(&index, &slab, rows, rt_draw(seed + 1, rows) % (EBS_STRETCH + 1), seed + rows);
    }
    assert_true(index.layout[0].shift > 3);
    ebs_index_release(&index);
    ebs_slab_release(&slab);
}

/* Some of these ids stand past their home line, which does not tell of them. */
static void where_the_home_line_does_not_tell(void **state)
{
    struct ebs_slab slab;
    struct ebs_index index;
    size_t past = 0;

    (void)state;
    ebs_slab_init(&slab, ROW_BYTES, NULL);
    assert_int_equal(ebs_index_init(&index, 3, NULL), 0);
    for (uint64_t i = 0; i < 3000; i++) {
        uint64_t id = rt_draw(1, i);
        uint32_t row;

        assert_int_equal(ebs_slab_alloc(&slab, id, &row), 0);
        assert_int_equal(ebs_index_insert(&index, &slab, ebs_index_hash(&index, id), row), 0);
    }
    for (uint64_t i = 0; i < 3000; i++) {
        uint64_t hash = ebs_index_hash(&index, rt_draw(1, i));
        uint32_t row;

        past += !ebs_index_at_home(&index, ebs_index_home(&index, hash), ebs_index_tag(hash), &row);
    }
    assert_true(past > 30);
    for (uint64_t seed = 0; seed < 100; seed++)
        check(&index, &slab, 3000, EBS_STRETCH, seed);
    ebs_index_release(&index);
    ebs_slab_release(&slab);
}

/* Against one id at a time: shards from the first to the last, none of them, all of them. */
static void whose_ids_they_are(void **state)
{
    static const struct {
        uint32_t first, width;
    } range[] = {{0, 1},   {0, 30000},     {20000, 20000},    {RT_SHARDS - 1, 1},
                 {100, 0}, {0, RT_SHARDS}, {1, RT_SHARDS - 1}};
    uint64_t id[1000];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(id); i++)
        id[i] = rt_draw(7, i);
    for (size_t r = 0; r < ARRAY_LEN(range); r++)
        for (size_t n = 0; n <= ARRAY_LEN(id); n = n < 20 ? n + 1 : n + 49) {
            uint32_t first = range[r].first, width = range[r].width;
            size_t want = 0;

            for (size_t i = 0; i < n; i++)
                want += rt_shard_of(id[i]) < first || rt_shard_of(id[i]) >= first + width;
            for (size_t s = 0; s < ARRAY_LEN(stages); s++)
                if (stages[s].isa <= rt_cpu_isa())
                    assert_int_equal(stages[s].outside(id, n, first, width), want);
            assert_int_equal(ebs_outside(id, n, first, width), want);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_the_index_grows),
        cmocka_unit_test(where_the_home_line_does_not_tell),
        cmocka_unit_test(whose_ids_they_are),
    };

    if (rt_cpu_isa() < RT_ISA_AVX512)
        printf("skipped: this CPU has no instruction set beyond %s\n", rt_isa_name(rt_cpu_isa()));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
