/* tests/gpu/emulated/test_emulator.cpp -- the emulation itself: that it computes what CUDA would, and that it shows what it is there to
 * show: a wait that is missing, a barrier that some threads do not reach. */
#include "trainer/backend/cuda/kernel.h"
#include "tests/gpu/emulated/emulator.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#define COUNT 1000u
static unsigned failures;
#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            printf("    line %d: %s\n", __LINE__, #condition);                                     \
            failures++;                                                                            \
        }                                                                                          \
    } while (0)

__global__ static void add_index(float *y, uint32_t n, float by)
{
    uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        y[i] += by * (float)i;
}
__global__ static void sums(float *y, const float *x, uint32_t n)
{
    uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    float sum = tr_block_sum(i < n ? x[i] : 0.0f), most = tr_warp_max(i < n ? x[i] : 0.0f);
    if (threadIdx.x == 0)
        y[2 * blockIdx.x] = sum, y[2 * blockIdx.x + 1] = most;
}
__global__ static void lanes(unsigned *y)
{
    unsigned lane = threadIdx.x % 32;
    y[threadIdx.x * 4] = __shfl_down_sync(0xffffffffu, lane, 3);
    y[threadIdx.x * 4 + 1] = __shfl_up_sync(0xffffffffu, lane, 1, 8);
    y[threadIdx.x * 4 + 2] = __shfl_sync(0xffffffffu, lane, 5);
    y[threadIdx.x * 4 + 3] = __ballot_sync(0xffffffffu, lane % 2);
}
/* Each thread reads what another one has written: wrong without the barrier, in one order of threads or the other. */
template <bool barrier> __global__ static void mirror(float *y, float more)
{
    __shared__ float row[256];
    row[threadIdx.x] = (float)threadIdx.x + more;
    if (barrier)
        __syncthreads();
    y[threadIdx.x] = row[255 - threadIdx.x];
}
__global__ static void not_all_sync(float *y)
{
    if (threadIdx.x < 16) {
        __syncthreads();
        y[0] = __shfl_sync(0xffffffffu, y[0], 0);
    } else {
        y[1] = __shfl_sync(0xffffffffu, y[0], 0);
        __syncthreads();
    }
}
__global__ static void lanes_missing(float *y)
{
    if (threadIdx.x < 20)
        y[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1.0f, 1);
}

static float *device_floats(size_t n, float value)
{
    void *memory;
    float *host = (float *)malloc(n * sizeof *host);
    for (size_t i = 0; i < n; i++)
        host[i] = value;
    CHECK(cudaMalloc(&memory, n * sizeof *host) == cudaSuccess);
    CHECK(cudaMemcpy(memory, host, n * sizeof *host, cudaMemcpyHostToDevice) == cudaSuccess);
    free(host);
    return (float *)memory;
}
static float at(const void *device, size_t i)
{
    float value = 0;
    CHECK(cudaMemcpy(&value, (const float *)device + i, sizeof value, cudaMemcpyDeviceToHost) ==
          cudaSuccess);
    return value;
}
static cudaStream_t new_stream(void)
{
    cudaStream_t stream = NULL;
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
    return stream;
}

static void test_kernels(void)
{
    float *x = device_floats(COUNT, 1), *y = device_floats(8, 0);
    cudaStream_t stream = new_stream();
    TR_LAUNCH(add_index, tr_blocks(COUNT, 256), 256, stream, x, COUNT, 2.0f);
    TR_LAUNCH(sums, 4, 256, stream, y, x, COUNT);
    CHECK(at(x, 10) == 1); /* nothing has run */
    CHECK(cudaStreamSynchronize(stream) == cudaSuccess);
    CHECK(at(x, 10) == 21);
    CHECK(at(y, 0) == 256 + 2 * 255 * 128);
    CHECK(at(y, 3) == 1 + 2 * (256 + 31));
    TR_LAUNCH(sums, 4, 1025, stream, y, x, COUNT);
    CHECK(cudaGetLastError() == cudaErrorInvalidConfiguration);
    TR_LAUNCH(sums, dim3(1, 65536), 32, stream, y, x, COUNT);
    CHECK(cudaGetLastError() == cudaErrorInvalidConfiguration && cudaGetLastError() == cudaSuccess);
    cudaFree(x), cudaFree(y), cudaStreamDestroy(stream);
}

static void test_lanes(void)
{
    unsigned host[64 * 4];
    void *y;
    CHECK(cudaMalloc(&y, sizeof host) == cudaSuccess);
    TR_LAUNCH(lanes, 1, 64, NULL, (unsigned *)y);
    CHECK(cudaMemcpy(host, y, sizeof host, cudaMemcpyDeviceToHost) == cudaSuccess);
    for (unsigned i = 0; i < 64; i++) {
        unsigned lane = i % 32;
        CHECK(host[i * 4] == (lane < 29 ? lane + 3 : lane) &&
              host[i * 4 + 1] == (lane % 8 ? lane - 1 : lane));
        CHECK(host[i * 4 + 2] == 5 && host[i * 4 + 3] == 0xaaaaaaaau);
    }
    cudaFree(y);
}

static void test_barriers(void)
{
    float *y = device_floats(256, 0);
    unsigned wrong = 0;
    for (unsigned turn = 0; turn < 8; turn++) {
        TR_LAUNCH(mirror<true>, 1, 256, NULL, y, 1000.0f);
        CHECK(at(y, 0) == 1255 && at(y, 255) == 1000);
        TR_LAUNCH(mirror<false>, 1, 256, NULL, y, 1000.0f * (float)turn);
        wrong += at(y, 0) != 1000.0f * (float)turn + 255 || at(y, 255) != 1000.0f * (float)turn;
    }
    CHECK(wrong == 8);
    cudaFree(y);
}

/* One stream writes, another one copies; with an event between them the copy is always what was written. */
static unsigned wrong_copies(bool waits)
{
    unsigned wrong = 0;
    cudaStream_t writes = new_stream(), copies = new_stream();
    cudaEvent_t written;
    CHECK(cudaEventCreateWithFlags(&written, cudaEventDisableTiming) == cudaSuccess);
    for (unsigned turn = 0; turn < 32; turn++) {
        float *x = device_floats(COUNT, 0), got = 0;
        TR_LAUNCH(add_index, 4, 256, writes, x, COUNT, 1.0f);
        cudaEventRecord(written, writes);
        if (waits)
            cudaStreamWaitEvent(copies, written, 0);
        cudaMemcpyAsync(&got, x + 7, sizeof got, cudaMemcpyDeviceToHost, copies);
        CHECK(cudaStreamSynchronize(copies) == cudaSuccess);
        wrong += got != 7;
        cudaFree(x);
    }
    cudaEventDestroy(written), cudaStreamDestroy(writes), cudaStreamDestroy(copies);
    return wrong;
}
static void test_streams(void)
{
    CHECK(wrong_copies(true) == 0);
    unsigned wrong = wrong_copies(false);
    CHECK(wrong > 0 && wrong < 32);
}

static void test_capture(void)
{
    float *x = device_floats(COUNT, 0);
    cudaStream_t stream = new_stream(), side = new_stream();
    cudaEvent_t fork, join;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    void *memory;
    cudaEventCreate(&fork), cudaEventCreate(&join);
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    TR_LAUNCH(add_index, 4, 256, stream, x, COUNT, 1.0f);
    cudaEventRecord(fork, stream), cudaStreamWaitEvent(side, fork, 0);
    TR_LAUNCH(add_index, 4, 256, side, x, COUNT, 1.0f);
    cudaEventRecord(join, side), cudaStreamWaitEvent(stream, join, 0);
    TR_LAUNCH(add_index, 4, 256, stream, x, COUNT, 1.0f);
    CHECK(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
    CHECK(cudaGraphInstantiate(&exec, graph) == cudaSuccess &&
          cudaGraphDestroy(graph) == cudaSuccess);
    CHECK(at(x, 3) == 0);
    for (unsigned turn = 0; turn < 5; turn++)
        CHECK(cudaGraphLaunch(exec, stream) == cudaSuccess);
    CHECK(cudaStreamSynchronize(stream) == cudaSuccess && at(x, 3) == 45);
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    CHECK(cudaMalloc(&memory, 16) == cudaErrorStreamCaptureUnsupported);
    CHECK(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated);
    (void)cudaGetLastError();
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed) == cudaSuccess);
    cudaEventRecord(fork, stream), cudaStreamWaitEvent(side, fork, 0);
    TR_LAUNCH(add_index, 4, 256, side, x, COUNT, 1.0f);
    CHECK(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureUnjoined);
    (void)cudaGetLastError();
    cudaGraphExecDestroy(exec), cudaEventDestroy(fork), cudaEventDestroy(join);
    cudaStreamDestroy(stream), cudaStreamDestroy(side), cudaFree(x);
}

/* What must end the program does, in a child: by abort(), or by the host's touching what is the device's. */
static bool dies(void (*run)(float *memory))
{
    int status = 0;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        float *y = device_floats(64, 0);
        if (!freopen("/dev/null", "w", stderr))
            _exit(1);
        run(y);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    return WIFSIGNALED(status) && (WTERMSIG(status) == SIGABRT || WTERMSIG(status) == SIGSEGV);
}
static void test_faults(void)
{
    CHECK(dies([](float *y) {
        TR_LAUNCH(not_all_sync, 1, 32, NULL, y);
        cudaStreamSynchronize(NULL);
    }));
    CHECK(dies([](float *y) {
        TR_LAUNCH(lanes_missing, 1, 32, NULL, y);
        cudaStreamSynchronize(NULL);
    }));
    CHECK(dies([](float *) {
        float here;
        TR_LAUNCH(add_index, 1, 32, NULL, &here, 1u, 1.0f);
    }));
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    CHECK(dies([](float *y) { *(volatile float *)y = 1; }));
    CHECK(dies([](float *y) {
        TR_LAUNCH(add_index, 1, 65, NULL, y, 65u, 1.0f);
        cudaStreamSynchronize(NULL);
    }));
#endif
    CHECK(!dies([](float *y) {
        TR_LAUNCH(add_index, 1, 64, NULL, y, 64u, 1.0f);
        cudaStreamSynchronize(NULL);
    }));
}

static void test_halves(void)
{
    for (unsigned bits = 0; bits < 0x7c00;
         bits++) { /* and the middle between two goes to the even one */
        float value = __half2float(__ushort_as_half((unsigned short)bits));
        float middle = (value + __half2float(__ushort_as_half((unsigned short)(bits + 1)))) / 2;
        CHECK(__half_as_ushort(__float2half_rn(-value)) == (bits | 0x8000u));
        if (bits + 1 < 0x7c00)
            CHECK(__half_as_ushort(__float2half_rn(middle)) == bits + bits % 2);
    }
    CHECK(__half_as_ushort(__float2half_rn(1e6f)) == 0x7c00 &&
          __half_as_ushort(__float2half_rn(65519)) == 0x7bff);
    CHECK(__bfloat16_as_ushort(__float2bfloat16_rn(1.0f + 0x1p-8f)) == 0x3f80);
    CHECK(__bfloat16_as_ushort(__float2bfloat16_rn(1.0f + 0x3p-8f)) == 0x3f82);
}

static void fails(void *)
{
}
static void test_device(void)
{
    static int seen;
    struct tr_cuda cuda;
    void *memory;
    auto keep = [](int err, const char *text) {
        printf("    (%s)\n", text);
        return seen = err;
    };
    CHECK(tr_cuda_open(3, keep, &cuda) == -5014);
    tr_cuda_close(&cuda);
    CHECK(tr_cuda_open(0, keep, &cuda) == 0 && cuda.processors > 0);
    CHECK(tr_cuda_alloc(&cuda, 1000, "test", &memory) == 0 && at(memory, 249) == 0 &&
          cuda.allocations == 1);
    void *first = tr_cuda_scratch(&cuda, 5000);
    CHECK(first && tr_cuda_scratch(&cuda, 4000) == first && tr_cuda_scratch(&cuda, 5001) != first &&
          cuda.allocations == 3);
    CHECK(tr_cuda_alloc(&cuda, (size_t)1 << 40, "test", &memory) == -12 && !memory);
    CHECK(cudaStreamBeginCapture(cuda.compute, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    cuda.capturing = true;
    CHECK(!tr_cuda_scratch(&cuda, 1 << 20) && seen == -5014 && tr_cuda_scratch(&cuda, 100));
    cudaGraph_t graph;
    CHECK(cudaStreamEndCapture(cuda.compute, &graph) == cudaSuccess);
    cudaGraphDestroy(graph);
    cudaLaunchHostFunc(cuda.compute, fails, NULL);
    emulated_break(cudaErrorIllegalAddress);
    CHECK(tr_cuda_check(&cuda, cudaStreamSynchronize(cuda.compute), "a step") == -5014);
    emulated_break(cudaSuccess);
    tr_cuda_close(&cuda);
    CHECK(!cuda.blocks && emulated_counted(EMULATED_DEVICE_SYNCS) == 0);
}

int main(void)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } tests[] = {{"kernels", test_kernels}, {"lanes", test_lanes},     {"barriers", test_barriers},
                 {"streams", test_streams}, {"capture", test_capture}, {"faults", test_faults},
                 {"halves", test_halves},   {"device", test_device}};
    unsigned failed = 0;
    for (auto &test : tests) {
        failures = 0;
        test.run();
        failed += failures > 0;
        printf("%s %s\n", failures ? "FAILED " : "ok     ", test.name);
    }
    printf("[  PASSED  ] %zu test(s).\n", sizeof tests / sizeof *tests - failed);
    if (failed > 0)
        printf("[  FAILED  ] %u test(s).\n", failed);
    return failed > 0;
}
