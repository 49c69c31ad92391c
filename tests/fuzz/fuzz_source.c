/* tests/fuzz/fuzz_source.c -- files in memory, read whole and in small pieces: both give the same lines.
 *
 * The first byte is the largest read (0: as many bytes as are asked for), the second how much of the rest
 * is in the first of two files, in 256ths. A broken file may give fewer lines when it is read in large
 * pieces, but it is broken both times. */
#include "data_compose/source.h"
#include "runtime/base/assert.h"
#include "runtime/base/hash.h"
#include "runtime/base/mem.h"
#include "runtime/net/io.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

struct rt_file {
    const uint8_t *data;
    size_t size, at, read_max;
};

struct memory_io {
    struct rt_io io;
    struct rt_file file[2];
};

static int file_open(struct rt_io *io, const char *path, struct rt_file **out)
{
    struct memory_io *m = (struct memory_io *)io;

    *out = &m->file[path[0] - '0'];
    (*out)->at = 0;
    return 0;
}

static ssize_t file_read(struct rt_file *file, void *out, size_t size)
{
    size_t left = file->size - file->at, n = size < left ? size : left;

    if (file->read_max && n > file->read_max)
        n = file->read_max;
    if (n)
        memcpy(out, file->data + file->at, n);
    file->at += n;
    return (ssize_t)n;
}

static void file_close(struct rt_file *file)
{
    file->at = file->size;
}

static const struct rt_io_ops ops = {
    .file_open = file_open, .file_read = file_read, .file_close = file_close};

/* All lines of both files as one number in *hash. */
static int read_all(struct memory_io *m, uint64_t *hash)
{
    static const char *const path[] = {"0", "1"};
    struct dc_source *source = dc_source_create(&m->io, path, 2);
    struct dc_line line;
    uint64_t number = 0;
    uint32_t file = 0;
    int rc;

    while ((rc = dc_source_line(source, &line)) > 0) {
        rt_assert(line.size <= DC_LINE_MAX && line.file < 2 && line.file >= file);
        number = line.file == file ? number + 1 : 1;
        file = line.file;
        rt_assert(line.number == number);
        rt_assert(!memchr(line.text, '\n', line.size));
        uint64_t part[] = {*hash, line.file, line.number, rt_hash_bytes(line.text, line.size)};
        *hash = rt_hash_bytes(part, sizeof part);
    }
    rt_assert(rc != 0 || dc_source_bytes(source) == m->file[0].size + m->file[1].size);
    dc_source_destroy(source);
    return rc;
}

int fuzz_source(const uint8_t *data, size_t size)
{
    struct memory_io m = {.io = {&ops}};
    uint64_t whole = 0, pieces = 0;

    if (size < 2)
        return 0;
    size_t first = (size - 2) * data[1] / 255;
    m.file[0] = (struct rt_file){.data = data + 2, .size = first};
    m.file[1] = (struct rt_file){.data = data + 2 + first, .size = size - 2 - first};
    int rc = read_all(&m, &whole);
    if (data[0] == 0)
        return 0;
    m.file[0].read_max = m.file[1].read_max = data[0];
    rt_assert(read_all(&m, &pieces) == rc);
    rt_assert(rc != 0 || whole == pieces);
    return 0;
}
