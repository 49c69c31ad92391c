/* ctl/trace.h -- the traces of a run's processes made one file, for ui.perfetto.dev. */
#ifndef CTL_TRACE_H
#define CTL_TRACE_H

#include <stddef.h>

/* DIR/trace/\*.json -> DIR/trace.json, replaced. *events: how many; *files: of how many processes. Lines that a process did
 * not finish are left out. RT_EUSAGE when there is no trace; RT_EFILE, RT_ENOMEM. */
int ctl_trace_merge(const char *run_dir, size_t *events, size_t *files);

/* `saffron trace --run-dir DIR`: for runs that no `saffron local` supervised to their end. Returns the exit status. */
int ctl_trace(int argc, char **argv);

#endif
