/* embedding_server/admit.c -- counting the occurrences of ids that have no row.
 *
 *   line, 64 bytes: | print[21], 16 bits each | count[21], 8 bits each | unused |     entries in use in front
 *
 * An entry that is counted moves to the front, a new one goes there, and what falls out behind is forgotten.
 *
 * DESIGN: ids without a row are mostly seen once, and there are many more of them than of any other kind. A
 * count-min sketch within one line (4 of 64 counters, conservative update) was considered: at 4 bytes per id
 * 17 % of ids are admitted too early, 0.1 % at 29 bytes, where this one has at most 0.03 % at 6; it needs passes that
 * halve its counters; and it cannot forget one id. That it never counts too little is no gain: halving does that. */
#include "embedding_server/admit.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/hash.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"

#include <emmintrin.h>
#include <string.h>

#define ENTRIES EBS_ADMIT_ENTRIES
#define SHARDS  65536u
#define BITS    64u

struct line {
    uint16_t print[ENTRIES];
    uint8_t count[ENTRIES]; /* 0: not in use, and so are all behind */
    uint8_t unused;
};
_Static_assert(sizeof(struct line) == EBS_ADMIT_LINE, "a line of the sketch is one cache line");

struct ebs_admit {
    uint64_t key;
    double probability; /* where there is no sketch */
    uint8_t count;
    uint64_t n_lines; /* 0: no sketch */
    struct line *line;
    void *memory;             /* where line[] stands in, aligned */
    uint64_t *saved;          /* a bit per line: ahead of the cut, and copied or new since */
    uint64_t cut_at, cut_end; /* lines ahead of the cut; none: 0, 0 */
};

static int check(const struct rt_table_conf *table, uint32_t shards)
{
    const struct rt_admission_conf *conf = &table->admission;

    if (shards < 1 || shards > SHARDS)
        return RT_FAIL(RT_EUSAGE, "table %s: shards: expected 1..%u, got %u", table->name, SHARDS,
                       shards);
    if (conf->kind == RT_ADMIT_PROBABILITY && !(conf->probability >= 0 && conf->probability <= 1))
        return RT_FAIL(RT_EUSAGE, "table %s: admission.probability: expected 0..1, got %g",
                       table->name, conf->probability);
    if (conf->kind == RT_ADMIT_COUNT && (conf->count < 1 || conf->count > UINT8_MAX))
        return RT_FAIL(RT_EUSAGE, "table %s: admission.count: expected 1..%u, got %u", table->name,
                       UINT8_MAX, conf->count);
    if (conf->kind > RT_ADMIT_PROBABILITY)
        return RT_FAIL(RT_EUSAGE, "table %s: unknown admission %u", table->name, conf->kind);
    return 0;
}

/* Words of `saved`. */
static size_t words(uint64_t n_lines)
{
    return (n_lines + BITS - 1) / BITS;
}

/* Zeroed memory that is not touched before it is used: what the machine holds follows the ids. */
static int create_sketch(struct ebs_admit *admit, const struct rt_table_conf *table,
                         uint32_t shards)
{
    uint64_t share = (uint64_t)((unsigned __int128)table->admission.sketch_bytes * shards / SHARDS);
    uintptr_t at;

    admit->n_lines = share / sizeof(struct line);
    if (admit->n_lines == 0)
        admit->n_lines = 1;
    admit->memory = rt_try_calloc(admit->n_lines + 1, sizeof(struct line));
    admit->saved = rt_try_calloc(words(admit->n_lines), sizeof(*admit->saved));
    if (!admit->memory || !admit->saved)
        return RT_FAIL(RT_ENOMEM, "table %s: out of memory for an admission.sketch_bytes of %llu",
                       table->name, (unsigned long long)share);
    at = (uintptr_t)admit->memory + sizeof(struct line) - 1;
    admit->line = (struct line *)(at & ~(uintptr_t)(sizeof(struct line) - 1));
    return 0;
}

int ebs_admit_create(const struct rt_table_conf *table, uint64_t seed, uint32_t shards,
                     struct ebs_admit **out)
{
    struct ebs_admit *admit;
    int err = check(table, shards);

    if (err)
        return err;
    *out = NULL;
    if (table->admission.kind == RT_ADMIT_ALWAYS)
        return 0;
    admit = rt_try_calloc(1, sizeof(*admit));
    if (!admit)
        return RT_FAIL(RT_ENOMEM, "table %s: out of memory", table->name);
    admit->key = rt_draw_key(seed, "admit", table->name);
    admit->probability = table->admission.probability;
    if (table->admission.kind == RT_ADMIT_COUNT) {
        admit->count = (uint8_t)table->admission.count;
        err = create_sketch(admit, table, shards);
    }
    if (err)
        ebs_admit_destroy(admit);
    else
        *out = admit;
    return err;
}

void ebs_admit_destroy(struct ebs_admit *admit)
{
    if (!admit)
        return;
    rt_free(admit->memory);
    rt_free(admit->saved);
    rt_free(admit);
}

size_t ebs_admit_bytes(const struct ebs_admit *admit)
{
    if (!admit)
        return 0;
    if (!admit->memory)
        return sizeof(*admit);
    return sizeof(*admit) + (admit->n_lines + 1) * sizeof(struct line) +
           words(admit->n_lines) * sizeof(*admit->saved);
}

/* ---- the sketch ---- */

static inline struct line *line_of(const struct ebs_admit *admit, uint64_t id, uint16_t *print)
{
    uint64_t hash = rt_hash_id(id ^ admit->key);

    *print = (uint16_t)hash;
    return &admit->line[rt_below(hash, admit->n_lines)]; /* by the upper bits */
}

/* Bit i: entry i has these 16 bits, in use or not. */
static inline unsigned match(const struct line *line, uint16_t print)
{
    const __m128i *at = (const __m128i *)line;
    __m128i want = _mm_set1_epi16((short)print);
    __m128i a = _mm_cmpeq_epi16(_mm_load_si128(at), want);
    __m128i b = _mm_cmpeq_epi16(_mm_load_si128(at + 1), want);
    __m128i c = _mm_cmpeq_epi16(_mm_load_si128(at + 2), want);
    unsigned low = (unsigned)_mm_movemask_epi8(_mm_packs_epi16(a, b));
    unsigned high = (unsigned)_mm_movemask_epi8(_mm_packs_epi16(c, c)) & 0xff;

    return (low | high << 16) & ((1u << ENTRIES) - 1);
}

/* The entry of an id; ENTRIES when there is none. Those in use stand in front, so the first match is the one. */
static inline unsigned find(const struct line *line, uint16_t print)
{
    unsigned found = match(line, print);
    unsigned at = found ? (unsigned)__builtin_ctz(found) : ENTRIES;

    return at < ENTRIES && line->count[at] > 0 ? at : ENTRIES;
}

/* Entry `at` and those before it move back by one, over what stood at `at`; entry 0 is set. */
static inline void put_first(struct line *line, unsigned at, uint16_t print, uint8_t count)
{
    memmove(&line->print[1], &line->print[0], at * sizeof(line->print[0]));
    memmove(&line->count[1], &line->count[0], at);
    line->print[0] = print;
    line->count[0] = count;
}

bool ebs_admit_ask(struct ebs_admit *admit, uint64_t id, uint64_t draw)
{
    uint16_t print;
    struct line *line;
    unsigned at;
    uint8_t count;

    if (!admit)
        return true;
    if (admit->n_lines == 0)
        return rt_unit_f64(rt_draw(rt_draw_fold(admit->key, id), draw)) < admit->probability;
    line = line_of(admit, id, &print);
    at = find(line, print);
    count = at < ENTRIES ? line->count[at] : 0;
    if (count < admit->count)
        count++;
    put_first(line, at < ENTRIES ? at : ENTRIES - 1, print, count);
    return count >= admit->count;
}

void ebs_admit_forget(struct ebs_admit *admit, uint64_t id)
{
    uint16_t print;
    struct line *line;
    unsigned at, behind;

    if (!admit || admit->n_lines == 0)
        return;
    line = line_of(admit, id, &print);
    at = find(line, print);
    if (at == ENTRIES)
        return;
    behind = ENTRIES - 1 - at;
    memmove(&line->print[at], &line->print[at + 1], behind * sizeof(line->print[0]));
    memmove(&line->count[at], &line->count[at + 1], behind);
    line->count[ENTRIES - 1] = 0;
}

void ebs_admit_prefetch(const struct ebs_admit *admit, uint64_t id)
{
    uint16_t print;

    if (admit && admit->n_lines > 0)
        __builtin_prefetch(line_of(admit, id, &print), 1);
}

/* ---- to a file and back ---- */

size_t ebs_admit_sketch(const struct ebs_admit *admit, const uint8_t **out)
{
    *out = admit ? (const uint8_t *)admit->line : NULL;
    return admit ? admit->n_lines * sizeof(struct line) : 0;
}

static void merge_line(struct line *line, const struct line *from)
{
    unsigned used = 0;

    while (used < ENTRIES && line->count[used] > 0)
        used++;
    for (unsigned i = 0; i < ENTRIES && from->count[i] > 0; i++) {
        unsigned at = find(line, from->print[i]);

        if (at == ENTRIES && used < ENTRIES) {
            at = used++;
            line->print[at] = from->print[i];
        }
        if (at < ENTRIES && line->count[at] < from->count[i])
            line->count[at] = from->count[i];
    }
}

/* Lines without an entry are not touched: their memory was perhaps never there. */
bool ebs_admit_merge(struct ebs_admit *admit, const uint8_t *sketch, size_t bytes)
{
    struct line from;

    if (bytes != (admit ? admit->n_lines * sizeof(from) : 0))
        return false;
    for (size_t at = 0; at < bytes; at += sizeof(from)) {
        memcpy(&from, sketch + at, sizeof(from));
        if (from.count[0] > 0)
            merge_line(&admit->line[at / sizeof(from)], &from);
    }
    return true;
}

bool ebs_admit_merge_line(struct ebs_admit *admit, uint64_t number, const uint8_t *line)
{
    struct line from;

    if (!admit || number >= admit->n_lines)
        return false;
    memcpy(&from, line, sizeof(from));
    merge_line(&admit->line[number], &from);
    return true;
}

void ebs_admit_clear(struct ebs_admit *admit)
{
    for (uint64_t i = 0; admit && i < admit->n_lines; i++)
        if (admit->line[i].count[0] > 0)
            admit->line[i] = (struct line){0};
}

/* ---- a cut ---- */

void ebs_admit_cut(struct ebs_admit *admit)
{
    if (!admit)
        return;
    rt_assert(admit->cut_end == 0);
    admit->cut_end = admit->n_lines;
}

bool ebs_admit_is_cut(const struct ebs_admit *admit)
{
    return admit && admit->cut_end > 0;
}

uint64_t ebs_admit_cut_pass(struct ebs_admit *admit, uint64_t *first)
{
    uint64_t *saved = &admit->saved[admit->cut_at / BITS], pending = 0;
    uint64_t n = admit->cut_end - admit->cut_at;

    rt_assert(admit->cut_at < admit->cut_end);
    n = n < BITS ? n : BITS;
    *first = admit->cut_at;
    for (uint64_t i = 0; i < n; i++)
        pending |= (uint64_t)(admit->line[*first + i].count[0] > 0) << i;
    pending &= ~*saved;
    *saved = 0;
    admit->cut_at += n;
    if (admit->cut_at == admit->cut_end)
        admit->cut_at = admit->cut_end = 0;
    return pending;
}

void ebs_admit_cut_drop(struct ebs_admit *admit)
{
    if (!ebs_admit_is_cut(admit))
        return;
    memset(admit->saved, 0, words(admit->n_lines) * sizeof(*admit->saved));
    admit->cut_at = admit->cut_end = 0;
}

bool ebs_admit_keep(struct ebs_admit *admit, uint64_t id, uint64_t *number)
{
    uint16_t print;
    const struct line *line = line_of(admit, id, &print);
    uint64_t at = (uint64_t)(line - admit->line), bit = 1ull << (at % BITS);

    if (at < admit->cut_at || at >= admit->cut_end || (admit->saved[at / BITS] & bit))
        return false;
    admit->saved[at / BITS] |= bit;
    *number = at;
    return line->count[0] > 0;
}

const uint8_t *ebs_admit_line(const struct ebs_admit *admit, uint64_t number)
{
    return (const uint8_t *)&admit->line[number];
}
