/* trainer/collective/nccl_api.h -- what the trainer asks of NCCL: one communicator, as the object that is loaded with the GPU has it.
 *
 * Plain C: the trainer knows neither CUDA nor NCCL. Of a communicator, one thread at a time. None of this waits for another rank, but
 * close(), which may take as long as NCCL needs to give up; make_id() and open() may take some 100 ms the first time. So those three are for a
 * helper thread, the rest for the loop's.
 * Errors: RT_EUSAGE (what a variable or another set-up mends), RT_EPEER (another rank is gone), RT_EBACKEND (all else), with NCCL's own words as the
 * text. After an error a communicator can only be closed. */
#ifndef TR_NCCL_API_H
#define TR_NCCL_API_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TR_NCCL_SYMBOL "tr_cuda_nccl" /* of this table, in the GPU's library */

struct tr_cuda;      /* the device: trainer/backend/cuda/device.h */
struct tr_nccl_link; /* a communicator, with a stream and buffers of its own */

enum { TR_NCCL_ID_BYTES = 128 };

struct tr_nccl_open {
    uint8_t id[TR_NCCL_ID_BYTES];
    uint32_t world, rank;
    size_t bucket, n_buckets; /* most elements of one sum; most sums of one operation */
};

/* poll(): what may be asked of it next. */
enum { TR_NCCL_BUSY = 0, TR_NCCL_FREE = 1 };

struct tr_nccl_api {
    uint32_t (*version)(void); /* ncclGetVersion's number: 22809 is 2.28.9 */
    int (*make_id)(struct tr_cuda *cuda, uint8_t id[TR_NCCL_ID_BYTES]);
    /* Begins to join the others that have this id; poll() tells when all have come. */
    int (*open)(struct tr_cuda *cuda, const struct tr_nccl_open *open, struct tr_nccl_link **out);
    /* TR_NCCL_FREE, TR_NCCL_BUSY: NCCL still is at what was asked last, nothing more may be asked, come again soon. Or an error, of this rank or told
     * by another. *summed: how many sums of this operation are complete, flags included. */
    int (*poll)(struct tr_nccl_link *link, uint64_t *summed);
    /* The first of an operation: counts from 0. */
    void (*begin)(struct tr_nccl_link *link);
    /* When free: queue the sum of value[n] (device memory) over the ranks, in place. dtype: what travels, RT_DTYPE_F32 or RT_DTYPE_BF16.
     * @after: an event of CUDA's to wait for; NULL: all that the compute stream has been given. */
    int (*sum)(struct tr_nccl_link *link, float *value, size_t n, uint32_t dtype, void *after);
    /* The last of an operation: whether each rank saw what is not finite. `wake` is called when all of the operation is complete, by a thread of
     * CUDA's; perhaps never, if the communicator fails or is closed. */
    int (*sum_flags)(struct tr_nccl_link *link, bool nonfinite, void (*wake)(void *arg), void *arg);
    const float *(*flags)(struct tr_nccl_link *link); /* [world] once they are summed: 0 or 1 */
    /* Gives up what is under way, and waits until the device has let go of every value. `wake` is not called any more. */
    void (*close)(struct tr_nccl_link *link);
};

#endif
