/* tests/fuzz/entry.c -- what libFuzzer calls; FUZZ_TARGET is the function of one target.
 *
 * glob() here knows no disk: every pattern matches the one path that it spells, so a job never depends on
 * the machine and a pattern of many stars costs nothing. The trainer's kernels are written for gcc and left
 * out; the parsers' objects refer to them, but call none. */
#include "runtime/base/assert.h"
#include "runtime/base/mem.h"
#include "tests/fuzz/fuzz.h"
#include "trainer/backend/cpu/kernels.h"

#include <glob.h>

#ifndef FUZZ_TARGET
#define FUZZ_TARGET fuzz_frame /* for tools that read this file alone */
#endif

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    return FUZZ_TARGET(data, size);
}

int glob(const char *restrict pattern, int flags, int (*on_error)(const char *, int),
         glob_t *restrict found)
{
    (void)on_error;
    if (!(flags & GLOB_APPEND))
        *found = (glob_t){0};
    found->gl_pathv = rt_xrealloc(found->gl_pathv, (found->gl_pathc + 1) * sizeof(char *));
    found->gl_pathv[found->gl_pathc++] = rt_xstrdup(pattern);
    return 0;
}

void globfree(glob_t *found)
{
    for (size_t i = 0; i < found->gl_pathc; i++)
        rt_free(found->gl_pathv[i]);
    rt_free(found->gl_pathv);
    *found = (glob_t){0};
}

const struct tr_kernels *tr_kernels_get(void)
{
    rt_assert(!"kernels in a fuzz target");
    return NULL;
}
