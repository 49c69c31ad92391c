/* tests/unit/dense_golden.c -- see the header. */
#include "tests/unit/dense_golden.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "trainer/model/spec.h"

#define GOLDEN_FILE "tests/golden/dense_model.txt"

void golden_load(struct golden *golden)
{
    golden_load_from(golden, GOLDEN_FILE);
}

void golden_load_from(struct golden *golden, const char *path)
{
    FILE *file = fopen(path, "r");
    if (!file)
        fail_msg("%s: not found; tests run in the repository's root", path);
    char word[64], owner[32] = "";
    golden->n = golden->n_cases = 0;
    while (fscanf(file, "%63s", word) == 1) {
        if (word[0] == '#') {
            rt_assert(fscanf(file, "%*[^\n]") >= 0);
            continue;
        }
        if (strcmp(word, "case") == 0) {
            rt_assert(golden->n_cases < GOLDEN_CASES_MAX && fscanf(file, "%31s", owner) == 1);
            struct golden_case *one = &golden->one[golden->n_cases++];
            memcpy(one->name, owner, sizeof one->name);
            one->spec[0] = '\0';
            continue;
        }
        if (strcmp(word, "spec") == 0) {
            rt_assert(golden->n_cases > 0);
            rt_assert(fscanf(file, " %399[^\n]", golden->one[golden->n_cases - 1].spec) == 1);
            continue;
        }
        rt_assert(golden->n < GOLDEN_ARRAYS_MAX);
        struct golden_array *array = &golden->array[golden->n++];
        snprintf(array->owner, sizeof array->owner, "%s", owner);
        snprintf(array->name, sizeof array->name, "%.47s", word);
        rt_assert(fscanf(file, "%zu", &array->n) == 1 && array->n < 100000);
        array->value = rt_xcalloc(array->n + 1, sizeof *array->value);
        for (size_t i = 0; i < array->n; i++)
            rt_assert(fscanf(file, "%f", &array->value[i]) == 1);
    }
    fclose(file);
}

void golden_release(struct golden *golden)
{
    for (size_t i = 0; i < golden->n; i++)
        rt_free(golden->array[i].value);
    golden->n = 0;
}

const struct golden_array *golden_get(const struct golden *golden, const char *owner,
                                      const char *name, ...)
{
    char text[64];
    va_list args;
    va_start(args, name);
    vsnprintf(text, sizeof text, name, args);
    va_end(args);
    for (size_t i = 0; i < golden->n; i++)
        if (strcmp(golden->array[i].owner, owner) == 0 && strcmp(golden->array[i].name, text) == 0)
            return &golden->array[i];
    return NULL;
}

void assert_close(const char *what, const float *got, const float *want, size_t n, double tolerance)
{
    for (size_t i = 0; i < n; i++) {
        double off = fabs((double)got[i] - want[i]);
        if (!(off <= tolerance * fmax(1, fabs((double)want[i]))))
            fail_msg("%s[%zu]: got %.9g, want %.9g", what, i, (double)got[i], (double)want[i]);
    }
}

static void add_layer(struct tr_spec *spec, const char *name, const char *type, const char *in0,
                      const char *in1)
{
    const char *const inputs[] = {in0, in1};
    assert_int_equal(tr_spec_layer(spec, name, type, inputs, in1 ? 2 : 1, spec->file), 0);
}

static void add_sizes(struct tr_spec *spec, const uint32_t *size, uint32_t n)
{
    char text[4][16];
    const char *word[4];
    for (uint32_t i = 0; i < n; i++) {
        snprintf(text[i], sizeof text[i], "%u", size[i]);
        word[i] = text[i];
    }
    assert_int_equal(tr_spec_option(spec, "sizes", word, n, spec->file), 0);
}

struct tr_spec *spec_dlrm(uint32_t hidden, uint32_t dim, uint32_t top0, uint32_t top1)
{
    static const char *const relu[] = {"relu"};
    struct tr_spec *spec = NULL;
    assert_int_equal(tr_spec_create("dlrm.yml", &spec), 0);
    add_layer(spec, "bottom", "mlp", "dense", NULL);
    add_sizes(spec, (uint32_t[]){hidden, dim}, 2);
    assert_int_equal(tr_spec_option(spec, "last", relu, 1, spec->file), 0);
    add_layer(spec, "dots", "dot_interaction", "bottom", "features");
    add_layer(spec, "both", "concat", "bottom", "dots");
    add_layer(spec, "logit", "mlp", "both", NULL);
    add_sizes(spec, (uint32_t[]){top0, top1, 1}, 3);
    add_layer(spec, "loss", "bce", "logit", NULL);
    return spec;
}

struct tr_spec *spec_mlp(uint32_t top0, uint32_t top1)
{
    struct tr_spec *spec = NULL;
    assert_int_equal(tr_spec_create("mlp.yml", &spec), 0);
    add_layer(spec, "all", "concat", "features", "dense");
    add_layer(spec, "logit", "mlp", "all", NULL);
    add_sizes(spec, (uint32_t[]){top0, top1, 1}, 3);
    add_layer(spec, "loss", "bce", "logit", NULL);
    return spec;
}
