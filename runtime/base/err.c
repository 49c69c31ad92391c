/* runtime/base/err.c -- this thread's error text, and names for codes. */
#include "runtime/base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define TEXT_MAX 1024

/* libuv's own codes that are no errno: the end of a stream, and its resolver's range. */
#define LOOP_EOF     (-4095)
#define RESOLVER_MAX (-3000)
#define RESOLVER_MIN (-3014)

static _Thread_local char text_now[TEXT_MAX];

int rt_fail(int code, const char *fmt, ...)
{
    char text[TEXT_MAX]; /* apart from text_now, which the arguments may point into */
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    memcpy(text_now, text, sizeof(text));
    return code;
}

int rt_fail_prefix(int code, const char *fmt, ...)
{
    char text[TEXT_MAX];
    va_list args;
    int n;

    va_start(args, fmt);
    n = vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    if (n >= 0 && (size_t)n < sizeof(text))
        snprintf(text + n, sizeof(text) - (size_t)n, "%s", text_now);
    memcpy(text_now, text, sizeof(text));
    return code;
}

const char *rt_err_text(void)
{
    return text_now;
}

const char *rt_err_name(int code)
{
    const char *name;

    switch (code) {
    case RT_OK:
        return "OK";
#define X(id, value, meaning)                                                                      \
    case id:                                                                                       \
        return #id;
        RT_ERR_LIST(X)
#undef X
    case LOOP_EOF:
        return "EOF";
    default:
        break;
    }
    if (code <= RESOLVER_MAX && code >= RESOLVER_MIN)
        return "EAI";
    name = code < 0 && code >= -4094 ? strerrorname_np(-code) : NULL;
    return name ? name : "EUNKNOWN";
}

const char *rt_err_meaning(int code)
{
    const char *meaning;

    switch (code) {
    case RT_OK:
        return "success";
#define X(id, value, meaning)                                                                      \
    case id:                                                                                       \
        return meaning;
        RT_ERR_LIST(X)
#undef X
    case LOOP_EOF:
        return "end of the stream";
    default:
        break;
    }
    if (code <= RESOLVER_MAX && code >= RESOLVER_MIN)
        return "host name could not be resolved";
    meaning = code < 0 && code >= -4094 ? strerrordesc_np(-code) : NULL;
    return meaning ? meaning : "unknown error";
}

int rt_exit_code(int err)
{
    if (err == 0)
        return 0;
    if (err == RT_EBACK)
        return RT_EXIT_AGAIN;
    return err == RT_EUSAGE ? 2 : 1;
}
