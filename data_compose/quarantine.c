/* data_compose/quarantine.c -- the file of bad rows. Written with plain write(2): bad rows are rare, or the
 * job ends. */
#include "data_compose/quarantine.h"

#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SHOWN 400 /* bytes of a path or reason */

struct dc_quarantine {
    char *dir, *path; /* NULL: only counts */
    int fd;           /* -1: not open */
    bool given_up;
    uint64_t bytes;
    double max_ratio;
    char latest[3 * SHOWN];
};

struct dc_quarantine *dc_quarantine_create(const char *run_dir, uint32_t index, double max_ratio)
{
    struct dc_quarantine *q = rt_xcalloc(1, sizeof(*q));

    q->fd = -1;
    q->max_ratio = max_ratio;
    if (run_dir) {
        q->dir = rt_xasprintf("%s/quarantine", run_dir);
        q->path = rt_xasprintf("%s/data_compose-%u.tsv", q->dir, index);
    }
    return q;
}

void dc_quarantine_destroy(struct dc_quarantine *quarantine)
{
    if (!quarantine)
        return;
    if (quarantine->fd >= 0)
        close(quarantine->fd);
    rt_free(quarantine->dir);
    rt_free(quarantine->path);
    rt_free(quarantine);
}

static void give_up(struct dc_quarantine *q, const char *what)
{
    rt_log(RT_LOG_WARN, "quarantine_not_written path=%s why=\"%s\"", q->path, what);
    q->given_up = true;
    if (q->fd >= 0)
        close(q->fd);
    q->fd = -1;
}

static void open_file(struct dc_quarantine *q)
{
    struct stat st;

    if (rt_mkdir_all(q->dir) != 0) {
        give_up(q, rt_err_text());
        return;
    }
    q->fd = open(q->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (q->fd < 0 || fstat(q->fd, &st) != 0) {
        give_up(q, strerror(errno));
        return;
    }
    q->bytes = (uint64_t)st.st_size; /* of an earlier incarnation: the cap is the file's */
}

void dc_quarantine_add(struct dc_quarantine *quarantine, const char *file, uint64_t line,
                       const char *reason)
{
    struct dc_quarantine *q = quarantine;
    char safe_file[SHOWN], safe_reason[SHOWN], text[3 * SHOWN];

    rt_log_escape(file, safe_file, sizeof(safe_file));
    rt_log_escape(reason, safe_reason, sizeof(safe_reason));
    snprintf(q->latest, sizeof(q->latest), "%s:%" PRIu64 ": %s", safe_file, line, safe_reason);
    if (!q->path || q->given_up)
        return;
    if (q->fd < 0)
        open_file(q);
    if (q->fd < 0)
        return;
    int n = snprintf(text, sizeof(text), "%s\t%" PRIu64 "\t%s\n", safe_file, line, safe_reason);
    if (q->bytes + (uint64_t)n > DC_QUARANTINE_BYTES_MAX) {
        give_up(q, "the file is full; further bad rows are counted only");
        return;
    }
    if (write(q->fd, text, (size_t)n) != n)
        give_up(q, strerror(errno));
    q->bytes += (uint64_t)n;
}

int dc_quarantine_check(const struct dc_quarantine *quarantine, uint64_t bad, uint64_t read)
{
    if (bad == 0 || (double)bad <= quarantine->max_ratio * (double)read)
        return 0;
    return RT_FAIL(RT_EDATA,
                   "%" PRIu64 " of %" PRIu64
                   " rows are bad, more than data.max_bad_ratio %g allows; "
                   "the latest: %s",
                   bad, read, quarantine->max_ratio, quarantine->latest);
}
