/* embedding_server/element_plain.c -- the loops over stored weights compiled for any x86-64-v2 CPU: the truth. */
#define LOOPS_NAME ebs_element_plain
#include "embedding_server/element_loops.inc.h"
