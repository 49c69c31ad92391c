# tests/gpu/bench/bench.mk -- the part of the Makefile that measures a GPU.
.PHONY: bench-gpu
bench-gpu: ## measure the GPU: kernels, ceilings, models; tests/gpu/run_all.sh does that, tests, and a report
	@$(MAKE) --no-print-directory -f tests/gpu/bare.mk B=build/gpu CC=$(CC) benches
	@build/gpu/bench_kernels && build/gpu/bench_model
