# tests/gpu/sources.mk -- the files that a GPU's tests and benchmarks are made of, where nothing is but a C compiler, nvcc, and CUDA's
# libraries. bare.mk builds them; a program of few of them may take what it needs.
#
#   BARE_C      the model, the plain C reference, the optimizer, and what they need of runtime/base: they compile and link with the C library
#               alone. Left out: model/parse.c (YAML), backend/cpu/onednn.c with rounded.c and matmul.c (oneDNN), runtime/base/trace.c and hash.c
#               (xxhash): tests/gpu/bench/bare.c has what is asked of those.
#   BARE_CUDA   the GPU backend; NCCL's files apart, which need NCCL
BARE_BASE := $(patsubst %,runtime/base/%.c,assert clock cpu err half half_plain half_avx2 half_avx512 log mem rand role strbuf)
BARE_CPU  := $(patsubst %,trainer/backend/cpu/%.c,backend reference reference_losses loops loops_avx2 loops_avx512 \
             kernels kernels_avx2 kernels_avx512)
BARE_C    := $(BARE_BASE) $(BARE_CPU) $(wildcard trainer/optimizer.c trainer/optimizer_rates.c trainer/optimizer_device.c) \
             $(filter-out %/parse.c,$(wildcard trainer/model/*.c)) tests/gpu/bench/bare.c
BARE_NCCL := $(wildcard trainer/backend/cuda/*nccl*.c trainer/backend/cuda/reduce_casts.cu)
BARE_CUDA := $(filter-out $(BARE_NCCL),$(wildcard trainer/backend/cuda/*.c trainer/backend/cuda/*.cu))
