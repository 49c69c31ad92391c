/* tests/fuzz/fuzz_rows.c -- one line of text as a row, in every format and with every option of a column.
 *
 * The first byte chooses a job. Where files have a header line, the first line of the rest is one; each
 * other line is a row. A row that is accepted is complete and finite. */
#include "data_compose/frequency.h"
#include "data_compose/parse.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "tests/fuzz/fuzz.h"
#include "tests/lib/data_job.h"

#include <math.h>
#include <string.h>

#define MIXED "y=label a=dense b=dense:log1p,missing c=feature d=feature:c e=feature x=ignore"
#define CRITEO                                                                                     \
    "l=label I1=dense:log1p I2=dense I3=dense I4=dense I5=dense I6=dense I7=dense I8=dense "       \
    "I9=dense I10=dense I11=dense I12=dense I13=dense C1=feature C2=feature C3=feature "           \
    "C4=feature C5=feature C6=feature C7=feature C8=feature C9=feature C10=feature C11=feature "   \
    "C12=feature C13=feature C14=feature C15=feature C16=feature C17=feature C18=feature "         \
    "C19=feature C20=feature C21=feature C22=feature C23=feature C24=feature C25=feature "         \
    "C26=feature"

#define OPTIONS                                                                                    \
    "y=label a=feature:f,list b=feature:f,list,int c=feature:int d=feature:none e=feature:bad "    \
    "u=feature:list,freq2 g=feature:freq2 w=weight h=group:int k=key x=dense:clip,log1p "          \
    "z=dense:bad"

#define WEIGHTS                                                                                    \
    "y=label a=feature:f,list,weights,head b=feature:f,list,int,weights c=feature:g,weights,tail " \
    "d=feature:g,list e=feature:int,weights,freq2"

static const struct {
    enum rt_format format;
    bool header;
    const char *columns;
} jobs[] = {
    {RT_FORMAT_TSV, false, MIXED},
    {RT_FORMAT_TSV, true, MIXED},
    {RT_FORMAT_CSV, false, MIXED},
    {RT_FORMAT_CSV, true, MIXED},
    {RT_FORMAT_CRITEO, false, CRITEO},
    {RT_FORMAT_LIBSVM, false, "0=feature:u 1=feature:v 2=feature:u"},
    {RT_FORMAT_TSV, false, OPTIONS},
    {RT_FORMAT_CSV, false, OPTIONS},
    {RT_FORMAT_TSV, true, OPTIONS},
    {RT_FORMAT_CRITEO, false, OPTIONS},
    {RT_FORMAT_LIBSVM, false, "0=feature:u,freq2 1=feature:v,freq2"},
    {RT_FORMAT_TSV, false, WEIGHTS},
    {RT_FORMAT_CSV, false, WEIGHTS},
    {RT_FORMAT_LIBSVM, false, "0=feature:u,weights 1=feature:v 2=feature:u,weights"},
};

static void check_row(const struct rt_job *job, const struct dc_parser *parser)
{
    const struct dc_row *row = dc_parser_view(parser);
    uint32_t n = 0;

    for (uint32_t f = 0; f < job->n_features; f++)
        n += row->count[f];
    rt_assert(n == row->n_ids && n <= dc_parser_ids_max(parser));
    for (uint32_t i = 0; i < job->data.n_dense; i++)
        rt_assert(isfinite(row->dense[i]));
    for (uint32_t i = 0; i < job->data.n_labels; i++)
        rt_assert(row->label[i] == 0 || row->label[i] == 1);
    rt_assert((row->id_weight == NULL) == (dc_parser_weighted(parser) == NULL));
    for (uint32_t i = 0; row->id_weight && i < row->n_ids; i++)
        rt_assert(isfinite(row->id_weight[i]));
    for (uint32_t f = 0; f < job->n_features; f++)
        rt_assert(row->count[f] <= job->feature[f].max_length);
    rt_assert(isfinite(row->weight) && row->weight >= 0 && row->key_size <= RT_KEY_MAX);
}

/* A copy that ends where the line ends, so that reading past it is seen. */
static int one_line(const struct rt_job *job, struct dc_parser *parser, bool header,
                    const char *text, size_t size)
{
    char *line = rt_xmalloc(size ? size : 1);
    int err;

    if (size)
        memcpy(line, text, size);
    err = header ? dc_parser_header(parser, "fuzz.tsv", line, size)
                 : dc_parser_row(parser, line, size);
    rt_assert(err == 0 || err == (header ? RT_EUSAGE : RT_EDATA));
    if (!err && !header)
        check_row(job, parser);
    rt_free(line);
    return header ? err : 0;
}

static void all_lines(const struct rt_job *job, struct dc_parser *parser, const char *at,
                      const char *end)
{
    bool header = dc_parser_wants_header(parser);

    for (int err = 0; !err;) {
        const char *eol = at < end ? memchr(at, '\n', (size_t)(end - at)) : NULL;

        err = one_line(job, parser, header, at, (size_t)((eol ? eol : end) - at));
        header = false;
        if (!eol)
            break;
        at = eol + 1;
    }
}

/* As a job does it: all rows are read once to count their ids, then again. */
int fuzz_rows(const uint8_t *data, size_t size)
{
    struct data_job dj;
    struct dc_parser *parser;

    if (size < 1)
        return 0;
    const char *at = (const char *)data + 1, *end = (const char *)data + size;
    size_t which = data[0] % ARRAY_LEN(jobs);
    data_job_init(&dj, jobs[which].format, jobs[which].header, jobs[which].columns);
    rt_assert(dc_parser_create(&dj.job, &parser) == 0);
    struct dc_frequency *frequency = NULL;
    if (dc_frequency_wanted(&dj.job)) {
        frequency = dc_frequency_create(&dj.job);
        dc_parser_count(parser, frequency);
        all_lines(&dj.job, parser, at, end);
        dc_parser_count(parser, NULL);
        while (dc_frequency_seal(frequency) > 0)
            ;
        dc_parser_frequent(parser, frequency);
    }
    all_lines(&dj.job, parser, at, end);
    dc_parser_destroy(parser);
    dc_frequency_destroy(frequency);
    return 0;
}
