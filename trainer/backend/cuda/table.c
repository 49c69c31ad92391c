/* trainer/backend/cuda/table.c -- the table that a trainer loads (gpu.h): queues, marks and recordings as streams, events and graphs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/err.h"
#include "trainer/backend/cuda/device.h"
#include "trainer/backend/cuda/operations.h"
#include "trainer/backend/gpu.h"

struct tr_gpu_recording {
    cudaGraphExec_t graph;
};

struct tr_gpu_mark {
    cudaEvent_t event;
};

/* ---- the device ---- */

static uint32_t count(char *why, size_t size)
{
    int n = 0, driver = 0;
    cudaError_t status = cudaGetDeviceCount(&n);
    if (status == cudaSuccess && n > 0)
        return (uint32_t)n;
    (void)cudaGetLastError();
    (void)cudaDriverGetVersion(&driver);
    if (driver == 0) /* the vendor's words are of a driver that is too old */
        snprintf(why, size, "no NVIDIA driver is loaded");
    else
        snprintf(why, size, "%s", status ? cudaGetErrorString(status) : "there is none");
    return 0;
}

static int open_device(const struct tr_gpu_conf *conf, struct tr_cuda **out)
{
    struct tr_cuda *cuda = calloc(1, sizeof *cuda);
    if (!cuda)
        return conf->fail(RT_ENOMEM, "GPU: no memory of the host");
    int err = tr_cuda_open((int)conf->device, conf->fail, cuda);
    if (err) {
        tr_cuda_close(cuda);
        free(cuda);
        return err;
    }
    cuda->pinned = conf->pinned;
    cuda->tf32 = conf->tf32;
    *out = cuda;
    return 0;
}

static void close_device(struct tr_cuda *cuda)
{
    if (!cuda)
        return;
    tr_cuda_close(cuda);
    free(cuda);
}

static void describe(struct tr_cuda *cuda, char *text, size_t size)
{
    struct cudaDeviceProp of;
    int driver = 0, runtime = 0;
    memset(&of, 0, sizeof of);
    (void)cudaGetDeviceProperties(&of, cuda->device);
    (void)cudaDriverGetVersion(&driver);
    (void)cudaRuntimeGetVersion(&runtime);
    snprintf(text, size, "%s, %.1f GiB, sm_%d%d, driver for CUDA %d.%d, runtime %d.%d", of.name,
             (double)of.totalGlobalMem / 0x1p30, of.major, of.minor, driver / 1000,
             driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
}

/* ---- memory ---- */

static int host_alloc(struct tr_cuda *cuda, size_t bytes, const char *what, void **out)
{
    cudaError_t status = cudaMallocHost(out, bytes ? bytes : 1);
    if (status == cudaErrorMemoryAllocation)
        return tr_cuda_fail(cuda, RT_ENOMEM, "GPU: no %zu bytes of pinned memory for %s", bytes,
                            what);
    int err = tr_cuda_check(cuda, status, what);
    if (!err)
        memset(*out, 0, bytes);
    return err;
}

static void host_free(struct tr_cuda *cuda, void *memory)
{
    (void)cuda;
    if (memory)
        (void)cudaFreeHost(memory);
}

static uint64_t allocations(const struct tr_cuda *cuda)
{
    return cuda->allocations;
}

/* ---- queues ---- */

static cudaStream_t stream_of(const struct tr_cuda *cuda, enum tr_gpu_queue queue)
{
    return queue == TR_GPU_COMPUTE ? cuda->compute : queue == TR_GPU_UP ? cuda->up : cuda->down;
}

static int upload(struct tr_cuda *cuda, enum tr_gpu_queue queue, void *device, const void *host,
                  size_t bytes)
{
    cudaStream_t stream = stream_of(cuda, queue);
    return tr_cuda_check(cuda, cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream),
                         "copy to the device");
}

static int download(struct tr_cuda *cuda, enum tr_gpu_queue queue, void *host, const void *device,
                    size_t bytes)
{
    cudaStream_t stream = stream_of(cuda, queue);
    return tr_cuda_check(cuda, cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream),
                         "copy from the device");
}

static int clear(struct tr_cuda *cuda, enum tr_gpu_queue queue, void *device, size_t bytes)
{
    return tr_cuda_check(cuda, cudaMemsetAsync(device, 0, bytes, stream_of(cuda, queue)),
                         "clear memory");
}

/* ---- marks ---- */

static int mark_create(struct tr_cuda *cuda, struct tr_gpu_mark **out)
{
    struct tr_gpu_mark *mark = calloc(1, sizeof *mark);
    if (!mark)
        return tr_cuda_fail(cuda, RT_ENOMEM, "GPU: no memory of the host");
    int err = tr_cuda_check(cuda, cudaEventCreateWithFlags(&mark->event, cudaEventDisableTiming),
                            "make a mark");
    if (err)
        free(mark);
    else
        *out = mark;
    return err;
}

static void mark_destroy(struct tr_gpu_mark *mark)
{
    if (!mark)
        return;
    (void)cudaEventDestroy(mark->event);
    free(mark);
}

static int set_mark(struct tr_cuda *cuda, enum tr_gpu_queue queue, struct tr_gpu_mark *mark)
{
    return tr_cuda_check(cuda, cudaEventRecord(mark->event, stream_of(cuda, queue)), "mark");
}

static int await(struct tr_cuda *cuda, enum tr_gpu_queue queue, struct tr_gpu_mark *mark)
{
    return tr_cuda_check(cuda, cudaStreamWaitEvent(stream_of(cuda, queue), mark->event, 0),
                         "await a mark");
}

static int wait_mark(struct tr_cuda *cuda, struct tr_gpu_mark *mark)
{
    return tr_cuda_check(cuda, cudaEventSynchronize(mark->event), "run what was queued");
}

/* ---- recordings ---- */

static int record(struct tr_cuda *cuda)
{
    int err =
        tr_cuda_check(cuda, cudaStreamBeginCapture(cuda->compute, cudaStreamCaptureModeThreadLocal),
                      "begin a recording");
    cuda->capturing = !err;
    return err;
}

static int recorded(struct tr_cuda *cuda, struct tr_gpu_recording **out)
{
    cudaGraph_t graph = NULL;
    cuda->capturing = false;
    cudaError_t status = cudaStreamEndCapture(cuda->compute, &graph);
    if (!out) { /* after an error, which has its text */
        (void)cudaGetLastError();
        if (graph)
            (void)cudaGraphDestroy(graph);
        return 0;
    }
    int err = tr_cuda_check(cuda, status, "end a recording");
    if (err)
        return err;
    struct tr_gpu_recording *recording = calloc(1, sizeof *recording);
    err = recording ? tr_cuda_check(cuda, cudaGraphInstantiate(&recording->graph, graph, 0),
                                    "make a graph")
                    : tr_cuda_fail(cuda, RT_ENOMEM, "GPU: no memory of the host");
    (void)cudaGraphDestroy(graph);
    if (err)
        free(recording);
    else
        *out = recording;
    return err;
}

static int play(struct tr_cuda *cuda, struct tr_gpu_recording *recording)
{
    return tr_cuda_check(cuda, cudaGraphLaunch(recording->graph, cuda->compute), "run a step");
}

static void recording_destroy(struct tr_gpu_recording *recording)
{
    if (!recording)
        return;
    (void)cudaGraphExecDestroy(recording->graph);
    free(recording);
}

const struct tr_gpu tr_gpu_table = {
    .version = TR_GPU_VERSION,
    .count = count,
    .open = open_device,
    .close = close_device,
    .describe = describe,
    .ops = &tr_cuda_ops,
    .loops = &tr_cuda_loops,
    .losses = &tr_cuda_losses,
    .alloc = tr_cuda_alloc,
    .host_alloc = host_alloc,
    .host_free = host_free,
    .allocations = allocations,
    .upload = upload,
    .download = download,
    .clear = clear,
    .mark_create = mark_create,
    .mark_destroy = mark_destroy,
    .mark = set_mark,
    .await = await,
    .wait = wait_mark,
    .record = record,
    .recorded = recorded,
    .play = play,
    .recording_destroy = recording_destroy,
    .spans_init = tr_cuda_spans_init,
    .optimizer_create = tr_cuda_optimizer_create,
    .optimizer_destroy = tr_cuda_optimizer_destroy,
    .optimizer_queue = tr_cuda_optimizer_queue,
    .optimizer_slot = tr_cuda_optimizer_slot,
    .optimizer_stepped = tr_cuda_optimizer_stepped,
    .gradients_init = tr_cuda_gradients_init,
    .finite = tr_cuda_finite,
    .widen = tr_cuda_widen,
    .narrow = tr_cuda_narrow,
    .sequence_expand = tr_cuda_sequence_expand,
    .sequence_sums = tr_cuda_sequence_sums,
    .places = tr_cuda_places,
    .scores = tr_cuda_scores,
};
