/* data_compose/plane_plain.c -- the loop of a plane compiled for any CPU. */
#define LOOP_NAME dc_plane_plain
#include "data_compose/plane_loop.inc.h"
