/* data_compose/block_write.c -- rows into the blocks of a file (block_form.h).
 *
 *   values of a row -> a buffer per column -8,192 rows-> encoded -> packed -> dc_writer (PATH.partial, synced, renamed)
 *
 * ENCODING. Ids are mostly hashes of 8 bytes that come again and again: nothing that a packer of byte strings
 * finds soon. So a column's distinct values are written once, with a code of 1 or 2 bytes for each value, wherever
 * that is smaller; a block of 8,192 rows has few enough. Codes are also what a reader gathers fastest. Packing all of it
 * as plain values was the alternative: LZ4 then takes a match for each id and costs several times as much to read.
 * What packing does not make smaller by an eighth stays as it is, and is used where it lies in the file. */
#include "data_compose/block.h"
#include "data_compose/block_form.h"
#include "data_compose/writer.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/hash.h"
#include "runtime/base/mem.h"

#include <lz4.h>
#include <stdbool.h>
#include <string.h>
#include <zstd.h>

#define BLOCK_FULL  (DC_BLOCK_BYTES_MAX / 2) /* bytes that end a block before its rows do */
#define ROW_MAX     (DC_BLOCK_BYTES_MAX / 4)
#define DICT_MAX    65536u
#define DICT_SLOTS  (4 * DICT_MAX)
#define ZSTD_LEVEL  3
#define NARROW_MAX  UINT32_MAX
#define WORTH(size) ((size) - (size) / 8) /* packed must be no larger than this */

struct buffer {
    uint8_t *byte;
    size_t size, capacity;
};

struct dc_block_writer {
    const struct dc_block_shape *shape;
    enum dc_block_packing packing;
    struct dc_writer *file;
    char *path;
    uint64_t at, rows; /* bytes and rows handed to the file */
    uint32_t n;        /* rows of the open block */
    size_t bytes, row_bytes;
    struct buffer *column; /* [n_columns] of the open block */
    struct buffer encoded, packed, block, index;
    uint32_t n_blocks;
    /* Distinct values of the column that is being encoded: a table of 1 + code, stamped so that nothing is cleared. */
    uint64_t *value; /* [DICT_MAX] by code */
    uint32_t *slot, *stamp, now;
    uint16_t *code;
    size_t code_capacity;
};

static void *room(struct buffer *b, size_t more)
{
    if (b->size + more > b->capacity) {
        b->capacity = b->capacity * 2 > b->size + more ? b->capacity * 2 : b->size + more;
        b->byte = rt_xrealloc(b->byte, b->capacity);
    }
    b->size += more;
    return b->byte + b->size - more;
}

static void append(struct buffer *b, const void *data, size_t size)
{
    if (size)
        memcpy(room(b, size), data, size);
}

/* ---- life ---- */

static int put_file(struct dc_block_writer *w, const void *data, size_t size)
{
    static const uint8_t zero[DC_FORM_ALIGN];
    size_t pad = rt_align_up(w->at, DC_FORM_ALIGN) - w->at;
    int err = pad ? dc_writer_add(w->file, zero, pad) : 0;

    if (!err)
        err = dc_writer_add(w->file, data, size);
    w->at += pad + size;
    return err;
}

int dc_block_writer_create(const char *path, const struct dc_block_shape *shape,
                           enum dc_block_packing packing, struct dc_block_writer **out)
{
    struct dc_form_header header = {
        .magic = DC_FORM_MAGIC,
        .version = DC_FORM_VERSION,
        .n_columns = shape->n_columns,
        .shape = shape->hash,
    };
    struct dc_block_writer *w = rt_xcalloc(1, sizeof(*w));

    rt_assert(shape->n_columns <= DC_BLOCK_COLUMNS_MAX);
    w->shape = shape;
    w->packing = packing;
    w->path = rt_xstrdup(path);
    w->column = rt_xcalloc(shape->n_columns + 1, sizeof(*w->column));
    w->value = rt_xmalloc(DICT_MAX * sizeof(*w->value));
    w->slot = rt_xmalloc(DICT_SLOTS * sizeof(*w->slot));
    w->stamp = rt_xcalloc(DICT_SLOTS, sizeof(*w->stamp));
    header.crc = rt_crc32c(0, &header, sizeof(header));
    int err = dc_writer_create(path, DC_PACKING_NONE, &w->file);
    if (!err)
        err = put_file(w, &header, sizeof(header));
    if (err) {
        dc_block_writer_destroy(w);
        return err;
    }
    *out = w;
    return 0;
}

void dc_block_writer_destroy(struct dc_block_writer *writer)
{
    if (!writer)
        return;
    struct buffer *const own[] = {&writer->encoded, &writer->packed, &writer->block,
                                  &writer->index};

    for (uint32_t i = 0; i < writer->shape->n_columns; i++)
        rt_free(writer->column[i].byte);
    for (size_t i = 0; i < ARRAY_LEN(own); i++)
        rt_free(own[i]->byte);
    dc_writer_destroy(writer->file);
    rt_free(writer->column);
    rt_free(writer->value);
    rt_free(writer->slot);
    rt_free(writer->stamp);
    rt_free(writer->code);
    rt_free(writer->path);
    rt_free(writer);
}

/* ---- encoding ---- */

static uint64_t value_at(const uint8_t *plain, uint32_t width, uint32_t i)
{
    uint64_t value = 0;

    memcpy(&value, plain + (size_t)i * width, width);
    return value;
}

/* The code of a value, made if it is new; DICT_MAX: there are too many. */
static uint32_t code_of(struct dc_block_writer *w, uint64_t value, uint32_t *n_dict)
{
    uint32_t at = (uint32_t)rt_hash_id(value) % DICT_SLOTS;

    for (; w->stamp[at] == w->now; at = (at + 1) % DICT_SLOTS)
        if (w->value[w->slot[at]] == value)
            return w->slot[at];
    if (*n_dict == DICT_MAX)
        return DICT_MAX;
    w->stamp[at] = w->now;
    w->slot[at] = *n_dict;
    w->value[*n_dict] = value;
    return (*n_dict)++;
}

/* Number of distinct values, with codes in w->code; 0: too many for a dictionary to be smaller. */
static uint32_t make_dictionary(struct dc_block_writer *w, const uint8_t *plain, uint32_t width,
                                uint32_t n)
{
    uint32_t n_dict = 0;

    if (n > w->code_capacity) {
        w->code = rt_xrealloc(w->code, n * sizeof(*w->code));
        w->code_capacity = n;
    }
    w->now++;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t code = code_of(w, value_at(plain, width, i), &n_dict);

        if (code == DICT_MAX || (size_t)n_dict * width + n >= (size_t)n * width)
            return 0;
        w->code[i] = (uint16_t)code;
    }
    return n_dict;
}

static void put_dictionary(struct dc_block_writer *w, uint32_t width, uint32_t n,
                           struct dc_form_entry *entry)
{
    uint32_t size = entry->encoding == DC_DICT8 ? 1 : 2;

    for (uint32_t i = 0; i < entry->n_dict; i++)
        append(&w->encoded, &w->value[i], width);
    uint8_t *to = room(&w->encoded, (size_t)n * size);
    for (uint32_t i = 0; i < n; i++)
        memcpy(to + (size_t)i * size, &w->code[i], size);
}

static bool fits_narrow(const uint8_t *plain, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (value_at(plain, 8, i) > NARROW_MAX)
            return false;
    return true;
}

/* The values of a column into w->encoded, in their smallest form. */
static void encode(struct dc_block_writer *w, uint32_t column, struct dc_form_entry *entry)
{
    uint32_t width = w->shape->column[column].width;
    const uint8_t *plain = w->column[column].byte;
    uint32_t n = (uint32_t)(w->column[column].size / width);
    bool narrow = width == 8 && fits_narrow(plain, n);
    size_t best = (size_t)n * (narrow ? 4 : width);
    uint32_t n_dict = width > 1 ? make_dictionary(w, plain, width, n) : 0;
    size_t dict = (size_t)n_dict * width + (size_t)n * (n_dict <= 256 ? 1 : 2);

    *entry = (struct dc_form_entry){.n = n, .encoding = narrow ? DC_NARROW : DC_PLAIN};
    w->encoded.size = 0;
    if (n_dict && dict < best) {
        entry->encoding = n_dict <= 256 ? DC_DICT8 : DC_DICT16;
        entry->n_dict = n_dict;
        put_dictionary(w, width, n, entry);
    } else if (narrow) {
        uint8_t *to = room(&w->encoded, (size_t)n * 4);
        for (uint32_t i = 0; i < n; i++)
            memcpy(to + (size_t)i * 4, plain + (size_t)i * 8, 4);
    } else {
        append(&w->encoded, plain, (size_t)n * width);
    }
    entry->raw = (uint32_t)w->encoded.size;
}

/* w->encoded, packed if that is worth it; the bytes for the file in *data. */
static void pack(struct dc_block_writer *w, struct dc_form_entry *entry, const uint8_t **data)
{
    size_t size = 0, most = WORTH(entry->raw);

    w->packed.size = 0;
    room(&w->packed, most + 1);
    if (w->packing == DC_BLOCK_LZ4) {
        int n = LZ4_compress_default((const char *)w->encoded.byte, (char *)w->packed.byte,
                                     (int)entry->raw, (int)most);
        size = n > 0 ? (size_t)n : 0;
    } else if (w->packing == DC_BLOCK_ZSTD) {
        size = ZSTD_compress(w->packed.byte, most, w->encoded.byte, entry->raw, ZSTD_LEVEL);
        size = ZSTD_isError(size) ? 0 : size;
    }
    *data = size ? w->packed.byte : w->encoded.byte;
    entry->packing = (uint8_t)(size ? w->packing : DC_BLOCK_RAW);
    entry->packed = size ? (uint32_t)size : entry->raw;
    entry->crc = rt_crc32c(0, *data, entry->packed);
}

/* ---- blocks ---- */

static void align(struct buffer *b)
{
    size_t pad = rt_align_up(b->size, DC_FORM_ALIGN) - b->size;

    if (pad)
        memset(room(b, pad), 0, pad);
}

static int write_block(struct dc_block_writer *w)
{
    uint32_t n_columns = w->shape->n_columns;
    size_t heads = sizeof(struct dc_form_head) + n_columns * sizeof(struct dc_form_entry);
    struct dc_form_entry entry;

    w->block.size = 0;
    memset(room(&w->block, heads), 0, heads);
    for (uint32_t c = 0; c < n_columns; c++) {
        const uint8_t *data;

        encode(w, c, &entry);
        pack(w, &entry, &data);
        align(&w->block);
        entry.at = w->block.size;
        append(&w->block, data, entry.packed);
        memcpy(w->block.byte + sizeof(struct dc_form_head) + c * sizeof(entry), &entry,
               sizeof(entry));
        w->column[c].size = 0;
    }
    struct dc_form_head head = {.magic = DC_FORM_BLOCK,
                                .rows = w->n,
                                .n_columns = n_columns,
                                .first_row = w->rows,
                                .bytes = w->block.size};
    memcpy(w->block.byte, &head, sizeof(head));
    head.crc = rt_crc32c(0, w->block.byte, heads);
    memcpy(w->block.byte, &head, sizeof(head));
    struct dc_form_place place = {rt_align_up(w->at, DC_FORM_ALIGN), w->rows};
    append(&w->index, &place, sizeof(place));
    w->n_blocks++;
    w->rows += w->n;
    w->n = 0;
    w->bytes = 0;
    return put_file(w, w->block.byte, w->block.size);
}

void dc_block_put(struct dc_block_writer *writer, uint32_t column, const void *value, uint32_t n)
{
    size_t size = (size_t)n * writer->shape->column[column].width;

    rt_assert(column < writer->shape->n_columns);
    append(&writer->column[column], value, size);
    writer->row_bytes += size;
}

int dc_block_end_row(struct dc_block_writer *writer)
{
    size_t bytes = writer->row_bytes;

    if (bytes > ROW_MAX)
        return RT_FAIL(RT_ELIMIT, "%s: a row of %zu bytes; expected at most %u", writer->path,
                       bytes, ROW_MAX);
    writer->bytes += bytes;
    writer->row_bytes = 0;
    writer->n++;
    return writer->n == DC_BLOCK_ROWS || writer->bytes > BLOCK_FULL ? write_block(writer) : 0;
}

int dc_block_writer_finish(struct dc_block_writer *writer, uint64_t *bytes)
{
    struct dc_block_writer *w = writer;
    int err = w->n ? write_block(w) : 0;

    if (err)
        return err;
    struct dc_form_footer footer = {
        .magic = DC_FORM_END,
        .rows = w->rows,
        .index_at = rt_align_up(w->at, DC_FORM_ALIGN),
        .n_blocks = w->n_blocks,
        .index_crc = rt_crc32c(0, w->index.byte, w->index.size),
    };
    footer.crc = rt_crc32c(0, &footer, sizeof(footer));
    append(&w->index, &footer, sizeof(footer));
    err = put_file(w, w->index.byte, w->index.size);
    return err ? err : dc_writer_finish(w->file, bytes);
}
