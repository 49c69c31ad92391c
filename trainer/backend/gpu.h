/* trainer/backend/gpu.h -- what a GPU is to the trainer: one table of functions, in a shared object that is loaded when one answers.
 *
 * So no program but a trainer that has a GPU carries the vendor's libraries, and nothing here needs their headers. The object is
 * saffron-cuda.so, beside the program (trainer/backend/cuda/); its tables of operations are backend.h's.
 *
 * Queues: what is asked for runs later, in the order of its queue. `compute` has the operations; `up` and `down` copy to and from the device, beside it.
 * A mark is a point in a queue that another queue, or the caller, waits for: nothing ever waits for the whole device.
 * A recording takes down what is queued on `compute` instead of running it, to be played as often as wanted with one call; nothing may be allocated
 * meanwhile. Memory of the host that is copied to or from should be pinned (host_alloc): from other memory a copy may wait.
 * Errors: 0, or RT_EBACKEND, RT_ENOMEM with a text. Touch: the step thread, or another one while no step runs. */
#ifndef TR_GPU_H
#define TR_GPU_H

#include "trainer/backend/cuda/step.h"

#define TR_GPU_VERSION 1u /* of this table: another one is refused */
#define TR_GPU_SYMBOL  "tr_gpu_table"

enum tr_gpu_queue { TR_GPU_COMPUTE, TR_GPU_UP, TR_GPU_DOWN };

struct tr_gpu_conf {
    uint32_t device;                        /* number among the visible ones */
    bool pinned;                            /* the same kernels in every process: mode exact */
    bool tf32;                              /* float32 products in the shorter TF32 */
    int (*fail)(int err, const char *text); /* rt_fail's: an error's text belongs to the program */
};

struct tr_gpu_recording;
struct tr_gpu_mark;

struct tr_gpu {
    uint32_t version; /* TR_GPU_VERSION; first, for ever */
    /* How many GPUs answer; 0: `why` says why none does. */
    uint32_t (*count)(char *why, size_t size);
    int (*open)(const struct tr_gpu_conf *conf, struct tr_cuda **out);
    void (*close)(struct tr_cuda *cuda); /* NULL is legal */
    /* "NVIDIA H200, 139.8 GiB, sm_90, driver 13.0, cuBLASLt 13.1" */
    void (*describe)(struct tr_cuda *cuda, char *text, size_t size);

    const struct tr_backend_ops *ops;
    const struct tr_backend_loops *loops;
    const struct tr_backend_losses *losses;

    /* Zeroed memory of the device until close; pinned memory of the host. */
    int (*alloc)(struct tr_cuda *cuda, size_t bytes, const char *what, void **out);
    int (*host_alloc)(struct tr_cuda *cuda, size_t bytes, const char *what, void **out);
    void (*host_free)(struct tr_cuda *cuda, void *memory);
    uint64_t (*allocations)(const struct tr_cuda *cuda);

    int (*upload)(struct tr_cuda *cuda, enum tr_gpu_queue queue, void *device, const void *host,
                  size_t bytes);
    int (*download)(struct tr_cuda *cuda, enum tr_gpu_queue queue, void *host, const void *device,
                    size_t bytes);
    int (*clear)(struct tr_cuda *cuda, enum tr_gpu_queue queue, void *device, size_t bytes);

    int (*mark_create)(struct tr_cuda *cuda, struct tr_gpu_mark **out);
    void (*mark_destroy)(struct tr_gpu_mark *mark); /* NULL is legal */
    int (*mark)(struct tr_cuda *cuda, enum tr_gpu_queue queue, struct tr_gpu_mark *mark);
    int (*await)(struct tr_cuda *cuda, enum tr_gpu_queue queue, struct tr_gpu_mark *mark);
    int (*wait)(struct tr_cuda *cuda, struct tr_gpu_mark *mark); /* the caller does */

    int (*record)(struct tr_cuda *cuda);
    /* NULL: what was recorded is not wanted, an operation failed. */
    int (*recorded)(struct tr_cuda *cuda, struct tr_gpu_recording **out);
    int (*play)(struct tr_cuda *cuda, struct tr_gpu_recording *recording);
    void (*recording_destroy)(struct tr_gpu_recording *recording); /* NULL is legal */

    /* cuda/step.h */
    int (*spans_init)(struct tr_cuda *cuda, const struct tr_span *span, size_t n_spans,
                      struct tr_cuda_spans *out);
    int (*optimizer_create)(struct tr_cuda *cuda, const struct tr_optimizer_conf *conf, size_t n,
                            const struct tr_span *span, size_t n_spans,
                            struct tr_cuda_optimizer **out);
    void (*optimizer_destroy)(struct tr_cuda_optimizer *optimizer);
    int (*optimizer_queue)(struct tr_cuda_optimizer *optimizer, struct tr_backend *backend,
                           const struct tr_optimizer_rates *rates, const float *grads,
                           float *params, const uint32_t *finite);
    float *(*optimizer_slot)(struct tr_cuda_optimizer *optimizer, size_t slot);
    const struct tr_cuda_stepped *(*optimizer_stepped)(const struct tr_cuda_optimizer *optimizer);
    int (*gradients_init)(struct tr_cuda *cuda, const struct tr_cuda_gradient *of,
                          struct tr_cuda_gradients *gradients);
    int (*finite)(struct tr_backend *backend, const struct tr_cuda_gradients *gradients,
                  uint32_t samples, const struct tr_cuda_spans *spans, const float *grads,
                  const double *loss_sum, uint32_t n_losses);
    int (*widen)(struct tr_backend *backend, uint32_t dtype, const struct tr_cuda_feature *of,
                 uint32_t n, uint32_t samples, uint32_t width_max);
    int (*narrow)(struct tr_backend *backend, const struct tr_cuda_gradients *gradients,
                  uint32_t samples);
    int (*sequence_expand)(struct tr_backend *backend, const struct tr_cuda_sequence *op);
    int (*sequence_sums)(struct tr_backend *backend, const struct tr_cuda_sums *op);
    void (*places)(const struct tr_sequence_view *view, uint32_t samples, uint32_t longest,
                   uint32_t *begin, uint32_t *row_begin, uint32_t *place);
    int (*scores)(struct tr_backend *backend, const struct tr_cuda_scoring *op);
};

#endif
