/* tests/lib/data_job.c -- see data_job.h. */
#include "tests/lib/data_job.h"

#include "runtime/base/assert.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint32_t feature_of(struct data_job *dj, const char *name)
{
    uint32_t f = 0;

    while (f < dj->job.n_features && strcmp(dj->feature[f].name, name) != 0)
        f++;
    if (f == dj->job.n_features) {
        dj->feature[f] = (struct rt_feature_conf){.name = name, .max_length = 4};
        dj->job.n_features++;
    }
    return f;
}

/* Words of a feature that are not its name. */
static bool feature_option(struct rt_column_conf *c, const char *word)
{
    if (strcmp(word, "list") == 0) {
        c->separator = '|';
        c->empty = RT_EMPTY_NONE;
    } else if (strcmp(word, "int") == 0) {
        c->integer = true;
        c->empty = c->separator ? c->empty : RT_EMPTY_BAD;
    } else if (strcmp(word, "weights") == 0) {
        c->weight_separator = ':';
    } else if (strcmp(word, "none") == 0) {
        c->empty = RT_EMPTY_NONE;
    } else if (strcmp(word, "bad") == 0) {
        c->empty = RT_EMPTY_BAD;
    } else if (strncmp(word, "freq", 4) == 0) {
        c->min_frequency = (uint32_t)(word[4] - '0');
    } else {
        return false;
    }
    return true;
}

static void add_feature(struct data_job *dj, struct rt_column_conf *c, char *more)
{
    const char *name = c->name;
    uint32_t truncate = RT_TRUNCATE_REFUSE;
    char *save = NULL;

    c->kind = RT_COLUMN_FEATURE;
    c->empty = RT_EMPTY_ID;
    for (char *w = more ? strtok_r(more, ",", &save) : NULL; w; w = strtok_r(NULL, ",", &save))
        if (strcmp(w, "head") == 0)
            truncate = RT_TRUNCATE_HEAD;
        else if (strcmp(w, "tail") == 0)
            truncate = RT_TRUNCATE_TAIL;
        else if (!feature_option(c, w))
            name = w;
    c->target = feature_of(dj, name);
    if (truncate != RT_TRUNCATE_REFUSE)
        dj->feature[c->target].truncate = truncate;
}

static void add_dense(struct data_job *dj, struct rt_column_conf *c, const char *more)
{
    c->kind = RT_COLUMN_DENSE;
    c->transform = more && strstr(more, "log1p") ? RT_TRANSFORM_LOG1P : RT_TRANSFORM_NONE;
    c->standardize = more && strstr(more, "std");
    c->missing = more && strstr(more, "missing") ? 7 : 0;
    c->empty = more && strstr(more, "bad") ? RT_EMPTY_BAD : RT_EMPTY_VALUE;
    c->low = more && strstr(more, "clip") ? -2 : -INFINITY;
    c->high = more && strstr(more, "clip") ? 5 : INFINITY;
    dj->dense[c->target = dj->job.data.n_dense++] = c->name;
}

static void add_column(struct data_job *dj, char *name, const char *kind, char *more)
{
    struct rt_data_conf *data = &dj->job.data;
    struct rt_column_conf *c = &dj->column[data->n_columns++];

    c->name = name;
    if (strcmp(kind, "feature") == 0) {
        add_feature(dj, c, more);
    } else if (strcmp(kind, "dense") == 0) {
        add_dense(dj, c, more);
    } else if (strcmp(kind, "label") == 0) {
        c->kind = RT_COLUMN_LABEL;
        c->real = more && strcmp(more, "real") == 0;
        c->classes = more && !c->real ? (uint32_t)strtoul(more, NULL, 10) : 0;
        dj->label_classes[data->n_labels] = rt_label_classes(c);
        dj->label[c->target = data->n_labels++] = name;
    } else if (strcmp(kind, "weight") == 0) {
        c->kind = RT_COLUMN_WEIGHT;
        data->weighted = true;
    } else if (strcmp(kind, "group") == 0) {
        c->kind = RT_COLUMN_GROUP;
        c->integer = more && strstr(more, "int");
        data->grouped = true;
    } else if (strcmp(kind, "key") == 0) {
        c->kind = RT_COLUMN_KEY;
        data->keyed = true;
    } else {
        c->kind = RT_COLUMN_IGNORE;
    }
}

void data_job_init(struct data_job *dj, enum rt_format format, bool header, const char *columns)
{
    struct rt_data_conf *data = &dj->job.data;
    char *save = NULL;

    memset(dj, 0, sizeof(*dj));
    rt_assert(strlen(columns) < sizeof(dj->text));
    snprintf(dj->text, sizeof(dj->text), "%s", columns);
    for (char *w = strtok_r(dj->text, " ", &save); w; w = strtok_r(NULL, " ", &save)) {
        char *kind = strchr(w, '='), *more = strchr(w, ':');

        *kind++ = 0;
        if (more)
            *more++ = 0;
        add_column(dj, w, kind, more);
    }
    if (format == RT_FORMAT_LIBSVM && !data->n_labels) {
        dj->label_classes[0] = 2;
        dj->label[data->n_labels++] = "label";
    }
    data->format = format;
    data->header = header;
    data->column = dj->column;
    data->batch_size = 16;
    data->epochs = 1;
    data->splits = 8;
    data->block_rows = data->shuffle_rows = 32;
    data->shuffle = true;
    data->window = 4;
    data->max_bad_ratio = 0.001;
    data->frequency_memory = 1u << 20;
    dj->job.name = "test";
    dj->job.global.seed = 1;
    dj->job.feature = dj->feature;
    dj->job.dense = dj->dense;
    dj->job.label = dj->label;
    dj->job.label_classes = dj->label_classes;
}
