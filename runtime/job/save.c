/* runtime/job/save.c -- see save.h. */
#include "runtime/job/save.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/hash.h"
#include "runtime/base/mem.h"
#include "runtime/base/strbuf.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define NAME_LONG                                                                                  \
    180u /* a file's name has at most 255 bytes, with owner, part and a temporary's ending */
#define NAME_CUT 160u

char *rt_save_dense_path(const char *dir)
{
    return rt_path_join(dir, "dense.safetensors");
}

char *rt_save_dense_state_path(const char *dir)
{
    return rt_path_join(dir, "dense_state.safetensors");
}

char *rt_save_model_path(const char *dir)
{
    return rt_path_join(dir, "model.yml");
}

static void put_name(struct rt_strbuf *out, const char *table)
{
    size_t from = out->len;

    for (const char *c = table; *c; c++) {
        if ((*c >= 'A' && *c <= 'Z') || (*c >= 'a' && *c <= 'z') || (*c >= '0' && *c <= '9') ||
            *c == '_' || *c == '-')
            rt_strbuf_add(out, c, 1);
        else
            rt_strbuf_addf(out, "%%%02X", (unsigned char)*c);
    }
    if (out->len - from <= NAME_LONG)
        return;
    out->len = from + NAME_CUT;
    rt_strbuf_addf(out, "-%016" PRIx64, rt_hash_bytes(table, strlen(table)));
}

char *rt_save_table_path(const char *dir, const char *table, uint32_t owner, uint32_t part)
{
    struct rt_strbuf name;
    char *path;

    rt_strbuf_init(&name);
    rt_strbuf_addf(&name, "table.");
    put_name(&name, table);
    rt_strbuf_addf(&name, ".%u.%u.safetensors", owner, part);
    path = rt_path_join(dir, name.text);
    rt_strbuf_release(&name);
    return path;
}

void rt_save_count(struct rt_save *save, uint64_t bytes)
{
    atomic_fetch_add_explicit(&save->bytes, bytes, memory_order_relaxed);
    atomic_fetch_add_explicit(&save->files, 1, memory_order_relaxed);
}

void rt_save_end(struct rt_save *save, int err)
{
    if (err)
        snprintf(save->error, sizeof(save->error), "%s", rt_err_text());
    atomic_store_explicit(&save->state, err ? RT_SAVE_FAILED : RT_SAVE_DONE, memory_order_release);
}
