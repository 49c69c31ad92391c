/* tests/unit/spec_text.c -- see the header. */
#include "tests/unit/spec_text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "trainer/model/spec.h"

enum { WORDS = 20 };

struct tr_spec *spec_of(const char *text)
{
    struct tr_spec *spec = NULL;
    assert_int_equal(tr_spec_create("t.yml", &spec), 0);
    char name[64], type[64], word[WORDS][64];
    const char *words[WORDS];
    int used = 0;
    for (int line = 1; sscanf(text, " %63s %63s%n", name, type, &used) == 2; line++) {
        uint32_t n = 0;
        text += used;
        while (n < WORDS && sscanf(text, " %63[^=; ]%n", word[n], &used) == 1 &&
               text[used] != '=') {
            words[n] = word[n];
            n++;
            text += used;
        }
        char where[32];
        snprintf(where, sizeof where, "t.yml:%d", line);
        assert_int_equal(tr_spec_layer(spec, name, type, words, n, where), 0);
        char key[64];
        while (sscanf(text, " %63[^=; ]=%n", key, &used) == 1) {
            text += used;
            bool list = false;
            for (n = 0; sscanf(text, "%63[^,; ]%n", word[n], &used) == 1; n++) {
                words[n] = word[n];
                text += used;
                list |= *text == ',';
                text += *text == ',';
            }
            assert_int_equal(tr_spec_option(spec, key, words, n, where), 0);
            if (list)
                tr_spec_list(spec);
        }
        text += *text == ';';
    }
    return spec;
}
