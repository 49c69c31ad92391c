/* runtime/base/log.h -- one line per event: `2026-01-31T12:00:00.123Z INFO trainer/0 event key=value`.
 *
 * Role and index are stamped on every line. Values that come from outside must be passed through
 * %s of rt_log_escape() so that control characters cannot forge lines. Touch: any thread. */
#ifndef RT_LOG_H
#define RT_LOG_H

#include <stdatomic.h>
#include <stdint.h>

enum rt_log_level { RT_LOG_ERROR, RT_LOG_WARN, RT_LOG_INFO, RT_LOG_DEBUG };

/* Who writes: role name (static string) and index. Call once, early. Before it: "saffron". */
void rt_log_identity(const char *role, unsigned index);

void rt_log_set_level(enum rt_log_level level);
enum rt_log_level rt_log_get_level(void);

/* "error" "warn" "info" "debug" -> level; RT_EUSAGE for any other word. */
int rt_log_level_parse(const char *word, enum rt_log_level *out);

/* Write to stderr, one write(2) per line, at most 2 KiB. rt_log(RT_LOG_INFO, "ready port=%d", port). */
void rt_log(enum rt_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* How many there were of this level, also those that were not written for their level. For metrics. */
const _Atomic uint64_t *rt_log_count(enum rt_log_level level);

/* Copy `text` with control characters and non-ASCII bytes as \xNN; returns `out`. */
const char *rt_log_escape(const char *text, char *out, unsigned long out_size);

#endif
