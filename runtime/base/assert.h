/* runtime/base/assert.h -- bugs of ours end the process at once, with place and message. */
#ifndef RT_ASSERT_H
#define RT_ASSERT_H

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

_Noreturn void rt_assert_failed(const char *expr, const char *file, int line, const char *func);

/* Always on; keep the expression O(1) and free of side effects. */
#define rt_assert(expr) ((expr) ? (void)0 : rt_assert_failed(#expr, __FILE__, __LINE__, __func__))

#ifdef RT_DEBUG
#define rt_assert_slow(expr) rt_assert(expr)
#else
#define rt_assert_slow(expr) ((void)0)
#endif

#endif
