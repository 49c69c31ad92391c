/* data_compose/click_log.h -- rows in Criteo's layout with a planted truth, as `generate` writes them.
 *
 * A row: label TAB dense... TAB ids..., one line. Dense values are integers of 0..998, log-uniform, one in 16
 * empty. An id is 8 hex digits; the popularity of a feature's ids is log-uniform: id of rank k (from 0) has
 * probability log((k + 2) / (k + 1)) / log(ids + 1). Row n of a set is a pure function of (shape, seed, set, n).
 * The click probability of a row is known. Immutable after create. Touch: any thread. */
#ifndef DC_CLICK_LOG_H
#define DC_CLICK_LOG_H

#include "data_compose/synthetic.h" /* enum dc_synthetic_set */

#include <stddef.h>

#define DC_CLICK_FEATURES_MAX               1024u
#define DC_CLICK_DENSE_MAX                  1024u
#define DC_CLICK_IDS_MAX                    (1u << 30)
#define DC_CLICK_ROW_BYTES(features, dense) (2 + 4 * (size_t)(dense) + 9 * (size_t)(features))

struct dc_click_log;

struct dc_click_log_conf {
    uint32_t features, dense; /* columns of each kind */
    uint32_t ids;             /* distinct ids of each feature */
    uint64_t seed;
};

struct dc_click_log *dc_click_log_create(const struct dc_click_log_conf *conf);
void dc_click_log_destroy(struct dc_click_log *clicks); /* NULL is legal */

/* The text of a row with its line end into `text`, which has room for DC_CLICK_ROW_BYTES; its length. */
size_t dc_click_log_row(const struct dc_click_log *clicks, enum dc_synthetic_set set, uint64_t n,
                        char *text, double *probability, float *label);

#endif
