/* embedding_server/init_avx2.c -- initial values compiled for AVX2. */
#define INIT_NAME ebs_init_avx2
#include "embedding_server/init.inc.h"
