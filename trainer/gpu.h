/* trainer/gpu.h -- the GPU of this process, if it is to have one and one answers.
 *
 * What it takes is in a shared object (backend/gpu.h): SAFFRON_GPU_LIBRARY, else saffron-cuda.so beside the program. `trainer.device` of the job says
 * whether it is wanted: `cpu` looks at nothing, `gpu` takes nothing else, `auto` is content with the CPU, and says why in the log.
 * A process sees one GPU, number 0 of CUDA_VISIBLE_DEVICES: who starts several on a host gives each its own (ctl/ranks.h). */
#ifndef TR_USE_GPU_H
#define TR_USE_GPU_H

#include <stdint.h>

struct rt_job;
struct tr_gpu;
struct tr_cuda;
struct tr_nccl_api;

/* All NULL: there is none, the CPU computes. */
struct tr_device_of {
    const struct tr_gpu *gpu;
    struct tr_cuda *cuda;
    const struct tr_nccl_api *nccl; /* NULL: the library was built without it */
    void *library;
};

/* RT_EUSAGE: one is demanded, and there is none, or its library is of another version. RT_EBACKEND. Touch: before the trainer is made. */
int tr_gpu_open(const struct rt_job *job, struct tr_device_of *out);
void tr_gpu_close(struct tr_device_of *device); /* after the trainer is gone */

#endif
