/* tests/unit/test_mem.c -- allocation, arenas and their limit, the failing n-th. */
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

static void sizes_do_not_overflow(void **state)
{
    size_t out = 7;

    (void)state;
    assert_false(rt_mul_size(SIZE_MAX, 2, &out));
    assert_int_equal(out, 7);
    assert_false(rt_add_size(SIZE_MAX, 1, &out));
    assert_true(rt_mul_size(3, 5, &out));
    assert_int_equal(out, 15);
    assert_int_equal(rt_align_up(0, 64), 0);
    assert_int_equal(rt_align_up(1, 64), 64);
    assert_int_equal(rt_align_up(64, 64), 64);
}

static void alignment(void **state)
{
    static const struct {
        size_t size, align;
    } row[] = {{0, 64},           {1, 64}, {4096, 64}, {(2 << 20) - 1, 64}, {2 << 20, 2 << 20},
               {5000001, 2 << 20}};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        uint8_t *a = rt_try_aligned(row[i].size), *b = rt_xaligned(row[i].size);

        if (!a || (uintptr_t)a % row[i].align || (uintptr_t)b % row[i].align) {
            fail_msg("size %zu: %p %p", row[i].size, (void *)a, (void *)b);
            return;
        }
        if (row[i].size)
            a[row[i].size - 1] = b[row[i].size - 1] = 1;
        rt_free(a);
        rt_free(b);
    }
}

static void small_helpers(void **state)
{
    char *text = rt_xasprintf("%s-%d", "a", 5);
    char *copy = rt_xstrdup(text);
    uint32_t *zero = rt_xcalloc(4, 4);

    (void)state;
    assert_string_equal(copy, "a-5");
    assert_int_equal(zero[3], 0);
    copy = rt_xrealloc(copy, 100);
    assert_string_equal(copy, "a-5");
    rt_free(text);
    rt_free(copy);
    rt_free(zero);
    rt_free(rt_xmalloc(0));
    rt_free(NULL);
}

static void the_nth_allocation_fails(void **state)
{
    void *p;

    (void)state;
    rt_fault_alloc(2);
    for (int i = 0; i < 2; i++) {
        p = rt_try_malloc(1);
        assert_non_null(p);
        rt_free(p);
        assert_false(rt_fault_hit());
    }
    assert_null(rt_try_calloc(1, 1));
    assert_true(rt_fault_hit());
    p = rt_try_realloc(NULL, 5); /* one only */
    assert_non_null(p);
    rt_fault_alloc(0);
    assert_false(rt_fault_hit());
    assert_null(rt_try_realloc(p, 6)); /* p is still ours */
    rt_fault_alloc(0);
    assert_null(rt_try_aligned(1));
    rt_fault_alloc(0);
    rt_free(rt_xmalloc(1)); /* not covered */
    assert_false(rt_fault_hit());
    rt_fault_alloc(-1);
    rt_free(p);
}

static void arena_objects_do_not_meet(void **state)
{
    enum { N = 3000 };
    static struct {
        uint8_t *at;
        size_t size;
    } object[N];
    uint64_t seed = rt_wall_ms();
    struct rt_arena *arena;

    (void)state;
    print_message("seed %llu\n", (unsigned long long)seed);
    assert_int_equal(rt_arena_create((size_t)64 << 20, &arena), 0);
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < N; i++) {
            uint64_t draw = rt_draw(seed, i);

            object[i].size = (size_t)rt_below(draw, i % 500 == 0 ? 500000 : 900);
            object[i].at = rt_arena_alloc(arena, object[i].size);
            assert_non_null(object[i].at);
            assert_int_equal((uintptr_t)object[i].at % 16, 0);
            memset(object[i].at, (int)(i & 255), object[i].size);
        }
        for (size_t i = 0; i < N; i++) {
            for (size_t j = 0; j < object[i].size; j++) {
                if (object[i].at[j] != (i & 255))
                    fail_msg("object %zu changed at %zu", i, j);
            }
        }
        assert_true(rt_arena_used(arena) > N);
        rt_arena_reset(arena);
        assert_int_equal(rt_arena_used(arena), 0);
    }
    rt_arena_destroy(arena);
    rt_arena_destroy(NULL);
}

static void arena_keeps_its_limit(void **state)
{
    struct rt_arena *arena;
    uint32_t *array;

    (void)state;
    assert_int_equal(rt_arena_create(1000, &arena), 0);
    assert_null(rt_arena_alloc(arena, 1001));
    assert_null(rt_arena_alloc(arena, SIZE_MAX));
    assert_null(rt_arena_calloc(arena, SIZE_MAX / 2, 4));
    assert_null(rt_arena_array(arena, uint64_t, 126));
    assert_int_equal(rt_arena_used(arena), 0);
    assert_non_null(rt_arena_alloc(arena, 800));
    array = rt_arena_array(arena, uint32_t, 40);
    assert_non_null(array);
    for (int i = 0; i < 40; i++)
        assert_int_equal(array[i], 0);
    assert_int_equal(rt_arena_used(arena), 960);
    assert_null(rt_arena_alloc(arena, 48));
    assert_string_equal(rt_arena_strdup(arena, "last"), "last");
    assert_null(rt_arena_strdup(arena, "fourteen bytes and more"));
    rt_arena_reset(arena);
    assert_non_null(rt_arena_alloc(arena, 992));
    rt_arena_destroy(arena);

    assert_int_equal(rt_arena_create(SIZE_MAX, &arena), 0);
    assert_null(rt_arena_alloc(arena, SIZE_MAX - 3));
    rt_arena_destroy(arena);
}

static int make_three(struct rt_arena **out)
{
    int err = rt_arena_create(100000, out);

    if (err)
        return err;
    if (!rt_arena_alloc(*out, 10) || !rt_arena_strdup(*out, "x") || !rt_arena_calloc(*out, 5, 5000))
        return RT_FAIL(RT_ENOMEM, "three");
    return 0;
}

static void arenas_fail_too(void **state)
{
    int nth = 0;

    (void)state;
    for (;; nth++) {
        struct rt_arena *arena = NULL;
        int err;

        rt_fault_alloc(nth);
        err = make_three(&arena);
        rt_arena_destroy(arena);
        if (!rt_fault_hit()) {
            assert_int_equal(err, 0);
            break;
        }
        assert_int_equal(err, RT_ENOMEM);
    }
    rt_fault_alloc(-1);
    assert_int_equal(nth, 4);
}

static void *bound_thread(void *arg)
{
    rt_mem_bind_thread();
    rt_fault_alloc(-1); /* another thread's arming is not ours */
    rt_free(rt_try_malloc(100000));
    return arg;
}

static void threads_may_have_their_own(void **state)
{
    pthread_t thread;

    (void)state;
    rt_fault_alloc(0);
    pthread_create(&thread, NULL, bound_thread, NULL);
    pthread_join(thread, NULL);
    assert_false(rt_fault_hit());
    assert_null(rt_try_malloc(1));
}

static void *count_elsewhere(void *out)
{
    rt_free(rt_xmalloc(1));
    *(uint64_t *)out = rt_mem_count();
    return NULL;
}

/* Each way to the allocator counts once, on its own thread; what takes from memory that is there does not. */
static void allocations_are_counted(void **state)
{
    uint64_t n = rt_mem_count(), there = 0;
    struct rt_arena *arena = NULL;
    pthread_t thread;
    void *p[] = {rt_xmalloc(1),          rt_xcalloc(1, 1),    rt_xrealloc(NULL, 1),
                 rt_xstrdup("a"),        rt_xaligned(1),      rt_xasprintf("%d", 1),
                 rt_try_malloc(1),       rt_try_calloc(1, 1), rt_try_aligned(1),
                 rt_try_realloc(NULL, 1)};

    (void)state;
    assert_int_equal(rt_mem_count(), n + ARRAY_LEN(p));
    for (size_t i = 0; i < ARRAY_LEN(p); i++)
        rt_free(p[i]);
    assert_int_equal(rt_arena_create(1 << 20, &arena), 0);
    n = rt_mem_count();
    assert_non_null(rt_arena_alloc(arena, 16));
    assert_int_equal(rt_mem_count(), n + 1);
    for (int i = 0; i < 100; i++)
        assert_non_null(rt_arena_alloc(arena, 16));
    assert_int_equal(rt_mem_count(), n + 1);
    assert_non_null(rt_arena_alloc(arena, 1 << 19));
    assert_int_equal(rt_mem_count(), n + 2);
    rt_arena_destroy(arena);
    assert_int_equal(pthread_create(&thread, NULL, count_elsewhere, &there), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(there, 1);
    assert_int_equal(rt_mem_count(), n + 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_do_not_overflow),
        cmocka_unit_test(alignment),
        cmocka_unit_test(small_helpers),
        cmocka_unit_test(the_nth_allocation_fails),
        cmocka_unit_test(arena_objects_do_not_meet),
        cmocka_unit_test(arena_keeps_its_limit),
        cmocka_unit_test(arenas_fail_too),
        cmocka_unit_test(threads_may_have_their_own),
        cmocka_unit_test(allocations_are_counted),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
