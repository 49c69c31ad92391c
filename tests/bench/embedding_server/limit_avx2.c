/* tests/bench/embedding_server/limit_avx2.c */
#define LOOPS limit_avx2
#include "tests/bench/embedding_server/limit_loops.inc.h"
