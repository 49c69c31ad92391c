/* trainer/metric/scores.c -- the samples of an evaluation, which batch each is of, and parts for the wire.
 *
 *   arrival:  auc   [ batch 9 | batch 2 | batch 5 | ... ]      list {id, first sample, samples}
 *   part:     batch_id u64[batches] | samples u32[batches] | {score, label, weight} f32[samples][3]
 *   result:   a second auc with the same samples in the order of ids
 *
 * Without weights the order of samples changes no bit (auc.c); with weights sums of equal scores do depend
 * on it, hence the second copy: 12 bytes a sample, for the time of the summing up. */
#include "trainer/metric/scores.h"

#include "runtime/base/err.h"
#include "runtime/base/mem.h"

#include <stdlib.h>
#include <string.h>

void tr_scores_init(struct tr_scores *scores, struct tr_auc *auc)
{
    *scores = (struct tr_scores){.auc = auc};
    rt_map_init(&scores->known);
}

void tr_scores_release(struct tr_scores *scores)
{
    rt_free(scores->list);
    rt_map_release(&scores->known);
    *scores = (struct tr_scores){0};
}

void tr_scores_reset(struct tr_scores *scores)
{
    tr_auc_reset(scores->auc);
    scores->n = 0;
    rt_map_release(&scores->known);
    rt_map_init(&scores->known);
}

bool tr_scores_has(const struct tr_scores *scores, uint64_t batch_id)
{
    uint64_t value;
    return rt_map_get(&scores->known, batch_id, &value);
}

int tr_scores_mark(struct tr_scores *scores, uint64_t batch_id, uint32_t samples)
{
    size_t n;
    tr_auc_samples(scores->auc, &n);
    if (scores->n == scores->capacity) {
        size_t capacity = scores->capacity ? 2 * scores->capacity : 256;
        struct tr_scored *grown = rt_try_realloc(scores->list, capacity * sizeof *grown);
        if (!grown)
            return RT_FAIL(RT_ENOMEM, "no memory for the scores of %zu batches", capacity);
        scores->list = grown;
        scores->capacity = capacity;
    }
    int err = rt_map_put(&scores->known, batch_id, 1);
    if (err)
        return err;
    scores->list[scores->n++] = (struct tr_scored){batch_id, n - samples, samples};
    return 0;
}

/* ---- on the wire ---- */

int tr_scores_pack(const struct tr_scores *scores, size_t *at, uint32_t samples_max,
                   struct rt_io *io, struct wire_scores *head, struct rt_buf **payload)
{
    size_t n_samples, end = 0, from = *at, to = *at;
    const struct tr_auc_sample *sample = tr_auc_samples(scores->auc, &n_samples);
    uint32_t samples = 0;
    while (to < scores->n && (to == from || samples + scores->list[to].samples <= samples_max))
        samples += scores->list[to++].samples;
    size_t batches = to - from;
    size_t at_id = rt_segment_put(&end, batches * sizeof(uint64_t));
    size_t at_count = rt_segment_put(&end, batches * sizeof(uint32_t));
    size_t at_sample = rt_segment_put(&end, samples * sizeof *sample);
    struct rt_buf *buf = rt_io_buf(io, end ? end : 1);
    if (!buf)
        return RT_FAIL(RT_ENOMEM, "no payload memory for %u scores", samples);
    memset(buf->data, 0, end);
    buf->size = end;
    for (size_t b = 0; b < batches; b++) {
        const struct tr_scored *scored = &scores->list[from + b];
        memcpy(buf->data + at_id + b * sizeof(uint64_t), &scored->batch_id, sizeof(uint64_t));
        memcpy(buf->data + at_count + b * sizeof(uint32_t), &scored->samples, sizeof(uint32_t));
        memcpy(buf->data + at_sample, sample + scored->first, scored->samples * sizeof *sample);
        at_sample += scored->samples * sizeof *sample;
    }
    head->batches = (uint32_t)batches;
    head->samples = samples;
    head->last = to == scores->n;
    *at = to;
    *payload = buf;
    return 0;
}

static int check_part(const struct tr_scores *scores, const struct wire_scores *head,
                      const uint64_t *id, const uint32_t *count)
{
    uint64_t samples = 0;
    for (uint32_t b = 0; b < head->batches; b++) {
        samples += count[b];
        if (tr_scores_has(scores, id[b]))
            return RT_FAIL(RT_EPROTO, "Scores: batch %016llx is here already",
                           (unsigned long long)id[b]);
    }
    if (samples != head->samples)
        return RT_FAIL(RT_EPROTO, "Scores: the batches have %llu samples, expected %u",
                       (unsigned long long)samples, head->samples);
    return 0;
}

int tr_scores_take(struct tr_scores *scores, const struct wire_scores *head,
                   const struct rt_buf *payload)
{
    struct rt_segments seg = rt_segments_of(payload);
    const void *id, *count, *sample;
    int err = rt_segment_take(&seg, head->batches, sizeof(uint64_t), &id);
    if (!err)
        err = rt_segment_take(&seg, head->batches, sizeof(uint32_t), &count);
    if (!err)
        err = rt_segment_take(&seg, head->samples, sizeof(struct tr_auc_sample), &sample);
    if (!err)
        err = rt_segments_end(&seg);
    if (err)
        return rt_fail_prefix(err, "Scores: ");
    err = check_part(scores, head, id, count);
    const struct tr_auc_sample *next = sample;
    for (uint32_t b = 0; b < head->batches && !err; b++) {
        uint32_t n = ((const uint32_t *)count)[b];
        err = tr_auc_add_samples(scores->auc, next, n);
        if (!err)
            err = tr_scores_mark(scores, ((const uint64_t *)id)[b], n);
        next += n;
    }
    return err;
}

/* ---- the result ---- */

static int by_id(const void *a, const void *b)
{
    uint64_t x = ((const struct tr_scored *)a)->batch_id;
    uint64_t y = ((const struct tr_scored *)b)->batch_id;
    return (x > y) - (x < y);
}

void tr_scores_filter(struct tr_scores *scores, bool (*wanted)(void *arg, uint64_t batch_id),
                      void *arg)
{
    size_t n = 0;
    for (size_t b = 0; b < scores->n; b++)
        if (wanted(arg, scores->list[b].batch_id))
            scores->list[n++] = scores->list[b];
    scores->n = n; /* the samples stay, nobody points at them */
}

int tr_scores_result(struct tr_scores *scores, struct tr_quality *out)
{
    size_t n_samples;
    const struct tr_auc_sample *sample = tr_auc_samples(scores->auc, &n_samples);
    struct tr_auc *ordered = NULL;
    int err = tr_auc_create(TR_AUC_SAMPLES_MAX, &ordered);
    if (scores->n > 1)
        qsort(scores->list, scores->n, sizeof *scores->list, by_id);
    for (size_t b = 0; b < scores->n && !err; b++)
        err = tr_auc_add_samples(ordered, sample + scores->list[b].first, scores->list[b].samples);
    if (!err)
        err = tr_auc_result(ordered, out);
    tr_auc_destroy(ordered);
    return err;
}
