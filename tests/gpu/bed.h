/* tests/gpu/bed.h -- what tests of kernels run on: a GPU, or its emulation, beside the CPU's plain C.
 *
 *     static void test_relu(struct bed *bed)
 *     {
 *         struct bed_tensor x = bed_random(bed, 37 * 20, -3, 3), y = bed_poison(bed, 37 * 20);
 *         struct tr_act op = {.samples = 37, .columns = 18, .kind = TR_ACT_RELU, .x_stride = 20, .y_stride = 20};
 *         op.x = x.host, op.y = y.host;
 *         bed_ok(bed, bed->truth.loops->act_forward(&bed->truth, &op));
 *         op.x = x.device, op.y = y.device;
 *         bed_ok(bed, bed->gpu.loops->act_forward(&bed->gpu, &op));
 *         bed_compare(bed, "y", y, 0, 0);
 *     }
 *     int main(void) { static const struct bed_test tests[] = {{"relu", test_relu}}; return bed_main("act", tests, 1); }
 *
 * The truth is trainer/backend/cpu's reference, tr_loops_plain and tr_losses, over `host`. Outputs are poisoned before, gaps between rows too: what an
 * operation must not write has to be as it was, bit for bit. C library and CUDA alone, so that it builds on a bare GPU machine.
 * Random numbers: of the seed in SAFFRON_TEST_SEED, else 1; it is printed when a test fails. */
#ifndef TESTS_GPU_BED_H
#define TESTS_GPU_BED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "trainer/backend/cuda/device.h"

struct bed {
    struct tr_cuda cuda;
    struct tr_backend gpu, truth; /* gpu.now is memory of the device: see bed_set_now */
    const char *test;             /* that runs */
    uint64_t key, drawn;
    unsigned failures;
};

/* n floats at both places: the same ones, at first. Freed after the test. */
struct bed_tensor {
    float *host, *device;
    size_t n;
};

struct bed_test {
    const char *name;
    void (*run)(struct bed *bed);
};

/* Exit status: 0, 1 (a test failed), 77 (no GPU answers: each test is told as skipped, by name). */
int bed_main(const char *family, const struct bed_test *test, size_t n);

struct bed_tensor bed_random(struct bed *bed, size_t n, float low, float high);
struct bed_tensor bed_poison(struct bed *bed, size_t n); /* NaNs of one bit pattern */
struct bed_tensor bed_fill(struct bed *bed, size_t n, float value);
/* Bytes at both places; host is aligned to 64. For indices, masks, 16-bit values. */
void *bed_bytes(struct bed *bed, const void *from, size_t bytes, void **device);
void bed_upload(struct bed *bed, struct bed_tensor tensor); /* after its host side was written */
uint32_t bed_below(struct bed *bed, uint32_t n);            /* random, in 0..n-1; n >= 1 */
void bed_set_now(struct bed *bed, double per_sample);
void bed_download(struct bed *bed, void *to, const void *device,
                  size_t bytes); /* after all that was queued */

/* The device's values beside the host's: |a - b| <= relative * max(|a|, |b|) + absolute, or both NaN; 0, 0: the same bits. */
void bed_compare(struct bed *bed, const char *what, struct bed_tensor tensor, double relative,
                 double absolute);
void bed_ok(struct bed *bed, int err);
void bed_check(struct bed *bed, bool holds, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
