/* data_compose/feed.c -- text files, binary files or the generator, behind one order of rows.
 *
 * A binary file's block is verified and unpacked when the first of its rows is parsed, so blocks whose rows are all of
 * other composers' splits cost nothing. */
#include "data_compose/feed.h"
#include "data_compose/parse_binary.h"
#include "data_compose/source.h"
#include "data_compose/synthetic.h"

#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/job/job.h"

#include <math.h>

#define SHARE_BYTES_MIN (16u << 20) /* a buffer of read-ahead is a small part of this */

/* The binary files of a set, one after another. */
struct blocks {
    struct dc_binary *binary;
    struct dc_block_file *file; /* NULL between files */
    struct dc_block_view view;
    uint32_t n_files, opened; /* of the set; the open one is number opened - 1 */
    uint32_t block;           /* the one that the row is in */
    struct dc_block_place place;
    uint64_t row, bytes; /* the next of the file; of files and blocks that are behind us */
    bool unpacked;       /* `view` is of `block` */
    bool broken;
};

struct dc_feed {
    struct dc_feed_conf conf;
    uint64_t next;            /* number of the next row */
    struct dc_source *source; /* files */
    const char *const *path;
    struct dc_line line;
    struct blocks blocks; /* binary: `binary` is not NULL */
    struct dc_synthetic_row row;
};

/* ---- life ---- */

struct dc_feed *dc_feed_create(const struct dc_feed_conf *conf)
{
    const struct rt_data_conf *data = &conf->job->data;
    struct dc_feed *f = rt_xcalloc(1, sizeof(*f));

    f->conf = *conf;
    f->path = conf->evaluate ? data->test : data->train;
    f->conf.last = NULL;
    if (conf->synthetic)
        return f;
    if (data->format == RT_FORMAT_BINARY) {
        f->blocks.n_files = conf->evaluate ? data->n_test : data->n_train;
        f->blocks.binary = dc_binary_create(conf->parser);
        if (conf->last) {
            f->blocks.view = conf->last->blocks.view;
            conf->last->blocks.view = (struct dc_block_view){0};
        }
        return f;
    }
    if (conf->last) {
        f->source = conf->last->source;
        conf->last->source = NULL;
        dc_source_restart(f->source);
    } else {
        f->source =
            dc_source_create(conf->io, f->path, conf->evaluate ? data->n_test : data->n_train);
    }
    dc_source_count(f->source, conf->bytes);
    return f;
}

void dc_feed_destroy(struct dc_feed *feed)
{
    if (!feed)
        return;
    dc_source_destroy(feed->source);
    dc_block_close(feed->blocks.file);
    dc_block_view_release(&feed->blocks.view);
    dc_binary_destroy(feed->blocks.binary);
    rt_free(feed);
}

/* A set of no rows is a wrong file, not a short training: nothing would be learned or measured. */
static int no_rows(const struct dc_feed *feed)
{
    const struct rt_data_conf *data = &feed->conf.job->data;
    uint32_t files = feed->conf.evaluate ? data->n_test : data->n_train;

    if (files == 0)
        return 0;
    return RT_FAIL(RT_EDATA, "%s: no row in it%s", feed->path[0],
                   files > 1 ? ", nor in the other files of its set" : "");
}

/* ---- binary files ---- */

/* The row is in a block that begins at it. */
static void enter_block(struct dc_feed *f, uint32_t block)
{
    f->blocks.block = block;
    f->blocks.place = dc_block_at(f->blocks.file, block);
    f->blocks.unpacked = false;
}

/* 1: the next row of the set is there, not read yet; 0: there is none; or an error. */
static int next_binary(struct dc_feed *f)
{
    struct blocks *b = &f->blocks;

    while (!b->file || b->row == dc_block_file_rows(b->file)) {
        if (b->file)
            b->bytes += b->place.bytes;
        dc_block_close(b->file);
        b->file = NULL;
        if (b->opened == b->n_files)
            return f->next ? 0 : no_rows(f);
        int err = dc_block_open(f->path[b->opened++], dc_binary_shape(f->blocks.binary), &b->file);
        if (err)
            return err;
        b->row = 0;
        b->place = (struct dc_block_place){0};
        if (dc_block_count(b->file))
            enter_block(f, 0);
    }
    if (b->row == b->place.first + b->place.rows) {
        b->bytes += b->place.bytes;
        enter_block(f, b->block + 1);
    }
    b->row++;
    f->next++;
    return 1;
}

const struct dc_binary *dc_feed_binary(const struct dc_feed *feed)
{
    return feed->blocks.binary;
}

uint32_t dc_feed_block_rows(const struct dc_feed *feed)
{
    const struct blocks *b = &feed->blocks;

    return b->file && b->row == b->place.first + 1 ? b->place.rows : 0;
}

int dc_feed_open_block(struct dc_feed *feed, const struct dc_block_view **view)
{
    struct blocks *b = &feed->blocks;

    *view = &b->view;
    if (b->unpacked)
        return 0;
    int err = dc_block_read(b->file, b->block, &b->view);
    b->broken = err != 0;
    if (err)
        return err;
    b->unpacked = true;
    dc_binary_begin(b->binary, &b->view);
    if (feed->conf.bytes)
        atomic_fetch_add_explicit(feed->conf.bytes, b->place.bytes, memory_order_relaxed);
    return 0;
}

void dc_feed_skip_block(struct dc_feed *feed)
{
    struct blocks *b = &feed->blocks;
    uint64_t left = b->place.first + b->place.rows - b->row;

    b->row += left;
    feed->next += left;
}

int dc_feed_block_row(struct dc_feed *feed, uint32_t i)
{
    return dc_binary_row(feed->blocks.binary, i);
}

static int parse_binary(struct dc_feed *f)
{
    const struct dc_block_view *view;
    int err = dc_feed_open_block(f, &view);

    return err ? err : dc_feed_block_row(f, (uint32_t)(f->blocks.row - 1 - f->blocks.place.first));
}

/* ---- rows ---- */

int dc_feed_next(struct dc_feed *feed)
{
    if (feed->blocks.binary)
        return next_binary(feed);
    if (feed->conf.synthetic) {
        if (feed->next == feed->conf.synthetic_rows)
            return 0;
        feed->next++;
        return 1;
    }
    for (;;) {
        int rc = dc_source_line(feed->source, &feed->line);

        if (rc == 0 && feed->next == 0)
            return no_rows(feed);
        if (rc <= 0)
            return rc;
        if (feed->line.number > 1 || !dc_parser_wants_header(feed->conf.parser)) {
            feed->next++;
            return 1;
        }
        rc = dc_parser_header(feed->conf.parser, dc_feed_file(feed), feed->line.text,
                              feed->line.size);
        if (rc)
            return rc;
    }
}

int dc_feed_parse(struct dc_feed *feed)
{
    if (feed->blocks.binary)
        return parse_binary(feed);
    if (!feed->conf.synthetic)
        return dc_parser_row(feed->conf.parser, feed->line.text, feed->line.size);
    dc_synthetic_row(feed->conf.synthetic,
                     feed->conf.evaluate ? DC_SYNTHETIC_TEST : DC_SYNTHETIC_TRAIN, feed->next - 1,
                     &feed->row);
    return dc_parser_synthetic(feed->conf.parser, &feed->row);
}

bool dc_feed_broken(const struct dc_feed *feed)
{
    return feed->blocks.broken;
}

uint64_t dc_feed_number(const struct dc_feed *feed)
{
    return feed->next - 1;
}

const char *dc_feed_row_text(const struct dc_feed *feed)
{
    return feed->line.text;
}

size_t dc_feed_row_bytes(const struct dc_feed *feed)
{
    return feed->line.size;
}

/* Behind the row: of its own block as many as it has rows up to there. */
static double binary_bytes(const struct blocks *b)
{
    double own =
        b->file && b->place.rows ? (double)(b->row - b->place.first) / (double)b->place.rows : 0;

    return (double)b->bytes + own * (double)b->place.bytes;
}

double dc_feed_share(const struct dc_feed *feed)
{
    uint64_t total = feed->conf.job->data.train_bytes;

    if (feed->conf.synthetic)
        return (double)feed->next / (double)feed->conf.synthetic_rows;
    if (feed->blocks.binary)
        return feed->next ? binary_bytes(&feed->blocks) / (double)total : (double)NAN;
    if (total < SHARE_BYTES_MIN)
        return (double)NAN;
    return (double)dc_source_bytes(feed->source) / (double)total;
}

const char *dc_feed_file(const struct dc_feed *feed)
{
    if (feed->blocks.binary)
        return feed->path[feed->blocks.opened - 1];
    return feed->conf.synthetic ? "synthetic" : feed->path[feed->line.file];
}

uint64_t dc_feed_line(const struct dc_feed *feed)
{
    if (feed->blocks.binary)
        return feed->blocks.row;
    return feed->conf.synthetic ? feed->next : feed->line.number;
}

double dc_feed_probability(const struct dc_feed *feed)
{
    return feed->row.probability;
}
