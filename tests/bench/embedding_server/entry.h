/* tests/bench/embedding_server/entry.h -- one measured figure, as a line of JSON that embedding_server.sh gathers.
 *
 * ratio = value / limit where more is better, limit / value where less is; `demanded` is what the ratio shall be at
 * least. A figure without limit or demand is there for the reader. */
#ifndef BENCH_ENTRY_H
#define BENCH_ENTRY_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

struct entry {
    const char *name;
    double value;
    const char *unit;
    double limit; /* 0: none */
    const char *limit_name;
    double demanded; /* 0: nothing is */
    bool less;       /* is better */
};

void entry_open(const char *path); /* lines are added to it; dies where it cannot be opened */
void entry_put(const struct entry *entry);

#ifdef __cplusplus
}
#endif
#endif
