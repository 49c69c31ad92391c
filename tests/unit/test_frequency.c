/* tests/unit/test_frequency.c -- exact counts of ids: against a naive model, over their bound, out of memory;
 * and through the pass over files, where bad rows do not count. */
#include "data_compose/frequency.h"
#include "data_compose/statistics.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/hash.h"
#include "runtime/base/map.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "tests/lib/data_job.h"
#include "tests/lib/plain_io.h"
#include "tests/lib/temp.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static uint64_t rare(void)
{
    return rt_hash_bytes("\x01rare", 5);
}

static int seal(struct dc_frequency *f)
{
    int rc;

    while ((rc = dc_frequency_seal(f)) > 0)
        ;
    return rc;
}

/* Ids 0 and UINT64_MAX and the rare id itself among them; two columns with the same ids, counted apart. */
static void against_model(void **state)
{
    static const uint64_t special[] = {0, 1, UINT64_MAX, 1ull << 63};
    struct data_job dj;
    struct rt_map model[2];
    uint64_t key = 2026, at = 0, distinct, kept, want_kept = 0;

    (void)state;
    print_message("seed %llu\n", (unsigned long long)key);
    data_job_init(&dj, RT_FORMAT_TSV, false, "y=label a=feature:freq3 b=feature:freq5 c=feature");
    dj.job.data.frequency_memory = 16 << 20;
    struct dc_frequency *f = dc_frequency_create(&dj.job);
    rt_map_init(&model[0]);
    rt_map_init(&model[1]);
    for (int i = 0; i < 60000; i++) {
        uint64_t id = rt_below(rt_draw(key, at), 20000), n = 0;
        uint32_t column = (uint32_t)(rt_draw(key, at + 1) % 2);

        at += 2;
        id = id < 4 ? special[id] : id < 8 ? rare() : id % 2 ? id : rt_hash_id(id);
        assert_int_equal(dc_frequency_add(f, 1 + column, &id, 1), 0);
        rt_map_get(&model[column], id, &n);
        rt_map_put(&model[column], id, n + 1);
    }
    assert_int_equal(seal(f), 0);
    for (uint32_t c = 0; c < 2; c++) {
        uint64_t id, n, min = dj.column[1 + c].min_frequency;

        for (size_t k = 0; rt_map_next(&model[c], &k, &id, &n);) {
            uint64_t mapped = id;
            dc_frequency_map(f, 1 + c, &mapped, 1);
            if (mapped != (n >= min ? id : rare()))
                fail_msg("id %llx, seen %llu times", (unsigned long long)id, (unsigned long long)n);
            want_kept += n >= min;
        }
        uint64_t unseen[] = {12345678901234ull, 30001};
        dc_frequency_map(f, 1 + c, unseen, 2);
        assert_true(unseen[0] == rare() && unseen[1] == rare());
    }
    dc_frequency_totals(f, &distinct, &kept);
    assert_true(distinct == model[0].count + model[1].count && kept == want_kept);
    assert_true(kept > 0 && kept < distinct);
    rt_map_release(&model[0]);
    rt_map_release(&model[1]);
    dc_frequency_destroy(f);
}

static void over_the_bound(void **state)
{
    struct data_job dj;
    int err = 0;
    uint64_t id = 0, distinct, kept;

    (void)state;
    data_job_init(&dj, RT_FORMAT_TSV, false, "y=label a=feature:freq2");
    struct dc_frequency *f = dc_frequency_create(&dj.job); /* 1 MiB */
    while (!err && id < 1000000)
        err = dc_frequency_add(f, 1, &(uint64_t){++id}, 1);
    assert_int_equal(err, RT_EUSAGE);
    assert_non_null(strstr(rt_err_text(), "data.frequency_memory 1048576 (at column a)"));
    dc_frequency_totals(f, &distinct, &kept);
    assert_true(distinct > (1 << 20) / 33 && distinct < (1 << 20) / 12);
    dc_frequency_destroy(f);
}

static void no_memory(void **state)
{
    struct data_job dj;
    int err = RT_ENOMEM;

    (void)state;
    data_job_init(&dj, RT_FORMAT_TSV, false, "y=label a=feature:freq2");
    for (int64_t nth = 0; err == RT_ENOMEM; nth++) {
        struct dc_frequency *f = dc_frequency_create(&dj.job);

        rt_fault_alloc(nth);
        err = 0;
        for (uint64_t i = 0; !err && i < 200; i++)
            err = dc_frequency_add(f, 1, &(uint64_t){i % 150}, 1);
        if (!err)
            err = seal(f);
        rt_fault_alloc(-1);
        assert_true(err == 0 || err == RT_ENOMEM);
        dc_frequency_destroy(f);
    }
}

/* Counts are of good training rows, whatever the order; lists count each id; the statistics come along. */
static void through_files(void **state)
{
    char dir[TEMP_PATH_MAX];
    struct data_job dj;
    struct dc_statistics *s;
    uint32_t n;
    int rc;

    (void)state;
    temp_folder(dir);
    char *file = rt_path_join(dir, "t.tsv");
    static const char text[] = "1\t2\tu|v\tx\n"
                               "0\t4\tu|w\tx\n"
                               "9\t4\tw|w\ty\n" /* bad: does not count */
                               "0\t6\tu|u\ty\n";
    assert_int_equal(rt_file_write(file, text, sizeof(text) - 1), 0);
    data_job_init(&dj, RT_FORMAT_TSV, false,
                  "y=label d=dense:std a=feature:list,freq2 b=feature:freq2");
    dj.job.data.train = (const char *const[]){file};
    dj.job.data.n_train = 1;
    assert_true(dc_frequency_wanted(&dj.job));
    struct rt_io *io = plain_io_create(1 << 20);
    struct dc_feed_conf conf = {.io = io, .job = &dj.job};
    assert_int_equal(dc_statistics_create(&conf, &s), 0);
    dc_statistics_count_ids(s);
    while ((rc = dc_statistics_turn(s)) > 0)
        ;
    assert_int_equal(rc, 0);
    const struct wire_statistics *column = dc_statistics_columns(s, &n);
    assert_true(n == 1 && column != NULL);
    struct dc_frequency *f = dc_statistics_take_frequent(s);
    dc_statistics_destroy(s);
    struct dc_parser *parser;
    assert_int_equal(dc_parser_create(&dj.job, &parser), 0);
    dc_parser_frequent(parser, f);
    assert_int_equal(dc_parser_row(parser, "1\t0\tw|u|v\ty", 11), 0);
    const struct dc_row *row = dc_parser_view(parser);
    assert_int_equal(row->n_ids, 4);
    assert_true(row->id[0] == rare() && row->id[1] == rt_hash_bytes("u", 1));
    assert_true(row->id[2] == rare() && row->id[3] == rare()); /* v once, y once in good rows */
    assert_int_equal(dc_parser_row(parser, "1\t0\t\tx", 6), 0);
    assert_true(row->n_ids == 1 && row->id[0] == rt_hash_bytes("x", 1));
    dc_parser_destroy(parser);
    dc_frequency_destroy(f);
    plain_io_destroy(io);
    unlink(file);
    rt_free(file);
    rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest test[] = {
        cmocka_unit_test(against_model),
        cmocka_unit_test(over_the_bound),
        cmocka_unit_test(no_memory),
        cmocka_unit_test(through_files),
    };

    return cmocka_run_group_tests(test, NULL, NULL);
}
