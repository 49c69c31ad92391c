/* trainer/backend/cuda/spans.c -- spans of the flat vectors, cut into chunks: made once, on the host.
 *
 * A kernel over all tensors of a model is then one launch with a block for each chunk, however many there are and however small. Chunks are cut at
 * multiples of TR_CUDA_CHUNK of the whole vector, not of a span, so that all but a span's ends can be read four elements at a time. */
#include "trainer/backend/cuda/step.h"

#include <stdlib.h>

#include "runtime/base/err.h"
#include "trainer/backend/cuda/device.h"

/* Elements from `at` on, within `end`, up to the next cut. */
static uint32_t until_cut(size_t at, size_t end)
{
    size_t cut = (at / TR_CUDA_CHUNK + 1) * TR_CUDA_CHUNK;
    return (uint32_t)((cut < end ? cut : end) - at);
}

static size_t count_chunks(const struct tr_span *span)
{
    size_t end = span->offset + span->count;
    if (span->count == 0)
        return 0;
    return (end - 1) / TR_CUDA_CHUNK - span->offset / TR_CUDA_CHUNK + 1;
}

static void cut(const struct tr_span *span, size_t n_spans, struct tr_cuda_chunk *chunk,
                uint32_t *first)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_spans; i++) {
        size_t end = span[i].offset + span[i].count;
        first[i] = n;
        for (size_t at = span[i].offset; at < end; at += chunk[n++].count)
            chunk[n] = (struct tr_cuda_chunk){at, until_cut(at, end), i};
    }
    first[n_spans] = n;
}

static int copy_over(struct tr_cuda *cuda, const void *from, size_t bytes, const char *what,
                     const void **out)
{
    void *to = NULL;
    int err = tr_cuda_alloc(cuda, bytes, what, &to);
    if (!err && bytes)
        err = tr_cuda_check(
            cuda, cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, cuda->compute), what);
    *out = to;
    return err;
}

int tr_cuda_spans_init(struct tr_cuda *cuda, const struct tr_span *span, size_t n_spans,
                       struct tr_cuda_spans *out)
{
    size_t n = 0;
    for (size_t i = 0; i < n_spans; i++)
        n += count_chunks(&span[i]);
    if (n > INT32_MAX || n_spans > INT32_MAX)
        return tr_cuda_fail(cuda, RT_EBACKEND, "%zu spans of %zu chunks: too many", n_spans, n);
    struct tr_cuda_chunk *chunk = calloc(n + 1, sizeof *chunk);
    uint32_t *first = calloc(n_spans + 1, sizeof *first);
    int err = chunk && first ? 0 : tr_cuda_fail(cuda, RT_ENOMEM, "no memory for %zu chunks", n);
    *out = (struct tr_cuda_spans){.n_spans = (uint32_t)n_spans, .n_chunks = (uint32_t)n};
    if (err)
        goto out;
    cut(span, n_spans, chunk, first);
    err = copy_over(cuda, span, n_spans * sizeof *span, "spans", (const void **)&out->span);
    if (!err)
        err = copy_over(cuda, chunk, n * sizeof *chunk, "chunks", (const void **)&out->chunk);
    if (!err)
        err = copy_over(cuda, first, (n_spans + 1) * sizeof *first, "chunks of spans",
                        (const void **)&out->first);
    if (!err)
        err = tr_cuda_check(cuda, cudaStreamSynchronize(cuda->compute), "spans");
out:
    free(chunk);
    free(first);
    return err;
}
