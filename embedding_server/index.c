/* embedding_server/index.c -- groups of lines that grow and shrink one unit at a time.
 *
 * A row stands in its home line or, where that is full, in the next line of its group with a free slot; each
 * line it went past counts it in `passed`. A search stops at the first line with passed == 0, and a removal
 * takes its count back along the way, so there are no tombstones and removals leave no trace.
 *
 * DESIGN: this is linear hashing with partial expansions (Larson 1980): a sweep over all groups takes each
 * from k units to k + 1 (k = 4 .. 6, and then from 7 to two groups of 4), so that the fullest group never has
 * more than 1/4 more per line than the emptiest. Each unit that comes has the ids of its whole group read again,
 * 5.5 rows for each that is made; with groups of 8 to 15 units that was 11, and a new row (dim 16, 4 M rows, a Xeon of
 * 2023 beside others) took 740 ns instead of 510, for lines that are a little more even: 3.2 % of the ids that have
 * a row stand past their home line, now 3.4 %. With 2 and 3 units groups overflow, and the index grows by 15 %. The load
 * is kept at 0.735: a row costs 7.3 bytes here. While the table has fewer than 4 units it is one group of any
 * number of lines, rebuilt as a whole.
 * A directory of segments that grew by a quarter and split (extendible hashing) was used first: two
 * dependent loads more for each id, all segments grew in the same second, and their sizes fit no page. One
 * power-of-two array was measured too: as fast, but with pauses of 380 to 810 ms at 20 M rows and 16 to
 * 20 bytes a row after a doubling. */
#include "embedding_server/index.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"

/* Of a group after a split; before: twice as many, less a unit. Below: one group, rebuilt as a whole. */
#define SMALL_LINES  RT_LINES_SMALL
#define SHIFT_MAX    24u /* bits of the hash that choose the group */
#define REHASH_AHEAD 4u  /* lines whose rows are prefetched during a rebuild */

/* Per mille of the slots: full enough to grow, and at most so full after shrinking, so that rows that come and go
 * in turn move nothing. */
#define LOAD_GROW   RT_LOAD
#define LOAD_SHRINK 690u
/* Where the budget refuses growth. The fullest group has up to 1.25 times as many per line, and varies: at 780 some
 * groups in a thousand would be full late in a sweep, at 750 one in 5,000. */
#define LOAD_MOST 750u

static bool over(uint64_t count, uint64_t n_lines, unsigned load)
{
    return count * 1000 > n_lines * EBS_LINE_SLOTS * load;
}

int ebs_index_init(struct ebs_index *index, uint64_t salt, struct ebs_budget *budget)
{
    int err;

    *index = (struct ebs_index){.salt = salt, .n_lines = 1, .layout[0] = {.n_lines = 1}};
    ebs_region_init(&index->region, budget);
    err = ebs_region_grow(&index->region, sizeof(struct ebs_line));
    index->line = (struct ebs_line *)index->region.at;
    return err;
}

void ebs_index_release(struct ebs_index *index)
{
    ebs_region_release(&index->region);
    index->line = NULL;
}

/* ---- one entry ---- */

/* False: the group has no free slot. */
static bool place(struct ebs_index *index, uint64_t hash, uint32_t row)
{
    struct ebs_group group = ebs_index_group(index, hash);
    uint32_t at = ebs_group_home(group, hash), tried = 0;
    struct ebs_line *line = &index->line[ebs_group_line(group, at)];
    unsigned empty;

    while ((empty = ebs_line_match(line, 0)) == 0) {
        if (++tried == group.layout.n_lines)
            goto full;
        line->passed++;
        at = at + 1 < group.layout.n_lines ? at + 1 : 0;
        line = &index->line[ebs_group_line(group, at)];
    }
    line->tag[__builtin_ctz(empty)] = ebs_index_tag(hash);
    line->row[__builtin_ctz(empty)] = row;
    return true;
full:
    while (--tried > 0) {
        at = at > 0 ? at - 1 : group.layout.n_lines - 1;
        index->line[ebs_group_line(group, at)].passed--;
    }
    return false;
}

/* Line and slot of an entry: of `row`, or (row is EBS_ROW_NONE) of the row with this id. NULL: absent. */
static struct ebs_line *locate(const struct ebs_index *index, const struct ebs_slab *slab,
                               uint64_t hash, uint64_t id, uint32_t row, unsigned *slot)
{
    struct ebs_group group = ebs_index_group(index, hash);
    uint32_t at = ebs_group_home(group, hash);
    uint8_t tag = ebs_index_tag(hash);

    for (uint32_t tried = 0; tried < group.layout.n_lines; tried++) {
        struct ebs_line *line = &index->line[ebs_group_line(group, at)];

        for (unsigned match = ebs_line_match(line, tag); match; match &= match - 1) {
            *slot = (unsigned)__builtin_ctz(match);
            if (row != EBS_ROW_NONE ? line->row[*slot] == row
                                    : ebs_row_id(ebs_slab_at(slab, line->row[*slot])) == id)
                return line;
        }
        if (line->passed == 0)
            return NULL;
        at = at + 1 < group.layout.n_lines ? at + 1 : 0;
    }
    return NULL;
}

uint32_t ebs_index_candidate(const struct ebs_index *index, uint64_t hash)
{
    struct ebs_group group = ebs_index_group(index, hash);
    uint32_t at = ebs_group_home(group, hash), row;

    for (uint32_t tried = 0; tried < group.layout.n_lines; tried++) {
        if (ebs_index_at_home(index, ebs_group_line(group, at), ebs_index_tag(hash), &row))
            return row;
        at = at + 1 < group.layout.n_lines ? at + 1 : 0;
    }
    return EBS_ROW_NONE;
}

/* ---- growing and shrinking ---- */

/* Put `entry`, n_lines lines taken out of the index, in again. False: they do not fit. The ids are in the rows, all
 * over memory: prefetched some lines ahead. */
static bool put_in(struct ebs_index *index, const struct ebs_slab *slab,
                   const struct ebs_line *entry, uint32_t n_lines)
{
    for (uint32_t at = 0; at < n_lines + REHASH_AHEAD; at++) {
        if (at < n_lines)
            for (unsigned i = 0; i < EBS_LINE_SLOTS; i++)
                if (entry[at].tag[i])
                    __builtin_prefetch(ebs_slab_at(slab, entry[at].row[i]));
        if (at >= REHASH_AHEAD) {
            const struct ebs_line *line = &entry[at - REHASH_AHEAD];

            for (unsigned i = 0; i < EBS_LINE_SLOTS; i++) {
                const uint8_t *row = ebs_slab_at(slab, line->row[i]);

                if (line->tag[i] &&
                    !place(index, ebs_index_hash(index, ebs_row_id(row)), line->row[i]))
                    return false;
            }
        }
    }
    return true;
}

/* Line `at` of what a step rebuilds, which are all units of one group of `now`. */
static struct ebs_line *line_of(struct ebs_index *index, struct ebs_group group, uint32_t at)
{
    return &index->line[ebs_group_line(group, at)];
}

/* What a step changes. */
struct step {
    struct ebs_layout now, next;
    uint32_t done, n_lines;
};

static struct step step_now(const struct ebs_index *index)
{
    return (struct step){index->layout[0], index->layout[1], index->done, index->n_lines};
}

static void set_step(struct ebs_index *index, struct step to)
{
    index->layout[0] = to.now;
    index->layout[1] = to.next;
    index->done = to.done;
    index->n_lines = to.n_lines;
}

/* Go from one step to the next or the one before; `group` says which lines that concerns, the new unit
 * included, which is all empty when growing. RT_ENOMEM, RT_ELIMIT; then nothing has changed. */
static int rebuild(struct ebs_index *index, const struct ebs_slab *slab, struct ebs_group group,
                   struct step to)
{
    struct step from = step_now(index);
    uint32_t n_lines = group.layout.n_lines;
    struct ebs_line *entry = rt_try_malloc(n_lines * sizeof(*entry));
    bool fits;

    if (!entry)
        return RT_FAIL(RT_ENOMEM, "index: out of memory, holding %u lines", index->n_lines);
    for (uint32_t at = 0; at < n_lines; at++) {
        struct ebs_line *line = line_of(index, group, at);

        entry[at] = *line;
        *line = (struct ebs_line){0};
    }
    set_step(index, to);
    fits = put_in(index, slab, entry, n_lines);
    if (!fits) {
        set_step(index, from);
        for (uint32_t at = 0; at < n_lines; at++)
            *line_of(index, group, at) = entry[at];
    }
    rt_free(entry);
    return fits ? 0 : RT_FAIL(RT_ELIMIT, "index: a group of %u lines is full", n_lines);
}

/* The layout that comes after one. */
static struct ebs_layout layout_after(struct ebs_layout now)
{
    if (now.n_lines + EBS_UNIT_LINES < 2 * SMALL_LINES)
        return (struct ebs_layout){now.shift, now.n_lines + EBS_UNIT_LINES};
    return (struct ebs_layout){now.shift + 1, SMALL_LINES};
}

static struct ebs_layout layout_before(struct ebs_layout now)
{
    if (now.n_lines > SMALL_LINES)
        return (struct ebs_layout){now.shift, now.n_lines - EBS_UNIT_LINES};
    return (struct ebs_layout){now.shift - 1, 2 * SMALL_LINES - EBS_UNIT_LINES};
}

/* While there is one group of fewer than SMALL_LINES lines. */
static int resize_small(struct ebs_index *index, const struct ebs_slab *slab, uint32_t n_lines)
{
    struct step to = {.now = {.n_lines = n_lines}, .n_lines = n_lines};
    uint32_t most = n_lines > index->n_lines ? n_lines : index->n_lines;

    if (n_lines == SMALL_LINES)
        to.next = layout_after(to.now);
    return rebuild(index, slab, (struct ebs_group){.layout = {.n_lines = most}}, to);
}

/* By the next unit, or while there is one group of fewer than SMALL_LINES lines by some lines. */
static struct step step_after(struct step at)
{
    struct step to = at;

    to.n_lines = rt_index_more(at.n_lines);
    if (at.n_lines < SMALL_LINES) {
        to.now.n_lines = to.n_lines;
        if (to.n_lines == SMALL_LINES)
            to.next = layout_after(to.now);
        return to;
    }
    to.done++;
    if (to.done == 1u << to.now.shift) {
        to.now = to.next;
        to.next = layout_after(to.now);
        to.done = 0;
    }
    return to;
}

void ebs_index_reserve(struct ebs_index *index, uint64_t rows)
{
    struct step to = step_now(index);

    if (index->count > 0)
        return;
    while (over(rows, to.n_lines, LOAD_GROW) && to.now.shift < SHIFT_MAX)
        to = step_after(to);
    if (ebs_region_grow(&index->region, to.n_lines * sizeof(struct ebs_line)) != 0)
        return;
    index->line = (struct ebs_line *)index->region.at;
    set_step(index, to);
}

static int grow(struct ebs_index *index, const struct ebs_slab *slab)
{
    struct step to = step_after(step_now(index));
    bool small = index->n_lines < SMALL_LINES;
    struct ebs_group group;
    int err;

    if (index->layout[0].shift == SHIFT_MAX)
        return RT_FAIL(RT_ELIMIT, "index: limit reached at %u lines", index->n_lines);
    err = ebs_region_grow(&index->region, to.n_lines * sizeof(struct ebs_line));
    if (err)
        return err;
    index->line = (struct ebs_line *)index->region.at;
    if (small)
        return resize_small(index, slab, to.n_lines);
    group.first = index->done * EBS_UNIT_LINES;
    group.layout =
        (struct ebs_layout){index->layout[0].shift, index->layout[0].n_lines + EBS_UNIT_LINES};
    return rebuild(index, slab, group, to);
}

/* Take the last unit away, if what is left then is not too full. */
static void shrink(struct ebs_index *index, const struct ebs_slab *slab)
{
    struct step to = step_now(index);
    struct ebs_group group;
    int err;

    to.n_lines -= EBS_UNIT_LINES;
    if (index->n_lines <= SMALL_LINES)
        to.n_lines = index->n_lines - index->n_lines / 8 - 1;
    if (to.n_lines == 0 || over(index->count, to.n_lines, LOAD_SHRINK))
        return;
    if (index->n_lines <= SMALL_LINES) {
        err = resize_small(index, slab, to.n_lines);
    } else {
        if (to.done == 0) {
            to.next = to.now;
            to.now = layout_before(to.now);
            to.done = 1u << to.now.shift;
        }
        to.done--;
        group.first = to.done * EBS_UNIT_LINES;
        group.layout = (struct ebs_layout){to.now.shift, to.now.n_lines + EBS_UNIT_LINES};
        err = rebuild(index, slab, group, to);
    }
    /* No memory for it, or a group too full: then not now. */
    if (!err)
        ebs_region_shrink(&index->region, index->n_lines * sizeof(struct ebs_line));
}

/* ---- what others call ---- */

int ebs_index_insert(struct ebs_index *index, const struct ebs_slab *slab, uint64_t hash,
                     uint32_t row)
{
    for (;;) {
        int err;

        if (!over(index->count + 1, index->n_lines, LOAD_GROW) && place(index, hash, row))
            break;
        err = grow(index, slab);
        /* Over the budget rows are replaced one by one, for which there must be room. */
        if (err == RT_EFULL && !over(index->count + 1, index->n_lines, LOAD_MOST) &&
            place(index, hash, row))
            break;
        if (err)
            return err;
        /* A group can be full in an index that is nearly empty only if someone knew the salt. */
        if (!over(index->count + 1, index->n_lines, LOAD_GROW / 8) && index->n_lines > SMALL_LINES)
            return RT_FAIL(RT_ELIMIT, "index: too many ids with the same hash bits");
    }
    index->count++;
    return 0;
}

bool ebs_index_claim(struct ebs_index *index, const struct ebs_slab *slab, uint32_t home,
                     uint8_t tag, uint64_t id, uint32_t row, uint32_t *found)
{
    struct ebs_line *line = &index->line[home];
    unsigned empty, slot;

    for (unsigned match = ebs_line_match(line, tag); match; match &= match - 1) {
        *found = line->row[__builtin_ctz(match)];
        if (ebs_row_id(ebs_slab_at(slab, *found)) == id)
            return true;
    }
    empty = ebs_line_match(line, 0);
    if (line->passed > 0 || empty == 0 || over(index->count + 1, index->n_lines, LOAD_GROW))
        return false;
    slot = (unsigned)__builtin_ctz(empty);
    line->tag[slot] = tag;
    line->row[slot] = row;
    index->count++;
    *found = EBS_ROW_NONE;
    return true;
}

uint32_t ebs_index_find(const struct ebs_index *index, const struct ebs_slab *slab, uint64_t hash,
                        uint64_t id)
{
    unsigned slot;
    const struct ebs_line *line = locate(index, slab, hash, id, EBS_ROW_NONE, &slot);

    return line ? line->row[slot] : EBS_ROW_NONE;
}

uint32_t ebs_index_remove(struct ebs_index *index, const struct ebs_slab *slab, uint64_t hash,
                          uint64_t id)
{
    struct ebs_group group = ebs_index_group(index, hash);
    uint32_t at = ebs_group_home(group, hash);
    unsigned slot;
    struct ebs_line *line = locate(index, slab, hash, id, EBS_ROW_NONE, &slot), *past;
    uint32_t row;

    if (!line)
        return EBS_ROW_NONE;
    while ((past = line_of(index, group, at)) != line) {
        past->passed--;
        at = at + 1 < group.layout.n_lines ? at + 1 : 0;
    }
    row = line->row[slot];
    line->tag[slot] = 0;
    index->count--;
    shrink(index, slab);
    return row;
}

void ebs_index_move(struct ebs_index *index, uint64_t hash, uint32_t from, uint32_t to)
{
    unsigned slot;
    struct ebs_line *line = locate(index, NULL, hash, 0, from, &slot);

    rt_assert(line);
    line->row[slot] = to;
}

size_t ebs_index_bytes(const struct ebs_index *index)
{
    return index->n_lines * sizeof(struct ebs_line);
}

size_t ebs_index_resident(const struct ebs_index *index)
{
    return index->region.size;
}
