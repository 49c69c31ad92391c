/* data_compose/block_form.h -- how a file of block.h lies on disk. For block*.c and tests only.
 *
 *     header (padded to DC_FORM_ALIGN)
 *     block: head, n_columns entries; then each column's bytes; all of these begin at a multiple of DC_FORM_ALIGN
 *     index: n_blocks places
 *     footer: the last bytes of the file
 *
 * Numbers are little-endian, as the machines are. Each CRC32C covers the struct that it stands in with 0 in its own
 * place, and what follows it as said there. Bytes between parts are zero and mean nothing. */
#ifndef DC_BLOCK_FORM_H
#define DC_BLOCK_FORM_H

#include <stdint.h>

#define DC_FORM_MAGIC   "SAFRSFB\n"
#define DC_FORM_END     "SAFREND\n"
#define DC_FORM_BLOCK   0x4b4c4253u /* "SBLK" */
#define DC_FORM_VERSION 1u
#define DC_FORM_ALIGN   64u

struct dc_form_header {
    char magic[8];
    uint32_t version, n_columns;
    uint64_t shape;
    uint32_t zero, crc;
};

struct dc_form_head {
    uint32_t magic, rows, n_columns;
    uint32_t crc; /* and of the entries */
    uint64_t first_row;
    uint64_t bytes; /* of the block, from here */
};

struct dc_form_entry {
    uint32_t n;      /* values */
    uint32_t n_dict; /* 0: no dictionary */
    uint8_t encoding, packing;
    uint16_t zero;
    uint32_t raw;    /* bytes unpacked: the dictionary, then values or codes */
    uint32_t packed; /* bytes in the file */
    uint32_t crc;    /* of those */
    uint64_t at;     /* from the block's begin */
};

struct dc_form_place {
    uint64_t at, first_row;
};

struct dc_form_footer {
    char magic[8];
    uint64_t rows, index_at;
    uint32_t n_blocks, index_crc;
    uint32_t zero, crc;
};

_Static_assert(sizeof(struct dc_form_header) == 32 && sizeof(struct dc_form_head) == 32 &&
                   sizeof(struct dc_form_entry) == 32 && sizeof(struct dc_form_place) == 16 &&
                   sizeof(struct dc_form_footer) == 40,
               "no holes");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "files are little-endian");

#endif
