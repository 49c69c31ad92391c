/* embedding_server/stage_avx512.c -- the stages of a stretch compiled for AVX-512. */
#define STAGE_NAME   ebs_stage_avx512
#define OUTSIDE_NAME ebs_outside_avx512
#include "embedding_server/stage.inc.h"
