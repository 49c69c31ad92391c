/* tests/bench/embedding_server/limit_avx512.c */
#define LOOPS limit_avx512
#include "tests/bench/embedding_server/limit_loops.inc.h"
