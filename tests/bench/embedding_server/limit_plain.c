/* tests/bench/embedding_server/limit_plain.c */
#define LOOPS limit_plain
#include "tests/bench/embedding_server/limit_loops.inc.h"
