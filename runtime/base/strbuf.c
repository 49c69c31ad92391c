/* runtime/base/strbuf.c -- growing text, and the nearest word. */
#include "runtime/base/strbuf.h"
#include "runtime/base/assert.h"
#include "runtime/base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define WORD_MAX 64 /* longer words are never "near" */

void rt_strbuf_init(struct rt_strbuf *sb)
{
    *sb = (struct rt_strbuf){0};
}

void rt_strbuf_release(struct rt_strbuf *sb)
{
    rt_free(sb->text);
    rt_strbuf_init(sb);
}

void rt_strbuf_reset(struct rt_strbuf *sb)
{
    sb->len = 0;
    if (sb->text)
        sb->text[0] = '\0';
}

/* Room for `more` bytes and the NUL. */
static void reserve(struct rt_strbuf *sb, size_t more)
{
    size_t need;
    bool fits = rt_add_size(sb->len, more, &need) && rt_add_size(need, 1, &need);

    rt_assert(fits);
    if (need <= sb->capacity)
        return;
    if (need < 2 * sb->capacity)
        need = 2 * sb->capacity;
    sb->capacity = need < 64 ? 64 : need;
    sb->text = rt_xrealloc(sb->text, sb->capacity);
}

void rt_strbuf_add(struct rt_strbuf *sb, const char *data, size_t len)
{
    reserve(sb, len);
    if (len)
        memcpy(sb->text + sb->len, data, len);
    sb->len += len;
    sb->text[sb->len] = '\0';
}

void rt_strbuf_addf(struct rt_strbuf *sb, const char *fmt, ...)
{
    va_list args;
    int n;

    va_start(args, fmt);
    n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    rt_assert(n >= 0);
    reserve(sb, (size_t)n);
    va_start(args, fmt);
    vsnprintf(sb->text + sb->len, (size_t)n + 1, fmt, args);
    va_end(args);
    sb->len += (size_t)n;
}

char *rt_strbuf_detach(struct rt_strbuf *sb)
{
    char *text;

    rt_strbuf_add(sb, "", 0);
    text = sb->text;
    rt_strbuf_init(sb);
    return text;
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Inserted, missing, changed and swapped letters (optimal string alignment); lengths at most WORD_MAX. */
static size_t edit_distance(const char *a, size_t a_len, const char *b, size_t b_len)
{
    size_t rows[3][WORD_MAX + 1]; /* row i of the table is rows[i % 3] */

    for (size_t j = 0; j <= b_len; j++)
        rows[0][j] = j;
    for (size_t i = 1; i <= a_len; i++) {
        size_t *row = rows[i % 3], *above = rows[(i + 2) % 3], *two_above = rows[(i + 1) % 3];

        row[0] = i;
        for (size_t j = 1; j <= b_len; j++) {
            row[j] = least(least(above[j], row[j - 1]) + 1, above[j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                row[j] = least(row[j], two_above[j - 2] + 1);
        }
    }
    return rows[a_len % 3][b_len];
}

const char *rt_nearest(const char *word, const char *const *words, size_t n)
{
    size_t word_len = strlen(word);
    size_t best = SIZE_MAX;
    const char *nearest = NULL;

    if (word_len > WORD_MAX)
        return NULL;
    for (size_t i = 0; i < n; i++) {
        size_t len = strlen(words[i]);
        size_t longer = len > word_len ? len : word_len;
        size_t distance;

        if (len > WORD_MAX || (strncmp(words[i], word, len) == 0 && word[len] == '.'))
            continue; /* it is what an unknown `a.b` stands in */
        distance = edit_distance(word, word_len, words[i], len);
        if (distance * 3 <= longer && distance < best) {
            best = distance;
            nearest = words[i];
        }
    }
    return nearest;
}
