/* embedding_server/element_avx2.c -- the loops over stored weights compiled for AVX2. */
#define LOOPS_NAME ebs_element_avx2
#include "embedding_server/element_loops.inc.h"
