/* tests/gpu/emulated/memory.cpp -- the device's memory: full of garbage at first, and out of the host's reach while nothing runs.
 *
 * A block has pages of its own, which are closed except while work runs, and ends (rounded up to 256 bytes) where its last page does: the
 * next one is closed for good. With a sanitizer blocks are its malloc's, which sees each byte that is not theirs. */
#include "tests/gpu/emulated/emulator.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <map>

#define ALIGN ((size_t)256)
#define PAGE  ((size_t)4096)
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define CLOSES false
#else
#define CLOSES true
#endif

struct block {
    size_t bytes;
    char *pages; /* of the device; the last one stays closed */
    size_t open;
};
static std::map<uintptr_t, block> device_blocks, pinned_blocks; /* by address */
static size_t used, total = (size_t)8 << 30;
static unsigned opened;

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

static void *take_pages(block *block)
{
    size_t bytes = round_up(block->bytes, ALIGN);
    block->open = round_up(bytes, PAGE);
    void *pages =
        mmap(NULL, block->open + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED || mprotect((char *)pages + block->open, PAGE, PROT_NONE) != 0)
        emulated_die("no memory for %zu bytes of the device", block->bytes);
    block->pages = (char *)pages;
    return block->pages + block->open - bytes;
}

static void protect(const block &block, int how)
{
    if (CLOSES && mprotect(block.pages, block.open, how) != 0)
        emulated_die("mprotect of the device's memory");
}

void emulated_open_memory(void)
{
    if (opened++ == 0)
        for (auto &at : device_blocks)
            protect(at.second, PROT_READ | PROT_WRITE);
}

void emulated_close_memory(void)
{
    if (--opened == 0)
        for (auto &at : device_blocks)
            protect(at.second, PROT_NONE);
}

void emulated_set_memory(size_t bytes)
{
    emulated_guard guard(emulated_lock);
    total = bytes;
}

cudaError_t cudaMalloc(void **out, size_t bytes)
{
    emulated_guard guard(emulated_lock);
    block block = {bytes, NULL, 0};
    void *memory;
    emulated_counts[EMULATED_MALLOCS]++;
    *out = NULL;
    if (emulated_forbidden())
        return emulated_result(cudaErrorStreamCaptureUnsupported);
    if (bytes == 0)
        return emulated_result(cudaSuccess);
    if (bytes > total - used)
        return emulated_result(cudaErrorMemoryAllocation);
    memory = CLOSES ? take_pages(&block) : aligned_alloc(ALIGN, round_up(bytes, ALIGN));
    memset(memory, 0xa5, bytes);
    if (opened == 0)
        protect(block, PROT_NONE);
    device_blocks[(uintptr_t)memory] = block;
    used += bytes;
    *out = memory;
    return emulated_result(cudaSuccess);
}

cudaError_t cudaFree(void *memory)
{
    emulated_guard guard(emulated_lock);
    if (emulated_forbidden())
        return emulated_result(cudaErrorStreamCaptureUnsupported);
    emulated_run_all(guard);
    if (!memory)
        return emulated_result(cudaSuccess);
    auto at = device_blocks.find((uintptr_t)memory);
    if (at == device_blocks.end())
        return emulated_result(cudaErrorInvalidValue);
    used -= at->second.bytes;
    if (CLOSES)
        munmap(at->second.pages, at->second.open + PAGE);
    else
        free(memory);
    device_blocks.erase(at);
    return emulated_result(cudaSuccess);
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    emulated_guard guard(emulated_lock);
    *free_bytes = total - used;
    *total_bytes = total;
    return emulated_result(cudaSuccess);
}

/* ---- pinned ---- */

cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned flags)
{
    emulated_guard guard(emulated_lock);
    (void)flags;
    *out = NULL;
    if (emulated_forbidden())
        return emulated_result(cudaErrorStreamCaptureUnsupported);
    *out = aligned_alloc(PAGE, round_up(bytes ? bytes : 1, PAGE));
    if (!*out)
        return emulated_result(cudaErrorMemoryAllocation);
    memset(*out, 0xa5, bytes);
    pinned_blocks[(uintptr_t)*out] = {bytes, NULL, 0};
    return emulated_result(cudaSuccess);
}

cudaError_t cudaMallocHost(void **out, size_t bytes)
{
    return cudaHostAlloc(out, bytes, cudaHostAllocDefault);
}

cudaError_t cudaFreeHost(void *memory)
{
    emulated_guard guard(emulated_lock);
    if (emulated_forbidden())
        return emulated_result(cudaErrorStreamCaptureUnsupported);
    emulated_run_all(guard);
    if (memory && pinned_blocks.erase((uintptr_t)memory) == 0)
        return emulated_result(cudaErrorInvalidValue);
    free(memory);
    return emulated_result(cudaSuccess);
}

cudaError_t cudaHostRegister(void *memory, size_t bytes, unsigned flags)
{
    emulated_guard guard(emulated_lock);
    (void)flags;
    if (!memory || bytes == 0 || emulated_inside(memory, bytes, true))
        return emulated_result(cudaErrorInvalidValue);
    pinned_blocks[(uintptr_t)memory] = {bytes, NULL, 0};
    return emulated_result(cudaSuccess);
}

cudaError_t cudaHostUnregister(void *memory)
{
    emulated_guard guard(emulated_lock);
    emulated_run_all(guard);
    return emulated_result(pinned_blocks.erase((uintptr_t)memory) ? cudaSuccess
                                                                  : cudaErrorInvalidValue);
}

bool emulated_inside(const void *memory, size_t bytes, bool pinned)
{
    const std::map<uintptr_t, block> &blocks = pinned ? pinned_blocks : device_blocks;
    auto after = blocks.upper_bound((uintptr_t)memory);
    if (after == blocks.begin())
        return false;
    auto at = std::prev(after);
    size_t from = (uintptr_t)memory - at->first;
    return from <= at->second.bytes && bytes <= at->second.bytes - from;
}

void emulated_check_pointer(const char *kernel, unsigned parameter, const void *pointer)
{
    emulated_guard guard(emulated_lock);
    if (pointer && !emulated_inside(pointer, 0, false) && !emulated_inside(pointer, 0, true))
        emulated_die("parameter %u of kernel %s points to the host's memory", parameter, kernel);
}

/* ---- copies ---- */

struct rectangle {
    char *to;
    const char *from;
    size_t to_pitch, from_pitch, width, height;
};

static void copy_rows(const rectangle &of)
{
    for (size_t row = 0; row < of.height; row++)
        memmove(of.to + row * of.to_pitch, of.from + row * of.from_pitch, of.width);
}

/* Whether what is to be the device's is, all of it. */
static bool in_place(const rectangle &of, enum cudaMemcpyKind kind)
{
    size_t to = (of.height - 1) * of.to_pitch + of.width,
           from = (of.height - 1) * of.from_pitch + of.width;
    bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (kind == cudaMemcpyDefault)
        return true;
    return emulated_inside(of.to, to, false) == to_device &&
           emulated_inside(of.from, from, false) == from_device;
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, enum cudaMemcpyKind kind,
                              cudaStream_t stream)
{
    emulated_guard guard(emulated_lock);
    rectangle of = {(char *)to, (const char *)from, to_pitch, from_pitch, width, height};
    emulated_work work;
    if (width == 0 || height == 0)
        return emulated_result(cudaSuccess);
    if (width > to_pitch || width > from_pitch || !in_place(of, kind))
        return emulated_result(cudaErrorInvalidValue);
    work.run = [of] { copy_rows(of); };
    return emulated_result(emulated_add(emulated_stream(stream), work));
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    return cudaMemcpy2DAsync(to, bytes, from, bytes, bytes, 1, kind, stream);
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream)
{
    emulated_guard guard(emulated_lock);
    emulated_work work;
    if (bytes == 0)
        return emulated_result(cudaSuccess);
    if (!emulated_inside(to, bytes, false))
        return emulated_result(cudaErrorInvalidValue);
    work.run = [=] { memset(to, value, bytes); };
    return emulated_result(emulated_add(emulated_stream(stream), work));
}

/* These run at once: on the default stream, which other streams of ours do not wait for. */
static cudaError_t at_once(cudaError_t status)
{
    return status == cudaSuccess ? cudaStreamSynchronize(NULL) : status;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind)
{
    return at_once(cudaMemcpyAsync(to, from, bytes, kind, NULL));
}

cudaError_t cudaMemset(void *to, int value, size_t bytes)
{
    return at_once(cudaMemsetAsync(to, value, bytes, NULL));
}
