/* ctl/diff_dense.h -- the tensors of two safetensors files beside each other, value by value, some at a time. */
#ifndef CTL_DIFF_DENSE_H
#define CTL_DIFF_DENSE_H

#include "runtime/job/safetensors.h"

#include <stdbool.h>

struct ctl_tensor_diff {
    const char *name;
    bool only_a, only_b, other_shape; /* then no values are compared */
    uint64_t values, different;       /* different: in their bits */
    double
        largest; /* |a - b|; NaN where one of the two is not a number. Of float32 alone: else 0 */
};
/* Each tensor of either, in the order of `a`, then what only `b` has. @return how many differ, or RT_EFILE, RT_ENOMEM */
typedef void (*ctl_tensor_diff_fn)(void *ctx, const struct ctl_tensor_diff *diff);
int64_t ctl_diff_tensors(const struct rt_safetensors *a, const struct rt_safetensors *b,
                         ctl_tensor_diff_fn tell, void *ctx);

#endif
