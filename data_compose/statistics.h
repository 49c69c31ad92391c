/* data_compose/statistics.h -- mean and deviation of the columns to be standardized, in one pass.
 *
 *     dc_statistics_create(&feed_conf, &statistics);
 *     while ((rc = dc_statistics_turn(statistics)) > 0) ...       slices of a few milliseconds
 *     column = dc_statistics_columns(statistics, &n);
 *
 * Over all rows of the training files, whichever composer owns them; values after the transform, missing
 * ones filled in; bad rows left out. Touch: the io's thread. */
#ifndef DC_STATISTICS_H
#define DC_STATISTICS_H

#include "data_compose/feed.h"

struct dc_statistics;
struct wire_statistics;

/* conf->parser is not used: the pass has its own. RT_EUSAGE as dc_parser_create(). */
int dc_statistics_create(const struct dc_feed_conf *conf, struct dc_statistics **out);
void dc_statistics_destroy(struct dc_statistics *statistics); /* NULL is legal */
/* 1: more to do; 0: done; or an error of the feed. */
int dc_statistics_turn(struct dc_statistics *statistics);
/* One per standardized column; names are the job's. Valid until destroy. */
const struct wire_statistics *dc_statistics_columns(const struct dc_statistics *statistics,
                                                    uint32_t *n);

/* Is any column of the job to be standardized? */
bool dc_statistics_wanted(const struct rt_job *job);
/* Hand statistics to a parser. RT_EPROTO: a standardized column has none. */
int dc_statistics_apply(const struct rt_job *job, const struct wire_statistics *column, uint32_t n,
                        struct dc_parser *parser);

#endif
