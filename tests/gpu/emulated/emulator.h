/* tests/gpu/emulated/emulator.h -- what the parts of the emulated CUDA runtime have of each other, and what emulated libraries
 * (cublasLt, nccl) and tests of the emulator may call.
 *
 *     kernel.cpp   a kernel: its blocks one after the other, a block's threads as fibers
 *     stream.cpp   streams, events: queues of work that runs later, in any order that they allow
 *     graph.cpp    capture, and playing again
 *     memory.cpp   the device's memory, and pinned memory
 *     device.cpp   what is asked of a device; errors
 *
 * One lock guards all of it; work runs without it, kernels one at a time. */
#ifndef EMULATED_EMULATOR_H
#define EMULATED_EMULATOR_H

#include <cuda_runtime.h>

#ifdef __cplusplus
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

struct emulated_graph;
struct emulated_playing;

/* A point in a stream that others wait for: the n-th time that it was recorded. */
struct emulated_event {
    uint64_t recorded = 0, done = 0;
    double at_ms = 0;
    std::shared_ptr<emulated_graph> graph; /* recorded in a capture: after these of its nodes */
    std::vector<size_t> nodes;
};

/* One of: something to run, an event to wait for, one to record, a graph to play. */
struct emulated_work {
    std::function<void()> run;
    std::shared_ptr<emulated_event> wait, record;
    uint64_t version = 0; /* of wait, record */
    std::shared_ptr<emulated_playing> playing;
};

struct CUstream_st {
    std::deque<emulated_work> queue;
    int device = 0;                        /* whose it is; -1: nobody waits for it */
    bool busy = false;                     /* a thread runs its first work */
    std::shared_ptr<emulated_graph> graph; /* it is captured, and so far comes after `nodes` */
    std::vector<size_t> nodes;
};
struct CUevent_st {
    std::shared_ptr<emulated_event> of;
};

struct emulated_node {
    std::function<void()> run;
    std::vector<size_t> after;
};
struct emulated_graph {
    std::vector<emulated_node> nodes;
    CUstream_st *origin = nullptr;
    std::vector<CUstream_st *> streams; /* that are part of the capture */
    enum cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
    uint64_t thread = 0; /* that began it */
    bool invalid = false;
};
struct emulated_playing {
    std::shared_ptr<const emulated_graph> graph;
    std::vector<bool> started, ended;
    size_t left = 0;
};

extern std::mutex emulated_lock;
using emulated_guard = std::unique_lock<std::mutex>;

/* Under the lock. */
uint64_t emulated_random(uint64_t below);
cudaError_t emulated_add(CUstream_st *stream, emulated_work work); /* or to its capture's graph */
bool emulated_run_until(
    emulated_guard &guard,
    const std::function<bool()> &done); /* false: nothing is left that could run */
void emulated_run_some(emulated_guard &guard);
void emulated_run_all(emulated_guard &guard);
bool emulated_forbidden(void); /* a capture is on that this call would break, and has broken now */
CUstream_st *emulated_stream(cudaStream_t stream); /* the default one for 0 */
size_t emulated_play(
    emulated_playing
        &playing); /* a node that may start; SIZE_MAX: all have, or wait for one that runs */
bool emulated_inside(const void *memory, size_t bytes,
                     bool pinned); /* within one block of the device (or pinned) memory */
void emulated_open_memory(void);   /* the host may touch the device's, until */
void emulated_close_memory(void);

/* Last error and result: what a call returns. */
cudaError_t emulated_result(cudaError_t status);

void emulated_run_kernel(const char *name, dim3 grid, dim3 block,
                         const std::function<void()> &thread);

/* For libraries: `run` is part of the stream's work, like a kernel. */
cudaError_t emulated_queue(cudaStream_t stream, std::function<void()> run);

extern "C" {
#endif

/* The program is wrong: says how, and where in a kernel, and aborts. */
void emulated_die(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

/* For libraries in C: a copy of `bytes` of args is given to run. */
cudaError_t emulated_queue_call(cudaStream_t stream, void (*run)(void *args), const void *args,
                                size_t bytes);

/* For tests. */
enum emulated_count {
    EMULATED_DEVICE_SYNCS,
    EMULATED_MALLOCS,
    EMULATED_KERNELS,
    EMULATED_LAUNCHES,
    EMULATED_COUNTS
};
uint64_t emulated_counted(enum emulated_count what);
void emulated_seed(uint64_t seed); /* of the order in which streams' work runs */
void emulated_break(
    cudaError_t
        status); /* from now on every call returns it, as after a fault in a kernel; 0: no more */
void emulated_set_memory(size_t bytes); /* of the device; 8 GiB at first */

#ifdef __cplusplus
}
extern uint64_t emulated_counts[EMULATED_COUNTS];
#endif

#endif
