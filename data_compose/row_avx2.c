/* data_compose/row_avx2.c -- the loops of a row compiled for AVX2. */
#define LOOPS_NAME dc_row_avx2
#include "data_compose/row_loops.inc.h"
