/* tests/unit/table_bed.h -- tables for tests: small configurations, one call per update. */
#ifndef TESTS_TABLE_BED_H
#define TESTS_TABLE_BED_H

#include "embedding_server/table.h"

#define TABLE_BED_SEED 11

/* Rows of `dim` zeros of `dtype`, SGD: with lr 1 and gradient -1 a value counts updates. */
struct rt_table_conf table_bed_counting(uint32_t dim, uint32_t dtype);

int table_bed_try(const struct rt_table_conf *job, struct ebs_budget *budget,
                  struct ebs_table **out);
struct ebs_table *table_bed_create(const struct rt_table_conf *job); /* must succeed */

/* A tick and an update, which must succeed. */
struct ebs_applied table_bed_update(struct ebs_table *table, const uint64_t *id, const float *grad,
                                    size_t n);

/* The same with a gradient of -1 for every element; n * dim <= 4096. */
struct ebs_applied table_bed_count(struct ebs_table *table, const uint64_t *id, size_t n);

/* Element 0 of an id's row, or of its initial value. */
float table_bed_value(const struct ebs_table *table, uint64_t id);
bool table_bed_has(const struct ebs_table *table, uint64_t id);

/* A number of all that rows have: ids, weights, state, stamps. */
uint64_t table_bed_digest(const struct ebs_table *table);

/* Rows by counts, by walking and by bytes are one number. Fails the test if not. */
void table_bed_check(const struct ebs_table *table);

#endif
