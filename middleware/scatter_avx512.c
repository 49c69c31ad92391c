/* middleware/scatter_avx512.c -- the loops of scattering compiled for AVX-512. */
#define SCATTER_NAME mw_scatter_avx512
#include "middleware/scatter.inc.h"
