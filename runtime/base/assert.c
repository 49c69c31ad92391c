/* runtime/base/assert.c -- the last words of a process. */
#include "runtime/base/assert.h"
#include "runtime/base/log.h"

#include <stdlib.h>

_Noreturn void rt_assert_failed(const char *expr, const char *file, int line, const char *func)
{
    rt_log(RT_LOG_ERROR, "assert at=%s:%d function=%s failed: %s", file, line, func, expr);
    abort();
}
