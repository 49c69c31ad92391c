/* tests/unit/test_corpus.c -- every fuzz target once over its committed corpus (tests/fuzz/corpus), and over
 * each file cut short and with one byte changed, so that targets and parsers agree without clang too. */
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define CORPUS   "tests/fuzz/corpus"
#define FILE_MAX ((size_t)64 << 10)
#define DAMAGED  16 /* runs per file beside the plain one */
#define SEED     7

typedef int (*target_fn)(const uint8_t *data, size_t size);

/* From memory of exactly its size, as libFuzzer does. */
static void run_copy(target_fn target, const char *text, size_t size)
{
    uint8_t *copy = rt_xmalloc(size ? size : 1);

    memcpy(copy, text, size);
    assert_int_equal(target(copy, size), 0);
    rt_free(copy);
}

static void run_file(target_fn target, const char *path)
{
    char *text;
    size_t size;

    if (rt_file_read(path, FILE_MAX, &text, &size) != 0)
        fail_msg("%s", rt_err_text());
    print_message("%s\n", path); /* an abort names its file */
    run_copy(target, text, size);
    for (uint64_t i = 0; size && i < DAMAGED; i++) {
        size_t at = rt_below(rt_draw(SEED, 2 * i), size);
        char was = text[at];

        run_copy(target, text, at);
        text[at] = (char)rt_draw(SEED, 2 * i + 1);
        run_copy(target, text, size);
        text[at] = was;
    }
    rt_free(text);
}

static void corpus(void **state)
{
    static const struct {
        const char *name;
        target_fn target;
    } row[] = {
#define X(name) {#name, fuzz_##name},
        FUZZ_TARGETS(X)
#undef X
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        char *folder = rt_path_join(CORPUS, row[i].name);
        DIR *dir = opendir(folder);
        int n = 0;

        if (!dir)
            fail_msg("no folder %s: run from the top of the sources", folder);
        for (struct dirent *e; (e = readdir(dir));) {
            if (e->d_name[0] == '.')
                continue;
            char *path = rt_path_join(folder, e->d_name);
            run_file(row[i].target, path);
            rt_free(path);
            n++;
        }
        closedir(dir);
        if (n == 0)
            fail_msg("%s has no files", folder);
        rt_free(folder);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(corpus)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
