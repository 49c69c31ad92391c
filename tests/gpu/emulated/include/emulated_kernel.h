/* tests/gpu/emulated/include/emulated_kernel.h -- what a kernel is written with, for a C++ compiler: included by cuda_runtime.h.
 *
 * A __shared__ variable is a static one, since blocks run one after the other; it keeps what the block before left, as a GPU's may. */
#ifndef EMULATED_KERNEL_H
#define EMULATED_KERNEL_H

#ifdef __cplusplus
#include <cuda_runtime.h>

#include <math.h>
#include <string.h>

#include <functional>
#include <tuple>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __shared__   static
#define __align__(n) __attribute__((aligned(n)))
#define CUDART_INF_F __builtin_inff()
#define CUDART_NAN_F __builtin_nanf("")

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

/* What stands at a place that lanes of a warp must reach together. */
enum emulated_meeting {
    EMULATED_SYNCWARP,
    EMULATED_SHFL,
    EMULATED_SHFL_XOR,
    EMULATED_SHFL_DOWN,
    EMULATED_SHFL_UP,
    EMULATED_BALLOT
};

extern "C" void emulated_syncthreads(void);
/* The value that lane `from` brought; every lane of the warp comes here. */
extern "C" uint64_t emulated_exchange(emulated_meeting what, unsigned mask, uint64_t value,
                                      unsigned from);
extern "C" unsigned emulated_ballot(unsigned mask, bool holds);
extern "C" unsigned emulated_lane(void);

extern "C" void emulated_check_pointer(const char *kernel, unsigned parameter, const void *pointer);
extern "C" bool emulated_launchable(dim3 grid, dim3 block);
void emulated_queue_kernel(const char *name, dim3 grid, dim3 block, cudaStream_t stream,
                           std::function<void()> thread);

/* A parameter that is a pointer must point into the device's memory, or pinned memory, or be NULL. */
template <typename T> void emulated_check(const char *kernel, unsigned parameter, const T &value)
{
    if constexpr (std::is_pointer_v<T>)
        emulated_check_pointer(kernel, parameter, (const void *)value);
}

template <typename... P, typename... A>
void emulated_launch(const char *name, void (*kernel)(P...), dim3 grid, dim3 block,
                     cudaStream_t stream, const A &...given)
{
    std::tuple<std::remove_const_t<P>...> params(given...);
    if (!emulated_launchable(grid, block))
        return;
    std::apply(
        [&](const auto &...param) {
            unsigned i = 0;
            (emulated_check(name, i++, param), ...);
            (void)i;
        },
        params);
    emulated_queue_kernel(name, grid, block, stream,
                          [kernel, params] { std::apply(kernel, params); });
}

#define TR_LAUNCH(kernel, grid, block, stream, ...)                                                \
    emulated_launch(#kernel, kernel, grid, block, stream, __VA_ARGS__)

/* ---- barriers, and values from lane to lane ---- */

static inline void __syncthreads()
{
    emulated_syncthreads();
}
static inline void __syncwarp(unsigned mask = 0xffffffffu)
{
    emulated_exchange(EMULATED_SYNCWARP, mask, 0, emulated_lane());
}
static inline void __threadfence()
{
}
static inline void __threadfence_block()
{
}

template <typename T> T emulated_trade(emulated_meeting what, unsigned mask, T value, unsigned from)
{
    static_assert(sizeof(T) <= 8 && std::is_arithmetic_v<T>, "what a shuffle takes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = emulated_exchange(what, mask, bits, from);
    memcpy(&value, &bits, sizeof value);
    return value;
}
template <typename T> T __shfl_sync(unsigned mask, T value, int from, int width = 32)
{
    unsigned lane = emulated_lane();
    return emulated_trade(EMULATED_SHFL, mask, value,
                          (lane & ~(width - 1u)) + ((unsigned)from & (width - 1u)));
}
template <typename T> T __shfl_xor_sync(unsigned mask, T value, int other, int width = 32)
{
    unsigned lane = emulated_lane(), from = lane ^ (unsigned)other;
    return emulated_trade(EMULATED_SHFL_XOR, mask, value,
                          from > (lane | (width - 1u)) ? lane : from);
}
template <typename T> T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32)
{
    unsigned lane = emulated_lane(), from = lane + by;
    return emulated_trade(EMULATED_SHFL_DOWN, mask, value,
                          from > (lane | (width - 1u)) ? lane : from);
}
template <typename T> T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32)
{
    unsigned lane = emulated_lane(), first = lane & ~(width - 1u);
    return emulated_trade(EMULATED_SHFL_UP, mask, value, lane - first < by ? lane : lane - by);
}
static inline unsigned __ballot_sync(unsigned mask, int holds)
{
    return emulated_ballot(mask, holds != 0);
}
static inline int __any_sync(unsigned mask, int holds)
{
    return emulated_ballot(mask, holds != 0) != 0;
}
static inline int __all_sync(unsigned mask, int holds)
{
    return emulated_ballot(mask, holds == 0) == 0;
}

/* ---- atomics: threads run one at a time. Of floats there are none, on purpose: their sum has no order ---- */

#define EMULATED_ATOMIC(name, type, expression)                                                    \
    static inline type name(type *at, type by)                                                     \
    {                                                                                              \
        type was = *at;                                                                            \
        *at = expression;                                                                          \
        return was;                                                                                \
    }
#define EMULATED_ATOMICS(type)                                                                     \
    EMULATED_ATOMIC(atomicAdd, type, was + by)                                                     \
    EMULATED_ATOMIC(atomicMax, type, was > by ? was : by)                                          \
    EMULATED_ATOMIC(atomicMin, type, was < by ? was : by)                                          \
    EMULATED_ATOMIC(atomicOr, type, was | by)                                                      \
    EMULATED_ATOMIC(atomicAnd, type, was &by)                                                      \
    EMULATED_ATOMIC(atomicExch, type, by)
EMULATED_ATOMICS(int)
EMULATED_ATOMICS(unsigned)
EMULATED_ATOMICS(unsigned long long)

template <typename T> T atomicCAS(T *at, T expected, T wanted)
{
    T was = *at;
    if (was == expected)
        *at = wanted;
    return was;
}

/* ---- numbers ---- */

template <typename T> T __ldg(const T *at)
{
    return *at;
}
template <typename T> T __ldcs(const T *at)
{
    return *at;
}
template <typename T> void __stcs(T *at, T value)
{
    *at = value;
}

template <typename To, typename From> To emulated_bits(From from)
{
    static_assert(sizeof(To) == sizeof(From), "bits of as many");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
static inline unsigned __float_as_uint(float x)
{
    return emulated_bits<unsigned>(x);
}
static inline int __float_as_int(float x)
{
    return emulated_bits<int>(x);
}
static inline float __uint_as_float(unsigned x)
{
    return emulated_bits<float>(x);
}
static inline float __int_as_float(int x)
{
    return emulated_bits<float>(x);
}
static inline long long __double_as_longlong(double x)
{
    return emulated_bits<long long>(x);
}
static inline double __longlong_as_double(long long x)
{
    return emulated_bits<double>(x);
}

#define EMULATED_FUNCTION(name, type, params, expression)                                          \
    static inline type name params                                                                 \
    {                                                                                              \
        return expression;                                                                         \
    }
#define __expf expf /* glibc has functions of these names */
#define __logf logf
EMULATED_FUNCTION(__fdividef, float, (float x, float y), x / y)
EMULATED_FUNCTION(rsqrtf, float, (float x), 1.0f / sqrtf(x))
EMULATED_FUNCTION(rsqrt, double, (double x), 1.0 / sqrt(x))
EMULATED_FUNCTION(__frsqrt_rn, float, (float x), (float)(1.0 / sqrt((double)x)))
EMULATED_FUNCTION(__fsqrt_rn, float, (float x), sqrtf(x))
EMULATED_FUNCTION(__saturatef, float, (float x), x<0 ? 0 : x> 1 ? 1 : x)
EMULATED_FUNCTION(__fadd_rn, float, (float x, float y), x + y)
EMULATED_FUNCTION(__fsub_rn, float, (float x, float y), x - y)
EMULATED_FUNCTION(__fmul_rn, float, (float x, float y), x *y)
EMULATED_FUNCTION(__fdiv_rn, float, (float x, float y), x / y)
EMULATED_FUNCTION(__fmaf_rn, float, (float x, float y, float z), fmaf(x, y, z))
EMULATED_FUNCTION(__dadd_rn, double, (double x, double y), x + y)
EMULATED_FUNCTION(__dsub_rn, double, (double x, double y), x - y)
EMULATED_FUNCTION(__dmul_rn, double, (double x, double y), x *y)
EMULATED_FUNCTION(__ddiv_rn, double, (double x, double y), x / y)
EMULATED_FUNCTION(__dsqrt_rn, double, (double x), sqrt(x))
EMULATED_FUNCTION(__fma_rn, double, (double x, double y, double z), fma(x, y, z))
EMULATED_FUNCTION(__double2float_rn, float, (double x), (float)x)
EMULATED_FUNCTION(__float2int_rn, int, (float x), (int)rintf(x))
EMULATED_FUNCTION(__float2int_rz, int, (float x), (int)x)
EMULATED_FUNCTION(__float2uint_rn, unsigned, (float x), (unsigned)rintf(x))
EMULATED_FUNCTION(__int2float_rn, float, (int x), (float)x)
EMULATED_FUNCTION(__uint2float_rn, float, (unsigned x), (float)x)
EMULATED_FUNCTION(__ull2float_rn, float, (unsigned long long x), (float)x)
EMULATED_FUNCTION(__popc, int, (unsigned x), __builtin_popcount(x))
EMULATED_FUNCTION(__popcll, int, (unsigned long long x), __builtin_popcountll(x))
EMULATED_FUNCTION(__clz, int, (int x), x ? __builtin_clz((unsigned)x) : 32)
EMULATED_FUNCTION(__clzll, int, (long long x), x ? __builtin_clzll((unsigned long long)x) : 64)
EMULATED_FUNCTION(__ffs, int, (int x), __builtin_ffs(x))
EMULATED_FUNCTION(__umulhi, unsigned, (unsigned x, unsigned y), (unsigned)((uint64_t)x *y >> 32))
EMULATED_FUNCTION(__umul64hi, unsigned long long, (unsigned long long x, unsigned long long y),
                  (unsigned long long)((unsigned __int128)x *y >> 64))
EMULATED_FUNCTION(make_float2, float2, (float x, float y), (float2{x, y}))
EMULATED_FUNCTION(make_float3, float3, (float x, float y, float z), (float3{x, y, z}))
EMULATED_FUNCTION(make_float4, float4, (float x, float y, float z, float w), (float4{x, y, z, w}))
EMULATED_FUNCTION(make_double2, double2, (double x, double y), (double2{x, y}))
EMULATED_FUNCTION(make_int2, int2, (int x, int y), (int2{x, y}))
EMULATED_FUNCTION(make_int4, int4, (int x, int y, int z, int w), (int4{x, y, z, w}))
EMULATED_FUNCTION(make_uint2, uint2, (unsigned x, unsigned y), (uint2{x, y}))
EMULATED_FUNCTION(make_uint4, uint4, (unsigned x, unsigned y, unsigned z, unsigned w),
                  (uint4{x, y, z, w}))
EMULATED_FUNCTION(make_ulonglong2, ulonglong2, (unsigned long long x, unsigned long long y),
                  (ulonglong2{x, y}))

#define EMULATED_ORDER(type)                                                                       \
    EMULATED_FUNCTION(min, type, (type x, type y), y < x ? y : x)                                  \
    EMULATED_FUNCTION(max, type, (type x, type y), x < y ? y : x)
EMULATED_ORDER(int)
EMULATED_ORDER(unsigned)
EMULATED_ORDER(long)
EMULATED_ORDER(unsigned long)
EMULATED_ORDER(long long)
EMULATED_ORDER(unsigned long long)
EMULATED_FUNCTION(min, unsigned, (unsigned x, int y), min(x, (unsigned)y))
EMULATED_FUNCTION(max, unsigned, (unsigned x, int y), max(x, (unsigned)y))
EMULATED_FUNCTION(min, unsigned, (int x, unsigned y), min((unsigned)x, y))
EMULATED_FUNCTION(max, unsigned, (int x, unsigned y), max((unsigned)x, y))
EMULATED_FUNCTION(min, float, (float x, float y), fminf(x, y))
EMULATED_FUNCTION(max, float, (float x, float y), fmaxf(x, y))
EMULATED_FUNCTION(min, double, (double x, double y), fmin(x, y))
EMULATED_FUNCTION(max, double, (double x, double y), fmax(x, y))

/* In C++ only, as CUDA has them too. */
static inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph)
{
    return cudaGraphInstantiate(out, graph, 0ULL);
}
template <typename T> cudaError_t cudaMalloc(T **out, size_t bytes)
{
    return cudaMalloc((void **)out, bytes);
}
#endif

#endif
