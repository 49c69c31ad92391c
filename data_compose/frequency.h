/* data_compose/frequency.h -- which ids are frequent enough: exact counts, then a set per column.
 *
 *     dc_frequency_create(job, &f);
 *     dc_frequency_add(f, column, id, n) ...      every good row of the training files
 *     while (dc_frequency_seal(f) > 0) ...        counts become sets, in slices of a few milliseconds
 *     dc_frequency_map(f, column, id, n)          ids below their column's min_frequency become DC_RARE_ID
 *
 * Only columns with min_frequency >= 2 may be named. The result depends on the training files and the columns
 * alone. Memory: data.frequency_memory while counting; afterwards 11 to 22 bytes per frequent id.
 * Touch: owner thread; sealed: any thread may map. */
#ifndef DC_FREQUENCY_H
#define DC_FREQUENCY_H

#include <stdbool.h>
#include <stdint.h>

#define DC_RARE_TEXT "\x01rare" /* the rare ids of a column are one: XXH3-64 of this */

struct rt_job;
struct dc_frequency;

bool dc_frequency_wanted(const struct rt_job *job);

struct dc_frequency *dc_frequency_create(const struct rt_job *job);
void dc_frequency_destroy(struct dc_frequency *frequency); /* NULL is legal */

/* RT_EUSAGE: more distinct ids than data.frequency_memory holds; RT_ENOMEM. */
int dc_frequency_add(struct dc_frequency *frequency, uint32_t column, const uint64_t *id,
                     uint32_t n);
/* 1: more to do; 0: done; RT_ENOMEM. */
int dc_frequency_seal(struct dc_frequency *frequency);
void dc_frequency_map(const struct dc_frequency *frequency, uint32_t column, uint64_t *id,
                      uint32_t n);

/* For the log and for tests: distinct ids that were counted, ids that are kept. */
void dc_frequency_totals(const struct dc_frequency *frequency, uint64_t *distinct, uint64_t *kept);

#endif
