/* tests/fuzz/fuzz_safetensors.c -- any bytes as a file of tensors; what is accepted is whole.
 *
 * An even first byte: the rest is the file. An odd one: the second byte counts zeros that are the data, in eights, and the
 * rest is the header, to which the length is made. */
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/job/safetensors.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

static void check_file(const struct rt_safetensors *file, uint64_t size)
{
    uint64_t end = 0;

    for (size_t i = 0; i < rt_safetensors_count(file); i++) {
        const struct rt_tensor *t = rt_safetensors_at(file, i);
        uint8_t *data = rt_xmalloc((size_t)t->bytes + 1);

        rt_assert(i == 0 || t->at == end);
        rt_assert(t->bytes == rt_tensor_count(t) * rt_tensor_type_size(t->type));
        rt_assert(t->at <= size && t->bytes <= size - t->at);
        rt_assert(strcmp(rt_safetensors_find(file, t->name)->name, t->name) == 0);
        rt_assert(rt_safetensors_read(file, t, 0, data, (size_t)t->bytes) == 0);
        end = t->at + t->bytes;
        rt_free(data);
    }
    rt_assert(rt_safetensors_count(file) == 0 || end == size);
    const char *note = rt_safetensors_note(file, "table");
    rt_assert(!note || strlen(note) < size);
}

int fuzz_safetensors(const uint8_t *data, size_t size)
{
    struct rt_safetensors *file;
    uint8_t *copy;
    size_t n = size - 1;

    if (size < 2)
        return 0;
    if (data[0] & 1) {
        uint64_t length = size - 2, zeros = 8u * data[1];

        n = (size_t)(8 + length + zeros);
        copy = rt_xcalloc(1, n);
        memcpy(copy, &length, 8);
        memcpy(copy + 8, data + 2, size - 2);
    } else {
        copy = rt_xmalloc(n);
        memcpy(copy, data + 1, n);
    }
    int err = rt_safetensors_open_bytes("fuzz", copy, n, &file);
    rt_assert(err == 0 || err == RT_EDATA);
    if (!err) {
        check_file(file, n);
        rt_safetensors_close(file);
    }
    rt_free(copy);
    return 0;
}
