/* data_compose/batch.c -- rows in file order become shuffled batches with names.
 *
 *   row number -block_rows-> block -mod splits-> split -shuffle_rows-> chunk -permuted-> queue -batch_size-> batch
 *
 * Blocks are numbered over the whole set, so what a split holds depends on the files alone, and a composer
 * parses only the blocks of its own splits. Good rows of a split fill its chunk; a full chunk is permuted
 * by the stream (seed, epoch, split, chunk) and cut into batches; what is too little for a batch stays and
 * comes before the next chunk. At the end of the pass the rest of every split goes out, the last batch
 * shorter. Hence the sequence of a split's batches has no other input than its rows and the plan.
 *
 * A block of the binary form that is a chunk is not read row by row: batches are gathered from its columns (columns.h),
 * behind the records that its split has kept, and what it leaves becomes records.
 *
 * MEMORY. Rows wait in compact stores (rows.h): at most one chunk (shuffle_rows; without shuffling
 * batch_size) and batch_size - 1 kept rows per own split. Where block_rows is a multiple of
 * shuffle_rows (the default) chunks fill one after another: then it is one chunk in all, and the kept
 * rows. Criteo's row is 272 bytes: 2 MB for the chunk, at most 21 MB kept for 64 splits of batch size
 * 1,024. A finished batch lies in two buffers of the io's pool, which has its own budget.
 *
 * TIME. One turn takes at most TURN_ROWS rows or TURN_BYTES of text from the feed, or builds one batch. */
#include "data_compose/batch.h"
#include "data_compose/columns.h"
#include "data_compose/payload.h"
#include "data_compose/quarantine.h"
#include "data_compose/rows.h"
#include "data_compose/turn.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/hash.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "runtime/job/batch_id.h"
#include "runtime/job/job.h"
#include "runtime/net/io.h"
#include "runtime/wire/batch.h"

#include <math.h>
#include <string.h>

#define TURN_ROWS  4096u
#define TURN_BYTES (2u << 20)

struct split {
    struct dc_rows rows;
    uint32_t n_queued; /* rows in permuted order, before those of the open chunk */
    uint64_t chunk;    /* number of the open one */
    uint64_t sequence; /* of the next batch */
    uint64_t rows_read, rows_quarantined;
};

struct dc_batcher {
    struct dc_batcher_conf conf;
    const struct rt_data_conf *data;
    struct dc_feed *feed;
    struct dc_rows_shape shape;
    uint64_t shuffle_key; /* of the epoch */
    uint32_t chunk_rows;
    uint32_t n_own;
    struct split *split; /* [n_own] split index + i * size */
    struct dc_spares spare;
    /* The split whose queue is being cut into batches; one at a time. */
    struct split *draining; /* NULL: none */
    uint32_t *order;        /* rows of `draining`, as they go out */
    uint32_t order_capacity, n_order, at_order;
    struct dc_columns *columns; /* NULL: all rows go through split.rows */
    uint32_t
        n_records; /* while draining: rows of split.rows; those of the feed's open block are counted on from them */
    uint32_t ending; /* own splits whose end was made, once the feed has ended */
    bool feed_ended;
    uint64_t rows_read, rows_quarantined;
    struct before {
        bool has;
        uint64_t id;
    } * before; /* [world] the last batch cut for a rank, wanted or not */
    struct dc_turns turns;
    struct dc_payload *payload;
    uint64_t block_end; /* number of the row behind the block of rows that is read */
    struct split *own;  /* whose that block is; NULL: another composer's */
};

/* ---- life ---- */

static struct dc_rows emptied(struct dc_rows *rows)
{
    struct dc_rows empty = *rows;

    *rows = (struct dc_rows){0};
    empty.n = 0;
    empty.n_words = 0;
    return empty;
}

/* What grew in the pass before, for the same rows come again. Given back and taken again in other sizes and another order,
 * it spreads over the heap: 15 % in an hour of passes of half a minute. */
static void take_memory(struct dc_batcher *b, struct dc_batcher *last)
{
    rt_assert(last->n_own == b->n_own && !last->draining);
    for (uint32_t i = 0; i < b->n_own; i++)
        b->split[i].rows = emptied(&last->split[i].rows);
    b->spare = last->spare;
    b->order = last->order;
    b->order_capacity = last->order_capacity;
    last->spare = (struct dc_spares){0};
    last->order = NULL;
    b->conf.last = NULL;
    b->conf.feed.last = NULL;
    dc_batcher_destroy(last);
}

int dc_batcher_create(const struct dc_batcher_conf *conf, struct dc_batcher **out)
{
    const struct rt_job *job = conf->feed.job;
    const struct rt_data_conf *data = &job->data;
    rt_assert((uint64_t)dc_parser_ids_max(conf->feed.parser) * data->batch_size <= WIRE_IDS_MAX);
    struct dc_batcher *b = rt_xcalloc(1, sizeof(*b));
    const struct dc_row *row = dc_parser_view(conf->feed.parser);

    b->conf = *conf;
    b->data = data;
    b->conf.feed.last = conf->last ? conf->last->feed : NULL;
    b->feed = dc_feed_create(&b->conf.feed);
    if (dc_feed_binary(b->feed))
        b->columns = dc_columns_create(job, dc_feed_binary(b->feed));
    b->shape = (struct dc_rows_shape){.n_features = job->n_features,
                                      .n_dense = data->n_dense,
                                      .n_labels = data->n_labels,
                                      .varying = dc_parser_varying(conf->feed.parser),
                                      .id_weighted = dc_parser_weighted(conf->feed.parser),
                                      .weighted = data->weighted,
                                      .grouped = data->grouped,
                                      .keyed = data->keyed,
                                      .count = row->count,
                                      .n_ids = dc_parser_ids_max(conf->feed.parser)};
    b->shuffle_key = rt_draw_fold(rt_draw_key(job->global.seed, "shuffle", NULL), conf->epoch);
    b->chunk_rows = data->shuffle && !conf->feed.evaluate ? data->shuffle_rows : data->batch_size;
    b->n_own = conf->index < data->splits ? (data->splits - conf->index - 1) / conf->size + 1 : 0;
    b->split = rt_xcalloc(b->n_own + 1, sizeof(*b->split));
    b->conf.world = conf->world ? conf->world : 1;
    b->before = rt_xcalloc(b->conf.world, sizeof(*b->before));
    dc_turns_init(&b->turns, b->conf.world, data->window ? data->window : 1);
    b->payload = dc_payload_create(conf->feed.io, &b->shape, b->columns);
    for (uint32_t i = 0; i < b->n_own; i++)
        if (conf->first_sequence)
            b->split[i].sequence = conf->first_sequence[conf->index + i * conf->size];
    b->conf.first_sequence = NULL;
    if (conf->last)
        take_memory(b, conf->last);
    *out = b;
    return 0;
}

void dc_batcher_destroy(struct dc_batcher *batcher)
{
    if (!batcher)
        return;
    for (uint32_t i = 0; i < batcher->n_own; i++)
        dc_rows_release(&batcher->split[i].rows);
    dc_rows_release(&batcher->spare.large);
    dc_rows_release(&batcher->spare.small);
    dc_columns_destroy(batcher->columns);
    dc_feed_destroy(batcher->feed);
    rt_free(batcher->split);
    rt_free(batcher->order);
    rt_free(batcher->before);
    dc_turns_release(&batcher->turns);
    dc_payload_destroy(batcher->payload);
    rt_free(batcher);
}

static uint32_t number_of(const struct dc_batcher *b, const struct split *split)
{
    return b->conf.index + (uint32_t)(split - b->split) * b->conf.size;
}

void dc_batcher_split(const struct dc_batcher *batcher, uint32_t split, struct dc_split_end *out)
{
    rt_assert(split < batcher->data->splits && split % batcher->conf.size == batcher->conf.index);
    const struct split *s = &batcher->split[split / batcher->conf.size];

    *out = (struct dc_split_end){s->sequence, s->rows_read, s->rows_quarantined};
}

void dc_batcher_rows(const struct dc_batcher *batcher, uint64_t *read, uint64_t *quarantined)
{
    *read = batcher->rows_read;
    *quarantined = batcher->rows_quarantined;
}

bool dc_batcher_closed(const struct dc_batcher *batcher, uint64_t *batch_id)
{
    return dc_turns_closed(&batcher->turns, batch_id);
}

bool dc_batcher_latest(const struct dc_batcher *batcher, uint64_t *batch_id)
{
    return dc_turns_latest(&batcher->turns, batch_id);
}

bool dc_batcher_mixed(const struct dc_batcher *batcher)
{
    return dc_turns_mixed(&batcher->turns);
}

double dc_batcher_expected(const struct dc_batcher *batcher)
{
    double share = dc_feed_share(batcher->feed);

    return share > 0.01 ? (double)batcher->rows_read / share : (double)NAN;
}

/* ---- chunks ---- */

static void permute(const struct dc_batcher *b, const struct split *split, uint32_t *order,
                    uint32_t n)
{
    uint64_t key = rt_draw_fold(rt_draw_fold(b->shuffle_key, number_of(b, split)), split->chunk);

    for (uint32_t i = n; i-- > 1;) { /* Fisher-Yates */
        uint32_t j = (uint32_t)rt_below(rt_draw(key, i), (uint64_t)i + 1);
        uint32_t swap = order[i];

        order[i] = order[j];
        order[j] = swap;
    }
}

/* Close the split's chunk and begin to cut batches from its rows, and from `more` that lie in the feed's open block. */
static int start_drain(struct dc_batcher *b, struct split *split, uint32_t more)
{
    uint32_t n = split->rows.n + more;

    rt_assert(!b->draining);
    if (n > b->order_capacity) {
        uint32_t *grown = rt_try_realloc(b->order, (size_t)n * sizeof(*grown));
        if (!grown)
            return RT_FAIL(RT_ENOMEM, "no memory to permute %u rows", n);
        b->order = grown;
        b->order_capacity = n;
    }
    for (uint32_t i = 0; i < n; i++)
        b->order[i] = i;
    if (b->data->shuffle && !b->conf.feed.evaluate)
        permute(b, split, b->order + split->n_queued, n - split->n_queued);
    split->chunk++;
    b->draining = split;
    b->n_records = split->rows.n;
    b->n_order = n;
    b->at_order = 0;
    return 0;
}

/* What is left of a block is too little for a batch: it waits as records, for the next block takes its place. */
static int keep_block_rows(struct dc_batcher *b)
{
    struct split *split = b->draining;
    int err = 0;

    for (uint32_t i = b->at_order; !err && i < b->n_order; i++) {
        if (b->order[i] < b->n_records)
            continue;
        err = dc_feed_block_row(b->feed, b->order[i] - b->n_records);
        if (!err)
            err = dc_rows_add(&split->rows, &b->spare, &b->shape,
                              dc_parser_view(b->conf.feed.parser));
        b->order[i] = split->rows.n - 1;
    }
    return err;
}

static int stop_drain(struct dc_batcher *b)
{
    struct split *split = b->draining;
    int err = keep_block_rows(b);

    if (!err)
        err = dc_rows_keep(&split->rows, &b->spare, &b->shape, b->order + b->at_order,
                           b->n_order - b->at_order);

    split->n_queued = split->rows.n;
    b->draining = NULL;
    return err;
}

/* NULL: the pool is over its budget. */
static struct dc_batch *build(struct dc_batcher *b, uint64_t id, const uint32_t *order, uint32_t n)
{
    struct dc_batch *batch =
        dc_batch_create(b->conf.pool, b->shape.n_features, b->shape.id_weighted);
    const struct before *before = &b->before[rt_batch_rank(id, b->conf.world)];

    batch->id = id;
    batch->samples = n;
    batch->has_before = before->has;
    batch->before = before->id;
    if (dc_payload_build(b->payload, &b->draining->rows, b->n_records, order, batch))
        return batch;
    dc_batch_destroy(batch);
    return NULL;
}

/* The batch was cut, wanted (then it is `batch`) or not: who comes after it. */
static void deal(struct dc_batcher *b, uint64_t id, struct dc_batch *batch)
{
    uint32_t rank = rt_batch_rank(id, b->conf.world);
    uint64_t before;
    bool has = dc_turns_deal(&b->turns, rank, id, !batch, &before);

    b->before[rank] = (struct before){true, id};
    if (batch) {
        batch->has_turn_before = has;
        batch->turn_before = before;
    }
}

/* Cut the next batch that is wanted from the draining split. */
static int drain(struct dc_batcher *b, struct dc_batch **out)
{
    struct split *split = b->draining;
    uint32_t number = number_of(b, split) + (b->conf.feed.evaluate ? RT_SPLIT_EVALUATE : 0);

    for (;;) {
        uint32_t left = b->n_order - b->at_order;
        uint32_t n = left < b->data->batch_size ? left : b->data->batch_size;
        uint64_t id = rt_batch_id(number, split->sequence);

        if (n == 0 || (n < b->data->batch_size && !b->feed_ended))
            break;
        if (!b->conf.skip || !b->conf.skip(b->conf.ctx, id)) {
            *out = build(b, id, b->order + b->at_order, n);
            if (!*out)
                return DC_TURN_FULL;
        }
        deal(b, id, *out);
        b->at_order += n;
        split->sequence++;
        if (*out)
            return DC_TURN_BATCH;
    }
    int err = stop_drain(b);
    return err ? err : DC_TURN_AGAIN;
}

/* ---- reading ---- */

static int check_bad(const struct dc_batcher *b)
{
    return b->conf.quarantine
               ? dc_quarantine_check(b->conf.quarantine, b->conf.feed.evaluate, b->rows_quarantined,
                                     b->rows_read, b->feed_ended)
               : 0;
}

static int bad_row(struct dc_batcher *b, struct split *split)
{
    split->rows_quarantined++;
    b->rows_quarantined++;
    if (b->conf.quarantine && b->conf.record_bad)
        dc_quarantine_add(b->conf.quarantine, b->conf.feed.evaluate, dc_feed_file(b->feed),
                          dc_feed_line(b->feed), rt_err_text(), dc_feed_row_text(b->feed),
                          dc_feed_row_bytes(b->feed));
    return check_bad(b);
}

/* The row that the feed stands at belongs to `split`. */
static int take_row(struct dc_batcher *b, struct split *split)
{
    int err = dc_feed_parse(b->feed);

    split->rows_read++;
    b->rows_read++;
    if (err == RT_EDATA && !dc_feed_broken(b->feed))
        return bad_row(b, split);
    if (!err)
        err = dc_rows_add(&split->rows, &b->spare, &b->shape, dc_parser_view(b->conf.feed.parser));
    if (!err && split->rows.n - split->n_queued == b->chunk_rows)
        err = start_drain(b, split, 0);
    return err;
}

/* Does a block begin at the row that is a whole chunk? Without shuffling any block does as well. */
static bool block_is_chunk(const struct dc_batcher *b, const struct split *split)
{
    uint32_t rows = b->columns ? dc_feed_block_rows(b->feed) : 0;

    return rows > 0 && split->rows.n == split->n_queued &&
           dc_feed_number(b->feed) % b->data->block_rows + rows <= b->data->block_rows &&
           (rows == b->chunk_rows || !b->data->shuffle || b->conf.feed.evaluate);
}

/* Its rows become batches from where they lie; all of them are good, or they are taken one by one. */
static int take_block(struct dc_batcher *b, struct split *split)
{
    uint32_t rows = dc_feed_block_rows(b->feed);
    const struct dc_block_view *view;
    int err = dc_feed_open_block(b->feed, &view);

    if (err || !dc_columns_bind(b->columns, view))
        return err ? err : take_row(b, split);
    dc_feed_skip_block(b->feed);
    split->rows_read += rows;
    b->rows_read += rows;
    return start_drain(b, split, rows);
}

/* The split of the feed's row; NULL: it is another composer's. Divides once a block: by row that took a thirtieth of all
 * time. */
static struct split *split_of_row(struct dc_batcher *b)
{
    uint64_t row = dc_feed_number(b->feed);

    if (row >= b->block_end) {
        uint64_t block = row / b->data->block_rows;
        uint32_t split = (uint32_t)(block % b->data->splits);

        b->block_end = (block + 1) * b->data->block_rows;
        b->own = split % b->conf.size == b->conf.index ? &b->split[split / b->conf.size] : NULL;
    }
    return b->own;
}

/* Read until a chunk is full or the slice is used up. */
static int read_rows(struct dc_batcher *b)
{
    size_t bytes = 0;

    for (uint32_t i = 0; i < TURN_ROWS && bytes < TURN_BYTES && !b->draining; i++) {
        int rc = dc_feed_next(b->feed);
        if (rc < 0)
            return rc;
        if (rc == 0) {
            b->feed_ended = true;
            break;
        }
        bytes += dc_feed_row_bytes(b->feed);
        struct split *own = split_of_row(b);
        if (!own)
            continue;
        rc = block_is_chunk(b, own) ? take_block(b, own) : take_row(b, own);
        if (rc)
            return rc;
    }
    return 0;
}

int dc_batcher_turn(struct dc_batcher *batcher, struct dc_batch **out)
{
    struct dc_batcher *b = batcher;
    int err = 0;

    *out = NULL;
    if (b->draining)
        return drain(b, out);
    if (!b->feed_ended) {
        err = read_rows(b);
        if (!err && b->feed_ended)
            err = check_bad(b);
        return err ? err : DC_TURN_AGAIN;
    }
    if (b->ending == b->n_own)
        return DC_TURN_END;
    err = start_drain(b, &b->split[b->ending++], 0);
    return err ? err : DC_TURN_AGAIN;
}
