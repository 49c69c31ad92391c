/* tests/gpu/bed.c -- see bed.h. The CUDA runtime and the C library alone; under emulation the very same source. */
#include "tests/gpu/bed.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/half.h"
#include "trainer/backend/cuda/operations.h"

#define SKIPPED      77
#define POISON       0x7fc0deadu /* a NaN that no arithmetic makes */
#define TENSORS_MAX  4096        /* of one test */
#define MESSAGES_MAX 8u          /* of one test's differences, in full */
#define ALIGN        64

static struct {
    void *host, *device;
} taken[TENSORS_MAX];
static size_t n_taken;
static char cuda_text[1024];

/* ---- tables without holes ---- */

static struct tr_backend_ops ops;
static struct tr_backend_loops loops;
static struct tr_backend_losses losses;

static int missing(void)
{
    snprintf(cuda_text, sizeof cuda_text, "the GPU's table has no such operation");
    return -1;
}

/* NULL entries of a table of functions, from byte `first` on, say so when they are called. */
static void fill_holes(void *table, size_t first, size_t bytes)
{
    int (*const function)(void) = missing;
    for (size_t at = first; at + sizeof function <= bytes; at += sizeof function) {
        void *entry;
        memcpy(&entry, (char *)table + at, sizeof entry);
        if (!entry)
            memcpy((char *)table + at, &function, sizeof function);
    }
}

static void set_backends(struct bed *bed)
{
    ops = tr_cuda_ops;
    loops = tr_cuda_loops;
    losses = tr_cuda_losses;
    fill_holes(&ops, offsetof(struct tr_backend_ops, linear_forward), sizeof ops);
    fill_holes(&loops, 0, sizeof loops);
    fill_holes(&losses, 0, sizeof losses);
    bed->gpu = (struct tr_backend){
        .ops = &ops, .loops = &loops, .losses = &losses, .threads = 1, .cuda = &bed->cuda};
    bed->truth = (struct tr_backend){.ops = &tr_backend_reference,
                                     .loops = &tr_loops_plain,
                                     .losses = &tr_losses,
                                     .threads = 1,
                                     .precision = RT_DTYPE_F32};
    bed->gpu.precision = RT_DTYPE_F32;
}

/* ---- what went wrong ---- */

static int keep_text(int err, const char *text)
{
    snprintf(cuda_text, sizeof cuda_text, "%s", text);
    return err;
}

static void fail(struct bed *bed, const char *fmt, va_list args)
{
    if (bed->failures++ >= MESSAGES_MAX)
        return;
    printf("    %s: ", bed->test);
    vprintf(fmt, args);
    printf("\n");
}

void bed_check(struct bed *bed, bool holds, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    if (!holds)
        fail(bed, fmt, args);
    va_end(args);
}

void bed_ok(struct bed *bed, int err)
{
    bed_check(bed, err == 0, "error %d: %s", err, cuda_text[0] ? cuda_text : "no text");
    cuda_text[0] = '\0';
}

static void must(cudaError_t status, const char *what)
{
    if (status == cudaSuccess)
        return;
    printf("    %s: %s\n", what, cudaGetErrorString(status));
    fflush(stdout);
    abort();
}

/* ---- random numbers: SplitMix64 ---- */

static uint64_t draw(struct bed *bed)
{
    uint64_t z = bed->key + ++bed->drawn * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

uint32_t bed_below(struct bed *bed, uint32_t n)
{
    return (uint32_t)((draw(bed) >> 32) * n >> 32);
}

/* ---- memory ---- */

static void take(struct bed *bed, size_t bytes, void **host, void **device)
{
    size_t whole = (bytes / ALIGN + 1) * ALIGN;
    if (n_taken == TENSORS_MAX) {
        printf("    %s: more than %d tensors\n", bed->test, TENSORS_MAX);
        abort();
    }
    *host = aligned_alloc(ALIGN, whole);
    must(cudaMalloc(device, whole), "memory of a tensor");
    taken[n_taken].host = *host;
    taken[n_taken++].device = *device;
}

static void free_taken(void)
{
    for (size_t i = 0; i < n_taken; i++) {
        must(cudaFree(taken[i].device), "free a tensor");
        free(taken[i].host);
    }
    n_taken = 0;
}

static void upload(struct bed *bed, void *to, const void *from, size_t bytes)
{
    must(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, bed->cuda.compute), "upload");
    must(cudaStreamSynchronize(bed->cuda.compute), "upload");
}

void bed_download(struct bed *bed, void *to, const void *device, size_t bytes)
{
    must(cudaMemcpyAsync(to, device, bytes, cudaMemcpyDeviceToHost, bed->cuda.compute), "download");
    must(cudaStreamSynchronize(bed->cuda.compute), "what was queued");
}

void bed_upload(struct bed *bed, struct bed_tensor tensor)
{
    upload(bed, tensor.device, tensor.host, tensor.n * sizeof *tensor.host);
}

static struct bed_tensor tensor_of(struct bed *bed, size_t n)
{
    void *host, *device;
    take(bed, n * sizeof(float), &host, &device);
    return (struct bed_tensor){.host = host, .device = device, .n = n};
}

struct bed_tensor bed_random(struct bed *bed, size_t n, float low, float high)
{
    struct bed_tensor tensor = tensor_of(bed, n);
    for (size_t i = 0; i < n; i++)
        tensor.host[i] = low + (high - low) * (float)(draw(bed) >> 40) * 0x1p-24f;
    bed_upload(bed, tensor);
    return tensor;
}

struct bed_tensor bed_poison(struct bed *bed, size_t n)
{
    struct bed_tensor tensor = tensor_of(bed, n);
    const uint32_t poison = POISON;
    for (size_t i = 0; i < n; i++)
        memcpy(&tensor.host[i], &poison, sizeof poison);
    bed_upload(bed, tensor);
    return tensor;
}

struct bed_tensor bed_fill(struct bed *bed, size_t n, float value)
{
    struct bed_tensor tensor = tensor_of(bed, n);
    for (size_t i = 0; i < n; i++)
        tensor.host[i] = value;
    bed_upload(bed, tensor);
    return tensor;
}

void *bed_bytes(struct bed *bed, const void *from, size_t bytes, void **device)
{
    void *host;
    take(bed, bytes, &host, device);
    memcpy(host, from, bytes);
    upload(bed, *device, host, bytes);
    return host;
}

void bed_set_now(struct bed *bed, double per_sample)
{
    struct tr_now now = {.per_sample = per_sample};
    void *device = NULL;
    bed_bytes(bed, &now, sizeof now, &device);
    bed->gpu.now = device;
}

/* ---- comparing ---- */

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static bool alike(float want, float got, double relative, double absolute)
{
    if (bits_of(want) == bits_of(got))
        return true;
    if (bits_of(want) == POISON || bits_of(got) == POISON)
        return false; /* written to, or not, against what was asked */
    if (isnan(want) && isnan(got))
        return true;
    if (relative == 0 && absolute == 0)
        return false;
    return fabs((double)want - got) <= relative * fmax(fabs(want), fabs(got)) + absolute;
}

void bed_compare(struct bed *bed, const char *what, struct bed_tensor tensor, double relative,
                 double absolute)
{
    float *got = malloc(tensor.n * sizeof *got + 1);
    size_t differ = 0, first = 0;
    bed_download(bed, got, tensor.device, tensor.n * sizeof *got);
    for (size_t i = 0; i < tensor.n; i++)
        if (!alike(tensor.host[i], got[i], relative, absolute) && differ++ == 0)
            first = i;
    bed_check(bed, differ == 0,
              "%s: %zu of %zu differ, the first at %zu: %.9g (%08x), want %.9g (%08x)", what,
              differ, tensor.n, first, (double)got[first], bits_of(got[first]),
              (double)tensor.host[first], bits_of(tensor.host[first]));
    free(got);
}

/* ---- running ---- */

static bool run_test(struct bed *bed, const struct bed_test *test)
{
    bed->test = test->name;
    bed->failures = 0;
    bed->drawn = 0;
    cuda_text[0] = '\0';
    set_backends(bed);
    bed_set_now(bed, 1);
    test->run(bed);
    must(cudaStreamSynchronize(bed->cuda.compute), test->name);
    if (ops.release)
        ops.release(&bed->gpu);
    free_taken();
    if (bed->failures == 0)
        printf("ok      %s\n", test->name);
    else
        printf("FAILED  %s: %u checks; SAFFRON_TEST_SEED=%llu\n", test->name, bed->failures,
               (unsigned long long)bed->key);
    fflush(stdout);
    return bed->failures == 0;
}

/* The lines that tests/run.sh counts are those of cmocka. */
static int skip_all(const struct bed_test *test, size_t n, const char *why)
{
    for (size_t i = 0; i < n; i++)
        printf("SKIPPED %s\n", test[i].name);
    printf("[  SKIPPED ] %zu test(s).\n", n);
    printf("no GPU answers: %s\n", why);
    return SKIPPED;
}

int bed_main(const char *family, const struct bed_test *test, size_t n)
{
    static struct bed bed;
    const char *seed = getenv("SAFFRON_TEST_SEED");
    size_t failed = 0;
    int devices = 0;
    cudaError_t status = cudaGetDeviceCount(&devices);
    printf("%s\n", family);
    if (status != cudaSuccess || devices == 0)
        return skip_all(test, n, cudaGetErrorString(status));
    bed.key = seed ? strtoull(seed, NULL, 10) : 1;
    if (tr_cuda_open(0, keep_text, &bed.cuda) != 0) {
        printf("%s\n[  FAILED  ] 1 test(s).\n", cuda_text);
        return 1;
    }
    for (size_t i = 0; i < n; i++)
        failed += !run_test(&bed, &test[i]);
    tr_cuda_close(&bed.cuda);
    printf("[  PASSED  ] %zu test(s).\n", n - failed);
    if (failed > 0)
        printf("[  FAILED  ] %zu test(s).\n", failed);
    return failed > 0;
}
