/* tests/gpu/bench/lab.h -- what benchmarks of the GPU have in common: the device, times, and the ceilings that they are told beside.
 *
 * What is timed is recorded as a graph and played: so the times are the device's, as those of a step are. Ceilings are measured in the same run.
 * An emulated device (tests/gpu/emulated) gives no figures: its run is of small shapes, shows that the program works, and says so.
 * Output: Markdown tables, and lines `figure NAME VALUE` for run_all.sh. Exit status 77: no GPU answers. */
#ifndef GPU_LAB_H
#define GPU_LAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "trainer/backend/cuda/device.h"
#include "trainer/backend/gpu.h"

struct lab {
    const struct tr_gpu *gpu;
    struct tr_cuda *cuda;
    struct tr_backend backend; /* its tables are the device's; of 1 / 8,192 global samples */
    bool tiny;                 /* emulated */
    cudaEvent_t from, to;
};

/* Bytes a second (read and written) of copies within the device. */
struct lab_copies {
    double memcpy, kernel, best;
};

void lab_open(
    struct lab *lab,
    const char *what); /* prints what it is; ends the process with 77 where there is none */
void lab_close(struct lab *lab);
void lab_must(int err);
int lab_fail(int err, const char *text); /* struct tr_gpu_conf fail */
void lab_check(cudaError_t status, const char *what);

/* Memory of the device with finite numbers in it, in -1..1. */
void *lab_memory(struct lab *lab, size_t bytes);

/* Microseconds of what `queue` queues, once: the median of `rounds`, after one that warms up. */
double lab_time(struct lab *lab, int (*queue)(void *arg), void *arg, uint32_t rounds);
double lab_quantile(double *value, uint32_t n, double q); /* sorts */
double lab_wall_us(void);

struct lab_copies lab_copies(struct lab *lab);
void lab_bus(struct lab *lab, double *up,
             double *down); /* bytes a second between host and device, pinned */
/* FLOP a second of the best large product through cuBLASLt: bfloat16, TF32 or float32 (enum). */
enum lab_product { LAB_BF16, LAB_TF32, LAB_F32, LAB_PRODUCTS };
double lab_products(struct lab *lab, enum lab_product kind);
extern const char *const lab_product_name[LAB_PRODUCTS];

/* copy.cu */
int bench_copy(struct tr_backend *backend, void *to, const void *from, size_t bytes);

#endif
