/* data_compose/source.c -- files to lines without a copy per line.
 *
 *   file -read-> [input 256 KiB] -unpack-> [buffer: ... | line | rest ...] -> struct dc_line
 *   file -read---------------------------> [buffer                      ]    (plain text)
 *
 * A line is handed out where it lies in the buffer. Only when the buffer has no whole line left, the
 * unfinished one moves to its front and the space behind it is filled: one move per megabyte.
 *
 * A file's kind is decided by its first bytes, not by its name. A packed file is members one after
 * another (gzip members, zstd frames), each with an end of its own, so a file that was cut off is told from
 * a complete one. Kinds that are known and cannot be read are refused by name: as text they would
 * be a million bad rows. */
#include "data_compose/source.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/net/io.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#define INPUT_BYTES  (256u << 10)
#define BUFFER_BYTES (DC_LINE_MAX + (1u << 20))
#define GZIP_WINDOW  (15 + 16) /* inflateInit2: largest window, gzip wrapper */
#define ZSTD_WINDOW  27        /* log2: 128 MiB at most for what a frame asks for */

enum kind { KIND_UNKNOWN, KIND_PLAIN, KIND_GZIP, KIND_ZSTD, KIND_OTHER };

/* How files of a kind begin; zstd's second is that of its skippable frames, of 16 numbers. */
static const struct {
    enum kind kind;
    const char *name;
    uint8_t bytes[6], mask[6];
    uint32_t n;
} magic[] = {
    {KIND_GZIP, "gzip", {0x1f, 0x8b}, {0xff, 0xff}, 2},
    {KIND_ZSTD, "zstd", {0x28, 0xb5, 0x2f, 0xfd}, {0xff, 0xff, 0xff, 0xff}, 4},
    {KIND_ZSTD, "zstd", {0x50, 0x2a, 0x4d, 0x18}, {0xf0, 0xff, 0xff, 0xff}, 4},
    {KIND_OTHER, "xz", {0xfd, '7', 'z', 'X', 'Z'}, {0xff, 0xff, 0xff, 0xff, 0xff}, 5},
    {KIND_OTHER, "lz4", {0x04, 0x22, 0x4d, 0x18}, {0xff, 0xff, 0xff, 0xff}, 4},
    {KIND_OTHER, "zip", {'P', 'K', 3, 4}, {0xff, 0xff, 0xff, 0xff}, 4},
    {KIND_OTHER, "bzip2", {'B', 'Z', 'h', 0, '1', 'A'}, {0xff, 0xff, 0xff, 0, 0xff, 0xff}, 6},
    {KIND_OTHER,
     "the binary form (format: binary)",
     {'S', 'A', 'F', 'R', 'S', 'F'},
     {0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
     6},
    {KIND_OTHER, "Parquet", {'P', 'A', 'R', '1'}, {0xff, 0xff, 0xff, 0xff}, 4},
};
#define MAGIC_BYTES 6u

struct dc_source {
    struct rt_io *io;
    const char *const *path;
    uint32_t n_paths, next; /* next: file to open */
    struct rt_file *file;   /* NULL between files */
    enum kind kind;
    bool file_ended; /* no more bytes will come into the buffer from this file */
    bool in_member;  /* packed: inside a member, so an end here is a truncation */
    bool more;       /* packed: the latest step filled the buffer, more may come without input */
    bool dead;       /* an error was told */
    uint64_t number; /* of the latest line */
    uint64_t offset; /* bytes read of this file */
    uint64_t bytes;  /* of all files */
    _Atomic uint64_t *counted; /* the same, of all sources; or NULL */
    z_stream z;
    bool z_ready;
    ZSTD_DCtx *zstd;
    uint8_t *input; /* packed bytes, and the first ones of any file */
    size_t input_at, input_end;
    char *buffer;
    size_t at, end; /* unread part of buffer */
    size_t scanned; /* no line end before this position */
};

struct dc_source *dc_source_create(struct rt_io *io, const char *const *path, uint32_t n)
{
    struct dc_source *s = rt_xcalloc(1, sizeof(*s));

    s->io = io;
    s->path = path;
    s->n_paths = n;
    s->input = rt_xmalloc(INPUT_BYTES);
    s->buffer = rt_xmalloc(BUFFER_BYTES);
    return s;
}

static void close_file(struct dc_source *s)
{
    if (s->file)
        s->io->ops->file_close(s->file);
    s->file = NULL;
}

void dc_source_restart(struct dc_source *source)
{
    close_file(source);
    source->next = 0;
    source->bytes = 0;
    source->dead = false;
}

void dc_source_destroy(struct dc_source *source)
{
    if (!source)
        return;
    close_file(source);
    if (source->z_ready)
        inflateEnd(&source->z);
    ZSTD_freeDCtx(source->zstd);
    rt_free(source->input);
    rt_free(source->buffer);
    rt_free(source);
}

void dc_source_count(struct dc_source *source, _Atomic uint64_t *bytes)
{
    source->counted = bytes;
}

uint64_t dc_source_bytes(const struct dc_source *source)
{
    return source->bytes;
}

static const char *name(const struct dc_source *s)
{
    return s->path[s->next - 1];
}

static ssize_t read_some(struct dc_source *s, void *out, size_t size)
{
    ssize_t n = s->io->ops->file_read(s->file, out, size);

    if (n < 0)
        return rt_fail_prefix((int)n, "at byte %" PRIu64 ": ", s->offset);
    s->offset += (uint64_t)n;
    s->bytes += (uint64_t)n;
    if (s->counted)
        atomic_fetch_add_explicit(s->counted, (uint64_t)n, memory_order_relaxed);
    return n;
}

static int open_next(struct dc_source *s)
{
    s->at = s->end = s->scanned = 0;
    s->number = s->offset = 0;
    s->input_at = s->input_end = 0;
    s->kind = KIND_UNKNOWN;
    s->file_ended = s->in_member = s->more = false;
    return s->io->ops->file_open(s->io, s->path[s->next++], &s->file);
}

/* ---- packed files ---- */

static int bad_member(const struct dc_source *s, const char *what)
{
    return RT_FAIL(RT_EDATA, "%s: %s data %s at byte %" PRIu64 " (after line %" PRIu64 ")", name(s),
                   s->kind == KIND_GZIP ? "gzip" : "zstd", what,
                   s->offset - (s->input_end - s->input_at), s->number);
}

static int start_member(struct dc_source *s)
{
    int rc = Z_OK;

    s->in_member = true;
    if (s->kind == KIND_GZIP) {
        rc = s->z_ready ? inflateReset(&s->z) : inflateInit2(&s->z, GZIP_WINDOW);
        s->z_ready = rc == Z_OK;
        return rc == Z_OK ? 0 : RT_FAIL(RT_ENOMEM, "%s: zlib could not start (%d)", name(s), rc);
    }
    if (!s->zstd) {
        s->zstd = ZSTD_createDCtx();
        if (!s->zstd)
            return RT_FAIL(RT_ENOMEM, "%s: zstd could not start", name(s));
        ZSTD_DCtx_setParameter(s->zstd, ZSTD_d_windowLogMax, ZSTD_WINDOW);
    }
    ZSTD_DCtx_reset(s->zstd, ZSTD_reset_session_only);
    return 0;
}

static int inflate_some(struct dc_source *s)
{
    s->z.next_in = s->input + s->input_at;
    s->z.avail_in = (uInt)(s->input_end - s->input_at);
    s->z.next_out = (uint8_t *)s->buffer + s->end;
    s->z.avail_out = (uInt)(BUFFER_BYTES - s->end);
    int rc = inflate(&s->z, Z_NO_FLUSH);
    s->input_at = s->input_end - s->z.avail_in;
    s->end = BUFFER_BYTES - s->z.avail_out;
    if (rc == Z_STREAM_END)
        s->in_member = false;
    else if (rc != Z_OK && rc != Z_BUF_ERROR)
        return bad_member(s, s->z.msg ? s->z.msg : "is broken");
    return 0;
}

static int decompress_some(struct dc_source *s)
{
    ZSTD_inBuffer in = {s->input, s->input_end, s->input_at};
    ZSTD_outBuffer out = {s->buffer, BUFFER_BYTES, s->end};
    size_t left = ZSTD_decompressStream(s->zstd, &out, &in);

    s->input_at = in.pos;
    s->end = out.pos;
    if (ZSTD_isError(left)) {
        char what[128];

        snprintf(what, sizeof(what), "is broken (%s)", ZSTD_getErrorName(left));
        return bad_member(s, what);
    }
    s->in_member = left != 0;
    return 0;
}

/* Between members: the end of the file, or the next member. Their first byte is enough: what follows it is
 * checked by whoever unpacks. */
static int next_member(struct dc_source *s)
{
    uint8_t byte = s->input[s->input_at];

    if (s->kind == KIND_GZIP ? byte != 0x1f : byte != 0x28 && (byte & 0xf0) != 0x50)
        return bad_member(s, "is followed by something else");
    return start_member(s);
}

static int fill_packed(struct dc_source *s)
{
    if (s->input_at == s->input_end && !s->more) {
        ssize_t n = read_some(s, s->input, INPUT_BYTES);

        if (n < 0)
            return (int)n;
        s->input_at = 0;
        s->input_end = (size_t)n;
        if (n == 0 && s->in_member)
            return bad_member(s, "ends early (truncated file?)");
        s->file_ended = n == 0;
        if (n == 0)
            return 0;
    }
    if (!s->in_member) {
        int err = next_member(s);
        if (err)
            return err;
    }
    int err = s->kind == KIND_GZIP ? inflate_some(s) : decompress_some(s);
    s->more = s->in_member && s->end == BUFFER_BYTES;
    return err;
}

/* ---- plain files ---- */

static int fill_plain(struct dc_source *s)
{
    size_t room = BUFFER_BYTES - s->end;
    ssize_t n = read_some(s, s->buffer + s->end, room < INPUT_BYTES ? room : INPUT_BYTES);

    if (n < 0)
        return (int)n;
    s->end += (size_t)n;
    s->file_ended = n == 0;
    return 0;
}

/* ---- any file ---- */

static bool begins_with(const struct dc_source *s, size_t row)
{
    if (s->input_end < magic[row].n)
        return false;
    for (uint32_t i = 0; i < magic[row].n; i++)
        if ((s->input[i] & magic[row].mask[i]) != magic[row].bytes[i])
            return false;
    return true;
}

/* The first bytes of a file say what it is. They are read into the input, then handed on. */
static int detect(struct dc_source *s)
{
    ssize_t n;

    do { /* a read may be short */
        n = read_some(s, s->input + s->input_end, INPUT_BYTES - s->input_end);
        if (n < 0)
            return (int)n;
        s->input_end += (size_t)n;
    } while (n > 0 && s->input_end < MAGIC_BYTES);
    s->kind = KIND_PLAIN;
    for (size_t i = 0; i < ARRAY_LEN(magic); i++) {
        if (!begins_with(s, i))
            continue;
        s->kind = magic[i].kind;
        if (s->kind == KIND_OTHER)
            return RT_FAIL(RT_EDATA, "%s: expected plain text, gzip or zstd, got %s", name(s),
                           magic[i].name);
        return start_member(s);
    }
    memcpy(s->buffer, s->input, s->input_end);
    s->end = s->input_end;
    s->file_ended = n == 0;
    return 0;
}

/* More bytes into the buffer, or file_ended. */
static int fill(struct dc_source *s)
{
    if (s->kind == KIND_UNKNOWN)
        return detect(s);
    if (s->at > 0) {
        memmove(s->buffer, s->buffer + s->at, s->end - s->at);
        s->end -= s->at;
        s->scanned -= s->at;
        s->at = 0;
    }
    if (s->end > DC_LINE_MAX)
        return RT_FAIL(RT_EDATA, "%s:%" PRIu64 ": line is longer than %u bytes", name(s),
                       s->number + 1, DC_LINE_MAX);
    return s->kind == KIND_PLAIN ? fill_plain(s) : fill_packed(s);
}

/* The line that ends before `stop`; the next one begins at `next`. A byte order mark before the first one is
 * no part of it: some programs write one, and it would be a part of the first column's name. */
static int give_line(struct dc_source *s, size_t stop, size_t next, struct dc_line *out)
{
    if (s->number == 0 && stop - s->at >= 3 && memcmp(s->buffer + s->at, "\xef\xbb\xbf", 3) == 0)
        s->at += 3;
    size_t size = stop - s->at;

    if (size > 0 && s->buffer[stop - 1] == '\r')
        size--;
    *out = (struct dc_line){s->buffer + s->at, size, ++s->number, s->next - 1};
    s->at = s->scanned = next;
    if (size > DC_LINE_MAX)
        return RT_FAIL(RT_EDATA, "%s:%" PRIu64 ": line is longer than %u bytes", name(s), s->number,
                       DC_LINE_MAX);
    return 1;
}

/* 1: a line; 0: this file has no more; or an error. */
static int line_of_file(struct dc_source *s, struct dc_line *out)
{
    for (;;) {
        const char *from = s->buffer + s->scanned;
        const char *eol = s->end > s->scanned ? memchr(from, '\n', s->end - s->scanned) : NULL;

        if (eol) {
            size_t stop = (size_t)(eol - s->buffer);
            return give_line(s, stop, stop + 1, out);
        }
        s->scanned = s->end;
        if (s->file_ended)
            return s->end > s->at ? give_line(s, s->end, s->end, out) : 0;
        int err = fill(s);
        if (err)
            return err;
    }
}

int dc_source_line(struct dc_source *source, struct dc_line *out)
{
    rt_assert(!source->dead);
    for (;;) {
        int rc = 0;

        if (!source->file) {
            if (source->next == source->n_paths)
                return 0;
            rc = open_next(source);
        }
        if (rc == 0)
            rc = line_of_file(source, out);
        if (rc < 0)
            source->dead = true;
        if (rc != 0)
            return rc;
        close_file(source);
    }
}
