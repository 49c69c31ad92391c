/* trainer/backend/cpu/rounded.c -- see rounded.h. */
#include "trainer/backend/cpu/rounded.h"

#include <string.h>

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/half.h"
#include "runtime/base/mem.h"
#include "trainer/backend/cpu/matmul.h"

struct tr_rounded {
    struct tr_space space;
    enum tr_rounded_kind kind;
    void *params; /* [n_params] rounded */
    void *x, *dy; /* [rows][columns] each */
    float *out;   /* the same: a product whose place has gaps between its rows; not of sgemm */
    struct tr_matmul *matmul;
    uint64_t version; /* of the parameters */
};

static bool is_wide(const struct tr_rounded *rounded)
{
    return rounded->kind != TR_ROUNDED_NATIVE;
}

/* The n-th element of an array of ours. */
static void *element(const struct tr_rounded *rounded, void *array, size_t n)
{
    return (char *)array + n * (is_wide(rounded) ? sizeof(float) : sizeof(uint16_t));
}

static int choose(struct tr_rounded *rounded, enum tr_rounded_kind kind)
{
    int err = kind == TR_ROUNDED_SGEMM ? 0 : tr_matmul_create(&rounded->matmul);
    if (!err && kind == TR_ROUNDED_BEST) {
        kind = tr_matmul_has_bf16(rounded->matmul) ? TR_ROUNDED_NATIVE : TR_ROUNDED_SGEMM;
        if (kind == TR_ROUNDED_SGEMM) {
            tr_matmul_destroy(rounded->matmul);
            rounded->matmul = NULL;
        }
    }
    rounded->kind = kind;
    return err;
}

static int allocate(struct tr_rounded *rounded)
{
    const struct tr_space *space = &rounded->space;
    size_t floats = 0, bytes = 0;
    bool small = rt_mul_size(space->rows, space->columns, &floats) &&
                 rt_mul_size(floats, sizeof(float), &bytes);
    size_t width = is_wide(rounded) ? sizeof(float) : sizeof(uint16_t);
    rounded->params = rt_try_aligned((space->n_params + 1) * width);
    rounded->x = small ? rt_try_aligned(floats * width) : NULL;
    rounded->dy = small ? rt_try_aligned(floats * width) : NULL;
    rounded->out = small && rounded->matmul ? rt_try_aligned(bytes) : NULL;
    if (!rounded->params || !rounded->x || !rounded->dy || (rounded->matmul && !rounded->out))
        return RT_FAIL(RT_ENOMEM,
                       "model: no memory to round %zu parameters and %u samples of %u columns",
                       space->n_params, space->rows, space->columns);
    return 0;
}

int tr_rounded_create(const struct tr_space *space, enum tr_rounded_kind kind,
                      struct tr_rounded **out)
{
    struct tr_rounded *rounded = rt_xcalloc(1, sizeof *rounded);
    rounded->space = *space;
    int err = choose(rounded, kind);
    if (!err)
        err = allocate(rounded);
    if (err) {
        tr_rounded_destroy(rounded);
        return err;
    }
    *out = rounded;
    return 0;
}

void tr_rounded_destroy(struct tr_rounded *rounded)
{
    if (!rounded)
        return;
    tr_matmul_destroy(rounded->matmul);
    rt_free(rounded->params);
    rt_free(rounded->x);
    rt_free(rounded->dy);
    rt_free(rounded->out);
    rt_free(rounded);
}

enum tr_rounded_kind tr_rounded_kind(const struct tr_rounded *rounded)
{
    return rounded->kind;
}

uint32_t tr_rounded_rows(const struct tr_rounded *rounded)
{
    return rounded->space.rows;
}

/* ---- rounding ---- */

static void round_row(const float *from, size_t n, bool wide, void *to)
{
    uint16_t half[512];
    float *out = to;
    if (!wide) {
        rt_narrow(RT_DTYPE_BF16, from, to, n);
        return;
    }
    for (size_t i = 0; i < n; i += ARRAY_LEN(half)) {
        size_t some = n - i < ARRAY_LEN(half) ? n - i : ARRAY_LEN(half);
        rt_narrow(RT_DTYPE_BF16, from + i, half, some);
        rt_widen(RT_DTYPE_BF16, half, out + i, some);
    }
}

void tr_round_rows(const float *from, size_t stride, uint32_t rows, uint32_t columns, bool wide,
                   void *to)
{
    size_t bytes = columns * (wide ? sizeof(float) : sizeof(uint16_t));
    if (stride == columns) {
        round_row(from, (size_t)rows * columns, wide, to);
        return;
    }
    for (uint32_t r = 0; r < rows; r++)
        round_row(from + r * stride, columns, wide, (char *)to + r * bytes);
}

void tr_rounded_begin(struct tr_rounded *rounded)
{
    rounded->version++;
    round_row(rounded->space.params, rounded->space.n_params, is_wide(rounded), rounded->params);
}

static const void *round_into(const struct tr_rounded *rounded, void *to, const float *from,
                              size_t stride, uint32_t rows, uint32_t columns)
{
    rt_assert(rows <= rounded->space.rows && columns <= rounded->space.columns);
    tr_round_rows(from, stride, rows, columns, is_wide(rounded), to);
    return to;
}

static const void *param_of(const struct tr_rounded *rounded, const float *w)
{
    rt_assert(w >= rounded->space.params && w < rounded->space.params + rounded->space.n_params);
    return element(rounded, rounded->params, (size_t)(w - rounded->space.params));
}

/* ---- products ---- */

static int multiply(const struct tr_backend *backend, struct tr_product p)
{
    const struct tr_rounded *rounded = backend->rounded;
    p.bf16 = !is_wide(rounded);
    p.version = rounded->version;
    p.lda = (size_t)(p.ta ? p.m : p.k);
    p.ldb = (size_t)(p.tb ? p.k : p.n);
    return rounded->matmul ? tr_matmul_run(rounded->matmul, backend->threads, &p)
                           : tr_sgemm(backend->threads, &p);
}

int tr_rounded_forward(struct tr_backend *backend, const struct tr_linear *op, const float **out,
                       size_t *stride)
{
    const struct tr_rounded *rounded = backend->rounded;
    bool ours = rounded->matmul != NULL;
    float *c = ours ? rounded->out : op->z ? op->z : op->y;
    *stride = ours ? op->outputs : op->z ? op->z_stride : op->y_stride;
    *out = c;
    rt_assert(op->samples <= rounded->space.rows && op->outputs <= rounded->space.columns);
    return multiply(backend, (struct tr_product){
                                 .tb = true,
                                 .m = op->samples,
                                 .n = op->outputs,
                                 .k = op->inputs,
                                 .a = round_into(rounded, rounded->x, op->x, op->x_stride,
                                                 op->samples, op->inputs),
                                 .b = param_of(rounded, op->w),
                                 .c = c,
                                 .ldc = *stride,
                                 .kept = true,
                             });
}

static int weight_grad(struct tr_backend *backend, const struct tr_linear_grad *op, const void *dy)
{
    const struct tr_rounded *rounded = backend->rounded;
    return multiply(backend, (struct tr_product){
                                 .ta = true,
                                 .add = op->add_params,
                                 .m = op->outputs,
                                 .n = op->inputs,
                                 .k = op->samples,
                                 .a = dy,
                                 .b = round_into(rounded, rounded->x, op->x, op->x_stride,
                                                 op->samples, op->inputs),
                                 .c = op->dw,
                                 .ldc = op->inputs,
                             });
}

static int input_grad(struct tr_backend *backend, const struct tr_linear_grad *op, const void *dy)
{
    const struct tr_rounded *rounded = backend->rounded;
    bool ours = rounded->matmul && op->dx_stride != op->inputs;
    int err = multiply(backend, (struct tr_product){
                                    .add = op->add_dx && !ours,
                                    .m = op->samples,
                                    .n = op->inputs,
                                    .k = op->outputs,
                                    .a = dy,
                                    .b = param_of(rounded, op->w),
                                    .c = ours ? rounded->out : op->dx,
                                    .ldc = ours ? op->inputs : op->dx_stride,
                                    .kept = true,
                                });
    struct tr_copy copy = {
        .samples = op->samples,
        .width = op->inputs,
        .x = rounded->out,
        .x_stride = op->inputs,
        .y_stride = op->dx_stride,
        .y = op->dx,
        .add = op->add_dx,
    };
    return err || !ours ? err : backend->loops->copy(backend, &copy);
}

int tr_rounded_backward(struct tr_backend *backend, const struct tr_linear_grad *op)
{
    const struct tr_rounded *rounded = backend->rounded;
    uint32_t rows = rounded->space.rows;
    int err = 0;
    for (uint32_t first = 0; !err && first < op->samples; first += rows) {
        struct tr_linear_grad part = *op;
        part.samples = op->samples - first < rows ? op->samples - first : rows;
        part.x += first * op->x_stride;
        part.dy += first * op->dy_stride;
        part.add_params |= first > 0;
        const void *dy =
            round_into(rounded, rounded->dy, part.dy, part.dy_stride, part.samples, part.outputs);
        err = weight_grad(backend, &part, dy);
        if (!err && op->dx) {
            part.dx += first * op->dx_stride;
            err = input_grad(backend, &part, dy);
        }
    }
    return err;
}
