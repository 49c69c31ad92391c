#!/bin/sh
# scripts/cuda.sh announce|home|nccl|arch auto|0|1 -- what the GPU backend can be built with here.
#
#   announce  one line for people; CUDA=1 without what it takes is an error
#   home      the toolkit's folder; nothing where there is to be, or can be, no GPU backend
#   nccl      the folder that has include/nccl.h
#   arch      what nvcc compiles for: real code for each line of cards that this nvcc knows, Hopper's own target included, and
#             PTX of compute_90, from which a driver makes code for cards that are newer than the list. 8.6 and 8.9 run sm_80's.
# Looked at in this order: CUDA_HOME, nvcc on PATH, /usr/local/cuda; for NCCL: NCCL_HOME, the toolkit's folder, /usr.
mode=${2:-auto}

home=${CUDA_HOME:-}
[ -n "$home" ] || home=$(command -v nvcc 2>/dev/null | sed 's,/bin/nvcc$,,')
[ -n "$home" ] || home=/usr/local/cuda
nccl=
for folder in "${NCCL_HOME:-}" "$home" /usr; do
    if [ -z "$nccl" ] && [ -n "$folder" ] && [ -f "$folder/include/nccl.h" ]; then
        nccl=$folder
    fi
done

missing=
[ -n "$nccl" ] || missing="no nccl.h in NCCL_HOME, $home or /usr"
[ -f "$home/include/cublasLt.h" ] || missing="no cublasLt.h in $home/include"
[ -x "$home/bin/nvcc" ] || missing="no nvcc in CUDA_HOME, PATH or /usr/local/cuda"
if [ -z "$missing" ]; then # sm_90a, and lists of tensors in a kernel's parameters
    release=$("$home/bin/nvcc" --version | sed -n 's/.*release \([0-9]*\).*/\1/p')
    [ "${release:-0}" -ge 12 ] || missing="CUDA ${release:-of no known release} in $home, 12 or newer is needed"
fi

announce() {
    if [ "$mode" = 0 ]; then
        echo "CUDA: off (CUDA=0); the trainer has its CPU backend"
    elif [ -z "$missing" ]; then
        version=$("$home/bin/nvcc" --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')
        echo "CUDA: $version in $home, NCCL in $nccl; saffron-cuda.so is built, and loaded when a GPU answers"
    elif [ "$mode" = 1 ]; then
        echo "CUDA: CUDA=1 was asked, but $missing" >&2
        exit 2
    else
        echo "CUDA: not found ($missing); the trainer has its CPU backend"
    fi
}

arch() {
    known=$("$home/bin/nvcc" --list-gpu-arch)
    for line in 75 80 90 100 120; do
        real=$line
        [ "$line" != 90 ] || real=90a
        case $known in *compute_$line*) printf -- '-gencode arch=compute_%s,code=sm_%s ' "$real" "$real" ;; esac
    done
    echo '-gencode arch=compute_90,code=compute_90'
}

[ "$mode" != 0 ] || [ "$1" = announce ] || exit 0
case $1 in
announce) announce ;;
home) [ -n "$missing" ] || echo "$home" ;;
nccl) echo "$nccl" ;;
arch) [ -n "$missing" ] || arch ;;
esac
