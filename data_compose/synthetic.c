/* data_compose/synthetic.c -- the planted model behind `format: synthetic`.
 *
 *   logit = bias + sum over features of main[f][id]
 *                + sum over pairs (f, g) of scale * <hidden[f][id_f], hidden[g][id_g]>
 *                + a straight and a bent part of x1..x4 (dense_logit below)
 *
 * What a linear model on the same columns can learn are the main effects and the straight part of the
 * dense ones; the pairs and the bent part are what embeddings, dot products and layers are for. The
 * sizes are tuned so that the best possible AUC is about 0.82 while logistic regression reaches 0.73, and
 * a DLRM of dim 16 comes within 0.009 of the best in one million rows, within 0.005 in two: popular ids
 * carry the weight (Zipf), pairs are of low rank and of small vocabularies, and features with many
 * rare ids have small effects.
 *
 * Ids are drawn from Walker's alias tables: one draw, one multiplication, one comparison, no pow. Effects
 * are centred and scaled under the popularity of their ids, so every seed gives a log of the same
 * difficulty. A row's draws are positions in a stream of its own: key = fold(set, n). */
#include "data_compose/synthetic.h"

#include "runtime/base/assert.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "runtime/conf/option.h"

#include <math.h>
#include <stdbool.h>
#include <stddef.h>

#define RANK 2
#define BIAS (-1.2)
#define ZIPF 1.1
#define BINS (1u << 16)

static const struct {
    uint32_t vocabulary;
    double main; /* standard deviation of the main effect over rows */
} feature[DC_SYNTHETIC_FEATURES] = {
    {30, 0.4},  {60, 0.4},    {100, 0.4},   {200, 0.4},
    {500, 0.4}, {1000, 0.35}, {5000, 0.15}, {20000, 0.1},
};

static const struct {
    uint32_t a, b;
    double scale; /* standard deviation of the pair's term over rows */
} pair[] = {{0, 1, 0.6}, {2, 3, 0.6}, {0, 4, 0.35}};

struct dc_synthetic {
    uint64_t row_key[2]; /* by enum dc_synthetic_set */
    struct table {
        uint32_t *accept, *alias; /* accept: of 2^32 */
        float *main;
        float (*hidden)[RANK];
    } table[DC_SYNTHETIC_FEATURES];
};

uint32_t dc_synthetic_vocabulary(uint32_t f)
{
    rt_assert(f < DC_SYNTHETIC_FEATURES);
    return feature[f].vocabulary;
}

/* ---- set-up ---- */

/* Zipf-Mandelbrot popularity, sum 1. The offset keeps the first id of a small vocabulary below a third. */
static double *popularity(uint32_t n)
{
    double *p = rt_xcalloc(n, sizeof(*p));
    double sum = 0;

    for (uint32_t i = 0; i < n; i++)
        sum += p[i] = pow(i + 2.0, -ZIPF);
    for (uint32_t i = 0; i < n; i++)
        p[i] /= sum;
    return p;
}

/* Walker's method in Vose's order: columns below average are filled up from one above. */
static void fill_alias(struct table *t, const double *p, uint32_t n)
{
    double *left = rt_xcalloc(n, sizeof(*left));
    uint32_t *small = rt_xcalloc(n, sizeof(*small)), *large = rt_xcalloc(n, sizeof(*large));
    uint32_t n_small = 0, n_large = 0;

    for (uint32_t i = 0; i < n; i++) {
        left[i] = p[i] * n;
        if (left[i] < 1)
            small[n_small++] = i;
        else
            large[n_large++] = i;
    }
    for (uint32_t i = 0; i < n; i++) { /* what rounding leaves over keeps its own column */
        t->accept[i] = UINT32_MAX;
        t->alias[i] = i;
    }
    while (n_small && n_large) {
        uint32_t s = small[--n_small], l = large[n_large - 1];

        t->accept[s] = (uint32_t)(left[s] * 4294967295.0);
        t->alias[s] = l;
        left[l] -= 1 - left[s];
        if (left[l] < 1) {
            n_large--;
            small[n_small++] = l;
        }
    }
    rt_free(left);
    rt_free(small);
    rt_free(large);
}

/* Centre and scale v[n] with stride to deviation `deviation` under the weights p. */
static void normalize(float *v, uint32_t stride, const double *p, uint32_t n, double deviation)
{
    double mean = 0, square = 0;

    for (uint32_t i = 0; i < n; i++)
        mean += p[i] * v[(size_t)i * stride];
    for (uint32_t i = 0; i < n; i++)
        square += p[i] * pow(v[(size_t)i * stride] - mean, 2);
    for (uint32_t i = 0; i < n; i++)
        v[(size_t)i * stride] =
            (float)((v[(size_t)i * stride] - mean) * deviation / sqrt(square > 0 ? square : 1));
}

static void make_table(struct table *t, uint32_t f, uint64_t seed)
{
    uint32_t n = feature[f].vocabulary;
    uint64_t main_key = rt_draw_fold(rt_draw_key(seed, "synthetic", "main"), f);
    uint64_t hidden_key = rt_draw_fold(rt_draw_key(seed, "synthetic", "hidden"), f);
    double *p = popularity(n);

    t->accept = rt_xcalloc(n, sizeof(*t->accept));
    t->alias = rt_xcalloc(n, sizeof(*t->alias));
    t->main = rt_xcalloc(n, sizeof(*t->main));
    t->hidden = rt_xcalloc(n, sizeof(*t->hidden));
    fill_alias(t, p, n);
    for (uint32_t i = 0; i < n; i++) {
        t->main[i] = rt_normal_f32(rt_draw(main_key, i));
        for (uint32_t r = 0; r < RANK; r++)
            t->hidden[i][r] = rt_normal_f32(rt_draw(hidden_key, (uint64_t)i * RANK + r));
    }
    normalize(t->main, 1, p, n, feature[f].main);
    for (uint32_t r = 0; r < RANK; r++)
        normalize(&t->hidden[0][r], RANK, p, n, 1);
    rt_free(p);
}

struct dc_synthetic *dc_synthetic_create(uint64_t seed)
{
    struct dc_synthetic *s = rt_xcalloc(1, sizeof(*s));

    s->row_key[DC_SYNTHETIC_TRAIN] = rt_draw_key(seed, "synthetic", "train");
    s->row_key[DC_SYNTHETIC_TEST] = rt_draw_key(seed, "synthetic", "test");
    for (uint32_t f = 0; f < DC_SYNTHETIC_FEATURES; f++)
        make_table(&s->table[f], f, seed);
    return s;
}

void dc_synthetic_destroy(struct dc_synthetic *synthetic)
{
    if (!synthetic)
        return;
    for (uint32_t f = 0; f < DC_SYNTHETIC_FEATURES; f++) {
        struct table *t = &synthetic->table[f];

        rt_free(t->accept);
        rt_free(t->alias);
        rt_free(t->main);
        rt_free(t->hidden);
    }
    rt_free(synthetic);
}

/* ---- rows ---- */

static uint32_t draw_id(const struct table *t, uint32_t n, uint64_t draw)
{
    uint32_t column = (uint32_t)((draw >> 32) * n >> 32);

    return (uint32_t)draw <= t->accept[column] ? column : t->alias[column];
}

/* x1, x2: standard normal; x3: exp(1.2 |z|) - 1; x4: uniform in [0, 1). */
static double dense_logit(const float x[DC_SYNTHETIC_DENSE])
{
    return 0.35 * x[0] + 0.5 * sin(2.0 * x[0]) + 0.35 * ((double)x[1] * x[1] - 1.0) +
           0.3 * (log1p(x[2]) - 0.96) + 0.6 * (fabs(2.0 * x[3] - 1.0) - 0.5);
}

void dc_synthetic_row(const struct dc_synthetic *synthetic, enum dc_synthetic_set set, uint64_t n,
                      struct dc_synthetic_row *out)
{
    uint64_t key = rt_draw_fold(synthetic->row_key[set], n);
    double logit = BIAS;

    for (uint32_t f = 0; f < DC_SYNTHETIC_FEATURES; f++) {
        const struct table *t = &synthetic->table[f];
        uint32_t id = draw_id(t, feature[f].vocabulary, rt_draw(key, f));

        out->id[f] = id;
        logit += t->main[id];
    }
    for (size_t i = 0; i < ARRAY_LEN(pair); i++) {
        const float *a = synthetic->table[pair[i].a].hidden[out->id[pair[i].a]];
        const float *b = synthetic->table[pair[i].b].hidden[out->id[pair[i].b]];
        double dot = 0;

        for (uint32_t r = 0; r < RANK; r++)
            dot += (double)a[r] * b[r];
        logit += pair[i].scale * dot / sqrt(RANK);
    }
    out->dense[0] = rt_normal_f32(rt_draw(key, 32));
    out->dense[1] = rt_normal_f32(rt_draw(key, 33));
    out->dense[2] = expf(1.2f * fabsf(rt_normal_f32(rt_draw(key, 34)))) - 1.0f;
    out->dense[3] = rt_unit_f32(rt_draw(key, 35));
    logit += dense_logit(out->dense);
    out->probability = 1.0 / (1.0 + exp(-logit));
    out->label = rt_unit_f64(rt_draw(key, 63)) < out->probability ? 1.0f : 0.0f;
}

/* ---- configuration ---- */

#define AT(field) offsetof(struct dc_synthetic_conf, field)
static const struct rt_option option[] = {
    {"rows", RT_OPT_U64, AT(rows), "2000000", 1, (double)DC_SYNTHETIC_ROWS_MAX, NULL,
     "training rows"},
    {"test_rows", RT_OPT_U64, AT(test_rows), "100000", 0, (double)DC_SYNTHETIC_ROWS_MAX, NULL,
     "test rows; 0: no evaluation"},
    {"seed", RT_OPT_U64, AT(seed), "1", 0, 0, NULL,
     "of the log itself, apart from the seed of the training"},
};

void dc_synthetic_document(struct rt_strbuf *out)
{
    rt_options_help(option, ARRAY_LEN(option), "data.synthetic.", out);
}

int dc_synthetic_conf_read(const struct rt_node *node, struct rt_arena *arena,
                           struct dc_synthetic_conf *out)
{
    return rt_options_load(option, ARRAY_LEN(option), node, out, arena);
}

/* ---- the best possible AUC ---- */

struct dc_auc {
    uint64_t positives[BINS], negatives[BINS];
};

struct dc_auc *dc_auc_create(void)
{
    return rt_xcalloc(1, sizeof(struct dc_auc));
}

void dc_auc_destroy(struct dc_auc *auc)
{
    rt_free(auc);
}

void dc_auc_add(struct dc_auc *auc, double probability, float label)
{
    uint32_t bin = (uint32_t)(probability * BINS);

    if (bin >= BINS)
        bin = BINS - 1;
    if (label > 0.5f)
        auc->positives[bin]++;
    else
        auc->negatives[bin]++;
}

double dc_auc_value(const struct dc_auc *auc)
{
    double below = 0, positives = 0, won = 0; /* below: negatives in lower bins */

    for (uint32_t i = 0; i < BINS; i++) {
        won += (double)auc->positives[i] * (below + 0.5 * (double)auc->negatives[i]);
        below += (double)auc->negatives[i];
        positives += (double)auc->positives[i];
    }
    return positives > 0 && below > 0 ? won / (positives * below) : 0.5;
}
