/* tests/gpu/emulated/device.cpp -- what is asked of a device, and errors. SAFFRON_EMULATED_GPUS: how many there are; 1 if not set. */
#include "tests/gpu/emulated/emulator.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <atomic>

#define PROCESSORS 4 /* few, so that loops over a grid have more than one turn */

uint64_t emulated_counts[EMULATED_COUNTS];
static thread_local cudaError_t last_error;
static thread_local int current_device;
static std::atomic<int> broken;

static int devices(void)
{
    const char *given = getenv("SAFFRON_EMULATED_GPUS");
    return given ? (int)strtol(given, NULL, 10) : 1;
}

uint64_t emulated_counted(enum emulated_count what)
{
    emulated_guard guard(emulated_lock);
    return emulated_counts[what];
}

void emulated_break(cudaError_t status)
{
    broken = (int)status;
}

cudaError_t emulated_result(cudaError_t status)
{
    if (broken)
        status = (cudaError_t)broken.load();
    if (status != cudaSuccess)
        last_error = status;
    return status;
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t error = broken ? (cudaError_t)broken.load() : last_error;
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError(void)
{
    return broken ? (cudaError_t)broken.load() : last_error;
}

static const struct {
    cudaError_t code;
    const char *name, *text;
} errors[] = {
#define ERROR(name, text)                                                                          \
    {                                                                                              \
        name, #name, text                                                                          \
    }
    ERROR(cudaSuccess, "no error"),
    ERROR(cudaErrorInvalidValue, "invalid argument"),
    ERROR(cudaErrorMemoryAllocation, "out of memory"),
    ERROR(cudaErrorInitializationError, "initialization error"),
    ERROR(cudaErrorInvalidConfiguration, "invalid configuration argument"),
    ERROR(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy"),
    ERROR(cudaErrorInsufficientDriver,
          "CUDA driver version is insufficient for CUDA runtime version"),
    ERROR(cudaErrorNoDevice, "no CUDA-capable device is detected"),
    ERROR(cudaErrorInvalidDevice, "invalid device ordinal"),
    ERROR(cudaErrorInvalidResourceHandle, "invalid resource handle"),
    ERROR(cudaErrorNotReady, "device not ready"),
    ERROR(cudaErrorIllegalAddress, "an illegal memory access was encountered"),
    ERROR(cudaErrorLaunchOutOfResources, "too many resources requested for launch"),
    ERROR(cudaErrorLaunchFailure, "unspecified launch failure"),
    ERROR(cudaErrorNotSupported, "operation not supported"),
    ERROR(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing"),
    ERROR(cudaErrorStreamCaptureInvalidated,
          "operation failed due to a previous error during capture"),
    ERROR(cudaErrorStreamCaptureUnmatched, "capture was not ended in the same stream as it began"),
    ERROR(cudaErrorStreamCaptureUnjoined, "capturing stream has unjoined work"),
    ERROR(cudaErrorStreamCaptureIsolation,
          "dependency created on uncaptured work in another stream"),
    ERROR(cudaErrorUnknown, "unknown error"),
};

const char *cudaGetErrorName(cudaError_t error)
{
    for (auto &known : errors)
        if (known.code == error)
            return known.name;
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t error)
{
    for (auto &known : errors)
        if (known.code == error)
            return known.text;
    return "unrecognized error code";
}

cudaError_t cudaGetDeviceCount(int *count)
{
    int n = devices();
    if (n > 0)
        *count = n;
    return emulated_result(n > 0 ? cudaSuccess : cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int device)
{
    if (device < 0 || device >= devices())
        return emulated_result(cudaErrorInvalidDevice);
    current_device = device;
    return emulated_result(cudaSuccess);
}

cudaError_t cudaGetDevice(int *device)
{
    *device = current_device;
    return emulated_result(devices() > 0 ? cudaSuccess : cudaErrorNoDevice);
}

cudaError_t cudaSetDeviceFlags(unsigned flags)
{
    (void)flags;
    return emulated_result(cudaSuccess);
}

cudaError_t cudaDeviceReset(void)
{
    return emulated_result(cudaSuccess);
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *prop, int device)
{
    size_t free_bytes;
    if (device < 0 || device >= devices())
        return emulated_result(cudaErrorInvalidDevice);
    memset(prop, 0, sizeof *prop);
    snprintf(prop->name, sizeof prop->name, "emulated GPU");
    prop->sharedMemPerBlock = 49152;
    prop->major = 9;
    prop->multiProcessorCount = PROCESSORS;
    prop->warpSize = 32;
    prop->maxThreadsPerBlock = 1024;
    prop->maxThreadsPerMultiProcessor = 2048;
    prop->l2CacheSize = 1 << 20;
    prop->memoryBusWidth = 64;
    prop->pciBusID = device + 1;
    return cudaMemGetInfo(&free_bytes, &prop->totalGlobalMem);
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attr, int device)
{
    if (device < 0 || device >= devices())
        return emulated_result(cudaErrorInvalidDevice);
    switch (attr) {
    case cudaDevAttrMaxThreadsPerBlock:
        *value = 1024;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = 49152;
        break;
    case cudaDevAttrWarpSize:
        *value = 32;
        break;
    case cudaDevAttrMultiProcessorCount:
        *value = PROCESSORS;
        break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
        *value = 2048;
        break;
    case cudaDevAttrL2CacheSize:
        *value = 1 << 20;
        break;
    case cudaDevAttrGlobalMemoryBusWidth:
        *value = 64;
        break;
    case cudaDevAttrClockRate:
    case cudaDevAttrMemoryClockRate:
        *value = 1000000;
        break;
    case cudaDevAttrComputeCapabilityMajor:
        *value = 9;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *value = 0;
        break;
    }
    return emulated_result(cudaSuccess);
}

cudaError_t cudaDeviceGetPCIBusId(char *id, int length, int device)
{
    if (device < 0 || device >= devices())
        return emulated_result(cudaErrorInvalidDevice);
    snprintf(id, (size_t)length, "0000:%02x:00.0", device + 1);
    return emulated_result(cudaSuccess);
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return emulated_result(cudaSuccess);
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return emulated_result(cudaSuccess);
}
