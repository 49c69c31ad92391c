/* tests/gpu/emulated/kernel.cpp -- runs a kernel on a CPU: blocks one after the other, the threads of a block as fibers.
 *
 * A fiber runs threads to their end, one after the other, for as long as none has to wait: a kernel without barriers is a loop on one
 * stack. A thread that waits keeps its fiber, and another one takes over; so a barrier costs a switch of stacks per thread. Whether a
 * block's threads start from the first or the last one, and so its blocks, is drawn: what happens to work in one order shows.
 * A barrier that not all living threads reach, and a shuffle in which lanes are missing, end the program with what happened. */
#include "tests/gpu/emulated/emulator.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#ifndef __x86_64__
#include <ucontext.h>
#endif

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif

#define STACK   ((size_t)256 << 10)
#define GUARD   ((size_t)4096)
#define THREADS 1024u
#define LANES   32u

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

struct fiber {
#ifdef __x86_64__
    void *at; /* its stack pointer, while another one runs */
#else
    ucontext_t at;
#endif
    char *stack;
    void *sanitizer;
    unsigned thread;
    uint3 index;
};

struct warp {
    unsigned lanes, alive, arrived, turn; /* turn: which half of `brought` is written */
    emulated_meeting what;
    uint64_t brought[2][LANES];
    fiber *waits[LANES];
    unsigned n_waits;
};

static struct {
    const char *name;
    const std::function<void()> *run;
    unsigned threads, begun, alive, arrived; /* arrived: at __syncthreads */
    bool backwards;
    warp warps[THREADS / LANES];
    fiber *waits[THREADS], *ready[THREADS], *idle[THREADS];
    unsigned n_waits, first_ready, n_ready, n_idle;
    fiber outside, *current;
    bool runs;
} now;

void emulated_die(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fprintf(stderr, "emulated GPU: ");
    vfprintf(stderr, fmt, args);
    va_end(args);
    if (now.runs)
        fprintf(stderr, "; kernel %s, block %u,%u,%u of %u,%u,%u, threads %u,%u,%u", now.name,
                blockIdx.x, blockIdx.y, blockIdx.z, gridDim.x, gridDim.y, gridDim.z, blockDim.x,
                blockDim.y, blockDim.z);
    fprintf(stderr, "\n");
    abort();
}

/* ---- stacks ---- */

#ifdef __x86_64__
/* Saves what a call must keep on this stack, and goes on where the other one was left. */
extern "C" void emulated_switch(void **from, void *to);
asm(".text\n"
    ".type emulated_switch, @function\n"
    "emulated_switch:\n"
    "push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n"
    "mov %rsp, (%rdi)\n"
    "mov %rsi, %rsp\n"
    "pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n"
    "ret\n"
    ".size emulated_switch, .-emulated_switch\n");
#endif

static void switch_to(fiber *to)
{
    fiber *from = now.current;
    now.current = to;
#ifdef __SANITIZE_THREAD__ /* the other one need not be told, as long as nothing is thrown here */
    if (from == &now.outside)
        from->sanitizer = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(to->sanitizer, 0);
#endif
#ifdef __x86_64__
    emulated_switch(&from->at, to->at);
#else
    swapcontext(&from->at, &to->at);
#endif
    threadIdx = from->index;
}

static void fiber_main(void);

static fiber *fiber_create(void)
{
    fiber *fiber = new struct fiber();
    fiber->stack = (char *)mmap(NULL, STACK + GUARD, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (fiber->stack == MAP_FAILED || mprotect(fiber->stack, GUARD, PROT_NONE) != 0)
        emulated_die("no memory for the stack of a thread");
#ifdef __SANITIZE_THREAD__
    fiber->sanitizer = __tsan_create_fiber(0);
#endif
#ifdef __x86_64__
    void **top = (void **)(fiber->stack + GUARD + STACK);
    top[-2] =
        (void *)fiber_main; /* where the first switch returns to, the stack being as after a call */
    fiber->at = top - 2 - 6;
#else
    getcontext(&fiber->at);
    fiber->at.uc_stack.ss_sp = fiber->stack + GUARD;
    fiber->at.uc_stack.ss_size = STACK;
    makecontext(&fiber->at, fiber_main, 0);
#endif
    return fiber;
}

/* ---- who runs ---- */

/* Whoever can go on; then a thread that has not begun; then nobody, and the block is over or stuck. */
static fiber *next_fiber(void)
{
    if (now.n_ready > 0) {
        fiber *fiber = now.ready[now.first_ready++ % THREADS];
        now.n_ready--;
        return fiber;
    }
    if (now.begun < now.threads)
        return now.n_idle > 0 ? now.idle[--now.n_idle] : fiber_create();
    return &now.outside;
}

static void wake(fiber **waits, unsigned *n)
{
    for (unsigned i = 0; i < *n; i++)
        now.ready[(now.first_ready + now.n_ready++) % THREADS] = waits[i];
    *n = 0;
}

static void meet_block(void)
{
    now.arrived = 0;
    wake(now.waits, &now.n_waits);
}

static void meet_warp(warp *warp)
{
    warp->arrived = 0;
    warp->turn ^= 1;
    wake(warp->waits, &warp->n_waits);
}

static void run_thread(fiber *fiber)
{
    unsigned order = now.begun++, thread = now.backwards ? now.threads - 1 - order : order;
    fiber->thread = thread;
    fiber->index = {thread % blockDim.x, thread / blockDim.x % blockDim.y,
                    thread / (blockDim.x * blockDim.y)};
    threadIdx = fiber->index;
    (*now.run)();
    warp *warp = &now.warps[thread / LANES];
    warp->alive--, now.alive--;
    if (warp->arrived > 0)
        emulated_die(
            "thread %u has ended while %u lanes of its warp wait for it at a shuffle or vote",
            thread, warp->arrived);
    if (now.alive > 0 && now.arrived == now.alive)
        meet_block();
}

static void fiber_main(void)
{
    for (;;) {
        fiber *self = now.current;
        while (now.n_ready == 0 && now.begun < now.threads)
            run_thread(self);
        if (now.n_ready > 0 || now.begun == now.threads) {
            fiber *next = next_fiber();
            now.idle[now.n_idle++] = self;
            switch_to(next);
        }
        run_thread(self); /* it was taken for one */
    }
}

static void wait_here(fiber **waits, unsigned *n)
{
    waits[(*n)++] = now.current;
    switch_to(next_fiber());
}

void emulated_syncthreads(void)
{
    if (++now.arrived == now.alive)
        meet_block();
    else
        wait_here(now.waits, &now.n_waits);
}

unsigned emulated_lane(void)
{
    return now.current->thread % LANES;
}

static const char *name_of(emulated_meeting what)
{
    static const char *const name[] = {"__syncwarp",       "__shfl_sync",    "__shfl_xor_sync",
                                       "__shfl_down_sync", "__shfl_up_sync", "a vote"};
    return name[what];
}

/* All lanes bring a value; what they brought, until the next but one time. */
static const uint64_t *bring(emulated_meeting what, unsigned mask, uint64_t value)
{
    unsigned thread = now.current->thread, lane = thread % LANES;
    warp *warp = &now.warps[thread / LANES];
    const uint64_t *brought = warp->brought[warp->turn];
    unsigned whole = warp->lanes == LANES ? ~0u : (1u << warp->lanes) - 1;
    if ((mask & whole) != whole)
        emulated_die("%s by thread %u with mask %08x: only whole warps are emulated", name_of(what),
                     thread, mask);
    if (warp->alive < warp->lanes)
        emulated_die("%s by thread %u, whose warp has lost %u lanes, which have ended",
                     name_of(what), thread, warp->lanes - warp->alive);
    if (warp->arrived > 0 && warp->what != what)
        emulated_die("thread %u is at %s, other lanes of its warp at %s", thread, name_of(what),
                     name_of(warp->what));
    warp->what = what;
    warp->brought[warp->turn][lane] = value;
    if (++warp->arrived == warp->lanes)
        meet_warp(warp);
    else
        wait_here(warp->waits, &warp->n_waits);
    return brought;
}

uint64_t emulated_exchange(emulated_meeting what, unsigned mask, uint64_t value, unsigned from)
{
    unsigned thread = now.current->thread, lanes = now.warps[thread / LANES].lanes;
    const uint64_t *brought = bring(what, mask, value);
    if (from >= lanes)
        emulated_die("%s by thread %u reads lane %u of a warp of %u", name_of(what), thread, from,
                     lanes);
    return brought[from];
}

unsigned emulated_ballot(unsigned mask, bool holds)
{
    unsigned votes = 0, lanes = now.warps[now.current->thread / LANES].lanes;
    const uint64_t *brought = bring(EMULATED_BALLOT, mask, holds);
    for (unsigned lane = 0; lane < lanes; lane++)
        votes |= (unsigned)brought[lane] << lane;
    return votes;
}

/* ---- blocks ---- */

static void run_block(void)
{
    unsigned threads = blockDim.x * blockDim.y * blockDim.z;
    now.threads = now.alive = threads;
    now.begun = now.arrived = now.n_waits = now.n_ready = 0;
    for (unsigned i = 0; i < (threads + LANES - 1) / LANES; i++) {
        warp *warp = &now.warps[i];
        warp->lanes = warp->alive = threads - i * LANES < LANES ? threads - i * LANES : LANES;
        warp->arrived = warp->n_waits = 0;
    }
    now.current = &now.outside;
    switch_to(next_fiber());
    if (now.alive == 0)
        return;
    for (unsigned i = 0; i < (threads + LANES - 1) / LANES; i++)
        if (now.warps[i].arrived > 0)
            emulated_die("threads of a block go different ways: %u wait at __syncthreads, of warp "
                         "%u %u at %s",
                         now.arrived, i, now.warps[i].arrived, name_of(now.warps[i].what));
    emulated_die("%u threads wait at __syncthreads, the others do not come", now.arrived);
}

void emulated_run_kernel(const char *name, dim3 grid, dim3 block,
                         const std::function<void()> &thread)
{
    static std::mutex one_at_a_time;
    std::lock_guard<std::mutex> only(one_at_a_time);
    uint64_t blocks = (uint64_t)grid.x * grid.y * grid.z, order;
    {
        emulated_guard guard(emulated_lock);
        order = emulated_random(4);
        emulated_counts[EMULATED_KERNELS]++;
    }
    now.name = name, now.run = &thread, now.runs = true;
    now.backwards = order & 1;
    gridDim = grid, blockDim = block;
    for (uint64_t i = 0; i < blocks; i++) {
        uint64_t at = order & 2 ? blocks - 1 - i : i;
        blockIdx = {(unsigned)(at % grid.x), (unsigned)(at / grid.x % grid.y),
                    (unsigned)(at / grid.x / grid.y)};
        run_block();
    }
    now.runs = false;
}

bool emulated_launchable(dim3 grid, dim3 block)
{
    uint64_t threads = (uint64_t)block.x * block.y * block.z;
    bool fits = threads > 0 && threads <= THREADS && block.x <= 1024 && block.y <= 1024 &&
                block.z <= 64 && grid.x > 0 && grid.y > 0 && grid.z > 0 && grid.x <= INT32_MAX &&
                grid.y <= 65535 && grid.z <= 65535;
    if (!fits)
        emulated_result(cudaErrorInvalidConfiguration);
    return fits;
}

void emulated_queue_kernel(const char *name, dim3 grid, dim3 block, cudaStream_t stream,
                           std::function<void()> thread)
{
    emulated_guard guard(emulated_lock);
    emulated_counts[EMULATED_LAUNCHES]++;
    emulated_work work;
    work.run = [=] { emulated_run_kernel(name, grid, block, thread); };
    emulated_result(emulated_add(emulated_stream(stream), work));
}
