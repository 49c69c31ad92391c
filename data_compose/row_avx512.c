/* data_compose/row_avx512.c -- the loops of a row compiled for AVX512. */
#define LOOPS_NAME dc_row_avx512
#include "data_compose/row_loops.inc.h"
