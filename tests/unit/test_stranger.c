/* tests/unit/test_stranger.c -- two processes of one job with different files: what is said of it. */
#include "runtime/base/assert.h"
#include "runtime/member/stranger.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

static void strangers_are_described(void **state)
{
    const struct wire_hello self = {.job = "adult",
                                    .wire_version = 3,
                                    .config_hash = 0xa,
                                    .plan_hash = 0xb,
                                    .part_hash = {1, 2, 3, 4, 5}};
    static const struct {
        const char *name;
        uint32_t wire;
        uint64_t config, plan, part[WIRE_PART_COUNT];
        const char *want; /* NULL: it is no stranger */
    } row[] = {
        {"the same", 3, 0xa, 0xb, {1, 2, 3, 4, 5}, NULL},
        {"version",
         4,
         0xa,
         0xb,
         {1, 2, 3, 4, 5},
         "with another version of Saffron: wire version 4 there, 3 here"},
        {"a table",
         3,
         0xc,
         0xb,
         {1, 9, 3, 4, 5},
         "with other files: embedding.yml differs; config hash 000000000000000c there, "
         "000000000000000a here"},
        {"data and model",
         3,
         0xc,
         0xd,
         {1, 2, 9, 4, 9},
         "with other files: data.yml, model.yml differ; config hash 000000000000000c there, "
         "000000000000000a here; data plan hash 000000000000000d there, 000000000000000b here"},
        {"the files",
         3,
         0xc,
         0xd,
         {1, 2, 3, 9, 5},
         "with other files: the set of data files (names, sizes) differs; config hash"},
        {"parts not told",
         3,
         0xc,
         0xb,
         {0},
         "with other files: configuration differs; config hash"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct wire_hello hello = {.job = "adult",
                                   .role = RT_ROLE_MIDDLEWARE,
                                   .index = 2,
                                   .host = "a\033b",
                                   .wire_version = row[i].wire,
                                   .config_hash = row[i].config,
                                   .plan_hash = row[i].plan};
        char text[RT_STRANGER_TEXT];

        memcpy(hello.part_hash, row[i].part, sizeof(hello.part_hash));
        if (rt_is_of_our_job(&self, &hello) != !row[i].want)
            fail_msg("%s: taken for %s", row[i].name, row[i].want ? "one of us" : "a stranger");
        if (!row[i].want)
            continue;
        rt_stranger_text(&self, &hello, text);
        if (!strstr(text, row[i].want) ||
            !strstr(text, "middleware/2 on host a\\x1bb runs the job 'adult'"))
            fail_msg("%s: got '%s'", row[i].name, text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(strangers_are_described)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
