/* runtime/job/layout.c -- the bytes of a row. */
#include "runtime/job/layout.h"

uint32_t rt_state_count(const struct rt_sparse_optimizer_conf *optimizer, uint32_t dim)
{
    switch ((enum rt_optimizer_kind)optimizer->kind) {
    case RT_OPT_SGD:
        return 0;
    case RT_OPT_ADAGRAD:
        return dim;
    case RT_OPT_ROWWISE_ADAGRAD:
        return 1;
    case RT_OPT_ADAM:
    case RT_OPT_FTRL:
        break;
    }
    return 2 * dim;
}

struct rt_row_layout rt_row_layout(const struct rt_table_conf *table)
{
    struct rt_row_layout out = {
        .weight_bytes = table->dim * (uint32_t)wire_dtype_size(table->dtype),
        .state_count = rt_state_count(&table->optimizer, table->dim),
    };
    uint32_t at = sizeof(uint64_t);

    if (table->eviction.kind != RT_EVICT_NONE || table->ttl_seconds > 0) {
        out.touched = at;
        at += sizeof(uint32_t);
    }
    if (table->eviction.kind == RT_EVICT_LFU) {
        out.frequency = at;
        at += sizeof(float);
    }
    out.weight = at;
    out.state = at + ((out.weight_bytes + 3) & ~3u);
    out.row_bytes = out.state + out.state_count * (uint32_t)sizeof(float);
    return out;
}
