/* tests/bench/embedding_server/tally.c -- see the header. */
#include "tests/bench/embedding_server/tally.h"

#include <stdlib.h>

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

static uint64_t *word_of(struct tally *tally, uint64_t position, uint64_t *bit)
{
    uint64_t hash = position * 0x9e3779b97f4a7c15u >> 48;

    *bit = 1ull << (hash & 63);
    return &tally->maybe[hash >> 6];
}

void tally_init(struct tally *tally, const uint64_t *position, size_t n)
{
    *tally = (struct tally){0};
    for (size_t i = 0; i < n && i < TALLY_ROWS; i++)
        tally->position[i] = position[i];
    n = n < TALLY_ROWS ? n : TALLY_ROWS;
    qsort(tally->position, n, sizeof(*tally->position), compare);
    for (size_t i = 0; i < n; i++) {
        uint64_t bit, *word = word_of(tally, tally->position[i], &bit);

        if (tally->n == 0 || tally->position[tally->n - 1] != tally->position[i])
            tally->position[tally->n++] = tally->position[i];
        *word |= bit;
    }
}

void tally_add(struct tally *tally, const uint64_t *position, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint64_t bit, *word = word_of(tally, position[i], &bit);
        uint64_t *found;

        if (!(*word & bit))
            continue;
        found = bsearch(&position[i], tally->position, tally->n, sizeof(*position), compare);
        if (found)
            tally->count[found - tally->position]++;
    }
}
