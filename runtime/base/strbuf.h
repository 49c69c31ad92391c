/* runtime/base/strbuf.h -- text that grows: metrics pages, reports. Dies on out of memory. */
#ifndef RT_STRBUF_H
#define RT_STRBUF_H

#include <stddef.h>

struct rt_strbuf {
    char *text; /* NUL-terminated once anything was added; NULL before */
    size_t len, capacity;
};

void rt_strbuf_init(struct rt_strbuf *sb);
void rt_strbuf_release(struct rt_strbuf *sb);
void rt_strbuf_reset(struct rt_strbuf *sb);
void rt_strbuf_add(struct rt_strbuf *sb, const char *data, size_t len);
void rt_strbuf_addf(struct rt_strbuf *sb, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
char *rt_strbuf_detach(struct rt_strbuf *sb); /* the text is now the caller's; never NULL */

/* The entry of `words` with the smallest edit distance to `word` (a swap of neighbours is one edit), or NULL when none is near
 * (distance over a third of the longer word). For "did you mean". */
const char *rt_nearest(const char *word, const char *const *words, size_t n);

#endif
