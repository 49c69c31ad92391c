/* embedding_server/optimizer_plain.c -- the optimizers' loops compiled for any x86-64-v2 CPU: the truth. */
#define LOOPS_NAME ebs_optimizer_plain
#include "embedding_server/optimizer_loops.inc.h"
