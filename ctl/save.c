/* ctl/save.c -- see save.h. */
#include "ctl/save.h"
#include "runtime/job/save.h"

#include <stdio.h>
#include <string.h>

static void add(const json_t *status, enum rt_role role, size_t index, struct ctl_saved *out)
{
    const json_t *save = json_object_get(status, "save");
    const char *name = json_string_value(json_object_get(save, "name"));
    const char *state = json_string_value(json_object_get(save, "state"));
    const char *error = json_string_value(json_object_get(save, "error"));

    if (!name || !state || strcmp(name, RT_SAVE_NAME) != 0) {
        out->writing++;
        return;
    }
    out->files += (uint64_t)json_integer_value(json_object_get(save, "files"));
    out->bytes += (uint64_t)json_integer_value(json_object_get(save, "bytes"));
    if (strcmp(state, "failed") == 0)
        snprintf(out->error, sizeof(out->error), "%s/%zu: %s", rt_role_name(role), index,
                 error ? error : "it does not say why");
    else if (strcmp(state, "done") != 0)
        out->writing++;
}

void ctl_save_read(const struct ctl_snapshot *snapshot, bool rows, struct ctl_saved *out)
{
    const json_t *servers = snapshot->role[RT_ROLE_EMBEDDING_SERVER];

    memset(out, 0, sizeof(*out));
    add(json_array_get(snapshot->role[RT_ROLE_TRAINER], 0), RT_ROLE_TRAINER, 0, out);
    for (size_t i = 0; rows && i < json_array_size(servers); i++)
        add(json_array_get(servers, i), RT_ROLE_EMBEDDING_SERVER, i, out);
    if (rows && json_array_size(servers) == 0)
        out->writing++;
}
