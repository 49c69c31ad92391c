/* trainer/model/build.c -- from a description (tr_spec) to checked layers with known shapes.
 *
 * Layers are built in file order, so an input is always something that exists already and a cycle
 * cannot be written. What an input name means is looked for in this order: an earlier layer, the
 * wholes `dense` and `features`, a dense column, a feature; a name that could be two of them is an
 * error. Tensors of width 0 (dense, where the data has no dense columns) vanish from the inputs, and
 * a layer left with no input is left out, so one file serves data with and without them.
 *
 * Nothing sized by a batch is allocated here: layers state what they need, model.c sums it up. */
#include "trainer/model/build.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/strbuf.h"

int tr_build_fail(const struct tr_build *build, const char *fmt, ...)
{
    char text[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return RT_FAIL(RT_EUSAGE, "%s: layer '%s': %s", build->where, build->now->name, text);
}

/* ---- what build functions of layer types call ---- */

void *tr_build_alloc(struct tr_build *build, size_t count, size_t size)
{
    return rt_arena_calloc(build->model->arena, count, size);
}

static int add_tensor(struct tr_build *build, const char *role, uint32_t rows, uint32_t columns,
                      uint32_t rank, struct tr_start start)
{
    struct tr_model *model = build->model;
    struct tr_layer *layer = build->layer;
    if (model->n_tensors == build->n_tensors_max || layer->n_params == TR_LAYER_PARAMS_MAX)
        return tr_build_fail(build, "expected at most %u parameter tensors", TR_LAYER_PARAMS_MAX);
    size_t count = (size_t)rows * columns;
    if (model->count + count > TR_PARAMS_MAX)
        return tr_build_fail(build, "expected at most %llu parameters in all, got more with '%s'",
                             (unsigned long long)TR_PARAMS_MAX, role);
    char name[TR_NAME_MAX + 40];
    snprintf(name, sizeof name, "%s.%s", layer->name, role);
    struct tr_param *tensor = &model->tensor[model->n_tensors];
    *tensor = (struct tr_param){
        .name = rt_arena_strdup(model->arena, name),
        .shape = {rows, columns},
        .rank = rank,
        .offset = model->count,
        .count = count,
    };
    if (!tensor->name)
        return RT_FAIL(RT_ENOMEM, "layer '%s'", layer->name);
    model->start[model->n_tensors++] = start;
    model->count += count;
    layer->n_params++;
    return 0;
}

int tr_build_weight(struct tr_build *build, const char *role, uint32_t rows, uint32_t columns,
                    double bound)
{
    return add_tensor(build, role, rows, columns, 2, (struct tr_start){.bound = bound});
}

int tr_build_bias(struct tr_build *build, const char *role, uint32_t rows, double bound)
{
    return add_tensor(build, role, rows, 1, 1, (struct tr_start){.bound = bound});
}

int tr_build_constant(struct tr_build *build, const char *role, uint32_t rows, double value)
{
    return add_tensor(build, role, rows, 1, 1, (struct tr_start){.middle = value});
}

int tr_build_running(struct tr_build *build, const char *role, uint32_t rows, double value,
                     double momentum)
{
    int err = tr_build_constant(build, role, rows, value);
    if (!err)
        build->model->tensor[build->model->n_tensors - 1].momentum = momentum;
    build->model->whole_batch = true;
    return err;
}

int tr_build_scratch(struct tr_build *build, size_t floats)
{
    struct tr_layer *layer = build->layer;
    if (layer->n_buffers == TR_LAYER_BUFFERS_MAX)
        return tr_build_fail(build, "expected at most %u buffers", TR_LAYER_BUFFERS_MAX);
    layer->buffer_floats[layer->n_buffers++] = floats;
    return 0;
}

int tr_build_buffer(struct tr_build *build, size_t floats_per_sample)
{
    return tr_build_scratch(build, floats_per_sample * build->model->slice);
}

void tr_build_flops(struct tr_build *build, uint64_t multiply_adds)
{
    build->layer->flops += 2 * multiply_adds;
}

uint32_t tr_build_samples(const struct tr_build *build)
{
    return build->model->slice;
}

int tr_build_output(struct tr_build *build, struct tr_layer *layer, uint64_t width)
{
    if (width < 1 || width > TR_WIDTH_MAX)
        return tr_build_fail(build, "output: expected a width in 1..%u, got %llu", TR_WIDTH_MAX,
                             (unsigned long long)width);
    layer->out.rows = 1;
    layer->out.columns = layer->out.width = (uint32_t)width;
    layer->out.stride = tr_stride(width);
    return 0;
}

int tr_build_rows(struct tr_build *build, struct tr_layer *layer, uint32_t rows, uint32_t columns)
{
    int err = tr_build_output(build, layer, (uint64_t)rows * columns);
    layer->out.rows = rows;
    layer->out.columns = columns;
    return err;
}

struct tr_shape_text tr_shape(const struct tr_value *value)
{
    struct tr_shape_text shape;
    if (value->rows > 1)
        snprintf(shape.text, sizeof shape.text, "[samples][%u][%u]", value->rows, value->columns);
    else
        snprintf(shape.text, sizeof shape.text, "[samples][%u]", value->width);
    return shape;
}

int tr_build_one_input(const struct tr_build *build, const struct tr_layer *layer)
{
    if (layer->n_in == 1)
        return 0;
    return tr_build_fail(build, "expected one tensor as input, got %u: put a concat before it",
                         layer->n_in);
}

int tr_build_same_shape(const struct tr_build *build, const struct tr_layer *layer)
{
    const struct tr_value *first = layer->in[0];
    for (uint32_t i = 1; i < layer->n_in; i++)
        if (layer->in[i]->rows != first->rows || layer->in[i]->columns != first->columns)
            return tr_build_fail(build, "input '%s': expected %s as '%s' has, got %s",
                                 layer->in[i]->name, tr_shape(first).text, first->name,
                                 tr_shape(layer->in[i]).text);
    return 0;
}

int tr_build_mask(const struct tr_build *build, const struct tr_value *x,
                  const struct tr_value *mask)
{
    if (mask->trainable)
        return tr_build_fail(build, "input '%s': expected a mask, NAME.mask of a sequence",
                             mask->name);
    if (mask->rows != 1 || mask->columns != x->rows)
        return tr_build_fail(
            build, "input '%s': expected [samples][%u], a mask of the rows of '%s', got %s",
            mask->name, x->rows, x->name, tr_shape(mask).text);
    return 0;
}

/* ---- inputs ---- */

static int add_input(struct tr_build *build, struct tr_value *value)
{
    if (!value || value->width == 0)
        return 0;
    if (build->n_in == TR_LAYER_INPUTS_MAX)
        return tr_build_fail(build, "expected at most %u tensors as inputs", TR_LAYER_INPUTS_MAX);
    build->in[build->n_in++] = value;
    return 0;
}

static struct tr_value *find_value(struct tr_value *value, uint32_t n, const char *name)
{
    for (uint32_t i = 0; i < n; i++)
        if (strcmp(value[i].name, name) == 0)
            return &value[i];
    return NULL;
}

/* NAME.mask of a sequence NAME; NULL: no such. */
static struct tr_value *find_mask(const struct tr_model *model, const char *name)
{
    for (uint32_t i = 0; i < model->n_features; i++) {
        const struct tr_sequence *sequence = &model->sequence[i];
        if (sequence->length && strcmp(sequence->mask->name, name) == 0)
            return sequence->mask;
    }
    return NULL;
}

static const struct tr_known *find_known(const struct tr_build *build, const char *name)
{
    for (uint32_t i = 0; i < build->n_known; i++)
        if (strcmp(build->known[i].name, name) == 0)
            return &build->known[i];
    return NULL;
}

static int unknown_input(struct tr_build *build, const char *name)
{
    struct tr_model *model = build->model;
    size_t n = 0, max = 2 + build->n_known + (size_t)model->n_dense + 2 * model->n_features;
    const char **names = rt_xcalloc(max, sizeof *names);
    names[n++] = "dense";
    names[n++] = "features";
    for (uint32_t i = 0; i < build->n_known; i++)
        names[n++] = build->known[i].name;
    for (uint32_t i = 0; i < model->n_dense; i++)
        names[n++] = model->dense_column[i].name;
    for (uint32_t i = 0; i < model->n_features; i++) {
        names[n++] = model->feature[i].name;
        if (model->sequence[i].length)
            names[n++] = model->sequence[i].mask->name;
    }
    const char *near = rt_nearest(name, names, n);
    int err =
        tr_build_fail(build,
                      "input '%.80s': no earlier layer, dense column or feature has this "
                      "name%s%s%s",
                      name, near ? " (did you mean '" : "", near ? near : "", near ? "'?)" : "");
    rt_free(names);
    return err;
}

static int resolve_input(struct tr_build *build, const char *name)
{
    struct tr_model *model = build->model;
    const struct tr_known *earlier = find_known(build, name);
    if (earlier && earlier->loss)
        return tr_build_fail(build, "input '%s': a loss, whose output no layer can take", name);
    if (earlier)
        return add_input(build, earlier->value);
    if (strcmp(name, "dense") == 0)
        return add_input(build, &model->dense);
    if (strcmp(name, "features") == 0) {
        int err = 0;
        for (uint32_t i = 0; !err && i < model->n_features; i++)
            err = add_input(build, &model->feature[i]);
        return err;
    }
    struct tr_value *column = find_value(model->dense_column, model->n_dense, name);
    struct tr_value *feature = find_value(model->feature, model->n_features, name);
    struct tr_value *mask = find_mask(model, name);
    if (column && feature)
        return tr_build_fail(build, "input '%s': both a dense column and a feature have this name",
                             name);
    if (mask && (column || feature))
        return tr_build_fail(build, "input '%s': both a %s and a sequence's mask have this name",
                             name, column ? "dense column" : "feature");
    if (!column && !feature && !mask)
        return unknown_input(build, name);
    return add_input(build, mask ? mask : column ? column : feature);
}

/* Fills build->in; counts readers only once the layer is known to stay. */
static int resolve_inputs(struct tr_build *build)
{
    build->n_in = 0;
    if (build->now->inputs.n == 0)
        return tr_build_fail(build, "inputs: expected at least one name");
    int err = 0;
    for (uint32_t i = 0; !err && i < build->now->inputs.n; i++)
        err = resolve_input(build, build->now->inputs.word[i]);
    return err;
}

/* ---- layers ---- */

static int check_name(struct tr_build *build)
{
    const char *name = build->now->name;
    struct tr_model *model = build->model;
    const char *taken = NULL;
    if (find_known(build, name))
        taken = "an earlier layer";
    else if (strcmp(name, "dense") == 0 || strcmp(name, "features") == 0)
        taken = "a whole of the inputs";
    else if (find_value(model->dense_column, model->n_dense, name))
        taken = "a dense column";
    else if (find_value(model->feature, model->n_features, name))
        taken = "a feature";
    return taken ? tr_build_fail(build, "name: already that of %s", taken) : 0;
}

static int find_type(struct tr_build *build, const struct tr_layer_type **out)
{
    *out = tr_layer_type_find(build->now->type);
    if (*out)
        return 0;
    size_t n = 0;
    const char *const *names = tr_layer_type_names(&n);
    const char *near = rt_nearest(build->now->type, names, n);
    return tr_build_fail(build, "type: no layer type is called '%.80s'%s%s%s", build->now->type,
                         near ? " (did you mean '" : "", near ? near : "", near ? "'?)" : "");
}

int tr_build_options(struct tr_build *build, const struct tr_layer_type *type)
{
    size_t n = 0;
    while (type->options[n])
        n++;
    for (uint32_t i = 0; i < build->now->n_options; i++) {
        const char *key = build->now->option[i].key;
        size_t k = 0;
        while (k < n && strcmp(type->options[k], key) != 0)
            k++;
        if (k < n)
            continue;
        const char *near = n ? rt_nearest(key, type->options, n) : NULL;
        return tr_build_fail(build, "unknown key '%.80s' for type %s%s%s%s", key, type->name,
                             near ? " (did you mean '" : "", near ? near : "", near ? "'?)" : "");
    }
    return 0;
}

/* Give the layer its inputs; its output is trainable when anything before or in it is. */
static int place_layer(struct tr_build *build, const struct tr_layer_type *type)
{
    struct tr_model *model = build->model;
    struct tr_layer *layer = &model->layer[model->n_layers];
    build->layer = layer;
    layer->type = type;
    layer->number = model->n_layers;
    layer->name = rt_arena_strdup(model->arena, build->now->name);
    layer->in = rt_arena_array(model->arena, struct tr_value *, build->n_in);
    if (!layer->name || !layer->in)
        return RT_FAIL(RT_ENOMEM, "layer '%s': %u inputs", build->now->name, build->n_in);
    layer->n_in = build->n_in;
    layer->out.name = layer->name;
    layer->out.ours = true;
    layer->first_param = (uint32_t)model->n_tensors;
    for (uint32_t i = 0; i < build->n_in; i++) {
        layer->in[i] = build->in[i];
        layer->in[i]->readers++;
        layer->out.trainable |= layer->in[i]->trainable;
    }
    int err = type->build(build, layer);
    layer->out.trainable |= layer->n_params > 0;
    if (!err)
        model->n_layers++;
    return err;
}

static int build_layer(struct tr_build *build)
{
    struct tr_model *model = build->model;
    const struct tr_layer_type *type = NULL;
    build->where = build->now->where;
    int err = check_name(build);
    if (!err)
        err = find_type(build, &type);
    if (!err)
        err = tr_build_options(build, type);
    if (!err)
        err = resolve_inputs(build);
    if (err)
        return err;
    if (type->loss && !build->n_in)
        return tr_build_fail(build, "inputs: expected something to score, got a width of 0");
    struct tr_known *known = &build->known[build->n_known];
    if (build->n_in) {
        err = place_layer(build, type);
        if (err)
            return err;
        known->value = &model->layer[model->n_layers - 1].out;
    }
    known->name = build->now->name;
    known->loss = type->loss;
    build->n_known++;
    return 0;
}

static int check_ends(const struct tr_build *build)
{
    const struct tr_model *model = build->model;
    if (!model->n_heads)
        return RT_FAIL(RT_EUSAGE, "%s: expected a loss (bce, mse or softmax_ce), got %u layers",
                       build->spec->file, model->n_layers);
    for (uint32_t i = 0; i < model->n_layers; i++)
        if (model->layer[i].out.readers == 0 && !model->layer[i].head)
            return RT_FAIL(RT_EUSAGE, "%s: layer '%s': its output is used by no layer",
                           build->spec->file, model->layer[i].name);
    return 0;
}

/* ---- values that live in a concat ---- */

static bool read_later(const struct tr_model *model, uint32_t layer, const struct tr_value *value)
{
    for (uint32_t i = layer + 1; i < model->n_layers; i++)
        for (uint32_t k = 0; k < model->layer[i].n_in; k++)
            if (model->layer[i].in[k] == value)
                return true;
    return false;
}

/* A layer's output that a concat reads lies in the concat's rows, once, unless somebody wants it packed. The
 * concat must be its last reader: backward, it comes first and finds its own gradient complete. */
static void find_homes(struct tr_model *model)
{
    for (uint32_t l = 0; l < model->n_layers; l++) {
        struct tr_layer *layer = &model->layer[l];
        if (!layer->type->side_by_side)
            continue;
        size_t at = 0;
        for (uint32_t i = 0; i < layer->n_in; at += layer->in[i]->width, i++) {
            struct tr_value *in = layer->in[i];
            if (!in->ours || in->packed || in->home || read_later(model, l, in))
                continue;
            in->home = &layer->out;
            in->home_at = at;
        }
    }
}

static void close_gaps(struct tr_model *model)
{
    for (uint32_t l = 0; l < model->n_layers; l++)
        if (model->layer[l].out.packed)
            model->layer[l].out.stride = model->layer[l].out.width;
}

/* ---- the batch's own tensors ---- */

static int name_values(struct tr_model *model, struct tr_value **out, const char *const *name,
                       const uint32_t *width, uint32_t n, bool trainable)
{
    struct tr_value *value = rt_arena_array(model->arena, struct tr_value, n ? n : 1);
    if (!value)
        return RT_FAIL(RT_ENOMEM, "%u inputs of a model", n);
    for (uint32_t i = 0; i < n; i++) {
        value[i].name = rt_arena_strdup(model->arena, name[i]);
        value[i].width = width ? width[i] : 1;
        value[i].rows = 1;
        value[i].columns = value[i].width;
        value[i].stride = value[i].width;
        value[i].trainable = trainable;
        if (!value[i].name)
            return RT_FAIL(RT_ENOMEM, "%u inputs of a model", n);
        if (value[i].width < 1 || value[i].width > TR_WIDTH_MAX)
            return RT_FAIL(RT_EUSAGE, "feature '%s': expected a width in 1..%u, got %u", name[i],
                           TR_WIDTH_MAX, value[i].width);
    }
    *out = value;
    return 0;
}

/* A sequence is as wide as its longest one, and has a mask beside it. */
static int name_sequences(struct tr_model *model, const struct tr_model_inputs *inputs)
{
    uint32_t n = inputs->n_features;
    model->sequence = rt_arena_array(model->arena, struct tr_sequence, n ? n : 1);
    if (!model->sequence)
        return RT_FAIL(RT_ENOMEM, "%u inputs of a model", n);
    for (uint32_t i = 0; inputs->feature_length && i < n; i++) {
        struct tr_sequence *sequence = &model->sequence[i];
        struct tr_value *feature = &model->feature[i];
        uint64_t length = inputs->feature_length[i], width = length * feature->width;
        if (!length)
            continue;
        if (width > TR_WIDTH_MAX)
            return RT_FAIL(RT_EUSAGE,
                           "feature '%s': expected max_length x dim of at most %u, got %u x %u",
                           feature->name, TR_WIDTH_MAX, (uint32_t)length, feature->width);
        size_t size = strlen(feature->name) + sizeof ".mask";
        char *name = rt_arena_alloc(model->arena, size);
        sequence->mask = rt_arena_array(model->arena, struct tr_value, 1);
        if (!name || !sequence->mask)
            return RT_FAIL(RT_ENOMEM, "%u inputs of a model", n);
        snprintf(name, size, "%s.mask", feature->name);
        *sequence->mask = (struct tr_value){.name = name,
                                            .rows = 1,
                                            .columns = (uint32_t)length,
                                            .width = (uint32_t)length,
                                            .stride = (uint32_t)length};
        sequence->length = (uint32_t)length;
        sequence->dim = feature->width;
        feature->rows = (uint32_t)length;
        feature->width = (uint32_t)width;
        feature->stride = feature->width;
    }
    return 0;
}

static int count_classes(struct tr_model *model, const struct tr_model_inputs *inputs)
{
    uint32_t n = inputs->n_labels ? inputs->n_labels : 1;
    model->label_classes = rt_arena_array(model->arena, uint32_t, n);
    if (!model->label_classes)
        return RT_FAIL(RT_ENOMEM, "%u labels of a model", n);
    for (uint32_t i = 0; i < inputs->n_labels; i++)
        model->label_classes[i] = inputs->label_classes ? inputs->label_classes[i] : 2;
    return 0;
}

static int name_inputs(struct tr_model *model, const struct tr_model_inputs *inputs)
{
    model->n_dense = inputs->n_dense;
    model->n_features = inputs->n_features;
    model->n_labels = inputs->n_labels;
    model->dense = (struct tr_value){.name = "dense",
                                     .rows = 1,
                                     .columns = inputs->n_dense,
                                     .width = inputs->n_dense,
                                     .stride = inputs->n_dense};
    int err = name_values(model, &model->dense_column, inputs->dense, NULL, inputs->n_dense, false);
    if (!err)
        err = name_values(model, &model->feature, inputs->feature, inputs->feature_dim,
                          inputs->n_features, true);
    if (!err)
        err = name_sequences(model, inputs);
    size_t n = inputs->n_features ? inputs->n_features : 1;
    model->unfit = err ? NULL : rt_arena_array(model->arena, bool, n);
    if (!err &&
        (!model->unfit || !(model->feature_space = rt_arena_array(model->arena, tr_real *, n))))
        err = RT_FAIL(RT_ENOMEM, "%u inputs of a model", inputs->n_features);
    if (!err)
        err = name_values(model, &model->label, inputs->label, NULL, inputs->n_labels, false);
    return err ? err : count_classes(model, inputs);
}

int tr_build_model(struct tr_model *model, const struct tr_spec *spec,
                   const struct tr_model_inputs *inputs)
{
    struct tr_build *build = rt_try_calloc(1, sizeof *build);
    if (!build)
        return RT_FAIL(RT_ENOMEM, "%s: no memory to build the model", spec->file);
    build->model = model;
    build->spec = spec;
    build->n_tensors_max = (size_t)spec->n_layers * TR_LAYER_PARAMS_MAX;
    size_t layers = spec->n_layers ? spec->n_layers : 1;
    model->layer = rt_arena_array(model->arena, struct tr_layer, layers);
    model->tensor = rt_arena_array(model->arena, struct tr_param, layers * TR_LAYER_PARAMS_MAX);
    model->start = rt_arena_array(model->arena, struct tr_start, layers * TR_LAYER_PARAMS_MAX);
    int err = model->layer && model->tensor && model->start
                  ? name_inputs(model, inputs)
                  : RT_FAIL(RT_ENOMEM, "%s: %u layers", spec->file, spec->n_layers);
    for (uint32_t i = 0; !err && i < spec->n_layers; i++) {
        build->now = &spec->layer[i];
        err = build_layer(build);
    }
    if (!err)
        err = check_ends(build);
    if (!err) {
        find_homes(model);
        close_gaps(model);
    }
    rt_free(build);
    return err;
}
