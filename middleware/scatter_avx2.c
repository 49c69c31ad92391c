/* middleware/scatter_avx2.c -- the loops of scattering compiled for AVX2. */
#define SCATTER_NAME mw_scatter_avx2
#include "middleware/scatter.inc.h"
