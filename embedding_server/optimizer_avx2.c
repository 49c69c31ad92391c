/* embedding_server/optimizer_avx2.c -- the optimizers' loops compiled for AVX2. */
#define LOOPS_NAME ebs_optimizer_avx2
#include "embedding_server/optimizer_loops.inc.h"
