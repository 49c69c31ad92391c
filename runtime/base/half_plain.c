/* runtime/base/half_plain.c -- the loops of half.h compiled for any x86-64-v2 CPU: the truth. */
#define LOOPS_NAME rt_half_plain
#include "runtime/base/half_loops.inc.h"
