/* runtime/job/layout.c -- the bytes of a row, and of a table of so many rows. */
#include "runtime/job/layout.h"
#include "runtime/base/assert.h"
#include "runtime/job/shard.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    bool of_row; /* a float of each slot, not one for each weight */
    uint32_t slots;
    struct rt_state_slot slot[RT_STATE_SLOTS];
} kinds[] = {
    [RT_OPT_SGD] = {.name = "sgd"},
    [RT_OPT_ADAGRAD] = {"adagrad", false, 1, {{"sum", true, 0}}},
    [RT_OPT_ROWWISE_ADAGRAD] = {"rowwise_adagrad", true, 1, {{"sum", true, 0}}},
    [RT_OPT_ADAM] = {"adam", false, 2, {{"exp_avg", false, 0}, {"exp_avg_sq", true, 0}}},
    [RT_OPT_FTRL] = {"ftrl", false, 2, {{"z", false, 0}, {"n", true, 0}}},
};

uint32_t rt_state_slots(const struct rt_sparse_optimizer_conf *optimizer, uint32_t dim,
                        struct rt_state_slot out[RT_STATE_SLOTS])
{
    for (uint32_t k = 0; k < kinds[optimizer->kind].slots; k++) {
        out[k] = kinds[optimizer->kind].slot[k];
        out[k].count = kinds[optimizer->kind].of_row ? 1 : dim;
    }
    return kinds[optimizer->kind].slots;
}

int rt_state_slots_of(const char *text, uint32_t dim, struct rt_state_slot out[RT_STATE_SLOTS])
{
    size_t name = strcspn(text, " ");

    for (uint32_t kind = 0; kind < ARRAY_LEN(kinds); kind++) {
        const struct rt_sparse_optimizer_conf optimizer = {.kind = kind};

        if (strlen(kinds[kind].name) == name && memcmp(text, kinds[kind].name, name) == 0)
            return (int)rt_state_slots(&optimizer, dim, out);
    }
    return -1;
}

uint32_t rt_state_count(const struct rt_sparse_optimizer_conf *optimizer, uint32_t dim)
{
    return kinds[optimizer->kind].slots * (kinds[optimizer->kind].of_row ? 1 : dim);
}

void rt_state_text(const struct rt_sparse_optimizer_conf *optimizer, char out[RT_STATE_TEXT])
{
    int n = snprintf(out, RT_STATE_TEXT, "%s", kinds[optimizer->kind].name);

    if (optimizer->kind == RT_OPT_FTRL)
        snprintf(out + n, RT_STATE_TEXT - (size_t)n, " learning_rate=%.9g beta=%.9g",
                 optimizer->learning_rate, optimizer->ftrl_beta);
}

struct rt_row_layout rt_row_layout(const struct rt_table_conf *table)
{
    return rt_row_place(table->dim, table->dtype, rt_state_count(&table->optimizer, table->dim),
                        table->eviction.kind != RT_EVICT_NONE || table->ttl_seconds > 0,
                        table->eviction.kind == RT_EVICT_LFU);
}

struct rt_row_layout rt_row_place(uint32_t dim, uint32_t dtype, uint32_t state_count, bool touched,
                                  bool frequency)
{
    struct rt_row_layout out = {
        .weight_bytes = dim * (uint32_t)wire_dtype_size(dtype),
        .state_count = state_count,
    };
    uint32_t at = sizeof(uint64_t);

    if (touched) {
        out.touched = at;
        at += sizeof(uint32_t);
    }
    if (frequency) {
        out.frequency = at;
        at += sizeof(float);
    }
    out.weight = at;
    out.state = at + ((out.weight_bytes + 3) & ~3u);
    out.row_bytes = out.state + out.state_count * (uint32_t)sizeof(float);
    return out;
}

/* ---- tables ---- */

static bool is_full(uint64_t rows, uint64_t lines)
{
    return rows * 1000 > lines * RT_LINE_SLOTS * RT_LOAD;
}

static uint64_t index_bytes(uint64_t rows)
{
    uint64_t lines = 1,
             need = (rows * 1000 + RT_LINE_SLOTS * RT_LOAD - 1) / (RT_LINE_SLOTS * RT_LOAD);

    while (is_full(rows, lines) && lines < RT_LINES_SMALL)
        lines = rt_index_more((uint32_t)lines);
    if (is_full(rows, lines))
        lines = (need + RT_UNIT_LINES - 1) / RT_UNIT_LINES * RT_UNIT_LINES;
    return lines * RT_LINE_BYTES;
}

static uint64_t sketch_bytes(const struct rt_table_conf *table)
{
    return table->admission.kind == RT_ADMIT_COUNT ? table->admission.sketch_bytes : 0;
}

static uint64_t bits_bytes(uint64_t rows)
{
    return (rows + 63) / 64 * (64 * RT_ROW_BITS / 8);
}

/* The array of `rows` bytes of rows, with what is touched ahead. In small pages it grows by an eighth, at most
 * RT_STEP_SMALL, and not into huge ones for that; most: right after such a step. */
static uint64_t array_bytes(uint64_t rows, bool most)
{
    uint64_t ahead = rows / RT_AHEAD_PART < RT_AHEAD_MAX ? rows / RT_AHEAD_PART : RT_AHEAD_MAX;
    uint64_t step = rows / 8 < RT_STEP_SMALL ? rows / 8 : RT_STEP_SMALL;

    if (rows > RT_SMALL_MOST)
        return rt_whole_pages(rows + ahead);
    if (!most)
        return rt_whole_pages(rows);
    return rt_whole_pages(rows + step < RT_SMALL_MOST ? rows + step : RT_SMALL_MOST);
}

static struct rt_table_size size_of(const struct rt_table_conf *table, uint64_t rows,
                                    uint32_t owners, bool most)
{
    uint32_t row_bytes = rt_row_layout(table).row_bytes;
    struct rt_table_size out = {.rows = rows * row_bytes, .index = index_bytes(rows)};
    uint64_t array = array_bytes(out.rows, most), bits = bits_bytes(rows);

    out.slack = bits + sketch_bytes(table) / owners + RT_TABLE_BYTES;
    out.allocator = array - out.rows + rt_whole_pages(out.index) - out.index +
                    rt_whole_pages(bits_bytes(array / row_bytes)) - bits;
    return out;
}

struct rt_table_size rt_table_size(const struct rt_table_conf *table, uint64_t rows,
                                   uint32_t owners)
{
    return size_of(table, rows, owners, false);
}

uint64_t rt_table_capacity(const struct rt_table_conf *table)
{
    const struct rt_eviction_conf *eviction = &table->eviction;
    uint64_t fixed = sketch_bytes(table) + RT_TABLE_BYTES;
    double row = rt_row_layout(table).row_bytes + RT_ROW_BITS / 8.0 +
                 RT_LINE_BYTES * 1000.0 / (RT_LINE_SLOTS * RT_LOAD);
    double rows;

    if (eviction->bytes == 0)
        return eviction->rows;
    row *= 1 + 1.0 / RT_AHEAD_PART;
    rows = eviction->bytes > fixed ? floor((double)(eviction->bytes - fixed) / row) : 0;
    if (eviction->rows > 0)
        rows = fmin(rows, (double)eviction->rows);
    return rows < 1 ? 1 : (uint64_t)rows;
}

static uint64_t share_of(uint64_t whole, uint32_t shards)
{
    unsigned __int128 parts = (unsigned __int128)whole * shards;

    return (uint64_t)((parts + RT_SHARDS - 1) / RT_SHARDS);
}

/* Found by halving, for pages and units of the index make steps. */
static uint64_t rows_in(const struct rt_table_conf *table, uint64_t bytes, uint32_t owners)
{
    uint64_t low = 1, high = RT_ROWS_MAX;

    while (low < high) {
        uint64_t rows = low + (high - low + 1) / 2;
        struct rt_table_size size = size_of(table, rows, owners, true);

        if (size.rows + size.index + size.slack + size.allocator <= bytes)
            low = rows;
        else
            high = rows - 1;
    }
    return low;
}

uint64_t rt_owner_capacity(const struct rt_table_conf *table, uint32_t shards)
{
    const struct rt_eviction_conf *eviction = &table->eviction;
    uint64_t rows = share_of(eviction->rows, shards), held;

    rt_assert(shards >= 1 && shards <= RT_SHARDS);
    if (eviction->bytes == 0)
        return rows;
    held = rows_in(table, share_of(eviction->bytes, shards), RT_SHARDS / shards);
    return rows > 0 && rows < held ? rows : held;
}
