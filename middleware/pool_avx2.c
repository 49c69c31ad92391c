/* middleware/pool_avx2.c -- the loops of pooling compiled for AVX2. */
#define POOL_NAME mw_pool_avx2
#include "middleware/pool.inc.h"
