/* trainer/optimizer_conf.c -- see the header: one table of keys for reading, checking and documenting. */
#include "trainer/optimizer_conf.h"

#include <stddef.h>

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/strbuf.h"
#include "runtime/conf/yaml.h"
#include "trainer/optimizer.h"

#define WHERE_MAX 300u

enum { SGD = 1 << TR_SGD, ADAGRAD = 1 << TR_ADAGRAD, ADAM = 1 << TR_ADAM };

static const struct {
    const char *key;
    unsigned kinds;
    size_t offset;
    double max; /* at least 0; tr_optimizer_create() knows the open ends */
    const char *shown, *help;
} numbers[] = {
    {"momentum", SGD, offsetof(struct tr_optimizer_conf, momentum), 1, "0", "sgd"},
    {"eps", ADAGRAD | ADAM, offsetof(struct tr_optimizer_conf, eps), 1, "1e-10, 1e-8",
     "adagrad, adam"},
    {"beta1", ADAM, offsetof(struct tr_optimizer_conf, beta1), 1, "0.9", "adam"},
    {"beta2", ADAM, offsetof(struct tr_optimizer_conf, beta2), 1, "0.999", "adam"},
    {"initial_accumulator", ADAGRAD, offsetof(struct tr_optimizer_conf, initial_accumulator), 1e6,
     "0", "adagrad: sum of squares at the start"},
    {"weight_decay", SGD | ADAGRAD | ADAM, offsetof(struct tr_optimizer_conf, weight_decay), 1e3,
     "0", "adds weight_decay * w to the gradient"},
};

void tr_optimizer_document(struct rt_strbuf *out)
{
    static const char *const row[] = {
        "optimizer.type` | sgd\\|adagrad\\|adam | adam | of the dense parameters, as torch.optim",
        "optimizer.learning_rate` | 0..1e6 | 0.001 (adam), 0.01 | times the step's factor",
    };
    for (size_t i = 0; i < ARRAY_LEN(row); i++)
        rt_strbuf_addf(out, "| `model.%s |\n", row[i]);
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++)
        rt_strbuf_addf(out, "| `model.optimizer.%s` | 0..%g | %s | %s |\n", numbers[i].key,
                       numbers[i].max, numbers[i].shown, numbers[i].help);
}

static int parse_numbers(const struct rt_node *node, struct tr_optimizer_conf *conf)
{
    const char *known[ARRAY_LEN(numbers) + 2] = {"type", "learning_rate"};
    size_t n = 2;
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++)
        if (numbers[i].kinds >> conf->kind & 1)
            known[n++] = numbers[i].key;
    int err = rt_node_known_keys(node, known, n);
    for (size_t i = 0; !err && i < ARRAY_LEN(numbers); i++)
        err = rt_node_f64(rt_node_get(node, numbers[i].key), 0, numbers[i].max,
                          (double *)((char *)conf + numbers[i].offset));
    return err;
}

int tr_parse_optimizer(const struct rt_node *node, struct tr_optimizer_conf *conf,
                       double *learning_rate)
{
    const struct rt_node *type = rt_node_get(node, "type");
    const char *word = "adam";
    char where[WHERE_MAX];
    int err = rt_node_want_map(node);
    if (!err)
        err = rt_node_str(type, &word);
    if (err)
        return err;
    err = tr_optimizer_defaults(word, conf);
    if (err)
        return rt_fail_prefix(err, "%s: ", rt_node_where(type, where, sizeof where));
    *learning_rate = conf->kind == TR_ADAM ? 0.001 : 0.01;
    err = parse_numbers(node, conf);
    return err ? err : rt_node_f64(rt_node_get(node, "learning_rate"), 0, 1e6, learning_rate);
}
