/* runtime/base/role.c -- role names. */
#include "runtime/base/role.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"

#include <string.h>

static const char *const role_name[RT_ROLE_COUNT] = {
    [RT_ROLE_DATA_COMPOSE] = "data_compose",
    [RT_ROLE_MIDDLEWARE] = "middleware",
    [RT_ROLE_EMBEDDING_SERVER] = "embedding_server",
    [RT_ROLE_TRAINER] = "trainer",
};

const char *rt_role_name(enum rt_role role)
{
    return (unsigned)role < RT_ROLE_COUNT ? role_name[role] : "unknown";
}

int rt_role_parse(const char *name, enum rt_role *out)
{
    char shown[64];

    for (int i = 0; i < RT_ROLE_COUNT; i++) {
        if (strcmp(name, role_name[i]) == 0) {
            *out = (enum rt_role)i;
            return 0;
        }
    }
    return RT_FAIL(RT_EPROTO, "unknown role '%s'", rt_log_escape(name, shown, sizeof(shown)));
}
