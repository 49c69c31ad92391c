/* embedding_server/init.h -- the value of a row that was never trained.
 *
 * A pure function of (seed, table name, id): the same on any server, at any time, whatever was looked
 * up before. So a missing row need not exist (lookups compute it), a retried lookup is harmless, and
 * placement cannot change results. Element j of a row is made from draw j of the stream (seed, "init",
 * table, id) of runtime/base/rand.h. */
#ifndef EBS_INIT_H
#define EBS_INIT_H

#include <stddef.h>
#include <stdint.h>

enum ebs_init_kind {
    EBS_INIT_UNIFORM,  /* [low, high] */
    EBS_INIT_NORMAL,   /* mean, std; not truncated */
    EBS_INIT_CONSTANT, /* value */
};

struct ebs_init_conf {
    enum ebs_init_kind kind;
    float low, high; /* EBS_INIT_UNIFORM: low <= high */
    float mean, std; /* EBS_INIT_NORMAL: std >= 0 */
    float value;     /* EBS_INIT_CONSTANT */
};

struct ebs_init;
typedef void (*ebs_init_draw_fn)(const struct ebs_init *init, uint64_t id, float *weight,
                                 size_t dim);

/* A configuration bound to a table of a job; a plain value, copy it freely. */
struct ebs_init {
    struct ebs_init_conf conf;
    uint64_t key;
    ebs_init_draw_fn draw; /* one of those below */
};

/* Uniform and normal values, by instruction set; all give the same bits. */
void ebs_init_plain(const struct ebs_init *init, uint64_t id, float *weight, size_t dim);
void ebs_init_avx2(const struct ebs_init *init, uint64_t id, float *weight, size_t dim);
void ebs_init_avx512(const struct ebs_init *init, uint64_t id, float *weight, size_t dim);

/* RT_EUSAGE when a number is not finite or out of order. */
int ebs_init_prepare(struct ebs_init *init, const struct ebs_init_conf *conf, uint64_t seed,
                     const char *table);

/* ebs_init_fill() - write the initial weights of `id`.
 * @weight: [dim] float32, caller's memory.     Touch: any thread. */
void ebs_init_fill(const struct ebs_init *init, uint64_t id, float *weight, size_t dim);

#endif
