/* trainer/metric/auc.c -- exact AUC by sorting.
 *
 * In:  the (score, label, weight) triples of an evaluation, in any order.
 * Out: AUC = sum over groups of equal score, ascending, of
 *            P * (N below + N in the group / 2)  /  (all P * all N),
 *      P and N being the weights of positives and negatives: each (positive, negative) pair counts
 *      its weights' product once, half if tied. Without weights this is the Mann-Whitney statistic.
 *
 * DESIGN: a stable radix sort on the score's bits (scores are not negative, so the order of the bits
 * is the order of the numbers; -0 is stored as 0): a copy of the triples, 11 bits a pass, three
 * passes, a few ns a sample. Sums are float64; unweighted counts are exact in it up to 2^53. A
 * histogram of scores was rejected: it is fast and merges easily, but it is not exact. */
#include "trainer/metric/auc.h"

#include <math.h>
#include <string.h>

#include "runtime/base/err.h"
#include "runtime/base/mem.h"

#define RADIX_BITS 11u
#define RADIX      (1u << RADIX_BITS)
#define CLIP       1e-7
#define FIRST_ROOM 4096u

struct tr_auc {
    struct tr_auc_sample *sample;
    size_t n, capacity;
    uint64_t limit;
};

int tr_auc_create(uint64_t limit, struct tr_auc **out)
{
    if (limit < 1 || limit > TR_AUC_SAMPLES_MAX)
        return RT_FAIL(RT_EUSAGE, "AUC: expected a limit of 1..%llu samples, got %llu",
                       (unsigned long long)TR_AUC_SAMPLES_MAX, (unsigned long long)limit);
    struct tr_auc *auc = rt_xcalloc(1, sizeof *auc);
    auc->limit = limit;
    *out = auc;
    return 0;
}

void tr_auc_destroy(struct tr_auc *auc)
{
    if (!auc)
        return;
    rt_free(auc->sample);
    rt_free(auc);
}

void tr_auc_reset(struct tr_auc *auc)
{
    auc->n = 0;
}

static int make_room(struct tr_auc *auc, size_t n)
{
    if (n > auc->limit - auc->n)
        return RT_FAIL(RT_ELIMIT, "AUC: expected at most %llu samples, got %zu more after %zu",
                       (unsigned long long)auc->limit, n, auc->n);
    if (auc->n + n <= auc->capacity)
        return 0;
    size_t capacity = auc->capacity ? 2 * auc->capacity : FIRST_ROOM;
    while (capacity < auc->n + n)
        capacity *= 2;
    struct tr_auc_sample *sample = rt_try_realloc(auc->sample, capacity * sizeof *sample);
    if (!sample)
        return RT_FAIL(RT_ENOMEM, "AUC: no memory for %zu samples", capacity);
    auc->sample = sample;
    auc->capacity = capacity;
    return 0;
}

static int check_samples(const float *score, const float *weight, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (!(score[i] >= 0 && score[i] <= 1))
            return RT_FAIL(RT_EDATA, "AUC: score %zu: expected 0..1, got %g", i, (double)score[i]);
        if (weight && !(weight[i] >= 0 && isfinite(weight[i])))
            return RT_FAIL(RT_EDATA, "AUC: weight %zu: expected at least 0, got %g", i,
                           (double)weight[i]);
    }
    return 0;
}

int tr_auc_add(struct tr_auc *auc, const float *score, const float *label, const float *weight,
               size_t n)
{
    int err = check_samples(score, weight, n);
    if (!err)
        err = make_room(auc, n);
    if (err)
        return err;
    for (size_t i = 0; i < n; i++)
        auc->sample[auc->n + i] = (struct tr_auc_sample){
            .score = score[i] + 0.0f, /* -0 becomes 0: equal numbers must have equal bits */
            .label = label[i] > 0.5f ? 1.0f : 0.0f,
            .weight = weight ? weight[i] : 1.0f,
        };
    auc->n += n;
    return 0;
}

int tr_auc_add_samples(struct tr_auc *auc, const struct tr_auc_sample *sample, size_t n)
{
    int err = 0;
    for (size_t i = 0; i < n && !err; i++) {
        err = check_samples(&sample[i].score, &sample[i].weight, 1);
        if (!err && sample[i].label != 0 && sample[i].label != 1)
            err = RT_FAIL(RT_EDATA, "AUC: label %zu: expected 0 or 1, got %g", i,
                          (double)sample[i].label);
    }
    if (!err)
        err = make_room(auc, n);
    if (err)
        return err;
    if (n > 0)
        memcpy(auc->sample + auc->n, sample, n * sizeof *sample);
    for (size_t i = 0; i < n; i++)
        auc->sample[auc->n + i].score += 0.0f; /* -0, as above */
    auc->n += n;
    return 0;
}

const struct tr_auc_sample *tr_auc_samples(const struct tr_auc *auc, size_t *n)
{
    *n = auc->n;
    return auc->sample;
}

/* ---- sorting ---- */

static uint32_t digit(const struct tr_auc_sample *sample, unsigned shift)
{
    uint32_t bits;
    memcpy(&bits, &sample->score, sizeof bits);
    return bits >> shift & (RADIX - 1);
}

/* One stable pass. */
static void sort_pass(const struct tr_auc_sample *from, struct tr_auc_sample *to, size_t n,
                      unsigned shift)
{
    size_t at[RADIX] = {0};
    for (size_t i = 0; i < n; i++)
        at[digit(&from[i], shift)]++;
    size_t sum = 0;
    for (uint32_t d = 0; d < RADIX; d++) {
        size_t count = at[d];
        at[d] = sum;
        sum += count;
    }
    for (size_t i = 0; i < n; i++)
        to[at[digit(&from[i], shift)]++] = from[i];
}

/* Sorted copy in *out, rt_free by the caller; the samples keep their order of arrival. */
static int sorted_copy(const struct tr_auc *auc, struct tr_auc_sample **out)
{
    size_t bytes = (auc->n ? auc->n : 1) * sizeof **out;
    struct tr_auc_sample *a = rt_try_malloc(bytes), *b = rt_try_malloc(bytes);
    if (!a || !b) {
        rt_free(a);
        rt_free(b);
        return RT_FAIL(RT_ENOMEM, "AUC: no memory to sort %zu samples", auc->n);
    }
    sort_pass(auc->sample, a, auc->n, 0);
    sort_pass(a, b, auc->n, RADIX_BITS);
    sort_pass(b, a, auc->n, 2 * RADIX_BITS);
    rt_free(b);
    *out = a;
    return 0;
}

/* ---- results ---- */

/* Group by group, ascending: without weights nothing depends on the order of arrival, to the last bit. */
static void sum_up(const struct tr_auc_sample *sample, size_t n, struct tr_quality *out)
{
    double negatives = 0, positives = 0, pairs = 0, loss = 0, scores = 0;
    for (size_t i = 0; i < n;) {
        double p = 0, q = 0;
        float score = sample[i].score;
        for (; i < n && sample[i].score == score; i++)
            *(sample[i].label > 0 ? &p : &q) += (double)sample[i].weight;
        double clipped = fmin(fmax((double)score, CLIP), 1 - CLIP);
        pairs += p * (negatives + q / 2);
        loss -= p * log(clipped) + q * log1p(-clipped);
        scores += (p + q) * (double)score;
        negatives += q;
        positives += p;
    }
    double weight = positives + negatives;
    out->samples = n;
    out->weight = weight;
    out->auc = positives > 0 && negatives > 0 ? pairs / (positives * negatives) : NAN;
    out->logloss = weight > 0 ? loss / weight : NAN;
    out->mean_label = weight > 0 ? positives / weight : NAN;
    out->mean_score = weight > 0 ? scores / weight : NAN;
    out->calibration = positives > 0 ? scores / positives : NAN;
}

int tr_auc_result(const struct tr_auc *auc, struct tr_quality *out)
{
    struct tr_auc_sample *sorted = NULL;
    int err = sorted_copy(auc, &sorted);
    if (err)
        return err;
    sum_up(sorted, auc->n, out);
    rt_free(sorted);
    return 0;
}
