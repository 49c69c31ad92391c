/* trainer/backend/cuda/device.h -- a GPU: its streams, its memory, and errors. C and CUDA both read it.
 *
 * One process has one GPU and one struct tr_cuda. Operations are queued on `compute` by the step thread; copies have streams of their own,
 * and wait for each other by events: nothing waits for the whole device. Memory is allocated when a model is made and in the first pass of each
 * batch shape (the warm-up); from then on a step is a graph that is played again, and allocates nothing.
 *
 * Scratch: one region for what an operation needs only while it runs. Operations follow one another on one stream, so all of them have the
 * same one. It grows in a warm-up; what it was before stays until the end, since graphs point into it. */
#ifndef TR_CUDA_DEVICE_H
#define TR_CUDA_DEVICE_H

#include <cuda_runtime.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "trainer/backend/backend.h"

struct tr_cuda_products; /* linear.c */

struct tr_cuda {
    int device;                     /* its number among the visible ones */
    uint32_t processors;            /* streaming multiprocessors */
    cudaStream_t compute, up, down; /* up: from the host; down: to it */
    bool capturing;                 /* nothing may be allocated, and nothing waited for */
    bool pinned; /* mode exact: the same kernels for the same shapes, in every process */
    bool
        tf32; /* products of float32 may round their operands to 10 bits of mantissa; TensorFloat-32 */
    void *scratch;
    size_t scratch_bytes;
    struct tr_cuda_block *blocks; /* all memory of the device that is ours */
    uint64_t allocated;           /* bytes of it; */
    uint64_t allocations;         /* how often: a step must not raise it */
    struct tr_cuda_products *products;
    int (*fail)(
        int err,
        const char
            *text); /* rt_fail of the program that loaded us: this object has none of its own */
};

/* What a kernel's launch, or a call of the CUDA runtime, came to: 0, or RT_EBACKEND (RT_ENOMEM) with a text that names `what`. */
int tr_cuda_check(struct tr_cuda *cuda, cudaError_t status, const char *what);
int tr_cuda_fail(struct tr_cuda *cuda, int err, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* The device with that number, its streams, and no memory yet; fail: rt_fail of who loaded us, for texts of errors. RT_EBACKEND. Close
 * takes all that was allocated with it, and may be called after open has failed. */
int tr_cuda_open(int device, int (*fail)(int err, const char *text), struct tr_cuda *cuda);
void tr_cuda_close(struct tr_cuda *cuda);

/* Zeroed memory of the device, 256-byte aligned, until the end. RT_ENOMEM names what was wanted and what is free; RT_EBACKEND while a graph is
 * captured. */
int tr_cuda_alloc(struct tr_cuda *cuda, size_t bytes, const char *what, void **out);

/* At least so many bytes, 256-byte aligned, as long as the operation at hand runs. NULL: none are to be had, or a graph is captured and none
 * were wanted before it; the text is set, and the operation returns RT_EBACKEND. */
void *tr_cuda_scratch(struct tr_cuda *cuda, size_t bytes);

/* After a launch in an operation: 0, or RT_EBACKEND. */
static inline int tr_cuda_launched(struct tr_backend *backend, const char *what)
{
    return tr_cuda_check(backend->cuda, cudaGetLastError(), what);
}

#ifdef __cplusplus
}
#endif

#endif
