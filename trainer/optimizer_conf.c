/* trainer/optimizer_conf.c -- see the header: tables of keys, for reading, checking and documenting. A key that
 * the type does not use is refused: a number that does nothing is a mistake. */
#include "trainer/optimizer_conf.h"

#include <stdint.h>
#include <string.h>

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/strbuf.h"
#include "runtime/conf/yaml.h"
#include "trainer/model/model.h"
#include "trainer/model/spec.h"
#include "trainer/optimizer.h"
#include "trainer/schedule.h"

#define WHERE_MAX     300u
#define LR_FACTOR_MAX 1e3

enum {
    SGD = 1 << TR_SGD,
    ADAGRAD = 1 << TR_ADAGRAD,
    ADAM = 1 << TR_ADAM,
    ADAMW = 1 << TR_ADAMW,
    LAMB = 1 << TR_LAMB,
    ADAMS = ADAM | ADAMW | LAMB,
    ALL = SGD | ADAGRAD | ADAMS,
};

#define AT(field) offsetof(struct tr_optimizer_conf, field)
static const struct {
    const char *key;
    unsigned kinds;
    size_t offset;
    double max; /* at least 0; tr_optimizer_create() knows the open ends */
    const char *shown, *help;
} numbers[] = {
    {"momentum", SGD, AT(momentum), 1, "0", "sgd"},
    {"eps", ADAGRAD | ADAMS, AT(eps), 1, "1e-10 (adagrad), 1e-8, 1e-6 (lamb)", "all but sgd"},
    {"beta1", ADAMS, AT(beta1), 1, "0.9", "adam, adamw, lamb"},
    {"beta2", ADAMS, AT(beta2), 1, "0.999", "adam, adamw, lamb"},
    {"initial_accumulator", ADAGRAD, AT(initial_accumulator), 1e6, "0",
     "adagrad: sum of squares at the start"},
    {"weight_decay", ALL, AT(weight_decay), 1e3, "0, 0.01 (adamw, lamb)",
     "sgd, adagrad, adam: adds weight_decay * w to the gradient; adamw: takes learning rate * "
     "weight_decay * w from w; lamb: a part of the update"},
    {"clip_norm", ALL, AT(clip_norm), 1e9, "0",
     "gradients whose norm, over all parameters and trainers, is larger are scaled down to it; 0: "
     "never"},
};
#undef AT

/* ---- schedule ---- */

enum {
    LINEAR = 1 << TR_SCHEDULE_LINEAR,
    COSINE = 1 << TR_SCHEDULE_COSINE,
    STEP = 1 << TR_SCHEDULE_STEP,
    ANY = 1 << TR_SCHEDULE_CONSTANT | LINEAR | COSINE | STEP,
};

#define AT(field) offsetof(struct tr_schedule, field)
static const struct {
    const char *key;
    unsigned kinds, needed;
    bool is_share; /* a number in 0..1; else a count of steps */
    size_t offset;
    const char *shown, *help;
} times[] = {
    {"warmup", ANY, 0, false, AT(warmup), "0", "steps in which the factor rises to 1"},
    {"warmup_start", ANY, 0, true, AT(warmup_start), "0.001", "factor of the first of them"},
    {"steps", LINEAR | COSINE, LINEAR | COSINE, false, AT(steps), "",
     "linear, cosine: the step, counted from the job's first, at which `final` is reached"},
    {"final", LINEAR | COSINE | STEP, 0, true, AT(final), "0",
     "linear, cosine: the factor from there on; step: none is lower"},
    {"every", STEP, STEP, false, AT(every), "", "step: steps from one decay to the next"},
    {"gamma", STEP, 0, true, AT(gamma), "0.1", "step: what the factor is multiplied by at each"},
};
#undef AT

static bool given(const struct rt_node *map, const char *key)
{
    const struct rt_node *node = rt_node_get(map, key);

    return node && !rt_node_is_null(node);
}

static int parse_time(const struct rt_node *map, size_t i, struct tr_schedule *s)
{
    const struct rt_node *node = rt_node_get(map, times[i].key);
    void *at = (char *)s + times[i].offset;
    if (times[i].needed >> s->kind & 1) {
        int err = rt_node_need(map, times[i].key, &node);
        if (err)
            return err;
    }
    return times[i].is_share ? rt_node_f64(node, 0, 1, at)
                             : rt_node_u64(node, 0, TR_SCHEDULE_STEPS_MAX, at);
}

int tr_parse_schedule(const struct rt_node *node, struct tr_schedule *s)
{
    const char *known[ARRAY_LEN(times) + 1] = {"type"};
    size_t n = 1;
    uint32_t kind = TR_SCHEDULE_CONSTANT;
    char where[WHERE_MAX];
    *s = (struct tr_schedule){.warmup_start = 0.001, .gamma = 0.1};
    int err = rt_node_want_map(node);
    if (err || !node)
        return err;
    err = rt_node_choice(rt_node_get(node, "type"), "constant|linear|cosine|step", &kind);
    s->kind = (enum tr_schedule_kind)kind;
    for (size_t i = 0; i < ARRAY_LEN(times); i++)
        if (times[i].kinds >> kind & 1)
            known[n++] = times[i].key;
    if (!err)
        err = rt_node_known_keys(node, known, n);
    for (size_t i = 0; !err && i < ARRAY_LEN(times); i++)
        if (times[i].kinds >> kind & 1)
            err = parse_time(node, i, s);
    if (!err && s->warmup == 0 && given(node, "warmup_start"))
        err = rt_node_fail(node, "warmup_start: expected warmup above 0 with it");
    if (err)
        return err;
    err = tr_schedule_check(s);
    return err ? rt_fail_prefix(err, "%s: ", rt_node_where(node, where, sizeof where)) : 0;
}

/* ---- optimizer ---- */

void tr_optimizer_document(struct rt_strbuf *out)
{
    static const char *const row[] = {
        "optimizer.type` | sgd\\|adagrad\\|adam\\|adamw\\|lamb | adam | of the dense parameters; "
        "formulas in trainer/optimizer.h",
        "optimizer.learning_rate` | 0..1e6 | 0.01 (sgd, adagrad), 0.001 | times the step's factor",
        "optimizer.weight_decay_on` | all\\|matrices | all | matrices: not on biases and other "
        "vectors (factors of norms, slopes)",
        "optimizer.layers.NAME.lr_factor` | 0..1000 | 1 | of the learning rate of this layer; 0: "
        "it "
        "stays as it is",
        "schedule.type` | constant\\|linear\\|cosine\\|step | constant | the step's factor on all "
        "learning rates, the tables' too, after the warm-up",
    };
    for (size_t i = 0; i + 1 < ARRAY_LEN(row); i++)
        rt_strbuf_addf(out, "| `model.%s |\n", row[i]);
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++)
        rt_strbuf_addf(out, "| `model.optimizer.%s` | 0..%g | %s | %s |\n", numbers[i].key,
                       numbers[i].max, numbers[i].shown, numbers[i].help);
    rt_strbuf_addf(out, "| `model.%s |\n", row[ARRAY_LEN(row) - 1]);
    for (size_t i = 0; i < ARRAY_LEN(times); i++)
        rt_strbuf_addf(out, "| `model.schedule.%s` | %s | %s | %s |\n", times[i].key,
                       times[i].is_share ? "0..1" : "integer, at least 0", times[i].shown,
                       times[i].help);
}

static int parse_numbers(const struct rt_node *node, struct tr_optimizer_conf *conf)
{
    const char *known[ARRAY_LEN(numbers) + 4] = {"type", "learning_rate", "weight_decay_on",
                                                 "layers"};
    size_t n = 4;
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
    *learning_rate = conf->kind == TR_SGD || conf->kind == TR_ADAGRAD ? 0.01 : 0.001;
    err = parse_numbers(node, conf);
    if (!err && conf->weight_decay == 0 && given(node, "weight_decay_on"))
        err = rt_node_fail(node, "weight_decay_on: expected weight_decay above 0 with it");
    return err ? err : rt_node_f64(rt_node_get(node, "learning_rate"), 0, 1e6, learning_rate);
}

/* ---- spans ---- */

/* "top.0.weight" is of layer "top"; names of layers have no dots. */
static bool is_of(const struct tr_param *tensor, const char *layer)
{
    size_t size = strlen(layer);
    return strncmp(tensor->name, layer, size) == 0 && tensor->name[size] == '.';
}

/* Every name under `layers:` is that of a layer with parameters. */
static int check_layers(const struct rt_node *layers, const struct tr_param *tensor, size_t n)
{
    static const char *const known[] = {"lr_factor"};
    int err = rt_node_want_map(layers);
    for (size_t i = 0; !err && layers && i < rt_node_count(layers); i++) {
        const struct rt_node *options = rt_node_at(layers, i);
        bool found = false;
        for (size_t t = 0; t < n && !found; t++)
            found = is_of(&tensor[t], rt_node_key_at(layers, i));
        err = rt_node_want_map(options);
        if (!err)
            err = rt_node_known_keys(options, known, ARRAY_LEN(known));
        if (!err && !found)
            err = rt_node_fail(options, "expected the name of a layer with parameters, got '%.80s'",
                               rt_node_key_at(layers, i));
    }
    return err;
}

static int parse_lr_factor(const struct rt_node *layers, const struct tr_param *tensor,
                           double *factor)
{
    *factor = 1;
    for (size_t i = 0; layers && i < rt_node_count(layers); i++)
        if (is_of(tensor, rt_node_key_at(layers, i)))
            return rt_node_f64(rt_node_get(rt_node_at(layers, i), "lr_factor"), 0, LR_FACTOR_MAX,
                               factor);
    return 0;
}

static bool joins(const struct tr_span *span, const struct tr_span *next)
{
    return span->offset + span->count == next->offset && span->lr_factor == next->lr_factor &&
           span->decays == next->decays && span->momentum == next->momentum;
}

int tr_parse_spans(const struct rt_node *node, const struct tr_optimizer_conf *conf,
                   const struct tr_param *tensor, size_t n, struct tr_span *span, size_t *n_spans)
{
    const struct rt_node *layers = rt_node_get(node, "layers");
    uint32_t matrices = 0;
    int err = rt_node_choice(rt_node_get(node, "weight_decay_on"), "all|matrices", &matrices);
    if (!err)
        err = check_layers(layers, tensor, n);
    *n_spans = 0;
    for (size_t t = 0; !err && t < n; t++) {
        struct tr_span next = {.offset = tensor[t].offset,
                               .count = tensor[t].count,
                               .decays = !matrices || tensor[t].rank > 1,
                               .momentum = tensor[t].momentum};
        err = parse_lr_factor(layers, &tensor[t], &next.lr_factor);
        struct tr_span *last = *n_spans ? &span[*n_spans - 1] : NULL;
        if (last && conf->kind != TR_LAMB && joins(last, &next))
            last->count += next.count;
        else
            span[(*n_spans)++] = next;
    }
    return err;
}
