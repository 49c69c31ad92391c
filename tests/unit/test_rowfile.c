/* tests/unit/test_rowfile.c -- row files: what is written reads back; whatever was changed is refused by name, made good checksums
 * or not; no memory, and a disk that does not answer. */
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "runtime/checkpoint/rowfile.h"
#include "runtime/checkpoint/rowfile_impl.h"
#include "tests/lib/checkpoint_bed.h"
#include "tests/lib/temp.h"

#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#define SEED 11

static char folder[TEMP_PATH_MAX];
static char *path;

static int make_folder(void **state)
{
    (void)state;
    temp_folder(folder);
    path = rt_path_join(folder, "rows.00000");
    return 0;
}

static int remove_one(const char *name, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    return remove(name);
}

static int remove_folder(void **state)
{
    (void)state;
    rt_free(path);
    return nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static void write_bed(const struct checkpoint_spec *spec, uint32_t owner,
                      struct rt_rowfile_table sum[CHECKPOINT_BED_TABLES],
                      struct rt_manifest_file *file)
{
    if (checkpoint_bed_rows(path, spec, owner, sum, file) != 0)
        fail_msg("%s", rt_err_text());
}

/* Never cut to nothing first: some file systems bring what follows to disk then. */
static void put_file(const void *data, size_t size)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);

    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, data, size, 0), size);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    close(fd);
}

static uint8_t *get_file(size_t *size)
{
    char *text;

    assert_int_equal(rt_file_read(path, (size_t)1 << 30, &text, size), 0);
    return (uint8_t *)text;
}

/* Read it all. 0 or the error. */
static int read_file(const struct rt_job *job)
{
    struct rt_rowfile_block block;
    struct rt_rowfile *file = NULL;
    int rc = rt_rowfile_open(path, job, &file);

    while (rc == 0 && (rc = rt_rowfile_next(file, &block)) > 0)
        rc = 0;
    rt_rowfile_close(file);
    return rc;
}

/* ---- what is written reads back ---- */

static const struct checkpoint_spec full = {
    .name = "a", .attempt = 7, .owners = 2, .rows = 300, .dense = 10};
static const struct checkpoint_spec increment = {.name = "b",
                                                 .attempt = 9,
                                                 .base = 7,
                                                 .base_name = "a",
                                                 .owners = 1,
                                                 .rows = 50,
                                                 .removed = 20,
                                                 .dense = 10};

/* Its rows are those of the bed, in its order. @at: of each table, which comes next */
static void check_rows(const struct rt_rowfile *file, const struct rt_rowfile_block *block,
                       uint64_t attempt, uint32_t at[CHECKPOINT_BED_TABLES])
{
    const struct rt_rowfile_head *head = rt_rowfile_head(file);
    uint32_t row_bytes = rt_rowfile_schema(file, block->table)->layout.row_bytes;
    uint8_t want[CHECKPOINT_BED_ROW];

    assert_int_equal(block->bytes, block->count * row_bytes);
    assert_int_equal((uintptr_t)block->payload % 8, 0);
    for (size_t i = 0; i < block->count; i++) {
        uint64_t id = checkpoint_bed_id(at[block->table]++);

        while (rt_shard_of(id) < head->shard_first || rt_shard_of(id) >= head->shard_end)
            id = checkpoint_bed_id(at[block->table]++);
        checkpoint_bed_row(block->table, id, attempt, want);
        assert_memory_equal(block->payload + i * row_bytes, want, row_bytes);
    }
}

static void check_head(const struct rt_rowfile_head *head, const struct checkpoint_spec *spec,
                       uint32_t owner)
{
    assert_int_equal(head->attempt, spec->attempt);
    assert_int_equal(head->base, spec->base);
    assert_int_equal(head->step, 10 * spec->attempt);
    assert_int_equal(head->owner, owner);
    assert_int_equal(head->owners, spec->owners);
    assert_int_equal(head->n_tables, CHECKPOINT_BED_TABLES);
    assert_true(head->job == rt_rowfile_job(&checkpoint_bed_job));
}

static void reads_back(const struct checkpoint_spec *spec, uint32_t owner, const struct rt_job *job)
{
    struct rt_rowfile_table sum[CHECKPOINT_BED_TABLES] = {{0}};
    uint32_t at[CHECKPOINT_BED_TABLES] = {0}, removed = 0;
    struct rt_rowfile_block block;
    struct rt_manifest_file told;
    struct rt_rowfile *file;
    size_t size;
    int rc;

    write_bed(spec, owner, sum, &told);
    assert_int_equal(rt_rowfile_open(path, job, &file), 0);
    check_head(rt_rowfile_head(file), spec, owner);
    for (uint32_t t = 0; t < CHECKPOINT_BED_TABLES; t++)
        assert_string_equal(rt_rowfile_schema(file, t)->name, checkpoint_bed_job.table[t].name);
    while ((rc = rt_rowfile_next(file, &block)) > 0) {
        if (block.kind == RT_ROWFILE_ROWS)
            check_rows(file, &block, spec->attempt, at);
        else if (block.kind == RT_ROWFILE_REMOVED)
            removed += (uint32_t)block.count;
        else
            assert_memory_equal(block.payload, "policy", block.bytes);
    }
    if (rc < 0)
        fail_msg("%s", rt_err_text());
    assert_int_equal(rt_rowfile_next(file, &block), 0); /* and stays at the end */
    assert_memory_equal(rt_rowfile_tables(file), sum, sizeof(sum));
    uint8_t *data = get_file(&size);
    assert_int_equal(size, told.bytes);
    assert_int_equal(rt_rowfile_bytes(file), told.bytes);
    assert_true(rt_hash_bytes(data, size) == told.digest);
    assert_true(rt_rowfile_digest(file) == told.digest);
    assert_int_equal(removed, CHECKPOINT_BED_TABLES * spec->removed);
    if (spec->owners == 1)
        assert_int_equal(at[0], spec->rows);
    rt_free(data);
    rt_rowfile_close(file);
}

static void what_is_written_reads_back(void **state)
{
    static const struct checkpoint_spec none = {.name = "n", .attempt = 1, .owners = 1};

    (void)state;
    reads_back(&full, 0, &checkpoint_bed_job);
    reads_back(&full, 1, NULL); /* as a tool reads it */
    reads_back(&increment, 0, &checkpoint_bed_job);
    reads_back(&none, 0, &checkpoint_bed_job);
}

/* One put of more than a block, of rows whose size divides none. */
static void large_payloads_become_several_blocks(void **state)
{
    const struct rt_job *job = &checkpoint_bed_job;
    struct rt_rowfile_head head = {.attempt = 1,
                                   .owners = 1,
                                   .shard_end = RT_SHARDS,
                                   .n_tables = job->n_tables,
                                   .job = rt_rowfile_job(job)};
    uint32_t row_bytes = rt_row_layout(&job->table[1]).row_bytes;
    size_t n = 3 * (RT_ROWFILE_BLOCK_MAX / row_bytes) + 5, got = 0, blocks = 0;
    uint8_t *rows = rt_xmalloc(n * row_bytes);
    struct rt_rowfile_table table[CHECKPOINT_BED_TABLES];
    struct rt_rowfile_block block;
    struct rt_rowfile_out out;
    struct rt_rowfile *file;
    uint64_t bytes, digest;

    (void)state;
    for (size_t i = 0; i < n; i++)
        checkpoint_bed_row(1, i, 1, rows + i * row_bytes);
    assert_int_equal(rt_rowfile_begin(&out, path, job, &head), 0);
    assert_int_equal(rt_rowfile_put(&out, RT_ROWFILE_ROWS, 1, rows, n, n * row_bytes), 0);
    assert_int_equal(rt_rowfile_finish(&out, table, &bytes, &digest), 0);
    rt_rowfile_drop(&out); /* also harmless */
    assert_int_equal(table[1].rows, n);
    assert_int_equal(rt_rowfile_open(path, job, &file), 0);
    while (rt_rowfile_next(file, &block) > 0) {
        assert_in_range(block.bytes, 1, RT_ROWFILE_BLOCK_MAX);
        assert_memory_equal(block.payload, rows + got * row_bytes, block.bytes);
        got += block.count;
        blocks++;
    }
    assert_int_equal(got, n);
    assert_int_equal(blocks, 4);
    rt_rowfile_close(file);
    rt_free(rows);
}

static void digests_are_of_what_a_row_is_worth(void **state)
{
    const struct rt_table_conf *table = &checkpoint_bed_job.table[1]; /* with marks */
    struct rt_row_layout layout = rt_row_layout(table);
    uint64_t seed = rt_hash_bytes(table->name, strlen(table->name));
    uint8_t row[CHECKPOINT_BED_ROW], plain[CHECKPOINT_BED_ROW];
    size_t bytes = layout.row_bytes - layout.weight;

    (void)state;
    checkpoint_bed_row(1, 77, 3, row);
    memcpy(plain, row, 8);
    memcpy(plain + 8, row + layout.weight, bytes);
    uint64_t digest = rt_rowfile_row_digest(&layout, seed, row);
    assert_true(digest == rt_hash_bytes_seed(plain, 8 + bytes, seed));
    for (uint32_t i = 0; i < layout.row_bytes; i++) {
        row[i] ^= 1;
        bool differs = rt_rowfile_row_digest(&layout, seed, row) != digest;
        assert_int_equal(differs, i < layout.touched || i >= layout.weight);
        row[i] ^= 1;
    }
}

/* However rows are spread over owners, their digests together are the same. */
static void digests_do_not_depend_on_owners(void **state)
{
    struct rt_rowfile_table one[CHECKPOINT_BED_TABLES] = {{0}};
    struct checkpoint_spec spec = full;
    struct rt_manifest_file told;

    (void)state;
    spec.owners = 1;
    write_bed(&spec, 0, one, &told);
    for (spec.owners = 2; spec.owners < 6; spec.owners++) {
        struct rt_rowfile_table sum[CHECKPOINT_BED_TABLES] = {{0}};

        for (uint32_t k = 0; k < spec.owners; k++)
            write_bed(&spec, k, sum, &told);
        assert_memory_equal(one, sum, sizeof(sum));
    }
}

/* ---- what is refused ---- */

static void other_jobs_are_refused(void **state)
{
    struct rt_table_conf table[CHECKPOINT_BED_TABLES];
    struct rt_rowfile_table sum[CHECKPOINT_BED_TABLES] = {{0}};
    struct rt_job job = checkpoint_bed_job;
    struct rt_manifest_file told;

    (void)state;
    write_bed(&full, 0, sum, &told);
    job.table = table;
    for (int i = 0; i < 8; i++) {
        static const char *const words[] = {
            "of another name",   "'user'",      "dim 4", "float32",
            "adagrad, 40 bytes", "of 3 tables", "ttl",   "44 bytes"};

        memcpy(table, checkpoint_bed_job.table, sizeof(table));
        job.name = i == 0 ? "other" : "bed";
        job.n_tables = i == 5 ? 2 : 3;
        if (i == 1)
            table[0].name = "users";
        if (i == 2)
            table[0].dim = 8;
        if (i == 3)
            table[0].dtype = WIRE_BF16;
        if (i == 4)
            table[0].optimizer.kind = RT_OPT_ROWWISE_ADAGRAD;
        if (i == 7)
            table[0].ttl_seconds = 1;
        int want = i == 6 ? 0 : RT_EUSAGE; /* an eviction of another size changes no row */
        if (i == 6)
            table[1].eviction.rows = 5;
        if (read_file(&job) != want)
            fail_msg("row %d: expected %d", i, want);
        if (want && !strstr(rt_err_text(), words[i]))
            fail_msg("row %d: '%s' in '%s'", i, words[i], rt_err_text());
    }
}

/* The block number `nth` of a file; NULL behind the last. */
static struct rt_rowfile_block_head *block_of(uint8_t *data, size_t size, int nth)
{
    struct rt_rowfile_prelude p;

    memcpy(&p, data, sizeof(p));
    for (size_t at = p.head_bytes; at + sizeof(struct rt_rowfile_block_head) <= size;) {
        struct rt_rowfile_block_head *b = (struct rt_rowfile_block_head *)(void *)(data + at);

        if (nth-- == 0)
            return b;
        at += sizeof(*b) + rt_align_up(b->bytes, RT_ROWFILE_ALIGN);
    }
    return NULL;
}

/* Give the head and each block the checksum that it has now. */
static void make_good(uint8_t *data, size_t size)
{
    struct rt_rowfile_prelude p;
    struct rt_rowfile_block_head *b;

    memcpy(&p, data, sizeof(p));
    p.crc = rt_rowfile_head_crc(data, p.head_bytes);
    memcpy(data, &p, sizeof(p));
    for (int i = 0; (b = block_of(data, size, i)); i++) {
        size_t bytes = rt_align_up(b->bytes, RT_ROWFILE_ALIGN);

        if ((uint8_t *)(b + 1) + bytes <= data + size)
            b->payload_crc = rt_crc32c(0, b + 1, bytes);
        b->head_crc = rt_rowfile_block_crc(b);
    }
}

/* A forger's work: what a checksum cannot see. Blocks of the increment: removed, rows, removed, policy, rows, removed, rows, end. */
#define P(member) offsetof(struct rt_rowfile_prelude, member)
#define B(member) offsetof(struct rt_rowfile_block_head, member)
#define E(member) (sizeof(struct rt_rowfile_prelude) + offsetof(struct rt_rowfile_entry, member))
static const struct {
    const char *name;
    int block; /* -1: the head */
    size_t at;
    uint32_t value;
    int want;
    const char *word;
} forged[] = {
    {"nothing", -1, P(version), 1, 0, NULL},
    {"magic", -1, 0, 0x12345678, RT_EDATA, "does not begin with"},
    {"no version", -1, P(version), 0, RT_EUSAGE, "of version 0"},
    {"version", -1, P(version), 3, RT_EUSAGE, "of version 3"},
    {"head too short", -1, P(head_bytes), 64, RT_EDATA, "a head of 64 bytes"},
    {"head beyond the file", -1, P(head_bytes), 1 << 20, RT_EDATA, "a head of"},
    {"head beyond the limit", -1, P(head_bytes), UINT32_MAX & ~7u, RT_EDATA, "a head of"},
    {"base is not before", -1, P(base), 9, RT_EDATA, "attempt 9 goes on from 9"},
    {"owner", -1, P(owner), 1, RT_EDATA, "owner 1 of 1"},
    {"owners", -1, P(owners), RT_OWNERS_MAX + 1, RT_EDATA, "owner 0 of"},
    {"no shards", -1, P(shard_end), 0, RT_EDATA, "shards 0 to 0"},
    {"shards", -1, P(shard_end), RT_SHARDS + 1, RT_EDATA, "shards 0 to 65537"},
    {"fewer shards", -1, P(shard_end), 100, RT_EDATA, "an id that is not of shards"},
    {"no tables", -1, P(n_tables), 0, RT_EDATA, "0 tables"},
    {"tables", -1, P(n_tables), WIRE_TABLES_MAX + 1, RT_EDATA, "4097 tables"},
    {"too many tables", -1, P(n_tables), 4, RT_EDATA, "the head ends before table 3"},
    {"too few tables", -1, P(n_tables), 2, RT_EDATA, "bytes behind its tables"},
    {"name", -1, E(name_bytes), 3, RT_EDATA, "no name"},
    {"long name", -1, E(name_bytes), UINT32_MAX, RT_EDATA, "no name"},
    {"optimizer", -1, E(optimizer_bytes), 0, RT_EDATA, "no optimizer"},
    {"dim", -1, E(dim), WIRE_DIM_MAX + 1, RT_EDATA, "dim 1025"},
    {"dtype", -1, E(dtype), 3, RT_EDATA, "dtype 3"},
    {"marks", -1, E(marks), 2, RT_EDATA, "marks 2"},
    {"state", -1, E(state_count), 9, RT_EDATA, "9 floats of state"},
    {"row bytes", -1, E(row_bytes), 44, RT_EDATA, "have 44 bytes, expected 40"},
    {"kind", 1, B(kind), 6, RT_EDATA, "a block of kind 6"},
    {"rows as lines", 1, B(kind), RT_ROWFILE_SKETCH, RT_EDATA, "a block of kind 5"},
    {"no kind", 1, B(kind), 0, RT_EDATA, "a block of kind 0"},
    {"table", 1, B(table), 3, RT_EDATA, "table 3"},
    {"rows of another table", 1, B(table), 1, RT_EDATA, "a block of kind 1, table 1"},
    {"attempt", 1, B(attempt), 8, RT_EDATA, "a block of attempt 8, the file's is 9"},
    {"place", 1, B(at), 8, RT_EDATA, "a block that belongs to byte 8"},
    {"count", 1, B(count), 51, RT_EDATA, "with 51 entries"},
    {"no rows", 1, B(count), 0, RT_EDATA, "with 0 entries"},
    {"rows as policies", 1, B(kind), RT_ROWFILE_POLICY, RT_EDATA, "a block of kind 3"},
    {"removed behind rows", 2, B(table), 0, RT_EDATA, "behind rows of their table"},
    {"removed of a full one", -1, P(base), 0, RT_EDATA, "in a full checkpoint"},
    {"ids as rows", 0, B(kind), RT_ROWFILE_ROWS, RT_EDATA, "a block of kind 1"},
    {"two policies", 3, B(count), 2, RT_EDATA, "a block of kind 3"},
    {"the end is elsewhere", 3, B(kind), RT_ROWFILE_END, RT_EDATA, "a block of kind 4"},
    {"the end of a table", 7, B(table), 1, RT_EDATA, "a block of kind 4, table 1"},
    {"end: rows", 7, sizeof(struct rt_rowfile_block_head), 49, RT_EDATA, "its end says 49"},
    {"end: removed", 7, sizeof(struct rt_rowfile_block_head) + 8, 1, RT_EDATA, "end says 50, 1"},
    {"end: digest", 7, sizeof(struct rt_rowfile_block_head) + 16, 1, RT_EDATA, "00000001"},
    {"a row is another's", 1, sizeof(struct rt_rowfile_block_head) + 8, 1, RT_EDATA, "with digest"},
    {"padding", 3, sizeof(struct rt_rowfile_block_head) + 4, 0x01000000, RT_EDATA,
     "does not end in zeros"},
};

static void forged_files_are_refused(void **state)
{
#undef P
#undef B
#undef E
    struct rt_rowfile_table sum[CHECKPOINT_BED_TABLES] = {{0}};
    struct rt_manifest_file told;
    size_t size;

    (void)state;
    write_bed(&increment, 0, sum, &told);
    uint8_t *is = get_file(&size), *data = rt_xmalloc(size);
    for (size_t i = 0; i < ARRAY_LEN(forged); i++) {
        memcpy(data, is, size);
        uint8_t *base = forged[i].block < 0 ? data : (void *)block_of(data, size, forged[i].block);
        memcpy(base + forged[i].at, &forged[i].value, sizeof(forged[i].value));
        if (strncmp(forged[i].name, "head", 4) != 0)
            make_good(data, size);
        put_file(data, size);
        int err = read_file(NULL);
        if (err != forged[i].want || (err && !strstr(rt_err_text(), forged[i].word)))
            fail_msg("%s: %d, expected %d: %s", forged[i].name, err, forged[i].want,
                     err ? rt_err_text() : "");
    }
    rt_free(data);
    rt_free(is);
}

/* Each byte in two ways, without a manifest that knows the digest. */
static void every_flip_is_seen(void **state)
{
    struct rt_rowfile_table sum[CHECKPOINT_BED_TABLES] = {{0}};
    struct checkpoint_spec spec = increment;
    struct rt_manifest_file told;
    size_t size;

    (void)state;
    spec.rows = 5;
    spec.removed = 3;
    write_bed(&spec, 0, sum, &told);
    uint8_t *data = get_file(&size);
    for (size_t i = 0; i < size; i++) {
        for (int all = 0; all < 2; all++) {
            uint8_t bits = all ? 0xff : (uint8_t)(1u << i % 8);

            data[i] ^= bits;
            put_file(data, size);
            if (read_file(&checkpoint_bed_job) == 0)
                fail_msg("byte %zu of %zu, %02x: not seen", i, size, bits);
            data[i] ^= bits;
        }
    }
    print_message("%zu flips, all seen\n", 2 * size);
    rt_free(data);
}

static void every_length_is_seen(void **state)
{
    struct rt_rowfile_table sum[CHECKPOINT_BED_TABLES] = {{0}};
    struct rt_manifest_file told;
    size_t size;

    (void)state;
    write_bed(&increment, 0, sum, &told);
    uint8_t *data = get_file(&size);
    data = rt_xrealloc(data, size + 100);
    memset(data + size, 0, 100);
    for (size_t n = 0; n < size + 100; n++) {
        if (n == size)
            continue;
        put_file(data, n);
        if (read_file(&checkpoint_bed_job) != RT_EDATA)
            fail_msg("%zu of %zu bytes: not seen", n, size);
        if (!strstr(rt_err_text(), path) || !strstr(rt_err_text(), "at byte"))
            fail_msg("%zu of %zu bytes: '%s'", n, size, rt_err_text());
    }
    rt_free(data);
}

/* ---- what may fail ---- */

static void reading_survives_what_fails(void **state)
{
    struct rt_rowfile_table sum[CHECKPOINT_BED_TABLES] = {{0}};
    struct rt_manifest_file told;
    int err, nth = 0;

    (void)state;
    write_bed(&increment, 0, sum, &told);
    for (;; nth++) {
        rt_fault_alloc(nth);
        err = read_file(&checkpoint_bed_job);
        bool hit = rt_fault_hit();
        rt_fault_alloc(-1);
        if (!hit)
            break;
        assert_true(err == RT_ENOMEM || err == RT_EFILE);
    }
    assert_int_equal(err, 0);
    assert_true(nth > 15); /* memory of head, tables, hash and payload; reads of each block */
}

static void writing_survives_out_of_memory(void **state)
{
    struct rt_rowfile_table sum[CHECKPOINT_BED_TABLES] = {{0}};
    struct rt_manifest_file told;
    int err, nth = 0;

    (void)state;
    unlink(path);
    for (;; nth++) {
        rt_fault_alloc(nth);
        err = checkpoint_bed_rows(path, &increment, 0, sum, &told);
        bool hit = rt_fault_hit();
        rt_fault_alloc(-1);
        if (!hit)
            break;
        assert_int_equal(err, RT_ENOMEM);
        assert_false(rt_file_exists(path));
    }
    assert_int_equal(err, 0);
    assert_int_equal(nth, 4);
}

static void what_is_no_file_is_not_read(void **state)
{
    char *link = rt_path_join(folder, "link");
    struct rt_rowfile *file = NULL;

    (void)state;
    put_file("x", 1);
    assert_int_equal(symlink(path, link), 0);
    assert_int_equal(rt_rowfile_open(link, NULL, &file), RT_EFILE); /* not followed */
    assert_int_equal(rt_rowfile_open(folder, NULL, &file), RT_EFILE);
    assert_non_null(strstr(rt_err_text(), "not a file"));
    unlink(link);
    assert_int_equal(rt_rowfile_open(link, NULL, &file), RT_EFILE);
    assert_int_equal(mkfifo(link, 0600), 0);
    assert_int_equal(rt_rowfile_open(link, NULL, &file), RT_EFILE); /* not waited for */
    rt_free(link);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_reads_back),
        cmocka_unit_test(large_payloads_become_several_blocks),
        cmocka_unit_test(digests_are_of_what_a_row_is_worth),
        cmocka_unit_test(digests_do_not_depend_on_owners),
        cmocka_unit_test(other_jobs_are_refused),
        cmocka_unit_test(forged_files_are_refused),
        cmocka_unit_test(every_flip_is_seen),
        cmocka_unit_test(every_length_is_seen),
        cmocka_unit_test(reading_survives_what_fails),
        cmocka_unit_test(writing_survives_out_of_memory),
        cmocka_unit_test(what_is_no_file_is_not_read),
    };

    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
