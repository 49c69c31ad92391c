/* trainer/model/layer_linear.c -- one fully connected layer: y = act(x W^T + b), torch.nn.Linear.
 *
 * Options: `size`, of the output (the input's: a gate on it may not know how wide it is); `activation` (none); `bias`
 * (true). Parameters "weight" [size][inputs], "bias", of a prelu "slope". */
#include "runtime/base/err.h"
#include "trainer/model/layers.h"
#include "trainer/model/mlp.h"

static int linear_build(struct tr_build *build, struct tr_layer *layer)
{
    struct tr_mlp *mlp = tr_build_alloc(build, 1, sizeof *mlp);
    if (!mlp)
        return RT_FAIL(RT_ENOMEM, "layer '%s'", layer->name);
    layer->state = mlp;
    struct tr_mlp_linear linear = {.act = TR_ACT_NONE};
    uint32_t n = 0;
    bool bias = true;
    int err = tr_build_one_input(build, layer);
    if (!err && tr_build_option(build, "size"))
        err = tr_build_sizes(build, "size", 1, &linear.outputs, &n);
    else if (!err)
        linear.outputs = layer->in[0]->width;
    if (!err)
        err = tr_build_acts(build, "activation", 1, &linear.act, &n);
    if (!err)
        err = tr_build_flag(build, "bias", &bias);
    if (err)
        return err;
    linear.inputs = layer->in[0]->width;
    linear.b = bias ? 0 : TR_MLP_NONE;
    err = tr_mlp_add(build, layer, mlp, linear, "", true);
    return err ? err : tr_build_output(build, layer, linear.outputs);
}

static const char *const options[] = {"size", "activation", "bias", NULL};

const struct tr_layer_type tr_layer_linear = {
    .name = "linear",
    .options = options,
    .build = linear_build,
    .forward = tr_mlp_forward,
    .backward = tr_mlp_backward,
};
