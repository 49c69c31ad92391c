/* trainer/optimizer_conf.h -- model.yml's `optimizer:` to numbers. Errors are RT_EUSAGE with file:line. */
#ifndef TR_OPTIMIZER_CONF_H
#define TR_OPTIMIZER_CONF_H

struct rt_node;
struct rt_strbuf;
struct tr_optimizer_conf;

/* {type, learning_rate, and the numbers of struct tr_optimizer_conf that the type has}. NULL: adam.
 * Default learning rates are torch's: adam 0.001, adagrad and sgd 0.01. */
int tr_parse_optimizer(const struct rt_node *node, struct tr_optimizer_conf *conf,
                       double *learning_rate);

/* Rows of docs/config.md. */
void tr_optimizer_document(struct rt_strbuf *out);

#endif
