/* runtime/base/role.h -- the names that the processes of a job go by, the same in subjects, logs,
 * metrics, handshakes and the summary. */
#ifndef RT_ROLE_H
#define RT_ROLE_H

enum rt_role {
    RT_ROLE_DATA_COMPOSE,
    RT_ROLE_MIDDLEWARE,
    RT_ROLE_EMBEDDING_SERVER,
    RT_ROLE_TRAINER,
    RT_ROLE_COUNT
};

#define RT_ROLE_BIT(role) (1u << (role))

const char *rt_role_name(enum rt_role role); /* "data_compose" ... ; "unknown" outside the enum */
int rt_role_parse(const char *name, enum rt_role *out); /* RT_EPROTO for any other word */

#endif
