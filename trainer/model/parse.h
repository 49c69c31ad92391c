/* trainer/model/parse.h -- model.yml and model files to a tr_spec; the one place of the dense side
 * that sees YAML. */
#ifndef TR_PARSE_H
#define TR_PARSE_H

struct rt_node;
struct tr_spec;
struct tr_optimizer_conf;

/* The layers of a model. @file_root: root mapping of the model file {params:, layers:} (for a
 * model.yml with its own `layers:`, that root); @params: model.yml's `params:` mapping that
 * overrides the file's defaults, or NULL. Unknown keys, unknown or unused overrides and
 * `$names` without a value are RT_EUSAGE with file and line. *out is the caller's. */
int tr_parse_model(const struct rt_node *file_root, const struct rt_node *params,
                   struct tr_spec **out);

/* model.yml's `optimizer:` mapping {type: adam, lr: 0.001, eps: ...}; a key that the type does not
 * have is RT_EUSAGE. */
int tr_parse_optimizer(const struct rt_node *node, struct tr_optimizer_conf *conf, double *lr);

#endif
