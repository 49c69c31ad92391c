/* middleware/sequence.h -- a feature that stays a sequence (pooling none): its distinct rows, and which stands where.
 *
 * Its rows are told apart within the feature, not the table that it may share with others, in order of first occurrence in
 * the batch: a pure function of the batch, whatever loop holds it and however many owners there are. A trainer gets each row once
 * and sends one gradient for it. Touch: any thread; nothing is allocated. */
#ifndef MW_SEQUENCE_H
#define MW_SEQUENCE_H

#include <stddef.h>
#include <stdint.h>

/* @slot: [n] in: which of the table's n_distinct ids; out: which of the feature's own
 * @mark: [n_distinct] scratch   @row: [n] out, the table's number of each of the feature's own
 * Return: how many those are. */
uint32_t mw_sequence_rows(uint32_t *slot, size_t n, uint32_t *mark, uint32_t n_distinct,
                          uint32_t *row);

#endif
