/* tests/bench/embedding_server/ids.c -- see the header. Zipf ranks are drawn by rejection-inversion (Hoermann
 * and Derflinger, "Rejection-inversion to generate variates from monotone discrete distributions", 1996), which is exact. */
#include "tests/bench/embedding_server/ids.h"
#include "runtime/base/hash.h"
#include "runtime/base/rand.h"

#include <math.h>

#define EXPONENT 1.05

/* Integral of x^-EXPONENT, and its inverse. */
static double integral(double x)
{
    return (pow(x, 1 - EXPONENT) - 1) / (1 - EXPONENT);
}

static double inverse(double h)
{
    return pow(1 + h * (1 - EXPONENT), 1 / (1 - EXPONENT));
}

static uint64_t gcd(uint64_t a, uint64_t b)
{
    while (b) {
        uint64_t rest = a % b;

        a = b;
        b = rest;
    }
    return a;
}

void ids_init(struct ids *ids, int kind, uint64_t rows, uint64_t seed)
{
    *ids = (struct ids){.kind = kind, .rows = rows, .key = rt_draw_key(seed, "bench", "ids")};
    ids->scatter = (uint64_t)((double)rows * 0.6180339887) | 1;
    while (gcd(ids->scatter, rows) != 1)
        ids->scatter += 2;
    ids->h_first = integral(1.5) - 1;
    ids->h_last = integral((double)rows + 0.5);
    ids->s = 2 - inverse(integral(2.5) - pow(2, -EXPONENT));
}

/* 1..rows */
static uint64_t zipf_rank(struct ids *ids)
{
    for (;;) {
        double u = rt_unit_f64(rt_draw(ids->key, ids->counter++));
        double h = ids->h_last + u * (ids->h_first - ids->h_last), x = inverse(h);
        double rank = floor(x + 0.5);

        if (rank < 1)
            rank = 1;
        if (rank > (double)ids->rows)
            rank = (double)ids->rows;
        if (rank - x <= ids->s || h >= integral(rank + 0.5) - pow(rank, -EXPONENT))
            return (uint64_t)rank;
    }
}

void ids_positions(struct ids *ids, uint64_t *position, size_t n)
{
    for (size_t i = 0; i < n; i++)
        position[i] = ids->kind == IDS_UNIFORM
                          ? rt_below(rt_draw(ids->key, ids->counter++), ids->rows)
                          : zipf_rank(ids) * ids->scatter % ids->rows;
}

uint64_t ids_of(uint64_t position)
{
    return rt_hash_id(position + 1);
}

void ids_from_positions(uint64_t *position, size_t n)
{
    for (size_t i = 0; i < n; i++)
        position[i] = ids_of(position[i]);
}

const char *ids_kind_name(int kind)
{
    return kind == IDS_UNIFORM ? "uniform" : "zipf";
}
