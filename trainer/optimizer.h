/* trainer/optimizer.h -- dense optimizers over the model's flat vectors; formulas as torch.optim.
 *
 * g is the gradient, p the parameter, t the number of this step (1 at the first), b the betas, wd weight_decay:
 *   sgd      v = momentum*v + g (v = g at t 1); p -= lr*v      (momentum 0: p -= lr*g, no state)
 *   adagrad  s += g*g;                      p -= lr*g / (sqrt(s) + eps)
 *   adam     m = b1*m + (1-b1)*g; v = b2*v + (1-b2)*g*g;
 *            p -= lr/(1-b1^t) * m / (sqrt(v)/sqrt(1-b2^t) + eps)
 *   adamw    p *= 1 - lr*wd, then as adam
 *   lamb     m, v as adam; u = m/(1-b1^t) / (sqrt(v)/sqrt(1-b2^t) + eps) + wd*p;
 *            p -= lr * |p|/|u| * u, norms of each tensor by itself; the ratio is 1 where one of them is 0
 * In sgd, adagrad and adam weight_decay adds wd*p to g first, as torch does.
 * Sources: torch.optim.{SGD,Adagrad,Adam,AdamW} (dampening 0, lr_decay 0, no amsgrad); LAMB: You et al. 2020, "Large
 * Batch Optimization for Deep Learning: Training BERT in 76 minutes", algorithm 2 with phi(x) = x.
 *
 * clip_norm: before all of that g is multiplied by min(1, clip_norm / (|g| + 1e-6)), |g| over all parameters, as
 * torch.nn.utils.clip_grad_norm_. After an all-reduce every rank has the same gradients and so the same norm; it is
 * summed in float64 in one fixed order.
 *
 * State is one float array [slots][n] (sgd: momentum; adagrad: s; the others: m, v) and the step count t:
 * that is all a checkpoint has to keep. Touch: the step thread. */
#ifndef TR_OPTIMIZER_H
#define TR_OPTIMIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum tr_optimizer_kind { TR_SGD, TR_ADAGRAD, TR_ADAM, TR_ADAMW, TR_LAMB, TR_OPTIMIZERS };

struct tr_optimizer_conf {
    enum tr_optimizer_kind kind;
    double momentum;            /* sgd, [0, 1) */
    double eps;                 /* all but sgd: > 0 */
    double beta1, beta2;        /* adam, adamw, lamb: [0, 1) */
    double initial_accumulator; /* adagrad: s at the start, >= 0 */
    double weight_decay;        /* >= 0 */
    double clip_norm;           /* >= 0; 0: no clipping */
};

/* Parameters that are updated alike. LAMB's norms are over one span. */
struct tr_span {
    size_t offset, count;
    double
        lr_factor; /* times the learning rate, >= 0; 0: the parameters stay, their state goes on */
    bool decays;   /* weight_decay holds for them */
    double
        momentum; /* above 0: no parameters, but running averages: p += momentum * g, and g is no part of |g| */
};

/* "sgd" "adagrad" "adam" "adamw" "lamb" -> the kind's defaults: torch's (eps 1e-10 / 1e-8, betas 0.9 0.999, adamw's
 * weight_decay 0.01), lamb's as in its paper (eps 1e-6, weight_decay 0.01).
 * RT_EUSAGE for another word, with the nearest known one. The learning rate is told per step. */
int tr_optimizer_defaults(const char *name, struct tr_optimizer_conf *conf);
const char *tr_optimizer_name(enum tr_optimizer_kind kind);

struct tr_optimizer;

/* State for n parameters. RT_EUSAGE for a value out of range, RT_ENOMEM. The second form: span[n_spans] lie within n in
 * ascending order; parameters in none of them are left alone, and their gradients are not looked at. The spans are copied. */
int tr_optimizer_create(const struct tr_optimizer_conf *conf, size_t n, struct tr_optimizer **out);
int tr_optimizer_create_spans(const struct tr_optimizer_conf *conf, size_t n,
                              const struct tr_span *span, size_t n_spans,
                              struct tr_optimizer **out);
void tr_optimizer_destroy(struct tr_optimizer *optimizer); /* NULL is legal */

/* From now on state is on the device, and tr_optimizer_step() takes its pointers. RT_ENOMEM, RT_EBACKEND. */
struct tr_gpu;
struct tr_cuda;
int tr_optimizer_to_device(struct tr_optimizer *optimizer, const struct tr_gpu *gpu,
                           struct tr_cuda *cuda);

/* One step: grad[n] and param[n] with the n of create. Checks first that lr and every gradient are
 * finite; if not, RT_EDATA names the first bad index and nothing has changed, t included. Allocates nothing. */
int tr_optimizer_step(struct tr_optimizer *optimizer, double lr, const float *grad, float *param);

/* The same as a part of a model's pass on a GPU: true, and *out for tr_batch_view.rider; false: the optimizer is the CPU's. After a pass that was finite
 * tr_optimizer_rode() counts the step; RT_EDATA as above. lr that is not finite: the pass fails. */
struct tr_rider;
bool tr_optimizer_rider(struct tr_optimizer *optimizer, double lr, struct tr_rider *out);
int tr_optimizer_rode(struct tr_optimizer *optimizer);

/* |g| of the latest step, before clipping; NaN before the first. */
double tr_optimizer_grad_norm(const struct tr_optimizer *optimizer);

/* State for checkpoints: [slots][n] floats (NULL when slots is 0), writable; and the steps taken. */
float *tr_optimizer_state(struct tr_optimizer *optimizer, size_t *count);
const char *tr_optimizer_slot_name(const struct tr_optimizer *optimizer,
                                   size_t slot); /* "exp_avg" */
bool tr_optimizer_slot_is_sum(const struct tr_optimizer *optimizer,
                              size_t slot); /* of squares: not below 0 */
size_t tr_optimizer_slots(const struct tr_optimizer *optimizer);
/* What the state is of, in words: state of another text means something else. */
#define TR_OPTIMIZER_TEXT 32
void tr_optimizer_text(const struct tr_optimizer *optimizer, char out[TR_OPTIMIZER_TEXT]);
void tr_optimizer_reset(struct tr_optimizer *optimizer); /* as it was made */
uint64_t tr_optimizer_steps(const struct tr_optimizer *optimizer);
void tr_optimizer_set_steps(struct tr_optimizer *optimizer, uint64_t steps); /* after a restore */

#endif
