/* trainer/optimizer.h -- dense optimizers over the model's flat vectors; formulas as torch.optim.
 *
 * g is the gradient, p the parameter, t the number of this step (1 at the first):
 *   sgd      v = momentum*v + g (v = g at t 1); p -= lr*v      (momentum 0: p -= lr*g, no state)
 *   adagrad  s += g*g;                      p -= lr*g / (sqrt(s) + eps)
 *   adam     m = b1*m + (1-b1)*g; v = b2*v + (1-b2)*g*g;
 *            p -= lr/(1-b1^t) * m / (sqrt(v)/sqrt(1-b2^t) + eps)
 * weight_decay adds weight_decay*p to g first, as torch does in all three.
 * Sources: torch.optim.{SGD,Adagrad,Adam} (dampening 0, lr_decay 0, no amsgrad).
 *
 * State is one float array [slots][n] (sgd: momentum; adagrad: s; adam: m, v) and the step count t:
 * that is all a checkpoint has to keep. Touch: the step thread. */
#ifndef TR_OPTIMIZER_H
#define TR_OPTIMIZER_H

#include <stddef.h>
#include <stdint.h>

enum tr_optimizer_kind { TR_SGD, TR_ADAGRAD, TR_ADAM };

struct tr_optimizer_conf {
    enum tr_optimizer_kind kind;
    double momentum;            /* sgd, [0, 1) */
    double eps;                 /* adagrad, adam: > 0 */
    double beta1, beta2;        /* adam, [0, 1) */
    double initial_accumulator; /* adagrad: s at the start, >= 0 */
    double weight_decay;        /* >= 0 */
};

/* "sgd" "adagrad" "adam" -> torch's defaults of that kind (eps 1e-10 / 1e-8, betas 0.9 0.999).
 * RT_EUSAGE for another word, with the nearest known one. The learning rate is told per step. */
int tr_optimizer_defaults(const char *name, struct tr_optimizer_conf *conf);
const char *tr_optimizer_name(enum tr_optimizer_kind kind);

struct tr_optimizer;

/* State for n parameters. RT_EUSAGE for a value out of range, RT_ENOMEM. */
int tr_optimizer_create(const struct tr_optimizer_conf *conf, size_t n, struct tr_optimizer **out);
void tr_optimizer_destroy(struct tr_optimizer *optimizer); /* NULL is legal */

/* One step: grad[n] and param[n] with the n of create. Checks first that lr and every gradient are
 * finite; if not, RT_EDATA names the first bad index and nothing has changed, t included. */
int tr_optimizer_step(struct tr_optimizer *optimizer, double lr, const float *grad, float *param);

/* State for checkpoints: [slots * n] floats (NULL when slots is 0), writable; and the steps taken. */
float *tr_optimizer_state(struct tr_optimizer *optimizer, size_t *count);
const char *tr_optimizer_slot_name(const struct tr_optimizer *optimizer,
                                   size_t slot); /* "exp_avg" */
uint64_t tr_optimizer_steps(const struct tr_optimizer *optimizer);
void tr_optimizer_set_steps(struct tr_optimizer *optimizer, uint64_t steps); /* after a restore */

#endif
