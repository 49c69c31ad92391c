/* ctl/voids.c -- see voids.h. */
#include "ctl/voids.h"
#include "runtime/base/clock.h"

#include <string.h>

static uint64_t count_of(const json_t *status, const char *key)
{
    return (uint64_t)json_integer_value(json_object_get(status, key));
}

/* The latest that has failed, of those that ended; NULL: it is not among them any more. */
static const json_t *latest(const json_t *status)
{
    const json_t *ended = json_object_get(status, "checkpoints_before"), *one;

    for (size_t i = 0; (one = json_array_get(ended, i)); i++) {
        const char *state = json_string_value(json_object_get(one, "state"));

        if (state && strcmp(state, "failed") == 0)
            return one;
    }
    return NULL;
}

static const char *text_of(const json_t *one, const char *key)
{
    const char *text = json_string_value(json_object_get(one, key));

    return text ? text : "see the log of trainer/0";
}

void ctl_voids_look(struct ctl_voids *voids, const struct ctl_snapshot *snapshot,
                    struct ctl_progress *progress)
{
    const json_t *status = json_array_get(snapshot->role[RT_ROLE_TRAINER], 0), *one;
    uint64_t incarnation = count_of(status, "incarnation");
    uint64_t now = rt_now_ns(), count = count_of(status, "checkpoints_void"), more;

    if (!json_is_object(status))
        return;
    if (incarnation != voids->incarnation)
        *voids = (struct ctl_voids){.incarnation = incarnation, .told_ns = voids->told_ns};
    if (count <= voids->known || (voids->told_ns && now - voids->told_ns < CTL_VOIDS_EVERY_NS))
        return;
    one = latest(status);
    more = count - voids->known - 1;
    if (more > 0)
        ctl_progress_say(progress,
                         "the checkpoint %s was given up, and %llu before it; training goes on: %s",
                         text_of(one, "name"), (unsigned long long)more, text_of(one, "error"));
    else
        ctl_progress_say(progress, "the checkpoint %s was given up; training goes on: %s",
                         text_of(one, "name"), text_of(one, "error"));
    voids->known = count;
    voids->told_ns = now;
}
