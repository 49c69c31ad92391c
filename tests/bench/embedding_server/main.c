/* tests/bench/embedding_server/main.c -- one part of the embedding server's benchmark.
 *
 *   bench RESULTS PART [ARGUMENT]      lines are added to the file RESULTS; embedding_server.sh runs all parts */
#include "tests/bench/embedding_server/entry.h"
#include "tests/bench/embedding_server/parts.h"

#include "runtime/base/assert.h"

#include <stdio.h>
#include <string.h>

static const struct part {
    const char *name;
    void (*run)(const char *argument);
} parts[] = {
    {"rows", part_rows},   {"owners", part_owners}, {"sizes", part_sizes}, {"growth", part_growth},
    {"peers", part_peers}, {"wire", part_wire},     {"cut", part_cut},
};

int main(int argc, char **argv)
{
    for (size_t i = 0; argc >= 3 && i < ARRAY_LEN(parts); i++)
        if (strcmp(argv[2], parts[i].name) == 0) {
            entry_open(argv[1]);
            parts[i].run(argc > 3 ? argv[3] : "");
            return 0;
        }
    fprintf(stderr, "usage: bench RESULTS PART [ARGUMENT]; parts:");
    for (size_t i = 0; i < ARRAY_LEN(parts); i++)
        fprintf(stderr, " %s", parts[i].name);
    fprintf(stderr, "\n");
    return 2;
}
