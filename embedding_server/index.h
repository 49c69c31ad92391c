/* embedding_server/index.h -- from an id to its row number: open addressing in lines of 64 bytes.
 *
 * One line is one cache line: 12 tags of 8 bits, the 12 row numbers beside them, and how many rows
 * had to go past it. A look-up compares the tags at once (SSE2) and in 19 of 20 cases touches nothing
 * else; the id itself stands in the row, which is read anyway. All 64-bit ids are legal: a tag is 0 only
 * in an empty slot, and no id is compared with a reserved one.
 *
 *   hash: | directory, top 24 bits | (40..63)   tag, 8 bits (32..39)   | line in segment, 32 bits |
 *
 * The index is a directory of segments (extendible hashing). A segment of at most SEGMENT_LINES lines
 * grows by a quarter when 13/16 full and, at its limit, splits in two: one growth moves some 20,000
 * entries whatever the size of the table, so there is neither a long pause nor a second copy.
 * Touch: owner thread only. */
#ifndef EBS_INDEX_H
#define EBS_INDEX_H

#include "embedding_server/slab.h"
#include "runtime/base/hash.h"

#include <emmintrin.h>

#define EBS_LINE_SLOTS 12

struct ebs_line {
    uint8_t tag[EBS_LINE_SLOTS]; /* 0: empty */
    uint32_t passed;             /* rows whose home is here or before and that stand further on */
    uint32_t row[EBS_LINE_SLOTS];
};
_Static_assert(sizeof(struct ebs_line) == 64, "one index line is one cache line");

struct ebs_segment {
    struct ebs_line *line;
    uint32_t n_lines, count;
    unsigned depth; /* hash bits that its entries share */
};

struct ebs_index {
    struct ebs_segment **dir; /* [1 << depth]; neighbours may share a segment */
    unsigned depth;
    uint64_t salt; /* keeps ids chosen elsewhere (shards, hostile input) from sharing lines here */
    size_t n_segments, line_count;
};

int ebs_index_init(struct ebs_index *index, uint64_t salt);
void ebs_index_release(struct ebs_index *index);

/* `id` must be absent; its row is in the slab. RT_ENOMEM; then nothing has changed. */
int ebs_index_insert(struct ebs_index *index, const struct ebs_slab *slab, uint64_t hash,
                     uint32_t row);
uint32_t ebs_index_find(const struct ebs_index *index, const struct ebs_slab *slab, uint64_t hash,
                        uint64_t id); /* EBS_ROW_NONE: absent */
uint32_t ebs_index_remove(struct ebs_index *index, const struct ebs_slab *slab, uint64_t hash,
                          uint64_t id); /* the row it had; EBS_ROW_NONE: absent */
size_t ebs_index_bytes(const struct ebs_index *index);

static inline uint64_t ebs_index_hash(const struct ebs_index *index, uint64_t id)
{
    return rt_hash_id(id ^ index->salt);
}

static inline const struct ebs_segment *ebs_index_segment(const struct ebs_index *index,
                                                          uint64_t hash)
{
    return index->dir[hash >> 1 >> (63 - index->depth)];
}

static inline uint32_t ebs_index_home(const struct ebs_segment *segment, uint64_t hash)
{
    return (uint32_t)(((hash & UINT32_MAX) * segment->n_lines) >> 32);
}

static inline uint8_t ebs_index_tag(uint64_t hash)
{
    uint8_t tag = (uint8_t)(hash >> 32);

    return tag ? tag : 1;
}

/* Bit i: slot i of the line has this tag. */
static inline unsigned ebs_line_match(const struct ebs_line *line, uint8_t tag)
{
    __m128i tags = _mm_load_si128((const __m128i *)line);
    __m128i same = _mm_cmpeq_epi8(tags, _mm_set1_epi8((char)tag));

    return (unsigned)_mm_movemask_epi8(same) & ((1u << EBS_LINE_SLOTS) - 1);
}

/* The row that most likely belongs to the hash, found without touching any row; the caller compares
 * its id, and asks ebs_index_find() if it differs. EBS_ROW_NONE: certainly absent. */
static inline uint32_t ebs_index_candidate(const struct ebs_index *index, uint64_t hash)
{
    const struct ebs_segment *segment = ebs_index_segment(index, hash);
    uint32_t at = ebs_index_home(segment, hash);
    uint8_t tag = ebs_index_tag(hash);

    for (uint32_t tried = 0; tried < segment->n_lines; tried++) {
        const struct ebs_line *line = &segment->line[at];
        unsigned match = ebs_line_match(line, tag);

        if (match)
            return line->row[__builtin_ctz(match)];
        if (line->passed == 0)
            break;
        at = at + 1 < segment->n_lines ? at + 1 : 0;
    }
    return EBS_ROW_NONE;
}

#endif
