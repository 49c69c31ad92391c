/* data_compose/writer.c -- bytes -> [packed, 256 KiB] -> PATH.partial -> PATH (runtime/base/partial.h). */
#include "data_compose/writer.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/partial.h"

#include <stdbool.h>
#include <zlib.h>
#include <zstd.h>

#define PACKED_BYTES (256u << 10)
#define GZIP_LEVEL   3
#define GZIP_WINDOW  (15 + 16) /* deflateInit2: largest window, gzip wrapper */
#define ZSTD_LEVEL   1

struct dc_writer {
    struct rt_partial file;
    enum dc_packing packing;
    z_stream z;
    bool z_ready;
    ZSTD_CCtx *zstd;
    uint8_t *packed; /* NULL: none needed */
};

static int start_packing(struct dc_writer *w)
{
    if (w->packing == DC_PACKING_NONE)
        return 0;
    w->packed = rt_xmalloc(PACKED_BYTES);
    if (w->packing == DC_PACKING_GZIP) {
        w->z_ready =
            deflateInit2(&w->z, GZIP_LEVEL, Z_DEFLATED, GZIP_WINDOW, 8, Z_DEFAULT_STRATEGY) == Z_OK;
        return w->z_ready ? 0 : RT_FAIL(RT_ENOMEM, "%s: zlib could not start", w->file.path);
    }
    w->zstd = ZSTD_createCCtx();
    if (!w->zstd)
        return RT_FAIL(RT_ENOMEM, "%s: zstd could not start", w->file.path);
    ZSTD_CCtx_setParameter(w->zstd, ZSTD_c_compressionLevel, ZSTD_LEVEL);
    ZSTD_CCtx_setParameter(w->zstd, ZSTD_c_checksumFlag, 1);
    return 0;
}

int dc_writer_create(const char *path, enum dc_packing packing, struct dc_writer **out)
{
    struct dc_writer *w = rt_xcalloc(1, sizeof(*w));

    w->packing = packing;
    int err = rt_partial_open(&w->file, path);
    if (!err)
        err = start_packing(w);
    if (err) {
        dc_writer_destroy(w);
        return err;
    }
    *out = w;
    return 0;
}

void dc_writer_destroy(struct dc_writer *writer)
{
    if (!writer)
        return;
    rt_partial_drop(&writer->file);
    if (writer->z_ready)
        deflateEnd(&writer->z);
    ZSTD_freeCCtx(writer->zstd);
    rt_free(writer->packed);
    rt_free(writer);
}

static int add_gzip(struct dc_writer *w, const void *data, size_t size, bool last)
{
    w->z.next_in = (uint8_t *)(uintptr_t)data; /* zlib does not write to it */
    w->z.avail_in = (uInt)size;
    for (;;) {
        w->z.next_out = w->packed;
        w->z.avail_out = PACKED_BYTES;
        int rc = deflate(&w->z, last ? Z_FINISH : Z_NO_FLUSH);
        int err = rt_partial_put(&w->file, w->packed, PACKED_BYTES - w->z.avail_out);

        if (err || (last ? rc == Z_STREAM_END : w->z.avail_out > 0))
            return err;
    }
}

static int add_zstd(struct dc_writer *w, const void *data, size_t size, bool last)
{
    ZSTD_inBuffer in = {data, size, 0};

    for (;;) {
        ZSTD_outBuffer out = {w->packed, PACKED_BYTES, 0};
        size_t left = ZSTD_compressStream2(w->zstd, &out, &in, last ? ZSTD_e_end : ZSTD_e_continue);
        if (ZSTD_isError(left))
            return RT_FAIL(RT_EFILE, "%s: zstd: %s", w->file.name, ZSTD_getErrorName(left));
        int err = rt_partial_put(&w->file, w->packed, out.pos);

        if (err || (last ? left == 0 : in.pos == in.size))
            return err;
    }
}

static int add(struct dc_writer *w, const void *data, size_t size, bool last)
{
    if (w->packing == DC_PACKING_GZIP)
        return add_gzip(w, data, size, last);
    if (w->packing == DC_PACKING_ZSTD)
        return add_zstd(w, data, size, last);
    return rt_partial_put(&w->file, data, size);
}

int dc_writer_add(struct dc_writer *writer, const void *data, size_t size)
{
    rt_assert(writer->file.name && size < UINT32_MAX);
    return add(writer, data, size, false);
}

int dc_writer_finish(struct dc_writer *writer, uint64_t *bytes)
{
    int err = add(writer, "", 0, true);

    *bytes = writer->file.bytes;
    return err ? err : rt_partial_finish(&writer->file);
}
