/* trainer/model/parse.h -- model.yml and model files to a tr_spec: with trainer/optimizer_conf.h the only
 * places of the dense side that see YAML. Errors are RT_EUSAGE with file:line, or RT_ENOMEM. */
#ifndef TR_PARSE_H
#define TR_PARSE_H

#include <stdbool.h>

struct rt_node;
struct tr_spec;

/* The layers of a model (the language is in spec.h).
 * @file_root: root of the model file {params:, layers:}; a model.yml with its own `layers:` is one.
 * @params:    model.yml's `params:`, which override the file's defaults; NULL: none.
 * @is_model_yml: it is such a model.yml: it may have `optimizer:` and others, which are not read here.
 * Refused: unknown keys, keys of model.yml in another file, an override the file has no default for, `$name` without a value, a
 * parameter that no layer uses. *out is the caller's. */
int tr_parse_model(const struct rt_node *file_root, bool is_model_yml, const struct rt_node *params,
                   struct tr_spec **out);

/* Rows of docs/config.md for model.yml, but those of optimizer_conf.h. */
struct rt_strbuf;
void tr_parse_document(struct rt_strbuf *out);

#endif
