/* embedding_server/element_avx512.c -- the loops over stored weights compiled for AVX-512. */
#define LOOPS_NAME ebs_element_avx512
#include "embedding_server/element_loops.inc.h"
