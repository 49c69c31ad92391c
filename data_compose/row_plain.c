/* data_compose/row_plain.c -- the loops of a row compiled for any CPU. */
#define LOOPS_NAME dc_row_plain
#include "data_compose/row_loops.inc.h"
