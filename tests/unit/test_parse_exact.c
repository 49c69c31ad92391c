/* tests/unit/test_parse_exact.c -- what is read is the number that stands there, to the last bit, on every instruction set. */
#include "data_compose/parse.h"
#include "data_compose/synthetic.h"
#include "runtime/base/assert.h"
#include "runtime/base/cpu.h"
#include "runtime/base/err.h"
#include "runtime/base/hash.h"
#include "runtime/base/rand.h"
#include "tests/lib/data_job.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* Where the short ways of reading end, as strtod has it; the line goes on, so that they may be taken. */
static void edge_numbers(void **state)
{
    static const char *const good[] = {
        "0",         "-0",        ".5",        "5.",        "-.5",       "-5.",       "-0.0",
        "00000000",  "12345678",  "-12345678", "123456789", "1234567.8", "-1234567.", ".1234567",
        "0.0000001", "-.0000001", "99999999",  "+1",        "1e-3",      "1E+3",      "0.30000001"};
    static const char *const bad[] = {"-",  ".",  "-.",   "--1",   "1-",  "1.2.3", "..", "1 2",
                                      "1/", "1:", "\x80", "1\xff", "0x1", "1,5",   "e",  "+"};
    struct data_job dj;
    struct dc_parser *parser;
    char text[96];

    (void)state;
    data_job_init(&dj, RT_FORMAT_TSV, false, "a=dense y=label c=feature");
    assert_int_equal(dc_parser_create(&dj.job, &parser), 0);
    for (size_t i = 0; i < ARRAY_LEN(good) + ARRAY_LEN(bad); i++) {
        bool is_good = i < ARRAY_LEN(good);
        const char *number = is_good ? good[i] : bad[i - ARRAY_LEN(good)];
        int n = snprintf(text, sizeof(text), "%s\t1\tsome more text", number);
        int rc = dc_parser_row(parser, text, (size_t)n);
        float want = (float)strtod(number, NULL), got = dc_parser_view(parser)->dense[0];
        bool same = got == want && signbit(got) == signbit(want);

        if (rc != (is_good ? 0 : RT_EDATA) || (is_good && !same))
            fail_msg("'%s': rc %d, %.9g", number, rc, (double)got);
    }
    dc_parser_destroy(parser);
}

/* Numbers read by the short way are those of strtod, bit for bit; standardizing is what it says. */
static void random_numbers(void **state)
{
    uint64_t key = 77, at = 0;
    struct data_job dj;
    struct dc_parser *parser;

    (void)state;
    print_message("seed %llu\n", (unsigned long long)key);
    data_job_init(&dj, RT_FORMAT_TSV, false, "y=label a=dense b=dense:std");
    assert_int_equal(dc_parser_create(&dj.job, &parser), 0);
    dc_parser_standardize(parser, 1, 3.0, 2.0);
    for (int i = 0; i < 20000; i++) {
        char number[64], text[160];
        double value = (rt_unit_f64(rt_draw(key, at)) - 0.5) *
                       pow(10, (double)rt_below(rt_draw(key, at + 1), 16));
        int digits = (int)rt_below(rt_draw(key, at + 2), 9);

        at += 3;
        snprintf(number, sizeof(number), i % 5 ? "%.*f" : "%.*e", digits, value);
        snprintf(text, sizeof(text), "1\t%s\t%s", number, number);
        assert_int_equal(dc_parser_row(parser, text, strlen(text)), 0);
        value = strtod(number, NULL);
        if (dc_parser_view(parser)->dense[0] != (float)value ||
            dc_parser_view(parser)->dense[1] != (float)((value - 3) / 2))
            fail_msg("'%s' became %.9g", number, (double)dc_parser_view(parser)->dense[0]);
    }
    dc_parser_destroy(parser);
}

/* log1p in float32: never off by more than the float next to the nearest, and hardly ever by that. */
static void logarithm(void **state)
{
    uint64_t key = 5, at = 0;
    struct data_job dj;
    struct dc_parser *parser;
    uint32_t other = 0, n = 300000;

    (void)state;
    print_message("seed %llu\n", (unsigned long long)key);
    data_job_init(&dj, RT_FORMAT_SYNTHETIC, false, "x1=dense:log1p x2=dense:log1p label=label");
    assert_int_equal(dc_parser_create(&dj.job, &parser), 0);
    for (uint32_t i = 0; i < n; i++) {
        union {
            uint32_t bits;
            float value;
        } x[2];

        x[0].value = (float)i; /* as most columns are */
        x[1].bits = (uint32_t)(rt_draw(key, at++) >> 33);
        if (!isfinite(x[1].value))
            x[1].bits = i % 2 ? 0x7f7fffff : 1;
        struct dc_synthetic_row row = {.dense = {x[0].value, x[1].value}};
        assert_int_equal(dc_parser_synthetic(parser, &row), 0);
        for (int k = 0; k < 2; k++) {
            float got = dc_parser_view(parser)->dense[k], want = (float)log1p((double)x[k].value);

            other += got != want;
            if (got != want && got != nextafterf(want, INFINITY) && got != nextafterf(want, 0))
                fail_msg("log1p(%.9g) became %.9g, not %.9g", (double)x[k].value, (double)got,
                         (double)want);
        }
    }
    print_message("log1p: %u of %u not the nearest float\n", other, 2 * n);
    assert_true(other <= n / 10000);
    dc_parser_destroy(parser);
}

#define WIDE                                                                                       \
    "y=label d0=dense:log1p d1=dense d2=dense:clip d3=dense:log1p,missing d4=dense:std "           \
    "d5=dense:log1p,std d6=dense d7=dense:log1p d8=dense:bad d9=dense:clip,log1p,missing "         \
    "c0=feature c1=feature c2=feature c3=feature c4=feature c5=feature c6=feature c7=feature "     \
    "c8=feature c9=feature c10=feature"
enum { WIDE_DENSE = 10, WIDE_FIELDS = 21 };

/* A line of random fields for WIDE, the label before; some are bad on purpose. */
static size_t random_line(uint64_t key, uint64_t *at, char *text)
{
    static const char *const number[] = {"0",        "7",    "-3",        "12345678",   "123456789",
                                         "00000042", "3.25", "1e3",       "99999999",   "-0.5",
                                         ".5",       "-7.",  "0.0000007", "-1234567.8", "77",
                                         "512.5",    "",     "9x"}; /* bad: the last */
    static const char hex[] = "0123456789abcdef";
    size_t n = 0;

    text[n++] = (char)('0' + rt_below(rt_draw(key, (*at)++), 2));
    for (int i = 0; i < WIDE_FIELDS; i++) {
        uint64_t draw = rt_draw(key, (*at)++);

        text[n++] = '\t';
        if (i < WIDE_DENSE) {
            size_t kinds = ARRAY_LEN(number) - (draw % 64 != 0) - (i == 8 && draw % 61 != 0);
            const char *word = number[rt_below(rt_draw(key, (*at)++), kinds)];
            memcpy(text + n, word, strlen(word));
            n += strlen(word);
            continue;
        }
        size_t size = draw % 5 == 0 ? (draw >> 8) % 20 : draw % 7 ? 8 : 0;
        for (size_t k = 0; k < size; k++)
            text[n++] = hex[(draw >> (k % 16 * 4)) & 15];
    }
    return n;
}

static void check_hashes(const struct dc_row *row, const char *text, size_t n)
{
    const char *field = text, *end = text + n;

    for (int f = 0; f < WIDE_FIELDS; f++) {
        field = (const char *)memchr(field, '\t', (size_t)(end - field)) + 1;
        const char *stop = memchr(field, '\t', (size_t)(end - field));
        size_t size = (size_t)((stop ? stop : end) - field);

        if (f >= WIDE_DENSE)
            assert_true(row->id[f - WIDE_DENSE] == rt_hash_bytes(field, size));
    }
}

static void same_row(struct dc_parser *plain, struct dc_parser *other, const char *text, size_t n)
{
    const struct dc_row *want = dc_parser_view(plain), *got = dc_parser_view(other);
    char why[256];
    int rc = dc_parser_row(plain, text, n);

    snprintf(why, sizeof(why), "%s", rc ? rt_err_text() : "");
    assert_int_equal(dc_parser_row(other, text, n), rc);
    if (rc && strcmp(why, rt_err_text()) != 0)
        fail_msg("'%s', not '%s'", rt_err_text(), why);
    if (rc)
        return;
    check_hashes(want, text, n);
    assert_memory_equal(got->id, want->id, want->n_ids * sizeof(*want->id));
    assert_memory_equal(got->dense, want->dense, WIDE_DENSE * sizeof(*want->dense));
    assert_true(got->label[0] == want->label[0]);
}

/* Every instruction set reads a line as plain C does, to the last bit and to the words of a refusal. */
static void instruction_sets(void **state)
{
    enum rt_isa own = rt_cpu_isa();
    uint64_t key = 41, at = 0;
    uint32_t good = 0;
    struct data_job dj;
    struct dc_parser *parser[RT_ISA_AVX512 + 1];

    (void)state;
    print_message("seed %llu, up to %s\n", (unsigned long long)key, rt_isa_name(own));
    data_job_init(&dj, RT_FORMAT_TSV, false, WIDE);
    for (uint32_t isa = 0; isa <= (uint32_t)own; isa++) {
        rt_cpu_set_isa((enum rt_isa)isa);
        assert_int_equal(dc_parser_create(&dj.job, &parser[isa]), 0);
        dc_parser_standardize(parser[isa], 4, 2.5, 3.7);
        dc_parser_standardize(parser[isa], 5, 1.1, 0.3);
    }
    for (int i = 0; i < 20000; i++) {
        char line[1024];
        size_t n = random_line(key, &at, line);
        char *text = malloc(n); /* exactly: a read behind the end is seen */

        memcpy(text, line, n);
        for (uint32_t isa = 0; isa <= (uint32_t)own; isa++)
            same_row(parser[0], parser[isa], text, n);
        good += dc_parser_row(parser[own], text, n) == 0;
        free(text);
    }
    print_message("%u good lines\n", good);
    assert_true(good > 10000 && good < 19900);
    for (uint32_t isa = 0; isa <= (uint32_t)own; isa++)
        dc_parser_destroy(parser[isa]);
    rt_cpu_set_isa(own);
}

int main(void)
{
    const struct CMUnitTest test[] = {
        cmocka_unit_test(edge_numbers),
        cmocka_unit_test(random_numbers),
        cmocka_unit_test(logarithm),
        cmocka_unit_test(instruction_sets),
    };

    return cmocka_run_group_tests(test, NULL, NULL);
}
