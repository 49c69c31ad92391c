/* embedding_server/init_plain.c -- initial values compiled for any x86-64 CPU. */
#define INIT_NAME ebs_init_plain
#include "embedding_server/init.inc.h"
