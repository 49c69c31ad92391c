/* runtime/base/log.c -- lines to standard error.
 *
 * A line is built on the stack and leaves in one write(2), so lines of several threads and processes
 * that share a file (O_APPEND) do not mix. Too long a line is cut and ends in "...". Control characters
 * that slipped into the text become '?', so nobody can forge a second line. */
#include "runtime/base/log.h"
#include "runtime/base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LINE_MAX_BYTES 2048

static const char *const level_word[] = {"error", "warn", "info", "debug"};
static const char *const level_mark[] = {"ERROR", "WARN", "INFO", "DEBUG"};

static _Atomic(const char *) identity_role; /* Touched by: any; set once, early. */
static atomic_uint identity_index;
static atomic_int level_now = RT_LOG_INFO;
static _Atomic uint64_t count[RT_LOG_DEBUG + 1]; /* Touched by: any */

void rt_log_identity(const char *role, unsigned index)
{
    atomic_store(&identity_index, index);
    atomic_store(&identity_role, role);
}

void rt_log_set_level(enum rt_log_level level)
{
    atomic_store_explicit(&level_now, (int)level, memory_order_relaxed);
}

enum rt_log_level rt_log_get_level(void)
{
    return (enum rt_log_level)atomic_load_explicit(&level_now, memory_order_relaxed);
}

int rt_log_level_parse(const char *word, enum rt_log_level *out)
{
    char shown[64];

    for (int i = 0; i <= RT_LOG_DEBUG; i++) {
        if (strcmp(word, level_word[i]) == 0) {
            *out = (enum rt_log_level)i;
            return 0;
        }
    }
    return RT_FAIL(RT_EUSAGE, "log level: expected error|warn|info|debug, got '%s'",
                   rt_log_escape(word, shown, sizeof(shown)));
}

/* "2026-01-31T12:00:00.123Z INFO trainer/0 " into line; its length. */
static size_t put_head(enum rt_log_level level, char *line, size_t size)
{
    const char *role = atomic_load(&identity_role);
    struct timespec now;
    struct tm utc;
    char who[64] = "saffron";
    int n;

    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    if (role)
        snprintf(who, sizeof(who), "%s/%u", role, atomic_load(&identity_index));
    n = snprintf(line, size, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ %s %s ", utc.tm_year + 1900,
                 utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec,
                 (int)(now.tv_nsec / 1000000), level_mark[level], who);
    return (size_t)n;
}

static void write_all(const char *line, size_t len)
{
    while (len > 0) {
        ssize_t n = write(STDERR_FILENO, line, len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return; /* nowhere left to tell it */
        line += n;
        len -= (size_t)n;
    }
}

void rt_log(enum rt_log_level level, const char *fmt, ...)
{
    char line[LINE_MAX_BYTES];
    int saved = errno;
    size_t len, room;
    va_list args;
    int n;

    atomic_fetch_add_explicit(&count[level], 1, memory_order_relaxed);
    if (level > rt_log_get_level())
        return;
    len = put_head(level, line, sizeof(line));
    room = sizeof(line) - len - 1; /* one byte for the newline */
    va_start(args, fmt);
    n = vsnprintf(line + len, room, fmt, args);
    va_end(args);
    if (n >= 0 && (size_t)n >= room) {
        n = (int)room - 1;
        memcpy(line + len + n - 3, "...", 3);
    }
    for (size_t i = len; n > 0 && i < len + (size_t)n; i++) {
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
            line[i] = '?';
    }
    len += n > 0 ? (size_t)n : 0;
    line[len++] = '\n';
    write_all(line, len);
    errno = saved;
}

const _Atomic uint64_t *rt_log_count(enum rt_log_level level)
{
    return &count[level];
}

const char *rt_log_escape(const char *text, char *out, unsigned long out_size)
{
    static const char hex[] = "0123456789abcdef";
    size_t n = 0;

    if (out_size == 0)
        return "";
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;

        if (c >= 0x20 && c < 0x7f) {
            if (n + 1 >= out_size)
                break;
            out[n++] = (char)c;
        } else {
            if (n + 4 >= out_size)
                break;
            out[n++] = '\\';
            out[n++] = 'x';
            out[n++] = hex[c >> 4];
            out[n++] = hex[c & 15];
        }
    }
    out[n] = '\0';
    return out;
}
