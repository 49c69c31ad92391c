/* data_compose/writer.h -- one file, written whole or not at all: plain, gzip or zstd.
 *
 * Bytes go to PATH.partial, which becomes PATH when it is complete and on disk. A second writer of the same
 * path is refused while the first one lives. Touch: owner thread. */
#ifndef DC_WRITER_H
#define DC_WRITER_H

#include <stddef.h>
#include <stdint.h>

enum dc_packing { DC_PACKING_NONE, DC_PACKING_GZIP, DC_PACKING_ZSTD };

struct dc_writer;

/* RT_EFILE with the path and why. */
int dc_writer_create(const char *path, enum dc_packing packing, struct dc_writer **out);
/* After an error only dc_writer_destroy() may follow. */
int dc_writer_add(struct dc_writer *writer, const void *data, size_t size);
/* Complete: flushed, synced, renamed; the size of the file in *bytes. */
int dc_writer_finish(struct dc_writer *writer, uint64_t *bytes);
void dc_writer_destroy(struct dc_writer *writer); /* NULL is legal; removes what is not finished */

#endif
