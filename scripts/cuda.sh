#!/bin/sh
# scripts/cuda.sh announce auto|0|1 -- say whether the GPU backend can be built here, and with what.
mode=${2:-auto}
home=${CUDA_HOME:-}
[ -n "$home" ] || home=$(command -v nvcc 2>/dev/null | sed 's,/bin/nvcc$,,')
[ -n "$home" ] || home=/usr/local/cuda
if [ "$mode" = 0 ]; then
    echo "CUDA: off (CUDA=0); the trainer has its CPU backend"
elif [ -x "$home/bin/nvcc" ]; then
    version=$("$home/bin/nvcc" --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')
    echo "CUDA: found $version; this version has no GPU backend yet, the trainer has its CPU backend"
elif [ "$mode" = 1 ]; then
    echo "CUDA: CUDA=1 was asked, but no nvcc in CUDA_HOME, PATH or /usr/local/cuda" >&2
    exit 2
else
    echo "CUDA: not found (CUDA_HOME, PATH, /usr/local/cuda); the trainer has its CPU backend"
fi
