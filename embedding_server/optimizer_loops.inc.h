/* embedding_server/optimizer_loops.inc.h -- the loops of optimizer.h.
 *
 * Included by optimizer_plain.c, optimizer_avx2.c and optimizer_avx512.c, which define LOOPS_NAME and are compiled for their
 * instruction set. A formula is written once, over one register of elements (runtime/base/vec.inc.h); since each element's
 * operations are the same IEEE operations in the same order whatever a register holds, so are the bits (the tests
 * compare them).
 *
 *   change_rows    for each row: widen -> clip -> change_row: decay, formula, bound, register by register -> round
 *   rowwise        BLOCK rows at a time: sums of squares -> state, in order -> rates -> change_rows by them
 *
 * DESIGN: row-wise Adagrad's rate is a chain (sum over the row, root, quotient) of 19 ns for 16 elements, and of 5 ns when
 * registers hold what belongs to as many rows (Sapphire Rapids, rows in cache). A row may come twice: its state takes one
 * gradient after the other, and so do its weights; but with weight decay the second sum would have to see what the first
 * made of the weights, so then a block is one row. */

/* At -O2, gcc 12 vectorizes only loops whose length it knows, and no selects between floats if they could trap.
 * Sanitized, that would take gcc a minute. */
#if defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#pragma GCC optimize("O3", "no-trapping-math")
#endif

#include "embedding_server/element_row.inc.h"
#include "embedding_server/optimizer.h"
#include "runtime/base/rand.h"

#include <math.h>

/* A step's numbers in each lane. */
struct lanes {
    vec lr, adam_lr, decay, eps, rate1, rate2;
    vec beta, l1, l2, per_lr;
    vec bound;
    struct root root;
};

KERNEL struct lanes lanes_of(const struct ebs_step *step)
{
    return (struct lanes){
        .lr = hold(step->lr),
        .adam_lr = hold(step->adam_lr),
        .decay = hold(step->weight_decay),
        .eps = hold(step->eps),
        .rate1 = hold(step->rate1),
        .rate2 = hold(step->rate2),
        .beta = hold(step->beta),
        .l1 = hold(step->l1),
        .l2 = hold(step->l2),
        .per_lr = hold(step->per_lr),
        .bound = hold(step->weight_bound),
        .root = root_prepare(),
    };
}

/* ---- formulas: new weights from weights, gradients and the state that belongs to them ---- */

KERNEL vec sgd(const struct lanes *by, vec w, vec g, vec state[2])
{
    (void)state;
    return w - by->lr * (g + by->decay * w);
}

KERNEL vec adagrad(const struct lanes *by, vec w, vec g, vec state[2])
{
    vec gradient = g + by->decay * w;

    state[0] += gradient * gradient;
    return w - by->lr * gradient / (root_of(&by->root, state[0]) + by->eps);
}

/* The second half of row-wise Adagrad; state[0] is the row's rate. */
KERNEL vec by_rate(const struct lanes *by, vec w, vec g, vec state[2])
{
    return w - state[0] * (g + by->decay * w);
}

KERNEL vec adam(const struct lanes *by, vec w, vec g, vec state[2])
{
    vec gradient = g + by->decay * w;

    state[0] += by->rate1 * (gradient - state[0]);
    state[1] += by->rate2 * (gradient * gradient - state[1]);
    return w - by->adam_lr * (state[0] / (root_of(&by->root, state[1]) + by->eps));
}

/* Selects and no branches: an element stays as it is while its n is 0, and |z| <= l1 is weight 0. */
KERNEL vec ftrl(const struct lanes *by, vec w, vec g, vec state[2])
{
    vec gradient = g + by->decay * w, z = state[0], n = state[1];
    vec sum = n + gradient * gradient, root = root_of(&by->root, sum);
    vec before = (vec)pick(n > 0.0f, (ivec)-root_of(&by->root, n), (ivec)by->beta);
    vec pull = z + (gradient - (root + before) * by->per_lr * w);
    vec signed_l1 = (vec)((ivec)by->l1 | ((ivec)pull & INT32_MIN));
    vec moved = (signed_l1 - pull) / ((by->beta + root) * by->per_lr + by->l2);
    ivec small = (vec)magnitude_of((ivec)pull) <= by->l1, seen = sum > 0.0f;

    state[0] = (vec)pick(seen, (ivec)pull, (ivec)z);
    state[1] = sum;
    return (vec)pick(seen, (ivec)moved & ~small, (ivec)w);
}

typedef vec (*formula_fn)(const struct lanes *by, vec w, vec g, vec state[2]);

/* What of rows->state belongs to an element. */
enum state_kind { NO_STATE, ONE_FOR_THE_ROW, ONE_EACH, TWO_EACH };

/* ---- what is around the formula ---- */

/* Sum of squares of g + decay * w. */
KERNEL vec squares(const float *w, const float *g, float decay, size_t dim)
{
    vec part[LANES / WIDTH] = {0};

    for (size_t start = 0; start < dim; start += LANES) {
        for (size_t p = 0, j = start; p < LANES / WIDTH && j < dim; p++, j += WIDTH) {
            vec gradient = load(g + j, dim - j, 0.0f);

            if (decay != 0.0f)
                gradient += decay * load(w + j, dim - j, 0.0f);
            part[p] += gradient * gradient;
        }
    }
    return sum_parts(part);
}

KERNEL float sum_of_squares(const float *w, const float *g, float decay, size_t dim)
{
    vec sum = squares(w, g, decay, dim);

    for (int32_t half = WIDTH / 2; half > 0; half /= 2)
        sum = sum_halves(sum, sum, half);
    return sum[0];
}

/* g, or in `scratch` what is left of it. */
KERNEL const float *clip_row(const float *g, float limit, float *restrict scratch, size_t dim)
{
    float norm = sqrtf(sum_of_squares(g, g, 0.0f, dim)), scale = limit / norm;

    if (!(norm > limit))
        return g;
    for (size_t j = 0; j < dim; j++)
        scratch[j] = scale * g[j];
    return scratch;
}

KERNEL vec bounded(vec w, vec bound)
{
    vec below = (vec)pick(w > bound, (ivec)bound, (ivec)w);

    return (vec)pick(below < -bound, (ivec)-bound, (ivec)below);
}

/* What changes together: a register of a row's elements, or the last few. State behind the end of a row reads as 1,
 * which has a root that is quickly found. */
struct part {
    vec w, g, state[2];
};

KERNEL struct part read_part(enum state_kind kind, const float *w, const float *state,
                             const float *g, size_t at, size_t dim)
{
    struct part out = {.w = load(w + at, dim - at, 0.0f), .g = load(g + at, dim - at, 0.0f)};

    if (kind == ONE_FOR_THE_ROW)
        out.state[0] = splat(*state);
    if (kind >= ONE_EACH)
        out.state[0] = load(state + at, dim - at, 1.0f);
    if (kind == TWO_EACH)
        out.state[1] = load(state + dim + at, dim - at, 1.0f);
    return out;
}

KERNEL void change_part(const struct lanes *by, formula_fn formula, enum state_kind kind,
                        bool is_bound, struct part *part, float *w, float *state, size_t at,
                        size_t dim)
{
    vec changed = formula(by, part->w, part->g, part->state);

    store(w + at, dim - at, is_bound ? bounded(changed, by->bound) : changed);
    if (kind >= ONE_EACH)
        store(state + at, dim - at, part->state[0]);
    if (kind == TWO_EACH)
        store(state + dim + at, dim - at, part->state[1]);
}

/* The rest, less than a register, is read first: a masked load waits for stores near its end to be done. */
KERNEL void change_row(const struct lanes *by, formula_fn formula, enum state_kind kind,
                       bool is_bound, float *w, float *state, const float *g, size_t dim)
{
    size_t whole = dim / WIDTH * WIDTH;
    struct part rest;

    if (whole < dim)
        rest = read_part(kind, w, state, g, whole, dim);
    for (size_t at = 0; at < whole; at += WIDTH) {
        struct part part = read_part(kind, w, state, g, at, dim);

        change_part(by, formula, kind, is_bound, &part, w, state, at, dim);
    }
    if (whole < dim)
        change_part(by, formula, kind, is_bound, &rest, w, state, whole, dim);
}

/* A row of 16-bit weights is changed in a float32 scratch row, in whole registers: what is behind its end is never
 * stored. All arguments but the first two are known where this is called, so it becomes one loop for each. */
KERNEL void change_rows(const struct ebs_step *step, const struct ebs_rows *told,
                        formula_fn formula, enum state_kind kind, uint32_t dtype, size_t dim)
{
    const struct ebs_rows rows = *told; /* as these are, no store to a row can change them */
    const struct lanes by = lanes_of(step);
    const float clip = step->gradient_clip;
    const bool is_clipped = clip > 0.0f, is_bound = step->weight_bound > 0.0f;
    const uint64_t key = step->key;
    size_t whole = (dim + LANES - 1) / LANES * LANES;
    float clipped[WIRE_DIM_MAX], wide[WIRE_DIM_MAX];
    uint16_t padded[WIRE_DIM_MAX];

    if (dim < whole && dtype != WIRE_F32)
        memset(padded, 0, whole * sizeof(*padded));
    for (size_t i = 0; i < rows.n; i++) {
        uint8_t *stored = rows.row[i];
        const float *g = rows.grad + i * dim;
        uint16_t *half = dim < whole ? padded : (uint16_t *)stored;
        float *w = dtype == WIRE_F32 ? (float *)stored : wide;

        if (!stored)
            continue;
        if (dim < whole && dtype != WIRE_F32)
            memcpy(half, stored, dim * sizeof(*half));
        if (dtype == WIRE_F16)
            f16_widen(half, wide, whole);
        if (dtype == WIRE_BF16)
            bf16_widen(half, wide, whole);
        if (is_clipped)
            g = clip_row(g, clip, clipped, dim);
        change_row(&by, formula, kind, is_bound, w, kind == NO_STATE ? NULL : rows.state[i], g,
                   dim);
        if (dtype == WIRE_F16)
            f16_dither(rt_draw(key, rows.id[i]), wide, half, whole);
        if (dtype == WIRE_BF16)
            bf16_dither(rt_draw(key, rows.id[i]), wide, half, whole);
        if (dim < whole && dtype != WIRE_F32)
            memcpy(stored, half, dim * sizeof(*half));
    }
}

/* ---- row-wise Adagrad ---- */

#define BLOCK 64 /* rows, a multiple of WIDTH */

/* mean[i] = mean(g * g) over row i, also of those left out. Behind the last row, its sum again. */
KERNEL void means(const struct ebs_rows *rows, float mean[BLOCK], size_t dim)
{
    for (size_t i = 0; i < rows->n; i += WIDTH) {
        vec sum[WIDTH];

#pragma GCC unroll 16
        for (size_t k = 0; k < WIDTH; k++) {
            size_t at = i + k < rows->n ? i + k : rows->n - 1;

            sum[k] = squares(NULL, rows->grad + at * dim, 0.0f, dim);
        }
        *(vec *)(mean + i) = sum_lanes(sum) / (float)dim;
    }
}

/* The mean of one row whose gradient is clipped or decayed. */
KERNEL float mean_of_row(const struct ebs_step *step, const uint8_t *row, const float *g,
                         uint32_t dtype, size_t dim)
{
    float clipped[WIRE_DIM_MAX], wide[WIRE_DIM_MAX];

    if (!row)
        return 0.0f;
    if (dtype == WIRE_F16)
        f16_widen((const uint16_t *)row, wide, dim);
    if (dtype == WIRE_BF16)
        bf16_widen((const uint16_t *)row, wide, dim);
    if (step->gradient_clip > 0.0f)
        g = clip_row(g, step->gradient_clip, clipped, dim);
    return sum_of_squares(dtype == WIRE_F32 ? (const float *)row : wide, g, step->weight_decay,
                          dim) /
           (float)dim;
}

/* From means to rates; of rows left out they are never read. */
KERNEL void rates(const struct ebs_step *step, const struct ebs_rows *rows, float rate[BLOCK])
{
    const struct root root = root_prepare();

    for (size_t i = 0; i < rows->n; i++)
        if (rows->row[i])
            rate[i] = *rows->state[i] += rate[i];
    for (size_t i = 0; i < rows->n; i += WIDTH)
        *(vec *)(rate + i) = step->lr / (root_of(&root, *(vec *)(rate + i)) + step->eps);
}

KERNEL void rowwise(const struct ebs_step *step, const struct ebs_rows *rows, uint32_t dtype,
                    size_t dim)
{
    bool alone = step->weight_decay != 0.0f || step->gradient_clip > 0.0f;
    size_t block = alone ? 1 : BLOCK;
    float rate[BLOCK] = {0}, *own[BLOCK];

    for (size_t k = 0; k < BLOCK; k++)
        own[k] = &rate[k];
    for (size_t i = 0; i < rows->n; i += block) {
        struct ebs_rows some = {.row = rows->row + i,
                                .state = rows->state + i,
                                .id = rows->id + i,
                                .grad = rows->grad + i * dim,
                                .n = rows->n - i < block ? rows->n - i : block};

        if (alone)
            rate[0] = mean_of_row(step, some.row[0], some.grad, dtype, dim);
        else
            means(&some, rate, dim);
        rates(step, &some, rate);
        some.state = own;
        change_rows(step, &some, by_rate, ONE_FOR_THE_ROW, dtype, dim);
    }
}

/* ---- by kind, dtype and dim ---- */

KERNEL void run(const struct ebs_step *step, const struct ebs_rows *rows, uint32_t kind,
                uint32_t dtype, size_t dim)
{
    if (kind == RT_OPT_SGD)
        change_rows(step, rows, sgd, NO_STATE, dtype, dim);
    if (kind == RT_OPT_ADAGRAD)
        change_rows(step, rows, adagrad, ONE_EACH, dtype, dim);
    if (kind == RT_OPT_ROWWISE_ADAGRAD)
        rowwise(step, rows, dtype, dim);
    if (kind == RT_OPT_ADAM)
        change_rows(step, rows, adam, TWO_EACH, dtype, dim);
    if (kind == RT_OPT_FTRL)
        change_rows(step, rows, ftrl, TWO_EACH, dtype, dim);
}

/* As integers: without its sign, a float's bits grow with its magnitude, infinity and NaN last. */
KERNEL size_t usable_rows(const float *grad, size_t n, size_t dim, bool *out)
{
    const ivec limit = (ivec)splat(EBS_GRADIENT_MAX);
    size_t count = 0;

    for (size_t i = 0; i < n; i++, grad += dim) {
        ivec over = {0};

        for (size_t j = 0; j < dim; j += WIDTH)
            over |= limit - magnitude_of((ivec)load(grad + j, dim - j, 0.0f));
        out[i] = !any_negative(over);
        count += out[i];
    }
    return count;
}

/* Rows of the dims that most tables have: known here, they need no loops over what is left of a register. */
static size_t usable(const float *grad, size_t n, size_t dim, bool *out)
{
    switch (dim) {
    case 8:
        return usable_rows(grad, n, 8, out);
    case 16:
        return usable_rows(grad, n, 16, out);
    case 32:
        return usable_rows(grad, n, 32, out);
    case 64:
        return usable_rows(grad, n, 64, out);
    default:
        return usable_rows(grad, n, dim, out);
    }
}

#define RUN(kind, dtype)                                                                           \
    static void kind##_##dtype(const struct ebs_step *step, const struct ebs_rows *rows,           \
                               size_t dim)                                                         \
    {                                                                                              \
        switch (dim) {                                                                             \
        case 8:                                                                                    \
            run(step, rows, kind, dtype, 8);                                                       \
            break;                                                                                 \
        case 16:                                                                                   \
            run(step, rows, kind, dtype, 16);                                                      \
            break;                                                                                 \
        case 32:                                                                                   \
            run(step, rows, kind, dtype, 32);                                                      \
            break;                                                                                 \
        case 64:                                                                                   \
            run(step, rows, kind, dtype, 64);                                                      \
            break;                                                                                 \
        default:                                                                                   \
            run(step, rows, kind, dtype, dim);                                                     \
        }                                                                                          \
    }
#define RUN_DTYPES(kind)                                                                           \
    RUN(kind, WIRE_F32)                                                                            \
    RUN(kind, WIRE_F16)                                                                            \
    RUN(kind, WIRE_BF16)
RUN_DTYPES(RT_OPT_SGD)
RUN_DTYPES(RT_OPT_ADAGRAD)
RUN_DTYPES(RT_OPT_ROWWISE_ADAGRAD)
RUN_DTYPES(RT_OPT_ADAM)
RUN_DTYPES(RT_OPT_FTRL)

#define BY_DTYPE(kind)                                                                             \
    [kind] = {[WIRE_F32] = kind##_WIRE_F32,                                                        \
              [WIRE_F16] = kind##_WIRE_F16,                                                        \
              [WIRE_BF16] = kind##_WIRE_BF16}
const struct ebs_optimizer_loops LOOPS_NAME = {
    .rows = {BY_DTYPE(RT_OPT_SGD), BY_DTYPE(RT_OPT_ADAGRAD), BY_DTYPE(RT_OPT_ROWWISE_ADAGRAD),
             BY_DTYPE(RT_OPT_ADAM), BY_DTYPE(RT_OPT_FTRL)},
    .usable = usable,
};
