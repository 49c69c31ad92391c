/* runtime/job/seqset.h -- which sequences of each split are in: a low-water mark and a bitmap above it.
 *
 * The ledger of the trainers holds two of these (stepped, finished); the filter of an owner is one.
 * Older than the window = already in. Memory: one small struct per split in use, window/8 bytes each. */
#ifndef RT_SEQSET_H
#define RT_SEQSET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct rt_seqset;

/* window: sequences above the low mark that can be told apart, a multiple of 64, <= 1 << 20. */
int rt_seqset_create(uint32_t window, struct rt_seqset **out);
void rt_seqset_destroy(struct rt_seqset *set);

bool rt_seqset_has(const struct rt_seqset *set, uint32_t split, uint64_t sequence);
/* 0; RT_ELIMIT when the sequence is beyond low + window (the caller let too many be open); RT_ENOMEM.
 * The low mark moves up over all that are in. Adding what is in already is legal and does nothing. */
int rt_seqset_add(struct rt_seqset *set, uint32_t split, uint64_t sequence);
uint64_t rt_seqset_low(const struct rt_seqset *set, uint32_t split); /* all below are in */
/* Number of sequences in, of this split (low + bits above it). */
uint64_t rt_seqset_count(const struct rt_seqset *set, uint32_t split);
/* Bitmap above the low mark: bit 0 = low (never set). Bytes without trailing zeros; 0 when empty. */
size_t rt_seqset_bitmap(const struct rt_seqset *set, uint32_t split, const uint8_t **bits);
/* Replace a split's state by what was saved or told. RT_EPROTO when the bitmap is too long. */
int rt_seqset_restore(struct rt_seqset *set, uint32_t split, uint64_t low, const uint8_t *bits,
                      size_t size);
uint32_t rt_seqset_splits(const struct rt_seqset *set); /* highest split in use + 1 */

#endif
