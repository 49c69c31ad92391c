/* tests/fuzz/fuzz_block.c -- any bytes as a file of the binary form, read block by block and row by row.
 *
 * Checksums would keep a fuzzer at the door. So where the first byte is odd they are made good first: the header's, the
 * footer's, the index's and those of the blocks and columns that the index leads to. A block that is accepted then keeps
 * what block.h promises, and each of its rows is complete or refused.
 *
 * The seeds are a digit and a train.sfb that `saffron-data-compose convert` made of a few rows with JOB's columns. */
#include "data_compose/block.h"
#include "data_compose/block_form.h"
#include "data_compose/parse_binary.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/hash.h"
#include "runtime/base/mem.h"
#include "tests/fuzz/fuzz.h"
#include "tests/lib/data_job.h"

#include <math.h>
#include <string.h>

#define JOB "y=label w=weight a=feature:f b=feature:f,list g=group k=key x=dense:log1p z=dense:std"

/* ---- checksums made good ---- */

static void seal_column(uint8_t *block, size_t size, size_t at)
{
    struct dc_form_entry e;

    memcpy(&e, block + at, sizeof(e));
    if (e.at > size || e.packed > size - e.at)
        return;
    e.crc = rt_crc32c(0, block + e.at, e.packed);
    memcpy(block + at, &e, sizeof(e));
}

static void seal_block(uint8_t *block, size_t size, uint32_t n_columns)
{
    size_t heads = sizeof(struct dc_form_head) + n_columns * sizeof(struct dc_form_entry);
    struct dc_form_head head;

    if (size < heads)
        return;
    for (size_t at = sizeof(head); at < heads; at += sizeof(struct dc_form_entry))
        seal_column(block, size, at);
    memcpy(&head, block, sizeof(head));
    head.crc = 0;
    memcpy(block, &head, sizeof(head));
    head.crc = rt_crc32c(0, block, heads);
    memcpy(block, &head, sizeof(head));
}

static void seal_blocks(uint8_t *data, size_t size, struct dc_form_footer *foot, uint32_t n_columns)
{
    size_t index = (size_t)foot->n_blocks * sizeof(struct dc_form_place);
    struct dc_form_place place;

    if (foot->index_at > size || index > size - foot->index_at)
        return;
    for (uint32_t i = 0; i < foot->n_blocks; i++) {
        memcpy(&place, data + foot->index_at + i * sizeof(place), sizeof(place));
        if (place.at < size && place.at % 8 == 0)
            seal_block(data + place.at, size - place.at, n_columns);
    }
    foot->index_crc = rt_crc32c(0, data + foot->index_at, index);
}

static void seal(uint8_t *data, size_t size, const struct dc_block_shape *shape)
{
    struct dc_form_header header;
    struct dc_form_footer foot;

    if (size < sizeof(header) + sizeof(foot))
        return;
    memcpy(&header, data, sizeof(header));
    header.shape = shape->hash;
    header.n_columns = shape->n_columns;
    header.crc = 0;
    header.crc = rt_crc32c(0, &header, sizeof(header));
    memcpy(data, &header, sizeof(header));
    memcpy(&foot, data + size - sizeof(foot), sizeof(foot));
    seal_blocks(data, size, &foot, shape->n_columns);
    foot.crc = 0;
    foot.crc = rt_crc32c(0, &foot, sizeof(foot));
    memcpy(data + size - sizeof(foot), &foot, sizeof(foot));
}

/* ---- what is accepted is whole ---- */

static void check_vector(const struct dc_vector *v)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < v->n; i++)
        sum += v->width == 8   ? dc_vector_u64(v, i)
               : v->width == 4 ? dc_vector_u32(v, i)
                               : ((const uint8_t *)v->plain)[i];
    rt_assert(v->n > 0 || sum == 0);
}

static void check_row(const struct rt_job *job, const struct dc_parser *parser)
{
    const struct dc_row *row = dc_parser_view(parser);

    rt_assert(row->n_ids <= dc_parser_ids_max(parser) && row->key_size <= RT_KEY_MAX);
    rt_assert(row->count[0] == row->n_ids && row->n_ids <= job->feature[0].max_length);
    for (uint32_t i = 0; i < job->data.n_dense; i++)
        rt_assert(isfinite(row->dense[i]));
    rt_assert(row->label[0] == 0 || row->label[0] == 1);
    rt_assert(isfinite(row->weight) && row->weight >= 0);
}

static void read_all(const struct rt_job *job, struct dc_parser *parser, struct dc_binary *binary,
                     const struct dc_block_file *file)
{
    struct dc_block_view view = {0};

    for (uint32_t b = 0; b < dc_block_count(file); b++) {
        int err = dc_block_read(file, b, &view);

        rt_assert(err == 0 || err == RT_EDATA || err == RT_ENOMEM);
        if (err)
            continue;
        for (uint32_t c = 0; c < dc_binary_shape(binary)->n_columns; c++)
            check_vector(&view.column[c]);
        dc_binary_begin(binary, &view);
        for (uint32_t i = 0; i < view.rows; i++) {
            err = dc_binary_row(binary, i);
            rt_assert(err == 0 || err == RT_EDATA);
            if (!err)
                check_row(job, parser);
        }
    }
    dc_block_view_release(&view);
}

int fuzz_block(const uint8_t *data, size_t size)
{
    struct dc_parser *parser;
    struct dc_block_file *file;
    struct data_job dj;

    if (size < 1)
        return 0;
    bool sealed = data[0] & 1;
    data_job_init(&dj, RT_FORMAT_BINARY, false, JOB);
    int err = dc_parser_create(&dj.job, &parser);
    rt_assert(err == 0);
    struct dc_binary *binary = dc_binary_create(parser);
    uint8_t *copy = rt_xaligned(size); /* one byte less is used, and aligned */
    memcpy(copy, data + 1, size - 1);
    if (sealed)
        seal(copy, size - 1, dc_binary_shape(binary));
    err = dc_block_open_bytes("fuzz.sfb", copy, size - 1, dc_binary_shape(binary), &file);
    rt_assert(err == 0 || err == RT_EDATA || err == RT_EUSAGE);
    if (!err) {
        read_all(&dj.job, parser, binary, file);
        dc_block_close(file);
    }
    rt_free(copy);
    dc_binary_destroy(binary);
    dc_parser_destroy(parser);
    return 0;
}
