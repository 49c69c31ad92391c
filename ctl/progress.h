/* ctl/progress.h -- how a run goes, on standard output: one line drawn again and again on a terminal, a
 * line every few seconds elsewhere. Touch: main thread. */
#ifndef CTL_PROGRESS_H
#define CTL_PROGRESS_H

#include "ctl/view.h"

struct ctl_progress {
    bool quiet, terminal;
    bool drawn;          /* a bar stands on the current line */
    uint64_t said_ns;    /* when the last plain line was written */
    char said_phase[64]; /* what it was about */
};

void ctl_progress_init(struct ctl_progress *progress, bool quiet);
/* One event in words, above the bar. */
void ctl_progress_say(struct ctl_progress *progress, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
void ctl_progress_show(struct ctl_progress *progress, const struct ctl_view *view,
                       const char *waiting);
void ctl_progress_end(struct ctl_progress *progress); /* leaves the cursor on an empty line */

/* 1234567 -> "1,234,567"; NaN -> "-". Returns `out`. */
const char *ctl_thousands(double value, char *out, size_t size);

#endif
