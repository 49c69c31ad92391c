/* embedding_server/stage_avx2.c -- the stages of a stretch compiled for AVX2. */
#define STAGE_NAME   ebs_stage_avx2
#define OUTSIDE_NAME ebs_outside_avx2
#include "embedding_server/stage.inc.h"
