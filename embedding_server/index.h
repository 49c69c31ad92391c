/* embedding_server/index.h -- from an id to its row number: open addressing in lines of 64 bytes.
 *
 * One line is one cache line: 12 tags of 8 bits, the 12 row numbers beside them, and how many rows
 * had to go past it. A look-up compares the tags at once (SSE2) and touches no other line for 29 of 30 ids that have
 * a row and 5 of 6 that have none; the id itself stands in the row, which is read anyway. All 64-bit ids are
 * legal: a tag is 0 only in an empty slot, and no id is compared with a reserved one.
 *
 *   hash: | group, low bits of these 24 | (40..63)   tag, 8 bits (32..39)   | line in group, 32 bits |
 *
 * The lines are one array, in units of 64 (4 KiB). A group of lines is every m-th unit: group g has the units g,
 * g + m, g + 2m, ... Growth adds one unit at the end of the array, to one group, and spreads that group's
 * entries (some 3,500) over it; the next growth goes on with the next group. So the index grows and shrinks by
 * 4 KiB at a time whatever its size, its load stays the same, and where a line stands is computed, not looked up:
 *
 *   m = 2, groups of 5 units, group 0 has its sixth:   0 1 0 1 0 1 0 1 0 1 0
 *
 * Groups of 7 units split: into two groups of 4 (m doubles). Touch: owner thread only. */
#ifndef EBS_INDEX_H
#define EBS_INDEX_H

#include "embedding_server/slab.h"
#include "runtime/base/hash.h"
#include "runtime/base/prefetch.h"

#include <emmintrin.h>

#define EBS_LINE_SLOTS RT_LINE_SLOTS
#define EBS_UNIT_LINES RT_UNIT_LINES /* a power of two; a unit is one small page */

struct ebs_line {
    uint8_t tag[EBS_LINE_SLOTS]; /* 0: empty */
    uint32_t passed;             /* rows whose home is here or before and that stand further on */
    uint32_t row[EBS_LINE_SLOTS];
};
_Static_assert(sizeof(struct ebs_line) == 64, "one index line is one cache line");

/* How groups are laid out: 1 << shift of them. */
struct ebs_layout {
    unsigned shift;
    uint32_t n_lines; /* of one group */
};

struct ebs_index {
    struct ebs_line *line; /* of region */
    /* [0]: now; [1]: what growth is going on to. A group whose number in [0] is less than `done` is laid out as
     * [1] says already. */
    struct ebs_layout layout[2];
    uint32_t done;
    uint32_t n_lines; /* of all groups */
    uint64_t count;
    uint64_t salt; /* keeps ids chosen elsewhere (shards, hostile input) from sharing lines here */
    struct ebs_region region;
};

/* Budget: borrowed; NULL: none. RT_ENOMEM, RT_EFULL. */
int ebs_index_init(struct ebs_index *index, uint64_t salt, struct ebs_budget *budget);
void ebs_index_release(struct ebs_index *index);

/* An index without entries gets lines for so many, as far as there is memory: none has to be spread while they come. */
void ebs_index_reserve(struct ebs_index *index, uint64_t rows);

/* `id` must be absent; the rows of all other entries are in the slab (growth reads their ids). RT_ENOMEM,
 * RT_EFULL (budget), RT_ELIMIT (ids chosen to collide); then nothing has changed for the caller. */
int ebs_index_insert(struct ebs_index *index, const struct ebs_slab *slab, uint64_t hash,
                     uint32_t row);
/* What the home line alone tells: *found is the id's row; or EBS_ROW_NONE, for it was absent, and `row` stands there now. false: it does
 * not tell, or has no room, or the index is to grow first. @home, tag: ebs_index_home() and ebs_index_tag() of its hash. */
bool ebs_index_claim(struct ebs_index *index, const struct ebs_slab *slab, uint32_t home,
                     uint8_t tag, uint64_t id, uint32_t row, uint32_t *found);
uint32_t ebs_index_find(const struct ebs_index *index, const struct ebs_slab *slab, uint64_t hash,
                        uint64_t id); /* EBS_ROW_NONE: absent */
/* The row it had; EBS_ROW_NONE: absent. The caller frees the row afterwards. Lines go back as rows do. */
uint32_t ebs_index_remove(struct ebs_index *index, const struct ebs_slab *slab, uint64_t hash,
                          uint64_t id);
/* The entry that says `from` says `to` from now on. Reads no row. */
void ebs_index_move(struct ebs_index *index, uint64_t hash, uint32_t from, uint32_t to);

size_t ebs_index_bytes(const struct ebs_index *index);    /* lines in use */
size_t ebs_index_resident(const struct ebs_index *index); /* whole pages */

static inline uint64_t ebs_index_hash(const struct ebs_index *index, uint64_t id)
{
    return rt_hash_id(id ^ index->salt);
}

/* The group of a hash. */
struct ebs_group {
    uint32_t first; /* its line 0 in the array */
    struct ebs_layout layout;
};

static inline struct ebs_group ebs_index_group(const struct ebs_index *index, uint64_t hash)
{
    uint32_t bits = (uint32_t)(hash >> 40);
    const struct ebs_layout *now = &index->layout[0], *next = &index->layout[1];
    /* Field by field, so that it is a selection, which many hashes can have at once, and no branch that is guessed wrong. */
    bool done = (bits & ((1u << now->shift) - 1)) < index->done;
    struct ebs_layout layout = {done ? next->shift : now->shift,
                                done ? next->n_lines : now->n_lines};

    return (struct ebs_group){(bits & ((1u << layout.shift) - 1)) * EBS_UNIT_LINES, layout};
}

/* Line `at` of a group, as a number in the array. */
static inline uint32_t ebs_group_line(struct ebs_group group, uint32_t at)
{
    return group.first + ((at & ~(EBS_UNIT_LINES - 1)) << group.layout.shift) +
           (at & (EBS_UNIT_LINES - 1));
}

/* Where in its group a hash belongs. */
static inline uint32_t ebs_group_home(struct ebs_group group, uint64_t hash)
{
    return (uint32_t)(((hash & UINT32_MAX) * group.layout.n_lines) >> 32);
}

static inline uint8_t ebs_index_tag(uint64_t hash)
{
    uint8_t tag = (uint8_t)(hash >> 32);

    return tag ? tag : 1;
}

/* The line, as a number in the array, where a hash belongs. */
static inline uint32_t ebs_index_home(const struct ebs_index *index, uint64_t hash)
{
    struct ebs_group group = ebs_index_group(index, hash);

    return ebs_group_line(group, ebs_group_home(group, hash));
}

/* To L2, as all that is asked for in bulk. */
static inline void ebs_index_prefetch(const struct ebs_index *index, uint64_t hash)
{
    __builtin_prefetch(&index->line[ebs_index_home(index, hash)], 0, 2);
    RT_PREFETCHES();
}

/* Bit i: slot i of the line has this tag. */
static inline unsigned ebs_line_match(const struct ebs_line *line, uint8_t tag)
{
    __m128i tags = _mm_load_si128((const __m128i *)line);
    __m128i same = _mm_cmpeq_epi8(tags, _mm_set1_epi8((char)tag));

    return (unsigned)_mm_movemask_epi8(same) & ((1u << EBS_LINE_SLOTS) - 1);
}

/* The row that most likely belongs to the hash, found without touching any row; the caller compares its id, and
 * asks ebs_index_find() if it differs. EBS_ROW_NONE: certainly absent. False: the home line (of the tag's hash; a number
 * in the array) does not tell; then ebs_index_candidate() looks further, where memory may have to be waited for. */
static inline bool ebs_index_at_home(const struct ebs_index *index, uint32_t home, uint8_t tag,
                                     uint32_t *candidate)
{
    const struct ebs_line *line = &index->line[home];
    unsigned match = ebs_line_match(line, tag);

    *candidate = match ? line->row[__builtin_ctz(match)] : EBS_ROW_NONE;
    return match != 0 || line->passed == 0;
}

/* The same, wherever it stands. */
uint32_t ebs_index_candidate(const struct ebs_index *index, uint64_t hash);

#endif
