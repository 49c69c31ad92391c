/* runtime/member/subject.h -- the subjects of a job on NATS. Job names are tokens (wire_is_token). */
#ifndef RT_SUBJECT_H
#define RT_SUBJECT_H

#include "runtime/base/role.h"

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define RT_SUBJECT_MAX 160

/* "saffron.<job>."; gives its length. */
static inline size_t rt_subject_job(char out[RT_SUBJECT_MAX], const char *job)
{
    return (size_t)snprintf(out, RT_SUBJECT_MAX, "saffron.%s.", job);
}

static inline void rt_subject_who(char out[RT_SUBJECT_MAX], const char *job)
{
    snprintf(out, RT_SUBJECT_MAX, "saffron.%s.who", job);
}

/* index NULL: "*", to hear all of the role. */
static inline void rt_subject_hello(char out[RT_SUBJECT_MAX], const char *job, enum rt_role role,
                                    const uint32_t *index)
{
    if (index)
        snprintf(out, RT_SUBJECT_MAX, "saffron.%s.hello.%s.%u", job, rt_role_name(role), *index);
    else
        snprintf(out, RT_SUBJECT_MAX, "saffron.%s.hello.%s.*", job, rt_role_name(role));
}

static inline void rt_subject_held(char out[RT_SUBJECT_MAX], const char *job, enum rt_role role,
                                   uint32_t index)
{
    snprintf(out, RT_SUBJECT_MAX, "saffron.%s.held.%s.%u", job, rt_role_name(role), index);
}

/* index NULL: the whole role. */
static inline void rt_subject_control(char out[RT_SUBJECT_MAX], const char *job, enum rt_role role,
                                      const uint32_t *index)
{
    if (index)
        snprintf(out, RT_SUBJECT_MAX, "saffron.%s.ctl.%s.%u", job, rt_role_name(role), *index);
    else
        snprintf(out, RT_SUBJECT_MAX, "saffron.%s.ctl.%s", job, rt_role_name(role));
}

#endif
