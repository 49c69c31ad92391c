# Saffron: build, test, check. The knobs first; `make help` lists the targets.
CUDA     ?= auto
JEMALLOC ?= $(if $(SAN),0,1)
SAN      ?=
WERROR   ?= 1
V        ?= 0
OPT      ?= -O2
CC       ?= gcc
CXX      ?= g++
B        ?= build$(if $(SAN),/$(SAN),/release)
# CUDA=auto|0|1        the GPU backend: built when nvcc and NCCL are found (scripts/cuda.sh: CUDA_HOME, NCCL_HOME), never needed
# GPU_ARCH="-gencode.."  what nvcc compiles for, instead of all lines of cards from sm_75 up
# JEMALLOC=1|0         the allocator; sanitizers and valgrind want 0
# SAN=address|thread   sanitizers (address brings undefined and leak checks; fuzz: what `make fuzz` builds with)
# WERROR=1|0 V=0|1     warnings are errors; show whole command lines
# B=DIR                where objects, libraries and programs go

Q := $(if $(filter 1,$(V)),,@)

# ---- what the compiler is told -------------------------------------------------------------------
PACKAGES := libuv libnats libprotobuf-c yaml-0.1 libmicrohttpd jansson libxxhash zlib libzstd liblz4 libcurl
CPPFLAGS += -I. -I$(B)/gen -D_GNU_SOURCE $(shell pkg-config --cflags $(PACKAGES) 2>/dev/null)
WARN     := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wformat=2 \
            -Wundef -Wpointer-arith $(if $(filter 1,$(WERROR)),-Werror)
HARDEN   := -fstack-protector-strong -fno-strict-aliasing -fPIE
CFLAGS   += -std=c11 $(OPT) -g $(WARN) $(HARDEN) -pthread -march=x86-64-v2 -ffp-contract=off -fno-math-errno
LDFLAGS  += -pie -pthread -Wl,-z,relro,-z,now -Wl,--as-needed
LDLIBS   += $(shell pkg-config --libs $(PACKAGES) 2>/dev/null) -lm
ifeq ($(SAN),address)
CFLAGS   += -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -DRT_DEBUG
LDFLAGS  += -fsanitize=address,undefined
else ifeq ($(SAN),thread)
CFLAGS   += -fsanitize=thread -fno-omit-frame-pointer -DRT_DEBUG
LDFLAGS  += -fsanitize=thread
else ifeq ($(SAN),fuzz)
CFLAGS   += -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -DRT_DEBUG
LDFLAGS  += -fsanitize=fuzzer,address,undefined
else
CPPFLAGS += -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2
endif
ifeq ($(JEMALLOC),1)
CPPFLAGS += -DRT_JEMALLOC
LDLIBS   += -ljemalloc
endif
# One file per instruction set: x_avx2.c and x_avx512.c are chosen at run time (runtime/base/cpu.h).
ISA_avx2   := -march=x86-64-v3
ISA_avx512 := -march=x86-64-v4 -mprefer-vector-width=512
isa_flags   = $(if $(findstring _avx512.c,$(1)),$(ISA_avx512),$(if $(findstring _avx2.c,$(1)),$(ISA_avx2)))

# ---- what is built -------------------------------------------------------------------------------
ROLES    := data_compose middleware embedding_server trainer
program   = saffron-$(subst _,-,$(1))
PROGRAMS := $(foreach r,$(ROLES),$(B)/$(call program,$(r))) $(B)/saffron

PROTO    := $(wildcard proto/*.proto)
GEN_C    := $(PROTO:proto/%.proto=$(B)/gen/proto/%.pb-c.c)
sources   = $(sort $(filter-out %/main.c trainer/backend/cuda/%,$(foreach d,$(1),$(wildcard $(d)/*.c $(d)/*/*.c $(d)/*/*/*.c))))
objects   = $(patsubst %.c,$(B)/%.o,$(1))

RUNTIME_O := $(call objects,$(call sources,runtime)) $(GEN_C:.c=.o)
LIBS      := $(B)/libruntime.a $(ROLES:%=$(B)/lib%.a) $(B)/libctl.a
UNIT_C    := $(wildcard tests/unit/test_*.c tests/fault/test_*.c tests/sim/test_*.c)
UNIT      := $(UNIT_C:%.c=$(B)/%)
E2E_PROGRAMS := $(patsubst %.c,$(B)/%,$(wildcard tests/e2e/*.c)) # what scripts there run
# The GPU backend, compiled for a CPU (tests/gpu/emulated/): the tests of tests/gpu, where no GPU is.
CUDA_SOURCES := $(sort $(wildcard trainer/backend/cuda/*.c trainer/backend/cuda/*.cu))
GPU_TRUTH    := $(wildcard trainer/backend/cpu/reference*.c trainer/backend/cpu/kernels*.c runtime/base/half*.c) \
                trainer/backend/cpu/loops.c trainer/optimizer.c trainer/optimizer_rates.c trainer/optimizer_device.c \
                $(addprefix runtime/base/,assert.c cpu.c err.c log.c mem.c strbuf.c)
GPU_TESTS_C  := $(wildcard tests/gpu/test_*.c)
GPU_TEST_LIB := $(filter-out $(GPU_TESTS_C),$(wildcard tests/gpu/*.c))
EMULATED     := $(GPU_TESTS_C:tests/gpu/%.c=$(B)/tests/gpu/emulated/%) $(B)/tests/gpu/emulated/test_emulator
CUDA_ROOT    := $(shell scripts/cuda.sh home "$(CUDA)")
CUDA_SO      := $(if $(CUDA_ROOT),$(B)/saffron-cuda.so)
GPU_TESTS    := $(if $(CUDA_ROOT),$(GPU_TESTS_C:%.c=$(B)/%))
PRELOADS  := $(patsubst %.c,$(B)/%.so,$(wildcard tests/preload/*.c)) # for LD_PRELOAD there
# The embedding server's benchmark: one program of many parts, and the peers that are installed here.
EBS_BENCH   := $(B)/tests/bench/embedding_server
EBS_BENCH_O := $(call objects,$(filter-out %/peer_rocksdb.c,$(wildcard tests/bench/embedding_server/*.c)))
EBS_BENCHES := $(EBS_BENCH)/bench \
               $(if $(shell command -v g++),$(EBS_BENCH)/peer_map) \
               $(if $(wildcard /usr/include/rocksdb/c.h),$(EBS_BENCH)/peer_rocksdb)
FUZZ_O    := $(call objects,$(filter-out %/entry.c,$(wildcard tests/fuzz/*.c)))
TESTLIB_O := $(call objects,$(filter-out $(UNIT_C),$(wildcard tests/unit/*.c tests/sim/*.c tests/lib/*.c))) $(FUZZ_O)

.PHONY: all test test-gpu check docs deps deps-test proto clean help unit points programs announce fuzz bench storm faults kill-loop exact-kills failpoints \
        partitions sim quality soak
.SECONDARY:
all: announce programs

announce:
	@scripts/cuda.sh announce "$(CUDA)"

programs: $(PROGRAMS) $(CUDA_SO)
	@$(if $(CUDA_SO),,rm -f $(B)/saffron-cuda.so) # of a build before: a trainer would load it
unit: $(UNIT) $(EMULATED) $(B)/saffron-emulated.so $(GPU_TESTS) $(E2E_PROGRAMS) $(PRELOADS) $(EBS_BENCHES) points

$(B)/gen/proto/%.pb-c.c $(B)/gen/proto/%.pb-c.h &: proto/%.proto
	$(Q)mkdir -p $(B)/gen && echo "  PROTO $<" && protoc-c --c_out=$(B)/gen $<
$(B)/gen/%.o: $(B)/gen/%.c
	$(Q)$(CC) $(CPPFLAGS) $(filter-out -W%,$(CFLAGS)) -c $< -o $@
$(B)/%.o: %.c | $(GEN_C)
	$(Q)mkdir -p $(@D) && echo "  CC    $<" && \
	$(CC) $(CPPFLAGS) $(CFLAGS) $(call isa_flags,$<) -MMD -MP -c $< -o $@

$(B)/libruntime.a: $(RUNTIME_O)
define role_lib
$(B)/lib$(1).a: $(call objects,$(call sources,$(1)))
endef
$(foreach r,$(ROLES) ctl,$(eval $(call role_lib,$(r))))
$(B)/lib%.a:
	$(Q)mkdir -p $(@D) && rm -f $@ && echo "  AR    $@" && ar rcs $@ $^

# oneDNN only where tensors are: the trainer and the tests that link it.
define role_program
$(B)/$(call program,$(1)): $(B)/$(1)/main.o $(B)/lib$(1).a $(B)/libruntime.a
	$(Q)echo "  LD    $$@" && $(CC) $(LDFLAGS) $$^ $(LDLIBS) $(if $(filter trainer,$(1)),-ldnnl -lgomp) -o $$@
endef
$(foreach r,$(ROLES),$(eval $(call role_program,$(r))))
$(B)/saffron: $(B)/ctl/main.o $(B)/libctl.a $(B)/libruntime.a
	$(Q)echo "  LD    $@" && $(CC) $(LDFLAGS) $^ $(LDLIBS) -o $@

$(B)/tests/%: $(B)/tests/%.o $(TESTLIB_O) $(LIBS)
	$(Q)echo "  LD    $@" && $(CC) $(LDFLAGS) $< $(TESTLIB_O) -Wl,--start-group $(LIBS) \
	-Wl,--end-group $(LDLIBS) -ldnnl -lgomp -lcmocka -o $@

# The emulated ones: objects of their own, with the emulated headers.
E := $(B)/emulated
EMULATED_FLAGS := -Itests/gpu/emulated/include
EMULATED_CXX   := -std=c++17 -Wall -Wextra $(if $(filter 1,$(WERROR)),-Werror) $(filter-out -std=% -W%,$(CFLAGS)) -fPIC
EMULATOR_O     := $(patsubst %.cpp,$(E)/%.o,$(filter-out %/test_emulator.cpp,$(wildcard tests/gpu/emulated/*.cpp))) \
                  $(patsubst %.c,$(E)/%.o,$(wildcard tests/gpu/emulated/*.c))
EMULATED_O     := $(patsubst %,$(E)/%.o,$(basename $(CUDA_SOURCES) $(GPU_TEST_LIB) $(GPU_TRUTH))) $(EMULATOR_O)
$(E)/%.o: %.c
	$(Q)mkdir -p $(@D) && echo "  CC    $< (emulated)" && $(CC) $(EMULATED_FLAGS) $(filter-out -DRT_JEMALLOC,$(CPPFLAGS)) $(CFLAGS) -fPIC $(call isa_flags,$<) -MMD -MP -c $< -o $@
$(E)/%.o: %.cu
	$(Q)mkdir -p $(@D) && echo "  CXX   $< (emulated)" && $(CXX) $(EMULATED_FLAGS) $(CPPFLAGS) $(EMULATED_CXX) -MMD -MP -x c++ -c $< -o $@
$(E)/%.o: %.cpp
	$(Q)mkdir -p $(@D) && echo "  CXX   $<" && $(CXX) $(EMULATED_FLAGS) $(CPPFLAGS) $(EMULATED_CXX) -MMD -MP -c $< -o $@
$(B)/tests/gpu/emulated/test_emulator: $(E)/tests/gpu/emulated/test_emulator.o $(EMULATOR_O) $(E)/trainer/backend/cuda/device.o
	$(Q)mkdir -p $(@D) && echo "  LD    $@" && $(CXX) $(LDFLAGS) $^ -lm -o $@
$(B)/tests/gpu/emulated/test_%: $(E)/tests/gpu/test_%.o $(EMULATED_O)
	$(Q)mkdir -p $(@D) && echo "  LD    $@" && $(CXX) $(LDFLAGS) $^ -lm -o $@

# The GPU's: position independent, no sanitizer. No fused multiply-add but where it is written: the bits are those of the CPU's plain C.
ifneq ($(CUDA_ROOT),)
G        := $(B)/cuda
NVCC     := $(CUDA_ROOT)/bin/nvcc
GPU_ARCH ?= $(shell scripts/cuda.sh arch "$(CUDA)")
GPU_INC  := -isystem $(CUDA_ROOT)/include -isystem $(shell scripts/cuda.sh nccl "$(CUDA)")/include
NVFLAGS  := -std=c++17 -O3 -lineinfo -fmad=false $(if $(filter 1,$(WERROR)),-Werror all-warnings) \
            -Xcompiler -Wall,-Wextra,-fPIC -ccbin $(lastword $(CXX))
GPU_CFLAGS := $(filter-out -fPIE -fsanitize% -fno-sanitize%,$(CFLAGS)) -fPIC
GPU_LINK := -ccbin $(lastword $(CXX)) -L$(CUDA_ROOT)/lib64 -L$(shell scripts/cuda.sh nccl "$(CUDA)")/lib -lcublasLt -lnccl -lm -lpthread
CUDA_O   := $(patsubst %,$(G)/%.o,$(basename $(CUDA_SOURCES)))
GPU_TEST_O := $(CUDA_O) $(patsubst %.c,$(G)/%.o,$(GPU_TEST_LIB) $(GPU_TRUTH))
$(G)/%.o: %.c
	$(Q)mkdir -p $(@D) && echo "  CC    $< (CUDA)" && \
	$(CC) $(filter-out -DRT_JEMALLOC,$(CPPFLAGS)) $(GPU_INC) $(GPU_CFLAGS) $(call isa_flags,$<) -MMD -MP -c $< -o $@
$(G)/%.o: %.cu
	$(Q)mkdir -p $(@D) && echo "  NVCC  $<" && $(NVCC) -I. $(NVFLAGS) $(GPU_ARCH) -MMD -MP -c $< -o $@
$(B)/saffron-cuda.so: $(CUDA_O)
	$(Q)echo "  LD    $@" && $(NVCC) -shared $^ $(GPU_LINK) -o $@
$(B)/tests/gpu/test_%: $(G)/tests/gpu/test_%.o $(GPU_TEST_O)
	$(Q)mkdir -p $(@D) && echo "  LD    $@" && $(NVCC) $^ $(GPU_LINK) -o $@
endif

# The same as a trainer loads it (trainer/gpu.h): whole models, and jobs, on a device that is none.
$(B)/saffron-emulated.so: $(filter $(E)/trainer/backend/cuda/%,$(EMULATED_O)) $(EMULATOR_O)
	$(Q)mkdir -p $(@D) && echo "  LD    $@" && $(CXX) $(filter-out -pie,$(LDFLAGS)) -shared $^ -lm -o $@

$(B)/tests/preload/%.so: tests/preload/%.c
	$(Q)mkdir -p $(@D) && echo "  CC    $<" && $(CC) -D_GNU_SOURCE -std=c11 -O2 -g $(WARN) -shared -fPIC $< -o $@

# The dense network in float64, for one test: trainer/backend/real.h.
REAL_O := $(patsubst %.c,$(B)/double/%.o,tests/unit/test_gradients.c $(filter-out %/parse.c,$(wildcard trainer/model/*.c)) \
          $(wildcard trainer/backend/cpu/reference*.c) trainer/backend/cpu/loops.c trainer/backend/cpu/backend.c)
$(B)/double/%.o: %.c | $(GEN_C)
	$(Q)mkdir -p $(@D) && echo "  CC    $< (float64)" && $(CC) $(CPPFLAGS) -DTR_REAL_DOUBLE $(CFLAGS) -MMD -MP -c $< -o $@
$(B)/tests/unit/test_gradients: $(REAL_O) $(B)/tests/unit/spec_text.o $(B)/libruntime.a
	$(Q)echo "  LD    $@" && $(CC) $(LDFLAGS) $^ $(LDLIBS) -lcmocka -o $@

# Programs with failpoints (tests/failpoints.md): what has some is compiled for them once more, the rest is shared.
POINTS   := $(B)/failpoints
POINTS_O := $(patsubst %.c,$(POINTS)/%.o,tests/lib/failpoint.c $(shell grep -l RT_FAILPOINT $(call sources,runtime $(ROLES))))
POINTS_PROGRAMS := $(foreach r,$(ROLES),$(POINTS)/$(call program,$(r))) $(POINTS)/saffron
$(POINTS)/%.o: %.c | $(GEN_C)
	$(Q)mkdir -p $(@D) && echo "  CC    $< (failpoints)" && $(CC) $(CPPFLAGS) -DRT_FAILPOINTS $(CFLAGS) -MMD -MP -c $< -o $@
define points_program
$(POINTS)/$(call program,$(1)): $(filter $(POINTS)/runtime/% $(POINTS)/tests/% $(POINTS)/$(1)/%,$(POINTS_O)) \
                                $(B)/$(1)/main.o $(B)/lib$(1).a $(B)/libruntime.a
	$(Q)echo "  LD    $$@" && $(CC) $(LDFLAGS) $$^ $(LDLIBS) $(if $(filter trainer,$(1)),-ldnnl -lgomp) -o $$@
endef
$(foreach r,$(ROLES),$(eval $(call points_program,$(r))))
$(POINTS)/saffron: $(B)/saffron
	$(Q)mkdir -p $(@D) && ln -f $< $@
points: $(POINTS_PROGRAMS)

EBS_PEER_O := $(call objects,$(addprefix tests/bench/embedding_server/,ids.c entry.c measure.c) tests/lib/bench.c)
$(EBS_BENCH)/bench: $(EBS_BENCH_O) $(TESTLIB_O) $(LIBS)
	$(Q)echo "  LD    $@" && $(CC) $(LDFLAGS) $(EBS_BENCH_O) $(TESTLIB_O) -Wl,--start-group $(LIBS) \
	-Wl,--end-group $(LDLIBS) -ldnnl -lgomp -lcmocka -o $@
$(EBS_BENCH)/peer_map: tests/bench/embedding_server/peer_map.cc $(EBS_PEER_O) $(B)/libruntime.a
	$(Q)echo "  CXX   $@" && g++ $(CPPFLAGS) -std=c++17 -Wall -Wextra -O2 -g -fPIE $(filter -fsanitize%,$(CFLAGS)) \
	$< $(EBS_PEER_O) $(B)/libruntime.a $(LDFLAGS) $(LDLIBS) -o $@
$(EBS_BENCH)/peer_rocksdb: $(EBS_BENCH)/peer_rocksdb.o $(EBS_PEER_O) $(B)/libruntime.a
	$(Q)echo "  LD    $@" && $(CC) $(LDFLAGS) $^ $(LDLIBS) -lrocksdb -o $@

# With clang: libFuzzer. Of the trainer the parsers alone, for its kernels are written for gcc.
FUZZ_ALL := $(patsubst tests/fuzz/corpus/%/,%,$(sort $(wildcard tests/fuzz/corpus/*/)))
FUZZ     ?= $(FUZZ_ALL)
SECONDS  ?= 60
FUZZ_LINK := $(FUZZ_O) $(call objects,tests/lib/data_job.c $(addprefix trainer/,model/parse.c \
             model/spec.c optimizer.c optimizer_conf.c optimizer_device.c optimizer_rates.c schedule.c)) $(B)/libdata_compose.a $(B)/libruntime.a
$(FUZZ_ALL:%=$(B)/fuzz_%): $(B)/fuzz_%: tests/fuzz/entry.c $(FUZZ_LINK)
	$(Q)echo "  LD    $@" && $(CC) $(CPPFLAGS) -DFUZZ_TARGET=fuzz_$* $(CFLAGS) $(LDFLAGS) $^ $(LDLIBS) -o $@

$(B)/scripts/config_doc: $(B)/scripts/config_doc.o $(LIBS)
	$(Q)$(CC) $(LDFLAGS) $< -Wl,--start-group $(LIBS) -Wl,--end-group $(LDLIBS) -ldnnl -lgomp -o $@

# ---- targets -------------------------------------------------------------------------------------
deps: ## install the Debian packages that building and running need
	@scripts/deps.sh build
deps-test: ## ... and what the tests need on top
	@scripts/deps.sh test
proto: $(GEN_C) ## generate the message code
test: ## install, build, run every test; ends with `N passed, N failed, N skipped`
	@$(MAKE) --no-print-directory deps deps-test
	@$(MAKE) --no-print-directory all unit
	@tests/run.sh $(B)
test-gpu: announce ## the tests of tests/gpu on the GPU that is here; a failure where none is
	@$(MAKE) --no-print-directory CUDA=1 $(GPU_TESTS_C:%.c=$(B)/%)
	@tests/gpu/run.sh $(B)
fuzz: ## libFuzzer over every parser (clang); FUZZ=name... SECONDS=60 for each
	@$(MAKE) --no-print-directory SAN=fuzz CC=clang B=build/fuzz $(FUZZ:%=build/fuzz/fuzz_%)
	@tests/fuzz/run.sh build/fuzz $(SECONDS) $(FUZZ)
BENCH_C := $(notdir $(basename $(wildcard tests/bench/*.c)))
BENCH   ?= $(sort $(BENCH_C) $(filter-out lib soak,$(notdir $(basename $(wildcard tests/bench/*.sh)))))
BENCH_PROGRAMS = $(patsubst %,$(B)/tests/bench/%,$(filter $(BENCH_C),$(BENCH))) \
                 $(if $(filter embedding_server,$(BENCH)),$(EBS_BENCHES))
bench: programs $(BENCH_PROGRAMS) ## measure: build/bench/<name>.json; BENCH=name...
	$(Q)set -e; for name in $(BENCH); do \
	    if [ -e tests/bench/$$name.sh ]; then timeout -k 10 900 tests/bench/$$name.sh $(B); else $(B)/tests/bench/$$name; fi; done
storm: programs ## nats-server killed in every other turn of 3 s, for 10 minutes of one job: what it costs
	@STORM_SECONDS=600 tests/bench/nats_storm.sh $(B)
faults: programs $(B)/tests/e2e/faults ## FAULTS=10000 faults of the network, in jobs whose rows count
	@FAULTS=$(or $(FAULTS),10000) SAFFRON_BUILD=$(B) tests/e2e/faults.sh
kill-loop: programs $(B)/tests/e2e/faults ## KILLS=500 kills of any process of jobs whose rows count; SEED=1
	@KILLS=$(or $(KILLS),500) SAFFRON_BUILD=$(B) tests/e2e/kill_loop.sh
sim: $(B)/tests/sim/test_sim ## SEEDS=20000 small jobs in simulated time, in which everything dies; SEED=1000001
	@SAFFRON_COMMIT=$$(git describe --always --dirty 2>/dev/null) SEEDS=$(or $(SEEDS),20000) SEED=$(or $(SEED),1000001) $(B)/tests/sim/test_sim
exact-kills: programs ## RUNS=100 runs of an `exact` job, in each of which roles are killed: the same bits?; SEED=1
	@RUNS=$(or $(RUNS),100) SAFFRON_BUILD=$(B) tests/e2e/exact_kills.sh
failpoints: programs points $(B)/tests/e2e/faults ## each case of tests/failpoints.md, in both modes; CASES=WORD: those that have it
	@CASES=$(or $(CASES),all) SAFFRON_BUILD=$(B) tests/e2e/failpoints.sh
partitions: programs $(B)/tests/e2e/faults ## each role cut off from each other one, both ways and one way, for long and for short
	@PAIRS=all SAFFRON_BUILD=$(B) tests/e2e/partition.sh
quality: programs ## what each model of configs/models reaches on real data: means of three seeds
	@MODELS=all tests/e2e/quality.sh $(B)
soak: programs ## configs/bench, epoch after epoch, for MINUTES=60: memory and descriptors of every process
	@MINUTES=$(or $(MINUTES),60) tests/bench/soak.sh $(B)
-include tests/gpu/bench/bench.mk
docs: $(B)/scripts/config_doc ## write docs/config.md from the option tables
	$(Q)mkdir -p docs && $< >docs/config.md
check: $(B)/scripts/config_doc ## format, lint, layering, header self-containment
	@B=$(B) CPPFLAGS="$(CPPFLAGS)" scripts/check.sh
clean: ## remove everything built
	rm -rf build
help:
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t14

-include $(shell find $(B) -name '*.d' 2>/dev/null)
