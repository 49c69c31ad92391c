# tests/gpu/bare.mk -- `make -f tests/gpu/bare.mk -j`: the GPU's tests and benchmarks on a machine that has nvcc and gcc, and no more.
#
# B=DIR         where it all goes (build/gpu)
# EMULATED=1    with g++ and tests/gpu/emulated/ instead of nvcc and a GPU: to see that the programs work; no figures
# ARCH=...      what nvcc compiles for (native: the card that is there; Hopper where none is)
# What tests NCCL is left out where there is none (scripts/cuda.sh looks for it).
B         ?= build/gpu$(if $(EMULATED),-emulated)
CUDA_HOME ?= $(firstword $(patsubst %/bin/nvcc,%,$(shell command -v nvcc 2>/dev/null)) /usr/local/cuda)
NVCC      ?= $(CUDA_HOME)/bin/nvcc
ARCH      ?= $(if $(shell nvidia-smi -L 2>/dev/null),native,sm_90)
NCCL      := $(if $(EMULATED),tests/gpu/emulated,$(shell CUDA_HOME=$(CUDA_HOME) scripts/cuda.sh nccl auto))
CC        := $(if $(filter default,$(origin CC)),gcc,$(CC))
CXX       := $(if $(filter default,$(origin CXX)),g++,$(CXX))
include tests/gpu/sources.mk

TESTS   := $(patsubst tests/gpu/%.c,$(B)/%,$(filter-out $(if $(NCCL),,%/test_nccl.c),$(wildcard tests/gpu/test_*.c)))
LIBRARY := $(B)/saffron-cuda.so
BENCHES := $(B)/bench_kernels $(B)/bench_model
BED_C   := $(filter-out tests/gpu/test_%,$(wildcard tests/gpu/*.c))
LAB_C   := $(addprefix tests/gpu/bench/,lab.c copy.cu)
FLAGS   := -I. -D_GNU_SOURCE -O2 -g -fPIC -Wall -Wextra -Werror
# No fused multiply-add but where it is written: the bits are those of the CPU's plain C.
NVFLAGS := -I. -std=c++17 -O3 -lineinfo -fmad=false -arch=$(ARCH) -Werror all-warnings -Xcompiler -Wall,-Wextra,-fPIC
C_FLAGS := -std=c11 -ffp-contract=off -fno-math-errno -fno-strict-aliasing -march=x86-64-v2 -pthread
isa      = $(if $(findstring _avx512.c,$(1)),-march=x86-64-v4 -mprefer-vector-width=512,$(if $(findstring _avx2.c,$(1)),-march=x86-64-v3))
ifdef EMULATED
FLAGS   += -Itests/gpu/emulated/include
DEVICE  := $(filter-out %/test_emulator.cpp,$(wildcard tests/gpu/emulated/*.cpp tests/gpu/emulated/*.c))
LINK    := $(CXX) -pthread
LIBS    := -lm
else
FLAGS   += -isystem $(CUDA_HOME)/include $(if $(NCCL),-isystem $(NCCL)/include)
LINK    := $(NVCC) -arch=$(ARCH) -Xcompiler -pthread
LIBS    := -lcublasLt -lcublas -lm
endif
objects  = $(patsubst %,$(B)/%.o,$(1))
COMMON  := $(call objects,$(BARE_C) $(BARE_CUDA) $(DEVICE))

.PHONY: all tests benches
.SECONDARY:
all: tests benches
tests: $(TESTS) $(B)/test_device
benches: $(BENCHES)

$(B)/%.c.o: %.c
	@mkdir -p $(@D) && $(CC) $(FLAGS) $(C_FLAGS) $(call isa,$<) -MMD -MP -c $< -o $@
$(B)/%.cpp.o: %.cpp
	@mkdir -p $(@D) && $(CXX) $(FLAGS) -std=c++17 -MMD -MP -c $< -o $@
ifdef EMULATED
$(B)/%.cu.o: %.cu
	@mkdir -p $(@D) && $(CXX) $(FLAGS) -std=c++17 -ffp-contract=off -MMD -MP -x c++ -c $< -o $@
else
$(B)/%.cu.o: %.cu
	@mkdir -p $(@D) && $(NVCC) $(NVFLAGS) -MMD -MP -c $< -o $@
endif

$(B)/test_nccl: $(call objects,$(BARE_NCCL))
$(if $(EMULATED),,$(B)/test_nccl: LIBS += -L$(NCCL)/lib -lnccl -Xlinker -rpath=$(NCCL)/lib)
$(B)/test_%: $(B)/tests/gpu/test_%.c.o $(call objects,$(BED_C)) $(COMMON)
	@$(LINK) $^ $(LIBS) -o $@
# Whole models: the program that has cmocka elsewhere, and the library that a trainer loads (here without NCCL).
$(LIBRARY): $(call objects,$(BARE_CUDA) $(DEVICE))
	@$(LINK) -shared $^ $(LIBS) -o $@
WHOLE := $(call objects,tests/unit/test_device.c tests/unit/spec_text.c tests/lib/emulated_gpu.c trainer/gpu.c)
$(filter $(B)/tests/unit/% $(B)/tests/lib/%,$(WHOLE)): FLAGS += -Itests/gpu/bare
$(B)/test_device: $(WHOLE) $(call objects,$(BARE_C)) | $(LIBRARY)
	@$(CC) -pthread $^ -ldl -lm -o $@

$(B)/bench_model: $(call objects,tests/gpu/bench/products.c)
$(B)/bench_%: $(B)/tests/gpu/bench/%.c.o $(call objects,$(LAB_C)) $(COMMON)
	@$(LINK) $^ $(LIBS) -o $@

-include $(shell find $(B) -name '*.d' 2>/dev/null)
