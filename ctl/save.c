/* ctl/save.c -- see save.h. */
#include "ctl/save.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"

#include <stdio.h>
#include <string.h>

#define ASK_TIMEOUT_MS 500

static void on_reply(void *ctx, const struct wire_control_reply *reply)
{
    struct ctl_snapshot *snapshot = ctx;

    bool later = reply->status == RT_EFULL || reply->status == RT_ENOTREADY;

    if (reply->status != 0 && !later && (unsigned)reply->role < RT_ROLE_COUNT)
        snprintf(snapshot->save, sizeof(snapshot->save), "%s/%u: %s", rt_role_name(reply->role),
                 reply->index, reply->text ? reply->text : "refused");
}

void ctl_save_ask(struct rt_control_client *client, const char *job, const struct ctl_save *save,
                  struct ctl_snapshot *snapshot)
{
    struct wire_control_request request = {.id = rt_now_ns(),
                                           .ttl_ms = ASK_TIMEOUT_MS,
                                           .command = WIRE_CTL_SAVE,
                                           .text = save->name,
                                           .number = (double)save->number,
                                           .flags = save->with_state ? WIRE_CTL_STATE : 0};
    const uint32_t first = 0;

    rt_control_ask(client, job, RT_ROLE_TRAINER, &first, &request, ASK_TIMEOUT_MS, 1, snapshot,
                   on_reply);
    if (save->servers > 0)
        rt_control_ask(client, job, RT_ROLE_EMBEDDING_SERVER, NULL, &request, ASK_TIMEOUT_MS,
                       save->servers, snapshot, on_reply);
}

/* What the role tells of a save of this name; NULL: nothing. */
static const json_t *find(const json_t *status, const char *wanted)
{
    const json_t *before = json_object_get(status, "saves_before");
    const json_t *save = json_object_get(status, "save");

    for (size_t i = 0; save; i++) {
        const char *name = json_string_value(json_object_get(save, "name"));

        if (name && strcmp(name, wanted) == 0)
            break;
        save = json_array_get(before, i);
    }
    return save;
}

static void add(const json_t *status, const char *wanted, enum rt_role role, size_t index,
                struct ctl_saved *out)
{
    const json_t *save = find(status, wanted);
    const char *state = json_string_value(json_object_get(save, "state"));
    const char *error = json_string_value(json_object_get(save, "error"));

    if (!json_is_object(status) && !out->silent[0])
        snprintf(out->silent, sizeof(out->silent), "%s/%zu", rt_role_name(role), index);
    if (!save) /* that it is at another one is getting on, too */
        save = json_object_get(status, "save");
    out->bytes += (uint64_t)json_integer_value(json_object_get(save, "bytes"));
    if (!state) {
        out->writing++;
        return;
    }
    out->files += (uint64_t)json_integer_value(json_object_get(save, "files"));
    if (strcmp(state, "failed") == 0)
        snprintf(out->error, sizeof(out->error), "%s/%zu: %s", rt_role_name(role), index,
                 error ? error : "it does not say why");
    else if (strcmp(state, "done") != 0)
        out->writing++;
}

void ctl_save_read(const struct ctl_snapshot *snapshot, const char *name, bool rows,
                   struct ctl_saved *out)
{
    const json_t *servers = snapshot->role[RT_ROLE_EMBEDDING_SERVER];

    memset(out, 0, sizeof(*out));
    add(json_array_get(snapshot->role[RT_ROLE_TRAINER], 0), name, RT_ROLE_TRAINER, 0, out);
    for (size_t i = 0; rows && i < json_array_size(servers); i++)
        add(json_array_get(servers, i), name, RT_ROLE_EMBEDDING_SERVER, i, out);
    if (rows && json_array_size(servers) == 0)
        out->writing++;
}
