/* runtime/job/ledger.c -- two sequence sets and, per split, what the composers told at its end.
 *
 * A batch is finished when every owner acked it or when it was dropped. A dropped batch is in no dense
 * weights, yet finishing it also marks it stepped: "nothing of it is left to step". Otherwise one
 * dropped batch would hold the low mark of `stepped` back for ever, and the window would run out.
 *
 * Whether a split has ended is known per epoch only: rt_ledger_next_epoch forgets it and keeps the
 * numbers, and so does an import (a composer tells its ends again on every new connection). */
#include "runtime/job/ledger.h"
#include "runtime/base/err.h"
#include "runtime/job/batch_id.h"

#include <string.h>

struct ending {
    uint64_t rows_read, rows_quarantined, end_sequence; /* totals since the job's start */
    bool ended;                                         /* in the epoch that is open */
};

struct rt_ledger {
    uint32_t window;
    struct rt_seqset *stepped, *finished;
    struct ending *ending; /* [n_ending] */
    uint32_t n_ending;
};

int rt_ledger_create(uint32_t window, struct rt_ledger **out)
{
    struct rt_ledger *ledger = rt_try_calloc(1, sizeof(*ledger));
    int err;

    if (!ledger)
        return RT_FAIL(RT_ENOMEM, "ledger: out of memory");
    ledger->window = window;
    err = rt_seqset_create(window, &ledger->stepped);
    if (!err)
        err = rt_seqset_create(window, &ledger->finished);
    if (err) {
        rt_ledger_destroy(ledger);
        return err;
    }
    *out = ledger;
    return 0;
}

void rt_ledger_destroy(struct rt_ledger *ledger)
{
    if (!ledger)
        return;
    rt_seqset_destroy(ledger->stepped);
    rt_seqset_destroy(ledger->finished);
    rt_free(ledger->ending);
    rt_free(ledger);
}

static int check_split(uint32_t split)
{
    if (split >= RT_SPLITS_MAX)
        return RT_FAIL(RT_EPROTO, "ledger: split %u is not of the training data, expected below %u",
                       split, RT_SPLITS_MAX);
    return 0;
}

int rt_ledger_stepped(struct rt_ledger *ledger, uint64_t batch_id)
{
    int err = check_split(rt_batch_split(batch_id));

    if (err)
        return err;
    err = rt_seqset_add(ledger->stepped, rt_batch_split(batch_id), rt_batch_sequence(batch_id));
    return err ? rt_fail_prefix(err, "ledger, stepped: ") : 0;
}

int rt_ledger_finished(struct rt_ledger *ledger, uint64_t batch_id)
{
    int err = rt_ledger_stepped(ledger, batch_id);

    if (err)
        return err;
    err = rt_seqset_add(ledger->finished, rt_batch_split(batch_id), rt_batch_sequence(batch_id));
    return err ? rt_fail_prefix(err, "ledger, finished: ") : 0;
}

/* What is finished is stepped too, so the low mark of `finished` is the lower one. */
bool rt_ledger_has_room(const struct rt_ledger *ledger, uint64_t batch_id)
{
    uint64_t low = rt_seqset_low(ledger->finished, rt_batch_split(batch_id));

    return rt_batch_sequence(batch_id) < low + ledger->window;
}

bool rt_ledger_is_stepped(const struct rt_ledger *ledger, uint64_t batch_id)
{
    return rt_seqset_has(ledger->stepped, rt_batch_split(batch_id), rt_batch_sequence(batch_id));
}

bool rt_ledger_is_finished(const struct rt_ledger *ledger, uint64_t batch_id)
{
    return rt_seqset_has(ledger->finished, rt_batch_split(batch_id), rt_batch_sequence(batch_id));
}

static int need_ending(struct rt_ledger *ledger, uint32_t split)
{
    uint32_t n = ledger->n_ending ? ledger->n_ending : 64;
    struct ending *grown;

    if (split < ledger->n_ending)
        return 0;
    while (n <= split)
        n *= 2;
    grown = rt_try_realloc(ledger->ending, n * sizeof(*grown));
    if (!grown)
        return RT_FAIL(RT_ENOMEM, "ledger: out of memory for split %u", split);
    memset(grown + ledger->n_ending, 0, (n - ledger->n_ending) * sizeof(*grown));
    ledger->ending = grown;
    ledger->n_ending = n;
    return 0;
}

int rt_ledger_end(struct rt_ledger *ledger, const struct wire_split_ledger *ended)
{
    struct ending *e;
    int err = check_split(ended->split);

    if (!err)
        err = need_ending(ledger, ended->split);
    if (err)
        return err;
    e = &ledger->ending[ended->split];
    if (ended->rows_read < e->rows_read || ended->rows_quarantined < e->rows_quarantined ||
        ended->end_sequence < e->end_sequence)
        return RT_FAIL(
            RT_EPROTO,
            "split %u ended with %llu rows read, %llu quarantined, end %llu; told before: "
            "%llu, %llu, %llu; expected none to shrink",
            ended->split, (unsigned long long)ended->rows_read,
            (unsigned long long)ended->rows_quarantined, (unsigned long long)ended->end_sequence,
            (unsigned long long)e->rows_read, (unsigned long long)e->rows_quarantined,
            (unsigned long long)e->end_sequence);
    e->rows_read = ended->rows_read;
    e->rows_quarantined = ended->rows_quarantined;
    e->end_sequence = ended->end_sequence;
    e->ended = true;
    return 0;
}

bool rt_ledger_epoch_ended(const struct rt_ledger *ledger, uint32_t splits)
{
    if (splits > ledger->n_ending)
        return false;
    for (uint32_t i = 0; i < splits; i++)
        if (!ledger->ending[i].ended)
            return false;
    return true;
}

bool rt_ledger_epoch_over(const struct rt_ledger *ledger, uint32_t splits)
{
    if (!rt_ledger_epoch_ended(ledger, splits))
        return false;
    for (uint32_t i = 0; i < splits; i++)
        if (rt_seqset_low(ledger->finished, i) < ledger->ending[i].end_sequence)
            return false;
    return true;
}

bool rt_ledger_split_done(const struct rt_ledger *ledger, uint32_t split, uint32_t rank,
                          uint32_t world)
{
    if (split >= ledger->n_ending || !ledger->ending[split].ended)
        return false;
    uint64_t end = ledger->ending[split].end_sequence;
    for (uint64_t q = rt_seqset_low(ledger->stepped, split); q < end; q++) {
        uint64_t id = rt_batch_id(split, q);
        if (rt_batch_rank(id, world) == rank && !rt_ledger_is_stepped(ledger, id))
            return false; /* the first of them is at most a window of batches away */
    }
    return true;
}

void rt_ledger_next_epoch(struct rt_ledger *ledger)
{
    for (uint32_t i = 0; i < ledger->n_ending; i++)
        ledger->ending[i].ended = false;
}

void rt_ledger_rows(const struct rt_ledger *ledger, uint64_t *read, uint64_t *quarantined)
{
    *read = *quarantined = 0;
    for (uint32_t i = 0; i < ledger->n_ending; i++) {
        *read += ledger->ending[i].rows_read;
        *quarantined += ledger->ending[i].rows_quarantined;
    }
}

/* The set's state of one split, its bitmap copied into the arena. */
static int export_set(const struct rt_seqset *set, uint32_t split, struct rt_arena *arena,
                      uint64_t *low, const uint8_t **bits, uint32_t *bytes)
{
    const uint8_t *from;
    size_t size = rt_seqset_bitmap(set, split, &from);
    uint8_t *copy = rt_arena_alloc(arena, size);

    if (!copy)
        return RT_FAIL(RT_ENOMEM, "ledger: no memory for the %zu bytes of split %u", size, split);
    *low = rt_seqset_low(set, split);
    *bits = memcpy(copy, from, size);
    *bytes = (uint32_t)size;
    return 0;
}

static bool in_use(const struct rt_ledger *ledger, uint32_t split)
{
    const struct ending *e = split < ledger->n_ending ? &ledger->ending[split] : NULL;

    return rt_seqset_count(ledger->stepped, split) != 0 ||
           (e && (e->ended || e->rows_read || e->rows_quarantined || e->end_sequence));
}

int rt_ledger_export(const struct rt_ledger *ledger, struct rt_arena *arena,
                     struct wire_split_ledger **out, uint32_t *n)
{
    uint32_t splits = rt_seqset_splits(ledger->stepped);
    struct wire_split_ledger *list;
    uint32_t used = 0;
    int err = 0;

    if (splits < ledger->n_ending)
        splits = ledger->n_ending;
    for (uint32_t i = 0; i < splits; i++)
        used += in_use(ledger, i);
    list = rt_arena_array(arena, struct wire_split_ledger, used);
    if (!list)
        return RT_FAIL(RT_ENOMEM, "ledger: no memory for %u splits", used);
    used = 0;
    for (uint32_t i = 0; i < splits && !err; i++) {
        struct wire_split_ledger *to = &list[used];

        if (!in_use(ledger, i))
            continue;
        used++;
        to->split = i;
        if (i < ledger->n_ending) {
            to->rows_read = ledger->ending[i].rows_read;
            to->rows_quarantined = ledger->ending[i].rows_quarantined;
            to->end_sequence = ledger->ending[i].end_sequence;
        }
        err = export_set(ledger->stepped, i, arena, &to->stepped_low, &to->stepped,
                         &to->stepped_bytes);
        if (!err)
            err = export_set(ledger->finished, i, arena, &to->finished_low, &to->finished,
                             &to->finished_bytes);
    }
    *out = list;
    *n = used;
    return err;
}

static int import_split(struct rt_ledger *ledger, const struct wire_split_ledger *in)
{
    int err = check_split(in->split);

    if (!err && in->stepped_low < in->finished_low)
        err = RT_FAIL(
            RT_EPROTO, "ledger: split %u is finished below %llu but stepped below %llu only",
            in->split, (unsigned long long)in->finished_low, (unsigned long long)in->stepped_low);
    if (!err)
        err = need_ending(ledger, in->split);
    if (!err)
        err = rt_seqset_restore(ledger->stepped, in->split, in->stepped_low, in->stepped,
                                in->stepped_bytes);
    if (!err)
        err = rt_seqset_restore(ledger->finished, in->split, in->finished_low, in->finished,
                                in->finished_bytes);
    if (err)
        return err;
    ledger->ending[in->split] =
        (struct ending){in->rows_read, in->rows_quarantined, in->end_sequence, false};
    return 0;
}

/* Into a fresh ledger first, so that a bad entry leaves the old one as it was. */
int rt_ledger_import(struct rt_ledger *ledger, const struct wire_split_ledger *in, uint32_t n)
{
    struct rt_ledger *fresh, old;
    int err = rt_ledger_create(ledger->window, &fresh);

    if (err)
        return err;
    for (uint32_t i = 0; i < n && !err; i++)
        err = import_split(fresh, &in[i]);
    if (!err) {
        old = *ledger;
        *ledger = *fresh;
        *fresh = old;
    }
    rt_ledger_destroy(fresh);
    return err;
}

/* Everything below `low`, and the bits above it. */
static int merge_set(struct rt_seqset *set, uint32_t split, uint64_t low, const uint8_t *bits,
                     uint32_t bytes)
{
    int err = 0;

    for (uint64_t at = rt_seqset_low(set, split); at < low && !err; at++)
        err = rt_seqset_add(set, split, at);
    for (uint32_t i = 0; i < bytes * 8 && !err; i++)
        if (bits[i / 8] >> i % 8 & 1)
            err = rt_seqset_add(set, split, low + i);
    return err ? rt_fail_prefix(err, "ledger, merging split %u: ", split) : 0;
}

int rt_ledger_merge(struct rt_ledger *ledger, const struct wire_split_ledger *in, uint32_t n)
{
    int err = 0;

    for (uint32_t i = 0; i < n && !err; i++) {
        uint32_t split = in[i].split;
        struct ending *e;

        err = check_split(split);
        if (!err && in[i].stepped_low < in[i].finished_low)
            err = RT_FAIL(RT_EPROTO, "ledger: split %u is finished further than stepped", split);
        if (!err)
            err = need_ending(ledger, split);
        /* A copy that knows nothing yet takes the low marks as they are: one by one may be millions. */
        if (!err && rt_seqset_count(ledger->stepped, split) == 0) {
            struct ending kept = ledger->ending[split];
            err = import_split(ledger, &in[i]);
            ledger->ending[split] = kept;
        }
        if (!err)
            err = merge_set(ledger->stepped, split, in[i].stepped_low, in[i].stepped,
                            in[i].stepped_bytes);
        if (!err)
            err = merge_set(ledger->finished, split, in[i].finished_low, in[i].finished,
                            in[i].finished_bytes);
        if (err)
            break;
        e = &ledger->ending[split];
        e->rows_read = e->rows_read > in[i].rows_read ? e->rows_read : in[i].rows_read;
        e->rows_quarantined = e->rows_quarantined > in[i].rows_quarantined ? e->rows_quarantined
                                                                           : in[i].rows_quarantined;
        e->end_sequence =
            e->end_sequence > in[i].end_sequence ? e->end_sequence : in[i].end_sequence;
    }
    return err;
}
