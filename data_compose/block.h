/* data_compose/block.h -- the file of the binary form: rows as columns, in checksummed blocks that can be read alone.
 *
 *     header | block 0 | block 1 | ... | index | footer
 *
 * A block has DC_BLOCK_ROWS rows, fewer where rows are large and at the end of the file. Columns are vectors of
 * 1, 4 or 8 byte values (struct dc_block_column); what they mean is their owner's business (parse_binary.c). Each
 * is written in the smallest of a few encodings, then packed where that saves an eighth. block.c has the layout.
 *
 * A file is mapped, so what is not read costs nothing. It must not be changed in place while it is open (cut
 * short, it is a SIGBUS): dc_block_writer replaces files as a whole. Touch: owner thread. */
#ifndef DC_BLOCK_H
#define DC_BLOCK_H

#include <stddef.h>
#include <stdint.h>

#define DC_BLOCK_ROWS        8192u
#define DC_BLOCK_BYTES_MAX   (96u << 20) /* of one block's columns together, unpacked */
#define DC_BLOCK_COLUMNS_MAX 32768u
#define DC_BLOCK_SUFFIX      ".sfb"

struct dc_block_column {
    uint32_t width; /* of a value: 1, 4 or 8 bytes */
    uint32_t
        lengths; /* 0: a value per row; else 1 + column, before this one, that tells how many each row has */
    uint32_t max; /* of a value, where this one is such a column of lengths (width 4); else any */
};

struct dc_block_shape {
    uint64_t hash; /* of all that the columns mean: files of another one are refused */
    uint32_t n_columns;
    const struct dc_block_column *column; /* [n_columns] */
};

/* ---- writing ---- */

enum dc_block_packing { DC_BLOCK_RAW, DC_BLOCK_LZ4, DC_BLOCK_ZSTD };

struct dc_block_writer;

/* The shape must outlive the writer. RT_EFILE as dc_writer_create(). */
int dc_block_writer_create(const char *path, const struct dc_block_shape *shape,
                           enum dc_block_packing packing, struct dc_block_writer **out);
void dc_block_writer_destroy(
    struct dc_block_writer *writer); /* NULL is legal; an unfinished file is removed */
/* The row's n values of a column; each column once, in any order. */
void dc_block_put(struct dc_block_writer *writer, uint32_t column, const void *value, uint32_t n);
/* The row is complete. RT_EFILE, RT_ELIMIT (a row over DC_BLOCK_BYTES_MAX / 4): only destroy may follow. */
int dc_block_end_row(struct dc_block_writer *writer);
/* Complete: on disk under its name; its size in *bytes. */
int dc_block_writer_finish(struct dc_block_writer *writer, uint64_t *bytes);

/* ---- reading ---- */

struct dc_block_file;

/* RT_EFILE; RT_EDATA: no such file, cut short, or broken; RT_EUSAGE: made for other columns. */
int dc_block_open(const char *path, const struct dc_block_shape *shape, struct dc_block_file **out);
/* The same of bytes that outlive it, 8-byte aligned; `name` is for messages. */
int dc_block_open_bytes(const char *name, const void *data, size_t size,
                        const struct dc_block_shape *shape, struct dc_block_file **out);
void dc_block_close(struct dc_block_file *file); /* NULL is legal */

uint64_t dc_block_file_rows(const struct dc_block_file *file);
uint32_t dc_block_count(const struct dc_block_file *file);
/* Rows [first, first + rows) of the file are block i's, in `bytes` of the file. */
struct dc_block_place {
    uint64_t first, bytes;
    uint32_t rows;
};
struct dc_block_place dc_block_at(const struct dc_block_file *file, uint32_t i);

enum dc_encoding { DC_PLAIN, DC_NARROW, DC_DICT8, DC_DICT16 };

/* A column of a block: value i is
 *   DC_PLAIN   plain[i], of `width` bytes        DC_NARROW  plain[i], 4 bytes that stand for 8
 *   DC_DICT8   dict[code[i]], code of 1 byte     DC_DICT16  of 2 bytes; every code is below n_dict */
struct dc_vector {
    uint32_t n, width, n_dict;
    enum dc_encoding encoding;
    const void *plain, *dict, *code;
};

/* Zero-initialise; dc_block_view_release. One may be used for any number of blocks of files of one shape. */
struct dc_block_view {
    uint32_t rows, n_columns;
    struct dc_vector
        *column;       /* [n_columns] valid until the next read, and as long as the file is open */
    uint8_t *unpacked; /* private */
    size_t capacity;
};
void dc_block_view_release(struct dc_block_view *view);

/* Verify and unpack block i. RT_EDATA: it is broken, with file, block and what was expected; RT_ENOMEM. The view is
 * empty then, and the file's other blocks can be read. */
int dc_block_read(const struct dc_block_file *file, uint32_t i, struct dc_block_view *view);

/* Value i of a vector of 8 bytes, and of 4. */
static inline uint64_t dc_vector_u64(const struct dc_vector *v, uint32_t i)
{
    switch (v->encoding) {
    case DC_DICT8:
        return ((const uint64_t *)v->dict)[((const uint8_t *)v->code)[i]];
    case DC_DICT16:
        return ((const uint64_t *)v->dict)[((const uint16_t *)v->code)[i]];
    case DC_NARROW:
        return ((const uint32_t *)v->plain)[i];
    default:
        return ((const uint64_t *)v->plain)[i];
    }
}
static inline uint32_t dc_vector_u32(const struct dc_vector *v, uint32_t i)
{
    switch (v->encoding) {
    case DC_DICT8:
        return ((const uint32_t *)v->dict)[((const uint8_t *)v->code)[i]];
    case DC_DICT16:
        return ((const uint32_t *)v->dict)[((const uint16_t *)v->code)[i]];
    default:
        return ((const uint32_t *)v->plain)[i];
    }
}

#endif
