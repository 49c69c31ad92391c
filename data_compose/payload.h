/* data_compose/payload.h -- rows laid out as the two payloads of a batch.
 *
 * ids: feature by feature [lengths u32, where some sample has not one] [ids] [their weights]; samples: dense, labels, weights,
 * groups, keys (wire/batch.h). Touch: owner thread. */
#ifndef DC_PAYLOAD_H
#define DC_PAYLOAD_H

#include <stdbool.h>
#include <stdint.h>

struct dc_batch;
struct dc_columns;
struct dc_payload;
struct dc_rows;
struct dc_rows_shape;
struct rt_io;

/* `shape` and `columns` (NULL: all samples are in rows) outlive it. */
struct dc_payload *dc_payload_create(struct rt_io *io, const struct dc_rows_shape *shape,
                                     const struct dc_columns *columns);
void dc_payload_destroy(struct dc_payload *payload); /* NULL is legal */

/* Buffers, counts and digest of a batch that has its number of samples. Sample s is row order[s] of `rows`; those from
 * n_records on, which come last, are of the block that `columns` is bound to. false: the io's buffers are over their
 * budget, and the batch is to be destroyed. */
bool dc_payload_build(struct dc_payload *payload, const struct dc_rows *rows, uint32_t n_records,
                      const uint32_t *order, struct dc_batch *batch);

#endif
