/* tests/lib/emulated_gpu.h -- the emulated GPU (tests/gpu/emulated/) as a trainer opens it, from the library that lies with the tests; with
 * SAFFRON_GPU_LIBRARY it is another one, for example a GPU's. */
#ifndef EMULATED_GPU_H
#define EMULATED_GPU_H

#include "trainer/gpu.h"

/* One of 16. Fails the test where it cannot be opened. tr_gpu_close(). */
void emulated_gpu_open(uint32_t number, struct tr_device_of *out);

#endif
