/* embedding_server/optimizer.h -- sparse optimizers: rows changed in place by their gradients.
 *
 * An update of one row, with lr the learning rate told with it and t >= 1 the group's step, in this order:
 *   1. weights are widened to float32 (element.h); state always is float32;
 *   2. clip: with gradient_clip c > 0 and c < |g|, the row's euclidean norm, g = (c / |g|) * g
 *                                      torch.nn.utils.clip_grad_norm_ over the row (which adds 1e-6 to |g|);
 *   3. decay: g += weight_decay * w    torch.optim's weight_decay: L2 and not decoupled;
 *   4. the formula, w and g after 1 to 3, elementwise. Every operation is rounded to float32 in the order written:
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
 *   FTRL-proximal   r = 1 / lr                                   McMahan et al. 2013, "Ad Click Prediction: a
 *                   n' = n + g * g                               View from the Trenches", algorithm 1: alpha is
 *                   z += g - (sqrt(n') + b) * r * w              lr, beta, lambda1 = l1, lambda2 = l2; state
 *                   n = n'                                       z[dim] then n[dim], from 0
 *                   w = |z| <= l1 ? 0 : (sign(z) * l1 - z) / ((beta + sqrt(n)) * r + l2)
 *        where b = -sqrt(n), but beta while n is 0: the paper's sigma is the growth of 1 / eta = (beta + sqrt(n)) / alpha,
 *        which before the first gradient is 0. The paper's rows start at 0, where this makes no difference; so
 *        others start from their initial value (and with l1 = l2 = 0 and a constant lr move as by Adagrad with
 *        eps = beta). An element whose n' is 0 stays as it is, and so does a row when lr < EBS_FTRL_LR_MIN.
 *        z is a sum of terms over lr: read with another lr than it was made with, it is another row. So the factor of
 *        a schedule or an operator is not on a table of this optimizer, see ebs_optimizer_lr();
 *
 *   5. bound: with weight_bound b > 0, w is clamped to +- b; in 16 bits to the largest that they have within it;
 *   6. 16-bit weights are rounded stochastically, by draws that are a pure function of (seed, "round", table, id,
 *      draw of the update, element).
 *
 * The loops are compiled once per instruction set and give equal bits on all of them: elements are
 * independent, nothing is contracted to fused multiply-adds, roots are those that IEEE 754 rounds whichever way they
 * are found, and sums over a row add in one fixed order (16 interleaved partial sums). */
#ifndef EBS_OPTIMIZER_H
#define EBS_OPTIMIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/job/job.h"

/* A larger gradient is treated as infinity and NaN are: the row is skipped, counted. */
#define EBS_GRADIENT_MAX RT_GRADIENT_MAX

/* FTRL divides by the learning rate: below this its state could overflow. */
#define EBS_FTRL_LR_MIN 1e-12f

/* The numbers of one update, the same for all its rows; made by ebs_optimizer_step(). */
struct ebs_step {
    float lr, weight_decay, eps;
    float rate1, rate2;         /* Adam: 1 - beta */
    float adam_lr;              /* Adam: lr with both bias corrections */
    float beta, l1, l2, per_lr; /* FTRL */
    float gradient_clip;        /* 0: none */
    float weight_bound;         /* 0: none */
    uint64_t key;               /* of the draws that round; a row's are those of rt_draw(key, id) */
};

/* Rows and their gradients: row i changes by grad[i][dim] and nothing else. A row that comes twice changes
 * twice, in order. */
struct ebs_rows {
    uint8_t *const *row; /* [n] where their weights are, 4-byte aligned; NULL: left out */
    float *const *state; /* [n] wherever a row's state stands; not read of those left out */
    const uint64_t *id;  /* [n] */
    const float *grad; /* [n][dim] usable (ebs_gradients_usable), also those left out may be read */
    size_t n;
};

/* An optimizer bound to a table; a plain value, copy it freely. Immutable: any thread. */
struct ebs_optimizer_loops;
struct ebs_optimizer {
    const struct ebs_optimizer_loops *loops;
    uint32_t kind, dtype, dim; /* enum rt_optimizer_kind, enum wire_dtype */
    uint32_t state_count;      /* floats */
    float initial_state;       /* of all of them */
    double beta1, beta2;
    struct ebs_step step; /* what is the same in all steps */
};

/* The loops of one instruction set, by enum rt_optimizer_kind and enum wire_dtype. */
#define EBS_OPTIMIZER_KINDS (RT_OPT_FTRL + 1)
typedef void (*ebs_optimizer_rows_fn)(const struct ebs_step *step, const struct ebs_rows *rows,
                                      size_t dim);
struct ebs_optimizer_loops {
    ebs_optimizer_rows_fn rows[EBS_OPTIMIZER_KINDS][3];
    size_t (*usable)(const float *grad, size_t n, size_t dim, bool *out);
};
extern const struct ebs_optimizer_loops ebs_optimizer_plain;
extern const struct ebs_optimizer_loops ebs_optimizer_avx2;
extern const struct ebs_optimizer_loops ebs_optimizer_avx512;

/* ebs_optimizer_prepare() - bind what a table's configuration says to its row layout and to rt_cpu_isa().
 * @seed: the job's.  RT_EUSAGE with the table's name and the number that is wrong. */
int ebs_optimizer_prepare(struct ebs_optimizer *out, const struct rt_table_conf *table,
                          uint64_t seed);

/* Write the state of a row that was never trained: [state_count] floats. */
void ebs_optimizer_state_fill(const struct ebs_optimizer *optimizer, float *state);

/* ebs_optimizer_lr() - the learning rate of an update: the table's times the factor told with it. FTRL keeps the
 * table's, but a factor of 0 is 0 there as well: nothing moves. */
float ebs_optimizer_lr(const struct ebs_optimizer *optimizer, float lr, double factor);

/* @step: the group's step from 1 on; only Adam reads it, 0 counts as 1.
 * @draw: what the rounding of 16-bit weights is drawn by: no two updates of a job should share it. */
struct ebs_step ebs_optimizer_step(const struct ebs_optimizer *optimizer, float lr, uint64_t step,
                                   uint64_t draw);

/* Clip, decay, formula, bound, rounding, on each of the rows. */
void ebs_optimizer_run(const struct ebs_optimizer *optimizer, const struct ebs_step *step,
                       const struct ebs_rows *rows);

/* ebs_gradients_usable() - which gradients may be applied: all values finite and within EBS_GRADIENT_MAX.
 * @grad: [n][dim]     @usable: [n]     Return: how many are. */
size_t ebs_gradients_usable(const struct ebs_optimizer *optimizer, const float *grad, size_t n,
                            bool *usable);

#endif
