/* trainer/model/option.c -- the options of a layer: words to what its type's build function asks for. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/assert.h"
#include "trainer/model/build.h"

const struct tr_words *tr_build_option(struct tr_build *build, const char *key)
{
    build->where = build->now->where;
    for (uint32_t i = 0; i < build->now->n_options; i++) {
        if (strcmp(build->now->option[i].key, key) == 0) {
            build->where = build->now->option[i].value.where;
            return &build->now->option[i].value;
        }
    }
    return NULL;
}

static int read_integer(const struct tr_build *build, const char *key, const char *word,
                        uint32_t min, uint32_t max, uint32_t *out)
{
    char *end = NULL;
    errno = 0;
    unsigned long long value = strtoull(word, &end, 10);
    if (errno || *end || word[0] < '0' || word[0] > '9' || value < min || value > max)
        return tr_build_fail(build, "%s: expected an integer in %u..%u, got '%.40s'", key, min, max,
                             word);
    *out = (uint32_t)value;
    return 0;
}

int tr_build_sizes(struct tr_build *build, const char *key, uint32_t max, uint32_t *size,
                   uint32_t *n)
{
    const struct tr_words *words = tr_build_option(build, key);
    if (!words)
        return tr_build_fail(build, "%s: expected a list of sizes, got nothing", key);
    if (words->n < 1 || words->n > max)
        return tr_build_fail(build, "%s: expected 1..%u sizes, got %u", key, max, words->n);
    int err = 0;
    for (uint32_t i = 0; !err && i < words->n; i++)
        err = read_integer(build, key, words->word[i], 1, TR_WIDTH_MAX, &size[i]);
    *n = words->n;
    return err;
}

/* The single word of an option; NULL in *word when the option is absent. */
static int build_word(struct tr_build *build, const char *key, const char **word)
{
    const struct tr_words *words = tr_build_option(build, key);
    *word = NULL;
    if (!words)
        return 0;
    if (words->n != 1)
        return tr_build_fail(build, "%s: expected one word, got %u", key, words->n);
    *word = words->word[0];
    return 0;
}

int tr_build_integer(struct tr_build *build, const char *key, uint32_t min, uint32_t max,
                     uint32_t *out)
{
    const char *word = NULL;
    int err = build_word(build, key, &word);
    return err || !word ? err : read_integer(build, key, word, min, max, out);
}

int tr_build_real(struct tr_build *build, const char *key, double min, double max, double *out)
{
    const char *word = NULL;
    char *end = NULL;
    int err = build_word(build, key, &word);
    if (err || !word)
        return err;
    double value = strtod(word, &end);
    if (end == word || *end || !(value >= min && value <= max))
        return tr_build_fail(build, "%s: expected a number in %g..%g, got '%.40s'", key, min, max,
                             word);
    *out = value;
    return 0;
}

/* Which of choices[n] a word is. */
static int find_choice(const struct tr_build *build, const char *key, const char *word,
                       const char *const *choices, uint32_t n, uint32_t *out)
{
    char list[200] = "";
    for (uint32_t i = 0; i < n; i++) {
        if (strcmp(word, choices[i]) == 0) {
            *out = i;
            return 0;
        }
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i ? "|" : "", choices[i]);
    }
    return tr_build_fail(build, "%s: expected %s, got '%.40s'", key, list, word);
}

int tr_build_choice(struct tr_build *build, const char *key, const char *const *choices, uint32_t n,
                    uint32_t *out)
{
    const char *word = NULL;
    int err = build_word(build, key, &word);
    *out = 0;
    return err || !word ? err : find_choice(build, key, word, choices, n, out);
}

int tr_build_flag(struct tr_build *build, const char *key, bool *out)
{
    static const char *const words[] = {"false", "true"};
    uint32_t choice = *out;
    const char *word = NULL;
    int err = build_word(build, key, &word);
    if (!err && word)
        err = find_choice(build, key, word, words, 2, &choice);
    *out = choice;
    return err;
}

int tr_build_acts(struct tr_build *build, const char *key, uint32_t max, enum tr_act_kind *act,
                  uint32_t *n)
{
    static const char *const names[] = {"none", "relu", "gelu", "sigmoid", "tanh", "prelu", "dice"};
    _Static_assert(ARRAY_LEN(names) == TR_ACT_COUNT, "a name for each");
    const struct tr_words *words = tr_build_option(build, key);
    int err = 0;
    *n = words ? words->n : 0;
    if (words && (words->n < 1 || words->n > max))
        return tr_build_fail(build, "%s: expected 1..%u words, got %u", key, max, words->n);
    for (uint32_t i = 0; !err && i < *n; i++) {
        uint32_t kind = 0;
        err = find_choice(build, key, words->word[i], names, TR_ACT_COUNT, &kind);
        act[i] = (enum tr_act_kind)kind;
    }
    return err;
}

static int find_label(struct tr_build *build, uint32_t *out)
{
    struct tr_model *model = build->model;
    const char *word = NULL;
    int err = build_word(build, "label", &word);
    *out = 0;
    if (err)
        return err;
    if (!word && model->n_labels != 1)
        return tr_build_fail(build, "label: the data has %u labels, say which", model->n_labels);
    while (word && *out < model->n_labels && strcmp(model->label[*out].name, word) != 0)
        ++*out;
    if (*out == model->n_labels)
        return tr_build_fail(build, "label: no label is called '%.80s'", word);
    return 0;
}

int tr_build_head(struct tr_build *build, struct tr_layer *layer, enum tr_head_kind kind,
                  uint32_t classes, struct tr_value **label)
{
    struct tr_model *model = build->model;
    struct tr_head *head = &model->head[model->n_heads];
    uint32_t which = 0;
    if (model->n_heads == TR_HEADS_MAX)
        return tr_build_fail(build, "expected at most %u losses", TR_HEADS_MAX);
    int err = find_label(build, &which);
    if (err)
        return err;
    if (classes && model->label_classes[which] != classes)
        return tr_build_fail(build, "label '%s': expected %u classes, in data.yml it has %u%s",
                             model->label[which].name, classes, model->label_classes[which],
                             model->label_classes[which] ? "" : ", being any number");
    *head = (struct tr_head){.name = layer->name,
                             .kind = kind,
                             .label = which,
                             .classes = classes,
                             .first = model->score_columns,
                             .columns = 1,
                             .weight = 1};
    if (kind == TR_HEAD_SOFTMAX)
        head->columns = tr_head_is_wide(head) ? TR_WIDE_COLUMNS : classes;
    err = tr_build_real(build, "weight", 0, 1e6, &head->weight);
    if (err)
        return err;
    model->label[which].readers++;
    model->score_columns += head->columns;
    model->n_heads++;
    layer->head = head;
    *label = &model->label[which];
    return 0;
}

const char *tr_head_kind_name(enum tr_head_kind kind)
{
    static const char *const name[] = {"bce", "mse", "softmax_ce"};
    return name[kind];
}
