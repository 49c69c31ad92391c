/* embedding_server/importing.c -- see importing.h. */
#include "embedding_server/importing.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"

#include <stdio.h>
#include <string.h>

struct ebs_importing {
    uint64_t number;
    uint32_t stage;
    char dir[WIRE_TEXT_MAX + 1];
    uint32_t owners;
    struct ebs_import part[];
};

/* WORKING while any part is; then FAILED if any has, with its error. */
static int state_of(const struct ebs_importing *importing, const char **error)
{
    bool working = false;

    *error = NULL;
    for (uint32_t i = 0; i < importing->owners; i++) {
        const struct ebs_import *part = &importing->part[i];
        int state = atomic_load_explicit(&part->state, memory_order_acquire);

        working |= state == EBS_IMPORT_WORKING;
        if (state == EBS_IMPORT_FAILED)
            *error = part->error;
    }
    return working ? EBS_IMPORT_WORKING : *error ? EBS_IMPORT_FAILED : EBS_IMPORT_DONE;
}

static int check_request(const struct ebs_importing *before,
                         const struct wire_control_request *request)
{
    bool same = before && before->number == (uint64_t)request->number;
    const char *error;
    int state = before ? state_of(before, &error) : EBS_IMPORT_DONE;

    if (!(request->number >= 1 && request->number < 0x1p53) ||
        (request->stage != WIRE_IMPORT_CHECK && request->stage != WIRE_IMPORT_LOAD))
        return RT_FAIL(RT_EUSAGE, "an import has a number and stage %d or %d, got %g and %u",
                       WIRE_IMPORT_CHECK, WIRE_IMPORT_LOAD, request->number, request->stage);
    if (before && state == EBS_IMPORT_WORKING)
        return RT_FAIL(RT_EFULL, "%s is being imported already", before->dir);
    if (request->stage == WIRE_IMPORT_LOAD && (!same || state != EBS_IMPORT_DONE))
        return RT_FAIL(RT_ENOTREADY, "%s was not checked here", request->text);
    return 0;
}

int ebs_importing_begin(struct ebs_importing **importing,
                        const struct wire_control_request *request, uint32_t owners,
                        struct ebs_import **out)
{
    struct ebs_importing *now;
    int err;

    *out = NULL;
    if (*importing && (*importing)->number == (uint64_t)request->number &&
        (*importing)->stage >= request->stage)
        return 0;
    err = check_request(*importing, request);
    if (err)
        return err;
    now = rt_xcalloc(1, sizeof(*now) + owners * sizeof(now->part[0]));
    now->number = (uint64_t)request->number;
    now->stage = request->stage;
    snprintf(now->dir, sizeof(now->dir), "%s", request->text);
    now->owners = owners;
    for (uint32_t i = 0; i < owners; i++) {
        struct ebs_import *part = &now->part[i];

        part->dir = now->dir;
        part->check = request->stage == WIRE_IMPORT_CHECK;
        part->fresh = request->flags & WIRE_CTL_FRESH;
        part->replace = request->flags & WIRE_CTL_REPLACE;
        atomic_init(&part->state, part->check && i > 0 ? EBS_IMPORT_DONE : EBS_IMPORT_WORKING);
    }
    ebs_importing_destroy(*importing);
    *importing = now;
    *out = now->part;
    return 0;
}

void ebs_importing_status(const struct ebs_importing *importing, json_t *object)
{
    static const char *const word[] = {[EBS_IMPORT_WORKING] = "working",
                                       [EBS_IMPORT_DONE] = "done",
                                       [EBS_IMPORT_FAILED] = "failed"};
    const char *error;
    uint64_t rows = 0;
    int state;

    if (!importing)
        return;
    state = state_of(importing, &error);
    for (uint32_t i = 0; i < importing->owners; i++)
        rows += atomic_load_explicit(&importing->part[i].rows, memory_order_relaxed);
    json_object_set_new(
        object, "import",
        json_pack("{s:I, s:I, s:s, s:I, s:s}", "number", (json_int_t)importing->number, "stage",
                  (json_int_t)importing->stage, "state", word[state], "rows", (json_int_t)rows,
                  "error", state == EBS_IMPORT_FAILED ? error : ""));
}

void ebs_importing_destroy(struct ebs_importing *importing)
{
    rt_free(importing);
}
