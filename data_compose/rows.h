/* data_compose/rows.h -- parsed rows kept compactly until their chunk is complete.
 *
 * RECORDS. A row is a record of 8-byte words: [number of ids u32, counts u16 x n_features, only where they vary]
 * [group, where there is one] [ids] [weights of the ids, where some have any; labels, dense, weight as float32; key: size u32
 * and bytes, where there is one]. No pointers.
 *
 * PLANES. Even rows, which differ in their values only, are cut across: ids (and the group as one more) in planes of 8
 * columns, so that a row's part of a plane is one line of the cache, and dense values, labels and weight in a plane
 * of floats. A shuffled batch is made plane by plane, and every line it touches is used whole (rows.c has the figures).
 *
 * Touch: owner thread. */
#ifndef DC_ROWS_H
#define DC_ROWS_H

#include "data_compose/parse.h"

#include <stdbool.h>

struct dc_rows_shape {
    uint32_t n_features, n_dense, n_labels;
    bool varying; /* counts differ from row to row */
    bool weighted, grouped, keyed;
    const uint8_t *id_weighted; /* [n_features] ids of those have weights; NULL: none has any */
    const uint16_t *count;      /* [n_features] where they do not */
    uint32_t n_ids;
};

/* Do rows of this shape lie in planes? */
static inline bool dc_rows_even(const struct dc_rows_shape *shape)
{
    return !shape->varying && !shape->id_weighted && !shape->keyed;
}

/* Zero-initialise; dc_rows_release. */
struct dc_rows {
    uint64_t *word; /* 64-byte aligned */
    size_t n_words, words_capacity;
    uint32_t *start; /* [n] first word of each record; planes: NULL */
    uint32_t n, rows_capacity;
};

/* A record as it lies there. */
struct dc_record {
    const uint16_t *count; /* [n_features] */
    const uint64_t *id;
    const float *id_weight; /* [ids] where some feature's have weights */
    const float *label, *dense, *weight;
    const uint64_t *group;
    const char *key; /* [key_size] */
    uint32_t key_size;
};

void dc_rows_release(struct dc_rows *rows);
/* Empty stores that others have left: the large one takes a chunk, the small one what is kept of it. They go round, so that
 * nothing is allocated once each has met its largest. */
struct dc_spares {
    struct dc_rows large, small;
    size_t words_max; /* of what was kept, and a quarter: what small stores are made for */
    uint32_t rows_max;
};
/* RT_ENOMEM, RT_ELIMIT. When it must grow and the large spare is larger, that takes its place, and it is the small one. */
int dc_rows_add(struct dc_rows *rows, struct dc_spares *spare, const struct dc_rows_shape *shape,
                const struct dc_row *row);
/* Records: */
void dc_rows_at(const struct dc_rows *rows, const struct dc_rows_shape *shape, uint32_t i,
                struct dc_record *out);
/* Row i will be read soon. */
void dc_rows_prefetch(const struct dc_rows *rows, uint32_t i);

/* Planes: columns 8p .. 8p + width - 1 of the ids and the group, of all rows: row i's begin at i * width. */
#define DC_PLANE 8u
static inline uint32_t dc_rows_columns(const struct dc_rows_shape *shape)
{
    return shape->n_ids + shape->grouped;
}
static inline uint32_t dc_plane_width(const struct dc_rows_shape *shape, uint32_t p)
{
    uint32_t left = dc_rows_columns(shape) - p * DC_PLANE;

    return left < DC_PLANE ? left : DC_PLANE;
}
uint64_t *dc_rows_plane(const struct dc_rows *rows, uint32_t p);
/* The floats, those of row i at i * dc_rows_pitch(): dense, labels, weight. The pitch is a multiple of 4. */
uint32_t dc_rows_pitch(const struct dc_rows_shape *shape);
float *dc_rows_floats(const struct dc_rows *rows, const struct dc_rows_shape *shape);

/* Move the rows order[0 .. n) to the small spare, or a fresh store of about their size, and empty this one into the large spare
 * (the larger of the two stays). RT_ENOMEM: nothing changed. */
int dc_rows_keep(struct dc_rows *rows, struct dc_spares *spare, const struct dc_rows_shape *shape,
                 const uint32_t *order, uint32_t n);
size_t dc_rows_bytes(const struct dc_rows *rows);

#endif
