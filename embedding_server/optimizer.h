/* embedding_server/optimizer.h -- sparse optimizers: one row, in place, float32.
 *
 * Let g be the row's gradient plus weight_decay * w, lr the learning rate told with the update, and
 * t >= 1 the group's step told with it. Every operation is rounded to float32 in the order written.
 *
 *   SGD             w -= lr * g                                  torch.optim.SGD without momentum
 *   Adagrad         s += g * g                                   torch.optim.Adagrad, lr_decay 0
 *                   w -= lr * g / (sqrt(s) + eps)                state s[dim], starts at initial_accumulator
 *   row-wise        s += mean(g * g) over the row                FBGEMM EXACT_ROWWISE_ADAGRAD (weight decay
 *   Adagrad         w -= lr / (sqrt(s) + eps) * g                mode L2); state s[1]
 *   lazy Adam       m += (1 - beta1) * (g - m)                   torch.optim.SparseAdam: only rows that have
 *                   v += (1 - beta2) * (g * g - v)               a gradient move, and t is the job's, not the
 *                   w -= lr * sqrt(1 - beta2^t) / (1 - beta1^t)  row's; state m[dim] then v[dim], from 0
 *                        * m / (sqrt(v) + eps)
 *
 * The loops are compiled once per instruction set and give equal bits on all of them: elements are
 * independent, nothing is contracted to fused multiply-adds, and the row-wise mean adds its squares in
 * one fixed order (16 interleaved partial sums). */
#ifndef EBS_OPTIMIZER_H
#define EBS_OPTIMIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/job/job.h"

/* A larger gradient is treated as infinity and NaN are: the row is skipped, counted. */
#define EBS_GRADIENT_MAX RT_GRADIENT_MAX

enum ebs_optimizer_kind {
    EBS_OPTIMIZER_SGD,
    EBS_OPTIMIZER_ADAGRAD,
    EBS_OPTIMIZER_ROWWISE_ADAGRAD,
    EBS_OPTIMIZER_ADAM,
};
#define EBS_OPTIMIZER_KINDS 4

struct ebs_optimizer_conf {
    enum ebs_optimizer_kind kind;
    float weight_decay;        /* all kinds; >= 0 */
    float eps;                 /* all but SGD; > 0 where initial_accumulator is 0 */
    float initial_accumulator; /* Adagrad, row-wise Adagrad; >= 0 */
    float beta1, beta2;        /* Adam; in [0, 1) */
};

/* The numbers of one update, the same for all its rows; made by ebs_optimizer_step(). */
struct ebs_step {
    float lr, weight_decay, eps;
    float rate1, rate2; /* Adam: 1 - beta */
    float adam_lr;      /* Adam: lr with both bias corrections */
};

/* The loops of one instruction set. row[kind]: w[dim] and state are changed from g[dim]. rows[kind]: the same
 * for many rows, each with its state behind its weights: row i from g[i][dim]; w[i] NULL: left out. */
typedef void (*ebs_optimizer_row_fn)(const struct ebs_step *step, float *w, float *state,
                                     const float *g, size_t dim);
typedef void (*ebs_optimizer_rows_fn)(const struct ebs_step *step, float *const *w, const float *g,
                                      size_t n, size_t dim);
struct ebs_optimizer_loops {
    ebs_optimizer_row_fn row[EBS_OPTIMIZER_KINDS];
    ebs_optimizer_rows_fn rows[EBS_OPTIMIZER_KINDS];
    bool (*usable)(const float *g, size_t dim); /* all finite and within EBS_GRADIENT_MAX */
};
extern const struct ebs_optimizer_loops ebs_optimizer_plain;
extern const struct ebs_optimizer_loops ebs_optimizer_avx2;
extern const struct ebs_optimizer_loops ebs_optimizer_avx512;

/* The loops that fit rt_cpu_isa(). */
const struct ebs_optimizer_loops *ebs_optimizer_select(void);

/* RT_EUSAGE with the table's name and the number that is wrong. */
int ebs_optimizer_check(const struct ebs_optimizer_conf *conf, const char *table);

/* Floats of state behind the weights of a row. */
size_t ebs_optimizer_state_count(const struct ebs_optimizer_conf *conf, size_t dim);

/* Write the state of a row that was never trained. */
void ebs_optimizer_state_fill(const struct ebs_optimizer_conf *conf, float *state, size_t dim);

/* @step: the group's step from 1 on; only Adam reads it, 0 counts as 1. */
struct ebs_step ebs_optimizer_step(const struct ebs_optimizer_conf *conf, float lr, uint64_t step);

#endif
