/* tests/unit/test_parse.c -- good and bad rows of each format, and header lines. */
#include "data_compose/parse.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/hash.h"
#include "runtime/base/rand.h"
#include "runtime/base/strbuf.h"
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

#define MIXED "y=label a=dense b=dense:log1p,missing c=feature d=feature:c e=feature x=ignore"

/* want: "label; dense ...; text ids ..." or, for a bad row, a piece of the reason. */
struct row_case {
    const char *name;
    enum rt_format format;
    const char *columns, *text;
    int rc;
    float label, dense[3];
    uint32_t n_dense, n_ids;
    const char *id[4]; /* hashed; libsvm: as decimal */
    const char *reason;
};

static const struct row_case row_case[] = {
    {"tsv",
     RT_FORMAT_TSV,
     MIXED,
     "1\t2.5\t3\tu\tv\tw\tzz",
     0,
     1,
     {2.5f, 1.3862944f},
     2,
     3,
     {"u", "v", "w"},
     NULL},
    {"tsv empty",
     RT_FORMAT_TSV,
     MIXED,
     "0\t\t\t\t\t\t",
     0,
     0,
     {0, 2.0794415f},
     2,
     3,
     {"", "", ""},
     NULL},
    {"tsv log1p below zero",
     RT_FORMAT_TSV,
     MIXED,
     "0\t-1e2\t-5\tu\tv\tw\t",
     0,
     0,
     {-100, 0},
     2,
     3,
     {"u", "v", "w"},
     NULL},
    {"csv quotes",
     RT_FORMAT_CSV,
     MIXED,
     "1,+1,0,\"u,\"\"v\",\"\",w,\"\"",
     0,
     1,
     {1, 0},
     2,
     3,
     {"u,\"v", "", "w"},
     NULL},
    {"libsvm",
     RT_FORMAT_LIBSVM,
     "0=feature:u 1=feature:v 2=feature:u",
     "1 7:1  9:1\t8:1 ",
     0,
     1,
     {0},
     0,
     3,
     {"7", "8", "9"},
     NULL},
    {"libsvm zero value",
     RT_FORMAT_LIBSVM,
     "0=feature:u 1=feature:v 2=feature:u",
     "0 7:0 9:1 8:1",
     0,
     0,
     {0},
     0,
     2,
     {"8", "9"},
     NULL},
    {"libsvm largest",
     RT_FORMAT_LIBSVM,
     "0=feature:u",
     "0 18446744073709551615:1",
     0,
     0,
     {0},
     0,
     1,
     {"18446744073709551615"},
     NULL},
#define BAD(what, fmt, columns, text, why)                                                         \
    {                                                                                              \
        what, fmt, columns, text, RT_EDATA, 0, {0}, 0, 0, {0}, why                                 \
    }
    BAD("label 2", RT_FORMAT_TSV, MIXED, "2\t1\t1\tu\tv\tw\tx", "y: expected 0 or 1, got '2'"),
    BAD("label empty", RT_FORMAT_TSV, MIXED, "\t1\t1\tu\tv\tw\tx", "y: expected 0 or 1"),
    BAD("nan", RT_FORMAT_TSV, MIXED, "1\tnan\t1\tu\tv\tw\tx",
        "a: expected a finite number, got 'nan'"),
    BAD("inf", RT_FORMAT_TSV, MIXED, "1\t-inf\t1\tu\tv\tw\tx", "a: expected a finite number"),
    BAD("1e999", RT_FORMAT_TSV, MIXED, "1\t1e999\t1\tu\tv\tw\tx", "a: expected a finite number"),
    BAD("1e39", RT_FORMAT_TSV, MIXED, "1\t1e39\t1\tu\tv\tw\tx", "a: 1e+39 is out of the range"),
    BAD("blank", RT_FORMAT_TSV, MIXED, "1\t 1\t1\tu\tv\tw\tx", "a: expected a finite number"),
    BAD("hex", RT_FORMAT_TSV, MIXED, "1\t0x10\t1\tu\tv\tw\tx", "a: expected a finite number"),
    BAD("two points", RT_FORMAT_TSV, MIXED, "1\t1.2.3\t1\tu\tv\tw\tx", "a: expected a finite"),
    BAD("sign only", RT_FORMAT_TSV, MIXED, "1\t-\t1\tu\tv\tw\tx", "a: expected a finite number"),
    BAD("few", RT_FORMAT_TSV, MIXED, "1\t1\t1\tu\tv\tw", "expected 7 fields, got 6"),
    BAD("many", RT_FORMAT_TSV, MIXED, "1\t1\t1\tu\tv\tw\tx\t", "expected 7 fields, got 8"),
    BAD("empty line", RT_FORMAT_TSV, MIXED, "", "expected 7 fields, got 1"),
    BAD("csv few", RT_FORMAT_CSV, MIXED, "1,1", "expected 7 fields, got 2"),
    BAD("csv many", RT_FORMAT_CSV, MIXED, "1,1,1,u,v,w,x,", "expected 7 fields, got 8"),
    BAD("csv open quote", RT_FORMAT_CSV, MIXED, "1,1,1,\"u,v,w,x", "a quote is not closed"),
    BAD("csv after quote", RT_FORMAT_CSV, MIXED, "1,1,1,\"u\"v,w,x",
        "a comma after a closing quote"),
    BAD("svm empty", RT_FORMAT_LIBSVM, "0=feature", "", "label: expected 0 or 1, got ''"),
    BAD("svm few", RT_FORMAT_LIBSVM, "0=feature 1=feature", "1 1:1", "expected 2 ids, got 1"),
    BAD("svm many", RT_FORMAT_LIBSVM, "0=feature", "1 1:1 2:1", "expected 1 ids, got more"),
    BAD("svm weight", RT_FORMAT_LIBSVM, "0=feature", "1 1:0.5", "expected id:1 or id:0"),
    BAD("svm no value", RT_FORMAT_LIBSVM, "0=feature", "1 1", "expected id:1 or id:0"),
    BAD("svm word", RT_FORMAT_LIBSVM, "0=feature", "1 a:1", "expected id:1 or id:0"),
    BAD("svm over", RT_FORMAT_LIBSVM, "0=feature", "1 18446744073709551616:1", "over 64 bits"),
    BAD("svm label's class", RT_FORMAT_LIBSVM, "stars=label:5 0=feature", "5 1:1",
        "stars: expected a class of 0..4, got '5'"),
    BAD("class", RT_FORMAT_TSV, "y=label z=label:5", "1\t5",
        "z: expected a class of 0..4, got '5'"),
    BAD("half a class", RT_FORMAT_TSV, "y=label z=label:5", "1\t2.5",
        "z: expected a class of 0..4, got '2.5'"),
    BAD("negative class", RT_FORMAT_TSV, "y=label z=label:5", "1\t-1", "expected a class of 0..4"),
    BAD("no class", RT_FORMAT_TSV, "y=label z=label:5", "1\t", "expected a class of 0..4, got ''"),
    BAD("no number", RT_FORMAT_TSV, "y=label z=label:real", "1\tx",
        "z: expected a finite number, got 'x'"),
    BAD("too large a number", RT_FORMAT_TSV, "y=label z=label:real", "1\t1e39",
        "z: expected a finite number, got '1e39'"),
    BAD("svm label", RT_FORMAT_LIBSVM, "0=feature", "-1 1:1", "label: expected 0 or 1, got '-1'"),
};

static void check_good(const struct row_case *c, const struct dc_row *row)
{
    if (row->n_ids != c->n_ids || row->label[0] != c->label)
        fail_msg("%s: %u ids, label %g", c->name, row->n_ids, (double)row->label[0]);
    for (uint32_t i = 0; i < c->n_ids; i++) {
        uint64_t want = c->format == RT_FORMAT_LIBSVM ? strtoull(c->id[i], NULL, 10)
                                                      : rt_hash_bytes(c->id[i], strlen(c->id[i]));
        if (row->id[i] != want)
            fail_msg("%s: id %u is %llx", c->name, i, (unsigned long long)row->id[i]);
    }
    for (uint32_t i = 0; i < c->n_dense; i++)
        if (fabsf(row->dense[i] - c->dense[i]) > 1e-6f)
            fail_msg("%s: dense %u is %.9g", c->name, i, (double)row->dense[i]);
}

static void rows(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row_case); i++) {
        const struct row_case *c = &row_case[i];
        struct data_job dj;
        struct dc_parser *parser;

        data_job_init(&dj, c->format, false, c->columns);
        assert_int_equal(dc_parser_create(&dj.job, &parser), 0);
        int rc = dc_parser_row(parser, c->text, strlen(c->text));
        if (rc != c->rc || (c->reason && !strstr(rt_err_text(), c->reason)))
            fail_msg("%s: rc %d, text '%s'", c->name, rc, rt_err_text());
        if (rc == 0)
            check_good(c, dc_parser_view(parser));
        dc_parser_destroy(parser);
    }
}

/* The options of columns. ids: hashed words or, with '#', integers, one blank between; counts of features. */
struct option_case {
    const char *name, *columns, *text, *ids;
    uint16_t count[3];
    float dense;
    const char *reason;
};

static const struct option_case option_case[] = {
    {"list", "y=label a=feature:list b=feature", "1\tu|v|w\tz", "u v w z", {3, 1}, 0, NULL},
    {"list of one", "y=label a=feature:list b=feature", "1\tu\tz", "u z", {1, 1}, 0, NULL},
    {"empty list", "y=label a=feature:list b=feature", "1\t\tz", "z", {0, 1}, 0, NULL},
    {"empty items", "y=label a=feature:list b=feature", "1\t|u||v|\tz", "u v z", {2, 1}, 0, NULL},
    {"only separators", "y=label a=feature:list b=feature", "1\t||\tz", "z", {0, 1}, 0, NULL},
    {"full list", "y=label a=feature:list", "1\tu|v|w|x", "u v w x", {4}, 0, NULL},
    {"list too long",
     "y=label a=feature:list",
     "1\tu|v|w|x|y|z",
     NULL,
     {0},
     0,
     "a: expected at most 4 ids (max_length of feature a), got 6"},
    {"two columns, one feature",
     "y=label a=feature:f,list b=feature c=feature:f",
     "1\tu|v\tz\tw",
     "u v w z",
     {3, 1},
     0,
     NULL},
    {"two columns too long",
     "y=label a=feature:f,list b=feature:f,list",
     "1\tu|v\tx|y|z",
     NULL,
     {0},
     0,
     "expected at most 4 ids (max_length of feature f), got 5"},
    {"no id", "y=label a=feature:none b=feature", "1\t\t", " ", {0, 1}, 0, NULL},
    {"empty is a category", "y=label a=feature", "1\t", " ", {1}, 0, NULL},
    {"empty is bad",
     "y=label a=feature:bad",
     "1\t",
     NULL,
     {0},
     0,
     "a: expected a value, got an empty field"},
    {"integer",
     "y=label a=feature:int b=feature:int",
     "1\t007\t18446744073709551615",
     "#7 #18446744073709551615",
     {1, 1},
     0,
     NULL},
    {"integer below zero",
     "y=label a=feature:int b=feature:int",
     "1\t-1\t-9223372036854775808",
     "#18446744073709551615 #9223372036854775808",
     {1, 1},
     0,
     NULL},
    {"integer list", "y=label a=feature:list,int", "1\t3|-0|5", "#3 #0 #5", {3}, 0, NULL},
    {"integer over",
     "y=label a=feature:int",
     "1\t18446744073709551616",
     NULL,
     {0},
     0,
     "a: expected an integer of 64 bits, got '18446744073709551616'"},
    {"integer under",
     "y=label a=feature:int",
     "1\t-9223372036854775809",
     NULL,
     {0},
     0,
     "a: expected an integer of 64 bits"},
    {"integer word", "y=label a=feature:int", "1\t12a", NULL, {0}, 0, "got '12a'"},
    {"integer plus", "y=label a=feature:int", "1\t+1", NULL, {0}, 0, "got '+1'"},
    {"integer sign", "y=label a=feature:int", "1\t-", NULL, {0}, 0, "got '-'"},
    {"integer empty",
     "y=label a=feature:int",
     "1\t",
     NULL,
     {0},
     0,
     "a: expected an integer, got an empty field"},
    {"integer in a list", "y=label a=feature:list,int", "1\t3|x", NULL, {0}, 0, "64 bits, got 'x'"},
    {"clip above", "y=label a=dense:clip", "1\t7.5", "", {0}, 5, NULL},
    {"clip below", "y=label a=dense:clip", "1\t-1e300", "", {0}, -2, NULL},
    {"clip inside", "y=label a=dense:clip", "1\t3.5", "", {0}, 3.5f, NULL},
    {"clip, then log1p", "y=label a=dense:clip,log1p", "1\t1e300", "", {0}, 1.7917595f, NULL},
    {"missing, then clip", "y=label a=dense:clip,missing", "1\t", "", {0}, 5, NULL},
    {"dense empty is bad",
     "y=label a=dense:bad",
     "1\t",
     NULL,
     {0},
     0,
     "a: expected a finite number, got an empty field"},
    {"dense empty is bad before log1p",
     "y=label a=dense:bad,log1p",
     "1\t",
     NULL,
     {0},
     0,
     "a: expected a finite number, got an empty field"},
    {"weight", "y=label w=weight", "1\t0.25", "", {0}, 0, NULL},
    {"weight below zero",
     "y=label w=weight",
     "1\t-0.5",
     NULL,
     {0},
     0,
     "w: expected a finite weight of at least 0, got '-0.5'"},
    {"weight over float",
     "y=label w=weight",
     "1\t1e39",
     NULL,
     {0},
     0,
     "w: expected a finite weight"},
    {"weight nan", "y=label w=weight", "1\tnan", NULL, {0}, 0, "w: expected a finite weight"},
    {"weight empty", "y=label w=weight", "1\t", NULL, {0}, 0, "at least 0, got ''"},
    {"group integer",
     "y=label g=group:int",
     "1\tx",
     NULL,
     {0},
     0,
     "g: expected an integer of 64 bits, got 'x'"},
};

static void check_options(const struct option_case *c, const struct rt_job *job,
                          const struct dc_row *row)
{
    char words[128], *save = NULL;
    uint32_t n = 0;

    snprintf(words, sizeof(words), "%s", c->ids);
    for (char *w = strtok_r(words, " ", &save); w; w = strtok_r(NULL, " ", &save), n++) {
        uint64_t want = w[0] == '#' ? strtoull(w + 1, NULL, 10) : rt_hash_bytes(w, strlen(w));
        if (n >= row->n_ids || row->id[n] != want)
            fail_msg("%s: id %u is not %s", c->name, n, w);
    }
    if (c->ids[0] == ' ') /* one empty string */
        assert_true(row->id[n++] == rt_hash_bytes("", 0));
    if (row->n_ids != n)
        fail_msg("%s: %u ids, not %u", c->name, row->n_ids, n);
    for (uint32_t f = 0; f < job->n_features; f++)
        if (row->count[f] != c->count[f])
            fail_msg("%s: feature %u has %u ids", c->name, f, row->count[f]);
    if (job->data.n_dense && fabsf(row->dense[0] - c->dense) > 1e-6f)
        fail_msg("%s: dense is %.9g", c->name, (double)row->dense[0]);
    if (job->data.weighted && row->weight != 0.25f)
        fail_msg("%s: weight is %.9g", c->name, (double)row->weight);
}

static void options(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2 * ARRAY_LEN(option_case); i++) { /* as tsv, then as csv */
        const struct option_case *c = &option_case[i / 2];
        struct data_job dj;
        struct dc_parser *parser;
        char text[128];

        snprintf(text, sizeof(text), "%s", c->text);
        for (char *t = text; i % 2 && (t = strchr(t, '\t'));)
            *t = ',';
        data_job_init(&dj, i % 2 ? RT_FORMAT_CSV : RT_FORMAT_TSV, false, c->columns);
        assert_int_equal(dc_parser_create(&dj.job, &parser), 0);
        for (int twice = 0; twice < 2; twice++) { /* nothing of a row stays in the parser */
            int rc = dc_parser_row(parser, text, strlen(text));
            if (rc != (c->reason ? RT_EDATA : 0) || (rc && !strstr(rt_err_text(), c->reason)))
                fail_msg("%s: rc %d, text '%s'", c->name, rc, rt_err_text());
            if (rc == 0)
                check_options(c, &dj.job, dc_parser_view(parser));
        }
        dc_parser_destroy(parser);
    }
}

/* Ids that have weights, and lists that are cut. ids as above; weights: numbers, one blank between. */
struct weight_case {
    const char *name;
    enum rt_format format;
    const char *columns, *text, *ids, *weights, *reason;
};

#define PAIR "y=label a=feature:f,list,weights b=feature:f,list,weights"
static const struct weight_case weight_case[] = {
    {"list", RT_FORMAT_TSV, "y=label a=feature:list,weights b=feature", "1\tu:0.5|v|w:-2e1\tz",
     "u v w z", "0.5 1 -20 1", NULL},
    {"csv", RT_FORMAT_CSV, "y=label a=feature:list,weights b=feature", "1,\"u:0.5|v\",z", "u v z",
     "0.5 1 1", NULL},
    {"one", RT_FORMAT_TSV, "y=label a=feature:weights b=feature", "1\thttp://x:3\tz", "http://x z",
     "3 1", NULL},
    {"weight 0", RT_FORMAT_TSV, "y=label a=feature:weights", "1\tu:0", "u", "0", NULL},
    {"empty list", RT_FORMAT_TSV, "y=label a=feature:list,weights b=feature", "1\t\tz", "z", "1",
     NULL},
    {"empty is a category", RT_FORMAT_TSV, "y=label a=feature:weights", "1\t", " ", "1", NULL},
    {"integers", RT_FORMAT_TSV, "y=label a=feature:list,int,weights", "1\t12:0.5|-13",
     "#12 #18446744073709551603", "0.5 1", NULL},
    {"two columns", RT_FORMAT_TSV, "y=label a=feature:f,list,weights b=feature:f,none c=feature",
     "1\tu:2|v:3\tx:4\tz", "u v x:4 z", "2 3 1 1", NULL},
    {"tail", RT_FORMAT_TSV, "y=label a=feature:list,weights,tail", "1\tu:1|v:2|w:3|x:4|y:nan",
     "u v w x", "1 2 3 4", NULL},
    {"head", RT_FORMAT_TSV, "y=label a=feature:list,weights,head", "1\tt:nan|u:1||v:2|w:3|x:4|",
     "u v w x", "1 2 3 4", NULL},
    {"tail of both", RT_FORMAT_TSV, PAIR ",tail", "1\tu:1|v:2|w:3\tx:4|y:5|z:6", "u v w x",
     "1 2 3 4", NULL},
    {"tail: one has all", RT_FORMAT_TSV, PAIR ",tail", "1\ta|b|c|d|e\tx:4|y:5", "a b c d",
     "1 1 1 1", NULL},
    {"head of both", RT_FORMAT_TSV, PAIR ",head", "1\tu:1|v:2|w:3\tx:4|y:5|z:6", "w x y z",
     "3 4 5 6", NULL},
    {"head: one has all", RT_FORMAT_TSV, PAIR ",head", "1\tu:1|v:2\ta|b|c|d|e", "b c d e",
     "1 1 1 1", NULL},
    {"cut without weights", RT_FORMAT_TSV, "y=label a=feature:list,head b=feature:list,tail",
     "1\ta|b|c|d|e\ta|b|c|d|e", "b c d e a b c d", "", NULL},
    {"both too long", RT_FORMAT_TSV, PAIR, "1\tu:1|v:2|w:3\tx:4|y:5", NULL, NULL,
     "expected at most 4 ids"},
    {"nan", RT_FORMAT_TSV, "y=label a=feature:weights", "1\tu:nan", NULL, NULL,
     "a: expected a finite number after ':', got 'u:nan'"},
    {"over float", RT_FORMAT_TSV, "y=label a=feature:weights", "1\tu:1e39", NULL, NULL,
     "a: expected a finite number after"},
    {"no number", RT_FORMAT_TSV, "y=label a=feature:weights", "1\tu:", NULL, NULL,
     "a: expected a finite number after"},
    {"no id", RT_FORMAT_TSV, "y=label a=feature:list,weights", "1\tu|:0.5", NULL, NULL,
     "a: expected an id before ':', got ':0.5'"},
    {"no integer", RT_FORMAT_TSV, "y=label a=feature:int,weights", "1\tu:0.5", NULL, NULL,
     "64 bits, got 'u'"},
    {"libsvm", RT_FORMAT_LIBSVM, "0=feature:u,weights 1=feature:v 2=feature:u,weights",
     "1 7:0.25  9:1 8:-3", "#7 #8 #9", "0.25 -3 1", NULL},
    {"libsvm: 0 is none", RT_FORMAT_LIBSVM, "0=feature:u,weights 1=feature:v", "1 7:0.0  9:1", "#9",
     "1", NULL},
    {"libsvm: no number", RT_FORMAT_LIBSVM, "0=feature:weights", "1 7:x", NULL, NULL,
     "position 0: expected id:weight, got '7:x'"},
    {"libsvm: the other has none", RT_FORMAT_LIBSVM, "0=feature:weights 1=feature", "1 7:2 8:2",
     NULL, NULL, "position 1: expected id:1 or id:0"},
};
#undef PAIR

static void check_weights(const struct weight_case *c, const struct dc_row *row)
{
    char words[128], *save = NULL;
    uint32_t n = 0;

    assert_true((row->id_weight == NULL) == (c->weights[0] == 0));
    snprintf(words, sizeof(words), "%s", c->weights);
    for (char *w = strtok_r(words, " ", &save); w; w = strtok_r(NULL, " ", &save), n++)
        if (n >= row->n_ids || row->id_weight[n] != strtof(w, NULL))
            fail_msg("%s: weight %u is not %s", c->name, n, w);
    if (row->id_weight && n != row->n_ids)
        fail_msg("%s: %u ids, not %u", c->name, row->n_ids, n);
}

static void id_weights(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(weight_case); i++) {
        const struct weight_case *c = &weight_case[i];
        struct option_case ids = {.name = c->name, .ids = c->ids};
        struct data_job dj;
        struct dc_parser *parser;

        data_job_init(&dj, c->format, false, c->columns);
        assert_int_equal(dc_parser_create(&dj.job, &parser), 0);
        for (int twice = 0; twice < 2; twice++) { /* nothing of a row stays in the parser */
            int rc = dc_parser_row(parser, c->text, strlen(c->text));
            if (rc != (c->reason ? RT_EDATA : 0) || (rc && !strstr(rt_err_text(), c->reason)))
                fail_msg("%s: rc %d, text '%s'", c->name, rc, rt_err_text());
            if (rc != 0)
                continue;
            const struct dc_row *row = dc_parser_view(parser);
            memcpy(ids.count, row->count, dj.job.n_features * sizeof(ids.count[0]));
            check_options(&ids, &dj.job, row);
            check_weights(c, row);
        }
        dc_parser_destroy(parser);
    }
}

/* A list that fills its feature leaves another column of it nothing, in that row only. */
static void a_cut_is_of_one_row(void **state)
{
    static const char *const columns[] = {"y=label a=feature:f,list,tail b=feature:f c=feature:f",
                                          "y=label b=feature:f c=feature:f a=feature:f,list,head"};
    static const char *const row[][2] = {{"1\tu|v|w|x\tp\tq", "1\tu\tp\tq"},
                                         {"1\tp\tq\tu|v|w|x", "1\tp\tq\tu"}};
    static const enum rt_format format[] = {RT_FORMAT_TSV, RT_FORMAT_CSV};

    (void)state;
    for (int i = 0; i < 4; i++) {
        struct data_job dj;
        struct dc_parser *parser;

        data_job_init(&dj, format[i / 2], false, columns[i % 2]);
        assert_int_equal(dc_parser_create(&dj.job, &parser), 0);
        for (int twice = 0; twice < 4; twice++) {
            char text[64];

            snprintf(text, sizeof(text), "%s", row[i % 2][twice % 2]);
            for (char *t = text; i / 2 && (t = strchr(t, '\t'));)
                *t = ',';
            assert_int_equal(dc_parser_row(parser, text, strlen(text)), 0);
            assert_int_equal(dc_parser_view(parser)->n_ids, twice % 2 ? 3 : 4);
        }
        dc_parser_destroy(parser);
    }
}

/* Random rows of two columns of one feature against lists of (id, weight) that are joined, then cut. */
static void random_lists(void **state)
{
    static const char *const columns[] = {
        "y=label a=feature:f,list,int,weights,tail b=feature:f,list,int c=feature:int,weights",
        "y=label a=feature:f,list,int,weights,head b=feature:f,list,int c=feature:int,weights"};
    uint64_t key = 41, at = 0;

    (void)state;
    print_message("seed %llu\n", (unsigned long long)key);
    for (int head = 0; head < 2; head++) {
        struct data_job dj;
        struct dc_parser *parser;

        data_job_init(&dj, RT_FORMAT_TSV, false, columns[head]);
        assert_int_equal(dc_parser_create(&dj.job, &parser), 0);
        for (int i = 0; i < 5000; i++) {
            char text[256] = "1";
            uint32_t n = 0, end = 1, id[16];
            float weight[16];

            for (int column = 0; column < 2; column++) {
                uint32_t length = (uint32_t)rt_below(rt_draw(key, at++), 8);

                for (uint32_t k = 0; k < length; k++, n++) {
                    bool plain = column == 1 || rt_below(rt_draw(key, at++), 3) == 0;

                    id[n] = (uint32_t)rt_below(rt_draw(key, at++), 1000);
                    weight[n] = plain ? 1 : (float)rt_below(rt_draw(key, at++), 64) / 8 - 4;
                    end += (uint32_t)snprintf(text + end, sizeof(text) - end,
                                              plain ? "%s%u" : "%s%u:%g", k ? "|" : "\t", id[n],
                                              (double)weight[n]);
                }
                if (length == 0)
                    text[end++] = '\t';
            }
            snprintf(text + end, sizeof(text) - end, "\t5:%d", i);
            if (dc_parser_row(parser, text, strlen(text)) != 0)
                fail_msg("'%s': %s", text, rt_err_text());
            const struct dc_row *row = dc_parser_view(parser);
            uint32_t kept = n < 4 ? n : 4, first = head ? n - kept : 0;
            assert_int_equal(row->count[0], kept);
            assert_int_equal(row->n_ids, kept + 1);
            for (uint32_t k = 0; k < kept; k++)
                if (row->id[k] != id[first + k] || row->id_weight[k] != weight[first + k])
                    fail_msg("'%s': id %u", text, k);
            assert_true(row->id[kept] == 5 && row->id_weight[kept] == (float)i);
        }
        dc_parser_destroy(parser);
    }
}

/* Group and key are carried along; a key has a limit. */
static void group_and_key(void **state)
{
    static char text[RT_KEY_MAX + 64];
    struct data_job dj;
    struct dc_parser *parser;

    (void)state;
    data_job_init(&dj, RT_FORMAT_CSV, false, "y=label k=key g=group a=feature");
    assert_int_equal(dc_parser_create(&dj.job, &parser), 0);
    int n = snprintf(text, sizeof(text), "1,\"k,1\",\"g\",\"u\"");
    assert_int_equal(dc_parser_row(parser, text, (size_t)n), 0);
    const struct dc_row *row = dc_parser_view(parser);
    assert_true(row->key_size == 3 && memcmp(row->key, "k,1", 3) == 0);
    assert_true(row->group == rt_hash_bytes("g", 1) && row->id[0] == rt_hash_bytes("u", 1));
    for (uint32_t more = 0; more < 2; more++) {
        n = snprintf(text, sizeof(text), "1,%0*d,g,u", (int)(RT_KEY_MAX + more), 0);
        int rc = dc_parser_row(parser, text, (size_t)n);
        assert_int_equal(rc, more ? RT_EDATA : 0);
    }
    assert_non_null(strstr(rt_err_text(), "k: expected a key of at most 4096 bytes, got 4097"));
    dc_parser_destroy(parser);
    data_job_init(&dj, RT_FORMAT_TSV, false, "y=label g=group:int k=key a=feature");
    assert_int_equal(dc_parser_create(&dj.job, &parser), 0);
    assert_int_equal(dc_parser_row(parser, "0\t-3\t\tu", 7), 0);
    row = dc_parser_view(parser);
    assert_true(row->group == (uint64_t)-3 && row->key_size == 0);
    dc_parser_destroy(parser);
}

static void headers(void **state)
{
    static const struct {
        const char *name;
        enum rt_format format;
        const char *text, *reason; /* NULL: good */
    } row[] = {
        {"in order", RT_FORMAT_TSV, "label\tage\tcity", NULL},
        {"another order", RT_FORMAT_TSV, "city\tlabel\tage", NULL},
        {"byte order mark", RT_FORMAT_CSV, "\xef\xbb\xbflabel,age,city", NULL},
        {"quoted", RT_FORMAT_CSV, "label,\"age\",city", NULL},
        {"unknown", RT_FORMAT_TSV, "label\tagee\tcity",
         "f.tsv:1: column 'agee' is not in data.yml (did you mean 'age'?)"},
        {"missing", RT_FORMAT_TSV, "label\tage",
         "f.tsv:1: column 'city' of data.yml is not in the"},
        {"more", RT_FORMAT_TSV, "label\tage\tcity\tzip",
         "f.tsv:1: column 'zip' is not in data.yml"},
        {"twice", RT_FORMAT_TSV, "label\tage\tage", "f.tsv:1: column 'age' is there twice"},
        {"no header", RT_FORMAT_TSV, "1\t39\tOslo", "f.tsv:1: column '1' is not in data.yml"},
        {"open quote", RT_FORMAT_CSV, "label,\"age,city", "f.tsv:1: a quote is not closed"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct data_job dj;
        struct dc_parser *parser;

        data_job_init(&dj, row[i].format, true, "label=label age=dense city=feature");
        assert_int_equal(dc_parser_create(&dj.job, &parser), 0);
        int rc = dc_parser_header(parser, "f.tsv", row[i].text, strlen(row[i].text));
        if (rc != (row[i].reason ? RT_EUSAGE : 0) || (rc && !strstr(rt_err_text(), row[i].reason)))
            fail_msg("%s: rc %d, text '%s'", row[i].name, rc, rt_err_text());
        if (i == 1) { /* fields follow their names */
            assert_int_equal(dc_parser_row(parser, "Oslo\t1\t39", 9), 0);
            const struct dc_row *view = dc_parser_view(parser);
            assert_true(view->id[0] == rt_hash_bytes("Oslo", 4) && view->label[0] == 1.0f &&
                        view->dense[0] == 39.0f);
        }
        dc_parser_destroy(parser);
    }
}

static void plans(void **state)
{
    static const struct {
        const char *name;
        enum rt_format format;
        const char *columns, *reason;
    } row[] = {
        {"too many for max_length", RT_FORMAT_TSV,
         "y=label a=feature:f b=feature:f c=feature:f d=feature:f e=feature:f",
         "feature f has 5 columns, more than its max_length 4"},
        {"libsvm name", RT_FORMAT_LIBSVM, "user=feature", "expected the positions 0..0"},
        {"libsvm gap", RT_FORMAT_LIBSVM, "0=feature 2=feature", "expected the positions 0..1"},
        {"libsvm dense", RT_FORMAT_LIBSVM, "0=dense", "libsvm has a label and features only"},
        {"libsvm weight", RT_FORMAT_LIBSVM, "0=weight", "libsvm has a label and features only"},
        {"synthetic name", RT_FORMAT_SYNTHETIC, "label=label c9=feature",
         "columns.c9: the synthetic"},
        {"synthetic kind", RT_FORMAT_SYNTHETIC, "label=label c1=dense",
         "columns.c1: the synthetic"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct data_job dj;
        struct dc_parser *parser = NULL;

        data_job_init(&dj, row[i].format, false, row[i].columns);
        int rc = dc_parser_create(&dj.job, &parser);
        if (rc != RT_EUSAGE || !strstr(rt_err_text(), row[i].reason))
            fail_msg("%s: rc %d, text '%s'", row[i].name, rc, rt_err_text());
    }
}

/* Damaged rows are refused or read; never anything else (sanitizers watch). */
static void random_damage(void **state)
{
    static const char *const good[] = {
        "1\t2.5\t3\tu\tv\tw\tzz",     "1,+1,0,\"u,\"\"v\",\"\",w,\"\"", "1 7:1  9:1\t8:1 ",
        "1\tu|v\t3|4\t1.5\tg\tkk\t1", "1\tu:1|v:2|w|x\t3:0.5|4:-1|5",   "1 7:0.5 9:1 8:0"};
    static const enum rt_format format[] = {RT_FORMAT_TSV, RT_FORMAT_CSV, RT_FORMAT_LIBSVM,
                                            RT_FORMAT_TSV, RT_FORMAT_TSV, RT_FORMAT_LIBSVM};
    static const char *const columns[] = {
        MIXED,
        MIXED,
        "0=feature:u 1=feature:v 2=feature:u",
        "y=label a=feature:list b=feature:list,int w=weight g=group k=key d=dense:clip,bad",
        "y=label a=feature:f,list,weights,head b=feature:f,list,int,weights",
        "0=feature:u,weights 1=feature:v 2=feature:u,weights"};
    static const char letter[] = "\t,\" :0123e.-\0a|";
    uint64_t key = 99, at = 0;

    (void)state;
    print_message("seed %llu\n", (unsigned long long)key);
    for (size_t k = 0; k < ARRAY_LEN(good); k++) {
        struct data_job dj;
        struct dc_parser *parser;

        data_job_init(&dj, format[k], false, columns[k]);
        assert_int_equal(dc_parser_create(&dj.job, &parser), 0);
        for (int i = 0; i < 20000; i++) {
            size_t n = strlen(good[k]) - rt_below(rt_draw(key, at++), 3);
            char *text = malloc(n); /* exactly: a read behind the end is seen */

            memcpy(text, good[k], n);
            for (int m = 0; m < 3; m++)
                text[rt_below(rt_draw(key, at + 1), n)] =
                    letter[rt_below(rt_draw(key, at + 2), sizeof(letter) - 1)],
                                                    at += 2;
            int rc = dc_parser_row(parser, text, n);
            assert_true(rc == 0 || rc == RT_EDATA);
            free(text);
        }
        dc_parser_destroy(parser);
    }
}

int main(void)
{
    const struct CMUnitTest test[] = {
        cmocka_unit_test(rows),          cmocka_unit_test(headers),
        cmocka_unit_test(plans),         cmocka_unit_test(options),
        cmocka_unit_test(id_weights),    cmocka_unit_test(a_cut_is_of_one_row),
        cmocka_unit_test(random_lists),  cmocka_unit_test(group_and_key),
        cmocka_unit_test(random_damage),
    };

    return cmocka_run_group_tests(test, NULL, NULL);
}
