/* tests/unit/test_checkpoints.c -- what the commands over checkpoints are made of: which are meant, folding a chain into rows,
 * differences of tensors and ledgers. What they print: tests/e2e/checkpoints.sh. */
#include "ctl/checkpoints.h"
#include "ctl/diff_dense.h"
#include "ctl/finished.h"
#include "ctl/fold.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "runtime/checkpoint/lock.h"
#include "tests/lib/job_fixture.h"
#include "tests/lib/made_checkpoints.h"
#include "tests/lib/temp.h"

#include <ftw.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static char folder[TEMP_PATH_MAX]; /* of the checkpoints */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st, (void)type, (void)at;
    return remove(path);
}

static int make_folder(void **state)
{
    struct rt_job *job = made_job();

    (void)state;
    temp_folder(folder);
    made_checkpoints(folder, job);
    job_fixture_destroy(job);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    return nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static char *path_of(const char *checkpoint, const char *file)
{
    return rt_xasprintf("%s/%s%s%s", folder, checkpoint, file ? "/" : "", file ? file : "");
}

static void open_named(const char *name, struct ctl_checkpoints *from)
{
    if (ctl_checkpoints_open(folder, name, from) != 0)
        fail_msg("%s: %s", name ? name : "all", rt_err_text());
}

/* ---- which are meant ---- */

static void newest_first_and_by_name(void **state)
{
    static const char *const order[] = {"whole-30", "step-30", "step-20", "step-10"};
    struct ctl_checkpoints from;
    char *own = path_of("step-20", NULL), *slash = rt_xasprintf("%s/", own);
    size_t which;

    (void)state;
    open_named(NULL, &from);
    assert_int_equal(from.list.n, ARRAY_LEN(order));
    for (size_t i = 0; i < ARRAY_LEN(order); i++)
        assert_string_equal(from.list.at[i].name, order[i]);
    assert_int_equal(ctl_checkpoints_one(&from, &which), 0);
    assert_int_equal(which, 0);
    ctl_checkpoints_close(&from);
    open_named("step-10", &from);
    assert_int_equal(from.which, 3);
    ctl_checkpoints_close(&from);
    for (int way = 0; way < 2; way++) { /* a checkpoint's own folder */
        assert_int_equal(ctl_checkpoints_open(way ? slash : own, NULL, &from), 0);
        assert_int_equal(from.which, 2);
        ctl_checkpoints_close(&from);
    }
    rt_free(own);
    rt_free(slash);
}

static void what_is_not_there(void **state)
{
    char *own = path_of("step-20", NULL), *none = path_of("none", NULL),
         *empty = path_of("empty", NULL);
    const struct {
        const char *dir, *name, *says;
    } row[] = {
        {none, NULL, "none: expected a folder of checkpoints"},
        {folder, "step-11", "no checkpoint is called 'step-11'"},
        {own, "step-20", "is one checkpoint's own folder: leave out 'step-20'"},
        {empty, NULL, "no checkpoint is in it"},
    };
    struct ctl_checkpoints from;

    (void)state;
    assert_int_equal(rt_mkdir_all(empty), 0);
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        if (ctl_checkpoints_open(row[i].dir, row[i].name, &from) != RT_EUSAGE ||
            !strstr(rt_err_text(), row[i].says))
            fail_msg("row %zu: got '%s'", i, rt_err_text());
    }
    assert_int_equal(rmdir(empty), 0);
    rt_free(own);
    rt_free(none);
    rt_free(empty);
}

static void whole_as_far_as_sizes_tell(void **state)
{
    char *rows = path_of("step-20", "rows.00001"), *away = path_of("step-20", "away");
    struct ctl_checkpoints from;

    (void)state;
    open_named(NULL, &from);
    for (size_t i = 0; i < from.list.n; i++)
        assert_int_equal(ctl_checkpoints_look(&from, i), 0);
    assert_int_equal(rename(rows, away), 0);
    for (size_t i = 0; i < from.list.n; i++) { /* step-30 goes on from step-20 */
        int err = ctl_checkpoints_look(&from, i);

        assert_int_equal(err, i == 1 || i == 2 ? RT_EDATA : 0);
        assert_true(!err || strstr(rt_err_text(), "step-20/rows.00001"));
    }
    assert_int_equal(rename(away, rows), 0);
    ctl_checkpoints_close(&from);
    rt_free(rows);
    rt_free(away);
}

static void one_process_writes(void **state)
{
    int lock, second;

    (void)state;
    assert_int_equal(rt_store_lock(folder, "one, of a long name\n", &lock), 0);
    assert_int_equal(rt_store_lock(folder, "two", &second), RT_EFULL);
    assert_non_null(strstr(rt_err_text(), "/.lock: held by one, of a long name\\x0a"));
    rt_store_unlock(lock);
    assert_int_equal(rt_store_lock(folder, "two", &second), 0);
    assert_int_equal(rt_store_lock(folder, "three", &lock), RT_EFULL);
    assert_non_null(strstr(rt_err_text(), "held by two"));
    rt_store_unlock(second);
    assert_int_equal(rt_store_lock("/nonexistent", "one", &lock), RT_EFILE);
}

/* ---- rows ---- */

static void check_row(const struct ctl_fold_table *table, uint64_t id, unsigned at)
{
    unsigned number = made_number(id, at);
    const uint8_t *row = ctl_fold_find(table, id);
    float value;

    if (!row != !number)
        fail_msg("%s: id %llu: %s row", table->name, (unsigned long long)id, row ? "a" : "no");
    if (!row)
        return;
    for (uint32_t d = 0; d < table->dim; d++) {
        memcpy(&value, row + table->layout.weight + d * sizeof(value), sizeof(value));
        assert_true(value == (float)id + 0.5F * (float)number + 0.25F * (float)d);
    }
    for (uint32_t k = 0; k < table->layout.state_count; k++) {
        memcpy(&value, row + table->layout.state + k * sizeof(value), sizeof(value));
        assert_true(value == (float)number);
    }
}

/* All ids, each in the pass that its shard is of; every row is one of them. */
static void check_passes(struct ctl_fold *fold, const struct rt_shard_map *map, unsigned at)
{
    uint64_t rows = 0, live = 0;

    for (uint32_t pass = 0; pass < map->owners; pass++) {
        uint32_t first = rt_shard_first(map, pass), end = rt_shard_first(map, pass + 1);

        if (ctl_fold_take(fold, first, end) != 0)
            fail_msg("%s", rt_err_text());
        for (uint32_t t = 0; t < fold->n_tables; t++) {
            rows += fold->table[t].n;
            for (uint64_t id = 0; id <= MADE_ROWS + MADE_NEW + 1; id++) {
                if (rt_shard_of(id) < first || rt_shard_of(id) >= end) {
                    assert_null(ctl_fold_find(&fold->table[t], id));
                    continue;
                }
                check_row(&fold->table[t], id, at);
                live += made_number(id, at) > 0;
            }
        }
    }
    assert_int_equal(rows, live);
}

static void chains_are_folded(void **state)
{
    static const struct {
        const char *name;
        unsigned at, chain;
        uint32_t passes;
    } row[] = {{"step-10", 1, 1, 1},  {"step-20", 2, 2, 1}, {"step-30", 3, 3, 1},
               {"step-30", 3, 3, 2},  {"step-30", 3, 3, 7}, {"whole-30", 3, 1, 1},
               {"whole-30", 3, 1, 5}, {"step-10", 1, 1, 64}};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct ctl_checkpoints from;
        struct ctl_fold fold;
        struct rt_shard_map map;

        open_named(row[i].name, &from);
        assert_int_equal(ctl_fold_open(&from, from.which, NULL, &fold), 0);
        assert_int_equal(fold.n_chain, row[i].chain);
        assert_int_equal(fold.n_tables, 2);
        assert_string_equal(fold.table[0].optimizer, "sgd");
        assert_string_equal(fold.table[1].optimizer, "adagrad");
        assert_string_equal(ctl_fold_manifest(&fold)->name, row[i].name);
        assert_int_equal(rt_shard_map_init(&map, row[i].passes, 1), 0);
        check_passes(&fold, &map, row[i].at);
        ctl_fold_close(&fold);
        ctl_checkpoints_close(&from);
    }
}

/* One allocation of a pass fails, whichever: an error, and nothing is lost or held twice. */
static void without_memory(void **state)
{
    struct ctl_checkpoints from;
    struct ctl_fold fold;
    int err = RT_ENOMEM;
    int64_t nth = 0;

    (void)state;
    open_named("step-30", &from);
    assert_int_equal(ctl_fold_open(&from, from.which, NULL, &fold), 0);
    for (; err != 0; nth++) {
        rt_fault_alloc(nth);
        err = ctl_fold_take(&fold, 0, RT_SHARDS / 4);
        rt_fault_alloc(-1);
        assert_true(err == 0 || err == RT_ENOMEM || err == RT_EFILE);
    }
    assert_true(nth > 10);
    ctl_fold_close(&fold);
    ctl_checkpoints_close(&from);
}

static void passes_fit_the_memory(void **state)
{
    static const struct {
        uint64_t bytes, most;
        uint32_t passes; /* 0: refused */
    } row[] = {{0, 1000, 1},    {1, 1000, 1},          {1000, 1000, 1},    {1001, 1000, 2},
               {5500, 1000, 6}, {4096000, 1000, 4096}, {4096001, 1000, 0}, {UINT64_MAX, 1, 0}};
    struct rt_shard_map map;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        int err = ctl_fold_passes(row[i].bytes, row[i].most, &map);

        if (row[i].passes ? err != 0 || map.owners != row[i].passes : err != RT_EUSAGE)
            fail_msg("row %zu: %d, %u passes", i, err, map.owners);
    }
    assert_int_equal(ctl_fold_passes(5000000000, 1000000, &map), RT_EUSAGE);
    assert_string_equal(rt_err_text(),
                        "--memory: expected at least 1.22 MB for these rows, got 1.00 MB");
}

/* ---- ledgers ---- */

static void finished_batches(void **state)
{
    static const uint8_t few[] = {0x14}, more[] = {0xff, 0x01}, far[] = {0, 0, 0x80};
    const struct wire_split_ledger a[] = {
        {.split = 0, .finished_low = 10, .finished = few, .finished_bytes = 1},
        {.split = 1, .finished_low = 5},
        {.split = 3, .finished_low = 0, .finished = far, .finished_bytes = 3},
    };
    const struct wire_split_ledger b[] = {
        {.split = 0, .finished_low = 13, .finished = more, .finished_bytes = 2},
        {.split = 2, .finished_low = 9},
        {.split = 3, .finished_low = 100},
    };
    struct ctl_finished of_a = ctl_finished_count(a, 3), of_b = ctl_finished_count(b, 3);

    (void)state;
    assert_int_equal(of_a.batches, 10 + 2 + 5 + 1); /* 12 and 14; 23 */
    assert_int_equal(of_a.holes, 3 + 23);
    assert_int_equal(of_b.batches, 13 + 9 + 9 + 100);
    assert_int_equal(of_b.holes, 0);
    assert_int_equal(ctl_finished_both(a, 3, b, 3), 10 + 2 + 1);
    assert_int_equal(ctl_finished_both(b, 3, a, 3), 10 + 2 + 1);
    assert_int_equal(ctl_finished_both(a, 3, a, 3), of_a.batches);
    assert_int_equal(ctl_finished_both(a, 3, b, 0), 0);
}

/* ---- tensors ---- */

static char told[1024];

static void tell(void *ctx, const struct ctl_tensor_diff *diff)
{
    size_t at = strlen(told);

    (void)ctx;
    snprintf(told + at, sizeof(told) - at, "%s:%s%s%s %llu of %llu by %g; ", diff->name,
             diff->only_a ? " a" : "", diff->only_b ? " b" : "", diff->other_shape ? " shape" : "",
             (unsigned long long)diff->different, (unsigned long long)diff->values, diff->largest);
}

static struct rt_safetensors *tensors(const char *name, const struct rt_tensor *tensor, size_t n)
{
    char *path = path_of(name, NULL);
    struct rt_safetensors *file;

    assert_int_equal(rt_safetensors_write(path, NULL, 0, tensor, n), 0);
    assert_int_equal(rt_safetensors_open(path, &file), 0);
    assert_int_equal(unlink(path), 0);
    rt_free(path);
    return file;
}

static void tensors_beside_each_other(void **state)
{
    const float x[] = {1, 2, 3, 4}, y[] = {1, 2.5F, 3, 2}, nan_y[] = {1, NAN, 3, 9};
    const uint16_t h[] = {1, 2};
    const uint16_t g[] = {1, 3};
    const struct rt_tensor of_a[] = {
        {.name = "same", .rank = 1, .shape = {4}, .data = x},
        {.name = "other", .rank = 1, .shape = {4}, .data = x},
        {.name = "not", .rank = 1, .shape = {4}, .data = x},
        {.name = "half", .type = RT_TENSOR_F16, .rank = 1, .shape = {2}, .data = h},
        {.name = "flat", .rank = 1, .shape = {4}, .data = x},
        {.name = "gone", .rank = 1, .shape = {4}, .data = x}};
    const struct rt_tensor of_b[] = {
        {.name = "half", .type = RT_TENSOR_F16, .rank = 1, .shape = {2}, .data = g},
        {.name = "same", .rank = 1, .shape = {4}, .data = x},
        {.name = "other", .rank = 1, .shape = {4}, .data = y},
        {.name = "not", .rank = 1, .shape = {4}, .data = nan_y},
        {.name = "flat", .rank = 2, .shape = {2, 2}, .data = x},
        {.name = "new", .rank = 1, .shape = {2}, .data = x}};
    struct rt_safetensors *a = tensors("a", of_a, ARRAY_LEN(of_a));
    struct rt_safetensors *b = tensors("b", of_b, ARRAY_LEN(of_b));

    (void)state;
    assert_int_equal(ctl_diff_tensors(a, b, tell, NULL), 6);
    assert_string_equal(told, "same: 0 of 4 by 0; other: 2 of 4 by 2; not: 2 of 4 by nan; "
                              "half: 1 of 2 by 0; flat: shape 0 of 4 by 0; gone: a 0 of 4 by 0; "
                              "new: b 0 of 2 by 0; ");
    assert_int_equal(ctl_diff_tensors(a, a, tell, NULL), 0);
    rt_safetensors_close(a);
    rt_safetensors_close(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(newest_first_and_by_name),   cmocka_unit_test(what_is_not_there),
        cmocka_unit_test(whole_as_far_as_sizes_tell), cmocka_unit_test(one_process_writes),
        cmocka_unit_test(chains_are_folded),          cmocka_unit_test(without_memory),
        cmocka_unit_test(passes_fit_the_memory),      cmocka_unit_test(finished_batches),
        cmocka_unit_test(tensors_beside_each_other),
    };

    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
