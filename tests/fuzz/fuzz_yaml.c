/* tests/fuzz/fuzz_yaml.c -- a document that is accepted, written and read back, means the same. */
#include "runtime/base/assert.h"
#include "runtime/base/strbuf.h"
#include "runtime/conf/yaml.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

static int canonical(const char *text, size_t size, struct rt_strbuf *out,
                     struct rt_strbuf *written)
{
    struct rt_yaml *yaml = NULL;
    int err = rt_yaml_parse("fuzz.yml", text, size, &yaml);

    if (!err) {
        rt_yaml_canonical(rt_yaml_root(yaml), out);
        rt_yaml_write(rt_yaml_root(yaml), written);
    }
    rt_yaml_destroy(yaml);
    return err;
}

int fuzz_yaml(const uint8_t *data, size_t size)
{
    struct rt_strbuf meaning[2], text[2];

    for (int i = 0; i < 2; i++) {
        rt_strbuf_init(&meaning[i]);
        rt_strbuf_init(&text[i]);
    }
    /* Writing may make a text longer than a file may be. */
    if (canonical((const char *)data, size, &meaning[0], &text[0]) == 0 &&
        text[0].len <= RT_YAML_BYTES_MAX) {
        rt_assert(canonical(text[0].text, text[0].len, &meaning[1], &text[1]) == 0);
        rt_assert(strcmp(meaning[0].text, meaning[1].text) == 0);
        rt_assert(strcmp(text[0].text, text[1].text) == 0);
    }
    for (int i = 0; i < 2; i++) {
        rt_strbuf_release(&meaning[i]);
        rt_strbuf_release(&text[i]);
    }
    return 0;
}
