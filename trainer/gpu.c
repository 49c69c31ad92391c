/* trainer/gpu.c -- see gpu.h. */
#include "trainer/gpu.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/job/job.h"
#include "trainer/backend/gpu.h"
#include "trainer/collective/nccl_api.h"

#define LIBRARY "saffron-cuda.so"

static int fail(int err, const char *text)
{
    return RT_FAIL(err, "%s", text);
}

/* Beside the program. */
static int find_library(char path[PATH_MAX])
{
    const char *named = getenv("SAFFRON_GPU_LIBRARY");
    if (named && named[0]) {
        if (strlen(named) >= PATH_MAX)
            return RT_FAIL(RT_EUSAGE, "SAFFRON_GPU_LIBRARY: expected a path of fewer than %d bytes",
                           PATH_MAX);
        memcpy(path, named, strlen(named) + 1);
        return 0;
    }
    ssize_t n = readlink("/proc/self/exe", path, PATH_MAX - 1);
    char *slash = NULL;
    if (n > 0) {
        path[n] = '\0';
        slash = strrchr(path, '/');
    }
    if (!slash || (size_t)(slash + 1 - path) + sizeof LIBRARY > PATH_MAX)
        return RT_FAIL(RT_EBACKEND, "the program's own path cannot be read");
    memcpy(slash + 1, LIBRARY, sizeof LIBRARY);
    return 0;
}

static int load(struct tr_device_of *device)
{
    char path[PATH_MAX];
    int err = find_library(path);
    if (err)
        return err;
    if (access(path, R_OK) != 0)
        return RT_FAIL(RT_EUSAGE, "%s is not there: this Saffron was built without CUDA", path);
    device->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!device->library)
        return RT_FAIL(RT_EUSAGE, "the GPU's library cannot be loaded: %s", dlerror());
    device->gpu = dlsym(device->library, TR_GPU_SYMBOL);
    if (!device->gpu || device->gpu->version != TR_GPU_VERSION)
        return RT_FAIL(RT_EUSAGE,
                       "%s: expected version %u of the GPU's library, got %u: use the one that was "
                       "built with this program",
                       path, TR_GPU_VERSION, device->gpu ? device->gpu->version : 0);
    device->nccl = dlsym(device->library, TR_NCCL_SYMBOL);
    return 0;
}

static int open_device(const struct rt_job *job, struct tr_device_of *device)
{
    char text[256] = "";
    int err = load(device);
    if (err)
        return err;
    if (device->gpu->count(text, sizeof text) == 0)
        return RT_FAIL(RT_EUSAGE, "no GPU answers: %s", text);
    const struct tr_gpu_conf conf = {.pinned = job->global.exact, .fail = fail};
    err = device->gpu->open(&conf, &device->cuda);
    if (err)
        return err;
    device->gpu->describe(device->cuda, text, sizeof text);
    rt_log(RT_LOG_INFO, "device gpu=\"%s\"", text);
    return 0;
}

int tr_gpu_open(const struct rt_job *job, struct tr_device_of *out)
{
    *out = (struct tr_device_of){NULL, NULL, NULL, NULL};
    if (job->global.trainer_device == RT_DEVICE_CPU)
        return 0;
    int err = open_device(job, out);
    if (!err)
        return 0;
    tr_gpu_close(out);
    if (job->global.trainer_device == RT_DEVICE_GPU)
        return rt_fail_prefix(err, "trainer.device is gpu: ");
    rt_log(RT_LOG_INFO, "device cpu reason=\"%s\"", rt_err_text());
    return 0;
}

void tr_gpu_close(struct tr_device_of *device)
{
    if (device->cuda)
        device->gpu->close(device->cuda);
    if (device->library)
        (void)dlclose(device->library);
    *device = (struct tr_device_of){NULL, NULL, NULL, NULL};
}
