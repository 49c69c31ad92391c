/* tests/gpu/emulated/stream.cpp -- streams and events: queues of work that runs later.
 *
 * Nothing runs when it is queued. It runs when somebody waits or asks, in an order drawn at random among those that streams and events
 * allow, and no more of it than that takes: whoever reads without having waited finds what was there before. */
#include "tests/gpu/emulated/emulator.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <algorithm>

std::mutex emulated_lock;
static std::condition_variable work_ended;
static std::vector<CUstream_st *> streams;
static unsigned running;
static uint64_t random_state;

uint64_t emulated_random(uint64_t below)
{
    static bool seeded;
    if (!seeded && random_state == 0) {
        const char *seed = getenv("SAFFRON_TEST_SEED");
        random_state = seed ? strtoull(seed, NULL, 10) : 1;
    }
    seeded = true;
    uint64_t z = random_state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (z ^ z >> 31) % below;
}

void emulated_seed(uint64_t seed)
{
    emulated_guard guard(emulated_lock);
    emulated_random(1);
    random_state = seed;
}

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

CUstream_st *emulated_stream(cudaStream_t stream)
{
    static CUstream_st *of_all;
    if (stream)
        return stream;
    if (!of_all)
        streams.push_back(of_all = new CUstream_st());
    return of_all;
}

/* ---- what runs next ---- */

static bool may_run(const CUstream_st *stream)
{
    if (stream->busy || stream->queue.empty())
        return false;
    const emulated_work &work = stream->queue.front();
    return !work.wait || work.wait->done >= work.version;
}

/* Without the lock, the stream being busy meanwhile. */
static void run_unlocked(emulated_guard &guard, CUstream_st *stream,
                         const std::function<void()> &run)
{
    stream->busy = true, running++;
    guard.unlock();
    run();
    guard.lock();
    stream->busy = false, running--;
    work_ended.notify_all();
}

static void run_first(emulated_guard &guard, CUstream_st *stream)
{
    emulated_work work = stream->queue.front();
    if (work.playing) {
        size_t node = emulated_play(*work.playing);
        if (node != SIZE_MAX) {
            run_unlocked(guard, stream, work.playing->graph->nodes[node].run);
            work.playing->ended[node] = true;
            work.playing->left--;
        }
        if (work.playing->left > 0)
            return;
    } else if (work.run) {
        run_unlocked(guard, stream, work.run);
    } else if (work.record) {
        work.record->done = std::max(work.record->done, work.version);
        work.record->at_ms = now_ms();
    }
    stream->queue.pop_front();
}

/* Runs one thing; false: there is nothing that may run, now or when what runs elsewhere has ended. */
static bool run_one(emulated_guard &guard)
{
    std::vector<CUstream_st *> able;
    for (CUstream_st *stream : streams)
        if (may_run(stream))
            able.push_back(stream);
    if (able.empty() && running == 0)
        return false;
    if (able.empty())
        work_ended.wait(guard);
    else
        run_first(guard, able[emulated_random(able.size())]);
    return true;
}

static bool has_work()
{
    return running > 0 || std::any_of(streams.begin(), streams.end(), may_run);
}

/* The device's memory is opened where something runs: that costs a call to the system for each of its blocks. */
bool emulated_run_until(emulated_guard &guard, const std::function<bool()> &done)
{
    bool runs = true;
    if (done() || !has_work())
        return done();
    emulated_open_memory();
    while (!done() && runs)
        runs = run_one(guard);
    emulated_close_memory();
    return done();
}

void emulated_run_some(emulated_guard &guard)
{
    uint64_t left = 1 + emulated_random(4);
    emulated_run_until(guard, [&] { return left-- == 0; });
}

void emulated_run_all(emulated_guard &guard)
{
    int device = 0;
    cudaGetDevice(&device);
    bool empty = emulated_run_until(guard, [=] {
        return std::all_of(streams.begin(), streams.end(), [=](CUstream_st *stream) {
            return stream->device != device || stream->queue.empty();
        });
    });
    if (!empty)
        emulated_die("streams wait for events that nothing left will record");
}

static void run_stream(emulated_guard &guard, CUstream_st *stream)
{
    if (!emulated_run_until(guard, [=] { return stream->queue.empty(); }))
        emulated_die("a stream waits for an event that nothing left will record");
}

/* ---- streams ---- */

cudaError_t emulated_add(CUstream_st *stream, emulated_work work)
{
    if (!stream->graph) {
        stream->queue.push_back(std::move(work));
        return cudaSuccess;
    }
    emulated_graph &graph = *stream->graph;
    if (!work.run) {
        graph.invalid = true;
        return cudaErrorStreamCaptureUnsupported;
    }
    graph.nodes.push_back({work.run, stream->nodes});
    stream->nodes = {graph.nodes.size() - 1};
    return cudaSuccess;
}

cudaError_t emulated_queue(cudaStream_t stream, std::function<void()> run)
{
    emulated_guard guard(emulated_lock);
    emulated_work work;
    work.run = std::move(run);
    return emulated_result(emulated_add(emulated_stream(stream), work));
}

cudaError_t emulated_queue_call(cudaStream_t stream, void (*run)(void *args), const void *args,
                                size_t bytes)
{
    const char *from = (const char *)args;
    std::vector<char> copy(from, from + bytes);
    return emulated_queue(stream, [run, copy]() mutable { run(copy.data()); });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags)
{
    emulated_guard guard(emulated_lock);
    (void)flags;
    streams.push_back(*out = new CUstream_st());
    cudaGetDevice(&(*out)->device);
    return emulated_result(cudaSuccess);
}

cudaError_t cudaStreamCreate(cudaStream_t *out)
{
    return cudaStreamCreateWithFlags(out, cudaStreamDefault);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *out, unsigned flags, int priority)
{
    (void)priority;
    return cudaStreamCreateWithFlags(out, flags);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    *least = 0, *greatest = -5;
    return emulated_result(cudaSuccess);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    emulated_guard guard(emulated_lock);
    run_stream(guard, stream);
    streams.erase(std::find(streams.begin(), streams.end(), stream));
    delete stream;
    return emulated_result(cudaSuccess);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    emulated_guard guard(emulated_lock);
    if (emulated_stream(stream)->graph || emulated_forbidden()) {
        if (stream && stream->graph)
            stream->graph->invalid = true;
        return emulated_result(cudaErrorStreamCaptureUnsupported);
    }
    run_stream(guard, emulated_stream(stream));
    return emulated_result(cudaSuccess);
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    emulated_guard guard(emulated_lock);
    if (emulated_forbidden())
        return emulated_result(cudaErrorStreamCaptureUnsupported);
    emulated_run_some(guard);
    return emulated_stream(stream)->queue.empty() ? emulated_result(cudaSuccess)
                                                  : cudaErrorNotReady;
}

cudaError_t cudaDeviceSynchronize(void)
{
    emulated_guard guard(emulated_lock);
    emulated_counts[EMULATED_DEVICE_SYNCS]++;
    if (emulated_forbidden())
        return emulated_result(cudaErrorStreamCaptureUnsupported);
    emulated_run_all(guard);
    return emulated_result(cudaSuccess);
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t run, void *user)
{
    return emulated_queue(stream, [=] { run(user); });
}

/* ---- events ---- */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags)
{
    (void)flags;
    *out = new CUevent_st{std::make_shared<emulated_event>()};
    return emulated_result(cudaSuccess);
}

cudaError_t cudaEventCreate(cudaEvent_t *out)
{
    return cudaEventCreateWithFlags(out, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    delete event;
    return emulated_result(cudaSuccess);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream_)
{
    emulated_guard guard(emulated_lock);
    CUstream_st *stream = emulated_stream(stream_);
    emulated_work work;
    event->of->graph = stream->graph;
    event->of->nodes = stream->nodes;
    if (stream->graph)
        return emulated_result(cudaSuccess);
    work.record = event->of;
    work.version = ++event->of->recorded;
    return emulated_result(emulated_add(stream, work));
}

/* The stream comes after the event's nodes: part of that capture from here on, if it was not. */
static cudaError_t join_capture(CUstream_st *stream, const emulated_event &event)
{
    if (!event.graph || (stream->graph && stream->graph != event.graph)) {
        stream->graph->invalid = true; /* what was recorded before the capture, or in another one */
        return cudaErrorStreamCaptureIsolation;
    }
    if (!stream->graph) {
        stream->graph = event.graph;
        stream->graph->streams.push_back(stream);
    }
    stream->nodes.insert(stream->nodes.end(), event.nodes.begin(), event.nodes.end());
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream_, cudaEvent_t event, unsigned flags)
{
    emulated_guard guard(emulated_lock);
    CUstream_st *stream = emulated_stream(stream_);
    emulated_work work;
    (void)flags;
    if (stream->graph || event->of->graph)
        return emulated_result(join_capture(stream, *event->of));
    if (event->of->recorded == 0)
        return emulated_result(cudaSuccess);
    work.wait = event->of;
    work.version = event->of->recorded;
    return emulated_result(emulated_add(stream, work));
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    emulated_guard guard(emulated_lock);
    std::shared_ptr<emulated_event> of = event->of;
    uint64_t version = of->recorded;
    if (of->graph || emulated_forbidden())
        return emulated_result(cudaErrorStreamCaptureUnsupported);
    if (!emulated_run_until(guard, [&] { return of->done >= version; }))
        emulated_die("an event is waited for that nothing left will record");
    return emulated_result(cudaSuccess);
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    emulated_guard guard(emulated_lock);
    std::shared_ptr<emulated_event> of = event->of;
    if (of->graph || emulated_forbidden())
        return emulated_result(cudaErrorStreamCaptureUnsupported);
    if (of->done < of->recorded)
        emulated_run_some(guard);
    return of->done >= of->recorded ? emulated_result(cudaSuccess) : cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to)
{
    emulated_guard guard(emulated_lock);
    if (from->of->recorded == 0 || to->of->recorded == 0)
        return emulated_result(cudaErrorInvalidResourceHandle);
    if (from->of->done < from->of->recorded || to->of->done < to->of->recorded)
        return cudaErrorNotReady;
    *ms = (float)(to->of->at_ms - from->of->at_ms);
    return emulated_result(cudaSuccess);
}
