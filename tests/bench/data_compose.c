/* tests/bench/data_compose.c -- CPU time of making batches: from a file in the page cache to payloads that could be sent.
 *
 * The log has the shape of Criteo's: a label, 13 integers (most of them small, one in ten missing), 26 categories of eight
 * hexadecimal digits (a tenth of them missing), by tabs; drawn once, written to a temporary file. A pass over it
 * is what data-compose does in an epoch: lines, fields, log1p, XXH3-64 of each category, chunks permuted, batches of 4,096
 * laid out in columns with their digests. Rates are of the text's bytes, in MB (10^6) a second of one thread's CPU time.
 *
 * Then the same of the binary form (block.h, LZ4), of the log that configs/bench trains on; rates are of samples.
 *
 * The limit of text is a loop that reads the same file by pieces of 1 MiB and finds the ends of its lines: what any reader must
 * do. Rounds of both are made in turns, the best of each counts. */
#include "data_compose/batch.h"
#include "data_compose/click_log.h"
#include "data_compose/parse_binary.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "tests/lib/bench.h"
#include "tests/lib/data_job.h"
#include "tests/lib/plain_io.h"
#include "tests/lib/temp.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ROWS = 400000, DENSE = 13, FEATURES = 26, BATCH = 4096, HELD = 4, ROUNDS = 7 };

#define LINE_ROOM  512u /* bytes of one line at most */
#define READ_BYTES (1u << 20)
#define DEMANDED   600.0 /* MB/s */

#define DEMANDED_BINARY 4e6 /* samples/s */

struct world {
    char dir[TEMP_PATH_MAX];
    char *path;
    uint64_t bytes; /* of the file */
    struct data_job dj;
    struct rt_io *io;
    struct dc_batch_pool pool;
    struct dc_batch *held[HELD]; /* as those are that wait for their trainer */
    uint64_t rows;               /* of the latest pass */
};

static void must(int err)
{
    if (err) {
        fprintf(stderr, "%s\n", rt_err_text());
        exit(1);
    }
}

/* ---- the log ---- */

/* Powers of ten are equally likely, as counts in a log are. */
static uint32_t draw_count(uint64_t key, uint64_t at)
{
    static const uint32_t below[] = {3, 10, 30, 100, 300, 1000, 10000, 100000};

    return (uint32_t)rt_below(rt_draw(key, at),
                              below[rt_below(rt_draw(key, at + 1), ARRAY_LEN(below))]);
}

static size_t write_line(char *out, uint64_t key)
{
    static const char digit[] = "0123456789abcdef";
    uint64_t at = 0;
    char *end = out;

    *end++ = rt_below(rt_draw(key, at++), 4) == 0 ? '1' : '0';
    for (uint32_t i = 0; i < DENSE; i++, at += 3) {
        *end++ = '\t';
        if (rt_below(rt_draw(key, at), 10) > 0)
            end += snprintf(end, 12, "%u", draw_count(key, at + 1));
    }
    for (uint32_t i = 0; i < FEATURES; i++, at += 2) {
        uint32_t category = (uint32_t)rt_draw(i, rt_below(rt_draw(key, at + 1), 100000));

        *end++ = '\t';
        if (rt_below(rt_draw(key, at), 10) == 0)
            continue;
        for (int shift = 28; shift >= 0; shift -= 4)
            *end++ = digit[category >> shift & 15];
    }
    *end++ = '\n';
    return (size_t)(end - out);
}

static void write_log(struct world *w)
{
    FILE *file = fopen(w->path, "wb");
    char line[LINE_ROOM];

    if (!file) {
        fprintf(stderr, "%s: cannot be written\n", w->path);
        exit(1);
    }
    for (uint64_t row = 0; row < ROWS; row++) {
        size_t n = write_line(line, rt_draw(1, row));

        w->bytes += fwrite(line, 1, n, file);
    }
    if (fclose(file) != 0) {
        fprintf(stderr, "%s: cannot be written\n", w->path);
        exit(1);
    }
}

/* ---- the job ---- */

static void describe(struct world *w)
{
    static const char *paths[1];
    char columns[1024] = "label=label";
    size_t n = strlen(columns);

    for (uint32_t i = 1; i <= DENSE; i++)
        n += (size_t)snprintf(columns + n, sizeof(columns) - n, " I%u=dense:log1p", i);
    for (uint32_t i = 1; i <= FEATURES; i++)
        n += (size_t)snprintf(columns + n, sizeof(columns) - n, " C%u=feature", i);
    data_job_init(&w->dj, RT_FORMAT_CRITEO, false, columns);
    struct rt_data_conf *data = &w->dj.job.data;
    paths[0] = w->path;
    data->train = paths;
    data->n_train = 1;
    data->batch_size = BATCH;
    data->block_rows = data->shuffle_rows = 8192;
    data->splits = 64;
}

static void start(struct world *w)
{
    temp_folder(w->dir);
    w->path = rt_path_join(w->dir, "log.tsv");
    w->io = plain_io_create(64u << 20);
    write_log(w);
    describe(w);
}

static void stop(struct world *w)
{
    for (uint32_t i = 0; i < HELD; i++)
        dc_batch_destroy(w->held[i]);
    dc_batch_pool_release(&w->pool);
    plain_io_destroy(w->io);
    unlink(w->path);
    rmdir(w->dir);
    rt_free(w->path);
}

/* ---- what is measured: each gives MB/s ---- */

static double rate(const struct world *w, uint64_t begin_ns)
{
    return (double)w->bytes * 1e3 / (double)(bench_cpu_ns() - begin_ns);
}

static double batches(struct world *w)
{
    struct dc_batcher_conf conf = {
        .feed = {.io = w->io, .job = &w->dj.job}, .size = 1, .pool = &w->pool};
    struct dc_batcher *batcher;
    struct dc_batch *batch;
    uint64_t begin = bench_cpu_ns(), n = 0;
    int rc;

    must(dc_parser_create(&w->dj.job, &conf.feed.parser));
    must(dc_batcher_create(&conf, &batcher));
    w->rows = 0;
    while ((rc = dc_batcher_turn(batcher, &batch)) > 0) {
        rt_assert(rc != DC_TURN_FULL);
        if (!batch)
            continue;
        w->rows += batch->samples;
        dc_batch_destroy(w->held[n % HELD]);
        w->held[n++ % HELD] = batch;
    }
    must(rc);
    double mbs = rate(w, begin);
    dc_batcher_destroy(batcher);
    dc_parser_destroy(conf.feed.parser);
    rt_assert(w->rows == ROWS);
    return mbs;
}

/* Lines to rows, which nobody keeps. */
static double rows(struct world *w)
{
    struct dc_feed_conf conf = {.io = w->io, .job = &w->dj.job};
    uint64_t begin = bench_cpu_ns();
    int rc;

    must(dc_parser_create(&w->dj.job, &conf.parser));
    struct dc_feed *feed = dc_feed_create(&conf);
    while ((rc = dc_feed_next(feed)) > 0)
        must(dc_feed_parse(feed));
    must(rc);
    double mbs = rate(w, begin);
    dc_feed_destroy(feed);
    dc_parser_destroy(conf.parser);
    return mbs;
}

static double lines(struct world *w)
{
    char *buffer = rt_xaligned(READ_BYTES);
    uint64_t begin = bench_cpu_ns(), n = 0;
    int fd = open(w->path, O_RDONLY | O_CLOEXEC);
    ssize_t got;

    while ((got = read(fd, buffer, READ_BYTES)) > 0) {
        const char *at = buffer, *end = buffer + got;

        while ((at = memchr(at, '\n', (size_t)(end - at)))) {
            n++;
            if (++at == end)
                break;
        }
    }
    double mbs = rate(w, begin);
    close(fd);
    rt_free(buffer);
    rt_assert(n == ROWS);
    return mbs;
}

static void text(struct bench *bench)
{
    static struct world w;
    double made = 0, parsed = 0, scanned = 0;

    start(&w);
    for (int round = 0; round <= ROUNDS; round++) { /* the first fills caches and pools */
        double m = batches(&w), p = rows(&w), s = lines(&w);

        made = round ? fmax(made, m) : 0;
        parsed = round ? fmax(parsed, p) : 0;
        scanned = round ? fmax(scanned, s) : 0;
    }
    bench_more(bench, "text to batches", made, "MB/s", DEMANDED, "the rate that is demanded");
    bench_demand(bench, 1);
    bench_more(bench, "text to batches, beside a scan", made, "MB/s", scanned,
               "the file read and its lines found");
    bench_more(bench, "text to rows", parsed, "MB/s", scanned, "the file read and its lines found");
    bench_more(bench, "samples", made * 1e6 * ROWS / (double)w.bytes, "1/s", NAN, NULL);
    stop(&w);
}

/* ---- the binary form ---- */

static void write_click_log(struct world *w)
{
    const struct dc_click_log_conf conf = {
        .features = FEATURES, .dense = DENSE, .ids = 100000, .seed = 1};
    struct dc_click_log *log = dc_click_log_create(&conf);
    char *line = rt_xmalloc(DC_CLICK_ROW_BYTES(FEATURES, DENSE));
    FILE *file = fopen(w->path, "wb");
    double probability;
    float label;

    rt_assert(file);
    for (uint64_t row = 0; row < ROWS; row++)
        fwrite(line, 1, dc_click_log_row(log, DC_SYNTHETIC_TRAIN, row, line, &probability, &label),
               file);
    fclose(file);
    rt_free(line);
    dc_click_log_destroy(log);
}

/* As `saffron-data-compose convert` does; the job's rows then come from the file made. */
static void convert(struct world *w, char *path)
{
    static const char *paths[1];
    struct dc_feed_conf conf = {.io = w->io, .job = &w->dj.job};
    struct dc_block_writer *writer;
    int rc;

    must(dc_parser_create(&w->dj.job, &conf.parser));
    struct dc_binary *binary = dc_binary_create(conf.parser);
    struct dc_feed *feed = dc_feed_create(&conf);
    must(dc_block_writer_create(path, dc_binary_shape(binary), DC_BLOCK_LZ4, &writer));
    while ((rc = dc_feed_next(feed)) > 0) {
        must(dc_feed_parse(feed));
        dc_binary_put(binary, writer);
        must(dc_block_end_row(writer));
    }
    must(rc);
    must(dc_block_writer_finish(writer, &w->bytes));
    dc_block_writer_destroy(writer);
    dc_feed_destroy(feed);
    dc_binary_destroy(binary);
    dc_parser_destroy(conf.parser);
    paths[0] = path;
    w->dj.job.data.train = paths;
    w->dj.job.data.format = RT_FORMAT_BINARY;
}

/* Samples a second of `mbs`, which are of the file's bytes. */
static double samples(const struct world *w, double mbs)
{
    return mbs * 1e6 * ROWS / (double)w->bytes;
}

static void binary(struct bench *bench)
{
    static struct world w;
    double made = 0, by_rows = 0, parsed = 0;

    temp_folder(w.dir);
    w.path = rt_path_join(w.dir, "log.tsv");
    char *path = rt_path_join(w.dir, "log.sfb");
    w.io = plain_io_create(64u << 20);
    write_click_log(&w);
    describe(&w);
    convert(&w, path);
    for (int round = 0; round <= ROUNDS; round++) {
        w.dj.job.data.block_rows = 8192;
        double m = batches(&w), p = rows(&w);
        w.dj.job.data.block_rows =
            4096; /* a block of the file is of two splits: taken row by row */
        double r = batches(&w);

        made = round ? fmax(made, m) : 0;
        by_rows = round ? fmax(by_rows, r) : 0;
        parsed = round ? fmax(parsed, p) : 0;
    }
    bench_more(bench, "binary to batches", samples(&w, made), "1/s", DEMANDED_BINARY,
               "the rate that is demanded");
    bench_demand(bench, 1);
    bench_more(bench, "binary to batches, row by row", samples(&w, by_rows), "1/s", NAN, NULL);
    bench_more(bench, "binary to rows", samples(&w, parsed), "1/s", NAN, NULL);
    bench_more(bench, "binary, bytes of a sample", (double)w.bytes / ROWS, "B", NAN, NULL);
    unlink(path);
    rt_free(path);
    stop(&w);
}

int main(void)
{
    struct bench *bench = bench_create("data_compose");

    text(bench);
    binary(bench);
    return bench_finish(bench);
}
