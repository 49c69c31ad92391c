/* data_compose/quarantine.h -- bad rows: counted, written down, and too many of them is an error.
 *
 * <run-dir>/quarantine/data_compose-<i>.tsv has one line `file TAB line TAB reason` per bad row, mode 0600,
 * at most DC_QUARANTINE_BYTES_MAX; rows beyond that are counted only. Control characters are escaped.
 * Touch: the composer's thread. */
#ifndef DC_QUARANTINE_H
#define DC_QUARANTINE_H

#include <stdint.h>

#define DC_QUARANTINE_BYTES_MAX (16u << 20)
#define DC_QUARANTINE_ROWS_MIN  1000u /* the ratio counts from here on, and at the end of a pass */

struct dc_quarantine;

/* run_dir NULL: only counts. The file is made with the first bad row. */
struct dc_quarantine *dc_quarantine_create(const char *run_dir, uint32_t index, double max_ratio);
void dc_quarantine_destroy(struct dc_quarantine *quarantine); /* NULL is legal */

/* A bad row. A file that cannot be written is logged once and given up; the job goes on. */
void dc_quarantine_add(struct dc_quarantine *quarantine, const char *file, uint64_t line,
                       const char *reason);

/* RT_EDATA when `bad` of `read` rows are over the ratio; the text has the latest reason. */
int dc_quarantine_check(const struct dc_quarantine *quarantine, uint64_t bad, uint64_t read);

#endif
