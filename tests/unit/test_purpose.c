/* tests/unit/test_purpose.c -- CPU time and bytes go where the batches of the frames belong. */
#include "runtime/base/purpose.h"
#include "runtime/base/clock.h"
#include "runtime/net/frame.h"
#include "tests/lib/rpc_world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static uint64_t thread_cpu_ns(void)
{
    struct timespec used;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    return (uint64_t)used.tv_sec * RT_S + (uint64_t)used.tv_nsec;
}

static void burn(uint64_t ns)
{
    uint64_t until = thread_cpu_ns() + ns;

    while (thread_cpu_ns() < until)
        ;
}

/* false: more than was burnt. */
static bool time_is_told_apart(void)
{
    static const struct {
        enum rt_purpose purpose;
        uint64_t ns;
    } stretch[] = {
        {RT_PURPOSE_OTHER, 5 * RT_MS},     {RT_PURPOSE_TRAIN, 20 * RT_MS},
        {RT_PURPOSE_EVALUATE, 10 * RT_MS}, {RT_PURPOSE_TRAIN, 10 * RT_MS},
        {RT_PURPOSE_TRAIN, 5 * RT_MS},     {RT_PURPOSE_EVALUATE, 5 * RT_MS},
    };
    uint64_t want[RT_PURPOSES] = {0}, before[RT_PURPOSES], all = 0, used, began;
    bool good = true;

    rt_purpose_begin(RT_PURPOSE_OTHER);
    began = thread_cpu_ns();
    for (int purpose = 0; purpose < RT_PURPOSES; purpose++)
        before[purpose] = rt_purpose_cpu_ns((enum rt_purpose)purpose);
    for (size_t i = 0; i < sizeof(stretch) / sizeof(stretch[0]); i++) {
        rt_purpose_begin(stretch[i].purpose);
        assert_int_equal(rt_purpose_now(), stretch[i].purpose);
        burn(stretch[i].ns);
        want[stretch[i].purpose] += stretch[i].ns;
    }
    for (int purpose = 0; purpose < RT_PURPOSES; purpose++) {
        used = rt_purpose_cpu_ns((enum rt_purpose)purpose) - before[purpose];
        all += used;
        print_message("%s: %llu ns, burnt %llu\n", rt_purpose_name((enum rt_purpose)purpose),
                      (unsigned long long)used, (unsigned long long)want[purpose]);
        assert_true(used >= want[purpose]);
        good &= used <= want[purpose] + 5 * RT_MS;
    }
    used = thread_cpu_ns() - began; /* the only thread: the parts are the whole */
    assert_true(all <= used);
    return good && used - all < 5 * RT_MS;
}

/* A host that takes the CPU away adds to a thread's time: it does not so each time. */
static void time_goes_where_the_work_is(void **state)
{
    int attempt = 1;

    (void)state;
    while (!time_is_told_apart())
        assert_true(attempt++ < 20);
}

static uint64_t sent(enum rt_purpose purpose, enum rt_role to)
{
    return atomic_load(rt_purpose_sent_bytes(purpose, to));
}

/* A request tells both ends; its reply, and whatever is about no batch, go with it. */
static void frames_tell_what_is_worked_on(void **state)
{
    static const struct {
        const char *name;
        uint64_t batch_id;
        enum rt_purpose want;
    } row[] = {
        {"no batch, at the start", 0, RT_PURPOSE_OTHER},
        {"a batch", 7, RT_PURPOSE_TRAIN},
        {"no batch", 0, RT_PURPOSE_TRAIN},
        {"a test batch", RT_BATCH_EVALUATES | 7, RT_PURPOSE_EVALUATE},
        {"the first test batch of a split", RT_BATCH_EVALUATES, RT_PURPOSE_EVALUATE},
        {"no batch, evaluating", 0, RT_PURPOSE_EVALUATE},
        {"the last split of training", RT_BATCH_EVALUATES - 1, RT_PURPOSE_TRAIN},
    };
    struct world w;
    struct answer a = {0};

    (void)state;
    rw_open_both(&w, rw_address(0));
    rt_purpose_begin(RT_PURPOSE_OTHER);
    for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
        struct rt_outgoing out = {.batch_id = row[i].batch_id};
        enum rt_role server = RT_ROLE_EMBEDDING_SERVER, client = RT_ROLE_MIDDLEWARE;
        uint64_t there = sent(row[i].want, server), back = sent(row[i].want, client);
        int n = a.count + 1;

        assert_int_equal(rt_rpc_call(w.peer, METHOD_ECHO, &out, 0, rw_on_answer, &a), 0);
        if (rt_purpose_now() != row[i].want)
            fail_msg("%s: works on %s", row[i].name, rt_purpose_name(rt_purpose_now()));
        rw_wait(&w, &a.count, n, row[i].name);
        there = sent(row[i].want, server) - there;
        back = sent(row[i].want, client) - back;
        if (there < RT_FRAME_HEADER_SIZE || back < RT_FRAME_HEADER_SIZE)
            fail_msg("%s: %llu bytes there, %llu back", row[i].name, (unsigned long long)there,
                     (unsigned long long)back);
    }
    rw_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(time_goes_where_the_work_is),
        cmocka_unit_test(frames_tell_what_is_worked_on),
    };

    return cmocka_run_group_tests_name("purpose", tests, NULL, NULL);
}
