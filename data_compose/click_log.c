/* data_compose/click_log.c -- the planted model behind `saffron-data-compose generate`.
 *
 *   logit = bias + sum over features of weight[f] * effect(f, id)
 *                + sum over pairs (2i, 2i + 1) of the first features of PAIR * <hidden(f, id), hidden(g, id)>
 *                + sum over dense columns of a straight and a bent part of log(1 + x)
 *
 * Effects are no tables but hashes of (feature, id): 26 columns of 100,000 ids would be tables of ten
 * megabytes, read at random by every row. What rare ids do fades with their rank, for no model can learn what
 * it has seen twice. The bias is set so that the mean logit over a sample of rows is BIAS: popular
 * ids weigh so much that it would differ from seed to seed.
 *
 * A log-uniform rank is one draw and one exp2; libm's last bit could change a row's text only where the
 * power lies within it of a whole number, about once in 10^11 draws.
 *
 * Compared with synthetic.c: that log is small, made inside data-compose, and easy to learn; this one has the
 * shape and the text of a real one, to measure reading, parsing and embedding with. */
#include "data_compose/click_log.h"

#include "runtime/base/assert.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"

#include <math.h>
#include <string.h>

#define BIAS          (-1.1) /* about one click in three rows */
#define MAIN          1.1    /* standard deviation of all main effects together, popular ids */
#define PAIR          0.9    /* of one pair's term */
#define PAIRS         4u
#define STRAIGHT      0.7 /* of all dense columns together */
#define BENT          0.5
#define DENSE_VALUES  999u /* 0..998 */
#define DENSE_MISSING 16u  /* one in so many */
#define KNOWN_OCTAVE  9    /* effects fade for ranks from 2^9 on */
#define SAMPLE        8192u

struct dc_click_log {
    struct dc_click_log_conf conf;
    uint64_t row_key[2];                        /* by enum dc_synthetic_set */
    uint64_t effect_key[DC_CLICK_FEATURES_MAX]; /* of a feature's ids */
    uint32_t scramble[DC_CLICK_FEATURES_MAX];   /* of the ids' text */
    float straight[DC_CLICK_DENSE_MAX], bent[DC_CLICK_DENSE_MAX];
    float log1p_of[DENSE_VALUES]; /* centred, deviation about 1 */
    char digits[DENSE_VALUES][4]; /* text of a value, its length in [3] */
    char hex[256][2];
    double octaves, dense_octaves; /* log2 of the numbers of values + 1 */
    double bias;
};

/* Of [0, n), log-uniform; octaves is log2(n + 1). */
static uint32_t log_uniform(uint64_t draw, double octaves, uint32_t n)
{
    uint32_t value = (uint32_t)(exp2(rt_unit_f64(draw) * octaves) - 1.0);

    return value < n ? value : n - 1;
}

/* Uniform with mean 0 and deviation 1, from 32 bits. */
static double centred(uint32_t bits)
{
    return ((double)bits * 0x1.0p-32 - 0.5) * 3.4641016151377544;
}

static double known(uint32_t rank)
{
    int octave = 32 - __builtin_clz(rank | 1);

    return octave <= KNOWN_OCTAVE ? 1.0 : 1.0 / (1 + octave - KNOWN_OCTAVE);
}

/* A bijection of 32 bits, so that distinct ids have distinct text. */
static uint32_t scrambled(uint32_t rank, uint32_t by)
{
    uint32_t x = (rank ^ by) * 0x9e3779b1u;

    x ^= x >> 15;
    x *= 0x85ebca6bu;
    return x ^ x >> 13;
}

/* ---- life ---- */

static void make_text(struct dc_click_log *clicks)
{
    static const char digit[] = "0123456789abcdef";

    for (uint32_t i = 0; i < 256; i++) {
        clicks->hex[i][0] = digit[i >> 4];
        clicks->hex[i][1] = digit[i & 15];
    }
    for (uint32_t v = 0; v < DENSE_VALUES; v++) {
        char *text = clicks->digits[v];
        int n = 0;

        if (v >= 100)
            text[n++] = digit[v / 100];
        if (v >= 10)
            text[n++] = digit[v / 10 % 10];
        text[n++] = digit[v % 10];
        text[3] = (char)n;
        /* log(1 + x) is uniform in [0, log 1000) but for the rounding down of small values */
        clicks->log1p_of[v] = (float)((log1p((double)v) / log(DENSE_VALUES + 1.0) - 0.5) * 3.4641);
    }
}

static void set_bias(struct dc_click_log *clicks)
{
    char *text = rt_xmalloc(DC_CLICK_ROW_BYTES(clicks->conf.features, clicks->conf.dense));
    double sum = 0, p;
    float label;

    clicks->bias = 0;
    for (uint64_t n = 0; n < SAMPLE; n++) {
        dc_click_log_row(clicks, DC_SYNTHETIC_TRAIN, ~n, text, &p, &label);
        sum += log(p / (1 - p));
    }
    clicks->bias = BIAS - sum / SAMPLE;
    rt_free(text);
}

struct dc_click_log *dc_click_log_create(const struct dc_click_log_conf *conf)
{
    struct dc_click_log *clicks = rt_xcalloc(1, sizeof(*clicks));
    uint64_t key = rt_draw_key(conf->seed, "click log", "effects");

    rt_assert(conf->features <= DC_CLICK_FEATURES_MAX && conf->dense <= DC_CLICK_DENSE_MAX &&
              conf->ids > 0 && conf->ids <= DC_CLICK_IDS_MAX);
    clicks->conf = *conf;
    clicks->row_key[DC_SYNTHETIC_TRAIN] = rt_draw_key(conf->seed, "click log", "train");
    clicks->row_key[DC_SYNTHETIC_TEST] = rt_draw_key(conf->seed, "click log", "test");
    clicks->octaves = log2(conf->ids + 1.0);
    clicks->dense_octaves = log2(DENSE_VALUES + 1.0);
    for (uint32_t f = 0; f < conf->features; f++) {
        clicks->effect_key[f] = rt_draw_fold(key, f);
        clicks->scramble[f] = (uint32_t)rt_draw(clicks->effect_key[f], ~0ull);
    }
    key = rt_draw_key(conf->seed, "click log", "dense");
    for (uint32_t d = 0; d < conf->dense; d++) {
        clicks->straight[d] =
            (float)(STRAIGHT * centred((uint32_t)rt_draw(key, 2 * d)) / sqrt((double)conf->dense));
        clicks->bent[d] =
            (float)(BENT * centred((uint32_t)rt_draw(key, 2 * d + 1)) / sqrt((double)conf->dense));
    }
    make_text(clicks);
    set_bias(clicks);
    return clicks;
}

void dc_click_log_destroy(struct dc_click_log *clicks)
{
    rt_free(clicks);
}

/* ---- rows ---- */

static char *put_dense(const struct dc_click_log *clicks, uint64_t key, char *to, double *logit)
{
    for (uint32_t d = 0; d < clicks->conf.dense; d++) {
        uint64_t draw = rt_draw(key, d);

        *to++ = '\t';
        if (draw % DENSE_MISSING == 0) /* reads as 0, and has the effect of a 0 */
            draw = 0;
        uint32_t v = draw ? log_uniform(draw, clicks->dense_octaves, DENSE_VALUES) : 0;
        double x = (double)clicks->log1p_of[v];
        *logit += (double)clicks->straight[d] * x + (double)clicks->bent[d] * (x * x - 1);
        if (draw) {
            memcpy(to, clicks->digits[v], 3);
            to += clicks->digits[v][3];
        }
    }
    return to;
}

static char *put_ids(const struct dc_click_log *clicks, uint64_t key, char *to, double *logit)
{
    double main = 0, pairs = 0, before[2] = {0};

    for (uint32_t f = 0; f < clicks->conf.features; f++) {
        uint32_t rank =
            log_uniform(rt_draw(key, clicks->conf.dense + f), clicks->octaves, clicks->conf.ids);
        uint32_t id = scrambled(rank, clicks->scramble[f]);
        uint64_t effect = rt_draw(clicks->effect_key[f], rank);
        double weight = known(rank);

        main += weight * centred((uint32_t)effect);
        if (f < 2 * PAIRS) {
            double hidden[2] = {weight * centred((uint32_t)(effect >> 32)),
                                weight * centred((uint32_t)rt_draw(effect, 0))};

            if (f & 1)
                pairs += before[0] * hidden[0] + before[1] * hidden[1];
            memcpy(before, hidden, sizeof(before));
        }
        *to++ = '\t';
        for (int shift = 24; shift >= 0; shift -= 8, to += 2)
            memcpy(to, clicks->hex[id >> shift & 255], 2);
    }
    if (clicks->conf.features)
        *logit += MAIN / sqrt((double)clicks->conf.features) * main + PAIR / sqrt(2.0) * pairs;
    return to;
}

size_t dc_click_log_row(const struct dc_click_log *clicks, enum dc_synthetic_set set, uint64_t n,
                        char *text, double *probability, float *label)
{
    uint64_t key = rt_draw_fold(clicks->row_key[set], n);
    double logit = clicks->bias;
    char *to = text + 1;

    to = put_dense(clicks, key, to, &logit);
    to = put_ids(clicks, key, to, &logit);
    *to++ = '\n';
    *probability = 1 / (1 + exp(-logit));
    *label = rt_unit_f64(rt_draw(key, ~0ull)) < *probability ? 1.0f : 0.0f;
    text[0] = *label > 0 ? '1' : '0';
    return (size_t)(to - text);
}
