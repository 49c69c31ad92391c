/* runtime/wire/codec.c -- protobuf-c with a belt: capped memory, no NUL in texts, named limits.
 *
 * protobuf-c allocates one block per sub-message, per text and per array while it reads. Here every
 * block comes from the caller's arena, behind a small header with its size, so that
 *   - nothing is freed one by one: the message dies with the arena;
 *   - a message of empty sub-messages (which inflate fifty-fold) ends at WIRE_UNPACK_MAX;
 *   - a text with a NUL inside is found by comparing its length with its block, which protobuf-c, holding
 *     texts as C strings, does not do. A walk over the descriptor finds all texts, so that no codec can
 *     forget one.
 * Scanning the raw bytes before unpacking was the other way; it would have been a second parser. */
#include "runtime/wire/codec.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/net/frame.h"

#include <math.h>
#include <string.h>

#define SCALE_MIN 0x1p-126f /* the smallest normal one; its inverse is one as well */

struct block {
    size_t size;
    _Alignas(16) uint8_t data[]; /* sizeof(struct block) in front of it */
};

struct memory {
    struct rt_arena *arena;
    size_t left; /* of WIRE_UNPACK_MAX */
    bool full;   /* the arena had no room */
    bool over;   /* the message wanted more than WIRE_UNPACK_MAX */
};

/* ---- out ---- */

void wire_out_release(struct wire_out *out)
{
    rt_free(out->data);
    *out = (struct wire_out){0};
}

int wire_encode(const ProtobufCMessage *message, struct wire_out *out)
{
    size_t size = protobuf_c_message_get_packed_size(message);

    if (size > RT_MESSAGE_MAX)
        return RT_FAIL(RT_ELIMIT, "%s: packs to %zu bytes, limit %u",
                       message->descriptor->short_name, size, RT_MESSAGE_MAX);
    if (size > out->capacity) {
        size_t capacity = rt_align_up(size, 256);
        uint8_t *data = rt_try_realloc(out->data, capacity);

        if (!data)
            return RT_FAIL(RT_ENOMEM, "%s: out of memory for %zu bytes",
                           message->descriptor->short_name, capacity);
        out->data = data;
        out->capacity = capacity;
    }
    out->size = size ? protobuf_c_message_pack(message, out->data) : 0;
    rt_assert(out->size == size);
    return 0;
}

void wire_assert_ok(int err)
{
    if (err)
        rt_log(RT_LOG_ERROR, "message refused before sending reason=\"%s\"", rt_err_text());
    rt_assert(!err);
}

/* ---- in ---- */

static void *memory_alloc(void *arg, size_t size)
{
    struct memory *memory = arg;
    struct block *block;

    if (size > WIRE_UNPACK_MAX || size + sizeof(*block) > memory->left) {
        memory->over = true;
        return NULL;
    }
    block = rt_arena_alloc(memory->arena, size + sizeof(*block));
    if (!block) {
        memory->full = true;
        return NULL;
    }
    memory->left -= size + sizeof(*block);
    block->size = size;
    return block->data;
}

static void memory_free(void *arg, void *data)
{
    (void)arg;
    (void)data; /* dies with the arena */
}

static bool has_nul(const char *text)
{
    const struct block *block;

    if (text == protobuf_c_empty_string)
        return false;
    block = (const struct block *)(const void *)(text - sizeof(*block));
    return strlen(text) + 1 != block->size;
}

/* Name of a text field with a NUL inside, in the message or one below; NULL: there is none. */
static const char *find_nul(const ProtobufCMessage *message)
{
    const ProtobufCMessageDescriptor *d = message->descriptor;

    for (unsigned i = 0; i < d->n_fields; i++) {
        const ProtobufCFieldDescriptor *f = &d->fields[i];
        const char *base = (const char *)message;
        bool many = f->label == PROTOBUF_C_LABEL_REPEATED;
        size_t n = many ? *(const size_t *)(const void *)(base + f->quantifier_offset) : 1;
        const void *member = base + f->offset;
        const char *nul = NULL;

        if (f->type != PROTOBUF_C_TYPE_STRING && f->type != PROTOBUF_C_TYPE_MESSAGE)
            continue;
        for (size_t j = 0; j < n && !nul; j++) {
            const void *one = ((void *const *)(many ? *(void *const *)member : member))[j];

            if (f->type == PROTOBUF_C_TYPE_MESSAGE)
                nul = one ? find_nul(one) : NULL;
            else if (has_nul(one))
                nul = f->name;
        }
        if (nul)
            return nul;
    }
    return NULL;
}

void *wire_decode(const ProtobufCMessageDescriptor *descriptor, const uint8_t *data, size_t size,
                  struct rt_arena *arena, int *err)
{
    struct memory memory = {.arena = arena, .left = WIRE_UNPACK_MAX};
    ProtobufCAllocator allocator = {memory_alloc, memory_free, &memory};
    const char *name = descriptor->short_name, *nul;
    ProtobufCMessage *message;

    if (size > RT_MESSAGE_MAX) {
        *err = RT_FAIL(RT_EPROTO, "%s: %zu bytes, limit %u", name, size, RT_MESSAGE_MAX);
        return NULL;
    }
    message = protobuf_c_message_unpack(descriptor, &allocator, size, data);
    if (!message) {
        if (memory.full)
            *err = RT_FAIL(RT_ENOMEM, "%s: no room to unpack %zu bytes", name, size);
        else if (memory.over)
            *err = RT_FAIL(RT_EPROTO, "%s: %zu bytes unpack to more than %zu", name, size,
                           WIRE_UNPACK_MAX);
        else
            *err = RT_FAIL(RT_EPROTO, "%s: %zu bytes are not a valid message", name, size);
        return NULL;
    }
    nul = find_nul(message);
    if (nul) {
        *err = RT_FAIL(RT_EPROTO, "%s: %s has a NUL inside", name, nul);
        return NULL;
    }
    *err = 0;
    return message;
}

/* ---- checks ---- */

int wire_range(const char *message, const char *field, uint64_t value, uint64_t min, uint64_t max)
{
    if (value >= min && value <= max)
        return 0;
    return RT_FAIL(RT_EPROTO, "%s: %s is %llu, expected %llu..%llu", message, field,
                   (unsigned long long)value, (unsigned long long)min, (unsigned long long)max);
}

int wire_same_count(const char *message, const char *field, size_t n, const char *other,
                    size_t n_other)
{
    if (n == n_other)
        return 0;
    return RT_FAIL(RT_EPROTO, "%s: %s has %zu entries, %s has %zu", message, field, n, other,
                   n_other);
}

int wire_real(const char *message, const char *field, double value, double min)
{
    if (isfinite(value) && value >= min)
        return 0;
    if (isfinite(min))
        return RT_FAIL(RT_EPROTO, "%s: %s is %g, expected a finite number >= %g", message, field,
                       value, min);
    return RT_FAIL(RT_EPROTO, "%s: %s is %g, expected a finite number", message, field, value);
}

int wire_text(const char *message, const char *field, const char *text, size_t max)
{
    if (strnlen(text, max + 1) <= max)
        return 0;
    return RT_FAIL(RT_EPROTO, "%s: %s is longer than %zu bytes", message, field, max);
}

int wire_dtype(const char *message, uint32_t dtype)
{
    if (wire_dtype_size(dtype) > 0)
        return 0;
    return RT_FAIL(RT_EPROTO,
                   "%s: dtype is %u, expected %d (float32), %d (float16) or %d (bfloat16)", message,
                   dtype, WIRE_F32, WIRE_F16, WIRE_BF16);
}

int wire_rank(const char *message, uint32_t rank, uint32_t world)
{
    int err = wire_range(message, "world", world, 1, WIRE_WORLD_MAX);

    return err ? err : wire_range(message, "rank", rank, 0, world - 1);
}

int wire_dims(const char *message, const uint32_t *dim, size_t n)
{
    int err = wire_range(message, "count of dim", n, 0, WIRE_FEATURES_MAX);

    for (size_t i = 0; i < n && !err; i++) {
        if (dim[i] == 0 || dim[i] > WIRE_DIM_MAX)
            err = RT_FAIL(RT_EPROTO, "%s: dim[%zu] is %u, expected 1..%u", message, i, dim[i],
                          WIRE_DIM_MAX);
    }
    return err;
}

int wire_scales(const char *message, const float *scale, size_t n)
{
    for (size_t i = 0; scale && i < n; i++) {
        int exponent;

        if (!(scale[i] >= SCALE_MIN && scale[i] <= 1 / SCALE_MIN) ||
            frexpf(scale[i], &exponent) != 0.5f)
            return RT_FAIL(RT_EPROTO, "%s: scale[%zu] is %g, expected a power of two in %g..%g",
                           message, i, (double)scale[i], (double)SCALE_MIN, 1 / (double)SCALE_MIN);
    }
    return 0;
}

int wire_ids(const char *message, const char *field, const uint32_t *n_ids, size_t n, uint32_t min)
{
    size_t sum = 0;

    for (size_t i = 0; i < n; i++) {
        if (n_ids[i] < min)
            return RT_FAIL(RT_EPROTO, "%s: %s[%zu] is %u, expected at least %u", message, field, i,
                           n_ids[i], min);
        if (!rt_add_size(sum, n_ids[i], &sum) || sum > WIRE_IDS_MAX)
            return RT_FAIL(RT_EPROTO, "%s: %s sum to more than %u", message, field, WIRE_IDS_MAX);
    }
    return 0;
}
