/* tests/unit/test_table_cut.c -- rows of one instant out of a table that goes on: against a plain copy taken then.
 *
 * Updates, puts, removals, evictions, expiry, compaction and slices of a cut come in any order, thousands of them. When a cut has
 * passed all rows, what is in the buffer must be, byte for byte and each row once, what the table had at its instant: all of it (full), or
 * exactly the rows that changed since the cut before (increment); then the state of that one, less the ids that went, with these rows
 * in their places is the copy again. */
#include "embedding_server/table_cut.h"
#include "embedding_server/optimizer.h"
#include "embedding_server/table_inner.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/map.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "runtime/checkpoint/rowfile.h"
#include "runtime/job/layout.h"
#include "tests/unit/table_bed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#define DIM     3
#define IDS     3000u
#define ROW_MAX 64u
#define N_MAX   300u
#define BUFFER  ((size_t)64 << 10)
#define NUMBER  7u   /* of the table, in the buffer */
#define LINES   256u /* of the sketch, at most */
#ifdef RT_DEBUG
#define ROUNDS 2000
#else
#define ROUNDS 12000
#endif

/* Rows by the number of their id; bytes as the table has them. */
struct rows {
    bool has[IDS];
    uint8_t row[IDS][ROW_MAX];
    size_t n;
};

struct policy {
    const char *name;
    struct rt_eviction_conf eviction;
    struct rt_admission_conf admission;
    uint64_t ttl_seconds;
    uint32_t optimizer, dtype;
};

static const struct policy policies[] = {
    {.name = "sgd"},
    {.name = "adagrad, lru",
     .optimizer = RT_OPT_ADAGRAD,
     .eviction = {.kind = RT_EVICT_LRU, .rows = 1500}},
    {.name = "row-wise, bf16, lfu",
     .optimizer = RT_OPT_ROWWISE_ADAGRAD,
     .dtype = WIRE_BF16,
     .eviction = {.kind = RT_EVICT_LFU, .rows = 1200, .half_life = 50}},
    {.name = "adam, ttl", .optimizer = RT_OPT_ADAM, .ttl_seconds = 20},
    {.name = "ftrl, f16, lru, ttl, count",
     .optimizer = RT_OPT_FTRL,
     .dtype = WIRE_F16,
     .admission = {.kind = RT_ADMIT_COUNT, .count = 2, .sketch_bytes = 1 << 14},
     .eviction = {.kind = RT_EVICT_LRU, .rows = 1000},
     .ttl_seconds = 20},
};

static struct {
    const struct policy *policy;
    struct rt_table_conf conf;
    struct rt_row_layout layout;
    struct ebs_table *table;
    struct ebs_rowbuf buf;
    struct rt_map place; /* id -> its number */
    uint64_t id[IDS];
    uint64_t seed, draws, batch, time_ms;
    bool changed[IDS]; /* since the latest instant */
    bool has_base;     /* the latest cut was whole */
    bool cutting, full;
    struct ebs_removed removed;            /* of the cut under way */
    bool want[IDS];                        /* rows that it must have */
    struct rows base, now, written;        /* of the cut before; at the instant; by the buffer */
    uint8_t sketch[LINES][EBS_ADMIT_LINE]; /* at the instant */
    bool line[LINES];                      /* written */
    uint64_t lines;
    uint64_t cuts, increments, dropped, kept;
} bed;

static uint64_t draw(uint64_t below)
{
    return rt_below(rt_draw(bed.seed, bed.draws++), below);
}

static size_t number_of(const uint8_t *row)
{
    uint64_t id, k;

    memcpy(&id, row, sizeof(id));
    assert_true(rt_map_get(&bed.place, id, &k));
    return (size_t)k;
}

static void set_up(const struct policy *policy, uint64_t seed)
{
    memset(&bed, 0, sizeof(bed));
    bed.policy = policy;
    bed.seed = seed;
    bed.conf = table_bed_counting(DIM, policy->dtype);
    bed.conf.eviction = policy->eviction;
    bed.conf.admission = policy->admission;
    bed.conf.ttl_seconds = policy->ttl_seconds;
    bed.conf.optimizer = (struct rt_sparse_optimizer_conf){.kind = policy->optimizer,
                                                           .learning_rate = 0.1,
                                                           .eps = 1e-8,
                                                           .beta1 = 0.9,
                                                           .beta2 = 0.999,
                                                           .ftrl_beta = 1};
    bed.layout = rt_row_layout(&bed.conf);
    assert_true(bed.layout.row_bytes <= ROW_MAX);
    bed.table = table_bed_create(&bed.conf);
    assert_int_equal(ebs_rowbuf_init(&bed.buf, BUFFER, ebs_table_cut_row_max(bed.table)), 0);
    rt_map_init(&bed.place);
    for (size_t k = 0; k < IDS; k++) {
        bed.id[k] = k % 2 ? rt_draw(seed, ~k) : k;
        assert_int_equal(rt_map_put(&bed.place, bed.id[k], k), 0);
    }
}

static void tear_down(void)
{
    rt_free(bed.removed.id);
    ebs_rowbuf_release(&bed.buf);
    ebs_table_destroy(bed.table);
    rt_map_release(&bed.place);
}

/* ---- what came of a cut ---- */

static void take_line(const uint8_t *at)
{
    uint64_t number;

    memcpy(&number, at, sizeof(number));
    assert_true(number < LINES && !bed.line[number]);
    bed.line[number] = true;
    bed.lines++;
    if (memcmp(bed.sketch[number], at + sizeof(number), EBS_ADMIT_LINE) != 0)
        fail_msg("%s: line %llu is not as at the instant", bed.policy->name,
                 (unsigned long long)number);
}

static void take_block(const struct ebs_rowbuf_block *block)
{
    for (size_t at = 0; at < block->used;) {
        struct ebs_rowbuf_run run;

        memcpy(&run, block->at + at, sizeof(run));
        at += sizeof(run);
        assert_int_equal(run.table, NUMBER);
        assert_true(run.rows > 0);
        for (uint32_t r = 0; r < run.rows && run.kind == RT_ROWFILE_SKETCH;
             r++, at += run.row_bytes)
            take_line(block->at + at);
        for (uint32_t r = 0; r < run.rows && run.kind == RT_ROWFILE_ROWS;
             r++, at += run.row_bytes) {
            size_t k = number_of(block->at + at);

            if (bed.written.has[k])
                fail_msg("%s: id %zu is written twice", bed.policy->name, k);
            bed.written.has[k] = true;
            bed.written.n++;
            memcpy(bed.written.row[k], block->at + at, bed.layout.row_bytes);
        }
        assert_true(at <= block->used && block->used <= bed.buf.block_bytes);
    }
}

/* As the worker does. */
static void drain(void)
{
    struct ebs_rowbuf_block *block;

    while ((block = ebs_rowbuf_take(&bed.buf))) {
        take_block(block);
        ebs_rowbuf_give(&bed.buf, block);
    }
}

static void have_room(size_t bytes)
{
    if (ebs_rowbuf_room(&bed.buf) < bytes) {
        ebs_rowbuf_close(&bed.buf);
        drain();
    }
    assert_true(ebs_rowbuf_room(&bed.buf) >= bytes);
}

static void copy_table(struct rows *out)
{
    struct ebs_row row;

    memset(out, 0, sizeof(*out));
    for (uint32_t at = 0; ebs_table_next(bed.table, &at, &row); out->n++) {
        const uint8_t *first = row.weight - bed.layout.weight;
        size_t k = number_of(first);

        out->has[k] = true;
        memcpy(out->row[k], first, bed.layout.row_bytes);
    }
}

static void expect_row(size_t k, const uint8_t *row, const char *what)
{
    if (!bed.now.has[k] || memcmp(bed.now.row[k], row, bed.layout.row_bytes) != 0)
        fail_msg("%s: id %zu: %s is not as at the instant", bed.policy->name, k, what);
}

static void check_lines(void)
{
    static const uint8_t nothing[EBS_ADMIT_LINE];

    for (size_t i = 0; i < LINES; i++)
        if (bed.line[i] == (memcmp(bed.sketch[i], nothing, EBS_ADMIT_LINE) == 0))
            fail_msg("%s: line %zu is %swritten", bed.policy->name, i, bed.line[i] ? "" : "not ");
}

static void check_cut(void)
{
    check_lines();
    for (size_t k = 0; k < IDS; k++) {
        if (bed.written.has[k] != bed.want[k])
            fail_msg("%s: id %zu is %swritten", bed.policy->name, k,
                     bed.written.has[k] ? "" : "not ");
        if (bed.written.has[k])
            expect_row(k, bed.written.row[k], "what was written");
    }
    if (bed.full)
        bed.base = (struct rows){0};
    for (size_t i = 0; i < bed.removed.n; i++) {
        uint64_t k;

        assert_true(rt_map_get(&bed.place, bed.removed.id[i], &k));
        bed.base.has[k] = false;
    }
    for (size_t k = 0; k < IDS; k++) {
        if (bed.written.has[k]) {
            bed.base.has[k] = true;
            memcpy(bed.base.row[k], bed.written.row[k], bed.layout.row_bytes);
        }
        if (bed.base.has[k])
            expect_row(k, bed.base.row[k], "base and increment");
        assert_true(bed.base.has[k] == bed.now.has[k]);
    }
}

/* ---- operations ---- */

static void begin_cut(void)
{
    uint64_t changed = ebs_table_changed(bed.table), rows = 0;
    const uint8_t *sketch;
    size_t bytes = ebs_admit_sketch(bed.table->admit, &sketch);

    assert_true(bytes <= sizeof(bed.sketch));
    if (bytes > 0)
        memcpy(bed.sketch, sketch, bytes);
    memset(bed.line, 0, sizeof(bed.line));
    bed.full = !bed.has_base || !ebs_table_knows_changes(bed.table) || draw(4) == 0;
    copy_table(&bed.now);
    for (size_t k = 0; k < IDS; k++) {
        bed.want[k] = bed.now.has[k] && (bed.full || bed.changed[k]);
        rows += bed.want[k];
    }
    if (!bed.full)
        assert_int_equal(changed, rows);
    memset(bed.changed, 0, sizeof(bed.changed));
    memset(&bed.written, 0, sizeof(bed.written));
    rt_free(bed.removed.id);
    bed.removed = (struct ebs_removed){0};
    ebs_table_cut(bed.table, bed.full, NUMBER, &bed.buf, bed.full ? NULL : &bed.removed);
    assert_int_equal(ebs_table_changed(bed.table), 0);
    bed.cutting = true;
    bed.cuts++;
    bed.increments += !bed.full;
}

static void end_cut(void)
{
    ebs_rowbuf_close(&bed.buf);
    drain();
    assert_false(bed.buf.overflow);
    check_cut();
    bed.cutting = false;
    bed.has_base = true;
}

static void pass_some(void)
{
    bool more = true;

    for (uint64_t n = 1 + draw(12); n > 0 && more; n--) {
        have_room(ebs_table_cut_pass_bytes(bed.table));
        more = ebs_table_cut_pass(bed.table);
    }
    if (!more)
        end_cut();
}

static void drop_cut(void)
{
    ebs_table_cut_drop(bed.table);
    if (draw(2) > 0)
        assert_false(ebs_table_cut_let_go(bed.table)); /* else what comes finds it as it is */
    ebs_rowbuf_close(&bed.buf);
    drain();
    bed.cutting = bed.has_base = false;
    bed.dropped++;
}

static void update(void)
{
    uint64_t id[N_MAX];
    float grad[N_MAX][DIM];
    size_t n = 1 + draw(N_MAX), most = 1 + draw(IDS);
    struct ebs_update update = {.id = id,
                                .grad = grad,
                                .n = n,
                                .lr = 0.1f,
                                .step = 1 + bed.batch,
                                .draw = bed.batch,
                                .window = 3};
    struct ebs_applied applied = {0};

    for (size_t i = 0; i < n; i++) {
        size_t k = draw(most);
        bool usable = draw(50) > 0;

        id[i] = bed.id[k];
        bed.changed[k] |= usable;
        for (size_t j = 0; j < DIM; j++)
            grad[i][j] = usable ? (float)(1 + draw(100)) / 64 : 2 * EBS_GRADIENT_MAX;
    }
    bed.batch++;
    bed.time_ms += draw(400);
    have_room(ebs_table_cut_copies(bed.table, n));
    ebs_table_tick(bed.table, bed.time_ms);
    if (draw(20) == 0)
        rt_fault_alloc((int64_t)draw(3));
    ebs_table_apply(bed.table, &update, &applied);
    rt_fault_alloc(-1);
}

static void put(void)
{
    size_t k = draw(IDS);
    float weight[DIM] = {0.5f, (float)draw(100) / 8, -1.0f};

    have_room(bed.layout.row_bytes + EBS_ROWBUF_RUN);
    if (ebs_table_put(bed.table, bed.id[k], weight, NULL) == 0)
        bed.changed[k] = true;
}

static void remove_some(void)
{
    size_t n = draw(30) == 0 ? 2 * IDS : 1 + draw(20);

    for (size_t i = 0; i < n; i++) {
        have_room(bed.layout.row_bytes + EBS_ROWBUF_RUN);
        ebs_table_remove(bed.table, bed.id[draw(IDS)]);
    }
}

static void tend(void)
{
    bed.time_ms += draw(3000);
    ebs_table_tend(bed.table, bed.time_ms, 1 + draw(500));
}

static void one_round(void)
{
    uint64_t kind = draw(100);

    if (kind < 35)
        update();
    else if (kind < 40)
        put();
    else if (kind < 50)
        remove_some();
    else if (kind < 65)
        tend();
    else if (!bed.cutting && kind < 75)
        begin_cut();
    else if (bed.cutting && kind == 99)
        drop_cut();
    else if (bed.cutting)
        pass_some();
}

static void rows_of_the_instant(void **state)
{
    uint64_t seed = (uint64_t)time(NULL);

    (void)state;
    print_message("seed %llu\n", (unsigned long long)seed);
    for (size_t p = 0; p < ARRAY_LEN(policies); p++) {
        set_up(&policies[p], rt_draw(seed, p));
        for (int round = 0; round < ROUNDS; round++)
            one_round();
        table_bed_check(bed.table);
        print_message("%s: %llu cuts, %llu increments, %llu dropped, %llu copies\n",
                      policies[p].name, (unsigned long long)bed.cuts,
                      (unsigned long long)bed.increments, (unsigned long long)bed.dropped,
                      (unsigned long long)bed.buf.kept);
        assert_true(bed.cuts > ROUNDS / 200 && bed.increments > 0 && bed.dropped > 0 &&
                    bed.buf.kept > 0);
        assert_true((bed.lines > 0) == (policies[p].admission.kind == RT_ADMIT_COUNT));
        tear_down();
    }
}

/* A row without room is not copied, and it is said so; the table's own are right all the same. */
static void a_buffer_that_is_full(void **state)
{
    uint64_t id[100];
    struct ebs_table *other;

    (void)state;
    set_up(&policies[0], 1);
    other = table_bed_create(&bed.conf);
    for (uint64_t at = 0; at < 6000; at += 100) {
        for (size_t i = 0; i < 100; i++)
            id[i] = at + i;
        table_bed_count(bed.table, id, 100);
        table_bed_count(other, id, 100);
    }
    ebs_table_cut(bed.table, true, NUMBER, &bed.buf, NULL);
    for (uint64_t at = 0; at < 6000; at += 100) {
        for (size_t i = 0; i < 100; i++)
            id[i] = at + i;
        table_bed_count(bed.table, id, 100);
        table_bed_count(other, id, 100);
    }
    assert_true(bed.buf.overflow);
    assert_true(bed.buf.kept > 2000);
    assert_true(table_bed_digest(bed.table) == table_bed_digest(other));
    ebs_table_cut_drop(bed.table);
    assert_int_equal(ebs_table_changed(bed.table), 6000);
    assert_int_equal(ebs_table_cut_copies(bed.table, 100), 0);
    ebs_table_destroy(other);
    tear_down();
}

/* Of ids that go without end so many are known, and then it is known that more have gone. */
static void too_many_went(void **state)
{
    struct rt_table_conf conf = table_bed_counting(1, WIRE_F32);
    struct ebs_removed removed;
    struct ebs_table *table;
    struct ebs_rowbuf buf;

    (void)state;
    conf.eviction = (struct rt_eviction_conf){.kind = RT_EVICT_LRU, .rows = 1000};
    table = table_bed_create(&conf);
    assert_int_equal(ebs_rowbuf_init(&buf, BUFFER, 16), 0);
    assert_false(ebs_table_knows_changes(table));
    ebs_table_cut(table, true, 0, &buf, NULL);
    for (uint64_t id = 0; id < 1000 + EBS_REMOVED_MIN; id++)
        table_bed_count(table, &id, 1);
    assert_true(ebs_table_knows_changes(table));
    table_bed_count(table, &(uint64_t){UINT64_MAX}, 1);
    assert_false(ebs_table_knows_changes(table));
    ebs_table_cut(table, true, 0, &buf, NULL);
    while (ebs_table_cut_pass(table))
        ;
    assert_true(ebs_table_knows_changes(table));
    for (uint64_t id = 0; id < 5; id++)
        table_bed_count(table, &id, 1);
    assert_true(ebs_table_remove(table, 3));
    ebs_table_cut(table, false, 0, &buf, &removed);
    assert_int_equal(removed.n, 6); /* five made room */
    assert_true(removed.id[5] == 3);
    rt_free(removed.id);
    ebs_table_cut_drop(table);
    /* Without memory for the list. */
    rt_fault_alloc(0);
    assert_true(ebs_table_remove(table, 4));
    rt_fault_alloc(-1);
    assert_false(ebs_table_knows_changes(table));
    ebs_rowbuf_release(&buf);
    ebs_table_destroy(table);
}

/* What is told to have room has it, to the byte: rows of many tables, one of each, one after the other. */
static void room_for_many_tables(void **state)
{
    static const uint8_t row[ROW_MAX];
    uint64_t draws = 0, filled = 0;

    (void)state;
    for (uint64_t seed = 0; seed < 3000; seed++) {
        struct ebs_rowbuf buf;
        size_t most = 8 + 4 * rt_below(rt_draw(seed, draws++), 14), room;

        assert_int_equal(ebs_rowbuf_init(&buf, BUFFER, most), 0);
        for (uint64_t n = rt_below(rt_draw(seed, draws++), 3000);
             n > 0 && ebs_rowbuf_room(&buf) >= most + EBS_ROWBUF_RUN; n--)
            ebs_rowbuf_add(&buf, RT_ROWFILE_ROWS, 1, row, most);
        room = ebs_rowbuf_room(&buf);
        for (uint32_t table = 0; !buf.overflow; table++) {
            size_t bytes = 8 + 4 * rt_below(rt_draw(seed, draws++), (most - 8) / 4 + 1);

            if (room < bytes + EBS_ROWBUF_RUN)
                break;
            room -= bytes + EBS_ROWBUF_RUN;
            assert_true(ebs_rowbuf_add(&buf, RT_ROWFILE_ROWS, table % 2, row, bytes));
            filled++;
        }
        assert_false(buf.overflow);
        ebs_rowbuf_release(&buf);
    }
    assert_true(filled > 100000);
}

static void buffers_without_memory(void **state)
{
    struct ebs_rowbuf buf;
    int err, nth = 0;

    (void)state;
    do {
        rt_fault_alloc(nth++);
        err = ebs_rowbuf_init(&buf, BUFFER, 16);
        rt_fault_alloc(-1);
    } while (err == RT_ENOMEM && nth < 100);
    assert_int_equal(err, 0);
    assert_int_equal(nth, 17); /* blocks, and one more */
    assert_int_equal(ebs_rowbuf_room(&buf), ebs_rowbuf_size(&buf));
    ebs_rowbuf_release(&buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_of_the_instant),    cmocka_unit_test(a_buffer_that_is_full),
        cmocka_unit_test(too_many_went),          cmocka_unit_test(room_for_many_tables),
        cmocka_unit_test(buffers_without_memory),
    };

    return cmocka_run_group_tests_name("table cut", tests, NULL, NULL);
}
