/* embedding_server/index.c -- segments that grow and split.
 *
 * A row stands in its home line or, where that is full, in the next line with a free slot; each
 * line it went past counts it in `passed`. A search stops at the first line with passed == 0, and a removal
 * takes its count back along the way, so there are no tombstones and removals leave no trace.
 *
 * DESIGN: sizes follow from counts: a segment that is 13/16 full is rebuilt for a load of 13/20, which is
 * growth by a quarter, into as many segments (one or two) as its lines need. At a mean load of
 * 0.73 a row costs 7.3 bytes here. One power-of-two array was measured too (16 tags, doubling): as fast,
 * but with pauses of 380 to 810 ms at 20 M rows and 16 to 20 bytes a row after a doubling. */
#include "embedding_server/index.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"

#define SEGMENT_LINES 2048u
#define DEPTH_MAX     24u
#define REHASH_AHEAD  4u /* lines whose rows are prefetched during a rebuild */

/* Full enough to grow: 13/16 of the slots. Aimed at then: 13/20. */
static bool is_full(const struct ebs_segment *segment)
{
    return (uint64_t)segment->count * 16 >= (uint64_t)segment->n_lines * EBS_LINE_SLOTS * 13;
}

static uint32_t lines_for(uint32_t count)
{
    return (uint32_t)((uint64_t)count * 20 / (13 * EBS_LINE_SLOTS)) + 1;
}

static int no_memory(const struct ebs_index *index)
{
    return RT_FAIL(RT_ENOMEM, "index: out of memory, holding %zu lines in %zu segments",
                   index->line_count, index->n_segments);
}

static struct ebs_segment *segment_create(uint32_t n_lines, unsigned depth)
{
    struct ebs_segment *segment = rt_try_calloc(1, sizeof(*segment));
    size_t bytes = n_lines * sizeof(struct ebs_line);

    if (!segment)
        return NULL;
    segment->line = rt_try_aligned(bytes);
    if (!segment->line) {
        rt_free(segment);
        return NULL;
    }
    memset(segment->line, 0, bytes);
    segment->n_lines = n_lines;
    segment->depth = depth;
    return segment;
}

static void segment_destroy(struct ebs_segment *segment)
{
    if (!segment)
        return;
    rt_free(segment->line);
    rt_free(segment);
}

int ebs_index_init(struct ebs_index *index, uint64_t salt)
{
    struct ebs_segment *first = segment_create(1, 0);

    *index = (struct ebs_index){.salt = salt, .n_segments = 1, .line_count = 1};
    index->dir = rt_try_malloc(sizeof(struct ebs_segment *));
    if (!first || !index->dir) {
        segment_destroy(first);
        rt_free(index->dir);
        index->dir = NULL;
        return no_memory(index);
    }
    index->dir[0] = first;
    return 0;
}

void ebs_index_release(struct ebs_index *index)
{
    size_t n = index->dir ? (size_t)1 << index->depth : 0;

    for (size_t i = 0; i < n;) {
        struct ebs_segment *segment = index->dir[i];

        i += (size_t)1 << (index->depth - segment->depth);
        segment_destroy(segment);
    }
    rt_free(index->dir);
    index->dir = NULL;
}

/* Put an entry into a segment that has a free slot. */
static void place(struct ebs_segment *segment, uint64_t hash, uint32_t row)
{
    uint32_t at = ebs_index_home(segment, hash);
    unsigned empty;

    rt_assert(segment->count < (uint64_t)segment->n_lines * EBS_LINE_SLOTS);
    while ((empty = ebs_line_match(&segment->line[at], 0)) == 0) {
        segment->line[at].passed++;
        at = at + 1 < segment->n_lines ? at + 1 : 0;
    }
    at = at * EBS_LINE_SLOTS + (uint32_t)__builtin_ctz(empty);
    segment->line[at / EBS_LINE_SLOTS].tag[at % EBS_LINE_SLOTS] = ebs_index_tag(hash);
    segment->line[at / EBS_LINE_SLOTS].row[at % EBS_LINE_SLOTS] = row;
    segment->count++;
}

/* Which of the two halves of a segment that is being split. */
static unsigned half_of(uint64_t hash, unsigned depth)
{
    return (unsigned)(hash >> (63 - depth)) & 1;
}

typedef void (*entry_fn)(void *arg, uint64_t hash, uint32_t row);

/* Call fn for each entry. The ids are in the rows, all over memory: prefetched some lines ahead. */
static void each_entry(const struct ebs_index *index, const struct ebs_slab *slab,
                       const struct ebs_segment *segment, entry_fn fn, void *arg)
{
    for (uint32_t at = 0; at < segment->n_lines + REHASH_AHEAD; at++) {
        if (at < segment->n_lines) {
            const struct ebs_line *line = &segment->line[at];

            for (unsigned i = 0; i < EBS_LINE_SLOTS; i++)
                if (line->tag[i])
                    __builtin_prefetch(ebs_slab_at(slab, line->row[i]));
        }
        if (at >= REHASH_AHEAD) {
            const struct ebs_line *line = &segment->line[at - REHASH_AHEAD];

            for (unsigned i = 0; i < EBS_LINE_SLOTS; i++)
                if (line->tag[i])
                    fn(arg, ebs_index_hash(index, ebs_row_id(ebs_slab_at(slab, line->row[i]))),
                       line->row[i]);
        }
    }
}

struct rebuild {
    struct ebs_segment *to[2]; /* [1]: NULL unless split */
    uint32_t count[2];
    unsigned depth;
};

static void count_entry(void *arg, uint64_t hash, uint32_t row)
{
    struct rebuild *rebuild = arg;

    (void)row;
    rebuild->count[half_of(hash, rebuild->depth)]++;
}

static void move_entry(void *arg, uint64_t hash, uint32_t row)
{
    struct rebuild *rebuild = arg;

    place(rebuild->to[rebuild->to[1] ? half_of(hash, rebuild->depth) : 0], hash, row);
}

static int double_dir(struct ebs_index *index)
{
    size_t n = (size_t)1 << index->depth;
    struct ebs_segment **dir = rt_try_calloc(n * 2, sizeof(struct ebs_segment *));

    if (!dir)
        return no_memory(index);
    for (size_t i = 0; i < n; i++)
        dir[2 * i] = dir[2 * i + 1] = index->dir[i];
    rt_free(index->dir);
    index->dir = dir;
    index->depth++;
    return 0;
}

/* Let all directory entries of `old`, one of which `hash` leads to, point at its successors. */
static void replace(struct ebs_index *index, struct ebs_segment *old, uint64_t hash,
                    struct ebs_segment *const to[2])
{
    size_t run = (size_t)1 << (index->depth - old->depth);
    size_t first = (hash >> 1 >> (63 - index->depth)) / run * run;

    for (size_t i = 0; i < run; i++)
        index->dir[first + i] = to[1] && i >= run / 2 ? to[1] : to[0];
    index->line_count += to[0]->n_lines + (to[1] ? to[1]->n_lines : 0);
    index->line_count -= old->n_lines;
    index->n_segments += to[1] != NULL;
    segment_destroy(old);
}

/* Give the segment that `hash` leads to more lines, or split it. */
static int grow(struct ebs_index *index, const struct ebs_slab *slab, uint64_t hash)
{
    struct ebs_segment *old = index->dir[hash >> 1 >> (63 - index->depth)];
    struct rebuild rebuild = {.depth = old->depth};
    bool split = lines_for(old->count) > SEGMENT_LINES && old->depth < DEPTH_MAX;

    if (split && old->depth == index->depth) {
        int err = double_dir(index);

        if (err)
            return err;
    }
    if (split)
        each_entry(index, slab, old, count_entry, &rebuild);
    else
        rebuild.count[0] = old->count;
    rebuild.to[0] = segment_create(lines_for(rebuild.count[0]), old->depth + split);
    if (split)
        rebuild.to[1] = segment_create(lines_for(rebuild.count[1]), old->depth + split);
    if (!rebuild.to[0] || (split && !rebuild.to[1])) {
        segment_destroy(rebuild.to[0]);
        segment_destroy(rebuild.to[1]);
        return no_memory(index);
    }
    each_entry(index, slab, old, move_entry, &rebuild);
    replace(index, old, hash, rebuild.to);
    return 0;
}

int ebs_index_insert(struct ebs_index *index, const struct ebs_slab *slab, uint64_t hash,
                     uint32_t row)
{
    if (is_full(ebs_index_segment(index, hash))) {
        int err = grow(index, slab, hash);

        if (err)
            return err;
    }
    place(index->dir[hash >> 1 >> (63 - index->depth)], hash, row);
    return 0;
}

/* Line and slot of an id; false when absent. */
static bool locate(const struct ebs_segment *segment, const struct ebs_slab *slab, uint64_t hash,
                   uint64_t id, uint32_t *line_at, unsigned *slot)
{
    uint32_t at = ebs_index_home(segment, hash);
    uint8_t tag = ebs_index_tag(hash);

    for (uint32_t tried = 0; tried < segment->n_lines; tried++) {
        const struct ebs_line *line = &segment->line[at];

        for (unsigned match = ebs_line_match(line, tag); match; match &= match - 1) {
            *slot = (unsigned)__builtin_ctz(match);
            *line_at = at;
            if (ebs_row_id(ebs_slab_at(slab, line->row[*slot])) == id)
                return true;
        }
        if (line->passed == 0)
            return false;
        at = at + 1 < segment->n_lines ? at + 1 : 0;
    }
    return false;
}

uint32_t ebs_index_find(const struct ebs_index *index, const struct ebs_slab *slab, uint64_t hash,
                        uint64_t id)
{
    const struct ebs_segment *segment = ebs_index_segment(index, hash);
    uint32_t at;
    unsigned slot;

    return locate(segment, slab, hash, id, &at, &slot) ? segment->line[at].row[slot] : EBS_ROW_NONE;
}

uint32_t ebs_index_remove(struct ebs_index *index, const struct ebs_slab *slab, uint64_t hash,
                          uint64_t id)
{
    struct ebs_segment *segment = index->dir[hash >> 1 >> (63 - index->depth)];
    uint32_t at, row;
    unsigned slot;

    if (!locate(segment, slab, hash, id, &at, &slot))
        return EBS_ROW_NONE;
    for (uint32_t past = ebs_index_home(segment, hash); past != at;) {
        segment->line[past].passed--;
        past = past + 1 < segment->n_lines ? past + 1 : 0;
    }
    row = segment->line[at].row[slot];
    segment->line[at].tag[slot] = 0;
    segment->count--;
    return row;
}

size_t ebs_index_bytes(const struct ebs_index *index)
{
    return index->line_count * sizeof(struct ebs_line) +
           index->n_segments * sizeof(struct ebs_segment) +
           ((size_t)1 << index->depth) * sizeof(struct ebs_segment *);
}
