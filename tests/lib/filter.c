/* tests/lib/filter.c -- CASE='dedup_*' program: run only the cases of that name (* and ? are wildcards). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

/* Before main: linked into every test program, none of which has to know. */
__attribute__((constructor)) static void choose_cases(void)
{
    const char *pattern = getenv("CASE");

    if (pattern)
        cmocka_set_test_filter(pattern);
}
