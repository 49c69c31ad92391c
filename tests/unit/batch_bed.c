/* tests/unit/batch_bed.c -- see batch_bed.h. */
#include "tests/unit/batch_bed.h"

#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "tests/lib/plain_io.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>
#include <cmocka.h>

struct batch_bed batch_bed;

int batch_bed_set_up(void **state)
{
    (void)state;
    batch_bed.io = plain_io_create(64u << 20);
    temp_folder(batch_bed.dir);
    return 0;
}

int batch_bed_tear_down(void **state)
{
    char *quarantine = rt_path_join(batch_bed.dir, "quarantine");

    (void)state;
    rmdir(quarantine);
    rt_free(quarantine);
    plain_io_destroy(batch_bed.io);
    return rmdir(batch_bed.dir);
}

struct dc_batcher *batch_bed_open(struct dc_batcher_conf *conf)
{
    struct dc_batcher *batcher;

    assert_int_equal(dc_parser_create(conf->feed.job, &conf->feed.parser), 0);
    assert_int_equal(dc_batcher_create(conf, &batcher), 0);
    return batcher;
}

void batch_bed_close(struct dc_batcher *batcher, struct dc_batcher_conf *conf)
{
    dc_batcher_destroy(batcher);
    dc_parser_destroy(conf->feed.parser);
}

int batch_bed_pass(struct dc_batcher *batcher,
                   void (*look)(void *arg, const struct dc_batch *batch), void *arg)
{
    struct dc_batch *batch;
    int rc;

    while ((rc = dc_batcher_turn(batcher, &batch)) > 0) {
        assert_int_not_equal(rc, DC_TURN_FULL);
        if (batch && look)
            look(arg, batch);
        dc_batch_destroy(batch);
    }
    return rc;
}
