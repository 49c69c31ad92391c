/* tests/unit/test_buf.c -- payload buffers: classes, budget, reuse, threads. */
#include "runtime/base/assert.h"
#include "runtime/base/buf.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

static void capacities(void **state)
{
    static const struct {
        size_t size, capacity;
    } row[] = {
        {0, 256},   {1, 256},       {256, 256},     {257, 320},         {320, 320},
        {321, 384}, {448, 448},     {449, 512},     {511, 512},         {512, 512},
        {513, 640}, {65536, 65536}, {65537, 81920}, {1000000, 1 << 20}, {(3 << 20) + 1, 7 << 19},
    };
    struct rt_pool *pool = rt_pool_create((size_t)64 << 20);

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct rt_buf *buf = rt_buf_new(pool, row[i].size);

        if (!buf || buf->capacity != row[i].capacity || (uintptr_t)buf->data % 64) {
            fail_msg("%zu: %zu bytes", row[i].size, buf ? buf->capacity : 0);
            return;
        }
        assert_int_equal(rt_pool_lent(pool), row[i].capacity);
        memset(buf->data, 1, buf->capacity);
        rt_buf_unref(buf);
        assert_int_equal(rt_pool_lent(pool), 0);
    }
    rt_buf_unref(NULL);
    rt_pool_destroy(pool);
    rt_pool_destroy(NULL);
}

static void every_size_fits_its_class(void **state)
{
    struct rt_pool *pool = rt_pool_create((size_t)1 << 20);

    (void)state;
    for (size_t size = 0; size < 20000; size += size < 2200 ? 1 : 37) {
        struct rt_buf *buf = rt_buf_new(pool, size);

        if (!buf || buf->capacity < size ||
            (size > 256 && (buf->capacity - size) * 5 > buf->capacity))
            fail_msg("%zu: capacity %zu", size, buf ? buf->capacity : 0);
        rt_buf_unref(buf);
    }
    rt_pool_destroy(pool);
}

static void the_budget_holds(void **state)
{
    struct rt_pool *pool = rt_pool_create(10000);
    struct rt_buf *a, *b;

    (void)state;
    assert_null(rt_buf_new(pool, 10001));
    assert_null(rt_buf_new(pool, SIZE_MAX));
    assert_null(rt_buf_new(pool, SIZE_MAX / 2));
    a = rt_buf_new(pool, 8192);
    assert_non_null(a);
    assert_null(rt_buf_new(pool, 8192));
    assert_null(rt_buf_new(pool, 2048));
    b = rt_buf_new(pool, 1792);
    assert_non_null(b);
    assert_int_equal(rt_pool_lent(pool), 8192 + 1792);
    rt_buf_unref(a);
    /* The cached 8192 make way for another class. */
    a = rt_buf_new(pool, 7168);
    assert_non_null(a);
    rt_buf_unref(a);
    rt_buf_unref(b);
    /* So they must be made afresh, and then the 7168 and the 1792 have made way. */
    assert_int_equal(rt_pool_fresh(pool), 3);
    a = rt_buf_new(pool, 8192);
    assert_int_equal(rt_pool_fresh(pool), 4);
    rt_buf_unref(a);
    a = rt_buf_new(pool, 7168);
    assert_int_equal(rt_pool_fresh(pool), 5);
    rt_buf_unref(a);
    rt_pool_destroy(pool);
}

static void steady_state_makes_nothing_fresh(void **state)
{
    struct rt_pool *pool = rt_pool_create((size_t)1 << 20);
    uint64_t fresh;

    (void)state;
    for (int round = 0; round < 50; round++) {
        struct rt_buf *buf[4];

        for (size_t i = 0; i < 4; i++)
            assert_non_null(buf[i] = rt_buf_new(pool, 1000 * (i + 1)));
        if (round == 0)
            fresh = rt_pool_fresh(pool);
        for (size_t i = 0; i < 4; i++)
            rt_buf_unref(buf[i]);
    }
    assert_int_equal(fresh, 4);
    assert_int_equal(rt_pool_fresh(pool), fresh);
    rt_pool_destroy(pool);
}

/* Three at once, one at a time ever after: two are freed, and no other class is touched. */
static void what_nobody_needs_is_freed(void **state)
{
    struct rt_pool *pool = rt_pool_create((size_t)1 << 20);
    struct rt_buf *buf[3], *other = rt_buf_new(pool, 5000), *last = NULL;

    (void)state;
    for (size_t i = 0; i < 3; i++)
        assert_non_null(buf[i] = rt_buf_new(pool, 1000));
    for (size_t i = 0; i < 3; i++)
        rt_buf_unref(buf[i]);
    rt_pool_tend(pool); /* all three were needed until now */
    assert_int_equal(rt_pool_fresh(pool), 4);
    for (int round = 0; round < 5; round++) {
        last = rt_buf_new(pool, 1000);
        assert_ptr_equal(last, buf[2]);
        rt_buf_unref(last);
        rt_pool_tend(pool);
        assert_int_equal(rt_pool_fresh(pool), 4);
    }
    rt_buf_unref(other);
    buf[0] = rt_buf_new(pool, 5000);
    assert_ptr_equal(buf[0], other);
    assert_non_null(buf[1] = rt_buf_new(pool, 1000));
    assert_int_equal(rt_pool_fresh(pool), 4);
    assert_non_null(buf[2] = rt_buf_new(pool, 1000)); /* it was freed */
    assert_int_equal(rt_pool_fresh(pool), 5);
    rt_pool_tend(pool); /* those that are out are none to free */
    for (size_t i = 0; i < 3; i++)
        rt_buf_unref(buf[i]);
    rt_pool_tend(pool);
    rt_pool_tend(pool); /* nobody needs any: all are freed */
    assert_non_null(buf[0] = rt_buf_new(pool, 1000));
    assert_int_equal(rt_pool_fresh(pool), 6);
    rt_buf_unref(buf[0]);
    rt_pool_destroy(pool);
}

static void references_keep_it(void **state)
{
    struct rt_pool *pool = rt_pool_create(1000);
    struct rt_buf *buf = rt_buf_new(pool, 10);

    (void)state;
    assert_ptr_equal(rt_buf_ref(buf), buf);
    rt_buf_unref(buf);
    assert_int_equal(rt_pool_lent(pool), 256);
    buf->data[0] = 1;
    rt_buf_unref(buf);
    assert_int_equal(rt_pool_lent(pool), 0);
    rt_pool_destroy(pool);
}

static void out_of_memory_lends_nothing(void **state)
{
    struct rt_pool *pool = rt_pool_create(1000);
    struct rt_buf *buf;

    (void)state;
    rt_fault_alloc(0);
    assert_null(rt_buf_new(pool, 10));
    rt_fault_alloc(-1);
    assert_int_equal(rt_pool_lent(pool), 0);
    buf = rt_buf_new(pool, 10);
    assert_non_null(buf);
    rt_buf_unref(buf);
    rt_pool_destroy(pool);
}

struct worker {
    struct rt_pool *pool;
    uint64_t seed;
    unsigned refused;
};

static void *work(void *arg)
{
    struct worker *worker = arg;
    struct rt_buf *held[8] = {0};

    for (uint64_t i = 0; i < 20000; i++) {
        uint64_t draw = rt_draw(worker->seed, i);
        struct rt_buf **slot = &held[draw & 7];

        if (*slot) {
            rt_assert((*slot)->data[0] == (uint8_t)worker->seed);
            rt_buf_unref(*slot);
        }
        *slot = rt_buf_new(worker->pool, (size_t)(draw >> 8) % 5000);
        if (*slot)
            (*slot)->data[0] = (uint8_t)worker->seed;
        else
            worker->refused++;
    }
    for (size_t i = 0; i < 8; i++)
        rt_buf_unref(held[i]);
    return NULL;
}

static void threads_share_a_pool(void **state)
{
    struct rt_pool *pool = rt_pool_create(60000);
    struct worker worker[3];
    pthread_t thread[3];
    unsigned refused = 0;

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        worker[i] = (struct worker){.pool = pool, .seed = i + 1};
        pthread_create(&thread[i], NULL, work, &worker[i]);
    }
    for (size_t i = 0; i < 3; i++) {
        pthread_join(thread[i], NULL);
        refused += worker[i].refused;
    }
    assert_int_equal(rt_pool_lent(pool), 0);
    assert_true(refused < 60000);
    rt_pool_destroy(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(capacities),
        cmocka_unit_test(every_size_fits_its_class),
        cmocka_unit_test(the_budget_holds),
        cmocka_unit_test(steady_state_makes_nothing_fresh),
        cmocka_unit_test(what_nobody_needs_is_freed),
        cmocka_unit_test(references_keep_it),
        cmocka_unit_test(out_of_memory_lends_nothing),
        cmocka_unit_test(threads_share_a_pool),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
