/* data_compose/frequency.c -- exact counts of ids in bounded memory.
 *
 *   column -> SEGMENTS tables by the high bits of the mixed id -> slots {id u64, count u32}
 *
 * DESIGN: exact, because a sketch's errors would make the same id rare on one day and frequent on the next, and
 * a job's result must be a function of its files. Segments grow one at a time, so no slice is long and
 * the peak is the tables plus one segment. A count stops at min_frequency: nothing more is asked of it.
 * Sealing keeps the frequent ids alone, in tables without counts; looking one up costs one cache miss.
 *
 * Every replica counts all training files by itself: handing the sets over would need messages of gigabytes,
 * and a pass that only hashes is faster than most networks. Over the bound the job stops and names the key: the
 * user knows whether memory or a column's min_frequency is to be given up. */
#include "data_compose/frequency.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/hash.h"
#include "runtime/base/mem.h"
#include "runtime/job/job.h"

#include <inttypes.h>
#include <string.h>

#define SEGMENT_BITS 8
#define SEGMENTS     (1u << SEGMENT_BITS)
#define SLOTS_MIN    16u
#define SEAL_IDS     (1u << 18) /* slots looked at in one slice, about */

/* While counting a slot is free when its count is 0; sealed, when its id is 0 (which `zero` stands for). */
struct segment {
    uint64_t *id;
    uint32_t *count; /* NULL once sealed */
    size_t slots;    /* power of two; 0: nothing yet */
    size_t used;
    bool zero; /* sealed: id 0 is frequent */
};

struct counted {
    uint32_t min;
    struct segment *segment; /* [SEGMENTS]; NULL: the column has no minimum */
};

struct dc_frequency {
    const struct rt_job *job;
    struct counted *column; /* [n_columns] */
    uint64_t bytes;         /* of all slots */
    uint64_t distinct, kept;
    uint64_t rare;
    uint32_t sealed; /* segments, over all columns */
};

static bool wants(const struct rt_column_conf *c)
{
    return c->kind == RT_COLUMN_FEATURE && c->min_frequency > 1;
}

bool dc_frequency_wanted(const struct rt_job *job)
{
    for (uint32_t i = 0; i < job->data.n_columns; i++)
        if (wants(&job->data.column[i]))
            return true;
    return false;
}

struct dc_frequency *dc_frequency_create(const struct rt_job *job)
{
    struct dc_frequency *f = rt_xcalloc(1, sizeof(*f));

    f->job = job;
    f->rare = rt_hash_bytes(DC_RARE_TEXT, sizeof(DC_RARE_TEXT) - 1);
    f->column = rt_xcalloc(job->data.n_columns + 1, sizeof(*f->column));
    for (uint32_t i = 0; i < job->data.n_columns; i++) {
        if (!wants(&job->data.column[i]))
            continue;
        f->column[i].min = job->data.column[i].min_frequency;
        f->column[i].segment = rt_xcalloc(SEGMENTS, sizeof(struct segment));
    }
    return f;
}

static void release(struct segment *s)
{
    rt_free(s->id);
    rt_free(s->count);
}

void dc_frequency_destroy(struct dc_frequency *frequency)
{
    if (!frequency)
        return;
    for (uint32_t i = 0; i < frequency->job->data.n_columns; i++) {
        struct segment *segment = frequency->column[i].segment;

        for (uint32_t k = 0; segment && k < SEGMENTS; k++)
            release(&segment[k]);
        rt_free(segment);
    }
    rt_free(frequency->column);
    rt_free(frequency);
}

void dc_frequency_totals(const struct dc_frequency *frequency, uint64_t *distinct, uint64_t *kept)
{
    *distinct = frequency->distinct;
    *kept = frequency->kept;
}

/* ---- counting ---- */

/* Integer ids are dense numbers: mix them before bits are taken. */
static uint64_t mix(uint64_t id)
{
    return rt_hash_id(id);
}

static size_t find(const struct segment *s, uint64_t id, uint64_t hash)
{
    size_t at = hash & (s->slots - 1);

    while (s->count[at] && s->id[at] != id)
        at = (at + 1) & (s->slots - 1);
    return at;
}

static int over_memory(const struct dc_frequency *f, uint32_t column)
{
    return RT_FAIL(RT_EUSAGE,
                   "min_frequency: %" PRIu64 " distinct ids counted so far do not fit into "
                   "data.frequency_memory %" PRIu64
                   " (at column %s); raise it, or count fewer columns",
                   f->distinct, f->job->data.frequency_memory, f->job->data.column[column].name);
}

static int grow(struct dc_frequency *f, uint32_t column, struct segment *s)
{
    struct segment grown = {.slots = s->slots ? s->slots * 2 : SLOTS_MIN, .used = s->used};
    size_t slot_bytes = sizeof(*s->id) + sizeof(*s->count);

    if (f->bytes + (grown.slots - s->slots) * slot_bytes > f->job->data.frequency_memory)
        return over_memory(f, column);
    grown.id = rt_try_malloc(grown.slots * sizeof(*grown.id));
    grown.count = rt_try_calloc(grown.slots, sizeof(*grown.count));
    if (!grown.id || !grown.count) {
        release(&grown);
        return RT_FAIL(RT_ENOMEM, "min_frequency: no memory for %zu ids", grown.slots);
    }
    for (size_t i = 0; i < s->slots; i++) {
        if (!s->count[i])
            continue;
        size_t at = find(&grown, s->id[i], mix(s->id[i]));
        grown.id[at] = s->id[i];
        grown.count[at] = s->count[i];
    }
    f->bytes += (grown.slots - s->slots) * slot_bytes;
    release(s);
    *s = grown;
    return 0;
}

int dc_frequency_add(struct dc_frequency *frequency, uint32_t column, const uint64_t *id,
                     uint32_t n)
{
    const struct counted *c = &frequency->column[column];

    for (uint32_t i = 0; i < n; i++) {
        uint64_t hash = mix(id[i]);
        struct segment *s = &c->segment[hash >> (64 - SEGMENT_BITS)];

        if (s->used * 4 >= s->slots * 3) {
            int err = grow(frequency, column, s);
            if (err)
                return err;
        }
        size_t at = find(s, id[i], hash);
        if (!s->count[at]) {
            s->id[at] = id[i];
            s->used++;
            frequency->distinct++;
        }
        s->count[at] += s->count[at] < c->min;
    }
    return 0;
}

/* ---- sealed ---- */

static void keep(struct segment *s, uint64_t id)
{
    size_t at = mix(id) & (s->slots - 1);

    s->used++;
    if (id == 0) {
        s->zero = true;
        return;
    }
    while (s->id[at])
        at = (at + 1) & (s->slots - 1);
    s->id[at] = id;
}

static int seal_segment(struct dc_frequency *f, const struct counted *c, struct segment *s)
{
    struct segment sealed = {.slots = SLOTS_MIN};
    size_t n = 0;

    for (size_t i = 0; i < s->slots; i++)
        n += s->count[i] >= c->min;
    while (n * 4 >= sealed.slots * 3)
        sealed.slots *= 2;
    sealed.id = rt_try_calloc(sealed.slots, sizeof(*sealed.id));
    if (!sealed.id)
        return RT_FAIL(RT_ENOMEM, "min_frequency: no memory for %zu frequent ids", n);
    for (size_t i = 0; i < s->slots; i++)
        if (s->count[i] >= c->min)
            keep(&sealed, s->id[i]);
    release(s);
    *s = sealed;
    f->kept += n;
    return 0;
}

int dc_frequency_seal(struct dc_frequency *frequency)
{
    struct dc_frequency *f = frequency;
    uint64_t total = (uint64_t)f->job->data.n_columns * SEGMENTS;
    size_t seen = 0;

    for (; f->sealed < total && seen < SEAL_IDS; f->sealed++) {
        const struct counted *c = &f->column[f->sealed / SEGMENTS];

        if (!c->segment)
            continue;
        struct segment *s = &c->segment[f->sealed % SEGMENTS];
        seen += s->slots + SLOTS_MIN;
        int err = seal_segment(f, c, s);
        if (err)
            return err;
    }
    return f->sealed < total;
}

static bool is_frequent(const struct counted *c, uint64_t id)
{
    uint64_t hash = mix(id);
    const struct segment *s = &c->segment[hash >> (64 - SEGMENT_BITS)];
    size_t at = hash & (s->slots - 1);

    if (id == 0)
        return s->zero;
    while (s->id[at] && s->id[at] != id)
        at = (at + 1) & (s->slots - 1);
    return s->id[at] == id;
}

void dc_frequency_map(const struct dc_frequency *frequency, uint32_t column, uint64_t *id,
                      uint32_t n)
{
    const struct counted *c = &frequency->column[column];

    for (uint32_t i = 0; i < n; i++)
        if (!is_frequent(c, id[i]))
            id[i] = frequency->rare;
}
