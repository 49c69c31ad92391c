/* trainer/metric/group_auc.c -- samples sorted by group and within it by score; then one pass. Both sorts are stable radix
 * sorts, as in auc.c, so sums of weights are made in the order of the samples and have the same bits wherever they were scored. */
#include "trainer/metric/group_auc.h"

#include <math.h>
#include <string.h>

#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "trainer/metric/auc.h"

#define RADIX_BITS   11u
#define RADIX        (1u << RADIX_BITS)
#define SCORE_PASSES 3u /* of 32 bits */
#define GROUP_PASSES 6u /* of 64 bits */

struct keyed {
    uint64_t group;
    struct tr_auc_sample sample;
};

static uint32_t digit(const struct keyed *k, unsigned pass)
{
    uint32_t bits;
    if (pass >= SCORE_PASSES)
        return k->group >> (pass - SCORE_PASSES) * RADIX_BITS & (RADIX - 1);
    memcpy(&bits, &k->sample.score, sizeof bits);
    return bits >> pass * RADIX_BITS & (RADIX - 1);
}

/* One stable pass. */
static void sort_pass(const struct keyed *from, struct keyed *to, size_t n, unsigned pass)
{
    size_t at[RADIX] = {0}, sum = 0;
    for (size_t i = 0; i < n; i++)
        at[digit(&from[i], pass)]++;
    for (uint32_t d = 0; d < RADIX; d++) {
        size_t count = at[d];
        at[d] = sum;
        sum += count;
    }
    for (size_t i = 0; i < n; i++)
        to[at[digit(&from[i], pass)]++] = from[i];
}

/* Of samples [n] in the order of their scores: the pairs won, and the weights of either class. */
static void sum_group(const struct keyed *k, size_t n, double *pairs, double *positives,
                      double *negatives)
{
    *pairs = *positives = *negatives = 0;
    for (size_t i = 0; i < n;) {
        double p = 0, q = 0;
        float score = k[i].sample.score;
        for (; i < n && k[i].sample.score == score; i++)
            *(k[i].sample.label > 0 ? &p : &q) += (double)k[i].sample.weight;
        *pairs += p * (*negatives + q / 2);
        *positives += p;
        *negatives += q;
    }
}

static double mean_of_groups(const struct keyed *k, size_t n, uint64_t *groups)
{
    double sum = 0, weight = 0;
    *groups = 0;
    for (size_t first = 0, end = 0; first < n; first = end) {
        double pairs, positives, negatives;
        while (end < n && k[end].group == k[first].group)
            end++;
        sum_group(k + first, end - first, &pairs, &positives, &negatives);
        if (!(positives > 0 && negatives > 0))
            continue;
        sum += (positives + negatives) * (pairs / (positives * negatives));
        weight += positives + negatives;
        ++*groups;
    }
    return *groups ? sum / weight : NAN;
}

int tr_group_auc(const struct tr_auc_sample *sample, const uint64_t *group, size_t n, double *out,
                 uint64_t *groups)
{
    size_t bytes = (n ? n : 1) * sizeof(struct keyed);
    struct keyed *a = rt_try_malloc(bytes), *b = rt_try_malloc(bytes);
    int err = a && b ? 0 : RT_FAIL(RT_ENOMEM, "AUC: no memory to sort %zu samples by group", n);
    for (size_t i = 0; i < n && !err; i++)
        a[i] = (struct keyed){group[i], sample[i]};
    for (unsigned pass = 0; pass < SCORE_PASSES + GROUP_PASSES && !err; pass++) {
        struct keyed *from = a;
        sort_pass(from, b, n, pass);
        a = b;
        b = from;
    }
    if (!err)
        *out = mean_of_groups(a, n, groups);
    rt_free(a);
    rt_free(b);
    return err;
}
