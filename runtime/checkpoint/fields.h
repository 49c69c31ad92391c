/* runtime/checkpoint/fields.h -- structs as JSON objects: a table of fields says both how one is written and how it is read. For this
 * folder's files only. Touch: one thread at a time. */
#ifndef RT_FIELDS_H
#define RT_FIELDS_H

#include "runtime/base/mem.h"
#include "runtime/base/strbuf.h"

#include <jansson.h>

#define RT_COUNT_MAX ((uint64_t)INT64_MAX) /* that readers of JSON keep */

enum rt_field_kind {
    RT_FIELD_TEXT,  /* const char *, of `least` to `most` bytes */
    RT_FIELD_COUNT, /* uint64_t in least..most, as a number */
    RT_FIELD_U32,   /* uint32_t in least..most, as a number */
    RT_FIELD_HEX,   /* uint64_t, as 16 hex digits */
    RT_FIELD_REAL,  /* double, finite */
    RT_FIELD_LOSS,  /* double; null: it is no number */
    RT_FIELD_FLAG,  /* bool */
    RT_FIELD_BITMAP, /* const uint8_t *, as hex digits, at most `most` bytes; the uint32_t at `count` says how many */
};

struct rt_field {
    const char *key;
    enum rt_field_kind kind;
    size_t at; /* of the struct */
    uint64_t least, most;
    size_t count;
};

/* {"key": value, ...}, or its values without braces, each on a line of its own. */
void rt_fields_write(const struct rt_field *field, size_t n, const void *from,
                     struct rt_strbuf *out);
void rt_fields_write_lines(const struct rt_field *field, size_t n, const void *from,
                           struct rt_strbuf *out);

/* Errors stick: after the first one nothing is read any more. */
struct rt_fields_reader {
    const char *path; /* for words */
    struct rt_arena *arena;
    int err; /* RT_EDATA, RT_ENOMEM */
};

/* "PATH: damaged manifest: WHERE KEY: expected ...", unless there is an error already. */
void rt_fields_refuse(struct rt_fields_reader *r, const char *where, const char *key,
                      const char *expected);
/* Zeroed, of the arena; NULL after an error. */
void *rt_fields_memory(struct rt_fields_reader *r, size_t count, size_t size);
/* Every field has to be there, and no more than `extra` keys beside them. @where: before the keys, for words. */
void rt_fields_read(struct rt_fields_reader *r, const json_t *from, const char *where,
                    const struct rt_field *field, size_t n, size_t extra, void *out);

/* Lower case digits only. false: another character */
bool rt_hex_read(const char *text, size_t digits, uint64_t *out);

#endif
