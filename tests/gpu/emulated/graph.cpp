/* tests/gpu/emulated/graph.cpp -- what is captured of streams, and playing it again: its nodes run in any order that they allow. */
#include "tests/gpu/emulated/emulator.h"

#include <pthread.h>

#include <algorithm>

struct CUgraph_st {
    std::shared_ptr<emulated_graph> of;
};
struct CUgraphExec_st {
    std::shared_ptr<const emulated_graph> of;
};

static std::vector<std::shared_ptr<emulated_graph>> captures; /* that are on */

bool emulated_forbidden(void)
{
    bool breaks = false;
    for (auto &graph : captures)
        if (graph->mode == cudaStreamCaptureModeGlobal ||
            (graph->mode == cudaStreamCaptureModeThreadLocal &&
             graph->thread == (uint64_t)pthread_self()))
            breaks = graph->invalid = true;
    return breaks;
}

size_t emulated_play(emulated_playing &playing)
{
    std::vector<size_t> able;
    const std::vector<emulated_node> &nodes = playing.graph->nodes;
    for (size_t i = 0; i < nodes.size(); i++)
        if (!playing.started[i] &&
            std::all_of(nodes[i].after.begin(), nodes[i].after.end(),
                        [&](size_t before) { return playing.ended[before]; }))
            able.push_back(i);
    if (able.empty())
        return SIZE_MAX;
    size_t node = able[emulated_random(able.size())];
    playing.started[node] = true;
    return node;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode)
{
    emulated_guard guard(emulated_lock);
    if (!stream)
        return emulated_result(cudaErrorStreamCaptureUnsupported);
    if (stream->graph)
        return emulated_result(cudaErrorInvalidValue);
    stream->graph = std::make_shared<emulated_graph>();
    stream->graph->origin = stream;
    stream->graph->streams = {stream};
    stream->graph->mode = mode;
    stream->graph->thread = (uint64_t)pthread_self();
    captures.push_back(stream->graph);
    return emulated_result(cudaSuccess);
}

/* Whether all nodes come before those that the origin has come to. */
static bool joined(const emulated_graph &graph)
{
    std::vector<bool> before(graph.nodes.size());
    for (size_t node : graph.origin->nodes)
        before[node] = true;
    for (size_t i = graph.nodes.size(); i-- > 0;)
        for (size_t node : graph.nodes[i].after)
            before[node] = before[node] || before[i];
    return std::all_of(before.begin(), before.end(), [](bool is) { return is; });
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out)
{
    emulated_guard guard(emulated_lock);
    cudaError_t status = cudaSuccess;
    *out = NULL;
    if (!stream || !stream->graph)
        return emulated_result(cudaErrorInvalidValue);
    std::shared_ptr<emulated_graph> graph = stream->graph;
    if (graph->origin != stream)
        return emulated_result(cudaErrorStreamCaptureUnmatched);
    if (graph->invalid)
        status = cudaErrorStreamCaptureInvalidated;
    else if (!joined(*graph))
        status = cudaErrorStreamCaptureUnjoined;
    for (CUstream_st *part : graph->streams)
        part->graph.reset(), part->nodes.clear();
    captures.erase(std::find(captures.begin(), captures.end(), graph));
    if (status == cudaSuccess)
        *out = new CUgraph_st{graph};
    return emulated_result(status);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *out)
{
    emulated_guard guard(emulated_lock);
    *out = !stream || !stream->graph ? cudaStreamCaptureStatusNone
           : stream->graph->invalid  ? cudaStreamCaptureStatusInvalidated
                                     : cudaStreamCaptureStatusActive;
    return emulated_result(cudaSuccess);
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, void *nodes, size_t *count)
{
    *count = graph->of->nodes.size();
    return emulated_result(nodes ? cudaErrorNotSupported : cudaSuccess);
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long flags)
{
    (void)flags;
    *out = new CUgraphExec_st{graph->of};
    return emulated_result(cudaSuccess);
}

cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t stream)
{
    (void)exec, (void)stream;
    return emulated_result(cudaSuccess);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    emulated_guard guard(emulated_lock);
    emulated_work work;
    size_t n = exec->of->nodes.size();
    work.playing = std::make_shared<emulated_playing>();
    work.playing->graph = exec->of;
    work.playing->started.resize(n);
    work.playing->ended.resize(n);
    work.playing->left = n;
    return emulated_result(emulated_add(emulated_stream(stream), work));
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    delete exec;
    return emulated_result(cudaSuccess);
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return emulated_result(cudaSuccess);
}
