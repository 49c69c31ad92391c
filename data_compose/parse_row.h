/* data_compose/parse_row.h -- inside of the parser: how a field becomes part of the row. For parse*.c only.
 *
 * Every column has a slot. A feature column's is the first place of its ids: it has `room` for them, ids of
 * one feature are together, in the order of its columns, and gaps are closed when the row is complete. A dense
 * or label column's slot is its position in its own array. */
#ifndef DC_PARSE_ROW_H
#define DC_PARSE_ROW_H

#include "data_compose/parse.h"
#include "runtime/job/job.h"

#include <stdbool.h>

#define DC_DENSE_LANES 8u /* arrays of dense values are padded to a multiple */

struct dc_column {
    const struct rt_column_conf *conf;
    uint32_t slot;
    uint32_t room;  /* feature: most ids of one row: 1, or a list's max_length */
    uint32_t n_ids; /* feature: of the current row; set where rows vary */
    uint32_t given; /* synthetic: which generated column; libsvm: position */
};

/* Neighbouring fields that are read alike and go to neighbouring slots, in a tab separated line. */
enum dc_run_sort { DC_RUN_OTHER, DC_RUN_DENSE, DC_RUN_IDS };
struct dc_run {
    uint32_t first, end; /* fields; the last run of a list begins at n_fields */
    uint32_t slot;       /* of the first field's column */
    enum dc_run_sort sort;
};

/* What happens to dense value i; [n_dense] padded with what changes nothing. */
struct dc_dense_plan {
    double *missing; /* of an empty field; NaN: it is bad */
    double *low, *high, *mean, *deviation;
    uint64_t *log1p; /* all bits: take the logarithm; 0: do not */
    uint32_t n;      /* padded */
    bool any_clip, any_log1p, any_standardized;
};

/* Compiled for each instruction set from row_loops.inc.h. */
struct dc_row_loops {
    int (*tsv)(struct dc_parser *parser, const char *text, size_t size);
    bool (*dense)(const struct dc_dense_plan *plan, const double *value, float *out);
};
extern const struct dc_row_loops dc_row_plain, dc_row_avx2, dc_row_avx512;
const struct dc_row_loops *dc_row_select(void);

struct dc_parser {
    const struct rt_job *job;
    int (*line)(struct dc_parser *parser, const char *text, size_t size);
    struct dc_column *column;       /* [n_columns] in the order of data.yml */
    struct dc_column **field;       /* [n_fields] column of each field of the current file */
    struct dc_column *label_column; /* libsvm: which has no field; NULL: data.yml does not say it */
    uint32_t n_fields;
    struct dc_run *run; /* over the fields, in order */
    uint32_t *stop;     /* [n_fields + 1] and room for a block: where fields end */
    bool (*finish_dense)(const struct dc_dense_plan *plan, const double *value, float *out);
    struct dc_column **slot; /* [n_slots] feature columns by slot */
    uint32_t n_slots;
    uint32_t ids_max;                    /* of one row */
    bool cuts;                           /* some feature loses ids over its max_length */
    bool varying;                        /* rows differ in their numbers of ids */
    struct dc_frequency *counts;         /* NULL, or where the ids of good rows are counted */
    const struct dc_frequency *frequent; /* NULL, or which ids are not rare */
    struct dc_row row;
    uint64_t *id; /* by slot, then closed up */
    /* Where ids have weights: by slot (1 for ever at the others' slots), closed up, and which features. NULL: none has. */
    float *slot_weight, *id_weight;
    uint8_t *weighted; /* [n_features] */
    uint16_t *count;   /* [n_features] */
    double *value;     /* [plan.n] dense as read */
    float *dense;      /* [plan.n] and as given out */
    struct dc_dense_plan plan;
    float *label;
    char *key;      /* RT_KEY_MAX, where there is a key column */
    char *unquoted; /* csv: a field without its quotes */
};

/* Fields of the text formats. All: 0 or RT_EDATA. */
int dc_put_field(struct dc_parser *parser, struct dc_column *column, const char *text, size_t size);
int dc_put_label(struct dc_parser *parser, const struct dc_column *column, const char *text,
                 size_t size);
int dc_bad_label(const struct dc_column *column, const char *text, size_t size); /* RT_EDATA */
/* All fields are there: transform dense values, replace rare ids, close gaps. RT_EDATA: a value out of range,
 * too many ids; or an error of the counts. */
int dc_finish_row(struct dc_parser *parser);

/* RT_EDATA: how many fields were expected and found. */
int dc_wrong_count(const struct dc_parser *parser, const char *text, size_t size, char separator);
int dc_line_csv(struct dc_parser *parser, const char *text, size_t size);
int dc_line_libsvm(struct dc_parser *parser, const char *text, size_t size);

/* The next field of a csv line: *at moves past it and its comma (to size + 1 after the last). *field points into
 * the line, or to `unquoted`. RT_EDATA: quotes out of place. */
int dc_csv_field(const char *text, size_t size, size_t *at, char *unquoted, const char **field,
                 size_t *field_size);

/* Which column of the synthetic log a name means; false: none. */
bool dc_synthetic_column(const char *name, uint32_t kind, uint32_t *out);

/* Exact decimals: the double nearest to the text. false: no finite number. */
bool dc_parse_number(const char *text, size_t size, double *out);

#define DC_SHOWN_MAX 40 /* bytes of a bad field in its reason */
static inline int dc_shown(size_t size)
{
    return size > DC_SHOWN_MAX ? DC_SHOWN_MAX : (int)size;
}

#endif
