/* tests/gpu/bench/lab.c -- see the header. */
#include "tests/gpu/bench/lab.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/base/err.h"

enum { SEEDED = 1 << 22, ROUNDS_MAX = 64 };

extern const struct tr_gpu tr_gpu_table;

void lab_must(int err)
{
    if (!err)
        return;
    fprintf(stderr, "bench: %s\n", rt_err_text());
    exit(1);
}

void lab_check(cudaError_t status, const char *what)
{
    if (status == cudaSuccess)
        return;
    fprintf(stderr, "bench: %s: %s\n", what, cudaGetErrorString(status));
    exit(1);
}

int lab_fail(int err, const char *text)
{
    return RT_FAIL(err, "%s", text);
}

static void set_now(struct lab *lab)
{
    struct tr_now now = {.per_sample = 1.0 / 8192};
    void *there;
    lab_must(lab->gpu->alloc(lab->cuda, sizeof now, "now", &there));
    lab_check(cudaMemcpy(there, &now, sizeof now, cudaMemcpyHostToDevice), "now");
    lab->backend.now = there;
}

void lab_open(struct lab *lab, const char *what)
{
    char text[256] = "";
    *lab = (struct lab){.gpu = &tr_gpu_table};
    if (lab->gpu->count(text, sizeof text) == 0) {
        printf("skipped: %s: no GPU answers (%s)\n", what, text);
        exit(77);
    }
    lab_must(lab->gpu->open(&(struct tr_gpu_conf){.fail = lab_fail}, &lab->cuda));
    lab->backend = (struct tr_backend){.ops = lab->gpu->ops,
                                       .loops = lab->gpu->loops,
                                       .losses = lab->gpu->losses,
                                       .threads = 1,
                                       .cuda = lab->cuda};
    set_now(lab);
#ifdef TR_EMULATED
    lab->tiny = true;
    printf("emulated: small shapes, no figures\n");
#endif
    lab->gpu->describe(lab->cuda, text, sizeof text);
    printf("card: %s\n", text);
    lab_check(cudaEventCreate(&lab->from), "event");
    lab_check(cudaEventCreate(&lab->to), "event");
}

void lab_close(struct lab *lab)
{
    lab_check(cudaEventDestroy(lab->from), "event");
    lab_check(cudaEventDestroy(lab->to), "event");
    lab->gpu->close(lab->cuda);
}

/* ---- memory ---- */

/* Four million numbers are drawn, and what they fill is doubled until all is full. */
void *lab_memory(struct lab *lab, size_t bytes)
{
    static float drawn[SEEDED];
    uint32_t state = 1;
    void *there;
    for (size_t i = 0; i < SEEDED; i++) {
        state = state * 1664525u + 1013904223u;
        drawn[i] = (float)(int32_t)state * 0x1p-31f;
    }
    lab_check(cudaMalloc(&there, bytes), "memory of the device");
    size_t full = bytes < sizeof drawn ? bytes : sizeof drawn;
    lab_check(cudaMemcpy(there, drawn, full, cudaMemcpyHostToDevice), "fill memory");
    for (; full < bytes; full *= 2) {
        size_t more = bytes - full < full ? bytes - full : full;
        lab_check(cudaMemcpyAsync((char *)there + full, there, more, cudaMemcpyDeviceToDevice,
                                  lab->cuda->compute),
                  "fill memory");
    }
    lab_check(cudaStreamSynchronize(lab->cuda->compute), "fill memory");
    return there;
}

/* ---- times ---- */

double lab_wall_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double lab_quantile(double *value, uint32_t n, double q)
{
    qsort(value, n, sizeof *value, ascending);
    return value[(uint32_t)(q * (n - 1) + 0.5)];
}

double lab_time(struct lab *lab, int (*queue)(void *arg), void *arg, uint32_t rounds)
{
    struct tr_gpu_recording *recording = NULL;
    double us[ROUNDS_MAX];
    rounds = lab->tiny ? 1 : rounds > ROUNDS_MAX ? ROUNDS_MAX : rounds;
    lab_must(queue(arg)); /* what is allocated, is now */
    lab_check(cudaStreamSynchronize(lab->cuda->compute), "warm up");
    lab_must(lab->gpu->record(lab->cuda));
    lab_must(queue(arg));
    lab_must(lab->gpu->recorded(lab->cuda, &recording));
    lab_must(lab->gpu->play(lab->cuda, recording));
    for (uint32_t r = 0; r < rounds; r++) {
        float ms;
        lab_check(cudaEventRecord(lab->from, lab->cuda->compute), "event");
        lab_must(lab->gpu->play(lab->cuda, recording));
        lab_check(cudaEventRecord(lab->to, lab->cuda->compute), "event");
        lab_check(cudaEventSynchronize(lab->to), "run");
        lab_check(cudaEventElapsedTime(&ms, lab->from, lab->to), "time");
        us[r] = (double)ms * 1e3;
    }
    lab->gpu->recording_destroy(recording);
    return lab_quantile(us, rounds, 0.5);
}

/* ---- copies ---- */

struct copying {
    struct lab *lab;
    void *to, *from;
    size_t bytes;
};

static int by_memcpy(void *arg)
{
    struct copying *c = arg;
    return tr_cuda_check(
        c->lab->cuda,
        cudaMemcpyAsync(c->to, c->from, c->bytes, cudaMemcpyDeviceToDevice, c->lab->cuda->compute),
        "copy");
}

static int by_kernel(void *arg)
{
    struct copying *c = arg;
    return bench_copy(&c->lab->backend, c->to, c->from, c->bytes);
}

struct lab_copies lab_copies(struct lab *lab)
{
    size_t bytes = lab->tiny ? 1 << 16 : 1 << 30;
    struct copying c = {lab, lab_memory(lab, bytes), lab_memory(lab, bytes), bytes};
    struct lab_copies rate;
    rate.memcpy = 2e6 * (double)bytes / lab_time(lab, by_memcpy, &c, 20);
    rate.kernel = 2e6 * (double)bytes / lab_time(lab, by_kernel, &c, 20);
    rate.best = rate.memcpy > rate.kernel ? rate.memcpy : rate.kernel;
    lab_check(cudaFree(c.to), "free");
    lab_check(cudaFree(c.from), "free");
    return rate;
}

static double bus_rate(struct lab *lab, void *host, void *device, size_t bytes, bool up)
{
    double us[5];
    for (uint32_t r = 0; r < 5; r++) {
        double begin = lab_wall_us();
        lab_check(cudaMemcpyAsync(up ? device : host, up ? host : device, bytes,
                                  up ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToHost,
                                  lab->cuda->up),
                  "copy");
        lab_check(cudaStreamSynchronize(lab->cuda->up), "copy");
        us[r] = lab_wall_us() - begin;
    }
    return 1e6 * (double)bytes / lab_quantile(us, 5, 0.5);
}

void lab_bus(struct lab *lab, double *up, double *down)
{
    size_t bytes = lab->tiny ? 1 << 16 : 256 << 20;
    void *host, *device = lab_memory(lab, bytes);
    lab_must(lab->gpu->host_alloc(lab->cuda, bytes, "a copy", &host));
    *up = bus_rate(lab, host, device, bytes, true);
    *down = bus_rate(lab, host, device, bytes, false);
    lab->gpu->host_free(lab->cuda, host);
    lab_check(cudaFree(device), "free");
}
