/* embedding_server/init_avx512.c -- initial values compiled for AVX-512. */
#define INIT_NAME ebs_init_avx512
#include "embedding_server/init.inc.h"
