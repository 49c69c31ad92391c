/* runtime/job/policy.c -- keys of a table that are fine one by one and wrong together.
 *
 * The option tables check each value's range; here is what only makes sense beside another key: a policy that
 * would never do anything, initial values that the rows' type cannot hold, and all that `exact` cannot keep its
 * word with. Exact means the same bits however many servers there are. A capacity is shared out over
 * owners, counts of ids without row are kept by owners in sketches whose collisions depend on who shares one, and a
 * time to live asks a clock: each makes different rows of the same data, so exact refuses them.
 * Admission by probability is a pure draw of seed, table, id and batch, so it may stay. */
#include "runtime/job/read.h"

#include "runtime/base/assert.h"
#include "runtime/conf/yaml.h"
#include "runtime/job/layout.h"

#include <float.h>
#include <math.h>

#define NORMAL_REACH    8.0 /* standard deviations that no draw of a normal exceeds */
#define TRUNCATED_REACH 2.0

/* Where a key of the table was said: in the table, in `defaults:`, or (it has its built-in value) nowhere. */
static const struct rt_node *said(const struct rt_table_keys *keys, const char *path)
{
    const struct rt_node *node = rt_node_find(keys->table, path);

    if (!node)
        node = rt_node_find(keys->defaults, path);
    return node ? node : keys->table;
}

static const char *word(uint32_t value, const char *const *name, size_t n)
{
    rt_assert(value < n);
    return name[value];
}

const char *rt_dtype_name(uint32_t dtype)
{
    static const char *const name[] = {
        [WIRE_F32] = "float32", [WIRE_F16] = "float16", [WIRE_BF16] = "bfloat16"};

    return word(dtype, name, ARRAY_LEN(name));
}

const char *rt_eviction_name(uint32_t kind)
{
    static const char *const name[] = {
        [RT_EVICT_NONE] = "none", [RT_EVICT_LRU] = "lru", [RT_EVICT_LFU] = "lfu"};

    return word(kind, name, ARRAY_LEN(name));
}

static int check_exact(const struct rt_table_keys *keys, const struct rt_table_conf *table)
{
    const struct rt_eviction_conf *eviction = &table->eviction;

    if (eviction->kind != RT_EVICT_NONE || eviction->rows > 0 || eviction->bytes > 0)
        return rt_node_fail(said(keys, "eviction"),
                            "table %s: expected none, and no capacity, beside `exact: true`: which "
                            "rows there are would depend on the number of servers",
                            table->name);
    if (table->ttl_seconds > 0)
        return rt_node_fail(said(keys, "ttl_seconds"),
                            "table %s: expected 0 beside `exact: true`: which rows there are would "
                            "depend on the clock",
                            table->name);
    if (table->admission.kind == RT_ADMIT_COUNT)
        return rt_node_fail(said(keys, "admission.type"),
                            "table %s: expected always or probability beside `exact: true`: counts "
                            "would depend on the number of servers",
                            table->name);
    return 0;
}

/* Of an owner that has it all: one row, the sketch, whole pages. */
static uint64_t least_bytes(const struct rt_table_conf *table)
{
    struct rt_table_size size = rt_table_size(table, 1, 1);

    return size.rows + size.index + size.slack + size.allocator;
}

static int check_policy(const struct rt_table_keys *keys, const struct rt_table_conf *table,
                        uint64_t memory)
{
    const struct rt_eviction_conf *eviction = &table->eviction;
    uint64_t least = least_bytes(table);

    if (eviction->kind != RT_EVICT_NONE && eviction->rows == 0 && eviction->bytes == 0 &&
        memory == 0)
        return rt_node_fail(said(keys, "eviction"),
                            "table %s: expected `rows`, `bytes` or global.embedding_server.memory "
                            "beside `type: %s`: nothing would ever be evicted",
                            table->name, rt_eviction_name(eviction->kind));
    if (eviction->bytes > 0 && eviction->bytes < least)
        return rt_node_fail(said(keys, "eviction.bytes"),
                            "table %s: expected 0, or at least %llu, a row with its pages and the "
                            "admission's sketch, got %llu",
                            table->name, (unsigned long long)least,
                            (unsigned long long)eviction->bytes);
    if (table->admission.kind == RT_ADMIT_PROBABILITY && !(table->admission.probability > 0.0))
        return rt_node_fail(said(keys, "admission.probability"),
                            "table %s: expected > 0: no id would ever get a row", table->name);
    return 0;
}

/* The largest magnitude that an initial value may have. */
static double reach(const struct rt_table_conf *table)
{
    const struct rt_init_conf *init = &table->init;

    switch ((enum rt_init_kind)init->kind) {
    case RT_INIT_UNIFORM:
        return fmax(fabs(init->low), fabs(init->high));
    case RT_INIT_NORMAL:
        return fabs(init->mean) + NORMAL_REACH * init->std;
    case RT_INIT_TRUNCATED_NORMAL:
        return fabs(init->mean) + TRUNCATED_REACH * init->std;
    case RT_INIT_CONSTANT:
        return fabs(init->value);
    case RT_INIT_XAVIER_UNIFORM:
        break;
    }
    return init->gain * sqrt(6.0 / ((double)table->dim + (double)init->rows));
}

static int check_values(const struct rt_table_keys *keys, const struct rt_table_conf *table)
{
    static const double largest[] = {
        [WIRE_F32] = FLT_MAX, [WIRE_F16] = 65504.0, [WIRE_BF16] = 0x1.fep127};
    const struct rt_init_conf *init = &table->init;

    if (init->kind == RT_INIT_UNIFORM && init->low > init->high)
        return rt_node_fail(said(keys, "initializer"),
                            "table %s: expected low <= high, got %g > %g", table->name, init->low,
                            init->high);
    if (init->kind == RT_INIT_XAVIER_UNIFORM && init->rows == 0)
        return rt_node_fail(
            said(keys, "initializer"),
            "table %s: expected `rows` beside `type: xavier_uniform`, the rows that "
            "the table will have",
            table->name);
    if (!(reach(table) <= largest[table->dtype]))
        return rt_node_fail(
            said(keys, "initializer"),
            "table %s: expected values within +-%g, the largest of %s, got up to %g", table->name,
            largest[table->dtype], rt_dtype_name(table->dtype), reach(table));
    return 0;
}

static int check_hash(const struct rt_table_keys *keys, const struct rt_table_conf *table)
{
    if (!table->hash_functions == !table->hash_rows)
        return 0;
    return rt_node_fail(said(keys, "hash"),
                        "table %s: expected `functions` and `rows`, both or neither, got %u and "
                        "%llu",
                        table->name, table->hash_functions, (unsigned long long)table->hash_rows);
}

int rt_job_check_table(const struct rt_table_keys *keys, const struct rt_table_conf *table,
                       const struct rt_global_conf *global)
{
    int err = check_values(keys, table);

    if (!err)
        err = check_hash(keys, table);
    if (!err)
        err = check_policy(keys, table, global->embedding_server_memory);
    if (!err && global->exact)
        err = check_exact(keys, table);
    return err;
}
