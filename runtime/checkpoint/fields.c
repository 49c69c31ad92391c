/* runtime/checkpoint/fields.c -- one field at a time, to JSON and back. */
#include "runtime/checkpoint/fields.h"
#include "runtime/base/err.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define HEX_DIGITS 16

/* ---- writing ---- */

static void add_text(struct rt_strbuf *out, const char *text)
{
    rt_strbuf_add(out, "\"", 1);
    for (const char *p = text; *p; p++) {
        if (*p == '"' || *p == '\\')
            rt_strbuf_addf(out, "\\%c", *p);
        else if ((unsigned char)*p < ' ')
            rt_strbuf_addf(out, "\\u%04x", (unsigned)(unsigned char)*p);
        else
            rt_strbuf_add(out, p, 1);
    }
    rt_strbuf_add(out, "\"", 1);
}

/* 17 digits are the same double when read; one without a point would be read as an integer, and -0 as 0. */
static void add_real(struct rt_strbuf *out, double value)
{
    size_t from = out->len;

    if (!isfinite(value)) {
        rt_strbuf_addf(out, "null");
        return;
    }
    rt_strbuf_addf(out, "%.17g", value);
    if (!strpbrk(out->text + from, ".e"))
        rt_strbuf_addf(out, ".0");
}

static void add_bitmap(struct rt_strbuf *out, const uint8_t *bytes, uint32_t n)
{
    rt_strbuf_add(out, "\"", 1);
    for (uint32_t i = 0; i < n; i++)
        rt_strbuf_addf(out, "%02x", bytes[i]);
    rt_strbuf_add(out, "\"", 1);
}

static void add_field(struct rt_strbuf *out, const struct rt_field *field, const void *base)
{
    const void *at = (const char *)base + field->at;

    rt_strbuf_addf(out, "\"%s\": ", field->key);
    switch (field->kind) {
    case RT_FIELD_TEXT:
        add_text(out, *(const char *const *)at);
        break;
    case RT_FIELD_COUNT:
        rt_strbuf_addf(out, "%" PRIu64, *(const uint64_t *)at);
        break;
    case RT_FIELD_U32:
        rt_strbuf_addf(out, "%" PRIu32, *(const uint32_t *)at);
        break;
    case RT_FIELD_HEX:
        rt_strbuf_addf(out, "\"%016" PRIx64 "\"", *(const uint64_t *)at);
        break;
    case RT_FIELD_REAL:
    case RT_FIELD_LOSS:
        add_real(out, *(const double *)at);
        break;
    case RT_FIELD_FLAG:
        rt_strbuf_addf(out, "%s", *(const bool *)at ? "true" : "false");
        break;
    case RT_FIELD_BITMAP:
        add_bitmap(out, *(const uint8_t *const *)at,
                   *(const uint32_t *)(const void *)((const char *)base + field->count));
        break;
    }
}

void rt_fields_write(const struct rt_field *field, size_t n, const void *from,
                     struct rt_strbuf *out)
{
    for (size_t i = 0; i < n; i++) {
        rt_strbuf_addf(out, i == 0 ? "{" : ", ");
        add_field(out, &field[i], from);
    }
    rt_strbuf_addf(out, "}");
}

void rt_fields_write_lines(const struct rt_field *field, size_t n, const void *from,
                           struct rt_strbuf *out)
{
    for (size_t i = 0; i < n; i++) {
        rt_strbuf_addf(out, "  ");
        add_field(out, &field[i], from);
        rt_strbuf_addf(out, ",\n");
    }
}

/* ---- reading ---- */

void rt_fields_refuse(struct rt_fields_reader *r, const char *where, const char *key,
                      const char *expected)
{
    if (!r->err)
        r->err = RT_FAIL(RT_EDATA, "%s: damaged manifest: %s%s: expected %s", r->path, where, key,
                         expected);
}

void *rt_fields_memory(struct rt_fields_reader *r, size_t count, size_t size)
{
    void *p = r->err ? NULL : rt_arena_calloc(r->arena, count, size);

    if (!p && !r->err)
        r->err = RT_FAIL(RT_ENOMEM, "%s: out of memory for %zu entries", r->path, count);
    return p;
}

static int digit_of(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool rt_hex_read(const char *text, size_t digits, uint64_t *out)
{
    uint64_t value = 0;

    for (size_t i = 0; i < digits; i++) {
        int digit = digit_of(text[i]);

        if (digit < 0)
            return false;
        value = value << 4 | (uint64_t)digit;
    }
    *out = value;
    return true;
}

static void read_text(struct rt_fields_reader *r, const json_t *value, const char *where,
                      const struct rt_field *field, const char **out)
{
    const char *text = json_string_value(value);
    char expected[64];

    snprintf(expected, sizeof(expected), "a text of %" PRIu64 " to %" PRIu64 " bytes", field->least,
             field->most);
    if (!text || strlen(text) < field->least || strlen(text) > field->most)
        rt_fields_refuse(r, where, field->key, expected);
    if (r->err)
        return;
    *out = rt_arena_strdup(r->arena, text);
    if (!*out)
        r->err = RT_FAIL(RT_ENOMEM, "%s: out of memory for its texts", r->path);
}

static void read_count(struct rt_fields_reader *r, const json_t *value, const char *where,
                       const struct rt_field *field, uint64_t *out)
{
    json_int_t n = json_integer_value(value);
    char expected[64];

    snprintf(expected, sizeof(expected), "an integer in %" PRIu64 "..%" PRIu64, field->least,
             field->most);
    if (!json_is_integer(value) || n < 0 || (uint64_t)n < field->least || (uint64_t)n > field->most)
        rt_fields_refuse(r, where, field->key, expected);
    else
        *out = (uint64_t)n;
}

static void read_bitmap(struct rt_fields_reader *r, const json_t *value, const char *where,
                        const struct rt_field *field, void *base)
{
    const char *text = json_string_value(value);
    size_t digits = text ? strlen(text) : 1;
    uint32_t n = (uint32_t)(digits / 2);
    uint64_t byte = 0;
    uint8_t *out;

    if (digits % 2 != 0 || digits / 2 > field->most)
        rt_fields_refuse(r, where, field->key,
                         "two hex digits for each byte, at most 131072 bytes");
    out = rt_fields_memory(r, n, 1);
    for (uint32_t i = 0; out && i < n; i++) {
        if (!rt_hex_read(text + (size_t)2 * i, 2, &byte))
            rt_fields_refuse(r, where, field->key, "hex digits");
        out[i] = (uint8_t)byte;
    }
    *(const uint8_t **)(void *)((char *)base + field->at) = out;
    *(uint32_t *)(void *)((char *)base + field->count) = n;
}

static void read_real(struct rt_fields_reader *r, const json_t *value, const char *where,
                      const struct rt_field *field, double *out)
{
    if (json_is_real(value))
        *out = json_real_value(value); /* jansson reads no infinity */
    else if (field->kind == RT_FIELD_LOSS && json_is_null(value))
        *out = NAN;
    else
        rt_fields_refuse(r, where, field->key, "a number with a point");
}

static void read_field(struct rt_fields_reader *r, const json_t *from, const char *where,
                       const struct rt_field *field, void *base)
{
    const json_t *value = json_object_get(from, field->key);
    void *at = (char *)base + field->at;
    const char *text = json_string_value(value);
    uint64_t number = 0;

    switch (field->kind) {
    case RT_FIELD_TEXT:
        read_text(r, value, where, field, at);
        break;
    case RT_FIELD_COUNT:
        read_count(r, value, where, field, at);
        break;
    case RT_FIELD_U32:
        read_count(r, value, where, field, &number);
        *(uint32_t *)at = (uint32_t)number;
        break;
    case RT_FIELD_HEX:
        if (!text || strlen(text) != HEX_DIGITS || !rt_hex_read(text, HEX_DIGITS, at))
            rt_fields_refuse(r, where, field->key, "16 hex digits");
        break;
    case RT_FIELD_REAL:
    case RT_FIELD_LOSS:
        read_real(r, value, where, field, at);
        break;
    case RT_FIELD_FLAG:
        if (!json_is_boolean(value))
            rt_fields_refuse(r, where, field->key, "true or false");
        *(bool *)at = json_is_true(value);
        break;
    case RT_FIELD_BITMAP:
        read_bitmap(r, value, where, field, base);
        break;
    }
}

void rt_fields_read(struct rt_fields_reader *r, const json_t *from, const char *where,
                    const struct rt_field *field, size_t n, size_t extra, void *base)
{
    for (size_t i = 0; i < n && !r->err; i++)
        read_field(r, from, where, &field[i], base);
    if (!r->err && json_object_size(from) != n + extra)
        rt_fields_refuse(r, where, "", "no other keys than these");
}
