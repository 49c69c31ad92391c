/* runtime/base/err.h -- one error currency for the whole project.
 *
 * Every function that can fail returns an `int`: 0 is success, anything negative is an error. Values
 * down to -4095 are system errors in libuv's numbering (-errno on Linux), values from -5001 down are
 * ours, so both share one `int`. The text of an error is set once, where it breaks, with RT_FAIL();
 * the code travels up; whoever handles the error logs the text. */
#ifndef RT_ERR_H
#define RT_ERR_H

#define RT_ERR_LIST(X)                                                                             \
    X(RT_EUSAGE, -5001, "wrong usage or configuration")                                            \
    X(RT_EPROTO, -5002, "peer sent a malformed message")                                           \
    X(RT_ELIMIT, -5003, "over a limit")                                                            \
    X(RT_ESTALE, -5004, "older than what is held")                                                 \
    X(RT_EDATA, -5005, "bad input data")                                                           \
    X(RT_EFILE, -5006, "file could not be read or written")                                        \
    X(RT_EPEER, -5007, "connection to the peer was lost")                                          \
    X(RT_EDEADLINE, -5008, "deadline passed")                                                      \
    X(RT_EREFUSED, -5009, "handshake refused")                                                     \
    X(RT_EFENCED, -5010, "replaced by a newer incarnation")                                        \
    X(RT_EUNKNOWN, -5011, "batch is not known here")                                               \
    X(RT_EDIGEST, -5012, "digest differs")                                                         \
    X(RT_ENATS, -5013, "NATS failed")                                                              \
    X(RT_EBACKEND, -5014, "compute backend failed")                                                \
    X(RT_EFULL, -5015, "queue or budget is full")                                                  \
    X(RT_ENOTREADY, -5016, "not ready yet")                                                        \
    X(RT_ECANCELED, -5017, "given up by its owner")                                                \
    X(RT_EOWNER, -5018, "row outside this owner's shards")                                         \
    X(RT_EBACK, -5019, "the job goes back to a checkpoint")

enum rt_err {
    RT_OK = 0,
    RT_ENOMEM = -12, /* the same value as UV_ENOMEM */
#define X(name, value, text) name = value,
    RT_ERR_LIST(X)
#undef X
};

/* RT_FAIL(code, fmt, ...) - set this thread's error text and evaluate to `code`. */
#define RT_FAIL(code, ...) rt_fail((code), __VA_ARGS__)

int rt_fail(int code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Put words in front of the current text ("a.yml: " + text) and give `code` back. */
int rt_fail_prefix(int code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Text of this thread's latest RT_FAIL; "" before the first. At most 1 KiB. */
const char *rt_err_text(void);

/* "RT_EPROTO" for ours, the errno name ("ECONNREFUSED") for system errors. Never NULL. */
const char *rt_err_name(int code);

/* One-line general meaning of a code. Never NULL. */
const char *rt_err_meaning(int code);

/* Of a process that wants to be started again, and has no fault: what it has in memory is of a generation that is over. The number
 * is EX_TEMPFAIL of sysexits.h. */
#define RT_EXIT_AGAIN 75

/* Process exit code: 0 for 0, 2 for RT_EUSAGE, RT_EXIT_AGAIN for RT_EBACK, 1 for the rest. */
int rt_exit_code(int err);

#endif
