/* embedding_server/stage.h -- where the rows of a stretch of ids are, and their memory on its way.
 *
 *   1. hash all ids of the stretch -> home lines; ask for the lines
 *   2. match tags in the lines -> candidate rows, not yet compared with the ids; ask for the rows
 *
 * A loop for each part: what waits here is memory, and the CPU has the more requests under way the fewer
 * instructions lie between two of them. Compiled per instruction set, for the hashes are computed a register at a
 * time: 3.8 ns for each one by one, 1.0 with AVX-512, on a Xeon of 2023. Touch: owner thread only. */
#ifndef EBS_STAGE_H
#define EBS_STAGE_H

#include "embedding_server/index.h"
#include "runtime/base/prefetch.h"

#include <stddef.h>
#include <stdint.h>

#define EBS_STRETCH 256u /* ids that are worked on at a time */

struct ebs_stretch {
    size_t n;
    const uint64_t *id;
    uint8_t *row[EBS_STRETCH]; /* where its row is, NULL: there is none; until the slab grows */
};

/* What of a table the stages read. */
struct ebs_finder {
    struct ebs_index index;
    uint8_t *rows;
    size_t row_bytes;
    size_t bytes; /* of each row that will be touched */
};

/* @id: [n], n <= EBS_STRETCH; borrowed by `out`. A row of `out` may be another id's with the same tag: compare. */
void ebs_stage_run(const struct ebs_finder *finder, const uint64_t *id, size_t n,
                   struct ebs_stretch *out);

/* The same by instruction set. */
typedef void (*ebs_stage_fn)(const struct ebs_finder *finder, const uint64_t *id, size_t n,
                             struct ebs_stretch *out);
void ebs_stage_plain(const struct ebs_finder *finder, const uint64_t *id, size_t n,
                     struct ebs_stretch *out);
void ebs_stage_avx2(const struct ebs_finder *finder, const uint64_t *id, size_t n,
                    struct ebs_stretch *out);
void ebs_stage_avx512(const struct ebs_finder *finder, const uint64_t *id, size_t n,
                      struct ebs_stretch *out);

/* How many of so many ids are of none of the `width` shards from `first` on (runtime/job/shard.h); any n. */
size_t ebs_outside(const uint64_t *id, size_t n, uint32_t first, uint32_t width);

/* The same by instruction set. */
typedef size_t (*ebs_outside_fn)(const uint64_t *id, size_t n, uint32_t first, uint32_t width);
size_t ebs_outside_plain(const uint64_t *id, size_t n, uint32_t first, uint32_t width);
size_t ebs_outside_avx2(const uint64_t *id, size_t n, uint32_t first, uint32_t width);
size_t ebs_outside_avx512(const uint64_t *id, size_t n, uint32_t first, uint32_t width);

/* To L2, where a stretch's rows fit whatever their size. (For small rows L1 was as fast.) Each line once. */
static inline void ebs_prefetch_row(const uint8_t *row, size_t bytes)
{
    const uint8_t *line = row - (uintptr_t)row % sizeof(struct ebs_line);

    for (; line < row + bytes; line += sizeof(struct ebs_line))
        __builtin_prefetch(line, 0, 2);
    RT_PREFETCHES();
}

#endif
