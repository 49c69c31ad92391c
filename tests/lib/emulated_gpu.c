/* tests/lib/emulated_gpu.c -- see emulated_gpu.h. */
#include "tests/lib/emulated_gpu.h"

#include "runtime/base/err.h"
#include "runtime/job/job.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* Test programs lie in tests/KIND/ of the build's folder. */
void emulated_gpu_open(struct tr_device_of *out)
{
    static const struct rt_job job = {.global = {.trainer_device = RT_DEVICE_GPU}};
    char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 64);
    assert_true(n > 0);
    path[n] = '\0';
    for (int up = 0; up < 3; up++)
        *strrchr(path, '/') = '\0';
    snprintf(path + strlen(path), 64, "/saffron-emulated.so");
    setenv("SAFFRON_GPU_LIBRARY", path, 0);
    if (tr_gpu_open(&job, out) != 0)
        fail_msg("%s", rt_err_text());
}
