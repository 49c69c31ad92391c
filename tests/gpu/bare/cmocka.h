/* tests/gpu/bare/cmocka.h -- of cmocka what tests/unit/test_device.c asks for, where cmocka is not: a bare GPU machine (bare.mk).
 *
 * The first assertion that fails ends the program, with status 1; cmocka would go on with the next test. */
#ifndef TESTS_GPU_BARE_CMOCKA_H
#define TESTS_GPU_BARE_CMOCKA_H

#include <stdio.h>
#include <stdlib.h>

struct CMUnitTest {
    const char *name;
    void (*run)(void **state);
};
#define cmocka_unit_test(function)                                                                 \
    {                                                                                              \
#function, function                                                                        \
    }

#define fail_msg(...)                                                                              \
    do {                                                                                           \
        printf("FAILED  %s:%d: ", __FILE__, __LINE__);                                             \
        printf(__VA_ARGS__);                                                                       \
        printf("\n");                                                                              \
        exit(1);                                                                                   \
    } while (0)
#define assert_true(holds)                                                                         \
    do {                                                                                           \
        if (!(holds))                                                                              \
            fail_msg("%s", #holds);                                                                \
    } while (0)
#define assert_int_equal(a, b)                                                                     \
    do {                                                                                           \
        long long got_ = (long long)(a), want_ = (long long)(b);                                   \
        if (got_ != want_)                                                                         \
            fail_msg("%s: got %lld, want %lld", #a, got_, want_);                                  \
    } while (0)

#define cmocka_run_group_tests_name(group, tests, setup, teardown)                                 \
    run_tests(group, tests, sizeof(tests) / sizeof *(tests))
static inline int run_tests(const char *group, const struct CMUnitTest *test, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        void *state = NULL;
        test[i].run(&state);
        printf("ok      %s\n", test[i].name);
        fflush(stdout);
    }
    printf("[  PASSED  ] %zu test(s) of %s.\n", n, group);
    return 0;
}

#endif
