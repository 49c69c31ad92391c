/* trainer/model/layer_mlp.c -- fully connected layers, one after the other.
 *
 * Options: `sizes`, the output size of each (the input size is known); `activation`, what follows each but the last, relu
 * if nothing is said, or a list of as many as there are sizes; `last`, what follows the last one. Parameters of linear layer l:
 * "<l>.weight" [size][inputs], "<l>.bias", of a prelu "<l>.slope". */
#include <stdio.h>

#include "runtime/base/err.h"
#include "trainer/model/layers.h"
#include "trainer/model/mlp.h"

struct sizes {
    uint32_t n, n_acts;
    uint32_t size[TR_MLP_MAX];
    enum tr_act_kind act[TR_MLP_MAX];
};

/* One word stands for all between, a list for one each; [word] is the list of one size, else as the word. */
static int read_acts(struct tr_build *build, struct sizes *sizes)
{
    enum tr_act_kind last = TR_ACT_NONE;
    uint32_t n_last = 0;
    int err = tr_build_acts(build, "activation", TR_MLP_MAX, sizes->act, &sizes->n_acts);
    if (err)
        return err;
    if (sizes->n_acts > 1 && sizes->n_acts != sizes->n)
        return tr_build_fail(build,
                             "activation: expected one word, or one for each of %u sizes, got %u",
                             sizes->n, sizes->n_acts);
    err = tr_build_acts(build, "last", 1, &last, &n_last);
    if (err)
        return err;
    const struct tr_words *words = tr_build_option(build, "activation");
    bool each = sizes->n_acts > 1 || (sizes->n == 1 && words && words->list);
    if (each && n_last)
        return tr_build_fail(build, "last: activation says already what follows each layer");
    enum tr_act_kind between = sizes->n_acts ? sizes->act[0] : TR_ACT_RELU;
    for (uint32_t l = 0; !each && l < sizes->n; l++)
        sizes->act[l] = l + 1 < sizes->n ? between : last;
    return 0;
}

static int mlp_build(struct tr_build *build, struct tr_layer *layer)
{
    struct sizes sizes = {0};
    struct tr_mlp *mlp = tr_build_alloc(build, 1, sizeof *mlp);
    if (!mlp)
        return RT_FAIL(RT_ENOMEM, "layer '%s'", layer->name);
    layer->state = mlp;
    int err = tr_build_one_input(build, layer);
    if (!err)
        err = tr_build_sizes(build, "sizes", TR_MLP_MAX, sizes.size, &sizes.n);
    if (!err)
        err = read_acts(build, &sizes);
    for (uint32_t l = 0; !err && l < sizes.n; l++) {
        char prefix[16];
        snprintf(prefix, sizeof prefix, "%u.", l);
        struct tr_mlp_linear linear = {
            .inputs = l ? sizes.size[l - 1] : layer->in[0]->width,
            .outputs = sizes.size[l],
            .act = sizes.act[l],
        };
        err = tr_mlp_add(build, layer, mlp, linear, prefix, l + 1 == sizes.n);
    }
    return err ? err : tr_build_output(build, layer, sizes.size[sizes.n - 1]);
}

static const char *const options[] = {"sizes", "activation", "last", NULL};

const struct tr_layer_type tr_layer_mlp = {
    .name = "mlp",
    .options = options,
    .build = mlp_build,
    .forward = tr_mlp_forward,
    .backward = tr_mlp_backward,
};
