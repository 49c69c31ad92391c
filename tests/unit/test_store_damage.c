/* tests/unit/test_store_damage.c -- a checkpoint that is not as it was written is never called good: every byte flipped, 10,000 seeded
 * flips of a larger one, every length, blocks and files that changed places. */
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "runtime/checkpoint/rowfile_impl.h"
#include "runtime/checkpoint/store.h"
#include "tests/lib/checkpoint_bed.h"
#include "tests/lib/temp.h"

#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>
#include <cmocka.h>

#define SEED         3
#define RANDOM_FLIPS 10000

static char dir[TEMP_PATH_MAX];
static const struct rt_job *const job = &checkpoint_bed_job;

/* Two that differ in nothing but their attempt, and a small one. */
static const struct checkpoint_spec large[] = {
    {.name = "a", .attempt = 1, .owners = 3, .rows = 3000, .dense = 20000},
    {.name = "b", .attempt = 2, .owners = 3, .rows = 3000, .dense = 20000},
};
static const struct checkpoint_spec small = {.name = "s",
                                             .attempt = 4,
                                             .base = 2,
                                             .base_name = "b",
                                             .owners = 2,
                                             .rows = 4,
                                             .removed = 2,
                                             .dense = 50};

static int set_up(void **state)
{
    (void)state;
    temp_folder(dir);
    for (size_t i = 0; i < ARRAY_LEN(large); i++)
        assert_int_equal(checkpoint_bed_write(dir, &large[i]), 0);
    assert_int_equal(checkpoint_bed_write(dir, &small), 0);
    return 0;
}

static int remove_path(const char *name, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    return remove(name);
}

static int tear_down(void **state)
{
    (void)state;
    return nftw(dir, remove_path, 8, FTW_DEPTH | FTW_PHYS);
}

static struct rt_manifest *manifest_of(const char *name)
{
    struct rt_manifest *m;

    if (rt_manifest_read(dir, name, &m) != 0)
        fail_msg("%s", rt_err_text());
    return m;
}

/* 0: it is called good. */
static int verify(const char *name)
{
    struct rt_manifest *m;
    int err = rt_manifest_read(dir, name, &m);

    if (err)
        return err;
    err = rt_store_verify(dir, m, job, NULL, NULL);
    rt_manifest_destroy(m);
    return err;
}

static void all_are_good(void)
{
    if (verify("a") != 0 || verify("b") != 0 || verify("s") != 0)
        fail_msg("%s", rt_err_text());
}

/* One of its files, open and as it was. */
struct victim {
    char *path;
    uint8_t *data;
    size_t size;
    int fd;
};

static struct victim open_file(const char *name, const char *file)
{
    struct victim v = {.path = rt_xasprintf("%s/%s/%s", dir, name, file)};
    char *text;

    assert_int_equal(rt_file_read(v.path, (size_t)1 << 30, &text, &v.size), 0);
    v.data = (uint8_t *)text;
    v.fd = open(v.path, O_RDWR | O_CLOEXEC);
    assert_true(v.fd >= 0);
    return v;
}

static void change(const struct victim *v, const void *data, size_t at, size_t size)
{
    assert_int_equal(pwrite(v->fd, data, size, (off_t)at), size);
}

static void close_file(struct victim *v)
{
    assert_int_equal(ftruncate(v->fd, (off_t)v->size), 0);
    change(v, v->data, 0, v->size);
    close(v->fd);
    rt_free(v->data);
    rt_free(v->path);
}

static void flip(const struct victim *v, size_t at, uint8_t bits)
{
    uint8_t byte = v->data[at] ^ bits;

    change(v, &byte, at, 1);
}

/* ---- small: everything ---- */

/* A bit of each byte, another one for the next byte; and all of its bits. */
static size_t flip_all(const char *file)
{
    struct victim v = open_file("s", file);

    for (size_t at = 0; at < v.size; at++) {
        for (int all = 0; all < 2; all++) {
            flip(&v, at, all ? 0xff : (uint8_t)(1u << at % 8));
            if (verify("s") == 0)
                fail_msg("%s: byte %zu of %zu: called good", file, at, v.size);
            if (!strstr(rt_err_text(), file))
                fail_msg("%s: byte %zu: '%s'", file, at, rt_err_text());
        }
        change(&v, &v.data[at], at, 1);
    }
    size_t n = 2 * v.size;
    close_file(&v);
    return n;
}

static void every_byte_counts(void **state)
{
    struct rt_manifest *m = manifest_of("s");
    size_t n = flip_all(RT_MANIFEST_NAME);

    (void)state;
    for (uint32_t i = 0; i < m->n_files; i++)
        n += flip_all(m->file[i].name);
    all_are_good();
    print_message("%zu flips, all detected\n", n);
    rt_manifest_destroy(m);
}

static void every_length_counts(void **state)
{
    static const char *const file[] = {RT_MANIFEST_NAME, "rows.00001", "dense.safetensors",
                                       "model.yml"};
    size_t n = 0;

    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(file); k++) {
        struct victim v = open_file("s", file[k]);

        for (size_t size = 0; size < v.size + 9; size++, n++) {
            if (size == v.size)
                continue;
            assert_int_equal(ftruncate(v.fd, (off_t)size), 0);
            if (size > v.size)
                change(&v, v.data, 0, v.size); /* as it was, and zeros behind it */
            if (verify("s") == 0)
                fail_msg("%s: %zu of %zu bytes: called good", file[k], size, v.size);
        }
        close_file(&v);
    }
    all_are_good();
    print_message("%zu lengths, all detected\n", n);
}

/* ---- large: at random ---- */

/* One to three bits of one byte, a few bytes in a row, or a zeroed stretch: as disks do it. @return false: nothing has changed */
static bool hurt(const struct victim *v, uint64_t draw)
{
    uint8_t stretch[64];
    size_t at = (size_t)rt_below(rt_draw(draw, 0), v->size);
    size_t n = 1 + (size_t)rt_below(rt_draw(draw, 1), sizeof(stretch));

    if (rt_draw(draw, 2) % 4 > 0) {
        flip(v, at, (uint8_t)(1u << rt_draw(draw, 3) % 8 | 1u << rt_draw(draw, 4) % 8));
        return true;
    }
    if (n > v->size - at)
        n = v->size - at;
    for (size_t i = 0; i < n; i++)
        stretch[i] = rt_draw(draw, 5) % 2 ? 0 : (uint8_t)rt_draw(draw, 6 + i);
    change(v, stretch, at, n);
    return memcmp(stretch, v->data + at, n) != 0;
}

static void random_damage_is_seen(void **state)
{
    struct rt_manifest *m = manifest_of("a");
    size_t of_file[8], changed = 0;
    struct victim v[8];
    uint64_t all = 0;

    (void)state;
    assert_in_range(m->n_files, 1, ARRAY_LEN(v));
    for (uint32_t i = 0; i < m->n_files; i++) {
        v[i] = open_file("a", m->file[i].name);
        of_file[i] = v[i].size;
        all += v[i].size;
    }
    for (uint64_t seed = 0; changed < RANDOM_FLIPS; seed++) {
        uint64_t at = rt_below(rt_draw(SEED, seed), all);
        uint32_t i = 0;

        while (at >= of_file[i])
            at -= of_file[i++];
        if (hurt(&v[i], rt_draw(SEED + 1, seed))) {
            changed++;
            /* The file alone; now and then all of it, as a user would. */
            int err = changed % 64 ? rt_store_verify_file(dir, m, i, job, NULL, NULL) : verify("a");
            if (err == 0)
                fail_msg("seed %llu: %s: called good", (unsigned long long)seed, v[i].path);
            if (!strstr(rt_err_text(), v[i].path))
                fail_msg("seed %llu: %s: '%s'", (unsigned long long)seed, v[i].path, rt_err_text());
        }
        change(&v[i], v[i].data, 0, v[i].size);
    }
    for (uint32_t i = 0; i < m->n_files; i++)
        close_file(&v[i]);
    all_are_good();
    print_message("%zu random changes, all detected\n", changed);
    rt_manifest_destroy(m);
}

/* ---- what changed places ---- */

/* Without the manifest's digests: the file alone. */
static int read_file(const char *path)
{
    struct rt_rowfile_block block;
    struct rt_rowfile *file = NULL;
    int rc = rt_rowfile_open(path, job, &file);

    while (rc == 0 && (rc = rt_rowfile_next(file, &block)) > 0)
        rc = 0;
    rt_rowfile_close(file);
    return rc;
}

struct place {
    size_t at, bytes;
};

static size_t find_blocks(const struct victim *v, struct place *out, size_t most)
{
    struct rt_rowfile_prelude p;
    struct rt_rowfile_block_head b;
    size_t n = 0;

    memcpy(&p, v->data, sizeof(p));
    for (size_t at = p.head_bytes; at < v->size && n < most; at += out[n++].bytes) {
        memcpy(&b, v->data + at, sizeof(b));
        out[n] = (struct place){at, sizeof(b) + rt_align_up(b.bytes, RT_ROWFILE_ALIGN)};
    }
    return n;
}

/* Each pair of blocks swapped, each one doubled over another, each one left out. */
static void blocks_that_changed_places_are_seen(void **state)
{
    struct victim v = open_file("a", "rows.00001");
    struct place block[128];
    size_t n = find_blocks(&v, block, ARRAY_LEN(block)), tried = 0;
    uint8_t *data = rt_xmalloc(2 * v.size);

    (void)state;
    assert_true(n > 20);
    for (size_t i = 0; i < n; i++) {
        for (size_t k = i + 1; k < n; k++, tried++) {
            struct place a = block[i], b = block[k];
            size_t between = b.at - a.at - a.bytes, at = a.at;

            memcpy(data, v.data, v.size);
            memcpy(data + at, v.data + b.at, b.bytes);
            memcpy(data + at + b.bytes, v.data + a.at + a.bytes, between);
            memcpy(data + at + b.bytes + between, v.data + a.at, a.bytes);
            change(&v, data, 0, v.size);
            if (read_file(v.path) != RT_EDATA)
                fail_msg("blocks %zu and %zu swapped: called good", i, k);
            if (a.bytes != b.bytes)
                continue;
            change(&v, v.data, 0, v.size);
            change(&v, v.data + a.at, b.at, b.bytes);
            if (read_file(v.path) != RT_EDATA)
                fail_msg("block %zu over %zu: called good", i, k);
        }
        change(&v, v.data, 0, v.size);
        change(&v, v.data + block[i].at + block[i].bytes, block[i].at,
               v.size - block[i].at - block[i].bytes);
        assert_int_equal(ftruncate(v.fd, (off_t)(v.size - block[i].bytes)), 0);
        if (read_file(v.path) != RT_EDATA)
            fail_msg("without block %zu: called good", i);
        assert_int_equal(ftruncate(v.fd, (off_t)v.size), 0);
    }
    print_message("%zu pairs of %zu blocks, all detected\n", tried, n);
    rt_free(data);
    close_file(&v);
    all_are_good();
}

/* The same block of another checkpoint: its rows are right, its attempt is not. */
static void blocks_of_another_checkpoint_are_seen(void **state)
{
    struct victim a = open_file("a", "rows.00001"), b = open_file("b", "rows.00001");
    struct place block[128];
    size_t n = find_blocks(&a, block, ARRAY_LEN(block));

    (void)state;
    assert_int_equal(a.size, b.size);
    for (size_t i = 0; i < n; i++) {
        change(&a, b.data + block[i].at, block[i].at, block[i].bytes);
        assert_int_equal(read_file(a.path), RT_EDATA);
        assert_non_null(strstr(rt_err_text(), "a block of attempt 2, the file's is 1"));
        change(&a, a.data, 0, a.size);
    }
    close_file(&b);
    close_file(&a);
}

static void swap_files(const char *name, const char *file, const char *other_name,
                       const char *other)
{
    char *x = rt_xasprintf("%s/%s/%s", dir, name, file);
    char *y = rt_xasprintf("%s/%s/%s", dir, other_name, other);
    char *z = rt_path_join(dir, "z");

    assert_int_equal(rename(x, z), 0);
    assert_int_equal(rename(y, x), 0);
    assert_int_equal(rename(z, y), 0);
    rt_free(z);
    rt_free(y);
    rt_free(x);
}

static void files_that_changed_places_are_seen(void **state)
{
    static const struct {
        const char *name, *file, *other_name, *other;
        const char *word;
    } row[] = {
        {"a", "rows.00000", "a", "rows.00001", "expected owner"},
        {"a", "rows.00001", "a", "rows.00002", "expected owner"},
        {"a", "rows.00002", "b", "rows.00002", "rows of attempt"},
        {"a", "rows.00000", "s", "rows.00000", "rows of attempt"},
        {"a", "dense.safetensors", "b", "dense.safetensors", "its digest is"},
        {"a", "dense.safetensors", "a", "model.yml", "bytes, expected"},
        {"a", "rows.00000", "a", "dense.safetensors", "does not begin with"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        swap_files(row[i].name, row[i].file, row[i].other_name, row[i].other);
        if (verify("a") != RT_EDATA || !strstr(rt_err_text(), row[i].word))
            fail_msg("row %zu: '%s'", i, rt_err_text());
        assert_int_not_equal(verify(row[i].other_name), 0);
        swap_files(row[i].name, row[i].file, row[i].other_name, row[i].other);
    }
    swap_files("a", RT_MANIFEST_NAME, "b", RT_MANIFEST_NAME);
    assert_int_equal(verify("a"), RT_EDATA);
    assert_non_null(strstr(rt_err_text(), "a folder keeps its name"));
    swap_files("a", RT_MANIFEST_NAME, "b", RT_MANIFEST_NAME);
    all_are_good();
}

/* A forger's manifest: sums that its files have not. */
static void sums_of_the_manifest_are_looked_at(void **state)
{
    struct rt_manifest *m = manifest_of("s");
    struct rt_manifest_table table[CHECKPOINT_BED_TABLES];

    (void)state;
    for (int i = 0; i < 3; i++) {
        struct rt_manifest forged = *m;

        memcpy(table, m->table, sizeof(table));
        forged.table = table;
        table[2].rows += i == 0;
        table[1].digest += i == 1;
        table[0].removed += i == 2;
        assert_int_equal(rt_store_verify(dir, &forged, job, NULL, NULL), RT_EDATA);
        assert_non_null(strstr(rt_err_text(), "the manifest says"));
    }
    rt_manifest_destroy(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_byte_counts),
        cmocka_unit_test(every_length_counts),
        cmocka_unit_test(random_damage_is_seen),
        cmocka_unit_test(blocks_that_changed_places_are_seen),
        cmocka_unit_test(blocks_of_another_checkpoint_are_seen),
        cmocka_unit_test(files_that_changed_places_are_seen),
        cmocka_unit_test(sums_of_the_manifest_are_looked_at),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
