/* trainer/describe.c -- the model and the optimizer that a job asks for, made; and told, for --describe. */
#include "trainer/describe.h"
#include "trainer/gpu.h"

#include "runtime/base/mem.h"
#include "runtime/job/job.h"
#include "trainer/model/model.h"
#include "trainer/model/parse.h"
#include "trainer/model/spec.h"
#include "trainer/optimizer.h"
#include "trainer/optimizer_conf.h"
#include "trainer/schedule.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* What one rank may bring to a sum over all: of a parameter one gradient each, of a row as many as the ids of a
 * batch, which may all be the same (times the rows of each, where they are hashed). Half of it is kept for the rounding of the sum. */
static void limit_gradients(const struct rt_job *job, uint32_t world, struct tr_model_conf *conf)
{
    double ids = 0, each = (double)RT_GRADIENT_MAX / 2 / world;
    for (uint32_t f = 0; f < job->n_features; f++) {
        uint32_t functions = job->table[job->feature[f].table].hash_functions;
        ids +=
            (double)job->feature[f].max_length * job->data.batch_size * (functions ? functions : 1);
    }
    conf->gradient_max = (float)each;
    conf->feature_gradient_max = (float)(each / fmax(1, fmin(ids, WIRE_IDS_MAX)));
}

int tr_job_model(const struct rt_job *job, uint32_t samples_max, uint32_t world,
                 const struct tr_device_of *device, struct tr_model **out)
{
    const char **feature = rt_xcalloc(job->n_features, sizeof *feature);
    uint32_t *dim = rt_xcalloc(job->n_features, sizeof *dim);
    uint32_t *length = rt_xcalloc(job->n_features, sizeof *length);
    for (uint32_t f = 0; f < job->n_features; f++) {
        feature[f] = job->feature[f].name;
        dim[f] = job->table[job->feature[f].table].dim;
        length[f] = rt_feature_is_sequence(job, f) ? job->feature[f].max_length : 0;
    }
    struct tr_model_inputs inputs = {
        .dense = job->dense,
        .n_dense = job->data.n_dense,
        .feature = feature,
        .feature_dim = dim,
        .feature_length = length,
        .n_features = job->n_features,
        .label = job->label,
        .label_classes = job->label_classes,
        .n_labels = job->data.n_labels,
    };
    struct tr_model_conf conf = {
        .seed = job->global.seed,
        .samples_max = samples_max,
        .threads = (int)job->global.trainer_threads,
        .gpu = device ? device->gpu : NULL,
        .cuda = device ? device->cuda : NULL,
        .precision = job->precision, /* half.h's numbers are the wire's */
        .feature_dtype = job->global.wire.embeddings,
        .feature_grad_dtype = job->global.wire.gradients,
    };
    limit_gradients(job, world, &conf);
    struct tr_spec *spec = NULL;
    int err = tr_parse_model(job->model, job->model == job->model_conf, job->params, &spec);
    if (!err)
        err = tr_model_create(spec, &inputs, &conf, out);
    tr_spec_destroy(spec);
    rt_free(feature);
    rt_free(dim);
    rt_free(length);
    return err;
}

int tr_job_optimizer(const struct rt_job *job, const struct tr_model *model,
                     struct tr_optimizer **out, double *learning_rate, struct tr_schedule *schedule)
{
    const struct rt_node *section = rt_node_get(job->model_conf, "optimizer");
    struct tr_optimizer_conf conf;
    size_t n, n_spans = 0;
    const struct tr_param *tensor = tr_model_tensors(model, &n);
    struct tr_span *span = rt_xcalloc(n + 1, sizeof *span);
    int err = tr_parse_optimizer(section, &conf, learning_rate);
    if (!err)
        err = tr_parse_spans(section, &conf, tensor, n, span, &n_spans);
    if (!err)
        err = tr_parse_schedule(rt_node_get(job->model_conf, "schedule"), schedule);
    if (!err)
        err = tr_optimizer_create_spans(&conf, tr_model_count(model), span, n_spans, out);
    rt_free(span);
    return err;
}

/* Without running averages. */
static size_t count_parameters(const struct tr_model *model)
{
    size_t n, count = 0;
    const struct tr_param *tensor = tr_model_tensors(model, &n);
    for (size_t t = 0; t < n; t++)
        count += tensor[t].momentum > 0 ? 0 : tensor[t].count;
    return count;
}

/* As wide as its widest name, whatever that is. */
static void print_layers(const struct tr_model *model)
{
    int name = 5, type = 4, shape = 6;
    struct tr_layer_facts f, sum = {0};
    for (uint32_t i = 0; i < tr_model_layers(model); i++) {
        tr_model_layer(model, i, &f);
        name = (int)fmax(name, (double)strlen(f.name));
        type = (int)fmax(type, (double)strlen(f.type));
        shape = (int)fmax(shape, (double)strlen(f.shape));
    }
    printf("  %-*s  %-*s  %-*s  %10s  %12s  %10s\n", name, "layer", type, "type", shape, "output",
           "parameters", "FLOPs/sample", "memory KiB");
    for (uint32_t i = 0; i < tr_model_layers(model); i++) {
        tr_model_layer(model, i, &f);
        printf("  %-*s  %-*s  %-*s  %10zu  %12" PRIu64 "  %10.1f\n", name, f.name, type, f.type,
               shape, f.shape, f.parameters, f.flops, (double)f.bytes / 1024);
        sum.parameters += f.parameters;
        sum.flops += f.flops;
        sum.bytes += f.bytes;
    }
    printf("  %-*s  %-*s  %-*s  %10zu  %12" PRIu64 "  %10.1f\n", name, "total", type, "", shape, "",
           sum.parameters, sum.flops, (double)sum.bytes / 1024);
}

static void print_schedule(const struct tr_schedule *s)
{
    if (s->warmup > 0)
        printf(", warm-up of %" PRIu64 " steps from factor %g", s->warmup, s->warmup_start);
    if (s->kind == TR_SCHEDULE_STEP)
        printf(", times %g every %" PRIu64 " steps", s->gamma, s->every);
    else if (s->kind != TR_SCHEDULE_CONSTANT)
        printf(", %s to factor %g at step %" PRIu64, tr_schedule_name(s->kind), s->final, s->steps);
}

int tr_describe(const struct rt_job *job)
{
    struct tr_model *model = NULL;
    struct tr_optimizer *optimizer = NULL;
    struct tr_schedule schedule;
    double learning_rate;
    int err = tr_job_model(job, job->data.batch_size, 1, NULL, &model);
    if (!err)
        err = tr_job_optimizer(job, model, &optimizer, &learning_rate, &schedule);
    if (!err) {
        printf("model %s, from the first layer to the loss:\n", job->model_name);
        print_layers(model);
        printf("%zu dense parameters, learning rate %g", count_parameters(model), learning_rate);
        print_schedule(&schedule);
        if (job->precision != WIRE_F32)
            printf(", matrix products in %s", rt_dtype_name(job->precision));
        printf("\n");
    }
    tr_optimizer_destroy(optimizer);
    tr_model_destroy(model);
    return err;
}

/* ---- as a picture ---- */

/* A quoted string of the language dot. */
static void print_quoted(const char *text)
{
    putchar('"');
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            putchar('\\');
        putchar(*text);
    }
    putchar('"');
}

static void print_node(const struct tr_model *model, uint32_t i)
{
    struct tr_layer_facts f;
    char text[300];
    tr_model_layer(model, i, &f);
    snprintf(text, sizeof text, "%s: %s\n%s\n%zu parameters, %" PRIu64 " FLOPs", f.name, f.type,
             f.shape, f.parameters, f.flops);
    printf("  ");
    print_quoted(f.name);
    printf(" [shape=box, label=");
    print_quoted(text);
    printf("];\n");
    for (uint32_t k = 0; k < f.n_inputs; k++) {
        printf("  ");
        print_quoted(tr_model_layer_input(model, i, k));
        printf(" -> ");
        print_quoted(f.name);
        printf(";\n");
    }
}

int tr_describe_picture(const struct rt_job *job)
{
    struct tr_model *model = NULL;
    int err = tr_job_model(job, job->data.batch_size, 1, NULL, &model);
    if (err)
        return err;
    printf("digraph ");
    print_quoted(job->model_name);
    printf(" {\n");
    for (uint32_t i = 0; i < tr_model_layers(model); i++)
        print_node(model, i);
    printf("}\n");
    tr_model_destroy(model);
    return 0;
}
