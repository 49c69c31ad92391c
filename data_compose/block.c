/* data_compose/block.c -- files of block.h mapped, and their blocks verified and unpacked.
 *
 * TRUST. Nothing in a file is used before its checksum fits and its numbers are within bounds that follow from the
 * file's size and the shape that the reader brings: where an index, a block, a column lies; how many values it has
 * (rows, or the sum of a column of lengths that was verified before it); how large it is unpacked, which follows from
 * that number; codes below the size of their dictionary. So a broken file costs no more memory than a good one, and
 * a block that is broken says so and leaves the others alone. */
#include "data_compose/block.h"
#include "data_compose/block_form.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/hash.h"
#include "runtime/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <lz4.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

struct dc_block_file {
    const struct dc_block_shape *shape;
    char *name;
    const uint8_t *data;
    size_t size;
    bool mapped;
    uint64_t rows;
    uint32_t n_blocks;
    const struct dc_form_place *place; /* [n_blocks] */
    uint64_t index_at;
};

/* ---- opening ---- */

static int check_header(const struct dc_block_file *f)
{
    struct dc_form_header h;

    if (f->size < DC_FORM_ALIGN || memcmp(f->data, DC_FORM_MAGIC, sizeof(h.magic)) != 0)
        return RT_FAIL(RT_EDATA, "%s: expected a file of `saffron-data-compose convert`", f->name);
    memcpy(&h, f->data, sizeof(h));
    if (h.version != DC_FORM_VERSION)
        return RT_FAIL(RT_EUSAGE,
                       "%s: form %u of the binary files, expected %u: convert the data again",
                       f->name, h.version, DC_FORM_VERSION);
    uint32_t crc = h.crc;
    h.crc = 0;
    if (rt_crc32c(0, &h, sizeof(h)) != crc)
        return RT_FAIL(RT_EDATA, "%s: the header is broken (its checksum differs)", f->name);
    if (h.shape != f->shape->hash || h.n_columns != f->shape->n_columns)
        return RT_FAIL(RT_EUSAGE,
                       "%s: made for other columns than data.yml and embedding.yml have now: "
                       "convert the data again",
                       f->name);
    return 0;
}

static int check_footer(struct dc_block_file *f)
{
    struct dc_form_footer foot;
    const uint8_t *at = f->data + f->size - sizeof(foot);

    memcpy(&foot, at, sizeof(foot)); /* the header is larger, so it is there */
    if (memcmp(foot.magic, DC_FORM_END, sizeof(foot.magic)) != 0)
        return RT_FAIL(RT_EDATA, "%s: ends early at byte %zu (truncated file?)", f->name, f->size);
    uint32_t crc = foot.crc;
    size_t index = (size_t)foot.n_blocks * sizeof(struct dc_form_place);
    foot.crc = 0;
    if (rt_crc32c(0, &foot, sizeof(foot)) != crc || foot.index_at > f->size ||
        foot.index_at % DC_FORM_ALIGN || f->size - foot.index_at != index + sizeof(foot) ||
        rt_crc32c(0, f->data + foot.index_at, index) != foot.index_crc)
        return RT_FAIL(RT_EDATA, "%s: the index is broken (its checksum differs)", f->name);
    f->rows = foot.rows;
    f->n_blocks = foot.n_blocks;
    f->index_at = foot.index_at;
    f->place = (const struct dc_form_place *)(const void *)(f->data + foot.index_at);
    return 0;
}

static int check_index(const struct dc_block_file *f)
{
    uint64_t row = 0, at = 0;

    for (uint32_t i = 0; i < f->n_blocks; i++) {
        struct dc_block_place p = dc_block_at(f, i);

        if (p.first != row || p.rows == 0 || p.rows > DC_BLOCK_ROWS || f->place[i].at <= at ||
            f->place[i].at % DC_FORM_ALIGN || p.bytes < sizeof(struct dc_form_head))
            return RT_FAIL(RT_EDATA, "%s: the index is broken at block %u", f->name, i);
        row += p.rows;
        at = f->place[i].at;
    }
    return row == f->rows
               ? 0
               : RT_FAIL(RT_EDATA, "%s: the index has %" PRIu64 " rows, the footer %" PRIu64,
                         f->name, row, f->rows);
}

int dc_block_open_bytes(const char *name, const void *data, size_t size,
                        const struct dc_block_shape *shape, struct dc_block_file **out)
{
    struct dc_block_file *f = rt_xcalloc(1, sizeof(*f));

    f->shape = shape;
    f->name = rt_xstrdup(name);
    f->data = data;
    f->size = size;
    int err = check_header(f);
    if (!err)
        err = check_footer(f);
    if (!err)
        err = check_index(f);
    if (err) {
        dc_block_close(f);
        return err;
    }
    *out = f;
    return 0;
}

static int map_file(const char *path, const uint8_t **data, size_t *size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC), err = 0;
    struct stat st;
    void *at;

    *data = NULL;
    *size = 0;
    if (fd < 0 || fstat(fd, &st) != 0) {
        err = RT_FAIL(RT_EFILE, "%s: cannot open: %s", path, strerror(errno));
    } else if (st.st_size > 0) { /* an empty file cannot be mapped; it is too short to be read */
        at = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (at == MAP_FAILED) {
            err = RT_FAIL(RT_EFILE, "%s: cannot map: %s", path, strerror(errno));
        } else {
            madvise(at, (size_t)st.st_size, MADV_SEQUENTIAL);
            *data = at;
            *size = (size_t)st.st_size;
        }
    }
    if (fd >= 0)
        close(fd);
    return err;
}

int dc_block_open(const char *path, const struct dc_block_shape *shape, struct dc_block_file **out)
{
    const uint8_t *data;
    size_t size;
    int err = map_file(path, &data, &size);

    if (err)
        return err;
    err = dc_block_open_bytes(path, data, size, shape, out);
    if (err && data)
        munmap((void *)(uintptr_t)data, size);
    else if (!err)
        (*out)->mapped = true;
    return err;
}

void dc_block_close(struct dc_block_file *file)
{
    if (!file)
        return;
    if (file->mapped)
        munmap((void *)(uintptr_t)file->data, file->size);
    rt_free(file->name);
    rt_free(file);
}

uint64_t dc_block_file_rows(const struct dc_block_file *file)
{
    return file->rows;
}

uint32_t dc_block_count(const struct dc_block_file *file)
{
    return file->n_blocks;
}

struct dc_block_place dc_block_at(const struct dc_block_file *file, uint32_t i)
{
    bool last = i + 1 == file->n_blocks;
    uint64_t end = last ? file->index_at : file->place[i + 1].at;
    uint64_t row = last ? file->rows : file->place[i + 1].first_row;
    uint64_t rows = row - file->place[i].first_row;

    rt_assert(i < file->n_blocks);
    return (struct dc_block_place){
        .first = file->place[i].first_row,
        .bytes = end > file->place[i].at ? end - file->place[i].at : 0,
        .rows = rows > UINT32_MAX ? UINT32_MAX : (uint32_t)rows,
    };
}

/* ---- a block ---- */

void dc_block_view_release(struct dc_block_view *view)
{
    rt_free(view->column);
    rt_free(view->unpacked);
    *view = (struct dc_block_view){0};
}

struct block {
    const struct dc_block_file *file;
    uint32_t number;
    struct dc_block_place place;
    const uint8_t *data; /* [place.bytes] */
    const struct dc_form_entry *entry;
};

static int broken(const struct block *b, const char *what)
{
    return RT_FAIL(RT_EDATA, "%s: block %u (rows %" PRIu64 " to %" PRIu64 ") is broken: %s",
                   b->file->name, b->number, b->place.first + 1, b->place.first + b->place.rows,
                   what);
}

static int broken_column(const struct block *b, uint32_t column, const char *what)
{
    return RT_FAIL(
        RT_EDATA, "%s: block %u (rows %" PRIu64 " to %" PRIu64 ") is broken: column %u: %s",
        b->file->name, b->number, b->place.first + 1, b->place.first + b->place.rows, column, what);
}

static int check_head(struct block *b)
{
    uint32_t n_columns = b->file->shape->n_columns;
    size_t entries = n_columns * sizeof(struct dc_form_entry);
    struct dc_form_head head;

    memcpy(&head, b->data, sizeof(head));
    if (head.magic != DC_FORM_BLOCK || b->place.bytes < sizeof(head) + entries)
        return broken(b, "no block begins there");
    uint32_t crc = head.crc;
    head.crc = 0;
    if (rt_crc32c(rt_crc32c(0, &head, sizeof(head)), b->data + sizeof(head), entries) != crc)
        return broken(b, "the checksum of its head differs");
    if (head.rows != b->place.rows || head.n_columns != n_columns ||
        head.first_row != b->place.first || head.bytes > b->place.bytes)
        return broken(b, "its head and the index differ");
    b->entry = (const struct dc_form_entry *)(const void *)(b->data + sizeof(head));
    return 0;
}

/* Bytes of an entry's values as its encoding has them; 0 beside values: no such encoding. */
static uint64_t raw_bytes(const struct dc_form_entry *e, uint32_t width)
{
    switch (e->encoding) {
    case DC_PLAIN:
        return (uint64_t)e->n * width;
    case DC_NARROW:
        return width == 8 ? (uint64_t)e->n * 4 : 0;
    case DC_DICT8:
        return width > 1 && e->n_dict <= 256 ? (uint64_t)e->n_dict * width + e->n : 0;
    case DC_DICT16:
        return width > 1 && e->n_dict <= 65536 ? (uint64_t)e->n_dict * width + (uint64_t)e->n * 2
                                               : 0;
    default:
        return 0;
    }
}

/* The numbers of all entries, but how many values each has; how much there is to unpack. */
static int check_entries(const struct block *b, size_t *unpacked)
{
    const struct dc_block_shape *shape = b->file->shape;
    uint64_t raw = 0;

    *unpacked = 0;
    for (uint32_t c = 0; c < shape->n_columns; c++) {
        const struct dc_form_entry *e = &b->entry[c];

        raw += e->raw;
        if (e->raw != raw_bytes(e, shape->column[c].width) || (e->n && !e->raw) ||
            raw > DC_BLOCK_BYTES_MAX || e->packing > DC_BLOCK_ZSTD ||
            (e->packing == DC_BLOCK_RAW ? e->packed != e->raw : e->packed >= e->raw) ||
            e->packed > b->place.bytes || e->at > b->place.bytes - e->packed ||
            e->at % DC_FORM_ALIGN)
            return broken_column(b, c, "its sizes contradict each other");
        if (e->packing != DC_BLOCK_RAW)
            *unpacked += rt_align_up(e->raw, DC_FORM_ALIGN);
    }
    return 0;
}

static int reserve(const struct block *b, struct dc_block_view *view, size_t unpacked)
{
    uint32_t n = b->file->shape->n_columns;

    if (view->n_columns < n) {
        struct dc_vector *column = rt_try_realloc(view->column, n * sizeof(*column));
        if (!column)
            return RT_FAIL(RT_ENOMEM, "no memory for %u columns", n);
        view->column = column;
        view->n_columns = n;
    }
    if (view->capacity >= unpacked)
        return 0;
    rt_free(view->unpacked);
    view->capacity = 0;
    view->unpacked = rt_try_aligned(unpacked);
    if (!view->unpacked)
        return RT_FAIL(RT_ENOMEM, "no memory to unpack %zu bytes", unpacked);
    view->capacity = unpacked;
    return 0;
}

/* The column's bytes unpacked: where they lie in the file, or at *to, which moves on. */
static int unpack(const struct block *b, uint32_t column, uint8_t **to, const uint8_t **out)
{
    const struct dc_form_entry *e = &b->entry[column];
    const uint8_t *packed = b->data + e->at;
    bool good = true;

    if (rt_crc32c(0, packed, e->packed) != e->crc)
        return broken_column(b, column, "its checksum differs");
    *out = packed;
    if (e->packing == DC_BLOCK_RAW)
        return 0;
    *out = *to;
    if (e->packing == DC_BLOCK_LZ4)
        good = LZ4_decompress_safe((const char *)packed, (char *)*to, (int)e->packed,
                                   (int)e->raw) == (int)e->raw;
    else
        good = ZSTD_decompress(*to, e->raw, packed, e->packed) == e->raw;
    *to += rt_align_up(e->raw, DC_FORM_ALIGN);
    return good ? 0 : broken_column(b, column, "it cannot be unpacked");
}

typedef uint8_t codes8 __attribute__((vector_size(16), aligned(1), may_alias));
typedef uint16_t codes16 __attribute__((vector_size(16), aligned(2), may_alias));

static uint32_t largest8(const uint8_t *code, uint32_t n)
{
    codes8 most = {0};
    uint32_t i = 0, out = 0;

    for (; i + 16 <= n; i += 16) {
        codes8 c = *(const codes8 *)(code + i), over = (codes8)(c > most);
        most = (c & over) | (most & ~over);
    }
    for (uint32_t k = 0; k < 16; k++)
        out = most[k] > out ? most[k] : out;
    for (; i < n; i++)
        out = code[i] > out ? code[i] : out;
    return out;
}

static uint32_t largest16(const uint16_t *code, uint32_t n)
{
    codes16 most = {0};
    uint32_t i = 0, out = 0;

    for (; i + 8 <= n; i += 8) {
        codes16 c = *(const codes16 *)(code + i), over = (codes16)(c > most);
        most = (c & over) | (most & ~over);
    }
    for (uint32_t k = 0; k < 8; k++)
        out = most[k] > out ? most[k] : out;
    for (; i < n; i++)
        out = code[i] > out ? code[i] : out;
    return out;
}

static bool codes_below(const struct dc_vector *v)
{
    return v->n == 0 || (v->encoding == DC_DICT8 ? largest8(v->code, v->n)
                                                 : largest16(v->code, v->n)) < v->n_dict;
}

static int set_vector(const struct block *b, uint32_t column, const uint8_t *raw,
                      struct dc_vector *v)
{
    const struct dc_form_entry *e = &b->entry[column];
    uint32_t width = b->file->shape->column[column].width;

    *v = (struct dc_vector){.n = e->n, .width = width, .encoding = e->encoding};
    if (e->encoding == DC_PLAIN || e->encoding == DC_NARROW) {
        v->plain = raw;
        return 0;
    }
    v->n_dict = e->n_dict;
    v->dict = raw;
    v->code = raw + (size_t)e->n_dict * width;
    return codes_below(v) ? 0 : broken_column(b, column, "a code is over its dictionary");
}

/* As many values as the rows have. A column of lengths comes before those whose values it counts. */
static int check_count(const struct block *b, uint32_t column, const struct dc_block_view *view)
{
    const struct dc_block_column *shape = b->file->shape->column;
    uint64_t n = b->place.rows;

    if (shape[column].lengths) {
        uint32_t by = shape[column].lengths - 1;
        const struct dc_vector *lengths = &view->column[by];

        n = 0;
        for (uint32_t i = 0; i < b->place.rows; i++) {
            uint32_t length = dc_vector_u32(lengths, i);

            if (length > shape[by].max)
                return broken_column(b, by, "a length is over its limit");
            n += length;
        }
    }
    return b->entry[column].n == n ? 0
                                   : broken_column(b, column, "it has too few or too many values");
}

int dc_block_read(const struct dc_block_file *file, uint32_t i, struct dc_block_view *view)
{
    struct block b = {.file = file, .number = i, .place = dc_block_at(file, i)};
    size_t unpacked;

    b.data = file->data + file->place[i].at;
    view->rows = 0;
    int err = check_head(&b);
    if (!err)
        err = check_entries(&b, &unpacked);
    if (!err)
        err = reserve(&b, view, unpacked);
    uint8_t *to = view->unpacked;
    for (uint32_t c = 0; !err && c < file->shape->n_columns; c++) {
        const uint8_t *raw = NULL;

        err = check_count(&b, c, view);
        if (!err)
            err = unpack(&b, c, &to, &raw);
        if (!err)
            err = set_vector(&b, c, raw, &view->column[c]);
    }
    if (!err)
        view->rows = b.place.rows;
    return err;
}
