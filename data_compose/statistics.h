/* data_compose/statistics.h -- one pass over the training files before training: mean and deviation of the
 * columns to be standardized, and the counts behind min_frequency.
 *
 *     dc_statistics_create(&feed_conf, &statistics);
 *     while ((rc = dc_statistics_turn(statistics)) > 0) ...       slices of a few milliseconds
 *     column = dc_statistics_columns(statistics, &n);
 * With dc_statistics_count_ids() before the first turn, also:
 *     frequent = dc_statistics_take_frequent(statistics);
 *
 * Over all rows of the training files, whichever composer owns them; values after the transform, missing
 * ones filled in; bad rows left out. Touch: the io's thread. */
#ifndef DC_STATISTICS_H
#define DC_STATISTICS_H

#include "data_compose/feed.h"

struct dc_frequency;
struct dc_statistics;
struct wire_statistics;

/* conf->parser is not used: the pass has its own. RT_EUSAGE as dc_parser_create(). */
int dc_statistics_create(const struct dc_feed_conf *conf, struct dc_statistics **out);
void dc_statistics_destroy(struct dc_statistics *statistics); /* NULL is legal */
/* Before the first turn: count ids too. */
void dc_statistics_count_ids(struct dc_statistics *statistics);
/* 1: more to do; 0: done; or an error of the feed or of the counts. */
int dc_statistics_turn(struct dc_statistics *statistics);
/* One per standardized column; names are the job's. Valid until destroy. */
const struct wire_statistics *dc_statistics_columns(const struct dc_statistics *statistics,
                                                    uint32_t *n);

/* Done and counted: the sealed sets, now the caller's; dc_frequency_destroy(). */
struct dc_frequency *dc_statistics_take_frequent(struct dc_statistics *statistics);

/* Is any column of the job to be standardized? */
bool dc_statistics_wanted(const struct rt_job *job);
/* Hand statistics to a parser. RT_EPROTO: a standardized column has none. */
int dc_statistics_apply(const struct rt_job *job, const struct wire_statistics *column, uint32_t n,
                        struct dc_parser *parser);

#endif
