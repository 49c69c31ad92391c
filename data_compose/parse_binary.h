/* data_compose/parse_binary.h -- rows of the binary form: what the columns of block.h mean for a job.
 *
 *     converting:  dc_parser_row(parser, ...); dc_binary_put(binary, writer); dc_block_end_row(writer)
 *     training:    dc_block_read(file, i, &view); dc_binary_begin(binary, &view);
 *                  dc_binary_row(binary, row of the block)           then as after dc_parser_row()
 *
 * Touch: owner thread. */
#ifndef DC_PARSE_BINARY_H
#define DC_PARSE_BINARY_H

#include "data_compose/block.h"
#include "data_compose/parse.h"

#include <stdbool.h>

struct dc_binary;

/* The parser outlives it. Of a job with `format: binary` it takes dense values as the file has them from now on. */
struct dc_binary *dc_binary_create(struct dc_parser *parser);
void dc_binary_destroy(struct dc_binary *binary); /* NULL is legal */
const struct dc_block_shape *dc_binary_shape(const struct dc_binary *binary);

/* What a stored column is, for who reads views without rows. */
struct dc_binary_field {
    uint32_t kind, target; /* enum rt_column_kind; rt_column_conf.target */
    uint32_t slot;         /* feature: orders the columns of one */
    uint32_t at;           /* column of its values in the file */
    bool counted;          /* lengths are in the column before */
    bool weighted;         /* weights of the ids are in the column behind */
    bool standardized;     /* float64, as it was read */
};
uint32_t dc_binary_n_fields(const struct dc_binary *binary);
struct dc_binary_field dc_binary_field(const struct dc_binary *binary, uint32_t i);

/* The parser's row; it replaces no rare ids (dc_parser_frequent) then. */
void dc_binary_put(const struct dc_binary *binary, struct dc_block_writer *writer);

/* Rows come from this view from now on; it belongs to the caller. */
void dc_binary_begin(struct dc_binary *binary, const struct dc_block_view *view);
/* Row i < view's rows becomes the parser's. Rows in rising order are fast. RT_EDATA: a bad row; any other error:
 * of the counts. */
int dc_binary_row(struct dc_binary *binary, uint32_t i);

#endif
