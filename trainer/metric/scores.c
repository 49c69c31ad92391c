/* trainer/metric/scores.c -- the samples of an evaluation, which batch each is of, and parts for the wire.
 *
 *   arrival:  row, group   [ batch 9 | batch 2 | batch 5 | ... ]      list {id, first sample, samples}
 *   part:     batch_id u64[batches] | samples u32[batches] | rows f32[samples][columns] | group u64[samples]
 *   result:   head by head, an auc with the samples in the order of ids
 *
 * Without weights the order of samples changes no bit (auc.c); with weights sums of equal scores do depend
 * on it, hence the second copy: 12 bytes a sample, for the time of the summing up. */
#include "trainer/metric/scores.h"

#include "runtime/base/err.h"
#include "runtime/base/mem.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_ROOM 4096u
#define FIRST_LIST 256u
#define SOME       256u /* samples on their way into an auc */

void tr_scores_init(struct tr_scores *scores, const struct tr_head *head, uint32_t n_heads,
                    bool grouped)
{
    *scores = (struct tr_scores){
        .head = head, .n_heads = n_heads, .grouped = grouped, .columns = 1 + 2 * n_heads};
    rt_map_init(&scores->known);
}

void tr_scores_release(struct tr_scores *scores)
{
    rt_free(scores->row);
    rt_free(scores->group);
    rt_free(scores->list);
    rt_map_release(&scores->known);
    *scores = (struct tr_scores){0};
}

void tr_scores_reset(struct tr_scores *scores)
{
    scores->samples = 0;
    scores->n = 0;
    rt_map_release(&scores->known);
    rt_map_init(&scores->known);
}

bool tr_scores_has(const struct tr_scores *scores, uint64_t batch_id)
{
    uint64_t value;
    return rt_map_get(&scores->known, batch_id, &value);
}

/* ---- in ---- */

static int make_room(struct tr_scores *scores, size_t n)
{
    size_t room = scores->room ? scores->room : FIRST_ROOM;
    if (n > TR_AUC_SAMPLES_MAX - scores->samples)
        return RT_FAIL(RT_ELIMIT, "scores: expected at most %llu samples, got %zu more after %zu",
                       (unsigned long long)TR_AUC_SAMPLES_MAX, n, scores->samples);
    if (scores->samples + n <= scores->room)
        return 0;
    while (room < scores->samples + n)
        room *= 2;
    float *row = rt_try_realloc(scores->row, room * scores->columns * sizeof *row);
    scores->row = row ? row : scores->row;
    uint64_t *group = NULL;
    if (row && scores->grouped) {
        group = rt_try_realloc(scores->group, room * sizeof *group);
        scores->group = group ? group : scores->group;
    }
    if (!row || (scores->grouped && !group))
        return RT_FAIL(RT_ENOMEM, "no memory for the scores of %zu samples", room);
    scores->room = room;
    return 0;
}

static int list_room(struct tr_scores *scores, size_t n)
{
    size_t capacity = scores->capacity ? scores->capacity : FIRST_LIST;
    if (scores->n + n <= scores->capacity)
        return 0;
    while (capacity < scores->n + n)
        capacity *= 2;
    struct tr_scored *grown = rt_try_realloc(scores->list, capacity * sizeof *grown);
    if (!grown)
        return RT_FAIL(RT_ENOMEM, "no memory for the scores of %zu batches", capacity);
    scores->list = grown;
    scores->capacity = capacity;
    return 0;
}

static int name_twice(const struct tr_scores *scores, uint64_t batch_id, uint64_t place)
{
    unsigned long long id = batch_id;
    if (place < scores->n)
        return RT_FAIL(RT_EPROTO, "Scores: batch %016llx is here already", id);
    return RT_FAIL(RT_EPROTO, "Scores: batch %016llx is in one part twice", id);
}

/* All of these are known now, or none is: where one is already, or twice among them. */
static int know(struct tr_scores *scores, const uint64_t *id, uint32_t n)
{
    uint32_t known = 0;
    uint64_t place;
    int err = 0;
    while (known < n && !err) {
        if (rt_map_get(&scores->known, id[known], &place))
            err = name_twice(scores, id[known], place);
        else
            err = rt_map_put(&scores->known, id[known], scores->n + known);
        known += !err;
    }
    while (err && known > 0)
        rt_map_remove(&scores->known, id[--known]);
    return err;
}

/* The samples behind those that are listed are these batches', one batch after another. */
static int mark(struct tr_scores *scores, const uint64_t *id, const uint32_t *samples, uint32_t n)
{
    int err = list_room(scores, n);
    if (!err)
        err = know(scores, id, n);
    for (uint32_t b = 0; b < n && !err; b++) {
        scores->list[scores->n++] = (struct tr_scored){id[b], scores->samples, samples[b]};
        scores->samples += samples[b];
    }
    return err;
}

static struct tr_auc_sample sample_of(const float *row, uint32_t head)
{
    return (struct tr_auc_sample){
        .score = row[1 + 2 * head], .label = row[2 + 2 * head], .weight = row[0]};
}

/* Of rows that are there and not counted yet. */
static int check_rows(const struct tr_scores *scores, size_t n)
{
    const float *row = scores->row + scores->samples * scores->columns;
    int err = 0;
    for (size_t s = 0; s < n; s++, row += scores->columns) {
        for (uint32_t h = 0; h < scores->n_heads && !err; h++) {
            struct tr_auc_sample sample = sample_of(row, h);
            err = tr_auc_check(scores->head[h].kind, &sample);
        }
    }
    return err;
}

struct tr_auc_sample tr_head_sample(const struct tr_head *head, const float *score,
                                    const float *label, float weight)
{
    const float *p = score + head->first;
    struct tr_auc_sample sample = {*p, label[head->label], weight};
    if (tr_head_is_wide(head)) {
        sample.score = p[TR_WIDE_LABEL];
        sample.label = p[TR_WIDE_CLASS] == sample.label;
    } else if (head->kind == TR_HEAD_SOFTMAX) {
        uint32_t wanted = (uint32_t)sample.label, most = 0;
        for (uint32_t c = 1; c < head->columns; c++)
            most = p[c] > p[most] ? c : most;
        sample.score = p[wanted];
        sample.label = most == wanted;
    }
    return sample;
}

int tr_scores_add(struct tr_scores *scores, const struct tr_scored_view *view)
{
    const struct tr_head *last = &scores->head[scores->n_heads - 1];
    size_t columns = last->first + last->columns, n = view->samples;
    int err = make_room(scores, n);
    if (err)
        return err;
    for (size_t s = 0; s < n; s++) {
        float *row = scores->row + (scores->samples + s) * scores->columns;
        row[0] = view->weight ? view->weight[s] : 1;
        for (uint32_t h = 0; h < scores->n_heads; h++) {
            struct tr_auc_sample sample =
                tr_head_sample(&scores->head[h], view->score + s * columns,
                               view->label + s * view->n_labels, row[0]);
            row[1 + 2 * h] = sample.score;
            row[2 + 2 * h] = sample.label;
        }
    }
    if (scores->grouped)
        memcpy(scores->group + scores->samples, view->group, n * sizeof *view->group);
    err = check_rows(scores, n);
    return err ? err : mark(scores, &view->batch_id, &view->samples, 1);
}

/* ---- on the wire ---- */

/* Where the parts of a payload are. */
struct layout {
    size_t id, count, row, group, end;
};

static struct layout lay_out(const struct tr_scores *scores, size_t batches, size_t samples)
{
    struct layout at = {0};
    at.id = rt_segment_put(&at.end, batches * sizeof(uint64_t));
    at.count = rt_segment_put(&at.end, batches * sizeof(uint32_t));
    at.row = rt_segment_put(&at.end, samples * scores->columns * sizeof(float));
    if (scores->grouped)
        at.group = rt_segment_put(&at.end, samples * sizeof(uint64_t));
    return at;
}

static void copy_batches(const struct tr_scores *scores, size_t from, size_t batches,
                         struct layout at, uint8_t *to)
{
    size_t row = scores->columns * sizeof(float);
    for (size_t b = 0; b < batches; b++) {
        const struct tr_scored *scored = &scores->list[from + b];
        memcpy(to + at.id + b * sizeof(uint64_t), &scored->batch_id, sizeof(uint64_t));
        memcpy(to + at.count + b * sizeof(uint32_t), &scored->samples, sizeof(uint32_t));
        memcpy(to + at.row, scores->row + scored->first * scores->columns, scored->samples * row);
        at.row += scored->samples * row;
        if (!scores->grouped)
            continue;
        memcpy(to + at.group, scores->group + scored->first, scored->samples * sizeof(uint64_t));
        at.group += scored->samples * sizeof(uint64_t);
    }
}

int tr_scores_pack(const struct tr_scores *scores, size_t *at, uint32_t samples_max,
                   struct rt_io *io, struct wire_scores *head, struct rt_buf **payload)
{
    size_t from = *at, to = *at;
    uint32_t samples = 0;
    while (to < scores->n && (to == from || samples + scores->list[to].samples <= samples_max))
        samples += scores->list[to++].samples;
    struct layout layout = lay_out(scores, to - from, samples);
    struct rt_buf *buf = rt_io_buf(io, layout.end ? layout.end : 1);
    if (!buf)
        return RT_FAIL(RT_ENOMEM, "no payload memory for %u scores", samples);
    memset(buf->data, 0, layout.end);
    buf->size = layout.end;
    copy_batches(scores, from, to - from, layout, buf->data);
    head->batches = (uint32_t)(to - from);
    head->samples = samples;
    head->last = to == scores->n;
    *at = to;
    *payload = buf;
    return 0;
}

static int check_samples(const struct wire_scores *head, const uint32_t *count)
{
    uint64_t samples = 0;
    for (uint32_t b = 0; b < head->batches; b++)
        samples += count[b];
    if (samples == head->samples)
        return 0;
    return RT_FAIL(RT_EPROTO, "Scores: the batches have %llu samples, expected %u",
                   (unsigned long long)samples, head->samples);
}

int tr_scores_take(struct tr_scores *scores, const struct wire_scores *head,
                   const struct rt_buf *payload)
{
    struct rt_segments seg = rt_segments_of(payload);
    const void *id, *count, *row, *group = NULL;
    size_t n = head->samples, row_bytes = scores->columns * sizeof(float);
    int err = rt_segment_take(&seg, head->batches, sizeof(uint64_t), &id);
    if (!err)
        err = rt_segment_take(&seg, head->batches, sizeof(uint32_t), &count);
    if (!err)
        err = rt_segment_take(&seg, n, row_bytes, &row);
    if (!err && scores->grouped)
        err = rt_segment_take(&seg, n, sizeof(uint64_t), &group);
    if (!err)
        err = rt_segments_end(&seg);
    if (err)
        return rt_fail_prefix(err, "Scores: ");
    err = check_samples(head, count);
    if (!err)
        err = make_room(scores, n);
    if (err || n == 0)
        return err;
    memcpy(scores->row + scores->samples * scores->columns, row, n * row_bytes);
    if (scores->grouped)
        memcpy(scores->group + scores->samples, group, n * sizeof(uint64_t));
    err = check_rows(scores, n);
    return err ? err : mark(scores, id, count, head->batches);
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

static int add_batch(const struct tr_scores *scores, const struct tr_scored *batch, uint32_t head,
                     struct tr_auc *to)
{
    struct tr_auc_sample some[SOME];
    int err = 0;
    for (uint32_t s = 0; s < batch->samples && !err; s += SOME) {
        uint32_t n = batch->samples - s < SOME ? batch->samples - s : SOME;
        for (uint32_t i = 0; i < n; i++)
            some[i] = sample_of(scores->row + (batch->first + s + i) * scores->columns, head);
        err = tr_auc_add_samples(to, some, n);
    }
    return err;
}

static int head_result(const struct tr_scores *scores, uint32_t head, const uint64_t *group,
                       struct tr_quality *out)
{
    struct tr_auc *ordered = NULL;
    int err = tr_auc_create(scores->head[head].kind, TR_AUC_SAMPLES_MAX, &ordered);
    for (size_t b = 0; b < scores->n && !err; b++)
        err = add_batch(scores, &scores->list[b], head, ordered);
    if (!err)
        err = tr_auc_result(ordered, group, out);
    tr_auc_destroy(ordered);
    return err;
}

/* Groups in the order of the list. */
static uint64_t *ordered_groups(const struct tr_scores *scores)
{
    uint64_t *group = rt_try_malloc((scores->samples + 1) * sizeof *group), *to = group;
    for (size_t b = 0; b < scores->n && group; b++) {
        const struct tr_scored *batch = &scores->list[b];
        memcpy(to, scores->group + batch->first, batch->samples * sizeof *to);
        to += batch->samples;
    }
    return group;
}

int tr_scores_result(struct tr_scores *scores, struct tr_quality *out)
{
    uint64_t *group = NULL;
    int err = 0;
    if (scores->n > 1)
        qsort(scores->list, scores->n, sizeof *scores->list, by_id);
    if (scores->grouped && scores->n && !(group = ordered_groups(scores)))
        err = RT_FAIL(RT_ENOMEM, "no memory for the groups of %zu samples", scores->samples);
    for (uint32_t h = 0; h < scores->n_heads && !err; h++)
        err = head_result(scores, h, group, &out[h]);
    rt_free(group);
    return err;
}
