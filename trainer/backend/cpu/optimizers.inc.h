/* trainer/backend/cpu/optimizers.inc.h -- the part of kernels.inc.h that steps parameters: formulas in
 * trainer/optimizer.h, one pass over memory each (LAMB: two).
 *
 * Sums for norms are in float64, SUM_LANES of them side by side: element i goes into sum i % SUM_LANES whatever the
 * registers hold, and squares of float32 are exact there, so norms have the same bits on every instruction set. */

#define SUM_LANES 16
#define PIECES    (SUM_LANES / LANES)

typedef double wide __attribute__((vector_size(LANES * 8)));

INLINE vec root(vec v)
{
#if LANES == 16
    return (vec)_mm512_sqrt_ps((__m512)v);
#elif LANES == 8
    return (vec)_mm256_sqrt_ps((__m256)v);
#else
    return (vec)_mm_sqrt_ps((__m128)v);
#endif
}

/* The last register of a vector may be a part of one. */
INLINE vec load_part(const float *p, size_t n)
{
    vec v = {0};
    if (n >= LANES)
        return load(p);
    memcpy(&v, p, n * sizeof *p);
    return v;
}

INLINE void store_part(float *p, vec v, size_t n)
{
    if (n >= LANES)
        store(p, v);
    else
        memcpy(p, &v, n * sizeof *p);
}

/* ---- sums of squares ---- */

INLINE void add_squares(wide *sum, vec v)
{
    wide x = __builtin_convertvector(v, wide);
    *sum += x * x;
}

/* Behind the last whole SUM_LANES: `at` is the first of these elements in their group. */
static void add_rest(double *sum, size_t at, vec v, size_t n)
{
    for (size_t k = 0; k < LANES && k < n; k++)
        sum[at + k] += (double)v[k] * v[k];
}

static double sum_up(const double *sum)
{
    double all = 0;
    for (int k = 0; k < SUM_LANES; k++)
        all += sum[k];
    return all;
}

static double sum_squares(const float *value, size_t n)
{
    wide part[PIECES] = {0};
    double sum[SUM_LANES];
    size_t i = 0;
    for (; i + SUM_LANES <= n; i += SUM_LANES)
#pragma GCC unroll 4
        for (int k = 0; k < PIECES; k++)
            add_squares(&part[k], load(value + i + k * LANES));
    memcpy(sum, part, sizeof sum);
    for (; i < n; i += LANES)
        add_rest(sum, i % SUM_LANES, load_part(value + i, n - i), n - i);
    return sum_up(sum);
}

/* ---- one pass ---- */

static void sgd(const struct tr_update *op)
{
    for (size_t i = 0; i < op->n; i += LANES) {
        size_t n = op->n - i;
        vec p = load_part(op->param + i, n);
        vec g = op->grad_scale * load_part(op->grad + i, n) + op->weight_decay * p;
        if (op->state[0]) {
            g += op->momentum * load_part(op->state[0] + i, n);
            store_part(op->state[0] + i, g, n);
        }
        store_part(op->param + i, p - op->lr * g, n);
    }
}

static void adagrad(const struct tr_update *op)
{
    for (size_t i = 0; i < op->n; i += LANES) {
        size_t n = op->n - i;
        vec p = load_part(op->param + i, n);
        vec g = op->grad_scale * load_part(op->grad + i, n) + op->weight_decay * p;
        vec sum = load_part(op->state[0] + i, n) + g * g;
        store_part(op->state[0] + i, sum, n);
        store_part(op->param + i, p - op->lr * g / (root(sum) + op->eps), n);
    }
}

/* Moments of elements i.. with gradient g, stored. */
INLINE void moments(const struct tr_update *op, size_t i, size_t n, vec g, vec *m, vec *v)
{
    *m = op->beta1 * load_part(op->state[0] + i, n) + op->rest1 * g;
    *v = op->beta2 * load_part(op->state[1] + i, n) + op->rest2 * (g * g);
    store_part(op->state[0] + i, *m, n);
    store_part(op->state[1] + i, *v, n);
}

static void adam(const struct tr_update *op)
{
    for (size_t i = 0; i < op->n; i += LANES) {
        size_t n = op->n - i;
        vec m, v, p = load_part(op->param + i, n);
        moments(op, i, n, op->grad_scale * load_part(op->grad + i, n) + op->weight_decay * p, &m,
                &v);
        store_part(op->param + i, op->keep * p - op->lr * m / (root(v) / op->correction + op->eps),
                   n);
    }
}

/* ---- LAMB: norms of parameters and of updates come between its passes ---- */

INLINE vec lamb_update(const struct tr_update *op, vec p, vec m, vec v)
{
    return op->unbias1 * m / (root(v) / op->correction + op->eps) + op->weight_decay * p;
}

INLINE void lamb_piece(const struct tr_update *op, size_t i, size_t n, vec *p, vec *u)
{
    vec m, v;
    *p = load_part(op->param + i, n);
    moments(op, i, n, op->grad_scale * load_part(op->grad + i, n), &m, &v);
    *u = lamb_update(op, *p, m, v);
}

static void lamb_moments(const struct tr_update *op, double *param_squares, double *update_squares)
{
    wide p_part[PIECES] = {0}, u_part[PIECES] = {0};
    double p_sum[SUM_LANES], u_sum[SUM_LANES];
    vec p, u;
    size_t i = 0;
    for (; i + SUM_LANES <= op->n; i += SUM_LANES)
#pragma GCC unroll 4
        for (int k = 0; k < PIECES; k++) {
            lamb_piece(op, i + (size_t)k * LANES, LANES, &p, &u);
            add_squares(&p_part[k], p);
            add_squares(&u_part[k], u);
        }
    memcpy(p_sum, p_part, sizeof p_sum);
    memcpy(u_sum, u_part, sizeof u_sum);
    for (; i < op->n; i += LANES) {
        lamb_piece(op, i, op->n - i, &p, &u);
        add_rest(p_sum, i % SUM_LANES, p, op->n - i);
        add_rest(u_sum, i % SUM_LANES, u, op->n - i);
    }
    *param_squares = sum_up(p_sum);
    *update_squares = sum_up(u_sum);
}

static void lamb(const struct tr_update *op)
{
    for (size_t i = 0; i < op->n; i += LANES) {
        size_t n = op->n - i;
        vec p = load_part(op->param + i, n), m = load_part(op->state[0] + i, n);
        vec u = lamb_update(op, p, m, load_part(op->state[1] + i, n));
        store_part(op->param + i, p - op->lr * u, n);
    }
}
