/* runtime/job/safetensors.c -- see safetensors.h.
 *
 * Reading: jansson parses the header (duplicate keys and NUL refused), each entry becomes a struct rt_tensor with
 * dtype * shape == end - begin, and sorted by begin they must tile the rest of the file from its first byte to its last.
 * Nothing is allocated that the file's own size does not bound. */
#include "runtime/job/safetensors.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define METADATA     "__metadata__"
#define LENGTH_BYTES 8u
#define ALIGN        8u

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "elements are written as they are");

struct rt_safetensors {
    char *path;
    int fd;              /* -1: bytes in memory */
    const uint8_t *data; /* those */
    uint64_t size;       /* of the file */
    json_t *root;        /* names and notes are its own */
    struct rt_tensor *tensor;
    size_t n;
};

static const struct {
    const char *name;
    size_t size;
} types[RT_TENSOR_TYPES] = {
    [RT_TENSOR_F32] = {"F32", 4},   [RT_TENSOR_F16] = {"F16", 2}, [RT_TENSOR_BF16] = {"BF16", 2},
    [RT_TENSOR_I64] = {"I64", 8},   [RT_TENSOR_F64] = {"F64", 8}, [RT_TENSOR_I32] = {"I32", 4},
    [RT_TENSOR_I16] = {"I16", 2},   [RT_TENSOR_I8] = {"I8", 1},   [RT_TENSOR_U64] = {"U64", 8},
    [RT_TENSOR_U32] = {"U32", 4},   [RT_TENSOR_U16] = {"U16", 2}, [RT_TENSOR_U8] = {"U8", 1},
    [RT_TENSOR_BOOL] = {"BOOL", 1},
};

const char *rt_tensor_type_name(enum rt_tensor_type type)
{
    return types[type].name;
}

size_t rt_tensor_type_size(enum rt_tensor_type type)
{
    return types[type].size;
}

uint64_t rt_tensor_count(const struct rt_tensor *tensor)
{
    uint64_t count = 1;

    for (uint32_t d = 0; d < tensor->rank; d++)
        count *= tensor->shape[d];
    return count;
}

/* ---- writing ---- */

static json_t *describe(const struct rt_tensor *tensor, uint64_t begin, uint64_t end)
{
    json_t *shape = json_array();

    for (uint32_t d = 0; d < tensor->rank; d++)
        json_array_append_new(shape, json_integer((json_int_t)tensor->shape[d]));
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", rt_tensor_type_name(tensor->type), "shape",
                     shape, "data_offsets", (json_int_t)begin, (json_int_t)end);
}

/* Its text, padded; the caller's. NULL: a name is not UTF-8. */
static char *header_of(const struct rt_tensor_note *note, size_t n_notes,
                       const struct rt_tensor *tensor, size_t n)
{
    json_t *root = json_object(), *notes = json_object();
    char *text = NULL, *padded = NULL;
    uint64_t at = 0;
    bool bad = false;

    for (size_t i = 0; i < n_notes; i++)
        bad |= json_object_set_new(notes, note[i].key, json_string(note[i].text)) != 0;
    bad |= json_object_set_new(root, METADATA, notes) != 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t bytes = rt_tensor_count(&tensor[i]) * rt_tensor_type_size(tensor[i].type);

        rt_assert(tensor[i].rank <= RT_TENSOR_RANK_MAX);
        bad |= json_object_set_new(root, tensor[i].name, describe(&tensor[i], at, at + bytes)) != 0;
        at += bytes;
    }
    rt_assert(bad || json_object_size(root) == n + 1);
    if (!bad)
        text = json_dumps(root, JSON_COMPACT);
    if (text) {
        size_t size = (strlen(text) + ALIGN - 1) / ALIGN * ALIGN;

        padded = rt_xasprintf("%-*s", (int)size, text);
        free(text); /* jansson's, from its allocator */
    }
    json_decref(root);
    return padded;
}

int rt_safetensors_write(const char *path, const struct rt_tensor_note *note, size_t n_notes,
                         const struct rt_tensor *tensor, size_t n)
{
    struct rt_file_part *part = rt_xcalloc(n + 2, sizeof(*part));
    char *header = header_of(note, n_notes, tensor, n);
    uint64_t length = header ? strlen(header) : 0;
    int err = 0;

    if (!header)
        err = RT_FAIL(RT_EFILE, "%s: a tensor's name is not UTF-8", path);
    else if (length > RT_TENSOR_HEADER_MAX)
        err = RT_FAIL(RT_ELIMIT, "%s: the names of %zu tensors take %llu bytes, at most %zu fit",
                      path, n, (unsigned long long)length, RT_TENSOR_HEADER_MAX);
    part[0] = (struct rt_file_part){&length, LENGTH_BYTES};
    part[1] = (struct rt_file_part){header, (size_t)length};
    for (size_t i = 0; i < n; i++)
        part[i + 2] =
            (struct rt_file_part){tensor[i].data, (size_t)rt_tensor_count(&tensor[i]) *
                                                      rt_tensor_type_size(tensor[i].type)};
    if (!err)
        err = rt_file_write_parts(path, part, n + 2);
    rt_free(part);
    rt_free(header);
    return err;
}

/* ---- reading ---- */

static int read_at(const struct rt_safetensors *file, uint64_t at, void *out, size_t bytes)
{
    uint8_t *to = out;

    if (file->fd < 0) {
        memcpy(out, file->data + at, bytes);
        return 0;
    }
    while (bytes > 0) {
        ssize_t n = rt_fault_now() ? (errno = EIO, -1) : pread(file->fd, to, bytes, (off_t)at);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return RT_FAIL(RT_EFILE, "%s: cannot be read: %s", file->path,
                           n < 0 ? strerror(errno) : "it has become shorter");
        to += n;
        at += (uint64_t)n;
        bytes -= (size_t)n;
    }
    return 0;
}

static int wrong(const struct rt_safetensors *file, const char *name, const char *what)
{
    return RT_FAIL(RT_EDATA, "%s: no safetensors file: tensor '%.100s': %s", file->path, name,
                   what);
}

static int take_type(const struct rt_safetensors *file, const json_t *entry, struct rt_tensor *out)
{
    const char *name = json_string_value(json_object_get(entry, "dtype"));

    for (int t = 0; name && t < RT_TENSOR_TYPES; t++) {
        if (strcmp(types[t].name, name) == 0) {
            out->type = (enum rt_tensor_type)t;
            return 0;
        }
    }
    return wrong(file, out->name, "its dtype is not one of F32 F16 BF16 F64 I8..I64 U8..U64 BOOL");
}

/* A count of bytes or elements: an integer, 0 or more. */
static bool count_of(const json_t *value, uint64_t *out)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *out = (uint64_t)json_integer_value(value);
    return true;
}

static int take_shape(const struct rt_safetensors *file, const json_t *entry, struct rt_tensor *out)
{
    const json_t *shape = json_object_get(entry, "shape");
    uint64_t bytes = rt_tensor_type_size(out->type);

    if (!json_is_array(shape) || json_array_size(shape) > RT_TENSOR_RANK_MAX)
        return wrong(file, out->name, "its shape is not a list of at most 8 dimensions");
    out->rank = (uint32_t)json_array_size(shape);
    for (uint32_t d = 0; d < out->rank; d++) {
        if (!count_of(json_array_get(shape, d), &out->shape[d]) ||
            __builtin_mul_overflow(bytes, out->shape[d], &bytes))
            return wrong(file, out->name, "its shape is no size that a tensor can have");
    }
    out->bytes = bytes;
    return 0;
}

/* @data: where the header ends. */
static int take_entry(const struct rt_safetensors *file, const char *name, const json_t *entry,
                      uint64_t data, struct rt_tensor *out)
{
    const json_t *range = json_object_get(entry, "data_offsets");
    uint64_t begin, end;
    int err;

    *out = (struct rt_tensor){.name = name};
    if (!json_is_object(entry) || json_object_size(entry) != 3)
        return wrong(file, name, "expected dtype, shape and data_offsets");
    err = take_type(file, entry, out);
    if (!err)
        err = take_shape(file, entry, out);
    if (err)
        return err;
    if (json_array_size(range) != 2 || !count_of(json_array_get(range, 0), &begin) ||
        !count_of(json_array_get(range, 1), &end) || begin > end || end > file->size - data)
        return wrong(file, name, "its data_offsets do not lie in the file");
    if (end - begin != out->bytes)
        return wrong(file, name, "its data_offsets do not span what dtype and shape take");
    out->at = data + begin;
    return 0;
}

static int by_place(const void *a, const void *b)
{
    const struct rt_tensor *x = a, *y = b;

    if (x->at != y->at)
        return x->at < y->at ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes); /* empty ones stand before */
}

static int check_tiled(const struct rt_safetensors *file, uint64_t data)
{
    uint64_t at = data;

    for (size_t i = 0; i < file->n; i++) {
        if (file->tensor[i].at != at)
            return wrong(file, file->tensor[i].name,
                         "its bytes do not begin where the ones before end");
        at += file->tensor[i].bytes;
    }
    if (at != file->size)
        return RT_FAIL(RT_EDATA,
                       "%s: no safetensors file: its tensors end at byte %llu, the file at %llu",
                       file->path, (unsigned long long)at, (unsigned long long)file->size);
    return 0;
}

static int check_notes(const struct rt_safetensors *file, json_t *notes)
{
    const char *key;
    json_t *text;

    json_object_foreach (notes, key, text) {
        if (!json_is_string(text))
            return RT_FAIL(RT_EDATA, "%s: no safetensors file: %s: '%.100s' is not a text",
                           file->path, METADATA, key);
    }
    if (notes && !json_is_object(notes))
        return RT_FAIL(RT_EDATA, "%s: no safetensors file: %s is not a map", file->path, METADATA);
    return 0;
}

static int take_header(struct rt_safetensors *file, uint64_t data)
{
    const char *name;
    json_t *entry, *notes = json_object_get(file->root, METADATA);
    int err = check_notes(file, notes);

    if (!err && json_object_size(file->root) > RT_TENSORS_MAX)
        err = RT_FAIL(RT_EDATA, "%s: %zu tensors, at most %d are read", file->path,
                      json_object_size(file->root), RT_TENSORS_MAX);
    if (err)
        return err;
    file->tensor = rt_try_calloc(json_object_size(file->root) + 1, sizeof(*file->tensor));
    if (!file->tensor)
        return RT_FAIL(RT_ENOMEM, "%s: out of memory", file->path);
    json_object_foreach (file->root, name, entry) {
        if (entry == notes)
            continue;
        err = take_entry(file, name, entry, data, &file->tensor[file->n]);
        if (err)
            return err;
        file->n++;
    }
    qsort(file->tensor, file->n, sizeof(*file->tensor), by_place);
    return check_tiled(file, data);
}

/* path, fd or data, and size are there. */
static int read_header(struct rt_safetensors *file)
{
    uint64_t length = 0;
    json_error_t why;
    char *text;
    int err = 0;

    if (file->size >= LENGTH_BYTES)
        err = read_at(file, 0, &length, LENGTH_BYTES);
    if (err)
        return err;
    if (file->size < LENGTH_BYTES || length > file->size - LENGTH_BYTES ||
        length > RT_TENSOR_HEADER_MAX)
        return RT_FAIL(RT_EDATA,
                       "%s: no safetensors file: %llu bytes with a header of %llu, at most %zu",
                       file->path, (unsigned long long)file->size, (unsigned long long)length,
                       RT_TENSOR_HEADER_MAX);
    text = rt_try_malloc((size_t)length);
    if (!text)
        return RT_FAIL(RT_ENOMEM, "%s: out of memory", file->path);
    err = read_at(file, LENGTH_BYTES, text, (size_t)length);
    if (!err) {
        file->root = json_loadb(text, (size_t)length, JSON_REJECT_DUPLICATES, &why);
        if (!json_is_object(file->root))
            err = RT_FAIL(RT_EDATA, "%s: no safetensors file: its header is no JSON map: %s",
                          file->path, file->root ? "another value" : why.text);
    }
    rt_free(text);
    return err ? err : take_header(file, LENGTH_BYTES + length);
}

static int finish(struct rt_safetensors *file, int err, struct rt_safetensors **out)
{
    if (!err)
        err = read_header(file);
    if (err)
        rt_safetensors_close(file);
    else
        *out = file;
    return err;
}

int rt_safetensors_open(const char *path, struct rt_safetensors **out)
{
    struct rt_safetensors *file = rt_xcalloc(1, sizeof(*file));
    struct stat st;
    int err = 0;

    file->path = rt_xstrdup(path);
    file->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe would be waited for */
    if (file->fd < 0 || fstat(file->fd, &st) != 0)
        err = RT_FAIL(RT_EFILE, "%s: cannot be opened: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        err = RT_FAIL(RT_EFILE, "%s: cannot be opened: not a file", path);
    else
        file->size = (uint64_t)st.st_size;
    return finish(file, err, out);
}

int rt_safetensors_open_bytes(const char *name, const void *data, size_t size,
                              struct rt_safetensors **out)
{
    struct rt_safetensors *file = rt_xcalloc(1, sizeof(*file));

    file->path = rt_xstrdup(name);
    file->fd = -1;
    file->data = data;
    file->size = size;
    return finish(file, 0, out);
}

void rt_safetensors_close(struct rt_safetensors *file)
{
    if (!file)
        return;
    if (file->fd >= 0)
        close(file->fd);
    json_decref(file->root);
    rt_free(file->tensor);
    rt_free(file->path);
    rt_free(file);
}

const char *rt_safetensors_path(const struct rt_safetensors *file)
{
    return file->path;
}

size_t rt_safetensors_count(const struct rt_safetensors *file)
{
    return file->n;
}

const struct rt_tensor *rt_safetensors_at(const struct rt_safetensors *file, size_t i)
{
    rt_assert(i < file->n);
    return &file->tensor[i];
}

const struct rt_tensor *rt_safetensors_find(const struct rt_safetensors *file, const char *name)
{
    for (size_t i = 0; i < file->n; i++)
        if (strcmp(file->tensor[i].name, name) == 0)
            return &file->tensor[i];
    return NULL;
}

const char *rt_safetensors_note(const struct rt_safetensors *file, const char *key)
{
    return json_string_value(json_object_get(json_object_get(file->root, METADATA), key));
}

bool rt_safetensors_note_at(const struct rt_safetensors *file, size_t i, struct rt_tensor_note *out)
{
    json_t *notes = json_object_get(file->root, METADATA);
    void *at = json_object_iter(notes);

    while (at && i-- > 0)
        at = json_object_iter_next(notes, at);
    if (!at)
        return false;
    *out = (struct rt_tensor_note){json_object_iter_key(at),
                                   json_string_value(json_object_iter_value(at))};
    return true;
}

int rt_safetensors_read(const struct rt_safetensors *file, const struct rt_tensor *tensor,
                        uint64_t from, void *out, size_t bytes)
{
    rt_assert(from <= tensor->bytes && bytes <= tensor->bytes - from);
    return bytes > 0 ? read_at(file, tensor->at + from, out, bytes) : 0;
}
