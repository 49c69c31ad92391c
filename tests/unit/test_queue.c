/* tests/unit/test_queue.c -- order, bounds, time-outs, closing, many threads. */
#include "runtime/base/clock.h"
#include "runtime/base/queue.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>
#include <cmocka.h>

static int item[4];

static void first_in_first_out_and_bounded(void **state)
{
    struct rt_queue *queue = rt_queue_create(3);

    (void)state;
    assert_null(rt_queue_try_pop(queue));
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < 3; i++)
            assert_true(rt_queue_try_push(queue, &item[i]));
        assert_false(rt_queue_try_push(queue, &item[3]));
        assert_int_equal(rt_queue_count(queue), 3);
        for (int i = 0; i < 2; i++)
            assert_ptr_equal(rt_queue_try_pop(queue), &item[i]);
        assert_true(rt_queue_try_push(queue, &item[3]));
        assert_ptr_equal(rt_queue_pop(queue, 0), &item[2]);
        assert_ptr_equal(rt_queue_pop(queue, UINT64_MAX), &item[3]);
    }
    rt_queue_destroy(queue);
    rt_queue_destroy(NULL);
}

static void pop_gives_up_in_time(void **state)
{
    struct rt_queue *queue = rt_queue_create(1);
    uint64_t start = rt_now_ns(), waited;

    (void)state;
    assert_null(rt_queue_pop(queue, 0));
    assert_null(rt_queue_pop(queue, 20 * RT_MS));
    waited = rt_now_ns() - start;
    assert_true(waited >= 20 * RT_MS && waited < 3 * RT_S);
    rt_queue_destroy(queue);
}

static void closed_means_drain(void **state)
{
    struct rt_queue *queue = rt_queue_create(2);

    (void)state;
    assert_true(rt_queue_push(queue, &item[0]));
    rt_queue_close(queue);
    assert_false(rt_queue_try_push(queue, &item[1]));
    assert_false(rt_queue_push(queue, &item[1]));
    assert_ptr_equal(rt_queue_pop(queue, UINT64_MAX), &item[0]);
    assert_null(rt_queue_pop(queue, UINT64_MAX));
    rt_queue_destroy(queue);
}

static void *close_soon(void *arg)
{
    struct timespec pause = {.tv_nsec = 20 * (long)RT_MS};

    nanosleep(&pause, NULL);
    rt_queue_close(arg);
    return NULL;
}

static void closing_wakes_both_sides(void **state)
{
    (void)state;
    for (int full = 0; full < 2; full++) {
        struct rt_queue *queue = rt_queue_create(1);
        pthread_t thread;

        if (full)
            assert_true(rt_queue_push(queue, &item[0]));
        pthread_create(&thread, NULL, close_soon, queue);
        if (full)
            assert_false(rt_queue_push(queue, &item[1]));
        else
            assert_null(rt_queue_pop(queue, UINT64_MAX));
        pthread_join(thread, NULL);
        rt_queue_destroy(queue);
    }
}

enum { PRODUCERS = 3, CONSUMERS = 3, EACH = 5000 };

static struct rt_queue *shared;
static uint8_t seen[PRODUCERS][EACH]; /* an item's address is its identity */

static void *produce(void *arg)
{
    uint8_t *mine = arg;

    for (int i = 0; i < EACH; i++) {
        if (!rt_queue_push(shared, &mine[i]))
            return arg;
    }
    return NULL;
}

/* Items of one producer come in its order; how many were had. */
static void *consume(void *arg)
{
    uint8_t *last[PRODUCERS] = {0};
    uintptr_t count = 0;
    uint8_t *got;

    (void)arg;
    while ((got = rt_queue_pop(shared, UINT64_MAX)) != NULL) {
        size_t producer = (size_t)(got - &seen[0][0]) / EACH;

        if (last[producer] && got <= last[producer])
            return (void *)UINTPTR_MAX;
        last[producer] = got;
        __atomic_fetch_add(got, 1, __ATOMIC_RELAXED);
        count++;
    }
    return (void *)count;
}

static void many_threads_lose_nothing(void **state)
{
    pthread_t producer[PRODUCERS], consumer[CONSUMERS];
    uintptr_t total = 0;

    (void)state;
    shared = rt_queue_create(7);
    for (int i = 0; i < PRODUCERS; i++)
        pthread_create(&producer[i], NULL, produce, seen[i]);
    for (int i = 0; i < CONSUMERS; i++)
        pthread_create(&consumer[i], NULL, consume, NULL);
    for (int i = 0; i < PRODUCERS; i++) {
        void *failed;

        pthread_join(producer[i], &failed);
        assert_null(failed);
    }
    rt_queue_close(shared);
    for (int i = 0; i < CONSUMERS; i++) {
        void *count;

        pthread_join(consumer[i], &count);
        assert_true((uintptr_t)count != UINTPTR_MAX);
        total += (uintptr_t)count;
    }
    assert_int_equal(total, PRODUCERS * EACH);
    for (int i = 0; i < PRODUCERS * EACH; i++)
        assert_int_equal(seen[i / EACH][i % EACH], 1);
    rt_queue_destroy(shared);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_in_first_out_and_bounded),
        cmocka_unit_test(pop_gives_up_in_time),
        cmocka_unit_test(closed_means_drain),
        cmocka_unit_test(closing_wakes_both_sides),
        cmocka_unit_test(many_threads_lose_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
