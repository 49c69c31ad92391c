/* tests/gpu/test_dot.c -- the interaction beside plain C. Both add in ascending order, the GPU with fused multiplications: of dim (n) products below
 * 1 the sums differ by a few 2^-24 each. */
#include "tests/gpu/bed.h"

#define N_MAX     1024u
#define TOLERANCE 1e-5, 2e-5

static const struct {
    const char *name;
    uint32_t samples, n, dim, gap;
    bool self, twice;
} row[] = {
    {"dlrm", 37, 27, 128, 0, false, false},
    {"dlrm, 16", 300, 27, 16, 0, false, false},
    {"apart, self", 37, 27, 64, 4, true, false},
    {"odd", 37, 26, 17, 2, false, false},
    {"aligned, but no multiple of 4", 5, 7, 18, 2, false, false},
    {"column", 300, 5, 1, 0, true, false},
    {"two", 37, 2, 36, 0, false, false},
    {"one, self", 37, 1, 8, 3, true, false},
    {"nine", 37, 9, 20, 0, true, true},
    {"twenty", 9, 20, 33, 3, false, true},
    {"forty", 7, 40, 40, 0, true, false},
    {"all of a block", 3, 64, 36, 0, true, true},
    {"groups", 3, 65, 33, 0, false, false},
    {"groups, wide", 2, 130, 68, 4, true, true},
    {"most", 1, 1024, 4, 0, false, false},
};

/* All vectors lie in one tensor, one behind the other; so do their gradients. */
struct list {
    struct bed_tensor x, dx;
    const float *at[N_MAX];
    float *dx_at[N_MAX];
    size_t stride[N_MAX], offset[N_MAX];
    bool add[N_MAX], wanted[N_MAX];
};

static void make(struct bed *bed, size_t r, struct list *list)
{
    size_t stride = row[r].dim + row[r].gap, floats = row[r].samples * stride;
    list->x = bed_random(bed, row[r].n * floats, -1, 1);
    list->dx = bed_poison(bed, row[r].n * floats);
    for (uint32_t i = 0; i < row[r].n; i++) {
        bool again = row[r].twice && i + 1 == row[r].n; /* the first one once more */
        list->wanted[i] = i == 0 || again || bed_below(bed, 6) > 0;
        list->add[i] = again || bed_below(bed, 2);
        list->stride[i] = stride;
        list->offset[i] = again ? 0 : i * floats;
        for (size_t k = 0; list->add[i] && k < floats; k++)
            list->dx.host[list->offset[i] + k] = (float)bed_below(bed, 100) / 100;
    }
    bed_upload(bed, list->dx);
}

static void take(size_t r, struct list *list, bool gpu)
{
    for (uint32_t i = 0; i < row[r].n; i++) {
        list->at[i] = (gpu ? list->x.device : list->x.host) + list->offset[i];
        list->dx_at[i] = (gpu ? list->dx.device : list->dx.host) + list->offset[i];
        list->dx_at[i] = list->wanted[i] ? list->dx_at[i] : NULL;
    }
}

static void compare(struct bed *bed, size_t r, const char *what, struct bed_tensor tensor)
{
    unsigned before = bed->failures;
    bed_compare(bed, what, tensor, TOLERANCE);
    bed_check(bed, bed->failures == before, "(that was: %s)", row[r].name);
}

static void test_dot(struct bed *bed)
{
    static struct list list;
    for (size_t r = 0; r < sizeof row / sizeof row[0]; r++) {
        uint32_t columns = tr_dot_columns(row[r].n, row[r].self), stride = columns + row[r].gap;
        struct bed_tensor y = bed_poison(bed, (size_t)row[r].samples * stride);
        struct bed_tensor dy = bed_random(bed, (size_t)row[r].samples * stride, -1, 1);
        struct bed_tensor scratch =
            bed_poison(bed, tr_dot_scratch(row[r].samples, row[r].n, row[r].dim));
        make(bed, r, &list);
        for (int gpu = 0; gpu < 2; gpu++) {
            struct tr_backend *backend = gpu ? &bed->gpu : &bed->truth;
            struct tr_dot op = {.samples = row[r].samples, .n = row[r].n, .dim = row[r].dim};
            struct tr_dot_grad grad = {.samples = row[r].samples, .n = row[r].n, .dim = row[r].dim};
            op.self = grad.self = row[r].self;
            take(r, &list, gpu);
            op.x = grad.x = list.at;
            op.x_stride = grad.x_stride = list.stride;
            op.y = gpu ? y.device : y.host;
            op.y_stride = grad.dy_stride = stride;
            op.scratch = grad.scratch = gpu ? scratch.device : scratch.host;
            grad.dy = gpu ? dy.device : dy.host;
            grad.dx = list.dx_at;
            grad.add = list.add;
            bed_ok(bed, backend->ops->dot_forward(backend, &op));
            bed_ok(bed, backend->ops->dot_backward(backend, &grad));
        }
        compare(bed, r, "y", y);
        compare(bed, r, "dx", list.dx);
    }
}

int main(void)
{
    static const struct bed_test tests[] = {{"dot", test_dot}};
    return bed_main("dot", tests, 1);
}
