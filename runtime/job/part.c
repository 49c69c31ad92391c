/* runtime/job/part.c -- see part.h. */
#include "runtime/job/part.h"

#include "runtime/base/mem.h"
#include "runtime/job/safetensors.h"
#include "runtime/job/save.h"

#include <stdio.h>

#define NAME_BYTES 32u /* of a slot's tensor */

static const enum rt_tensor_type type_of[] = {
    [WIRE_F32] = RT_TENSOR_F32, [WIRE_F16] = RT_TENSOR_F16, [WIRE_BF16] = RT_TENSOR_BF16};

/* @return how many there are */
static size_t list_tensors(const struct rt_save_part *part,
                           struct rt_tensor out[2 + RT_STATE_SLOTS],
                           char name[RT_STATE_SLOTS][NAME_BYTES])
{
    out[0] = (struct rt_tensor){.name = RT_SAVE_IDS,
                                .type = RT_TENSOR_I64,
                                .rank = 1,
                                .shape = {part->n},
                                .data = part->row_id};
    out[1] = (struct rt_tensor){.name = RT_SAVE_ROWS,
                                .type = type_of[part->dtype],
                                .rank = 2,
                                .shape = {part->n, part->dim},
                                .data = part->row};
    for (uint32_t k = 0; k < part->slots; k++) {
        snprintf(name[k], NAME_BYTES, "%s%s", RT_SAVE_STATE, part->slot[k].name);
        out[2 + k] = (struct rt_tensor){.name = name[k],
                                        .type = RT_TENSOR_F32,
                                        .rank = 2,
                                        .shape = {part->n, part->slot[k].count},
                                        .data = part->state[k]};
    }
    return 2 + part->slots;
}

int rt_save_part_write(const char *dir, const struct rt_save_part *part)
{
    char number[3][16], name[RT_STATE_SLOTS][NAME_BYTES];
    struct rt_tensor tensor[2 + RT_STATE_SLOTS];
    size_t n = list_tensors(part, tensor, name), notes = 5;
    struct rt_tensor_note note[7] = {{"table", part->table},
                                     {"owner", number[0]},
                                     {"owners", number[1]},
                                     {"part", number[2]},
                                     {"last", part->is_last ? "true" : "false"}};
    char *path = rt_save_table_path(dir, part->table, part->owner, part->part);
    int err;

    if (part->id)
        note[notes++] = (struct rt_tensor_note){RT_SAVE_NOTE, part->id};
    if (part->optimizer)
        note[notes++] = (struct rt_tensor_note){RT_SAVE_OPTIMIZER, part->optimizer};
    snprintf(number[0], sizeof(number[0]), "%u", part->owner);
    snprintf(number[1], sizeof(number[1]), "%u", part->owners);
    snprintf(number[2], sizeof(number[2]), "%u", part->part);
    err = rt_safetensors_write(path, note, notes, tensor, n);
    rt_free(path);
    return err;
}
