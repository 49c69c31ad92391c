/* tests/bench/embedding_server/parts.h -- the parts that main.c calls by name; each puts its entries (entry.h). */
#ifndef BENCH_PARTS_H
#define BENCH_PARTS_H

void part_rows(const char *name);       /* dim64, dim16, dim128, dim64_adagrad, ... */
void part_owners(const char *unused);   /* two against one */
void part_sizes(const char *unused);    /* 1 M to 50 M rows */
void part_growth(const char *policies); /* "off", "on": memory and pauses on the way to 20 M rows */
void part_peers(const char *unused);    /* Redis, and this table with as many rows */
void part_wire(const char *unused);     /* a server process and a client */
void part_cut(const char *unused);      /* a checkpoint's rows beside lookups and updates */

#endif
