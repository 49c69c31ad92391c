/* tests/lib/emulated_gpu.c -- see emulated_gpu.h. */
#include "tests/lib/emulated_gpu.h"

#include "runtime/base/err.h"
#include "runtime/job/job.h"
#include "trainer/backend/gpu.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* Test programs lie in tests/KIND/ of the build's folder. */
static int keep_text(int err, const char *text)
{
    return RT_FAIL(err, "%s", text);
}

void emulated_gpu_open(uint32_t number, struct tr_device_of *out)
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
    setenv("SAFFRON_EMULATED_GPUS", "16", 0);
    if (tr_gpu_open(&job, out) != 0)
        fail_msg("%s", rt_err_text());
    if (number == 0)
        return;
    out->gpu->close(out->cuda); /* a process has number 0 */
    const struct tr_gpu_conf conf = {.device = number, .fail = keep_text};
    if (out->gpu->open(&conf, &out->cuda) != 0)
        fail_msg("%s", rt_err_text());
}
