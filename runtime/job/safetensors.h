/* runtime/job/safetensors.h -- files of named tensors, as PyTorch, NumPy, JAX and TensorFlow read them.
 *
 *   u64, little endian: bytes of the header | header: JSON, spaces to the next multiple of 8 | data
 *   {"__metadata__": {note: text, ...}, tensor: {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...}
 *
 * The format: github.com/huggingface/safetensors. Elements are little endian, the last dimension changes fastest; the
 * tensors' bytes follow one another without a gap up to the end of the file. A reader here is as strict as that: every
 * limit and every sum is checked before a byte of data is believed. A file is closed or destroyed by who opened it;
 * one thread at a time. */
#ifndef RT_SAFETENSORS_H
#define RT_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RT_TENSOR_HEADER_MAX ((size_t)16 << 20) /* bytes; the format allows 100 MB */
#define RT_TENSOR_RANK_MAX   8
#define RT_TENSORS_MAX       65536

enum rt_tensor_type {
    RT_TENSOR_F32,
    RT_TENSOR_F16,
    RT_TENSOR_BF16,
    RT_TENSOR_I64,
    RT_TENSOR_F64, /* from here on: known, not written by us */
    RT_TENSOR_I32,
    RT_TENSOR_I16,
    RT_TENSOR_I8,
    RT_TENSOR_U64,
    RT_TENSOR_U32,
    RT_TENSOR_U16,
    RT_TENSOR_U8,
    RT_TENSOR_BOOL,
    RT_TENSOR_TYPES
};
const char *rt_tensor_type_name(enum rt_tensor_type type); /* "BF16", as the file says it */
size_t rt_tensor_type_size(enum rt_tensor_type type);      /* bytes of an element */

struct rt_tensor {
    const char *name;
    enum rt_tensor_type type;
    uint32_t rank; /* 0: a single element */
    uint64_t shape[RT_TENSOR_RANK_MAX];
    const void *data; /* writing: its bytes */
    uint64_t at;      /* reading: where they begin in the file */
    uint64_t bytes;   /* reading */
};
uint64_t rt_tensor_count(
    const struct rt_tensor *tensor); /* elements; of one that was read, or is ours */

/* A line of the metadata. */
struct rt_tensor_note {
    const char *key, *text;
};

/* Replace `path` as a whole (runtime/base/file.h). Names are UTF-8 and differ. RT_EFILE names the path. */
int rt_safetensors_write(const char *path, const struct rt_tensor_note *note, size_t n_notes,
                         const struct rt_tensor *tensor, size_t n);

struct rt_safetensors;

/* Reads the header alone. RT_EFILE, RT_ENOMEM; RT_EDATA for a file that is not whole or not as above: path and what. */
int rt_safetensors_open(const char *path, struct rt_safetensors **out);
/* The same of bytes in memory, which must stay: `name` stands for the path. */
int rt_safetensors_open_bytes(const char *name, const void *data, size_t size,
                              struct rt_safetensors **out);
void rt_safetensors_close(struct rt_safetensors *file); /* NULL is legal */

const char *rt_safetensors_path(const struct rt_safetensors *file);
size_t rt_safetensors_count(const struct rt_safetensors *file);
/* In the order of their bytes; i < count. Good until the file is closed. */
const struct rt_tensor *rt_safetensors_at(const struct rt_safetensors *file, size_t i);
const struct rt_tensor *rt_safetensors_find(const struct rt_safetensors *file, const char *name);
/* NULL: there is none. */
const char *rt_safetensors_note(const struct rt_safetensors *file, const char *key);
/* Each of them, i from 0 on, in no order; false: there are no more. */
bool rt_safetensors_note_at(const struct rt_safetensors *file, size_t i,
                            struct rt_tensor_note *out);
/* `bytes` of a tensor's from `from` on, which lie in it. RT_EFILE. */
int rt_safetensors_read(const struct rt_safetensors *file, const struct rt_tensor *tensor,
                        uint64_t from, void *out, size_t bytes);

#endif
