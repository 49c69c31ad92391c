/* tests/unit/test_load.c -- rows from disk that are not loaded, or into owners that serve: files that are wrong, of another save or of
 * another optimizer, each told by its name; and imports. Rows that are loaded: test_save.c. */
#include "embedding_server/import.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "runtime/job/safetensors.h"
#include "tests/unit/save_bed.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

/* ---- into owners that serve ---- */

static struct ebs_import imports[SAVE_BED_OWNERS];

static void look_at_imports(void *arg)
{
    bool working = false;

    (void)arg;
    for (uint32_t o = 0; o < save_bed.owners; o++)
        working |= atomic_load(&imports[o].state) == EBS_IMPORT_WORKING;
    if (working)
        rt_timer_start(rt_loop_io(save_bed.loop), &save_bed.look, 1000000);
    else
        rt_loop_stop(save_bed.loop);
}

/* @return the state of all */
static int import_all(bool check, bool replace)
{
    int state = EBS_IMPORT_DONE;

    for (uint32_t o = 0; o < save_bed.owners; o++) {
        imports[o] = (struct ebs_import){.dir = save_bed.dir, .check = check, .replace = replace};
        ebs_owner_import(save_bed.owner[o], &imports[o]);
    }
    save_bed.look = (struct rt_timer){.fire = look_at_imports};
    rt_timer_start(rt_loop_io(save_bed.loop), &save_bed.look, 0);
    assert_int_equal(rt_loop_run(save_bed.loop), 0);
    rt_timer_stop(rt_loop_io(save_bed.loop), &save_bed.look);
    for (uint32_t o = 0; o < save_bed.owners; o++)
        if (atomic_load(&imports[o].state) != EBS_IMPORT_DONE)
            state = atomic_load(&imports[o].state);
    return state;
}

/* Owners that have other rows, and other weights in some of the same. */
static void open_with_others(uint32_t n)
{
    float row[EBS_DIM_MAX] = {5, 6, 7};

    save_bed_open(n);
    for (uint32_t i = 0; i < 2000; i++) {
        uint64_t id = i % 2 ? save_bed_id(i) : rt_draw(77, i);

        assert_int_equal(ebs_table_put(save_bed.owner[save_bed_owner_of(id)]->table[SAVE_BED_WIDE],
                                       id, row, row),
                         0);
    }
}

static uint64_t rows_of(int table)
{
    uint64_t rows = 0;

    for (uint32_t o = 0; o < save_bed.owners; o++)
        rows += ebs_table_rows(save_bed.owner[o]->table[table]);
    return rows;
}

static void stop(void *arg)
{
    (void)arg;
    rt_loop_stop(save_bed.loop);
}

/* The loop ends in the midst of it, and its worker with it. */
static void check_ended(void)
{
    imports[0] = (struct ebs_import){.dir = save_bed.dir, .replace = true};
    ebs_owner_import(save_bed.owner[0], &imports[0]);
    save_bed.look = (struct rt_timer){.fire = stop};
    rt_timer_start(rt_loop_io(save_bed.loop), &save_bed.look, 0);
    assert_int_equal(rt_loop_run(save_bed.loop), 0);
    save_bed_close();
    assert_int_equal(atomic_load(&imports[0].state), EBS_IMPORT_FAILED);
    assert_string_equal(imports[0].error, "the embedding server stops");
}

static void rows_are_imported(void **state)
{
    (void)state;
    save_bed_save_of(2);
    for (uint32_t owners = 1; owners <= 3; owners += 2) {
        open_with_others(owners);
        assert_int_equal(import_all(true, true), EBS_IMPORT_DONE);
        assert_int_equal(rows_of(SAVE_BED_WIDE), 2000); /* nothing but checked */
        assert_int_equal(imports[0].rows, 2 * SAVE_BED_ROWS);
        assert_int_equal(import_all(false, false), EBS_IMPORT_DONE);
        assert_int_equal(rows_of(SAVE_BED_WIDE), SAVE_BED_ROWS + 1000);
        save_bed_check_state(SAVE_BED_ROWS, 7, true); /* begins anew, of rows that were there too */
        assert_int_equal(import_all(false, true), EBS_IMPORT_DONE);
        save_bed_check_rows();
        check_ended();
    }
}

/* Found when it is checked: no row has changed. */
static void bad_models_are_not_imported(void **state)
{
    char *path = rt_save_table_path(save_bed.dir, "item", 0, 0);

    (void)state;
    save_bed_save_of(1);
    assert_int_equal(truncate(path, 5000), 0);
    open_with_others(2);
    assert_int_equal(import_all(true, true), EBS_IMPORT_FAILED);
    assert_non_null(strstr(imports[0].error, "/table.item.0.0.safetensors: no safetensors file"));
    assert_int_equal(rows_of(SAVE_BED_WIDE), 2000);
    save_bed_close();
    rt_free(path);
}

/* ---- what is refused ---- */

#define ITEM "/table.item.0.0.safetensors"

/* table.item.0.0 with rows of [n][dim], one of them bad; notes as given. */
static void write_item(const char *table, const char *owners, uint32_t dim, float bad, uint64_t id0)
{
    float row[16] = {bad};
    uint64_t id[2] = {id0, 5};
    char *path = rt_save_table_path(save_bed.dir, "item", 0, 0);
    struct rt_tensor tensor[] = {
        {.name = "rows", .type = RT_TENSOR_F32, .rank = 2, .shape = {2, dim}, .data = row},
        {.name = "ids", .type = RT_TENSOR_I64, .rank = 1, .shape = {2}, .data = id}};
    struct rt_tensor_note note[] = {{"table", table}, {"owners", owners}, {"last", "true"}};

    assert_int_equal(rt_safetensors_write(path, note, 3, tensor, 2), 0);
    rt_free(path);
}

static void expect(int err, const char *words)
{
    struct ebs_loaded loaded;
    int got;

    save_bed_open(1);
    got = ebs_load(save_bed.dir, false, save_bed.owner, 1, &loaded);
    if (got != err || (err && !strstr(rt_err_text(), words)))
        fail_msg("%d \"%s\", expected %d \"%s\"", got, got ? rt_err_text() : "", err, words);
    save_bed_close();
}

static void bad_parts_are_named(void **state)
{
    char *path = rt_save_table_path(save_bed.dir, "item", 0, 0);

    (void)state;
    save_bed_save_of(1);
    write_item("item", "1", 5, 1.0f, 4);
    expect(0, "");
    write_item("items", "1", 5, 1.0f, 4);
    expect(RT_EUSAGE, ITEM ": its note 'table': expected 'item', got 'items'");
    write_item("item", "0", 5, 1.0f, 4);
    expect(RT_EDATA, ITEM ": its note 'owners': expected 1..65536, got '0'");
    write_item("item", "2", 5, 1.0f, 4);
    expect(RT_EUSAGE, ITEM ": is of 2 owners, but ");
    write_item("item", "1", 4, 1.0f, 4);
    expect(RT_EUSAGE, ITEM ": tensor 'rows': expected F32, F16 or BF16 of [2, 5], as many as ids "
                           "and the dim of table item, got F32 of [2, 4]");
    write_item("item", "1", 5, INFINITY, 4);
    expect(RT_EDATA, ITEM ": the row of id 4 has a value that is not finite");
    assert_int_equal(rt_file_write(path, "x", 1), 0);
    expect(RT_EDATA, ITEM ": no safetensors file");
    write_item("item", "1", 5, 1.0f, 4);
    save_bed_table[SAVE_BED_HALF].eviction = (struct rt_eviction_conf){.rows = 1};
    expect(RT_ELIMIT, ITEM ": table item: an owner has room for 1 rows, and there are more");
    save_bed_table[SAVE_BED_HALF].eviction = (struct rt_eviction_conf){0};
    assert_int_equal(remove(path), 0);
    expect(RT_EFILE, ITEM ": cannot be opened: No such file");
    rt_free(path);
}

/* table.item.0.0 of one row with a slot of state; `note` NULL: of none. */
static void write_state(const char *note, const char *slot, enum rt_tensor_type type, uint32_t dim,
                        float value)
{
    float row[5] = {1}, floats[16];
    uint64_t id = 4;
    char *path = rt_save_table_path(save_bed.dir, "item", 0, 0);
    struct rt_tensor tensor[] = {
        {.name = "rows", .type = RT_TENSOR_F32, .rank = 2, .shape = {1, 5}, .data = row},
        {.name = "ids", .type = RT_TENSOR_I64, .rank = 1, .shape = {1}, .data = &id},
        {.name = slot, .type = type, .rank = 2, .shape = {1, dim}, .data = floats}};
    struct rt_tensor_note notes[] = {
        {"table", "item"}, {"owners", "1"}, {"last", "true"}, {RT_SAVE_OPTIMIZER, note}};

    for (size_t i = 0; i < ARRAY_LEN(floats); i++)
        floats[i] = value;
    assert_int_equal(rt_safetensors_write(path, notes, note ? 4 : 3, tensor, 3), 0);
    rt_free(path);
}

static void other_state_is_named(void **state)
{
    struct rt_sparse_optimizer_conf before = save_bed_table[SAVE_BED_HALF].optimizer;

    (void)state;
    save_bed.with_state = true;
    save_bed_save_of(1);
    write_state(NULL, "state.sum", RT_TENSOR_F32, 5, 2.0f);
    expect(RT_EUSAGE, ITEM ": was saved without the optimizer's state, but ");
    save_bed.with_state = false;
    save_bed_save_of(1);
    save_bed_table[SAVE_BED_HALF].optimizer =
        (struct rt_sparse_optimizer_conf){.kind = RT_OPT_ADAGRAD, .learning_rate = 1, .eps = 1e-8};
    write_state(NULL, "state.sum", RT_TENSOR_BF16, 3, NAN); /* nobody looks */
    expect(0, "");
    write_state("adagrad", "state.sum", RT_TENSOR_F32, 5, 2.0f);
    expect(RT_EUSAGE, ITEM ": was saved with the optimizer's state, but ");
    assert_non_null(strstr(rt_err_text(), ".0.0.safetensors without: expected all parts alike, or "
                                          "global.load_state=false"));
    save_bed_table[SAVE_BED_HALF].optimizer = before;
    save_bed.with_state = true;
    save_bed_save_of(1);
    save_bed.with_state = false;
    save_bed_table[SAVE_BED_HALF].optimizer =
        (struct rt_sparse_optimizer_conf){.kind = RT_OPT_ADAGRAD, .learning_rate = 1, .eps = 1e-8};
    write_state("adagrad", "state.sum", RT_TENSOR_F32, 5, 2.0f);
    expect(0, "");
    write_state("adam", "state.sum", RT_TENSOR_F32, 5, 2.0f);
    expect(RT_EUSAGE, ITEM ": has the optimizer's state of 'adam', table item has 'adagrad': "
                           "expected the same, or global.load_state=false");
    write_state("adagrad", "state.sums", RT_TENSOR_F32, 5, 2.0f);
    expect(RT_EUSAGE, ITEM ": tensor 'state.sum': expected F32 of [1, 5], and there is none");
    write_state("adagrad", "state.sum", RT_TENSOR_F32, 4, 2.0f);
    expect(RT_EUSAGE, ITEM ": tensor 'state.sum': expected F32 of [1, 5], got F32 of [1, 4]");
    write_state("adagrad", "state.sum", RT_TENSOR_BF16, 5, 2.0f);
    expect(RT_EUSAGE, ITEM ": tensor 'state.sum': expected F32 of [1, 5], got BF16 of [1, 5]");
    write_state("adagrad", "state.sum", RT_TENSOR_F32, 5, -1.0f);
    expect(RT_EDATA, ITEM ": the row of id 4 has optimizer state that is not finite, or a sum of "
                          "squares below 0");
    write_state("adagrad", "state.sum", RT_TENSOR_F32, 5, INFINITY);
    expect(RT_EDATA, ITEM ": the row of id 4 has optimizer state that is not finite");
    save_bed_table[SAVE_BED_HALF].optimizer = (struct rt_sparse_optimizer_conf){
        .kind = RT_OPT_FTRL, .learning_rate = 0.05, .ftrl_beta = 1};
    write_state("ftrl learning_rate=0.1 beta=1", "state.z", RT_TENSOR_F32, 5, 2.0f);
    expect(RT_EUSAGE, "of 'ftrl learning_rate=0.1 beta=1', table item has 'ftrl "
                      "learning_rate=0.05 beta=1'");
    save_bed_table[SAVE_BED_HALF].optimizer = before;
}

/* Every read and every allocation that can fail, once. */
static void failures_are_told(void **state)
{
    struct ebs_loaded loaded;
    int err;

    (void)state;
    save_bed.with_state = true;
    save_bed_save_of(2);
    save_bed.with_state = false;
    for (int64_t nth = 0;; nth++) {
        save_bed_open(1);
        rt_fault_alloc(nth);
        err = ebs_load(save_bed.dir, false, save_bed.owner, 1, &loaded);
        bool hit = rt_fault_hit();
        rt_fault_alloc(-1);
        if (hit && err != RT_ENOMEM && err != RT_EFILE)
            fail_msg("%d: %d \"%s\"", (int)nth, err, err ? rt_err_text() : "");
        save_bed_close();
        if (!hit)
            break;
        assert_true(nth < 10000);
    }
    assert_int_equal(err, 0);
    assert_int_equal(loaded.rows, 2 * SAVE_BED_ROWS);
}

/* A file of another save, of as many owners or not, or under another's name, is no part of this one. */
static void two_saves(void **state)
{
    char *item[2] = {rt_save_table_path(save_bed.dir, "item", 0, 0),
                     rt_save_table_path(save_bed.dir, "item", 0, 1)};
    char *kept = rt_path_join(save_bed.dir, "kept"), *dense = rt_save_dense_path(save_bed.dir);
    struct rt_tensor_note note = {RT_SAVE_NOTE, "model-1"};

    (void)state;
    save_bed.id = "model-1";
    save_bed_save_of(1);
    expect(0, "");
    assert_int_equal(rt_safetensors_write(dense, &note, 1, NULL, 0), 0);
    expect(0, "");
    assert_int_equal(rename(item[0], kept), 0);
    assert_int_equal(rename(item[1], item[0]), 0);
    expect(RT_EUSAGE, ITEM ": its note 'part': expected 0, as the file is called, got '1'");
    save_bed.id = "model-2";
    save_bed_save_of(1);
    expect(RT_EUSAGE, ": is of the save 'model-2', but ");
    assert_non_null(strstr(rt_err_text(), "/dense.safetensors of 'model-1': expected one"));
    assert_int_equal(remove(dense), 0);
    expect(0, "");
    assert_int_equal(rename(kept, item[0]), 0);
    expect(RT_EUSAGE, ITEM ": is of the save 'model-1', but ");
    save_bed.id = NULL;
    for (int i = 0; i < 2; i++)
        rt_free(item[i]);
    rt_free(kept);
    rt_free(dense);
}
int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(bad_parts_are_named, save_bed_folder),
        cmocka_unit_test_setup(other_state_is_named, save_bed_folder),
        cmocka_unit_test_setup(failures_are_told, save_bed_folder),
        cmocka_unit_test_setup(two_saves, save_bed_folder),
        cmocka_unit_test_setup(rows_are_imported, save_bed_folder),
        cmocka_unit_test_setup(bad_models_are_not_imported, save_bed_folder),
    };
    return cmocka_run_group_tests_name("load", tests, NULL, NULL);
}
