/* trainer/optimizer_conf.h -- model.yml's `optimizer:` and `schedule:` to numbers. Errors are RT_EUSAGE with file:line. */
#ifndef TR_OPTIMIZER_CONF_H
#define TR_OPTIMIZER_CONF_H

#include <stddef.h>

struct rt_node;
struct rt_strbuf;
struct tr_optimizer_conf;
struct tr_param;
struct tr_schedule;
struct tr_span;

/* {type, learning_rate, and the numbers of struct tr_optimizer_conf that the type has}. NULL: adam.
 * Default learning rates are torch's: adam, adamw (and lamb) 0.001, adagrad and sgd 0.01. What concerns layers is
 * tr_parse_spans's. */
int tr_parse_optimizer(const struct rt_node *node, struct tr_optimizer_conf *conf,
                       double *learning_rate);

/* The same section's `layers: {NAME: {lr_factor: 0.1}}` and `weight_decay_on: all | matrices`, for the model's tensor[n].
 * Neighbours that are updated alike become one span; of LAMB each tensor is one. span[n] is the caller's. */
int tr_parse_spans(const struct rt_node *node, const struct tr_optimizer_conf *conf,
                   const struct tr_param *tensor, size_t n, struct tr_span *span, size_t *n_spans);

/* {type, warmup, warmup_start, and the keys of the type}. NULL: the factor is 1. */
int tr_parse_schedule(const struct rt_node *node, struct tr_schedule *schedule);

/* Rows of docs/config.md. */
void tr_optimizer_document(struct rt_strbuf *out);

#endif
