/* tests/bench/embedding_server/entry.c -- see the header. */
#include "tests/bench/embedding_server/entry.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static FILE *out;

void entry_open(const char *path)
{
    out = fopen(path, "a");
    if (!out) {
        fprintf(stderr, "bench: %s: %s\n", path, strerror(errno));
        exit(1);
    }
    setvbuf(out, NULL, _IOLBF, 0);
}

void entry_put(const struct entry *e)
{
    if (!isfinite(e->value) || !isfinite(e->limit)) {
        fprintf(stderr, "bench: %s: %g beside a limit of %g is no figure\n", e->name, e->value,
                e->limit);
        exit(1);
    }
    fprintf(out, "{\"name\": \"%s\", \"value\": %.9g, \"unit\": \"%s\"", e->name, e->value,
            e->unit);
    if (e->limit != 0)
        fprintf(out, ", \"limit\": %.9g, \"limit_name\": \"%s\", \"more_is_better\": %s", e->limit,
                e->limit_name, e->less ? "false" : "true");
    if (e->demanded != 0)
        fprintf(out, ", \"demanded\": %.9g", e->demanded);
    fprintf(out, "}\n");
}
