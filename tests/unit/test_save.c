/* tests/unit/test_save.c -- an owner's rows to disk and back: every row once, bit for bit, whoever saves and whoever loads. */
#include "embedding_server/load.h"
#include "embedding_server/serve.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/half.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "runtime/job/safetensors.h"
#include "runtime/net/loop.h"
#include "runtime/wire/member.h"
#include "tests/lib/temp.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>
#include <cmocka.h>

#define OWNERS_MAX 4u
#define ROWS       5000u
#define PART       ((size_t)16 << 10) /* bytes: some dozens of parts */
#ifdef RT_DEBUG
#define TURN_MAX 100000000u /* ns; sanitizers take their time */
#define MANY     100000u
#else
#define TURN_MAX 10000000u
#define MANY     1000000u
#endif

enum { WIDE, HALF, NONE, TABLES };

static struct rt_table_conf tables[TABLES] = {
    [WIDE] = {.name = "user/\xc3\xa4.x",
              .dim = 7,
              .init = {.kind = RT_INIT_CONSTANT, .value = 0.5},
              .optimizer = {.kind = RT_OPT_ADAGRAD, .learning_rate = 1.0, .eps = 1e-8},
              .admission = {.kind = RT_ADMIT_COUNT, .count = 3, .sketch_bytes = 1 << 16}},
    [HALF] = {.name = "item",
              .dim = 5,
              .dtype = WIRE_BF16,
              .init = {.kind = RT_INIT_CONSTANT, .value = 0.0},
              .optimizer = {.kind = RT_OPT_SGD, .learning_rate = 1.0}},
    [NONE] = {.name = "empty",
              .dim = 1,
              .init = {.kind = RT_INIT_CONSTANT, .value = 0.0},
              .optimizer = {.kind = RT_OPT_SGD, .learning_rate = 1.0}},
};

static struct {
    char dir[TEMP_PATH_MAX];
    struct rt_job job;
    struct rt_loop *loop;
    struct rt_shard_map shards;
    struct ebs_owner *owner[OWNERS_MAX];
    uint32_t owners;
    uv_prepare_t turn_end;
    uint64_t turn_began, turn_longest, turns; /* ns of this thread's CPU */
    size_t part;                              /* bytes */
    uint64_t memory;                          /* of an owner; 0: any */
    const char *id;                           /* of the save */
    bool with_state;
    struct rt_save save[OWNERS_MAX];
    struct rt_timer look;
} bed;

/* ---- owners ---- */

static void open_owners(uint32_t n)
{
    bed.job.table = tables;
    bed.job.n_tables = TABLES;
    bed.job.global.heartbeat_ms = 1000;
    bed.job.global.dead_ms = 5000;
    bed.owners = n;
    assert_int_equal(rt_shard_map_init(&bed.shards, n, 1), 0);
    assert_int_equal(rt_loop_create(&(struct rt_loop_conf){.name = "test"}, &bed.loop), 0);
    for (uint32_t o = 0; o < n; o++) {
        struct ebs_owner_conf conf = {.io = rt_loop_io(bed.loop),
                                      .job = &bed.job,
                                      .shards = &bed.shards,
                                      .owner = o,
                                      .greeting = &wire_greeting,
                                      .listen = "tcp:127.0.0.1:0",
                                      .memory = bed.memory,
                                      .save_bytes = bed.part ? bed.part : PART};
        if (ebs_owner_create(&conf, &bed.owner[o]) != 0)
            fail_msg("%s", rt_err_text());
    }
}

static void close_owners(void)
{
    for (uint32_t o = 0; o < bed.owners; o++)
        ebs_owner_destroy(bed.owner[o]);
    rt_loop_destroy(bed.loop);
    bed.owners = 0;
}

static int make_folder(void **state)
{
    (void)state;
    temp_folder(bed.dir);
    return 0;
}

/* ---- rows ---- */

static uint64_t id_of(uint32_t i)
{
    return i < 2 ? (uint64_t) - (int64_t)i : rt_draw(3, i); /* 0 and the largest too */
}

static void row_of(int table, uint64_t id, float *out)
{
    for (uint32_t d = 0; d < tables[table].dim; d++) /* 8 bits: exact in bfloat16 too */
        out[d] = (float)(int)rt_below(rt_draw(id, d), 255) / 64.0f - 1.0f;
}

static uint32_t owner_of(uint64_t id)
{
    return rt_shard_owner(&bed.shards, rt_shard_of(id));
}

static void fill(void)
{
    float row[EBS_DIM_MAX];

    for (int t = 0; t < NONE; t++)
        for (uint32_t i = 0; i < ROWS; i++) {
            row_of(t, id_of(i), row);
            assert_int_equal(
                ebs_table_put(bed.owner[owner_of(id_of(i))]->table[t], id_of(i), row, NULL), 0);
        }
}

/* Every id's row is at its owner, which has no other, and nobody else has one. */
static void check_rows(void)
{
    float want[EBS_DIM_MAX], got[EBS_DIM_MAX];

    for (int t = 0; t < TABLES; t++) {
        uint64_t rows = 0;

        for (uint32_t o = 0; o < bed.owners; o++)
            rows += ebs_table_rows(bed.owner[o]->table[t]);
        assert_int_equal(rows, t == NONE ? 0 : ROWS);
        for (uint32_t i = 0; i < rows; i++) {
            uint64_t id = id_of(i);

            row_of(t, id, want);
            assert_int_equal(ebs_table_lookup(bed.owner[owner_of(id)]->table[t], &id, 1, got), 1);
            assert_memory_equal(got, want, tables[t].dim * sizeof(float));
        }
    }
}

/* ---- saving ---- */

static void look(void *arg)
{
    bool writing = false;

    (void)arg;
    for (uint32_t o = 0; o < bed.owners; o++)
        writing |= atomic_load(&bed.save[o].state) == RT_SAVE_WRITING;
    if (writing)
        rt_timer_start(rt_loop_io(bed.loop), &bed.look, 1000000);
    else
        rt_loop_stop(bed.loop);
}

static void save_all(const char *dir)
{
    for (uint32_t o = 0; o < bed.owners; o++) {
        memset(&bed.save[o], 0, sizeof(bed.save[o]));
        bed.save[o].dir = dir;
        bed.save[o].id = bed.id;
        bed.save[o].with_state = bed.with_state;
        atomic_init(&bed.save[o].state, RT_SAVE_WRITING);
        ebs_owner_save(bed.owner[o], &bed.save[o]);
    }
    bed.look = (struct rt_timer){.fire = look};
    rt_timer_start(rt_loop_io(bed.loop), &bed.look, 0);
    assert_int_equal(rt_loop_run(bed.loop), 0);
    rt_timer_stop(rt_loop_io(bed.loop), &bed.look);
}

static void save_of(uint32_t owners)
{
    uint64_t files = 0, bytes = 0;

    open_owners(owners);
    fill();
    save_all(bed.dir);
    for (uint32_t o = 0; o < owners; o++) {
        if (atomic_load(&bed.save[o].state) != RT_SAVE_DONE)
            fail_msg("%s", bed.save[o].error);
        files += atomic_load(&bed.save[o].files);
        bytes += atomic_load(&bed.save[o].bytes);
    }
    assert_int_equal(bytes, ROWS * (8 + 7 * 4) + ROWS * (8 + 5 * 2) +
                                (bed.with_state ? ROWS * 7 * 4 : 0)); /* WIDE has Adagrad's */
    assert_true(files > ROWS * 36 / PART);
    close_owners();
}

static void any_number_saves_any_number_loads(void **state)
{
    static const struct {
        uint32_t saves, loads;
    } row[] = {{1, 1}, {1, 3}, {4, 1}, {3, 4}};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct ebs_loaded all, one;
        uint64_t rows = 0;

        save_of(row[i].saves);
        open_owners(row[i].loads); /* as one server of so many workers */
        if (ebs_load(bed.dir, false, bed.owner, bed.owners, &all) != 0)
            fail_msg("%s", rt_err_text());
        assert_int_equal(all.rows, 2 * ROWS);
        check_rows();
        close_owners();
        open_owners(row[i].loads); /* as so many servers */
        for (uint32_t o = 0; o < bed.owners; o++) {
            assert_int_equal(ebs_load(bed.dir, false, &bed.owner[o], 1, &one), 0);
            assert_int_equal(one.files, all.files);
            rows += one.rows;
        }
        assert_int_equal(rows, 2 * ROWS);
        check_rows();
        close_owners();
    }
}

/* A row that was loaded is as a new one but for its weights. */
static void state_is_initial(void **state)
{
    uint64_t id = id_of(17);
    float row[EBS_DIM_MAX], zero[7] = {0};
    struct ebs_row got;

    (void)state;
    open_owners(1);
    row_of(WIDE, id, row);
    assert_int_equal(ebs_table_put(bed.owner[0]->table[WIDE], id, row, NULL), 0);
    assert_true(ebs_table_get(bed.owner[0]->table[WIDE], id, &got));
    assert_memory_equal(got.weight, row, sizeof(zero));
    assert_memory_equal(got.state, zero, sizeof(zero));
    row[3] = 77.0f; /* again: in its place */
    assert_int_equal(ebs_table_put(bed.owner[0]->table[WIDE], id, row, NULL), 0);
    assert_true(ebs_table_get(bed.owner[0]->table[WIDE], id, &got));
    assert_memory_equal(got.weight, row, sizeof(zero));
    assert_int_equal(ebs_table_rows(bed.owner[0]->table[WIDE]), 1);
    assert_int_equal(ebs_table_counts(bed.owner[0]->table[WIDE])->created, 1);
    close_owners();
}

/* ---- optimizers' state ---- */

static void state_of(uint64_t id, uint32_t n, float *out)
{
    for (uint32_t i = 0; i < n; i++)
        out[i] = (float)rt_below(rt_draw(id, 100 + i), 1000) / 7.0f;
}

static void put_with_state(uint32_t rows, uint32_t n)
{
    float row[EBS_DIM_MAX], floats[EBS_DIM_MAX];

    for (uint32_t i = 0; i < rows; i++) {
        row_of(WIDE, id_of(i), row);
        state_of(id_of(i), n, floats);
        assert_int_equal(ebs_table_put(bed.owner[owner_of(id_of(i))]->table[WIDE], id_of(i), row,
                                       i % 2 ? floats : NULL),
                         0);
        assert_int_equal(
            ebs_table_put(bed.owner[owner_of(id_of(i))]->table[WIDE], id_of(i), row, floats), 0);
    }
}

static void check_state(uint32_t rows, uint32_t n, bool fresh)
{
    float want[EBS_DIM_MAX] = {0};
    struct ebs_row got;

    for (uint32_t i = 0; i < rows; i++) {
        uint64_t id = id_of(i);

        if (!fresh)
            state_of(id, n, want);
        assert_true(ebs_table_get(bed.owner[owner_of(id)]->table[WIDE], id, &got));
        assert_memory_equal(got.state, want, n * sizeof(*want));
    }
}

/* Of every optimizer, by any number of owners; or it is left where it is. */
static void state_goes_with_its_rows(void **state)
{
    static const struct {
        enum rt_optimizer_kind kind;
        uint32_t floats, saves, loads;
        bool fresh;
    } row[] = {{RT_OPT_SGD, 0, 2, 3, false},   {RT_OPT_ADAGRAD, 7, 1, 3, false},
               {RT_OPT_ADAM, 14, 3, 1, false}, {RT_OPT_ROWWISE_ADAGRAD, 1, 2, 2, false},
               {RT_OPT_FTRL, 14, 2, 1, false}, {RT_OPT_ADAM, 14, 1, 2, true}};
    enum { N = 700 };
    struct ebs_loaded loaded;

    (void)state;
    bed.with_state = true;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        temp_folder(bed.dir);
        tables[WIDE].optimizer.kind = row[i].kind;
        open_owners(row[i].saves);
        put_with_state(N, row[i].floats);
        save_all(bed.dir);
        for (uint32_t o = 0; o < bed.owners; o++)
            assert_int_equal(atomic_load(&bed.save[o].state), RT_SAVE_DONE);
        close_owners();
        open_owners(row[i].loads);
        if (ebs_load(bed.dir, row[i].fresh, bed.owner, bed.owners, &loaded) != 0)
            fail_msg("row %zu: %s", i, rt_err_text());
        assert_int_equal(loaded.rows, N);
        assert_int_equal(loaded.with_state, row[i].fresh ? 0 : N);
        check_state(N, row[i].floats, row[i].fresh);
        close_owners();
    }
    bed.with_state = false;
    tables[WIDE].optimizer.kind = RT_OPT_ADAGRAD;
}

/* ---- into owners that serve ---- */

static struct ebs_import imports[OWNERS_MAX];

static void look_at_imports(void *arg)
{
    bool working = false;

    (void)arg;
    for (uint32_t o = 0; o < bed.owners; o++)
        working |= atomic_load(&imports[o].state) == EBS_IMPORT_WORKING;
    if (working)
        rt_timer_start(rt_loop_io(bed.loop), &bed.look, 1000000);
    else
        rt_loop_stop(bed.loop);
}

/* @return the state of all */
static int import_all(bool check, bool replace)
{
    int state = EBS_IMPORT_DONE;

    for (uint32_t o = 0; o < bed.owners; o++) {
        imports[o] = (struct ebs_import){.dir = bed.dir, .check = check, .replace = replace};
        ebs_owner_import(bed.owner[o], &imports[o]);
    }
    bed.look = (struct rt_timer){.fire = look_at_imports};
    rt_timer_start(rt_loop_io(bed.loop), &bed.look, 0);
    assert_int_equal(rt_loop_run(bed.loop), 0);
    rt_timer_stop(rt_loop_io(bed.loop), &bed.look);
    for (uint32_t o = 0; o < bed.owners; o++)
        if (atomic_load(&imports[o].state) != EBS_IMPORT_DONE)
            state = atomic_load(&imports[o].state);
    return state;
}

/* Owners that have other rows, and other weights in some of the same. */
static void open_with_others(uint32_t n)
{
    float row[EBS_DIM_MAX] = {5, 6, 7};

    open_owners(n);
    for (uint32_t i = 0; i < 2000; i++) {
        uint64_t id = i % 2 ? id_of(i) : rt_draw(77, i);

        assert_int_equal(ebs_table_put(bed.owner[owner_of(id)]->table[WIDE], id, row, row), 0);
    }
}

static uint64_t rows_of(int table)
{
    uint64_t rows = 0;

    for (uint32_t o = 0; o < bed.owners; o++)
        rows += ebs_table_rows(bed.owner[o]->table[table]);
    return rows;
}

static void rows_are_imported(void **state)
{
    (void)state;
    save_of(2);
    for (uint32_t owners = 1; owners <= 3; owners += 2) {
        open_with_others(owners);
        assert_int_equal(import_all(true, true), EBS_IMPORT_DONE);
        assert_int_equal(rows_of(WIDE), 2000); /* nothing but checked */
        assert_int_equal(imports[0].rows, 2 * ROWS);
        assert_int_equal(import_all(false, false), EBS_IMPORT_DONE);
        assert_int_equal(rows_of(WIDE), ROWS + 1000);
        check_state(ROWS, 7, true); /* begins anew, of rows that were there too */
        assert_int_equal(import_all(false, true), EBS_IMPORT_DONE);
        check_rows();
        /* Ended in the midst of it. */
        imports[0] = (struct ebs_import){.dir = bed.dir, .replace = true};
        ebs_owner_import(bed.owner[0], &imports[0]);
        close_owners();
        assert_int_equal(atomic_load(&imports[0].state), EBS_IMPORT_FAILED);
        assert_string_equal(imports[0].error, "the embedding server stops");
    }
}

/* Found when it is checked: no row has changed. */
static void bad_models_are_not_imported(void **state)
{
    char *path = rt_save_table_path(bed.dir, "item", 0, 0);

    (void)state;
    save_of(1);
    assert_int_equal(truncate(path, 5000), 0);
    open_with_others(2);
    assert_int_equal(import_all(true, true), EBS_IMPORT_FAILED);
    assert_non_null(strstr(imports[0].error, "/table.item.0.0.safetensors: no safetensors file"));
    assert_int_equal(rows_of(WIDE), 2000);
    close_owners();
    rt_free(path);
}

/* ---- what is refused ---- */

#define ITEM "/table.item.0.0.safetensors"

/* table.item.0.0 with rows of [n][dim], one of them bad; notes as given. */
static void write_item(const char *table, const char *owners, uint32_t dim, float bad, uint64_t id0)
{
    float row[16] = {bad};
    uint64_t id[2] = {id0, 5};
    char *path = rt_save_table_path(bed.dir, "item", 0, 0);
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

    open_owners(1);
    got = ebs_load(bed.dir, false, bed.owner, 1, &loaded);
    if (got != err || (err && !strstr(rt_err_text(), words)))
        fail_msg("%d \"%s\", expected %d \"%s\"", got, got ? rt_err_text() : "", err, words);
    close_owners();
}

static void bad_parts_are_named(void **state)
{
    char *path = rt_save_table_path(bed.dir, "item", 0, 0);

    (void)state;
    save_of(1);
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
    tables[HALF].eviction = (struct rt_eviction_conf){.rows = 1};
    expect(RT_ELIMIT, ITEM ": table item: an owner has room for 1 rows, and there are more");
    tables[HALF].eviction = (struct rt_eviction_conf){0};
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
    char *path = rt_save_table_path(bed.dir, "item", 0, 0);
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
    struct rt_sparse_optimizer_conf before = tables[HALF].optimizer;

    (void)state;
    bed.with_state = true;
    save_of(1);
    write_state(NULL, "state.sum", RT_TENSOR_F32, 5, 2.0f);
    expect(RT_EUSAGE, ITEM ": was saved without the optimizer's state, but ");
    bed.with_state = false;
    save_of(1);
    tables[HALF].optimizer =
        (struct rt_sparse_optimizer_conf){.kind = RT_OPT_ADAGRAD, .learning_rate = 1, .eps = 1e-8};
    write_state(NULL, "state.sum", RT_TENSOR_BF16, 3, NAN); /* nobody looks */
    expect(0, "");
    write_state("adagrad", "state.sum", RT_TENSOR_F32, 5, 2.0f);
    expect(RT_EUSAGE, ITEM ": was saved with the optimizer's state, but ");
    assert_non_null(strstr(rt_err_text(), ".0.0.safetensors without: expected all parts alike, or "
                                          "global.load_state=false"));
    tables[HALF].optimizer = before;
    bed.with_state = true;
    save_of(1);
    bed.with_state = false;
    tables[HALF].optimizer =
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
    tables[HALF].optimizer = (struct rt_sparse_optimizer_conf){
        .kind = RT_OPT_FTRL, .learning_rate = 0.05, .ftrl_beta = 1};
    write_state("ftrl learning_rate=0.1 beta=1", "state.z", RT_TENSOR_F32, 5, 2.0f);
    expect(RT_EUSAGE, "of 'ftrl learning_rate=0.1 beta=1', table item has 'ftrl "
                      "learning_rate=0.05 beta=1'");
    tables[HALF].optimizer = before;
}

/* Every read and every allocation that can fail, once. */
static void failures_are_told(void **state)
{
    struct ebs_loaded loaded;
    int err;

    (void)state;
    bed.with_state = true;
    save_of(2);
    bed.with_state = false;
    for (int64_t nth = 0;; nth++) {
        open_owners(1);
        rt_fault_alloc(nth);
        err = ebs_load(bed.dir, false, bed.owner, 1, &loaded);
        bool hit = rt_fault_hit();
        rt_fault_alloc(-1);
        if (hit && err != RT_ENOMEM && err != RT_EFILE)
            fail_msg("%d: %d \"%s\"", (int)nth, err, err ? rt_err_text() : "");
        close_owners();
        if (!hit)
            break;
        assert_true(nth < 10000);
    }
    assert_int_equal(err, 0);
    assert_int_equal(loaded.rows, 2 * ROWS);
}

/* A file of another save, of as many owners or not, or under another's name, is no part of this one. */
static void two_saves(void **state)
{
    char *item[2] = {rt_save_table_path(bed.dir, "item", 0, 0),
                     rt_save_table_path(bed.dir, "item", 0, 1)};
    char *kept = rt_path_join(bed.dir, "kept"), *dense = rt_save_dense_path(bed.dir);
    struct rt_tensor_note note = {RT_SAVE_NOTE, "model-1"};

    (void)state;
    bed.id = "model-1";
    save_of(1);
    expect(0, "");
    assert_int_equal(rt_safetensors_write(dense, &note, 1, NULL, 0), 0);
    expect(0, "");
    assert_int_equal(rename(item[0], kept), 0);
    assert_int_equal(rename(item[1], item[0]), 0);
    expect(RT_EUSAGE, ITEM ": its note 'part': expected 0, as the file is called, got '1'");
    bed.id = "model-2";
    save_of(1);
    expect(RT_EUSAGE, ": is of the save 'model-2', but ");
    assert_non_null(strstr(rt_err_text(), "/dense.safetensors of 'model-1': expected one"));
    assert_int_equal(remove(dense), 0);
    expect(0, "");
    assert_int_equal(rename(kept, item[0]), 0);
    expect(RT_EUSAGE, ITEM ": is of the save 'model-1', but ");
    bed.id = NULL;
    for (int i = 0; i < 2; i++)
        rt_free(item[i]);
    rt_free(kept);
    rt_free(dense);
}

/* Fewer owners, or others, have not room for all that was resident: what may be evicted is left out. */
static void surplus_is_left_out(void **state)
{
    struct ebs_loaded loaded;

    (void)state;
    save_of(4);
    tables[HALF].eviction = (struct rt_eviction_conf){.kind = RT_EVICT_LRU, .rows = ROWS / 2};
    open_owners(1);
    if (ebs_load(bed.dir, false, bed.owner, 1, &loaded) != 0)
        fail_msg("%s", rt_err_text());
    assert_int_equal(ebs_table_rows(bed.owner[0]->table[HALF]), ROWS / 2);
    assert_int_equal(loaded.rows, ROWS + ROWS / 2);
    assert_int_equal(loaded.left_out, ROWS - ROWS / 2);
    close_owners();
    /* So is what a smaller server has no memory for. */
    tables[HALF].eviction = (struct rt_eviction_conf){.kind = RT_EVICT_LRU};
    bed.memory = 550 << 10;
    open_owners(1);
    if (ebs_load(bed.dir, false, bed.owner, 1, &loaded) != 0)
        fail_msg("%s", rt_err_text());
    assert_true(loaded.left_out > 0 && loaded.rows > ROWS);
    assert_int_equal(loaded.rows + loaded.left_out, 2 * ROWS);
    close_owners();
    tables[HALF].eviction = (struct rt_eviction_conf){0};
    open_owners(1);
    assert_int_equal(ebs_load(bed.dir, false, bed.owner, 1, &loaded), RT_EFULL);
    assert_non_null(strstr(rt_err_text(), "global.embedding_server.memory has no room for more"));
    close_owners();
    bed.memory = 0;
}

/* One part that cannot be written ends the save, and the next one begins anew. */
static void a_save_that_fails(void **state)
{
    char *nowhere = rt_path_join(bed.dir, "nowhere");

    (void)state;
    open_owners(2);
    fill();
    save_all(nowhere);
    for (uint32_t o = 0; o < 2; o++) {
        assert_int_equal(atomic_load(&bed.save[o].state), RT_SAVE_FAILED);
        assert_non_null(strstr(bed.save[o].error, "cannot create: No such file"));
    }
    assert_int_equal(rt_mkdir_all(nowhere), 0);
    save_all(nowhere);
    assert_int_equal(atomic_load(&bed.save[0].state), RT_SAVE_DONE);
    assert_int_equal(atomic_load(&bed.save[1].state), RT_SAVE_DONE);
    /* Ended in the midst of it. */
    bed.save[0].state = RT_SAVE_WRITING;
    ebs_owner_save(bed.owner[0], &bed.save[0]);
    close_owners();
    assert_int_equal(atomic_load(&bed.save[0].state), RT_SAVE_FAILED);
    assert_string_equal(bed.save[0].error, "the embedding server stops");
    rt_free(nowhere);
}

/* ---- the loop ---- */

static uint64_t cpu_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Called before each look at the sockets. */
static void on_turn_end(uv_prepare_t *handle)
{
    uint64_t now = cpu_ns();

    (void)handle;
    if (bed.turn_began > 0 && now - bed.turn_began > bed.turn_longest)
        bed.turn_longest = now - bed.turn_began;
    bed.turns++;
    bed.turn_began = now;
}

/* Requests get in between the pieces of a large table. */
static void a_save_takes_turns(void **state)
{
    float row[7] = {1.0f, -1.0f};

    (void)state;
    bed.part = (size_t)8 << 20;
    open_owners(1);
    for (uint32_t i = 0; i < MANY; i++)
        assert_int_equal(ebs_table_put(bed.owner[0]->table[WIDE], rt_draw(5, i), row, NULL), 0);
    bed.turn_began = bed.turn_longest = bed.turns = 0;
    assert_int_equal(uv_prepare_init(rt_loop_uv(bed.loop), &bed.turn_end), 0);
    assert_int_equal(uv_prepare_start(&bed.turn_end, on_turn_end), 0);
    save_all(bed.dir);
    uv_close((uv_handle_t *)&bed.turn_end, NULL);
    assert_int_equal(atomic_load(&bed.save[0].state), RT_SAVE_DONE);
    assert_int_equal(atomic_load(&bed.save[0].bytes), MANY * (8 + 7 * 4));
    print_message("%u rows in %llu turns, the longest %.2f ms of CPU\n", MANY,
                  (unsigned long long)bed.turns, 1e-6 * (double)bed.turn_longest);
    assert_true(bed.turn_longest < TURN_MAX);
    assert_true(bed.turns > MANY / 100000u);
    close_owners();
    bed.part = 0;
}

static void names_of_files(void **state)
{
    static const struct {
        const char *table, *name;
    } row[] = {{"user", "d/table.user.1.20.safetensors"},
               {"A-z_9", "d/table.A-z_9.1.20.safetensors"},
               {"a.0/b c\xc3\xa4", "d/table.a%2E0%2Fb%20c%C3%A4.1.20.safetensors"}};
    char table[129] = {0}, *path[2];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        path[0] = rt_save_table_path("d", row[i].table, 1, 20);
        assert_string_equal(path[0], row[i].name);
        rt_free(path[0]);
    }
    memset(table, '.', 128); /* 384 bytes as %2E */
    path[0] = rt_save_table_path("d", table, 65535, UINT32_MAX);
    table[127] = ',';
    path[1] = rt_save_table_path("d", table, 65535, UINT32_MAX);
    assert_true(strlen(path[0]) < 255 - 20);
    assert_string_not_equal(path[0], path[1]);
    rt_free(path[0]);
    rt_free(path[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_of_files),
        cmocka_unit_test_setup(any_number_saves_any_number_loads, make_folder),
        cmocka_unit_test(state_is_initial),
        cmocka_unit_test_setup(bad_parts_are_named, make_folder),
        cmocka_unit_test(state_goes_with_its_rows),
        cmocka_unit_test_setup(other_state_is_named, make_folder),
        cmocka_unit_test_setup(failures_are_told, make_folder),
        cmocka_unit_test_setup(rows_are_imported, make_folder),
        cmocka_unit_test_setup(bad_models_are_not_imported, make_folder),
        cmocka_unit_test_setup(two_saves, make_folder),
        cmocka_unit_test_setup(surplus_is_left_out, make_folder),
        cmocka_unit_test_setup(a_save_that_fails, make_folder),
        cmocka_unit_test_setup(a_save_takes_turns, make_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
