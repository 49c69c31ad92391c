/* tests/unit/test_manifest.c -- a manifest as text: what is written reads back, to the bit; what was changed, made good or not, is
 * refused by name; of which job it is. */
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "runtime/checkpoint/manifest.h"
#include "tests/lib/checkpoint_bed.h"
#include "tests/lib/temp.h"

#include <ftw.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

static const struct checkpoint_spec spec = {
    .name = "step-9", .attempt = 9, .base = 7, .base_name = "step-7", .owners = 2, .rows = 50};

static const struct rt_manifest_file files[] = {
    {"rows.00000", 100, 0xffffffffffffffff, true, 0, 0, 32768, false, 15000, 1},
    {"rows.00001", (uint64_t)INT64_MAX, 0, true, 1, 32768, 65536, false, 0, 0},
    {"dense.safetensors", 0, 1, false, 0, 0, 0, false, 0, 0},
};

static struct rt_manifest sample(void)
{
    struct rt_manifest manifest = checkpoint_bed_manifest(&spec);

    manifest.n_files = ARRAY_LEN(files);
    manifest.file = files;
    return manifest;
}

static char *text_of(const struct rt_manifest *manifest)
{
    struct rt_strbuf text;

    rt_strbuf_init(&text);
    rt_manifest_write(manifest, &text);
    return rt_strbuf_detach(&text);
}

static int parse(const char *text, struct rt_manifest **out)
{
    return rt_manifest_parse("M", text, strlen(text), out);
}

static void same_double(double a, double b)
{
    assert_memory_equal(&a, &b, sizeof(a)); /* to the bit */
}

static void check_ledger(const struct rt_manifest *got, const struct rt_manifest *want)
{
    assert_int_equal(got->n_ledger, want->n_ledger);
    for (uint32_t i = 0; i < want->n_ledger; i++) {
        const struct wire_split_ledger *a = &got->ledger[i], *b = &want->ledger[i];

        assert_int_equal(a->split, b->split);
        assert_int_equal(a->stepped_low, b->stepped_low);
        assert_int_equal(a->finished_low, b->finished_low);
        assert_int_equal(a->stepped_bytes, b->stepped_bytes);
        assert_int_equal(a->finished_bytes, b->finished_bytes);
        if (b->stepped_bytes)
            assert_memory_equal(a->stepped, b->stepped, b->stepped_bytes);
        if (b->finished_bytes)
            assert_memory_equal(a->finished, b->finished, b->finished_bytes);
        assert_int_equal(a->rows_read, b->rows_read);
        assert_int_equal(a->rows_quarantined, b->rows_quarantined);
        assert_int_equal(a->end_sequence, b->end_sequence);
    }
}

static void check_lists(const struct rt_manifest *got, const struct rt_manifest *want)
{
    assert_int_equal(got->n_statistics, want->n_statistics);
    for (uint32_t i = 0; i < want->n_statistics; i++) {
        assert_string_equal(got->statistics[i].column, want->statistics[i].column);
        same_double(got->statistics[i].mean, want->statistics[i].mean);
        same_double(got->statistics[i].deviation, want->statistics[i].deviation);
        assert_int_equal(got->statistics[i].count, want->statistics[i].count);
    }
    assert_int_equal(got->n_tables, want->n_tables);
    for (uint32_t i = 0; i < want->n_tables; i++) {
        assert_string_equal(got->table[i].name, want->table[i].name);
        assert_int_equal(got->table[i].rows, want->table[i].rows);
        assert_int_equal(got->table[i].live, want->table[i].live);
        assert_true(got->table[i].digest == want->table[i].digest);
    }
    assert_int_equal(got->n_files, want->n_files);
    for (uint32_t i = 0; i < want->n_files; i++) {
        assert_string_equal(got->file[i].name, want->file[i].name);
        assert_true(got->file[i].bytes == want->file[i].bytes);
        assert_true(got->file[i].digest == want->file[i].digest);
        assert_int_equal(got->file[i].is_rows, want->file[i].is_rows);
        assert_int_equal(got->file[i].owner, want->file[i].owner);
        assert_int_equal(got->file[i].shard_first, want->file[i].shard_first);
        assert_int_equal(got->file[i].shard_end, want->file[i].shard_end);
    }
}

static void what_is_written_reads_back(void **state)
{
    struct rt_manifest want = sample(), *got;

    (void)state;
    want.learning_factor = 0.1;
    want.epoch_loss_sum = 5e-324;
    want.exact = want.suspect = true;
    want.run = 0x8000000000000001;
    want.anew = want.named = true;
    want.train_ms = 1234567;
    char *text = text_of(&want);
    if (parse(text, &got) != 0)
        fail_msg("%s", rt_err_text());
    assert_string_equal(got->name, want.name);
    assert_int_equal(got->attempt, want.attempt);
    assert_int_equal(got->base, want.base);
    assert_string_equal(got->base_name, want.base_name);
    assert_string_equal(got->job, want.job);
    assert_true(got->seed == want.seed && got->config_hash == want.config_hash);
    assert_memory_equal(got->part_hash, want.part_hash, sizeof(want.part_hash));
    assert_true(got->exact && got->suspect);
    assert_true(got->run == want.run && got->anew && got->named);
    assert_int_equal(got->train_ms, want.train_ms);
    assert_int_equal(got->threads, want.threads);
    assert_int_equal(got->step, want.step);
    assert_int_equal(got->age, want.age);
    same_double(got->learning_factor, want.learning_factor);
    same_double(got->epoch_loss_sum, want.epoch_loss_sum);
    check_ledger(got, &want);
    check_lists(got, &want);
    /* Nothing is left out: the same text again. */
    char *again = text_of(got);
    assert_string_equal(again, text);
    rt_free(again);
    rt_free(text);
    rt_manifest_destroy(got);
    rt_manifest_destroy(NULL);
}

static void a_loss_may_be_no_number(void **state)
{
    struct rt_manifest m = sample(), *got;
    char *text;

    (void)state;
    m.epoch_loss_sum = (double)NAN;
    text = text_of(&m);
    assert_int_equal(parse(text, &got), 0);
    assert_true(isnan(got->epoch_loss_sum));
    rt_manifest_destroy(got);
    rt_free(text);
    m.learning_factor = (double)INFINITY; /* a factor may not */
    text = text_of(&m);
    assert_int_equal(parse(text, &got), RT_EDATA);
    assert_non_null(strstr(rt_err_text(), "learning_factor"));
    rt_free(text);
}

/* `text` with the first `from` as `to`, its digest made good. */
static char *forge(const char *text, const char *from, const char *to)
{
    static const char tail[] = "  \"digest\": \"";
    const char *at = strstr(text, from);
    char *changed, *end;

    if (!at)
        fail_msg("'%s' is not in %s", from, text);
    changed = rt_xasprintf("%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    for (end = changed; strstr(end + 1, tail);)
        end = strstr(end + 1, tail);
    snprintf(end + strlen(tail), 17, "%016" PRIx64,
             rt_hash_bytes(changed, (size_t)(end - changed)));
    end[strlen(tail) + 16] = '"';
    return changed;
}

static const struct {
    const char *from, *to;
    int want;
    const char *word;
} wrong[] = {
    {"hybrid", "full", 0, ""},
    {"\"format\": 2", "\"format\": 3", RT_EUSAGE,
     "of version 3, this program reads versions 1 to 2"},
    {"\"format\": 2", "\"format\": 0", RT_EUSAGE, "of version 0"},
    {"\"format\": 2", "\"format\": 1", RT_EDATA, "no other keys"},
    {"\"format\": 2", "\"format\": \"2\"", RT_EDATA, "format: expected a number"},
    {"\"format\": 2,", "", RT_EDATA, "format"},
    {"  \"run\": \"0000000000000000\",\n", "", RT_EDATA, "run: expected 16 hex digits"},
    {"\"named\": false", "\"named\": 0", RT_EDATA, "named: expected true or false"},
    {"  \"suspect\": false,\n", "", RT_EDATA, "suspect: expected true or false"},
    {"{", "[", RT_EDATA, "line"},
    {"\"step-9\"", "\"../step\"", RT_EDATA, "name: expected 1 to 63"},
    {"\"step-9\"", "\"\"", RT_EDATA, "name: expected a text of 1 to"},
    {"\"step-9\"", "9", RT_EDATA, "name: expected a text"},
    {"\"attempt\": 9", "\"attempt\": 7", RT_EDATA, "base: expected an attempt before"},
    {"\"attempt\": 9", "\"attempt\": -9", RT_EDATA, "attempt: expected an integer in 1.."},
    {"\"attempt\": 9", "\"attempt\": 9.0", RT_EDATA, "attempt: expected an integer"},
    {"\"attempt\": 9", "\"attempt\": 9223372036854775808", RT_EDATA, "line"},
    {"\"base\": 7", "\"base\": 0", RT_EDATA, "base_name"},
    {"\"step-7\"", "\"\"", RT_EDATA, "base_name"},
    {"\"mode\"", "\"modes\"", RT_EDATA, "mode: expected a text"},
    {"\"hybrid\"", "\"fast\"", RT_EDATA, "mode: expected full, hybrid or async"},
    {"\"exact\": false", "\"exact\": 0", RT_EDATA, "exact: expected true or false"},
    {"\"world\": 1", "\"world\": 0", RT_EDATA, "world: expected an integer in 1.."},
    {"\"owners\": 2", "\"owners\": 3", RT_EDATA, "files"},
    {"\"owners\": 2", "\"owners\": 1", RT_EDATA, "files: expected shards up to 65536"},
    {"\"owners\": 2", "\"owners\": 4097", RT_EDATA, "owners: expected an integer in 1..4096"},
    {"fedcba9876543210", "FEDCBA9876543210", RT_EDATA, "config_hash: expected 16 hex digits"},
    {"fedcba9876543210", "edcba9876543210", RT_EDATA, "config_hash: expected 16 hex digits"},
    {"\"age\": 91", "\"age\": 89", RT_EDATA, "age: expected at least the step"},
    {"\"learning_factor\": 0.5", "\"learning_factor\": -0.5", RT_EDATA, "learning_factor"},
    {"\"learning_factor\": 0.5", "\"learning_factor\": null", RT_EDATA, "learning_factor"},
    {"\"learning_factor\": 0.5", "\"learning_factor\": 1e999", RT_EDATA, "line"},
    {"\"learning_factor\": 0.5,", "\"x\": 1, \"learning_factor\": 0.5,", RT_EDATA, "no other keys"},
    {"\"learning_factor\": 0.5,", "\"learning_factor\": 0.5, \"learning_factor\": 0.5,", RT_EDATA,
     "duplicate"},
    {"\"split\": 5", "\"split\": 0", RT_EDATA, "split: expected more than"},
    {"\"split\": 5", "\"split\": 65536", RT_EDATA, "ledger[1].split"},
    {"\"split\": 5,", "", RT_EDATA, "ledger[1].split"},
    {"\"05", "\"0", RT_EDATA, "ledger[1].stepped: expected two hex digits"},
    {"\"05", "\"0x", RT_EDATA, "ledger[1].stepped: expected hex digits"},
    {"\"rows_quarantined\": 3", "\"rows_quarantined\": 101", RT_EDATA, "at most rows_read"},
    {"\"column\": \"age\"", "\"column\": \"\"", RT_EDATA, "statistics[1].column"},
    {"\"deviation\": 3.0", "\"deviation\": -3.0", RT_EDATA, "deviation: expected 0 or more"},
    {"\"live\": 5000", "\"live\": -1", RT_EDATA, "tables[0].live"},
    {"\"rows\": 0", "\"rows\": 5001", RT_EDATA, "live"},
    {"\"tables\"", "\"table\"", RT_EDATA, "tables: expected a list"},
    {"\"rows.00001\"", "\"rows.00002\"", RT_EDATA, "rows.00001: expected the rows of each"},
    {"\"rows.00001\"", "\"../../rows.00001\"", RT_EDATA, "rows.00001"},
    {"\"owner\": 1", "\"owner\": 0", RT_EDATA, "rows.00001: expected the rows of each"},
    {"\"shard_first\": 32768", "\"shard_first\": 32769", RT_EDATA, "begin where"},
    {"\"shard_first\": 32768", "\"shard_first\": 32767", RT_EDATA, "begin where"},
    {"\"shard_end\": 65536", "\"shard_end\": 65535", RT_EDATA, "up to 65536"},
    {"\"shard_end\": 65536", "\"shard_end\": 65537", RT_EDATA, "files[1].shard_end"},
    {"\"dense.safetensors\"", "\".dense\"", RT_EDATA, "files: .dense"},
    {"\"dense.safetensors\"", "\"a/b\"", RT_EDATA, "files: a/b"},
    {"\"dense.safetensors\"", "\"manifest.json\"", RT_EDATA, "files: manifest.json"},
    {"\"dense.safetensors\"", "\"rows.00002\"", RT_EDATA, "files: rows.00002"},
    {", \"live\": 0, \"live_bytes\": 0}", "}", RT_EDATA, "files[1].live: expected an integer"},
    {", \"live_bytes\": 1}", "}", RT_EDATA, "files[0].live_bytes: expected an integer"},
    {"\"live\": 15000", "\"live\": 14999", RT_EDATA, "live: expected the live rows of all tables"},
    {"{\"name\": \"dense.safetensors\", \"bytes\": 0, \"digest\": \"0000000000000001\"}",
     "{\"name\": \"a\", \"bytes\": 0, \"digest\": \"0000000000000001\"}, "
     "{\"name\": \"a\", \"bytes\": 0, \"digest\": \"0000000000000001\"}",
     RT_EDATA, "each file once"},
};

static void what_is_not_so_is_refused(void **state)
{
    struct rt_manifest m = sample();
    char *text = text_of(&m);

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        char *changed = forge(text, wrong[i].from, wrong[i].to);
        struct rt_manifest *got = NULL;
        int err = parse(changed, &got);

        if (err != wrong[i].want || (err && !strstr(rt_err_text(), wrong[i].word)))
            fail_msg("%s -> %s: %d, expected %d with '%s': %s", wrong[i].from, wrong[i].to, err,
                     wrong[i].want, wrong[i].word, err ? rt_err_text() : "");
        rt_manifest_destroy(got);
        rt_free(changed);
    }
    rt_free(text);
}

/* As an older program wrote it: what it did not know is not known, and is not there. */
static void version_1_is_read(void **state)
{
    static const struct {
        const char *from, *to;
    } older[] = {
        {"  \"run\": \"0000000000000000\",\n  \"anew\": false,\n  \"named\": false,\n"
         "  \"train_ms\": 0,\n  \"suspect\": false,\n",
         ""},
        {"\"format\": 2", "\"format\": 1"},
        {", \"live\": 15000, \"live_bytes\": 1}", "}"},
        {", \"live\": 0, \"live_bytes\": 0}", "}"},
    };
    struct rt_manifest m = sample(), *got = NULL;
    char *text = text_of(&m);

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(older); i++) {
        char *next = forge(text, older[i].from, older[i].to);

        rt_free(text);
        text = next;
        assert_int_equal(parse(text, &got), i + 1 < ARRAY_LEN(older) ? RT_EDATA : 0);
    }
    assert_true(got->run == 0 && !got->anew && !got->named && got->train_ms == 0);
    assert_false(got->suspect);
    assert_false(got->file[0].knows_live || got->file[1].knows_live);
    assert_int_equal(got->attempt, m.attempt);
    rt_manifest_destroy(got);
    rt_free(text);
}

static void a_full_one_has_all_its_rows(void **state)
{
    struct rt_manifest m = sample(), *got = NULL;
    struct rt_manifest_table table[CHECKPOINT_BED_TABLES];
    struct rt_manifest_file file[ARRAY_LEN(files)];

    (void)state;
    memcpy(table, m.table, sizeof(table));
    memcpy(file, files, sizeof(file));
    file[0].live = 10ull * m.n_tables;
    m.table = table;
    m.file = file;
    m.base = 0;
    m.base_name = "";
    for (int i = 0; i < 4; i++) {
        for (uint32_t t = 0; t < m.n_tables; t++)
            table[t].rows = table[t].live = 10;
        table[2].removed = i == 1;
        table[1].live += i == 2;
        table[0].rows += i == 3;
        char *text = text_of(&m);
        int err = parse(text, &got);
        assert_int_equal(err, i == 0 ? 0 : RT_EDATA);
        if (!err)
            rt_manifest_destroy(got);
        rt_free(text);
    }
}

/* How they are spread over owners; who wrote version 1 did not say (version_1_is_read). */
static void rows_of_owners(void **state)
{
    struct rt_manifest m = sample(), *got = NULL;
    struct rt_manifest_file file[ARRAY_LEN(files)];
    char *text, *first;

    (void)state;
    memcpy(file, files, sizeof(file));
    file[0].live = 0;
    file[0].live_bytes = 1ull << 40;
    file[1].live = 7;
    for (uint32_t t = 0; t < m.n_tables; t++)
        file[0].live += m.table[t].live;
    file[0].live -= file[1].live;
    m.file = file;
    text = text_of(&m);
    if (parse(text, &got) != 0)
        fail_msg("%s", rt_err_text());
    for (int i = 0; i < 2; i++) {
        assert_true(got->file[i].knows_live);
        assert_int_equal(got->file[i].live, file[i].live);
        assert_int_equal(got->file[i].live_bytes, file[i].live_bytes);
    }
    rt_manifest_destroy(got);
    first = forge(text, "\"live\": 7", "\"live\": 8");
    assert_int_equal(parse(first, &got), RT_EDATA);
    assert_non_null(strstr(rt_err_text(), "live: expected the live rows of all tables"));
    rt_free(first);
    rt_free(text);
}

static void every_flip_and_length_is_seen(void **state)
{
    struct rt_manifest m = sample(), *got;
    char *text = text_of(&m);
    size_t size = strlen(text), flips = 0;

    (void)state;
    for (size_t i = 0; i < size; i++) {
        for (int bit = 0; bit < 8; bit++, flips++) {
            text[i] = (char)(text[i] ^ 1 << bit);
            if (rt_manifest_parse("M", text, size, &got) != RT_EDATA)
                fail_msg("byte %zu, bit %d: not seen", i, bit);
            text[i] = (char)(text[i] ^ 1 << bit);
        }
        assert_int_equal(rt_manifest_parse("M", text, i, &got), RT_EDATA);
    }
    char *longer = rt_xasprintf("%s ", text);
    assert_int_equal(parse(longer, &got), RT_EDATA);
    print_message("%zu flips, all seen\n", flips);
    rt_free(longer);
    rt_free(text);
}

static void of_which_job_it_is(void **state)
{
    static const struct {
        const char *name;
        int part; /* whose hash differs; -1: none */
        bool exact;
        const char *word;
    } row[] = {
        {"bed", -1, false, NULL},
        {"other", -1, false, "checkpoint 'step-9' is of the job 'bed', this is 'other'"},
        {"bed", WIRE_PART_GLOBAL, false, "these differ: global.yml"},
        {"bed", WIRE_PART_EMBEDDING, false, "these differ: embedding.yml;"},
        {"bed", WIRE_PART_DATA, false, "these differ: data.yml;"},
        {"bed", WIRE_PART_FILES, false, "data files"},
        {"bed", WIRE_PART_MODEL, false, "these differ: model.yml;"},
        {"bed", WIRE_PART_COUNT, false, "these differ: embedding.yml, model.yml; config hash"},
        {"bed", -1, true, "global.exact"},
    };
    struct rt_manifest m = sample();

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct rt_job job = checkpoint_bed_job;

        job.name = row[i].name;
        job.global.exact = row[i].exact;
        if (row[i].part >= 0) {
            job.config_hash++;
            if (row[i].part < WIRE_PART_COUNT)
                job.part_hash[row[i].part]++;
            else
                job.part_hash[WIRE_PART_EMBEDDING]++, job.part_hash[WIRE_PART_MODEL]++;
        }
        int err = rt_manifest_check_job(&m, &job);
        if (err != (row[i].word ? RT_EUSAGE : 0) || (err && !strstr(rt_err_text(), row[i].word)))
            fail_msg("row %zu: %d, %s", i, err, rt_err_text());
    }
    m.row_job++; /* of tables that the hashes do not tell */
    assert_int_equal(rt_manifest_check_job(&m, &checkpoint_bed_job), RT_EUSAGE);
}

/* jansson's memory fails too, which it may take for an error of the text, or leave a value out: never is it believed. */
static void reading_survives_out_of_memory(void **state)
{
    struct rt_manifest m = sample(), *got = NULL;
    char *text = text_of(&m);
    int err, nth = 0;

    (void)state;
    json_set_alloc_funcs(rt_try_malloc, rt_free);
    for (;; nth++) {
        rt_fault_alloc(nth);
        err = parse(text, &got);
        bool hit = rt_fault_hit();
        rt_fault_alloc(-1);
        if (!hit)
            break;
        if (err != RT_ENOMEM && err != RT_EDATA)
            fail_msg("allocation %d: %d, %s", nth, err, rt_err_text());
    }
    json_set_alloc_funcs(malloc, free);
    assert_int_equal(err, 0);
    assert_true(nth > 100);
    rt_manifest_destroy(got);
    rt_free(text);
}

/* ---- in its folder ---- */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    return remove(path);
}

static void one_is_read_from_its_folder(void **state)
{
    char folder[TEMP_PATH_MAX];
    struct rt_manifest m = sample(), *got = NULL;
    char *text = text_of(&m);

    (void)state;
    temp_folder(folder);
    char *in = rt_path_join(folder, "step-9"), *path = rt_path_join(in, RT_MANIFEST_NAME);
    char *other = rt_path_join(folder, "other");
    assert_int_equal(rt_manifest_read(folder, "step-9", &got), RT_EFILE);
    assert_int_equal(mkdir(in, 0700), 0);
    assert_int_equal(rt_manifest_read(folder, "step-9", &got), RT_EFILE);
    assert_int_equal(rt_file_write(path, text, strlen(text)), 0);
    assert_int_equal(rt_manifest_read(folder, "step-9", &got), 0);
    rt_manifest_destroy(got);
    assert_int_equal(symlink(in, other), 0);
    assert_int_equal(rt_manifest_read(folder, "other", &got), RT_EFILE); /* a link */
    assert_int_equal(unlink(other), 0);
    assert_int_equal(rename(in, other), 0);
    assert_int_equal(rt_manifest_read(folder, "other", &got), RT_EDATA); /* another name */
    assert_non_null(strstr(rt_err_text(), "a folder keeps its name"));
    nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    rt_free(other);
    rt_free(path);
    rt_free(in);
    rt_free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_reads_back),
        cmocka_unit_test(a_loss_may_be_no_number),
        cmocka_unit_test(what_is_not_so_is_refused),
        cmocka_unit_test(version_1_is_read),
        cmocka_unit_test(a_full_one_has_all_its_rows),
        cmocka_unit_test(rows_of_owners),
        cmocka_unit_test(every_flip_and_length_is_seen),
        cmocka_unit_test(of_which_job_it_is),
        cmocka_unit_test(reading_survives_out_of_memory),
        cmocka_unit_test(one_is_read_from_its_folder),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
