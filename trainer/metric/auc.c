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
 * passes, a few ns a sample. A sample whose score is not finite stays in its place (groups go by place) and weighs nothing. Sums are float64; unweighted counts are exact in it up to 2^53. A
 * histogram of scores was rejected: it is fast and merges easily, but it is not exact. */
#include "trainer/metric/auc.h"

#include <math.h>
#include <string.h>

#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "trainer/metric/group_auc.h"

#define RADIX_BITS 11u
#define RADIX      (1u << RADIX_BITS)
#define CLIP       1e-7
#define FIRST_ROOM 4096u

struct tr_auc {
    enum tr_head_kind kind;
    struct tr_auc_sample *sample;
    size_t n, capacity;
    uint64_t nonfinite;               /* of the n */
    struct tr_auc_sample *sorting[2]; /* [reserved] NULL: taken when they are needed */
    size_t reserved;
    uint64_t limit;
};

int tr_auc_create(enum tr_head_kind kind, uint64_t limit, struct tr_auc **out)
{
    if (limit < 1 || limit > TR_AUC_SAMPLES_MAX)
        return RT_FAIL(RT_EUSAGE, "AUC: expected a limit of 1..%llu samples, got %llu",
                       (unsigned long long)TR_AUC_SAMPLES_MAX, (unsigned long long)limit);
    struct tr_auc *auc = rt_xcalloc(1, sizeof *auc);
    auc->kind = kind;
    auc->limit = limit;
    *out = auc;
    return 0;
}

void tr_auc_destroy(struct tr_auc *auc)
{
    if (!auc)
        return;
    rt_free(auc->sample);
    rt_free(auc->sorting[0]);
    rt_free(auc->sorting[1]);
    rt_free(auc);
}

void tr_auc_reset(struct tr_auc *auc)
{
    auc->n = 0;
    auc->nonfinite = 0;
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

int tr_auc_reserve(struct tr_auc *auc, size_t n)
{
    int err = make_room(auc, n);
    for (int i = 0; i < 2 && !err; i++) {
        auc->sorting[i] = rt_try_malloc(n * sizeof *auc->sorting[i]);
        if (!auc->sorting[i])
            err = RT_FAIL(RT_ENOMEM, "AUC: no memory for %zu samples", n);
    }
    auc->reserved = err ? 0 : n;
    return err;
}

int tr_auc_check(enum tr_head_kind kind, const struct tr_auc_sample *sample)
{
    double score = (double)sample->score, label = (double)sample->label;
    if (kind == TR_HEAD_MSE && !isfinite(label))
        return RT_FAIL(RT_EDATA, "AUC: label: expected a finite number, got %g", label);
    if (kind != TR_HEAD_MSE && isfinite(score) && !(score >= 0 && score <= 1))
        return RT_FAIL(RT_EDATA, "AUC: score: expected 0..1, got %g", score);
    if (kind != TR_HEAD_MSE && label != 0 && label != 1)
        return RT_FAIL(RT_EDATA, "AUC: label: expected 0 or 1, got %g", label);
    if (!(sample->weight >= 0 && isfinite(sample->weight)))
        return RT_FAIL(RT_EDATA, "AUC: weight: expected at least 0, got %g",
                       (double)sample->weight);
    return 0;
}

/* As it is kept: -0 becomes 0, since equal numbers must have equal bits. */
static struct tr_auc_sample kept(struct tr_auc *auc, struct tr_auc_sample sample)
{
    sample.score += 0.0f;
    if (!isfinite(sample.score)) {
        sample.score = sample.weight = 0;
        auc->nonfinite++;
    }
    return sample;
}

int tr_auc_add(struct tr_auc *auc, const float *score, const float *label, const float *weight,
               size_t n)
{
    size_t first = auc->n;
    uint64_t before = auc->nonfinite;
    int err = make_room(auc, n);
    if (err)
        return err;
    for (size_t i = 0; i < n && !err; i++) {
        bool real = auc->kind == TR_HEAD_MSE;
        struct tr_auc_sample sample = {
            .score = score[i],
            .label = real ? label[i] : label[i] > 0.5f,
            .weight = weight ? weight[i] : 1,
        };
        err = tr_auc_check(auc->kind, &sample);
        auc->sample[first + i] = kept(auc, sample);
    }
    if (err)
        auc->nonfinite = before;
    else
        auc->n += n;
    return err;
}

int tr_auc_add_samples(struct tr_auc *auc, const struct tr_auc_sample *sample, size_t n)
{
    int err = make_room(auc, n);
    if (err)
        return err;
    for (size_t i = 0; i < n; i++)
        auc->sample[auc->n + i] = kept(auc, sample[i]);
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

/* A sorted copy in a; the samples keep their order of arrival. Both [n]. */
static void sort(const struct tr_auc *auc, struct tr_auc_sample *a, struct tr_auc_sample *b)
{
    sort_pass(auc->sample, a, auc->n, 0);
    sort_pass(a, b, auc->n, RADIX_BITS);
    sort_pass(b, a, auc->n, 2 * RADIX_BITS);
}

/* ---- results ---- */

/* Group by group, ascending: without weights nothing depends on the order of arrival, to the last bit. */
static void sum_sorted(const struct tr_auc_sample *sample, size_t n, struct tr_quality *out)
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
    double rate = positives / weight, rest = negatives / weight;
    out->weight = weight;
    out->auc = positives > 0 && negatives > 0 ? pairs / (positives * negatives) : NAN;
    out->logloss = weight > 0 ? loss / weight : NAN;
    out->mean_label = weight > 0 ? positives / weight : NAN;
    out->mean_score = weight > 0 ? scores / weight : NAN;
    out->calibration = positives > 0 ? scores / positives : NAN;
    out->loss = out->logloss;
    if (positives > 0 && negatives > 0)
        out->normalized_entropy = out->logloss / -(rate * log(rate) + rest * log(rest));
}

static int sum_binary(const struct tr_auc *auc, const uint64_t *group, struct tr_quality *out)
{
    bool ours = auc->n > auc->reserved || !auc->sorting[0];
    size_t bytes = (auc->n ? auc->n : 1) * sizeof(struct tr_auc_sample);
    struct tr_auc_sample *a = ours ? rt_try_malloc(bytes) : auc->sorting[0];
    struct tr_auc_sample *b = ours ? rt_try_malloc(bytes) : auc->sorting[1];
    int err = a && b ? 0 : RT_FAIL(RT_ENOMEM, "AUC: no memory to sort %zu samples", auc->n);
    if (!err) {
        sort(auc, a, b);
        sum_sorted(a, auc->n, out);
    }
    if (ours) {
        rt_free(a);
        rt_free(b);
    }
    if (err)
        return err;
    return group ? tr_group_auc(auc->sample, group, auc->n, &out->group_auc, &out->groups) : 0;
}

/* The others, in the order of arrival. */
static void sum_squares(const struct tr_auc *auc, struct tr_quality *out)
{
    double weight = 0, loss = 0, scores = 0, labels = 0;
    for (size_t i = 0; i < auc->n; i++) {
        const struct tr_auc_sample *s = &auc->sample[i];
        double w = (double)s->weight, off = (double)s->score - (double)s->label;
        weight += w;
        loss += w * off * off;
        scores += w * (double)s->score;
        labels += w * (double)s->label;
    }
    out->weight = weight;
    out->mse = out->loss = weight > 0 ? loss / weight : NAN;
    out->mean_label = weight > 0 ? labels / weight : NAN;
    out->mean_score = weight > 0 ? scores / weight : NAN;
    out->calibration = labels != 0 ? scores / labels : NAN;
}

static void sum_classes(const struct tr_auc *auc, struct tr_quality *out)
{
    double weight = 0, loss = 0, right = 0;
    for (size_t i = 0; i < auc->n; i++) {
        const struct tr_auc_sample *s = &auc->sample[i];
        double w = (double)s->weight;
        weight += w;
        loss -= w * log(fmin(fmax((double)s->score, CLIP), 1 - CLIP));
        right += w * (double)s->label;
    }
    out->weight = weight;
    out->logloss = out->loss = weight > 0 ? loss / weight : NAN;
    out->accuracy = weight > 0 ? right / weight : NAN;
}

const struct tr_quality tr_quality_unknown = {
    .loss = NAN,
    .auc = NAN,
    .logloss = NAN,
    .mean_label = NAN,
    .mean_score = NAN,
    .calibration = NAN,
    .normalized_entropy = NAN,
    .mse = NAN,
    .accuracy = NAN,
    .group_auc = NAN,
};

int tr_auc_result(const struct tr_auc *auc, const uint64_t *group, struct tr_quality *out)
{
    *out = tr_quality_unknown;
    out->samples = auc->n - auc->nonfinite;
    out->nonfinite = auc->nonfinite;
    if (auc->kind == TR_HEAD_BCE)
        return sum_binary(auc, group, out);
    if (auc->kind == TR_HEAD_MSE)
        sum_squares(auc, out);
    else
        sum_classes(auc, out);
    return 0;
}
