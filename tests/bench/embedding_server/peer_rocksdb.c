/* tests/bench/embedding_server/peer_rocksdb.c -- RocksDB MultiGet on the same kind of rows, all in its block cache.
 *
 *   peer_rocksdb RESULTS FOLDER      adds a line to the file; the database is made in FOLDER
 *
 * Built only where librocksdb-dev is installed. Dim 64, as many rows as the other peers have, requests of 4,096 ids;
 * no compression. It is filled with sorted files, which is what a compaction would leave: it reads from one sorted run. */
#if __has_include(<rocksdb/c.h>)
#include "tests/bench/embedding_server/entry.h"
#include "runtime/base/mem.h"
#include "tests/bench/embedding_server/measure.h"

#include <rocksdb/c.h>

#include <endian.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DIM         64
#define VALUE_BYTES (DIM * sizeof(float))
#define ROWS        5e6
#define GET_IDS     4096u
#define FILE_ROWS   250000u
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

/* Rows in the order of their keys, which are compared as bytes. */
struct place {
    uint64_t key, position;
};

static int compare(const void *a, const void *b)
{
    const struct place *x = a, *y = b;

    return (x->key > y->key) - (x->key < y->key);
}

static struct place *sorted(uint64_t rows)
{
    struct place *place = rt_xmalloc(rows * sizeof(*place));

    for (uint64_t at = 0; at < rows; at++)
        place[at] = (struct place){htobe64(ids_of(at)), at};
    qsort(place, rows, sizeof(*place), compare);
    for (uint64_t at = 0; at < rows; at++)
        place[at].key = ids_of(place[at].position);
    return place;
}

/* One file of n rows, which becomes the database's own. */
static void fill_file(struct peer *peer, const rocksdb_options_t *options, const char *path,
                      const struct place *place, uint64_t n)
{
    rocksdb_envoptions_t *env = rocksdb_envoptions_create();
    rocksdb_sstfilewriter_t *file = rocksdb_sstfilewriter_create(env, options);
    rocksdb_ingestexternalfileoptions_t *ingest = rocksdb_ingestexternalfileoptions_create();
    char *error = NULL;

    rocksdb_sstfilewriter_open(file, path, &error);
    must(error);
    for (uint64_t i = 0; i < n; i++) {
        float row[DIM];

        row_of(place[i].position, row);
        rocksdb_sstfilewriter_put(file, (const char *)&place[i].key, sizeof(place[i].key),
                                  (const char *)row, sizeof(row), &error);
        must(error);
    }
    rocksdb_sstfilewriter_finish(file, &error);
    must(error);
    rocksdb_ingestexternalfileoptions_set_move_files(ingest, 1);
    rocksdb_ingest_external_file(peer->db, &path, 1, ingest, &error);
    must(error);
    rocksdb_ingestexternalfileoptions_destroy(ingest);
    rocksdb_sstfilewriter_destroy(file);
    rocksdb_envoptions_destroy(env);
}

/* As a compaction leaves them: one sorted run, in files of some 64 MiB. */
static void fill(struct peer *peer, const rocksdb_options_t *options, const char *folder,
                 uint64_t rows)
{
    struct place *place = sorted(rows);
    char path[4096];

    for (uint64_t at = 0; at < rows; at += FILE_ROWS) {
        snprintf(path, sizeof(path), "%s/rocksdb.%llu", folder, (unsigned long long)at);
        fill_file(peer, options, path, place + at, rows - at < FILE_ROWS ? rows - at : FILE_ROWS);
    }
    rt_free(place);
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
        .ids = &ids, .as_ids = 1, .run = get, .verify = verify, .ctx = peer, .requests = 4};
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
    fill(peer, options, argv[2], rows);
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
