/* data_compose/feed.c -- files or the generator, behind one order of rows. */
#include "data_compose/feed.h"
#include "data_compose/source.h"
#include "data_compose/synthetic.h"

#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/job/job.h"

#include <math.h>

#define SHARE_BYTES_MIN (16u << 20) /* a buffer of read-ahead is a small part of this */

struct dc_feed {
    struct dc_feed_conf conf;
    uint64_t next;            /* number of the next row */
    struct dc_source *source; /* files */
    const char *const *path;
    struct dc_line line;
    struct dc_synthetic_row row;
};

struct dc_feed *dc_feed_create(const struct dc_feed_conf *conf)
{
    const struct rt_data_conf *data = &conf->job->data;
    struct dc_feed *f = rt_xcalloc(1, sizeof(*f));

    f->conf = *conf;
    f->path = conf->evaluate ? data->test : data->train;
    if (conf->synthetic)
        return f;
    f->source = dc_source_create(conf->io, f->path, conf->evaluate ? data->n_test : data->n_train);
    dc_source_count(f->source, conf->bytes);
    return f;
}

void dc_feed_destroy(struct dc_feed *feed)
{
    if (!feed)
        return;
    dc_source_destroy(feed->source);
    rt_free(feed);
}

/* A set of no rows is a wrong file, not a short training: nothing would be learned or measured. */
static int no_rows(const struct dc_feed *feed)
{
    const struct rt_data_conf *data = &feed->conf.job->data;
    uint32_t files = feed->conf.evaluate ? data->n_test : data->n_train;

    if (files == 0)
        return 0;
    return RT_FAIL(RT_EDATA, "%s: no row in it%s", feed->path[0],
                   files > 1 ? ", nor in the other files of its set" : "");
}

int dc_feed_next(struct dc_feed *feed)
{
    if (feed->conf.synthetic) {
        if (feed->next == feed->conf.synthetic_rows)
            return 0;
        feed->next++;
        return 1;
    }
    for (;;) {
        int rc = dc_source_line(feed->source, &feed->line);

        if (rc == 0 && feed->next == 0)
            return no_rows(feed);
        if (rc <= 0)
            return rc;
        if (feed->line.number > 1 || !dc_parser_wants_header(feed->conf.parser)) {
            feed->next++;
            return 1;
        }
        rc = dc_parser_header(feed->conf.parser, dc_feed_file(feed), feed->line.text,
                              feed->line.size);
        if (rc)
            return rc;
    }
}

int dc_feed_parse(struct dc_feed *feed)
{
    if (!feed->conf.synthetic)
        return dc_parser_row(feed->conf.parser, feed->line.text, feed->line.size);
    dc_synthetic_row(feed->conf.synthetic,
                     feed->conf.evaluate ? DC_SYNTHETIC_TEST : DC_SYNTHETIC_TRAIN, feed->next - 1,
                     &feed->row);
    return dc_parser_synthetic(feed->conf.parser, &feed->row);
}

uint64_t dc_feed_number(const struct dc_feed *feed)
{
    return feed->next - 1;
}

const char *dc_feed_row_text(const struct dc_feed *feed)
{
    return feed->line.text;
}

size_t dc_feed_row_bytes(const struct dc_feed *feed)
{
    return feed->line.size;
}

double dc_feed_share(const struct dc_feed *feed)
{
    uint64_t total = feed->conf.job->data.train_bytes;

    if (feed->conf.synthetic)
        return (double)feed->next / (double)feed->conf.synthetic_rows;
    if (total < SHARE_BYTES_MIN)
        return (double)NAN;
    return (double)dc_source_bytes(feed->source) / (double)total;
}

const char *dc_feed_file(const struct dc_feed *feed)
{
    return feed->conf.synthetic ? "synthetic" : feed->path[feed->line.file];
}

uint64_t dc_feed_line(const struct dc_feed *feed)
{
    return feed->conf.synthetic ? feed->next : feed->line.number;
}

double dc_feed_probability(const struct dc_feed *feed)
{
    return feed->row.probability;
}
