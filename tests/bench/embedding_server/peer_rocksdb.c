/* tests/bench/embedding_server/peer_rocksdb.c -- RocksDB MultiGet on the same kind of rows, all in its block cache.
 *
 *   peer_rocksdb RESULTS FOLDER      adds a line to the file; the database is made in FOLDER
 *
 * Built only where librocksdb-dev is installed. Dim 64, as many rows as the other peers have, requests of 4,096 ids;
 * no write-ahead log, no compression, one compaction before it is asked, so it reads from one sorted run. */
#if __has_include(<rocksdb/c.h>)
#include "tests/bench/embedding_server/entry.h"
#include "runtime/base/mem.h"
#include "tests/bench/embedding_server/measure.h"

#include <rocksdb/c.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DIM         64
#define VALUE_BYTES (DIM * sizeof(float))
#define ROWS        5e6
#define GET_IDS     4096u
#define WRITE_ROWS  4096u
#define CACHE_BYTES ((size_t)4 << 30)

struct peer {
    rocksdb_t *db;
    rocksdb_column_family_handle_t *family;
    rocksdb_readoptions_t *read;
    float out[REQUEST_IDS][DIM];
};

static void must(const char *error)
{
    if (error)
        die("rocksdb: %s", error);
}

static void row_of(uint64_t position, float row[DIM])
{
    for (size_t j = 0; j < DIM; j++)
        row[j] = (float)(position % 1024 + j);
}

static void fill(struct peer *peer, uint64_t rows)
{
    rocksdb_writeoptions_t *options = rocksdb_writeoptions_create();
    rocksdb_writebatch_t *batch = rocksdb_writebatch_create();
    char *error = NULL;

    rocksdb_writeoptions_disable_WAL(options, 1);
    for (uint64_t at = 0; at < rows; at++) {
        uint64_t id = ids_of(at);
        float row[DIM];

        row_of(at, row);
        rocksdb_writebatch_put(batch, (char *)&id, sizeof(id), (char *)row, sizeof(row));
        if (at % WRITE_ROWS != WRITE_ROWS - 1 && at + 1 < rows)
            continue;
        rocksdb_write(peer->db, options, batch, &error);
        must(error);
        rocksdb_writebatch_clear(batch);
    }
    rocksdb_writebatch_destroy(batch);
    rocksdb_writeoptions_destroy(options);
    rocksdb_compact_range(peer->db, NULL, 0, NULL, 0);
}

/* Read all of it once, through the block cache. */
static void warm(struct peer *peer)
{
    rocksdb_iterator_t *at = rocksdb_create_iterator(peer->db, peer->read);

    for (rocksdb_iter_seek_to_first(at); rocksdb_iter_valid(at);)
        rocksdb_iter_next(at);
    rocksdb_iter_destroy(at);
}

static void get(void *ctx, const uint64_t *id, size_t n)
{
    static const char *key[GET_IDS];
    static size_t size[GET_IDS];
    static char *error[GET_IDS];
    static rocksdb_pinnableslice_t *slice[GET_IDS];
    struct peer *peer = ctx;

    for (size_t at = 0; at < n; at += GET_IDS) {
        for (size_t i = 0; i < GET_IDS; i++) {
            key[i] = (const char *)&id[at + i];
            size[i] = sizeof(*id);
        }
        rocksdb_batched_multi_get_cf(peer->db, peer->read, peer->family, GET_IDS, key, size, slice,
                                     error, false);
        for (size_t i = 0; i < GET_IDS; i++) {
            size_t bytes = 0;
            const char *value;

            must(error[i]);
            value = slice[i] ? rocksdb_pinnableslice_value(slice[i], &bytes) : NULL;
            if (bytes != VALUE_BYTES)
                die("rocksdb: a row of %zu bytes", bytes);
            memcpy(peer->out[at + i], value, bytes);
            rocksdb_pinnableslice_destroy(slice[i]);
        }
    }
}

static void verify(void *ctx, const uint64_t *position, size_t n)
{
    const struct peer *peer = ctx;

    for (size_t i = 0; i < n; i++) {
        float want[DIM];

        row_of(position[i], want);
        if (!same_floats(want, peer->out[i], DIM))
            die("rocksdb: another row than was set");
    }
}

static rocksdb_options_t *options_make(void)
{
    rocksdb_options_t *options = rocksdb_options_create();
    rocksdb_block_based_table_options_t *table = rocksdb_block_based_options_create();

    rocksdb_block_based_options_set_block_cache(table, rocksdb_cache_create_lru(CACHE_BYTES));
    rocksdb_block_based_options_set_filter_policy(table, rocksdb_filterpolicy_create_bloom(10));
    rocksdb_options_set_block_based_table_factory(options, table);
    rocksdb_options_set_create_if_missing(options, 1);
    rocksdb_options_set_compression(options, rocksdb_no_compression);
    rocksdb_options_set_write_buffer_size(options, (size_t)256 << 20);
    rocksdb_options_increase_parallelism(options, 2);
    return options;
}

int main(int argc, char **argv)
{
    rocksdb_options_t *options = options_make();
    uint64_t rows = bench_rows(ROWS);
    struct peer *peer = rt_xcalloc(1, sizeof(*peer));
    struct ids ids;
    struct rounds rounds = {
        .ids = &ids, .as_ids = 1, .run = get, .verify = verify, .ctx = peer, .requests = 8};
    const char *name = "default";
    char path[4096], *error = NULL;

    if (argc < 3)
        die("usage: peer_rocksdb RESULTS FOLDER");
    entry_open(argv[1]);
    snprintf(path, sizeof(path), "%s/rocksdb", argv[2]);
    peer->db = rocksdb_open_column_families(options, path, 1, &name,
                                            (const rocksdb_options_t *const[]){options},
                                            &peer->family, &error);
    must(error);
    peer->read = rocksdb_readoptions_create();
    fill(peer, rows);
    warm(peer);
    ids_init(&ids, IDS_UNIFORM, rows, 1);
    entry_put(&(struct entry){.name = "peer_rocksdb_multiget_dim64",
                              .value = 1e-6 * bench_rounds(&rounds),
                              .unit = "M rows/s"});
    rocksdb_column_family_handle_destroy(peer->family);
    rocksdb_close(peer->db);
    _Exit(0); /* caches and filters are not taken apart */
}
#else
int main(void)
{
    return 77; /* never built without the library */
}
#endif
