/* data_compose/synthetic.h -- a click log with a planted model: rows out of nothing, truth included.
 *
 * Columns: label; x1..x4 (dense; x3 is positive and skewed, meant for log1p); c1..c8 (ids, Zipf, 30 to
 * 20,000 values). Row n of a set is a pure function of (seed, set, n): any row can be made alone, in
 * O(columns). The click probability of a row is known, so the best possible AUC of any model is too.
 * Immutable after create. Touch: any thread. */
#ifndef DC_SYNTHETIC_H
#define DC_SYNTHETIC_H

#include <stdint.h>

#define DC_SYNTHETIC_FEATURES 8
#define DC_SYNTHETIC_DENSE    4
#define DC_SYNTHETIC_ROWS_MAX (1ull << 40)

struct rt_arena;
struct rt_node;
struct rt_strbuf;
struct dc_synthetic;

/* The `synthetic:` section of data.yml. */
struct dc_synthetic_conf {
    uint64_t rows, test_rows, seed;
};

struct dc_synthetic_row {
    uint64_t
        id[DC_SYNTHETIC_FEATURES]; /* id[f] < dc_synthetic_vocabulary(f); small ones are popular */
    float dense[DC_SYNTHETIC_DENSE];
    float label;        /* 0 or 1, drawn with `probability` */
    double probability; /* the truth; no model can know more */
};

enum dc_synthetic_set { DC_SYNTHETIC_TRAIN, DC_SYNTHETIC_TEST };

/* NULL node: the defaults. RT_EUSAGE with file and line. */
int dc_synthetic_conf_read(const struct rt_node *node, struct rt_arena *arena,
                           struct dc_synthetic_conf *out);

/* Rows of docs/config.md for the section's keys. */
void dc_synthetic_document(struct rt_strbuf *out);

struct dc_synthetic *dc_synthetic_create(uint64_t seed);
void dc_synthetic_destroy(struct dc_synthetic *synthetic); /* NULL is legal */
void dc_synthetic_row(const struct dc_synthetic *synthetic, enum dc_synthetic_set set, uint64_t n,
                      struct dc_synthetic_row *out);
uint32_t dc_synthetic_vocabulary(uint32_t feature);

/* AUC of the true probabilities, row by row: ties inside 1/2^16 of probability count half, which
 * is off by less than 1e-5. About 1 MiB. */
struct dc_auc;
struct dc_auc *dc_auc_create(void);
void dc_auc_destroy(struct dc_auc *auc); /* NULL is legal */
void dc_auc_add(struct dc_auc *auc, double probability, float label);
double dc_auc_value(const struct dc_auc *auc); /* 0.5 while one of the classes is missing */

#endif
