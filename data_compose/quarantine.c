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

#define SHOWN      400 /* bytes of a path or reason */
#define LINE_BYTES (4 * DC_QUARANTINE_ROW_MAX + 3 * SHOWN)

struct dc_quarantine {
    char *dir, *path; /* NULL: only counts */
    int fd;           /* -1: not open */
    bool given_up;
    uint64_t bytes;
    uint64_t unlisted; /* rows that are not in the file */
    double max_ratio;
    char first[2][2 * SHOWN + 32]; /* of the training and the test set: where and why */
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
    if (quarantine->unlisted > 0)
        rt_log(RT_LOG_WARN, "quarantine_incomplete path=%s rows_not_listed=%" PRIu64,
               quarantine->path, quarantine->unlisted);
    if (quarantine->fd >= 0)
        close(quarantine->fd);
    rt_free(quarantine->dir);
    rt_free(quarantine->path);
    rt_free(quarantine);
}

void dc_quarantine_renew(struct dc_quarantine *quarantine)
{
    if (quarantine->path)
        unlink(quarantine->path);
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

/* A field of the file, at most `max` bytes of it. Returns the end of what is written: up to 4 bytes for each. */
static char *put_field(char *to, const char *text, size_t size, size_t max)
{
    static const char hex[] = "0123456789abcdef";

    for (size_t i = 0; i < size && i < max; i++) {
        unsigned char c = (unsigned char)text[i];

        if (c == '\\' || c == '\t') {
            *to++ = '\\';
            *to++ = c == '\t' ? 't' : '\\';
        } else if (c < 0x20 || c == 0x7f) {
            *to++ = '\\';
            *to++ = 'x';
            *to++ = hex[c >> 4];
            *to++ = hex[c & 15];
        } else {
            *to++ = (char)c;
        }
    }
    return to;
}

/* Whole lines only: what a full disk leaves of one is taken away again. */
static void write_line(struct dc_quarantine *q, const char *text, size_t size)
{
    ssize_t n = write(q->fd, text, size);
    int error = n < 0 ? errno : ENOSPC;

    if (n == (ssize_t)size) {
        q->bytes += size;
        return;
    }
    if (n > 0 && ftruncate(q->fd, (off_t)q->bytes) != 0)
        rt_log(RT_LOG_WARN, "quarantine_line_cut path=%s", q->path);
    q->unlisted++;
    give_up(q, strerror(error));
}

void dc_quarantine_add(struct dc_quarantine *quarantine, bool evaluate, const char *file,
                       uint64_t line, const char *reason, const char *row, size_t row_size)
{
    struct dc_quarantine *q = quarantine;
    char safe_file[SHOWN], safe_reason[SHOWN], text[LINE_BYTES + 64];

    rt_log_escape(file, safe_file, sizeof(safe_file));
    rt_log_escape(reason, safe_reason, sizeof(safe_reason));
    if (!q->first[evaluate][0])
        snprintf(q->first[evaluate], sizeof(q->first[evaluate]), "%s:%" PRIu64 ": %s", safe_file,
                 line, safe_reason);
    if (!q->path)
        return;
    if (q->fd < 0 && !q->given_up)
        open_file(q);
    if (q->fd < 0) {
        q->unlisted++;
        return;
    }
    char *to =
        text + snprintf(text, sizeof(text), "%s\t%" PRIu64 "\t%s\t", safe_file, line, safe_reason);
    to = put_field(to, row ? row : "", row ? row_size : 0, DC_QUARANTINE_ROW_MAX);
    if (row && row_size > DC_QUARANTINE_ROW_MAX)
        to += snprintf(to, (size_t)(text + sizeof(text) - to), "...(%zu bytes)", row_size);
    *to++ = '\n';
    if (q->bytes + (uint64_t)(to - text) > DC_QUARANTINE_BYTES_MAX) {
        q->unlisted++;
        give_up(q, "the file is full; further bad rows are counted only");
        return;
    }
    write_line(q, text, (size_t)(to - text));
}

int dc_quarantine_check(const struct dc_quarantine *quarantine, bool evaluate, uint64_t bad,
                        uint64_t read, bool ended)
{
    const struct dc_quarantine *q = quarantine;
    bool few = !ended && q->max_ratio > 0 && bad <= DC_QUARANTINE_FEW;
    bool listed = q->bytes > 0;

    if (bad == 0 || few || (double)bad <= q->max_ratio * (double)read)
        return 0;
    return RT_FAIL(RT_EDATA,
                   "%" PRIu64 " of %" PRIu64
                   " %s rows are bad (%.3g), more than data.max_bad_ratio %g allows%s%s%s; "
                   "the first: %s",
                   bad, read, evaluate ? "test" : "training", (double)bad / (double)read,
                   q->max_ratio, listed ? " (" : "", listed ? q->path : "", listed ? ")" : "",
                   q->first[evaluate]);
}
