/* data_compose/parse_text.c -- lines cut into fields: csv, libsvm. (Tabs: row_loops.inc.h.) */
#include "data_compose/parse_row.h"
#include "data_compose/source.h"

#include "runtime/base/err.h"
#include "runtime/base/mem.h"

#include <math.h>
#include <string.h>

int dc_wrong_count(const struct dc_parser *parser, const char *text, size_t size, char separator)
{
    uint32_t n = 1;

    for (size_t i = 0; i < size; i++)
        n += text[i] == separator;
    return RT_FAIL(RT_EDATA, "expected %u fields, got %u", parser->n_fields, n);
}

/* ---- csv ---- */

static int quoted_field(const char *text, size_t size, size_t *at, char *unquoted, size_t *out_size)
{
    size_t i = *at + 1, n = 0;

    for (;; i++) {
        if (i >= size)
            return RT_FAIL(RT_EDATA, "a quote is not closed on its line");
        if (text[i] == '"') {
            if (i + 1 >= size || text[i + 1] != '"')
                break;
            i++; /* two quotes stand for one */
        }
        unquoted[n++] = text[i];
    }
    if (i + 1 < size && text[i + 1] != ',')
        return RT_FAIL(RT_EDATA, "expected a comma after a closing quote, at byte %zu", i + 1);
    *at = i + 2;
    *out_size = n;
    return 0;
}

int dc_csv_field(const char *text, size_t size, size_t *at, char *unquoted, const char **field,
                 size_t *field_size)
{
    const char *from = text + *at;

    if (*at < size && *from == '"') {
        *field = unquoted;
        return quoted_field(text, size, at, unquoted, field_size);
    }
    const char *comma = *at < size ? memchr(from, ',', size - *at) : NULL;
    *field = from;
    *field_size = comma ? (size_t)(comma - from) : size - *at;
    *at += *field_size + 1;
    return 0;
}

int dc_line_csv(struct dc_parser *parser, const char *text, size_t size)
{
    size_t at = 0, field_size = 0;
    uint32_t i = 0;

    if (!parser->unquoted)
        parser->unquoted = rt_xmalloc(DC_LINE_MAX);
    for (; at <= size; i++) {
        const char *field;
        int err = dc_csv_field(text, size, &at, parser->unquoted, &field, &field_size);

        if (!err && i < parser->n_fields)
            err = dc_put_field(parser, parser->field[i], field, field_size);
        if (err)
            return err;
    }
    return i == parser->n_fields
               ? dc_finish_row(parser)
               : RT_FAIL(RT_EDATA, "expected %u fields, got %u", parser->n_fields, i);
}

/* ---- libsvm: label id:value id:value ... ---- */

static bool blank(char c)
{
    return c == ' ' || c == '\t';
}

/* The next word, or size 0 at the end of the line. */
static const char *next_word(const char *at, const char *end, size_t *size)
{
    while (at < end && blank(*at))
        at++;
    *size = 0;
    while (at + *size < end && !blank(at[*size]))
        (*size)++;
    return at;
}

/* What follows an id: `:1` or `:0`, is it there; or, where the column says so, its weight. Nothing is there with weight 0. */
static int put_value(struct dc_parser *p, uint32_t position, const char *value, size_t size)
{
    struct dc_column *column = p->field[position];
    double weight = 0;

    if (!column->conf->weight_separator) {
        if (size != 1 || (value[0] != '0' && value[0] != '1'))
            return -1;
        column->n_ids = value[0] == '1';
        return 0;
    }
    if (!dc_parse_number(value, size, &weight) || !isfinite((float)weight))
        return -1;
    p->slot_weight[column->slot] = (float)weight;
    column->n_ids = (float)weight != 0;
    return 0;
}

static int put_pair(struct dc_parser *p, uint32_t position, const char *word, size_t size)
{
    struct dc_column *column = p->field[position];
    uint64_t id = 0;
    size_t i = 0;

    for (; i < size && word[i] >= '0' && word[i] <= '9'; i++)
        if (__builtin_mul_overflow(id, 10, &id) ||
            __builtin_add_overflow(id, (uint64_t)(word[i] - '0'), &id))
            return RT_FAIL(RT_EDATA, "position %u: id is over 64 bits", position);
    if (i == 0 || i == size || word[i] != ':' ||
        put_value(p, position, word + i + 1, size - i - 1) != 0)
        return RT_FAIL(RT_EDATA, "position %u: expected %s, got '%.*s'", position,
                       column->conf->weight_separator ? "id:weight" : "id:1 or id:0",
                       dc_shown(size), word);
    if (column->conf->kind == RT_COLUMN_FEATURE)
        p->id[column->slot] = id;
    return 0;
}

int dc_line_libsvm(struct dc_parser *parser, const char *text, size_t size)
{
    const char *end = text + size;
    size_t n;
    const char *word = next_word(text, end, &n);
    uint32_t position = 0;
    int err = dc_put_label(parser, parser->label_column, word, n);

    while (!err) {
        word = next_word(word + n, end, &n);
        if (n == 0)
            break;
        if (position == parser->n_fields)
            return RT_FAIL(RT_EDATA, "expected %u ids, got more", parser->n_fields);
        err = put_pair(parser, position++, word, n);
    }
    if (err)
        return err;
    if (position != parser->n_fields)
        return RT_FAIL(RT_EDATA, "expected %u ids, got %u", parser->n_fields, position);
    return dc_finish_row(parser);
}
