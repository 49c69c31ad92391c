/* data_compose/feed.h -- the rows of one set (training or test) in their fixed order, numbered from 0.
 *
 *     while ((rc = dc_feed_next(feed)) > 0)
 *         if (mine(dc_feed_number(feed)))
 *             rc = dc_feed_parse(feed);       0: dc_parser_view(parser); RT_EDATA: a bad row
 *
 * The order is that of the files, header lines not counted; bad rows have numbers like all others. A row
 * that is not parsed costs finding its end. Touch: the io's thread. */
#ifndef DC_FEED_H
#define DC_FEED_H

#include "data_compose/parse.h"

#include <stdbool.h>

struct rt_io;
struct dc_feed;
struct dc_synthetic;

struct dc_feed_conf {
    struct rt_io *io;
    const struct rt_job *job;
    const struct dc_synthetic *synthetic; /* NULL: files */
    uint64_t synthetic_rows;
    bool evaluate;            /* the test set */
    struct dc_parser *parser; /* used by this feed alone while it is read */
    _Atomic uint64_t *bytes;  /* read from files, added to as they are; or NULL */
    struct dc_feed
        *last; /* of the same set and read to its end: its memory is taken over; or NULL */
};

struct dc_feed *dc_feed_create(const struct dc_feed_conf *conf);
void dc_feed_destroy(struct dc_feed *feed); /* NULL is legal */

/* 1: there is a row; 0: the set has ended; or RT_EFILE, RT_EDATA (broken file), RT_EUSAGE (header). */
int dc_feed_next(struct dc_feed *feed);
int dc_feed_parse(struct dc_feed *feed);
/* dc_feed_parse() failed for what holds more than its row, as a block that is broken: nothing can be left out for it. */
bool dc_feed_broken(const struct dc_feed *feed);

/* ---- blocks of binary files, for who takes their rows together ---- */

struct dc_binary;
struct dc_block_view;
const struct dc_binary *dc_feed_binary(const struct dc_feed *feed); /* NULL: rows come one by one */
/* Rows of the block that begins at the row just told; 0: none begins there. */
uint32_t dc_feed_block_rows(const struct dc_feed *feed);
/* Verify and unpack the block of the row; *view is valid until the next dc_feed_next(). Errors as dc_feed_parse(). */
int dc_feed_open_block(struct dc_feed *feed, const struct dc_block_view **view);
/* Stand at the block's last row. */
void dc_feed_skip_block(struct dc_feed *feed);
/* Row i of the open block becomes the parser's. */
int dc_feed_block_row(struct dc_feed *feed, uint32_t i);

/* ---- where it stands ---- */

uint64_t dc_feed_number(const struct dc_feed *feed);
/* Of the row just read; NULL and 0 where rows are no text: generated, or binary. */
const char *dc_feed_row_text(const struct dc_feed *feed);
size_t dc_feed_row_bytes(const struct dc_feed *feed);
/* How far through the training set this is, 0..1, for progress; NaN where the files are so small that a
 * read takes much of them, less than 16 MiB of text, and before the first binary row. */
double dc_feed_share(const struct dc_feed *feed);
/* Where the row stands, for messages; the line of a binary file's row is its number, from 1. */
const char *dc_feed_file(const struct dc_feed *feed);
uint64_t dc_feed_line(const struct dc_feed *feed);
/* The true click probability of the row just parsed; synthetic only. */
double dc_feed_probability(const struct dc_feed *feed);

#endif
