/* middleware/pool_avx512.c -- the loops of pooling compiled for AVX-512. */
#define POOL_NAME mw_pool_avx512
#include "middleware/pool.inc.h"
