/* tests/fuzz/fuzz_model.c -- a model file, then overrides of its parameters, then an optimizer section, which is
 * read as a schedule too. */
#include "runtime/base/assert.h"
#include "runtime/base/mem.h"
#include "runtime/conf/yaml.h"
#include "tests/fuzz/fuzz.h"
#include "trainer/model/model.h"
#include "trainer/model/parse.h"
#include "trainer/model/spec.h"
#include "trainer/optimizer.h"
#include "trainer/optimizer_conf.h"
#include "trainer/schedule.h"

#include <math.h>
#include <string.h>

enum { MODEL, PARAMS, OPTIMIZER, PARTS };

static const struct rt_node *root(const struct rt_yaml *yaml)
{
    return yaml ? rt_yaml_root(yaml) : NULL;
}

static void check_words(const struct tr_words *words)
{
    rt_assert(words->n <= TR_WORDS_MAX && words->where);
    for (uint32_t i = 0; i < words->n; i++)
        rt_assert(words->word[i] && memchr(words->word[i], 0, RT_YAML_BYTES_MAX));
}

static void check_spec(const struct tr_spec *spec)
{
    rt_assert(spec->n_layers <= TR_LAYERS_MAX);
    for (uint32_t i = 0; i < spec->n_layers; i++) {
        const struct tr_layer_spec *layer = &spec->layer[i];

        rt_assert(strlen(layer->name) <= TR_NAME_MAX && layer->n_options <= TR_OPTIONS_MAX);
        check_words(&layer->inputs);
        for (uint32_t k = 0; k < layer->n_options; k++)
            check_words(&layer->option[k].value);
    }
}

static void use_optimizer(const struct rt_node *section)
{
    static const struct tr_param tensor[] = {{.name = "top.0.weight", .rank = 2, .count = 6},
                                             {.name = "top.0.bias", .rank = 1, .offset = 6}};
    struct tr_optimizer_conf conf;
    struct tr_span span[ARRAY_LEN(tensor)];
    struct tr_schedule schedule;
    double rate = -1;
    size_t n;

    if (tr_parse_optimizer(section, &conf, &rate) == 0) {
        rt_assert(isfinite(rate) && rate >= 0);
        if (tr_parse_spans(section, &conf, tensor, ARRAY_LEN(tensor), span, &n) == 0)
            rt_assert(n > 0 && n <= ARRAY_LEN(tensor) && isfinite(span[0].lr_factor));
    }
    if (tr_parse_schedule(section, &schedule) == 0)
        for (uint64_t step = 1; step != 0; step <<= 1) {
            double factor = tr_schedule_factor(&schedule, step);
            rt_assert(factor >= 0 && factor <= 1);
        }
}

int fuzz_model(const uint8_t *data, size_t size)
{
    struct rt_yaml *yaml[PARTS] = {0};
    struct tr_spec *spec = NULL;
    size_t at = 0, part_size;
    char *part;
    int err = 0;

    for (int i = 0; !err && i < PARTS && (part = fuzz_part(data, size, &at, &part_size)); i++) {
        err = rt_yaml_parse("fuzz.yml", part, part_size, &yaml[i]);
        rt_free(part);
    }
    if (!err && tr_parse_model(root(yaml[MODEL]), false, root(yaml[PARAMS]), &spec) == 0)
        check_spec(spec);
    if (!err)
        use_optimizer(root(yaml[OPTIMIZER]));
    tr_spec_destroy(spec);
    for (int i = 0; i < PARTS; i++)
        rt_yaml_destroy(yaml[i]);
    return 0;
}
