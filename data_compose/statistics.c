/* data_compose/statistics.c -- one pass over the training files: Welford's update per column (Technometrics
 * 1962; one pass, no cancellation), and the ids into their counts (frequency.c). */
#include "data_compose/frequency.h"
#include "data_compose/statistics.h"

#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/job/job.h"
#include "runtime/wire/batch.h"

#include <math.h>
#include <string.h>

#define TURN_ROWS  4096u
#define TURN_BYTES (2u << 20)

struct moment {
    uint32_t target; /* dense input */
    double mean, square;
};

struct dc_statistics {
    const struct rt_job *job;
    struct dc_feed *feed;
    struct dc_parser *parser;
    struct dc_frequency *frequency; /* NULL: ids are not counted */
    bool read;                      /* the feed has ended */
    uint64_t count;                 /* good rows; every column has a value in each */
    uint32_t n;
    struct moment *moment;          /* [n] */
    struct wire_statistics *column; /* [n] filled at the end */
};

static bool standardized(const struct rt_column_conf *c)
{
    return c->kind == RT_COLUMN_DENSE && c->standardize;
}

bool dc_statistics_wanted(const struct rt_job *job)
{
    for (uint32_t i = 0; i < job->data.n_columns; i++)
        if (standardized(&job->data.column[i]))
            return true;
    return false;
}

int dc_statistics_create(const struct dc_feed_conf *conf, struct dc_statistics **out)
{
    const struct rt_data_conf *data = &conf->job->data;
    struct dc_feed_conf feed = *conf;
    struct dc_parser *parser;
    int err = dc_parser_create(conf->job, &parser);
    if (err)
        return err;
    struct dc_statistics *s = rt_xcalloc(1, sizeof(*s));

    s->job = conf->job;
    s->parser = feed.parser = parser;
    feed.evaluate = false;
    s->feed = dc_feed_create(&feed);
    s->moment = rt_xcalloc(data->n_columns + 1, sizeof(*s->moment));
    s->column = rt_xcalloc(data->n_columns + 1, sizeof(*s->column));
    for (uint32_t i = 0; i < data->n_columns; i++) {
        if (!standardized(&data->column[i]))
            continue;
        s->moment[s->n].target = data->column[i].target;
        s->column[s->n++].column = data->column[i].name;
    }
    *out = s;
    return 0;
}

void dc_statistics_destroy(struct dc_statistics *statistics)
{
    if (!statistics)
        return;
    dc_feed_destroy(statistics->feed);
    dc_frequency_destroy(statistics->frequency);
    dc_parser_destroy(statistics->parser);
    rt_free(statistics->moment);
    rt_free(statistics->column);
    rt_free(statistics);
}

void dc_statistics_count_ids(struct dc_statistics *statistics)
{
    statistics->frequency = dc_frequency_create(statistics->job);
    dc_parser_count(statistics->parser, statistics->frequency);
}

struct dc_frequency *dc_statistics_take_frequent(struct dc_statistics *statistics)
{
    struct dc_frequency *frequency = statistics->frequency;

    dc_parser_count(statistics->parser, NULL);
    statistics->frequency = NULL;
    return frequency;
}

static void add_row(struct dc_statistics *s)
{
    const struct dc_row *row = dc_parser_view(s->parser);

    s->count++;
    for (uint32_t i = 0; i < s->n; i++) {
        struct moment *m = &s->moment[i];
        double x = (double)row->dense[m->target], away = x - m->mean;

        m->mean += away / (double)s->count;
        m->square += away * (x - m->mean);
    }
}

static void finish(struct dc_statistics *s)
{
    for (uint32_t i = 0; i < s->n; i++) {
        s->column[i].mean = s->moment[i].mean;
        s->column[i].deviation = s->count ? sqrt(s->moment[i].square / (double)s->count) : 0;
        s->column[i].count = s->count;
    }
}

/* 1: read further; 0: all is read. */
static int read_rows(struct dc_statistics *s)
{
    size_t bytes = 0;

    for (uint32_t i = 0; i < TURN_ROWS && bytes < TURN_BYTES; i++) {
        int rc = dc_feed_next(s->feed);

        if (rc <= 0)
            return rc;
        bytes += dc_feed_row_bytes(s->feed);
        rc = dc_feed_parse(s->feed);
        if (rc == 0)
            add_row(s);
        else if (rc != RT_EDATA || dc_feed_broken(s->feed))
            return rc;
    }
    return 1;
}

int dc_statistics_turn(struct dc_statistics *statistics)
{
    struct dc_statistics *s = statistics;

    if (s->read)
        return s->frequency ? dc_frequency_seal(s->frequency) : 0;
    int rc = read_rows(s);
    if (rc != 0)
        return rc;
    finish(s);
    s->read = true;
    return s->frequency != NULL;
}

const struct wire_statistics *dc_statistics_columns(const struct dc_statistics *statistics,
                                                    uint32_t *n)
{
    *n = statistics->n;
    return statistics->column;
}

int dc_statistics_apply(const struct rt_job *job, const struct wire_statistics *column, uint32_t n,
                        struct dc_parser *parser)
{
    for (uint32_t c = 0; c < job->data.n_columns; c++) {
        const struct rt_column_conf *conf = &job->data.column[c];
        uint32_t i = 0;

        if (!standardized(conf))
            continue;
        while (i < n && strcmp(column[i].column, conf->name) != 0)
            i++;
        if (i == n)
            return RT_FAIL(RT_EPROTO, "the trainer's statistics have no column '%s'", conf->name);
        dc_parser_standardize(parser, conf->target, column[i].mean, column[i].deviation);
    }
    return 0;
}
