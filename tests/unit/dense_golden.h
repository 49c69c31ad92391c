/* tests/unit/dense_golden.h -- tests/golden/dense_model.txt (what PyTorch computes) and its kin in memory, and the
 * two shipped models described in C. */
#ifndef DENSE_GOLDEN_H
#define DENSE_GOLDEN_H

#include <stddef.h>
#include <stdint.h>

#define GOLDEN_ARRAYS_MAX 900
#define GOLDEN_CASES_MAX  80

struct golden {
    struct golden_array {
        char owner[32], name[48]; /* case, array */
        float *value;
        size_t n;
    } array[GOLDEN_ARRAYS_MAX];
    size_t n;
    struct golden_case {
        char name[32], spec[400]; /* spec: "" where the case has none */
    } one[GOLDEN_CASES_MAX];
    size_t n_cases;
};

void golden_load(struct golden *golden); /* fails the test when the file is not there */
void golden_load_from(struct golden *golden, const char *path); /* another file of that format */
void golden_release(struct golden *golden);
/* NULL when the case has no such array; "%u" style names: golden_get(g, "dlrm", "feature.%u", 2). */
const struct golden_array *golden_get(const struct golden *golden, const char *owner,
                                      const char *name, ...) __attribute__((format(printf, 3, 4)));

/* |got - want| <= tolerance * max(1, |want|) for all n, or the test fails naming the place. */
void assert_close(const char *what, const float *got, const float *want, size_t n,
                  double tolerance);

struct tr_spec;
struct tr_spec *spec_dlrm(uint32_t hidden, uint32_t dim, uint32_t top0, uint32_t top1);
struct tr_spec *spec_mlp(uint32_t top0, uint32_t top1);

#endif
