/* trainer/model/layer_attention_din.c -- target attention: the places of a sequence k, each as much as it has to do with a target q:
 *
 *     w[j] = unit([q, k[j], q - k[j], q k[j]]), of a masked place 0;   y = sum over j of w[j] k[j]
 *
 * The activation unit is an mlp of the given sizes and a last linear layer to one number. Zhou et al. 2018, "Deep Interest Network for
 * Click-Through Rate Prediction", section 4.3; what the unit is fed with, and its sigmoid, are those of the authors' code and of
 * DeepCTR's LocalActivationUnit. In the paper weights are not normalized; `softmax` makes them a softmax over the places.
 * Inputs: q [samples][dim], the sequence [samples][places][dim], its mask. Options: `sizes`, `activation` (sigmoid), `softmax` (false).
 * Parameters: those of the mlp, "<l>.weight" and so on, the last one's too.
 *
 * Inside is a layer of type mlp whose samples are the places of all samples that the mask counts: most lists are far shorter than
 * `max_length`, and what a `dice` there takes the mean of must not be what fills them up. */
#include <stdio.h>
#include <string.h>

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "trainer/model/layers.h"
#include "trainer/model/mlp.h"
#include "trainer/model/vectors.h"

/* [samples][places] but PAIRS, [samples][places][4 dim], and DPAIRS. */
enum buffer { PAIRS, DPAIRS, SCORE, DSCORE, WEIGHT, DWEIGHT, BUFFERS };

struct din_state {
    struct tr_mlp mlp;
    struct tr_layer unit; /* of the mlp; its memory is the layer's */
    struct tr_value pairs, *in;
    struct tr_vectors places;
    bool softmax;
};

static int check_inputs(struct tr_build *build, const struct tr_layer *layer,
                        struct tr_vectors *places)
{
    if (layer->n_in != 3)
        return tr_build_fail(build, "expected a target, a sequence and its mask as inputs, got %u",
                             layer->n_in);
    const struct tr_value *q = layer->in[0], *k = layer->in[1];
    int err = tr_vectors_build(build, layer, 1, 1, places);
    if (!err && q->width != k->columns)
        err = tr_build_fail(build, "input '%s': expected the %u columns that '%s' has, got %s",
                            q->name, k->columns, k->name, tr_shape(q).text);
    return err ? err : tr_build_mask(build, k, layer->in[2]);
}

static int add_unit(struct tr_build *build, struct tr_layer *layer, struct din_state *state)
{
    uint32_t size[TR_MLP_MAX] = {0}, n = 0, n_acts = 0, places = state->places.n;
    enum tr_act_kind act = TR_ACT_SIGMOID;
    int err = tr_build_sizes(build, "sizes", TR_MLP_MAX - 1, size, &n);
    if (!err)
        err = tr_build_acts(build, "activation", 1, &act, &n_acts);
    size[n] = 1;
    state->mlp.rows = places;
    for (uint32_t l = 0; !err && l <= n; l++) {
        char prefix[16];
        snprintf(prefix, sizeof prefix, "%u.", l);
        struct tr_mlp_linear linear = {
            .inputs = l ? size[l - 1] : 4 * state->places.dim,
            .outputs = size[l],
            .act = l < n ? act : TR_ACT_NONE,
        };
        err = tr_mlp_add(build, layer, &state->mlp, linear, prefix, l == n);
    }
    return err;
}

static int din_build(struct tr_build *build, struct tr_layer *layer)
{
    struct din_state *state = tr_build_alloc(build, 1, sizeof *state);
    if (!state)
        return RT_FAIL(RT_ENOMEM, "layer '%s'", layer->name);
    layer->state = state;
    int err = check_inputs(build, layer, &state->places);
    for (uint32_t k = 0; !err && k < BUFFERS; k++)
        err = tr_build_buffer(build,
                              (size_t)state->places.n * (k > DPAIRS ? 1 : 4 * state->places.dim));
    if (!err)
        err = tr_build_flag(build, "softmax", &state->softmax);
    tr_build_flops(build, (uint64_t)state->places.n * state->places.dim);
    if (!err)
        err = add_unit(build, layer, state);
    return err ? err : tr_build_output(build, layer, state->places.dim);
}

/* The unit's memory, known from the first pass on, and its pass. */
static struct tr_pass open_unit(struct tr_layer *layer, const struct tr_pass *pass)
{
    struct din_state *state = layer->state;
    struct tr_layer *unit = &state->unit;
    uint32_t width = 4 * state->places.dim;
    struct tr_pass places = *pass;
    state->pairs = (struct tr_value){
        .columns = width,
        .width = width,
        .stride = width,
        .data = layer->buffer[PAIRS],
        .grad = layer->in[0]->grad || layer->in[1]->grad ? layer->buffer[DPAIRS] : NULL,
    };
    state->in = &state->pairs;
    *unit =
        (struct tr_layer){.name = layer->name, .in = &state->in, .n_in = 1, .state = &state->mlp};
    unit->out = (struct tr_value){
        .columns = 1,
        .width = 1,
        .stride = 1,
        .data = layer->buffer[SCORE],
        .grad = layer->buffer[DSCORE],
    };
    memcpy(unit->param, layer->param, sizeof unit->param);
    memcpy(unit->buffer, layer->buffer, sizeof unit->buffer);
    return places;
}

static struct tr_din pairs_of(const struct tr_layer *layer, const struct tr_pass *pass)
{
    const struct din_state *state = layer->state;
    return (struct tr_din){
        .samples = pass->samples,
        .rows = state->places.n,
        .dim = state->places.dim,
        .q = layer->in[0]->data,
        .k = layer->in[1]->data,
        .q_stride = layer->in[0]->stride,
        .k_stride = layer->in[1]->stride,
        .y = layer->buffer[PAIRS],
    };
}

/* What the mask counts of [samples][places] rows, moved to the front. How many. */
static uint32_t to_front(const struct tr_layer *layer, const struct tr_pass *pass, tr_real *row,
                         size_t width)
{
    const struct din_state *state = layer->state;
    const tr_real *mask = layer->in[2]->data;
    size_t at = 0, n = 0;
    for (uint32_t s = 0; s < pass->samples; s++, mask += layer->in[2]->stride)
        for (uint32_t j = 0; j < state->places.n; j++, at++)
            if (mask[j] != 0)
                memmove(row + n++ * width, row + at * width, width * sizeof *row);
    return (uint32_t)n;
}

/* And back from there, with zeros between. */
static void to_places(const struct tr_layer *layer, const struct tr_pass *pass, tr_real *row,
                      size_t width, size_t n)
{
    const struct din_state *state = layer->state;
    size_t at = (size_t)pass->samples * state->places.n;
    for (uint32_t s = pass->samples; s-- > 0;) {
        const tr_real *mask = layer->in[2]->data + s * layer->in[2]->stride;
        for (uint32_t j = state->places.n; j-- > 0;) {
            at--;
            if (mask[j] != 0)
                memmove(row + at * width, row + --n * width, width * sizeof *row);
            else
                memset(row + at * width, 0, width * sizeof *row);
        }
    }
}

/* On a device all places go through the unit: how many count is not known where it is told what to do. Those that do not count get no
 * share, and no gradient. */
static struct tr_pass open_all(struct tr_layer *layer, const struct tr_pass *pass)
{
    const struct din_state *state = layer->state;
    struct tr_pass places = open_unit(layer, pass);
    rt_assert(layer->in[2]->stride == state->places.n);
    places.samples = pass->samples * state->places.n;
    places.places = layer->in[2]->data;
    return places;
}

static int unit_forward(struct tr_layer *layer, struct tr_pass *pass)
{
    struct din_state *state = layer->state;
    if (pass->backend->cuda) {
        struct tr_pass all = open_all(layer, pass);
        return tr_mlp_forward(&state->unit, &all);
    }
    struct tr_pass places = open_unit(layer, pass);
    places.samples = to_front(layer, pass, layer->buffer[PAIRS], state->pairs.width);
    int err = places.samples > 0 ? tr_mlp_forward(&state->unit, &places) : 0;
    to_places(layer, pass, layer->buffer[SCORE], 1, places.samples);
    return err;
}

/* PAIRS are as unit_forward left them. */
static int unit_backward(struct tr_layer *layer, struct tr_pass *pass)
{
    struct din_state *state = layer->state;
    if (pass->backend->cuda) {
        struct tr_pass all = open_all(layer, pass);
        return tr_mlp_backward(&state->unit, &all);
    }
    struct tr_pass places = open_unit(layer, pass);
    int err = 0;
    places.samples = to_front(layer, pass, layer->buffer[DSCORE], 1);
    if (places.samples > 0)
        err = tr_mlp_backward(&state->unit, &places);
    for (uint32_t k = 0; places.samples == 0 && !pass->add_params && k < layer->n_params; k++)
        memset(layer->param[k].grad, 0, layer->param[k].count * sizeof(tr_real));
    if (state->pairs.grad)
        to_places(layer, pass, state->pairs.grad, state->pairs.width, places.samples);
    return err;
}

/* y = x where the mask is 1, else 0: scores to weights, and back. */
static int keep_unmasked(const struct tr_layer *layer, struct tr_pass *pass, const tr_real *x,
                         tr_real *y)
{
    const struct din_state *state = layer->state;
    const tr_real *const factor[] = {x, layer->in[2]->data};
    const size_t stride[] = {state->places.n, layer->in[2]->stride};
    static const bool spread[] = {false, false};
    struct tr_mul op = {
        .samples = pass->samples,
        .rows = 1,
        .columns = state->places.n,
        .n = 2,
        .x = factor,
        .x_stride = stride,
        .spread = spread,
        .y = y,
        .y_stride = state->places.n,
    };
    return pass->backend->loops->mul_forward(pass->backend, &op);
}

static int weights(const struct tr_layer *layer, struct tr_pass *pass)
{
    const struct din_state *state = layer->state;
    uint32_t n = state->places.n;
    struct tr_softmax op = {
        .samples = pass->samples,
        .rows = 1,
        .columns = n,
        .x = layer->buffer[SCORE],
        .mask = layer->in[2]->data,
        .x_stride = n,
        .mask_stride = layer->in[2]->stride,
        .y_stride = n,
        .y = layer->buffer[WEIGHT],
    };
    return state->softmax ? pass->backend->loops->softmax_forward(pass->backend, &op)
                          : keep_unmasked(layer, pass, layer->buffer[SCORE], layer->buffer[WEIGHT]);
}

static int weights_backward(const struct tr_layer *layer, struct tr_pass *pass)
{
    const struct din_state *state = layer->state;
    uint32_t n = state->places.n;
    struct tr_softmax_grad op = {
        .samples = pass->samples,
        .rows = 1,
        .columns = n,
        .y = layer->buffer[WEIGHT],
        .dy = layer->buffer[DWEIGHT],
        .y_stride = n,
        .dy_stride = n,
        .dx_stride = n,
        .dx = layer->buffer[DSCORE],
    };
    return state->softmax
               ? pass->backend->loops->softmax_backward(pass->backend, &op)
               : keep_unmasked(layer, pass, layer->buffer[DWEIGHT], layer->buffer[DSCORE]);
}

static struct tr_mix mix_of(const struct tr_layer *layer, const struct tr_pass *pass)
{
    const struct din_state *state = layer->state;
    return (struct tr_mix){
        .samples = pass->samples,
        .n = state->places.n,
        .dim = state->places.dim,
        .weight = layer->buffer[WEIGHT],
        .x = state->places.x,
        .x_stride = state->places.stride,
        .weight_stride = state->places.n,
        .y_stride = layer->out.stride,
        .y = layer->out.data,
    };
}

static int din_forward(struct tr_layer *layer, struct tr_pass *pass)
{
    struct din_state *state = layer->state;
    struct tr_din pairs = pairs_of(layer, pass);
    tr_vectors_bind(layer, &state->places);
    struct tr_mix mix = mix_of(layer, pass);
    int err = pass->backend->loops->din_forward(pass->backend, &pairs);
    if (!err)
        err = unit_forward(layer, pass);
    if (!err)
        err = weights(layer, pass);
    return err ? err : pass->backend->loops->mix_forward(pass->backend, &mix);
}

static int din_backward(struct tr_layer *layer, struct tr_pass *pass)
{
    struct din_state *state = layer->state;
    struct tr_value *q = layer->in[0], *k = layer->in[1];
    tr_vectors_bind_grad(layer, &state->places);
    struct tr_mix_grad mix = {
        .of = mix_of(layer, pass),
        .dy = layer->out.grad,
        .dy_stride = layer->out.stride,
        .dx = state->places.dx,
        .add = state->places.add,
        .dweight = layer->buffer[DWEIGHT],
    };
    int err = pass->backend->loops->mix_backward(pass->backend, &mix);
    if (!err)
        err = weights_backward(layer, pass);
    if (!err)
        err = unit_backward(layer, pass);
    if (err || !state->pairs.grad)
        return err;
    struct tr_din_grad pairs = {
        .of = pairs_of(layer, pass),
        .dy = state->pairs.grad,
        .dq = q->grad,
        .dk = k->grad,
        .add_dq = q->grad && tr_value_add(q),
        .add_dk = k->grad && tr_value_add(k),
    };
    return pass->backend->loops->din_backward(pass->backend, &pairs);
}

static const char *const options[] = {"kind", "sizes", "activation", "softmax", NULL};

const struct tr_layer_type tr_layer_attention_din = {
    .name = "attention din",
    .options = options,
    .build = din_build,
    .forward = din_forward,
    .backward = din_backward,
};
