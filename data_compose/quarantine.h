/* data_compose/quarantine.h -- bad rows: counted, written down, and too many of them is an error.
 *
 * <run-dir>/quarantine/data_compose-<i>.tsv has one line `file TAB line TAB reason TAB row` per bad row, mode
 * 0600. In each field a backslash is \\, a tab \t, another control character \xNN; of a row over
 * DC_QUARANTINE_ROW_MAX bytes the beginning stands there, then `...` and its length. At most
 * DC_QUARANTINE_BYTES_MAX; rows beyond that, and where the file cannot be written, are counted only.
 *
 * TOO MANY. A composer judges the rows of its own splits: where none is over the ratio, all together are
 * not. While a pass runs, more than DC_QUARANTINE_FEW bad rows are needed, so that a few near the beginning stop
 * nothing; at its end the ratio alone counts. With max_bad_ratio 0 the first bad row is too many.
 * Touch: the composer's thread. */
#ifndef DC_QUARANTINE_H
#define DC_QUARANTINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DC_QUARANTINE_BYTES_MAX (16u << 20)
#define DC_QUARANTINE_ROW_MAX   2048u
#define DC_QUARANTINE_FEW       10u

struct dc_quarantine;

/* run_dir NULL: only counts. The file is made with the first bad row. */
struct dc_quarantine *dc_quarantine_create(const char *run_dir, uint32_t index, double max_ratio);
void dc_quarantine_destroy(struct dc_quarantine *quarantine); /* NULL is legal */

/* Remove a list that an earlier run has left. One that cannot be removed is appended to. */
void dc_quarantine_renew(struct dc_quarantine *quarantine);

/* A bad row of the training or (evaluate) the test set; `row` NULL: there is no text. A file that cannot be written is logged once and given up; the
 * job goes on. */
void dc_quarantine_add(struct dc_quarantine *quarantine, bool evaluate, const char *file,
                       uint64_t line, const char *reason, const char *row, size_t row_size);

/* RT_EDATA when `bad` of `read` rows of a pass over the set are too many; the text has the first one's reason. */
int dc_quarantine_check(const struct dc_quarantine *quarantine, bool evaluate, uint64_t bad,
                        uint64_t read, bool ended);

#endif
