/* embedding_server/optimizer_avx512.c -- the optimizers' loops compiled for AVX512. */
#define LOOPS_NAME ebs_optimizer_avx512
#include "embedding_server/optimizer_loops.inc.h"
