/* tests/unit/test_events.c -- files for TensorBoard: every byte of a small one, what bounds it, and a disk that fills up. Whether
 * TensorBoard reads them: tests/e2e/tensorboard.sh. */
#include "trainer/metric/events.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/hash.h"
#include "runtime/base/mem.h"
#include "tests/lib/temp.h"

#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[TEMP_PATH_MAX];

static struct tr_events *create(void)
{
    struct tr_events *events;
    if (tr_events_create(folder, 1.5, &events) != 0)
        fail_msg("%s", rt_err_text());
    return events;
}

/* The only file in the folder, which is removed; the caller's. */
static uint8_t *take_file(size_t *size)
{
    DIR *dir = opendir(folder);
    struct dirent *entry;
    char *text = NULL;
    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] == '.')
            continue;
        assert_null(text);
        assert_int_equal(strncmp(entry->d_name, "events.out.tfevents.0000000001.", 31), 0);
        char *path = rt_path_join(folder, entry->d_name);
        assert_int_equal(rt_file_read(path, 64 << 20, &text, size), 0);
        unlink(path);
        rt_free(path);
    }
    closedir(dir);
    assert_non_null(text);
    return (uint8_t *)text;
}

static int write_out(struct tr_events *events)
{
    int err = 0;
    if (tr_events_take(events)) {
        err = tr_events_write(events);
        tr_events_given(events);
    }
    return err;
}

static void add(struct tr_events *events, uint64_t step, double value)
{
    tr_events_begin(events, 2.0, step);
    tr_events_value(events, "loss", value);
    tr_events_end(events);
}

static uint32_t masked(const void *data, size_t size)
{
    uint32_t crc = rt_crc32c_portable(0, data, size);
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

/* One record of a file, at *at; checked. */
static const uint8_t *next_record(const uint8_t *data, size_t size, size_t *at, uint64_t *length)
{
    uint32_t crc;
    assert_true(*at + 12 <= size);
    memcpy(length, data + *at, 8);
    memcpy(&crc, data + *at + 8, 4);
    assert_int_equal(crc, masked(data + *at, 8));
    assert_true(*length <= size - *at - 16);
    memcpy(&crc, data + *at + 12 + *length, 4);
    const uint8_t *record = data + *at + 12;
    assert_int_equal(crc, masked(record, (size_t)*length));
    *at += 16 + (size_t)*length;
    return record;
}

/* The CRC that all of it rests on: RFC 3720, B.4, and its mask. */
static void the_crc(void **state)
{
    uint8_t zeros[32] = {0};
    (void)state;
    assert_int_equal(rt_crc32c(0, zeros, sizeof zeros), 0x8a9136aau);
    assert_int_equal(rt_crc32c(0, "123456789", 9), 0xe3069283u);
    assert_int_equal(masked(zeros, sizeof zeros), (uint32_t)(0x6d551522u + 0xa282ead8u));
}

static void every_byte(void **state)
{
    static const uint8_t version[] = {0x09, 0,    0,   0,   0,   0,   0,   0xf8,
                                      0x3f, 0x1a, 13,  'b', 'r', 'a', 'i', 'n',
                                      '.',  'E',  'v', 'e', 'n', 't', ':', '2'};
    static const uint8_t point[] = {
        0x09, 0,    0,    0, 0,   0,   0,   0,   0x40,                     /* wall time 2 */
        0x10, 0xac, 2,                                                     /* step 300 */
        0x2a, 28,                                                          /* summary */
        0x0a, 11,   0x0a, 4, 'l', 'o', 's', 's', 0x15, 0,   0,    0, 0x3f, /* 0.5 */
        0x0a, 13,   0x0a, 6, 'a', '/', 'b', '/', 'c',  'd', 0x15, 0, 0,    0x80, 0x7f /* infinite */
    };
    struct tr_events *events = create();
    uint64_t length;
    size_t size, at = 0;
    (void)state;
    tr_events_begin(events, 2.0, 300);
    tr_events_value(events, "loss", 0.5);
    tr_events_value(events, "none", NAN);
    tr_events_value(events, "a/b/cd", INFINITY);
    tr_events_end(events);
    tr_events_begin(events, 3.0, 301); /* nothing is known of it */
    tr_events_value(events, "none", NAN);
    tr_events_end(events);
    assert_true(tr_events_take(events));
    assert_false(tr_events_take(events)); /* somebody is at it */
    assert_int_equal(tr_events_write(events), 0);
    add(events, 7, 1); /* meanwhile */
    assert_false(tr_events_take(events));
    tr_events_given(events);
    assert_int_equal(write_out(events), 0);
    assert_false(tr_events_take(events));
    tr_events_destroy(events);
    uint8_t *data = take_file(&size);
    const uint8_t *record = next_record(data, size, &at, &length);
    assert_int_equal(length, sizeof version);
    assert_memory_equal(record, version, sizeof version);
    record = next_record(data, size, &at, &length);
    assert_int_equal(length, sizeof point);
    assert_memory_equal(record, point, sizeof point);
    record = next_record(data, size, &at, &length);
    assert_int_equal(record[10], 7);
    assert_int_equal(at, size);
    rt_free(data);
}

/* Lengths of more than a byte, and steps of ten. */
static void long_ones(void **state)
{
    struct tr_events *events = create();
    char tag[201];
    uint64_t length;
    size_t size, at = 0;
    (void)state;
    memset(tag, 'x', 200);
    tag[200] = '\0';
    tr_events_begin(events, 2.0, UINT64_MAX);
    tr_events_value(events, tag, 0.5);
    tr_events_end(events);
    assert_int_equal(write_out(events), 0);
    tr_events_destroy(events);
    uint8_t *data = take_file(&size);
    next_record(data, size, &at, &length);
    const uint8_t *record = next_record(data, size, &at, &length);
    assert_int_equal(at, size);
    const uint8_t *summary = record + 9 + 11; /* after the time, and the step */
    assert_int_equal(record[9], 0x10);
    assert_int_equal(record[19], 1);
    assert_memory_equal(summary, ((uint8_t[]){0x2a, 0xd3, 1, 0x0a, 0xd0, 1, 0x0a, 0xc8, 1, 'x'}),
                        10);
    assert_int_equal(length, 9 + 11 + 3 + 3 + 3 + 200 + 5);
    rt_free(data);
}

/* Nobody writes: what waits has a limit, and what is left out is counted. */
static void a_slow_disk(void **state)
{
    struct tr_events *events = create();
    uint64_t length, records = 0;
    size_t size, at = 0;
    (void)state;
    for (uint64_t step = 0; step < 100000; step++)
        add(events, step, 1);
    uint64_t left_out = tr_events_left_out(events);
    assert_true(left_out > 0);
    assert_int_equal(write_out(events), 0);
    add(events, 1, 1);
    assert_int_equal(tr_events_left_out(events), left_out);
    assert_int_equal(write_out(events), 0);
    tr_events_destroy(events);
    uint8_t *data = take_file(&size);
    for (; at < size; records++)
        next_record(data, size, &at, &length);
    assert_int_equal(records, 1 + 100000 - left_out + 1);
    assert_true(size < TR_EVENTS_BYTES_MAX + 1024);
    rt_free(data);
}

static void a_full_disk(void **state)
{
    struct rlimit before, small;
    unsigned failed = 0;
    (void)state;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_IGN);
    for (rlim_t n = 0; n < 200; n++) {
        struct tr_events *events = create();
        size_t size;
        for (uint64_t step = 1; step <= 3; step++)
            add(events, step, 0.25);
        small = (struct rlimit){.rlim_cur = n, .rlim_max = before.rlim_max};
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
        int err = write_out(events);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        if (err) {
            assert_int_equal(err, RT_EFILE);
            assert_non_null(strstr(rt_err_text(), ": cannot write: File too large"));
            failed++;
        }
        tr_events_destroy(events);
        uint8_t *data = take_file(&size);
        assert_true(err ? size == n : size <= n);
        rt_free(data);
    }
    assert_in_range(failed, 100, 199);
    struct tr_events *none;
    assert_int_equal(tr_events_create("/dev/null/x", 1.5, &none), RT_EFILE);
    assert_null(none);
}

int main(void)
{
    const struct CMUnitTest test[] = {
        cmocka_unit_test(the_crc),     cmocka_unit_test(every_byte),  cmocka_unit_test(long_ones),
        cmocka_unit_test(a_slow_disk), cmocka_unit_test(a_full_disk),
    };
    temp_folder(folder);
    return cmocka_run_group_tests(test, NULL, NULL);
}
