/* data_compose/source.c -- files to lines without a copy per line.
 *
 *   file -read-> [input 256 KiB] -inflate-> [buffer: ... | line | rest ...] -> struct dc_line
 *   file -read----------------------------> [buffer                      ]    (plain text)
 *
 * A line is handed out where it lies in the buffer. Only when the buffer has no whole line left, the
 * unfinished one moves to its front and the space behind it is filled: one move per megabyte. A
 * file's kind is decided by its first two bytes, not by its name. */
#include "data_compose/source.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/net/io.h"

#include <inttypes.h>
#include <string.h>
#include <zlib.h>

#define INPUT_BYTES  (256u << 10)
#define BUFFER_BYTES (DC_LINE_MAX + (1u << 20))
#define GZIP_WINDOW  (15 + 16) /* inflateInit2: largest window, gzip wrapper */

enum kind { KIND_UNKNOWN, KIND_PLAIN, KIND_GZIP };

struct dc_source {
    struct rt_io *io;
    const char *const *path;
    uint32_t n_paths, next; /* next: file to open */
    struct rt_file *file;   /* NULL between files */
    enum kind kind;
    bool file_ended; /* no more bytes will come into the buffer from this file */
    bool in_member;  /* gzip: inside a member, so an end here is a truncation */
    bool dead;       /* an error was told */
    uint64_t number; /* of the latest line */
    uint64_t offset; /* bytes read of this file */
    uint64_t bytes;  /* of all files */
    z_stream z;      /* next_in, avail_in: what is left of input */
    bool z_ready;
    uint8_t *input; /* gzip only */
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

void dc_source_destroy(struct dc_source *source)
{
    if (!source)
        return;
    close_file(source);
    if (source->z_ready)
        inflateEnd(&source->z);
    rt_free(source->input);
    rt_free(source->buffer);
    rt_free(source);
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
    return n;
}

static int start_gzip(struct dc_source *s)
{
    int rc = s->z_ready ? inflateReset(&s->z) : inflateInit2(&s->z, GZIP_WINDOW);

    if (rc != Z_OK)
        return RT_FAIL(RT_ENOMEM, "%s: zlib could not start (%d)", name(s), rc);
    s->z_ready = true;
    s->kind = KIND_GZIP;
    s->in_member = true;
    return 0;
}

static int open_next(struct dc_source *s)
{
    s->at = s->end = s->scanned = 0;
    s->number = s->offset = 0;
    s->z.avail_in = 0;
    s->kind = KIND_UNKNOWN;
    s->file_ended = false;
    return s->io->ops->file_open(s->io, s->path[s->next++], &s->file);
}

/* The first bytes of a file say what it is. They are read into the input, then handed on. */
static int detect(struct dc_source *s)
{
    ssize_t n = 0;
    size_t have = 0;

    do { /* a read may be short; two bytes are needed */
        n = read_some(s, s->input + have, INPUT_BYTES - have);
        if (n < 0)
            return (int)n;
        have += (size_t)n;
    } while (n > 0 && have < 2);
    s->z.next_in = s->input;
    s->z.avail_in = (uInt)have;
    if (have >= 2 && s->input[0] == 0x1f && s->input[1] == 0x8b)
        return start_gzip(s);
    s->kind = KIND_PLAIN;
    memcpy(s->buffer, s->input, have);
    s->end = have;
    s->z.avail_in = 0;
    s->file_ended = have == 0;
    return 0;
}

static int fill_plain(struct dc_source *s)
{
    ssize_t n = read_some(s, s->buffer + s->end, BUFFER_BYTES - s->end);

    if (n < 0)
        return (int)n;
    s->end += (size_t)n;
    s->file_ended = n == 0;
    return 0;
}

static int bad_gzip(const struct dc_source *s, const char *what)
{
    return RT_FAIL(RT_EDATA, "%s: gzip data %s at byte %" PRIu64 " (after line %" PRIu64 ")",
                   name(s), what, s->offset - s->z.avail_in, s->number);
}

/* Between members: the end of the file, or the next member. */
static int next_member(struct dc_source *s)
{
    if (s->z.avail_in == 0) {
        s->file_ended = true;
        return 0;
    }
    if (s->z.next_in[0] != 0x1f)
        return bad_gzip(s, "is followed by something else");
    return start_gzip(s);
}

static int fill_gzip(struct dc_source *s)
{
    if (s->z.avail_in == 0) {
        ssize_t n = read_some(s, s->input, INPUT_BYTES);

        if (n < 0)
            return (int)n;
        s->z.next_in = s->input;
        s->z.avail_in = (uInt)n;
        if (n == 0 && s->in_member)
            return bad_gzip(s, "ends early (truncated file?)");
    }
    if (!s->in_member)
        return next_member(s);
    s->z.next_out = (uint8_t *)s->buffer + s->end;
    s->z.avail_out = (uInt)(BUFFER_BYTES - s->end);
    int rc = inflate(&s->z, Z_NO_FLUSH);
    s->end = BUFFER_BYTES - s->z.avail_out;
    if (rc == Z_STREAM_END)
        s->in_member = false;
    else if (rc != Z_OK && rc != Z_BUF_ERROR)
        return bad_gzip(s, s->z.msg ? s->z.msg : "is broken");
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
    return s->kind == KIND_GZIP ? fill_gzip(s) : fill_plain(s);
}

/* The line that ends before `stop`; the next one begins at `next`. */
static int give_line(struct dc_source *s, size_t stop, size_t next, struct dc_line *out)
{
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
