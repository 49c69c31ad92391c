/* embedding_server/policy.h -- what a table's policies know beside its rows, as bytes in a file (RT_ROWFILE_POLICY).
 *
 *   | version, 4 | ages, 4 | tick, 8 | bytes of the sketch, 8 | ages x {ticks ago, 8 | ms ago, 8} |    little-endian
 *
 * The clock (clock.h) by which rows are touched, and how large the sketch of admission is (admit.h), whose lines come behind it in any
 * order (RT_ROWFILE_SKETCH). Of the wall only how long ago: who reads it has another clock, and has perhaps another number of
 * owners. It is of the instant of the cut, and stands in a file before the rows of its table, whose `touched` mean nothing without
 * it. Version 1 ends in all of the sketch, and may stand in several blocks, one after the other. Touch: as the table. */
#ifndef EBS_POLICY_H
#define EBS_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EBS_POLICY_VERSION 2u /* and version 1 is read */

struct ebs_table;

/* Bytes that ebs_table_policy_write() writes, until the next tick or upkeep: some thousands at most. 0: its policies know nothing,
 * and no block is to be written. */
size_t ebs_table_policy_size(const struct ebs_table *table);
void ebs_table_policy_write(const struct ebs_table *table, uint8_t *out);

/* Are these bytes such a thing, and of a version that is known? RT_EDATA, RT_EUSAGE say what was expected; then nothing else
 * may be asked of them. Whatever the table. */
int ebs_policy_check(const uint8_t *policy, size_t bytes);
/* The tick of its clock, by which rows in its file were touched. */
uint32_t ebs_policy_now(const uint8_t *policy);

/* An empty table takes up what one owner's knew, or several one after the other (ebs_clock_restore, ebs_admit_merge). Before its
 * first row. false: the sketch is of another size, as it is where the number of owners is another; what it counted is left out, and
 * so are its lines to be. */
bool ebs_table_policy_merge(struct ebs_table *table, const uint8_t *policy);
/* Lines of a sketch of the same size (RT_ROWFILE_SKETCH). @line: [n][RT_ROWFILE_LINE]. false: one has a number that there is not. */
bool ebs_table_sketch_merge(struct ebs_table *table, const uint8_t *line, size_t n);

/* The tick of the table's clock: to go from a file's ticks to the table's, add the difference of the two. */
uint32_t ebs_table_now(const struct ebs_table *table);

#endif
