/* trainer/backend/cuda/nccl.c -- NCCL's calls: one communicator with a stream of its own, never waited for.
 *
 * The communicator is non-blocking: any call may answer ncclInProgress, and then neither it nor the stream may be given more until
 * ncclCommGetAsyncError says that the call has come to its end, for only then does the stream hold what was asked. So what follows an all-reduce
 * on the stream (widening, telling) is queued by the poll that finds it accepted. After the first sums of a communicator, which connect ranks, that is at
 * once.
 *
 * bfloat16 goes through one buffer of a bucket's size: the stream does one bucket after the other anyway, and a bucket in it stays in the L2 cache. Bytes
 * of a bucket of n: 6n there, 6n back. NCCL adds in float32 and rounds at each rank that it passes.
 *
 * Closing aborts always. ncclCommDestroy waits for ranks that may be gone, and nothing of ours is under way that somebody will want. */
#include "trainer/backend/cuda/nccl.h"

#include "runtime/base/err.h"
#include "runtime/base/half.h"

#include <nccl.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(TR_NCCL_ID_BYTES == NCCL_UNIQUE_ID_BYTES, "the trainer knows an id by its size");

/* What is to follow on the stream what NCCL was given last. */
enum follows { NOTHING, COUNT, WIDEN, TELL };

struct tr_nccl_link {
    struct tr_cuda *cuda;
    ncclComm_t comm;
    cudaStream_t stream;
    cudaEvent_t given;   /* the compute stream's work at the time of a sum() */
    cudaEvent_t *summed; /* [n_events]: of each sum of the operation, in their order */
    size_t n_events, queued, counted;
    uint32_t world, rank;
    uint16_t *narrow;   /* [bucket], of the device */
    float *flags;       /* [world], of the device */
    float *say, *heard; /* [world] pinned */
    enum follows follows;
    float *value; /* to be widened */
    size_t n;
    void (*wake)(void *arg);
    void *wake_arg;
};

/* Remote: another rank. System, internal: a socket that broke, most often, since another rank is gone. */
static int error_of(ncclResult_t status)
{
    if (status == ncclInvalidUsage || status == ncclInvalidArgument)
        return RT_EUSAGE;
    return status == ncclUnhandledCudaError ? RT_EBACKEND : RT_EPEER;
}

static int check(struct tr_cuda *cuda, ncclResult_t status, const char *what)
{
    if (status == ncclSuccess || status == ncclInProgress)
        return 0;
    const char *more = ncclGetLastError(NULL);
    return tr_cuda_fail(cuda, error_of(status), "NCCL: %s: %s%s%s", what,
                        ncclGetErrorString(status), more && *more ? ": " : "", more ? more : "");
}

static int use_device(struct tr_cuda *cuda)
{
    return tr_cuda_check(cuda, cudaSetDevice(cuda->device), "cudaSetDevice");
}

static uint32_t version(void)
{
    int number = 0;
    return ncclGetVersion(&number) == ncclSuccess ? (uint32_t)number : 0;
}

static int make_id(struct tr_cuda *cuda, uint8_t id[TR_NCCL_ID_BYTES])
{
    ncclUniqueId made;
    int err = check(cuda, ncclGetUniqueId(&made), "ncclGetUniqueId");
    if (!err)
        memcpy(id, &made, TR_NCCL_ID_BYTES);
    return err;
}

/* ---- life ---- */

static void close_link(struct tr_nccl_link *link)
{
    cudaSetDevice(link->cuda->device);
    if (link->comm)
        ncclCommAbort(link->comm);
    if (link->stream) {
        cudaStreamSynchronize(link->stream);
        cudaStreamDestroy(link->stream);
    }
    for (size_t i = 0; i < link->n_events && link->summed; i++)
        if (link->summed[i])
            cudaEventDestroy(link->summed[i]);
    if (link->given)
        cudaEventDestroy(link->given);
    cudaFree(link->narrow);
    cudaFree(link->flags);
    cudaFreeHost(link->say);
    free(link->summed);
    free(link);
}

static int make_events(struct tr_nccl_link *link)
{
    cudaError_t status = cudaEventCreateWithFlags(&link->given, cudaEventDisableTiming);
    link->summed = calloc(link->n_events, sizeof *link->summed);
    if (!link->summed)
        return tr_cuda_fail(link->cuda, RT_ENOMEM, "no memory for %zu events", link->n_events);
    for (size_t i = 0; i < link->n_events && status == cudaSuccess; i++)
        status = cudaEventCreateWithFlags(&link->summed[i], cudaEventDisableTiming);
    return tr_cuda_check(link->cuda, status, "cudaEventCreate");
}

/* The stream comes before others where the device has to choose: the sum of one step is what the next one waits for. */
static int make_stream(struct tr_nccl_link *link)
{
    int least = 0, greatest = 0;
    cudaError_t status = cudaDeviceGetStreamPriorityRange(&least, &greatest);
    if (status == cudaSuccess)
        status = cudaStreamCreateWithPriority(&link->stream, cudaStreamNonBlocking, greatest);
    return tr_cuda_check(link->cuda, status, "cudaStreamCreateWithPriority");
}

static int make_memory(struct tr_nccl_link *link, size_t bucket)
{
    cudaError_t status = cudaMalloc((void **)&link->narrow, bucket * sizeof *link->narrow);
    if (status == cudaSuccess)
        status = cudaMalloc((void **)&link->flags, link->world * sizeof *link->flags);
    if (status == cudaSuccess)
        status = cudaMallocHost((void **)&link->say, 2 * link->world * sizeof *link->say);
    if (status != cudaSuccess)
        return tr_cuda_check(link->cuda, status, "memory of the all-reduce");
    link->heard = link->say + link->world;
    return 0;
}

static int join(struct tr_nccl_link *link, const uint8_t id[TR_NCCL_ID_BYTES])
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclUniqueId group;
    config.blocking = 0;
    memcpy(&group, id, sizeof group);
    return check(
        link->cuda,
        ncclCommInitRankConfig(&link->comm, (int)link->world, group, (int)link->rank, &config),
        "ncclCommInitRankConfig");
}

static int open_link(struct tr_cuda *cuda, const struct tr_nccl_open *open,
                     struct tr_nccl_link **out)
{
    struct tr_nccl_link *link = calloc(1, sizeof *link);
    if (!link)
        return tr_cuda_fail(cuda, RT_ENOMEM, "no memory for a communicator");
    link->cuda = cuda;
    link->world = open->world;
    link->rank = open->rank;
    link->n_events = open->n_buckets + 1;
    int err = use_device(cuda);
    if (!err)
        err = make_stream(link);
    if (!err)
        err = make_events(link);
    if (!err)
        err = make_memory(link, open->bucket);
    if (!err)
        err = join(link, open->id);
    if (err)
        close_link(link);
    else
        *out = link;
    return err;
}

/* ---- sums ---- */

static void begin(struct tr_nccl_link *link)
{
    link->queued = link->counted = 0;
}

static int sum(struct tr_nccl_link *link, float *value, size_t n, uint32_t dtype, void *after)
{
    struct tr_cuda *cuda = link->cuda;
    int err = use_device(cuda);
    if (!err && !after) {
        err = tr_cuda_check(cuda, cudaEventRecord(link->given, cuda->compute), "cudaEventRecord");
        after = link->given;
    }
    if (!err)
        err =
            tr_cuda_check(cuda, cudaStreamWaitEvent(link->stream, after, 0), "cudaStreamWaitEvent");
    if (err)
        return err;
    link->value = value;
    link->n = n;
    link->follows = dtype == RT_DTYPE_BF16 ? WIDEN : COUNT;
    if (link->follows == COUNT)
        return check(cuda,
                     ncclAllReduce(value, value, n, ncclFloat32, ncclSum, link->comm, link->stream),
                     "ncclAllReduce");
    err = tr_cuda_reduce_narrow(cuda, link->stream, value, link->narrow, n);
    return err ? err
               : check(cuda,
                       ncclAllReduce(link->narrow, link->narrow, n, ncclBfloat16, ncclSum,
                                     link->comm, link->stream),
                       "ncclAllReduce");
}

static int sum_flags(struct tr_nccl_link *link, bool nonfinite, void (*wake)(void *arg), void *arg)
{
    struct tr_cuda *cuda = link->cuda;
    int err = use_device(cuda);
    for (uint32_t r = 0; r < link->world; r++)
        link->say[r] = r == link->rank && nonfinite;
    link->wake = wake;
    link->wake_arg = arg;
    link->follows = TELL;
    if (!err)
        err =
            tr_cuda_check(cuda,
                          cudaMemcpyAsync(link->flags, link->say, link->world * sizeof *link->flags,
                                          cudaMemcpyHostToDevice, link->stream),
                          "cudaMemcpyAsync");
    return err ? err
               : check(cuda,
                       ncclAllReduce(link->flags, link->flags, link->world, ncclFloat32, ncclSum,
                                     link->comm, link->stream),
                       "ncclAllReduce");
}

static int tell(struct tr_nccl_link *link)
{
    cudaError_t status =
        cudaMemcpyAsync(link->heard, link->flags, link->world * sizeof *link->heard,
                        cudaMemcpyDeviceToHost, link->stream);
    if (status == cudaSuccess)
        status = cudaEventRecord(link->summed[link->queued], link->stream);
    if (status == cudaSuccess)
        status = cudaLaunchHostFunc(link->stream, link->wake, link->wake_arg);
    return tr_cuda_check(link->cuda, status, "the end of an all-reduce");
}

/* NCCL has queued what it was given: what comes behind it. */
static int follow(struct tr_nccl_link *link)
{
    enum follows what = link->follows;
    int err = what == NOTHING ? 0 : use_device(link->cuda);
    link->follows = NOTHING;
    if (err || what == NOTHING)
        return err;
    if (what == WIDEN)
        err = tr_cuda_reduce_widen(link->cuda, link->stream, link->narrow, link->value, link->n);
    if (!err)
        err = what == TELL
                  ? tell(link)
                  : tr_cuda_check(link->cuda,
                                  cudaEventRecord(link->summed[link->queued], link->stream),
                                  "cudaEventRecord");
    link->queued += !err;
    return err;
}

static int poll(struct tr_nccl_link *link, uint64_t *summed)
{
    ncclResult_t state = ncclSuccess;
    int err = check(link->cuda, ncclCommGetAsyncError(link->comm, &state), "ncclCommGetAsyncError");
    if (!err)
        err = check(link->cuda, state, "communicator");
    if (!err && state == ncclSuccess)
        err = follow(link);
    cudaError_t status = cudaSuccess;
    while (!err && status == cudaSuccess && link->counted < link->queued) {
        status = cudaEventQuery(link->summed[link->counted]);
        link->counted += status == cudaSuccess;
    }
    if (!err && status != cudaSuccess && status != cudaErrorNotReady)
        err = tr_cuda_check(link->cuda, status, "all-reduce");
    *summed = link->counted;
    return err ? err : state == ncclInProgress ? TR_NCCL_BUSY : TR_NCCL_FREE;
}

static const float *flags(struct tr_nccl_link *link)
{
    return link->heard;
}

const struct tr_nccl_api tr_cuda_nccl = {
    .version = version,
    .make_id = make_id,
    .open = open_link,
    .poll = poll,
    .begin = begin,
    .sum = sum,
    .sum_flags = sum_flags,
    .flags = flags,
    .close = close_link,
};
