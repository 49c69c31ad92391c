/* trainer/model/parse.h -- model.yml and model files to a tr_spec; the one place of the dense side
 * that sees YAML. Errors are RT_EUSAGE with file:line, or RT_ENOMEM. */
#ifndef TR_PARSE_H
#define TR_PARSE_H

struct rt_node;
struct tr_spec;
struct tr_optimizer_conf;

/* The layers of a model (the language is in spec.h).
 * @file_root: root of the model file {params:, layers:}; a model.yml with its own `layers:` is one.
 * @params:    model.yml's `params:`, which override the file's defaults; NULL: none.
 * Refused: unknown keys, an override the file has no default for, `$name` without a value, a
 * parameter that no layer uses. *out is the caller's. */
int tr_parse_model(const struct rt_node *file_root, const struct rt_node *params,
                   struct tr_spec **out);

/* model.yml's `optimizer:` {type, learning_rate, and the numbers of struct tr_optimizer_conf that the
 * type has}. NULL: adam. Default learning rates are torch's: adam 0.001, adagrad and sgd 0.01. */
int tr_parse_optimizer(const struct rt_node *node, struct tr_optimizer_conf *conf,
                       double *learning_rate);

/* Rows of docs/config.md for model.yml. */
struct rt_strbuf;
void tr_parse_document(struct rt_strbuf *out);

#endif
