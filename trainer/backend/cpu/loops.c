/* trainer/backend/cpu/loops.c -- the loops for any CPU, and the truth: in float64 too. */
#define LOOPS tr_loops_plain
#include "trainer/backend/cpu/loops.inc.h"
