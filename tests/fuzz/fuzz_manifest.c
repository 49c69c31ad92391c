/* tests/fuzz/fuzz_manifest.c -- any bytes as a manifest; what is accepted is written again as what means the same.
 *
 * One of version 1 knows too little for that. Where the first byte is odd the rest is what stands before the digest, which is
 * added; else it is all of it. */
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/checkpoint/manifest.h"
#include "tests/fuzz/fuzz.h"

#include <inttypes.h>
#include <string.h>

static char *write_again(const struct rt_manifest *manifest)
{
    struct rt_strbuf text;

    rt_strbuf_init(&text);
    rt_manifest_write(manifest, &text);
    return rt_strbuf_detach(&text);
}

static void check_again(const struct rt_manifest *manifest)
{
    char *text = write_again(manifest), *again;
    struct rt_manifest *copy;

    rt_assert(rt_manifest_parse("again", text, strlen(text), &copy) == 0);
    again = write_again(copy);
    rt_assert(strcmp(text, again) == 0);
    rt_manifest_destroy(copy);
    rt_free(again);
    rt_free(text);
}

static void check(const struct rt_manifest *manifest)
{
    uint32_t end = 0;

    for (uint32_t i = 0; i < manifest->n_files; i++)
        end += manifest->file[i].shard_end - manifest->file[i].shard_first;
    rt_assert(end == RT_SHARDS && manifest->base < manifest->attempt);
    if (manifest->file[0].knows_live)
        check_again(manifest);
}

int fuzz_manifest(const uint8_t *data, size_t size)
{
    struct rt_manifest *manifest;
    struct rt_strbuf text;

    if (size < 1)
        return 0;
    rt_strbuf_init(&text);
    rt_strbuf_add(&text, (const char *)data + 1, size - 1);
    if (data[0] & 1)
        rt_strbuf_addf(&text, "  \"digest\": \"%016" PRIx64 "\"\n}\n",
                       rt_hash_bytes(text.text, text.len));
    int err = rt_manifest_parse("fuzz", text.text, text.len, &manifest);
    rt_assert(err == 0 || err == RT_EDATA || err == RT_EUSAGE);
    if (!err) {
        check(manifest);
        rt_manifest_destroy(manifest);
    }
    rt_strbuf_release(&text);
    return 0;
}
