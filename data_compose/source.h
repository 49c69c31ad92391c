/* data_compose/source.h -- the raw lines of a list of files, one after another.
 *
 *     while ((rc = dc_source_line(source, &line)) > 0)
 *         ... line.text[0 .. line.size) until the next call ...
 *
 * Plain text, gzip or zstd, by a file's first bytes (several members one after another are legal). Lines
 * end in \n or \r\n; the last one may end with its file; a UTF-8 byte order mark before the first is
 * skipped; any other byte, NUL too, is what it is. Files are read through the io, one at a time.
 * Memory: one buffer of DC_LINE_MAX + 1 MiB, and zlib's, or at most 128 MiB of zstd's. Touch: the io's
 * thread. */
#ifndef DC_SOURCE_H
#define DC_SOURCE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define DC_LINE_MAX (1u << 20) /* bytes of one line */

struct rt_io;
struct dc_source;

struct dc_line {
    const char *text; /* not NUL-terminated; valid until the next call */
    size_t size;      /* without the line end */
    uint64_t number;  /* in its file, from 1 */
    uint32_t file;    /* index into the list */
};

/* `path` [n] must outlive the source. Opens nothing yet. */
struct dc_source *dc_source_create(struct rt_io *io, const char *const *path, uint32_t n);
/* From the first line of the first file again; its memory stays. */
void dc_source_restart(struct dc_source *source);
void dc_source_destroy(struct dc_source *source); /* NULL is legal */

/* 1: *out is the next line. 0: the last file has ended. RT_EFILE, RT_EDATA: what cannot be read, with
 * file and line or offset; the source is finished then. */
int dc_source_line(struct dc_source *source, struct dc_line *out);

/* Bytes that are read are added here too: one count over sources that come and go. It outlives them. */
void dc_source_count(struct dc_source *source, _Atomic uint64_t *bytes);

/* Bytes taken from files so far, as they are on disk. */
uint64_t dc_source_bytes(const struct dc_source *source);

#endif
