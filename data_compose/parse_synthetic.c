/* data_compose/parse_synthetic.c -- generated rows through the same columns as rows of a file. */
#include "data_compose/parse_row.h"
#include "data_compose/synthetic.h"

#include <stdlib.h>
#include <string.h>

/* "x3" -> 2 for prefix 'x' and count 4. */
static bool numbered(const char *name, char prefix, uint32_t count, uint32_t *out)
{
    if (name[0] != prefix || name[1] < '1' || name[1] > '9' || name[2])
        return false;
    *out = (uint32_t)(name[1] - '1');
    return *out < count;
}

bool dc_synthetic_column(const char *name, uint32_t kind, uint32_t *out)
{
    _Static_assert(DC_SYNTHETIC_FEATURES <= 9 && DC_SYNTHETIC_DENSE <= 9, "one digit");
    *out = 0;
    if (kind == RT_COLUMN_FEATURE)
        return numbered(name, 'c', DC_SYNTHETIC_FEATURES, out);
    if (kind == RT_COLUMN_DENSE)
        return numbered(name, 'x', DC_SYNTHETIC_DENSE, out);
    return kind == RT_COLUMN_LABEL && strcmp(name, "label") == 0;
}

int dc_parser_synthetic(struct dc_parser *parser, const struct dc_synthetic_row *row)
{
    for (uint32_t i = 0; i < parser->n_fields; i++) {
        const struct dc_column *c = parser->field[i];

        if (c->conf->kind == RT_COLUMN_FEATURE)
            parser->id[c->slot] = row->id[c->given];
        else if (c->conf->kind == RT_COLUMN_DENSE)
            parser->value[c->slot] = (double)row->dense[c->given];
        else if (c->conf->kind == RT_COLUMN_LABEL)
            parser->label[c->slot] = row->label;
    }
    return dc_finish_row(parser);
}
