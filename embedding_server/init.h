/* embedding_server/init.h -- the value of a row that was never trained.
 *
 * A pure function of (seed, table name, id): the same on any server, at any time, whatever was looked
 * up before. So a missing row need not exist (lookups compute it), a retried lookup is harmless, and
 * placement cannot change results. Element j of a row is made from draw j of the stream (seed, "init",
 * table, id) of runtime/base/rand.h:
 *
 *   uniform            low + (high - low) u, u in [0, 1) with 24 bits
 *   xavier_uniform     uniform of +- gain sqrt(6 / (dim + rows)): the table as a matrix of rows x dim (Glorot and
 *                      Bengio 2010, eq. 16)
 *   normal             mean + std z, z by Box-Muller
 *   truncated_normal   mean + std z, z of the standard normal distribution given |z| <= 2, by its inverse; its
 *                      standard deviation is 0.8796 std
 *   constant           value */
#ifndef EBS_INIT_H
#define EBS_INIT_H

#include "runtime/job/job.h"

#include <stddef.h>
#include <stdint.h>

struct ebs_init;
typedef void (*ebs_init_draw_fn)(const struct ebs_init *init, uint64_t id, float *weight,
                                 size_t dim);

/* A configuration bound to a table of a job; a plain value, copy it freely. */
struct ebs_init {
    uint32_t kind; /* enum rt_init_kind */
    float offset, scale;
    uint64_t key;
    ebs_init_draw_fn draw; /* one of those below */
};

/* What is drawn, by instruction set; all give the same bits. Not for constants. */
void ebs_init_plain(const struct ebs_init *init, uint64_t id, float *weight, size_t dim);
void ebs_init_avx2(const struct ebs_init *init, uint64_t id, float *weight, size_t dim);
void ebs_init_avx512(const struct ebs_init *init, uint64_t id, float *weight, size_t dim);

/* RT_EUSAGE names the table, when a number is not finite as a float32 or out of order. */
int ebs_init_prepare(struct ebs_init *init, const struct rt_table_conf *table, uint64_t seed);

/* ebs_init_fill() - write the initial weights of `id`.
 * @weight: [dim] float32, caller's memory.     Touch: any thread. */
void ebs_init_fill(const struct ebs_init *init, uint64_t id, float *weight, size_t dim);

#endif
