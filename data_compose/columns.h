/* data_compose/columns.h -- samples gathered from a block of the binary form, column by column, straight into payloads.
 *
 * What rows.h does for any row, without a row in between, where all rows have as many ids and nothing is left to do
 * with their values. Touch: owner thread. */
#ifndef DC_COLUMNS_H
#define DC_COLUMNS_H

#include <stdbool.h>
#include <stdint.h>

struct rt_job;
struct dc_binary;
struct dc_block_view;
struct dc_columns;

/* Where the next sample's parts go. NULL: there is no such column. */
struct dc_filling {
    uint64_t **id; /* [n_features] */
    float *dense, *label, *weight;
    uint64_t *group;
    uint32_t *key_length;
    char *key;
};

/* NULL: this job's rows differ in length, have keys or weights of ids, are standardized, or rare ids are replaced. `binary`
 * outlives it. */
struct dc_columns *dc_columns_create(const struct rt_job *job, const struct dc_binary *binary);
void dc_columns_destroy(struct dc_columns *columns); /* NULL is legal */

/* Gather from this view from now on. false: some value is not what its column may have, so its rows must be told apart. */
bool dc_columns_bind(struct dc_columns *columns, const struct dc_block_view *view);
/* The rows row[0 .. n) - base of the view; `at` moves behind them. */
void dc_columns_fill(const struct dc_columns *columns, const uint32_t *row, uint32_t base,
                     uint32_t n, struct dc_filling *at);

#endif
