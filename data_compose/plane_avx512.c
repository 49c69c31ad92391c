/* data_compose/plane_avx512.c -- the loop of a plane compiled for AVX-512. */
#define LOOP_NAME dc_plane_avx512
#include "data_compose/plane_loop.inc.h"
