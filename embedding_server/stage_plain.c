/* embedding_server/stage_plain.c -- the stages of a stretch compiled for plain C. */
#define STAGE_NAME   ebs_stage_plain
#define OUTSIDE_NAME ebs_outside_plain
#include "embedding_server/stage.inc.h"
