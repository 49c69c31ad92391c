/* data_compose/parse_row.h -- inside of the parser: how a field becomes part of the row. For parse*.c only.
 *
 * Every column has a slot: a feature column the position of its id in the row (ids of one feature are
 * together, in the order of its columns), a dense or label column its position in its own array. */
#ifndef DC_PARSE_ROW_H
#define DC_PARSE_ROW_H

#include "data_compose/parse.h"
#include "runtime/job/job.h"

struct dc_column {
    const struct rt_column_conf *conf;
    uint32_t slot;
    uint32_t given; /* synthetic: which generated column; libsvm: position */
    double mean, deviation;
};

struct dc_parser {
    const struct rt_job *job;
    int (*line)(struct dc_parser *parser, const char *text, size_t size);
    struct dc_column *column;       /* [n_columns] */
    const struct dc_column **field; /* [n_fields] column of each field of the current file */
    uint32_t n_fields;
    uint16_t *width; /* [n_features] ids that a row has when none is absent */
    struct dc_row row;
    uint64_t *id;
    uint16_t *count;
    float *dense, *label;
    bool *absent;   /* libsvm: [ids] value 0 */
    char *unquoted; /* csv: a field without its quotes */
};

/* Fields of the text formats. All: 0 or RT_EDATA. */
int dc_put_field(struct dc_parser *parser, const struct dc_column *column, const char *text,
                 size_t size);
int dc_put_label(struct dc_parser *parser, const struct dc_column *column, const char *text,
                 size_t size);
int dc_put_dense(struct dc_parser *parser, const struct dc_column *column, double value);

int dc_line_tsv(struct dc_parser *parser, const char *text, size_t size);
int dc_line_csv(struct dc_parser *parser, const char *text, size_t size);
int dc_line_libsvm(struct dc_parser *parser, const char *text, size_t size);

/* The next field of a csv line: *at moves past it and its comma (to size + 1 after the last). *field points into
 * the line, or to `unquoted`. RT_EDATA: quotes out of place. */
int dc_csv_field(const char *text, size_t size, size_t *at, char *unquoted, const char **field,
                 size_t *field_size);

/* Which column of the synthetic log a name means; false: none. */
bool dc_synthetic_column(const char *name, uint32_t kind, uint32_t *out);

#endif
