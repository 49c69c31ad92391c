/* tests/fuzz/fuzz_block.c -- any bytes as a file of the binary form, read block by block and row by row.
 *
 * Checksums would keep a fuzzer at the door. So where the first byte is odd they are made good first: the header's, the
 * footer's, the index's and those of the blocks and columns that the index leads to. A block that is accepted then keeps
 * what block.h promises, and each of its rows is complete or refused; a block that is gathered column by column gives what
 * its rows give one by one.
 *
 * The seeds are a digit and a train.sfb that `saffron-data-compose convert` made of a few rows with columns as those of a job
 * here: digits 0 and 1 of the first, 2 and 3 of the second, 4 and 5 of the third. */
#include "data_compose/block.h"
#include "data_compose/block_form.h"
#include "data_compose/columns.h"
#include "data_compose/parse_binary.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/hash.h"
#include "runtime/base/mem.h"
#include "tests/fuzz/fuzz.h"
#include "tests/lib/data_job.h"

#include <math.h>
#include <string.h>

static const char *const job_columns[4] = {
    "y=label w=weight a=feature:f b=feature:f,list g=group k=key x=dense:log1p z=dense:std",
    "y=label w=weight a=feature:f b=feature:f g=group x=dense:log1p", /* even: gathered */
    "y=label a=feature:f,list,weights b=feature:f c=feature:f,weights",
    "y=label w=weight a=feature:f b=feature:f,list g=group k=key x=dense:log1p z=dense:std",
};

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

static uint32_t bits(float value)
{
    uint32_t of;

    memcpy(&of, &value, sizeof(of));
    return of;
}

/* The rows of the view, last first, from its columns: what each of them is by itself. The even job's: one feature of two
 * columns, one dense value, one label. */
static void check_gathered(struct dc_parser *parser, struct dc_binary *binary,
                           const struct dc_columns *columns, const struct dc_block_view *view)
{
    uint32_t n = view->rows;
    uint64_t *id = rt_xcalloc(3 * (size_t)n, sizeof(*id)), *group = id + 2 * (size_t)n;
    float *value = rt_xcalloc(3 * (size_t)n, sizeof(*value));
    uint32_t *row = rt_xcalloc(n, sizeof(*row));
    uint64_t *ids = id;
    struct dc_filling at = {&ids, value, value + n, value + 2 * (size_t)n, group, NULL, NULL};

    for (uint32_t s = 0; s < n; s++)
        row[s] = 7 + n - 1 - s;
    dc_columns_fill(columns, row, 7, n, &at);
    for (uint32_t s = 0; s < n; s++) {
        int err = dc_binary_row(binary, n - 1 - s);
        const struct dc_row *one = dc_parser_view(parser);

        rt_assert(err == 0 && one->n_ids == 2);
        rt_assert(memcmp(one->id, id + 2 * (size_t)s, 2 * sizeof(*id)) == 0);
        rt_assert(bits(one->dense[0]) == bits(value[s]));
        rt_assert(bits(one->label[0]) == bits(value[n + s]));
        rt_assert(bits(one->weight) == bits(value[2 * (size_t)n + s]));
        rt_assert(one->group == group[s]);
    }
    rt_free(id);
    rt_free(value);
    rt_free(row);
}

static void read_all(const struct rt_job *job, struct dc_parser *parser, struct dc_binary *binary,
                     const struct dc_block_file *file)
{
    struct dc_columns *columns = dc_columns_create(job, binary);
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
        if (columns && view.rows && dc_columns_bind(columns, &view))
            check_gathered(parser, binary, columns, &view);
    }
    dc_columns_destroy(columns);
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
    data_job_init(&dj, RT_FORMAT_BINARY, false, job_columns[data[0] >> 1 & 3]);
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
