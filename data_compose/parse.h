/* data_compose/parse.h -- one line of text to one row: ids, dense values, labels; weight, group, key.
 *
 *     dc_parser_create(job, &parser);
 *     dc_parser_header(parser, path, text, size)        once per file, where files have a header line
 *     rc = dc_parser_row(parser, text, size);           0: dc_parser_view() is the row
 *                                                       RT_EDATA: a bad row, why in rt_err_text()
 *
 * A row is ids of feature 0, of feature 1, ... (count[f] each), dense values after clip, transform and
 * standardizing, labels. Textual formats take the XXH3-64 of a field's raw bytes as its id (see data.yml's
 * columns for lists, integers and empty fields); libsvm takes the integer. Where a column has a weight_separator its ids have
 * weights; those of other columns weigh 1. A feature whose list is over its max_length makes a bad row, or loses the
 * list's head or tail (`truncate`); what is cut off is not looked at. Touch: owner thread. */
#ifndef DC_PARSE_H
#define DC_PARSE_H

#include <stddef.h>
#include <stdint.h>

struct rt_job;
struct dc_frequency;
struct dc_parser;

/* A parsed row; arrays belong to the parser and change with the next row. */
struct dc_row {
    uint32_t n_ids;
    const uint64_t *id;     /* [n_ids] */
    const float *id_weight; /* [n_ids] finite; NULL: no column has weights */
    const uint16_t *count;  /* [n_features] sum is n_ids */
    const float *dense;     /* [n_dense] */
    const float *label;     /* [n_labels] */
    float weight;           /* 1 without such a column */
    uint64_t group;         /* 0 without such a column */
    const char *key;        /* [key_size] <= RT_KEY_MAX */
    uint32_t key_size;
};

/* The job must outlive the parser. RT_EUSAGE: columns that cannot be read from this format. */
int dc_parser_create(const struct rt_job *job, struct dc_parser **out);
void dc_parser_destroy(struct dc_parser *parser); /* NULL is legal */

/* Does the first line of each file name the columns? */
int dc_parser_wants_header(const struct dc_parser *parser);
/* Bind the columns to the fields of a file. RT_EUSAGE: a column is missing, unknown or there twice; the text
 * names file, column and the nearest name. */
int dc_parser_header(struct dc_parser *parser, const char *path, const char *text, size_t size);

/* Parse. RT_EDATA: field, what was expected, what was found. Any other error: of the counts. */
int dc_parser_row(struct dc_parser *parser, const char *text, size_t size);
const struct dc_row *dc_parser_view(const struct dc_parser *parser);

/* Standardize dense input `target` from now on: (x - mean) / deviation; a deviation of 0 divides by 1. */
void dc_parser_standardize(struct dc_parser *parser, uint32_t target, double mean,
                           double deviation);

/* A row of the synthetic log instead of a line. RT_EDATA only if a value is not finite. */
struct dc_synthetic_row;
int dc_parser_synthetic(struct dc_parser *parser, const struct dc_synthetic_row *row);

/* From now on count the ids of good rows (min_frequency), or make one id of the rare ones. NULL: neither. */
void dc_parser_count(struct dc_parser *parser, struct dc_frequency *counts);
void dc_parser_frequent(struct dc_parser *parser, const struct dc_frequency *frequent);

/* Do rows differ in their numbers of ids? If not, all are as dc_parser_view() says now. */
int dc_parser_varying(const struct dc_parser *parser);
/* [n_features] 1: ids of the feature have weights; NULL: none has. The parser's. */
const uint8_t *dc_parser_weighted(const struct dc_parser *parser);
uint32_t dc_parser_ids_max(const struct dc_parser *parser); /* ids of one row at most */

#endif
