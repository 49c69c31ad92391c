/* tests/unit/test_trace.c -- traces: what is written is whole events, of the right batches, within a bound. */
#include "ctl/trace.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "runtime/base/trace.h"
#include "runtime/job/batch_id.h"
#include "runtime/wire/method.h"
#include "tests/lib/temp.h"

#include <ftw.h>
#include <jansson.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#define THREADS 4
#define SPANS   500 /* of each */

static char folder[TEMP_PATH_MAX];
static char *traces, *path;

static int make_folder(void **state)
{
    (void)state;
    temp_folder(folder);
    traces = rt_path_join(folder, "trace");
    path = rt_path_join(traces, "trainer-0.json");
    return rt_mkdir_all(traces);
}

static int remove_one(const char *name, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    return remove(name);
}

static int remove_folder(void **state)
{
    (void)state;
    rt_trace_close();
    rt_free(traces);
    rt_free(path);
    return nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static struct rt_trace_conf conf_of(uint32_t every)
{
    return (struct rt_trace_conf){.path = path,
                                  .every = every,
                                  .role = RT_ROLE_TRAINER,
                                  .host = "here",
                                  .method_name = wire_method_name};
}

static void open_trace(uint32_t every)
{
    struct rt_trace_conf conf = conf_of(every);

    assert_int_equal(rt_trace_open(&conf), 0);
}

/* The merged document's events. */
static json_t *merged(void)
{
    char *name = rt_path_join(folder, "trace.json"), *text = NULL;
    size_t size, events = 0, files = 0;
    json_t *root, *list;

    assert_int_equal(ctl_trace_merge(folder, &events, &files), 0);
    assert_int_equal(rt_file_read(name, 1u << 30, &text, &size), 0);
    root = json_loadb(text, size, 0, NULL);
    assert_non_null(root);
    list = json_incref(json_object_get(root, "traceEvents"));
    assert_true(json_is_array(list));
    assert_int_equal(json_array_size(list), events);
    json_decref(root);
    rt_free(text);
    rt_free(name);
    return list;
}

static size_t count_of(const json_t *events, const char *key, const char *value)
{
    size_t n = 0, i;
    json_t *event;

    json_array_foreach (events, i, event) {
        const char *is = json_string_value(json_object_get(event, key));

        n += is && strcmp(is, value) == 0;
    }
    return n;
}

/* ---- which batches ---- */

static void batches_are_taken_by_their_ids(void **state)
{
    static const struct {
        const char *name;
        uint64_t split, sequence;
        uint32_t every;
        bool taken;
    } row[] = {
        {"no batch", 0, 0, 1, false},
        {"all", 0, 1, 1, true},
        {"all, of evaluation", RT_SPLIT_EVALUATE, 0, 1, true},
        {"the first of split 0", 0, 2, 100, true},
        {"and its neighbour", 0, 3, 100, false},
        {"the next", 0, 102, 100, true},
        {"the first of split 1", 1, 0, 100, true},
        {"of evaluation as of training", RT_SPLIT_EVALUATE + 1, 0, 100, true},
        {"the last of all", 32767, RT_SEQUENCE_MAX, 1, true},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        uint64_t id = rt_batch_id((uint32_t)row[i].split, row[i].sequence);

        if (rt_trace_takes(id, row[i].every) != row[i].taken)
            fail_msg("%s: expected %d", row[i].name, row[i].taken);
    }
    assert_false(rt_trace_wants(rt_batch_id(0, 2))); /* closed */
    assert_int_equal(rt_trace_begin(rt_batch_id(0, 2)), 0);
}

/* One in `every`, and of each rank of any world as many. */
static void all_ranks_have_their_share(void **state)
{
    static const uint32_t world[] = {1, 2, 3, 4, 5, 8, 10, 20, 50};

    (void)state;
    for (size_t w = 0; w < ARRAY_LEN(world); w++) {
        uint32_t of[50] = {0}, total = 0;

        for (uint32_t split = 0; split < 64; split++)
            for (uint64_t sequence = 0; sequence < 1000; sequence++) {
                uint64_t id = rt_batch_id(split, sequence);

                if (!rt_trace_takes(id, 100))
                    continue;
                of[rt_batch_rank(id, world[w])]++;
                total++;
            }
        assert_in_range(total, 639, 641);
        for (uint32_t r = 0; r < world[w]; r++)
            if (of[r] < total / world[w] / 2)
                fail_msg("world %u: rank %u has %u of %u", world[w], r, of[r], total);
    }
}

/* ---- events ---- */

static void spans_and_calls_are_events(void **state)
{
    uint64_t id = rt_batch_id(3, 17), at;
    struct rt_trace_call call = {.batch_id = id,
                                 .request_id = 9,
                                 .method = WIRE_LOOKUP_BATCH,
                                 .from = {RT_ROLE_TRAINER, 0, 0},
                                 .to = {RT_ROLE_MIDDLEWARE, 1, 2},
                                 .begin_ns = 1000,
                                 .end_ns = 5001};
    json_t *events, *span;

    (void)state;
    open_trace(1);
    at = rt_trace_begin(id);
    assert_true(at > 0);
    assert_true(rt_trace_span(id, 0, "forward", at) >= at);
    rt_trace_asked(&call);
    rt_trace_served(&call);
    call.method = 99;
    rt_trace_asked(&call);
    rt_trace_close();
    events = merged();
    assert_int_equal(count_of(events, "ph", "X"), 4);
    assert_int_equal(count_of(events, "ph", "s"), 2);
    assert_int_equal(count_of(events, "ph", "f"), 1);
    assert_int_equal(count_of(events, "name", "process_name"), 3); /* three rows of one batch */
    assert_int_equal(count_of(events, "name", "method 99"), 2);
    span = json_array_get(events, 6);
    assert_string_equal(json_string_value(json_object_get(span, "name")), "LookupBatch");
    assert_true(json_real_value(json_object_get(span, "ts")) == 1.0);
    assert_true(json_real_value(json_object_get(span, "dur")) == 4.001);
    json_decref(events);
}

static void *write_spans(void *arg)
{
    uint64_t split = (uint64_t)(uintptr_t)arg;

    for (uint64_t i = 1; i <= SPANS; i++) {
        uint64_t id = rt_batch_id((uint32_t)split, i);

        rt_trace_span(id, 0, "work", rt_trace_begin(id));
    }
    return NULL;
}

static void run_threads(void)
{
    pthread_t thread[THREADS];

    for (uintptr_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, write_spans, (void *)i), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
}

static void threads_do_not_mix_their_lines(void **state)
{
    json_t *events;

    (void)state;
    open_trace(1);
    run_threads();
    assert_int_equal(rt_trace_lost(), 0);
    rt_trace_close();
    events = merged();
    assert_int_equal(count_of(events, "cat", "work"), THREADS * SPANS);
    json_decref(events);
}

/* ---- bounds and faults ---- */

static void a_file_has_its_largest_size(void **state)
{
    struct rt_trace_conf conf = conf_of(1);
    struct stat st;
    json_t *events;

    (void)state;
    conf.bytes_max = 20000;
    assert_int_equal(rt_trace_open(&conf), 0);
    run_threads();
    assert_int_equal(stat(path, &st), 0);
    assert_in_range(st.st_size, 18000, 20000);
    rt_trace_close();
    events = merged();
    assert_int_equal(count_of(events, "cat", "work") + rt_trace_lost(), THREADS * SPANS);
    json_decref(events);
    conf.bytes_max = 20000; /* started anew: the bound is of the file */
    assert_int_equal(rt_trace_open(&conf), 0);
    run_threads();
    assert_int_equal(stat(path, &st), 0);
    assert_in_range(st.st_size, 18000, 20000);
}

static void a_full_disk_ends_the_trace_alone(void **state)
{
    (void)state;
    if (symlink("/dev/full", path) != 0 || access("/dev/full", W_OK) != 0)
        skip();
    open_trace(1);
    assert_int_equal(rt_trace_every, 0); /* the first line was lost already */
    assert_int_equal(rt_trace_lost(), 1);
    run_threads();
}

static void what_cannot_be_made_is_told(void **state)
{
    struct rt_trace_conf conf = conf_of(1);
    size_t events, files;

    (void)state;
    conf.path = "/no/such/folder/trainer-0.json";
    assert_int_equal(rt_trace_open(&conf), RT_EFILE);
    assert_non_null(strstr(rt_err_text(), "/no/such/folder/trainer-0.json: cannot create"));
    assert_false(rt_trace_wants(2));
    assert_int_equal(ctl_trace_merge("/no/such/folder", &events, &files), RT_EUSAGE);
}

/* A process may be killed at any byte of its file, and be started again. */
static void any_cut_leaves_whole_events(void **state)
{
    char *text = NULL;
    size_t size, most = 0;

    (void)state;
    open_trace(1);
    for (uint64_t i = 1; i < 4; i++)
        rt_trace_span(i, 0, "work", rt_trace_begin(i));
    rt_trace_close();
    assert_int_equal(rt_file_read(path, 1 << 20, &text, &size), 0);
    for (size_t cut = 1; cut <= size; cut += cut < size - 300 ? 7 : 1) {
        json_t *events;
        size_t n;

        assert_int_equal(unlink(path), 0);
        assert_int_equal(rt_file_write(path, text, cut), 0);
        events = merged();
        n = count_of(events, "cat", "work");
        assert_true(n >= most && n <= 3);
        most = n;
        json_decref(events);
        if (cut % 5)
            continue;
        open_trace(1); /* goes on behind it */
        rt_trace_span(5, 0, "again", rt_trace_begin(5));
        rt_trace_close();
        events = merged();
        assert_int_equal(count_of(events, "name", "again"), 1);
        json_decref(events);
    }
    assert_int_equal(most, 3);
    rt_free(text);
}

/* ---- several machines ---- */

static void write_file(const char *name, const char *host, long long wall_us, const char *ts)
{
    char *at = rt_path_join(traces, name);
    char *text = rt_xasprintf(
        "[\n{\"ph\":\"M\",\"pid\":0,\"tid\":0,\"name\":\"saffron\",\"args\":{\"who\":\"%s\","
        "\"host\":\"%s\",\"every\":1,\"wall_minus_monotonic_us\":%lld}},\n"
        "{\"ts\":%s,\"dur\":1.000,\"ph\":\"X\",\"pid\":1,\"tid\":1,\"name\":\"%s\"},\n",
        name, host, wall_us, ts, name);

    assert_int_equal(rt_file_write(at, text, strlen(text)), 0);
    rt_free(text);
    rt_free(at);
}

/* Of one host times are as they are, whatever its time of day was when each began; of another they are moved. */
static void other_hosts_are_put_on_the_first_ones_clock(void **state)
{
    static const struct {
        const char *name;
        double ts;
    } row[] = {{"a.json", 1000.125}, {"b.json", 2000.5}, {"c.json", 2100.25}};
    json_t *events, *event;
    size_t i;

    (void)state;
    write_file("a.json", "one", 500000, "1000.125");
    write_file("b.json", "one", 777777, "2000.500");
    write_file("c.json", "two", 400000, "102100.250");
    events = merged();
    json_array_foreach (events, i, event) {
        const char *name = json_string_value(json_object_get(event, "name"));

        for (size_t r = 0; r < ARRAY_LEN(row); r++)
            if (!strcmp(name, row[r].name) &&
                json_real_value(json_object_get(event, "ts")) != row[r].ts)
                fail_msg("%s: expected %f", name, row[r].ts);
    }
    assert_int_equal(json_array_size(events), 6);
    json_decref(events);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, make_folder, remove_folder)
    const struct CMUnitTest test[] = {
        TEST(batches_are_taken_by_their_ids),
        TEST(all_ranks_have_their_share),
        TEST(spans_and_calls_are_events),
        TEST(threads_do_not_mix_their_lines),
        TEST(a_file_has_its_largest_size),
        TEST(a_full_disk_ends_the_trace_alone),
        TEST(what_cannot_be_made_is_told),
        TEST(any_cut_leaves_whole_events),
        TEST(other_hosts_are_put_on_the_first_ones_clock),
    };

    return cmocka_run_group_tests(test, NULL, NULL);
}
