/* trainer/backend/cuda/device.c -- one GPU of this process: opened and closed, its memory, its errors.
 *
 * Memory is never given back before the end: recorded graphs have its addresses in them. So blocks are a list that only grows, and scratch,
 * when a warm-up wants more of it, is a new block, the old one staying for graphs that were recorded before.
 * Errors: all that can be done about one is to say what failed, in CUDA's words. A fault in a kernel makes every later call of the process
 * return the same status (CUDA calls that sticky); the text says so, since the call that reports it is seldom the one that did it. */
#include "trainer/backend/cuda/device.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "runtime/base/err.h"

#define ALIGN      ((size_t)256)
#define TEXT_BYTES 512

struct tr_cuda_block {
    struct tr_cuda_block *next;
    void *memory;
};

int tr_cuda_fail(struct tr_cuda *cuda, int err, const char *fmt, ...)
{
    char text[TEXT_BYTES];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return cuda->fail(err, text);
}

/* After these the process has no GPU any more, whatever it calls. */
static bool is_sticky(cudaError_t status)
{
    return status == cudaErrorIllegalAddress || status == cudaErrorLaunchFailure;
}

int tr_cuda_check(struct tr_cuda *cuda, cudaError_t status, const char *what)
{
    if (status == cudaSuccess)
        return 0;
    (void)cudaGetLastError(); /* told here: the next launch is not to be blamed for it */
    return tr_cuda_fail(cuda, status == cudaErrorMemoryAllocation ? RT_ENOMEM : RT_EBACKEND,
                        "GPU %d: %s: %s (%s)%s", cuda->device, what, cudaGetErrorString(status),
                        cudaGetErrorName(status),
                        is_sticky(status) ? "; of this or of an earlier operation" : "");
}

/* ---- memory ---- */

static int out_of_memory(struct tr_cuda *cuda, size_t bytes, const char *what)
{
    size_t left = 0, total = 0;
    (void)cudaGetLastError();
    (void)cudaMemGetInfo(&left, &total);
    return tr_cuda_fail(cuda, RT_ENOMEM,
                        "GPU %d: no %zu MiB for %s: %zu MiB of %zu are free, and %llu are ours",
                        cuda->device, (bytes + (1 << 20) - 1) >> 20, what, left >> 20, total >> 20,
                        (unsigned long long)(cuda->allocated >> 20));
}

/* A block of the list, with whatever is in it. */
static int take_block(struct tr_cuda *cuda, size_t bytes, const char *what, void **out)
{
    struct tr_cuda_block *block = malloc(sizeof *block);
    if (!block)
        return tr_cuda_fail(cuda, RT_ENOMEM, "no memory for a block of the GPU's");
    cudaError_t status = cudaMalloc(&block->memory, bytes);
    if (status != cudaSuccess) {
        free(block);
        return status == cudaErrorMemoryAllocation ? out_of_memory(cuda, bytes, what)
                                                   : tr_cuda_check(cuda, status, what);
    }
    block->next = cuda->blocks;
    cuda->blocks = block;
    cuda->allocated += bytes;
    cuda->allocations++;
    *out = block->memory;
    return 0;
}

int tr_cuda_alloc(struct tr_cuda *cuda, size_t bytes, const char *what, void **out)
{
    *out = NULL;
    if (cuda->capturing)
        return tr_cuda_fail(cuda, RT_EBACKEND,
                            "GPU %d: %s: %zu bytes are wanted while a step is recorded",
                            cuda->device, what, bytes);
    bytes = (bytes ? bytes + ALIGN - 1 : ALIGN) / ALIGN * ALIGN;
    int err = take_block(cuda, bytes, what, out);
    if (err)
        return err;
    err = tr_cuda_check(cuda, cudaMemsetAsync(*out, 0, bytes, cuda->compute), what);
    /* Whoever copies to it does so on a stream of its own. */
    return err ? err : tr_cuda_check(cuda, cudaStreamSynchronize(cuda->compute), what);
}

void *tr_cuda_scratch(struct tr_cuda *cuda, size_t bytes)
{
    if (bytes <= cuda->scratch_bytes && cuda->scratch)
        return cuda->scratch;
    /* By halves more, so that a warm-up of growing wants keeps few old ones. */
    size_t more = cuda->scratch_bytes + cuda->scratch_bytes / 2;
    void *scratch;
    if (more < bytes)
        more = bytes;
    if (tr_cuda_alloc(cuda, more, "scratch of operations", &scratch) != 0)
        return NULL;
    cuda->scratch = scratch;
    cuda->scratch_bytes = more;
    return scratch;
}

/* ---- open and close ---- */

static int open_streams(struct tr_cuda *cuda)
{
    cudaStream_t *stream[] = {&cuda->compute, &cuda->up, &cuda->down};
    int err = 0;
    for (size_t i = 0; i < sizeof stream / sizeof *stream && !err; i++)
        err = tr_cuda_check(cuda, cudaStreamCreateWithFlags(stream[i], cudaStreamNonBlocking),
                            "a stream");
    return err;
}

int tr_cuda_open(int device, int (*fail)(int err, const char *text), struct tr_cuda *cuda)
{
    int processors = 0;
    *cuda = (struct tr_cuda){.device = device, .fail = fail};
    int err = tr_cuda_check(cuda, cudaSetDevice(device), "taking the device");
    if (!err)
        err = tr_cuda_check(
            cuda, cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device),
            "asking for its processors");
    cuda->processors = (uint32_t)processors;
    return err ? err : open_streams(cuda);
}

/* After an error nothing can be given back; the driver does that at the end of the process. So no status is looked at. */
void tr_cuda_close(struct tr_cuda *cuda)
{
    cudaStream_t stream[] = {cuda->compute, cuda->up, cuda->down};
    for (size_t i = 0; i < sizeof stream / sizeof *stream; i++)
        if (stream[i]) {
            (void)cudaStreamSynchronize(stream[i]);
            (void)cudaStreamDestroy(stream[i]);
        }
    for (struct tr_cuda_block *block = cuda->blocks, *next; block; block = next) {
        next = block->next;
        (void)cudaFree(block->memory);
        free(block);
    }
    *cuda = (struct tr_cuda){.device = cuda->device, .fail = cuda->fail};
}
