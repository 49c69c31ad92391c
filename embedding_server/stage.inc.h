/* embedding_server/stage.inc.h -- the loops of stage.h in plain C; STAGE_NAME and OUTSIDE_NAME are the functions' names. */

/* At -O2, gcc 12 vectorizes only loops whose length it knows. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O3")
#endif

#include "embedding_server/stage.h"
#include "runtime/job/shard.h"

static inline void hash_all(const struct ebs_index *index, const uint64_t *restrict id, size_t n,
                            uint32_t *restrict home, uint8_t *restrict tag)
{
    for (size_t i = 0; i < n; i++) {
        uint64_t hash = ebs_index_hash(index, id[i]);

        home[i] = ebs_index_home(index, hash);
        tag[i] = ebs_index_tag(hash);
    }
}

static inline uint8_t *ask_row(const struct ebs_finder *finder, uint32_t number)
{
    uint8_t *row;

    if (number == EBS_ROW_NONE)
        return NULL;
    row = finder->rows + (size_t)number * finder->row_bytes;
    ebs_prefetch_row(row, finder->bytes);
    return row;
}

/* The ids that their home line does not tell of (index.h) are looked for at the end, when the line after it has come; for
 * one home line in 64, the last of its unit, the next stands elsewhere and has not. */
void STAGE_NAME(const struct ebs_finder *from, const uint64_t *id, size_t n,
                struct ebs_stretch *out)
{
    const struct ebs_finder finder = *from; /* local: nothing written here can be part of it */
    uint32_t home[EBS_STRETCH], later[EBS_STRETCH], candidate;
    uint8_t tag[EBS_STRETCH];
    size_t n_later = 0;

    out->n = n;
    out->id = id;
    hash_all(&finder.index, id, n, home, tag);
    for (size_t i = 0; i < n; i++)
        __builtin_prefetch(&finder.index.line[home[i]], 0, 2);
    for (size_t i = 0; i < n; i++) {
        if (ebs_index_at_home(&finder.index, home[i], tag[i], &candidate)) {
            out->row[i] = ask_row(&finder, candidate);
        } else {
            __builtin_prefetch(&finder.index.line[home[i] + 1], 0, 2);
            later[n_later++] = (uint32_t)i;
        }
    }
    for (size_t i = 0; i < n_later; i++) {
        uint64_t hash = ebs_index_hash(&finder.index, id[later[i]]);

        out->row[later[i]] = ask_row(&finder, ebs_index_candidate(&finder.index, hash));
    }
}

/* Counted, not stopped at the first: so the compiler may take a register of them at a time. */
size_t OUTSIDE_NAME(const uint64_t *id, size_t n, uint32_t first, uint32_t width)
{
    size_t outside = 0;

    for (size_t i = 0; i < n; i++)
        outside += rt_shard_of(id[i]) - first >= width;
    return outside;
}
