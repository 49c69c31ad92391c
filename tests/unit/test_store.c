/* tests/unit/test_store.c -- checkpoints in their folder: they come whole, go whole, stay if they are needed, and whatever call
 * fails, nothing is believed that is not there. */
#include "tests/unit/disk_watch.inc.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/checkpoint/generation.h"
#include "runtime/checkpoint/store.h"
#include "tests/lib/checkpoint_bed.h"
#include "tests/lib/temp.h"

#include <dirent.h>
#include <ftw.h>
#include <setjmp.h>
#include <stddef.h>
#include <cmocka.h>

static char dir[TEMP_PATH_MAX];
static const struct rt_job *const job = &checkpoint_bed_job;

static int set_up(void **state)
{
    (void)state;
    temp_folder(dir);
    return 0;
}

static int remove_path(const char *name, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    return remove(name);
}

static int tear_down(void **state)
{
    (void)state;
    return nftw(dir, remove_path, 8, FTW_DEPTH | FTW_PHYS);
}

/* A small one of two owners; base 0: full. */
static struct checkpoint_spec small(const char *name, uint64_t attempt, uint64_t base,
                                    const char *base_name)
{
    return (struct checkpoint_spec){.name = name,
                                    .attempt = attempt,
                                    .base = base,
                                    .base_name = base_name,
                                    .owners = 2,
                                    .rows = 20,
                                    .removed = base ? 5 : 0,
                                    .dense = 100};
}

static int try_write(const char *name, uint64_t attempt, uint64_t base, const char *base_name)
{
    struct checkpoint_spec spec = small(name, attempt, base, base_name);

    return checkpoint_bed_write(dir, &spec);
}

/* A full one: by an operator's word or not, of a run. */
static void write_of(const char *name, uint64_t attempt, bool named, uint64_t run, bool anew)
{
    struct checkpoint_spec spec = small(name, attempt, 0, NULL);

    spec.named = named;
    spec.run = run;
    spec.anew = anew;
    assert_int_equal(checkpoint_bed_write(dir, &spec), 0);
}

static void write_one(const char *name, uint64_t attempt, uint64_t base, const char *base_name)
{
    if (try_write(name, attempt, base, base_name) != 0)
        fail_msg("%s: %s", name, rt_err_text());
}

static char *inside(const char *name, const char *file)
{
    return rt_xasprintf("%s/%s/%s", dir, name, file);
}

static void put_file(const char *name, const char *file, const char *text)
{
    char *path = inside(name, file);

    assert_int_equal(rt_file_write(path, text, strlen(text)), 0);
    rt_free(path);
}

static void drop_file(const char *name, const char *file)
{
    char *path = inside(name, file);

    assert_int_equal(unlink(path), 0);
    rt_free(path);
}

static void make_folder(const char *name)
{
    char *path = rt_path_join(dir, name);

    assert_int_equal(mkdir(path, 0755), 0);
    rt_free(path);
}

static bool is_there(const char *name, const char *file)
{
    char *path = inside(name, file);
    bool there = rt_file_exists(path);

    rt_free(path);
    return there;
}

/* "b a": names of those that are listed, the newest first; '!' behind one that cannot be believed. */
static const char *listed(void)
{
    static char text[1024];
    struct rt_store_list list;
    size_t at = 0;

    if (rt_store_list(dir, &list) != 0)
        fail_msg("%s", rt_err_text());
    text[0] = '\0';
    for (size_t i = 0; i < list.n; i++) {
        assert_int_equal(list.at[i].manifest == NULL, list.at[i].why != NULL);
        at += (size_t)snprintf(text + at, sizeof(text) - at, "%s%s%s", i ? " " : "",
                               list.at[i].name, list.at[i].manifest ? "" : "!");
    }
    rt_store_list_release(&list);
    return text;
}

static int verify(const char *name)
{
    struct rt_manifest *manifest;
    int err = rt_manifest_read(dir, name, &manifest);

    if (err)
        return err;
    err = rt_store_verify(dir, manifest, job, NULL, NULL);
    rt_manifest_destroy(manifest);
    return err;
}

/* @want: its name, or NULL and the error with these words. */
static void chooses(const char *which, const char *want, int error, const char *word)
{
    char *name = NULL;
    int err = rt_store_choose(dir, which, job, &name);

    if (want ? err || strcmp(name, want) != 0 : err != error || !strstr(rt_err_text(), word))
        fail_msg("%s: %d, '%s' (expected %s): %s", which, err, name ? name : "", want ? want : word,
                 err ? rt_err_text() : "");
    rt_free(name);
}

/* ---- coming ---- */

static void names_are_tokens(void **state)
{
    static const struct {
        const char *name;
        int want;
    } row[] = {
        {"step-000012345", 0},
        {"x", 0},
        {"", RT_EUSAGE},
        {".", RT_EUSAGE},
        {"..", RT_EUSAGE},
        {"a/b", RT_EUSAGE},
        {"../x", RT_EUSAGE},
        {"/etc", RT_EUSAGE},
        {"a.b", RT_EUSAGE},
        {"a b", RT_EUSAGE},
        {"latest", RT_EUSAGE},
        {"0123456789012345678901234567890123456789012345678901234567890123", RT_EUSAGE},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        if (rt_store_begin(dir, row[i].name) != row[i].want)
            fail_msg("'%s': expected %d", row[i].name, row[i].want);
        if (row[i].want && rt_store_remove(dir, row[i].name) != RT_EUSAGE)
            fail_msg("'%s': removed", row[i].name);
    }
}

static void what_an_attempt_left_is_written_over(void **state)
{
    char *link = NULL;

    (void)state;
    assert_int_equal(rt_store_begin(dir, "a"), 0);
    put_file("a", "rows.00001.partial", "x");
    put_file("a", "rows.00000", "x");
    put_file("a", "manifest.json.tmp.12.0", "x");
    assert_int_equal(rt_store_begin(dir, "a"), 0);
    assert_false(is_there("a", "rows.00000") || is_there("a", "rows.00001.partial") ||
                 is_there("a", "manifest.json.tmp.12.0"));
    write_one("a", 1, 0, NULL);
    assert_int_equal(rt_store_begin(dir, "a"), RT_EUSAGE);
    assert_non_null(strstr(rt_err_text(), "is there"));
    assert_int_equal(verify("a"), 0);
    /* What is the user's stays. */
    make_folder("mine");
    put_file("mine", "rows.00000", "x");
    put_file("mine", "thesis.tex", "x");
    assert_int_equal(rt_store_begin(dir, "mine"), RT_EUSAGE);
    assert_non_null(strstr(rt_err_text(), "thesis.tex"));
    assert_true(is_there("mine", "thesis.tex") && is_there("mine", "rows.00000"));
    /* A link is no folder. */
    link = rt_path_join(dir, "link");
    assert_int_equal(symlink("mine", link), 0);
    assert_int_equal(rt_store_begin(dir, "link"), RT_EFILE);
    assert_int_equal(rt_store_remove(dir, "link"), RT_EFILE);
    assert_true(is_there("mine", "thesis.tex"));
    rt_free(link);
    assert_int_equal(rt_store_begin("/no/such/folder", "a"), RT_EFILE);
}

/* What is published must be there, as long as it says, and its manifest readable. */
static void nothing_is_published_that_is_not_there(void **state)
{
    struct checkpoint_spec spec = {.name = "a", .attempt = 1, .owners = 1, .rows = 5};
    struct rt_manifest m = checkpoint_bed_manifest(&spec);
    struct rt_manifest_file file = {
        .name = "rows.00000", .bytes = 3, .is_rows = true, .shard_end = RT_SHARDS};

    (void)state;
    m.n_files = 1;
    m.file = &file;
    assert_int_equal(rt_store_publish(dir, &m), RT_EFILE);
    assert_non_null(strstr(rt_err_text(), "the folder is gone"));
    assert_int_equal(rt_store_begin(dir, "a"), 0);
    assert_int_equal(rt_store_publish(dir, &m), RT_EDATA);
    assert_non_null(strstr(rt_err_text(), "it is missing"));
    put_file("a", "rows.00000", "1234");
    assert_int_equal(rt_store_publish(dir, &m), RT_EDATA);
    assert_non_null(strstr(rt_err_text(), "it has 4 bytes, expected 3"));
    file.bytes = 4;
    m.age = m.step - 1;
    assert_int_equal(rt_store_publish(dir, &m), RT_EDATA);
    assert_non_null(strstr(rt_err_text(), "age"));
    assert_string_equal(listed(), "");
    m.age = m.step;
    assert_int_equal(rt_store_publish(dir, &m), 0);
    assert_string_equal(listed(), "a");
}

/* ---- which there are ---- */

static void the_newest_is_first(void **state)
{
    char *file = rt_path_join(dir, "file"), *link = rt_path_join(dir, "link");

    (void)state;
    assert_string_equal(listed(), "");
    write_one("b", 5, 0, NULL);
    write_one("a", 7, 5, "b");
    write_one("c", 6, 0, NULL);
    make_folder("empty");
    make_folder("not.a.token");
    put_file("not.a.token", "manifest.json", "x");
    assert_int_equal(rt_file_write(file, "x", 1), 0);
    assert_int_equal(symlink("a", link), 0);
    assert_string_equal(listed(), "a c b");
    put_file("c", "manifest.json", "{}");
    assert_string_equal(listed(), "a b c!");
    rt_free(link);
    rt_free(file);
    struct rt_store_list list;
    assert_int_equal(rt_store_list("/no/such/folder", &list), RT_EFILE);
}

static void not_whole(const char *name, uint64_t attempt, int want, const char *words)
{
    int err = rt_store_check_whole(dir, name, attempt);

    if (err != want || (err && !strstr(rt_err_text(), words)))
        fail_msg("%s: %d, expected %d, '%s': %s", name, err, want, words, err ? rt_err_text() : "");
}

static void increments_need_those_before(void **state)
{
    struct rt_store_list list;
    size_t chain[RT_STORE_CHAIN_MAX], n;

    (void)state;
    write_one("f", 1, 0, NULL);
    write_one("g", 2, 1, "f");
    write_one("h", 3, 2, "g");
    write_one("i", 4, 2, "f"); /* of another name than its base */
    write_one("j", 5, 1, "f");
    assert_int_equal(rt_store_list(dir, &list), 0);
    assert_int_equal(rt_store_chain(&list, 2, chain, &n), 0);
    assert_int_equal(n, 3);
    assert_string_equal(list.at[chain[0]].name, "f");
    assert_string_equal(list.at[chain[1]].name, "g");
    assert_string_equal(list.at[chain[2]].name, "h");
    assert_int_equal(rt_store_chain(&list, 4, chain, &n), 0);
    assert_int_equal(n, 1);
    assert_int_equal(rt_store_chain(&list, 1, chain, &n), RT_EDATA);
    assert_non_null(strstr(rt_err_text(), "checkpoint 'i' needs 'f' (attempt 2)"));
    rt_store_list_release(&list);
    not_whole("h", 3, 0, "");
    not_whole("h", 4, RT_EDATA, "checkpoint 'h' is of attempt 3, expected 4");
    not_whole("i", 4, RT_EDATA, "checkpoint 'f' is of attempt 1, expected 2");
    not_whole("nobody", 1, RT_EFILE, "there is no checkpoint 'nobody'");
    drop_file("f", "rows.00001");
    not_whole("h", 3, RT_EDATA, "f/rows.00001: it is missing");
    assert_int_equal(rt_store_remove(dir, "f"), 0);
    not_whole("h", 3, RT_EFILE, "there is no checkpoint 'f'");
    put_file("g", "manifest.json", "{}");
    not_whole("h", 3, RT_EDATA, "g/manifest.json: damaged manifest");
    assert_int_equal(rt_store_list(dir, &list), 0);
    assert_int_equal(rt_store_chain(&list, 0, chain, &n), RT_EDATA); /* j: f is gone */
    assert_int_equal(rt_store_chain(&list, 3, chain, &n), RT_EDATA); /* g: no manifest */
    rt_store_list_release(&list);
}

static void the_newest_whole_one_is_chosen(void **state)
{
    struct rt_job other = *job;
    char *name = NULL;

    (void)state;
    chooses("latest", NULL, RT_EUSAGE, "there is no checkpoint");
    chooses("a", NULL, RT_EUSAGE, "there is no checkpoint 'a'");
    write_one("a", 1, 0, NULL);
    write_one("b", 2, 1, "a");
    write_one("c", 3, 2, "b");
    write_one("d", 4, 0, NULL);
    chooses("latest", "d", 0, "");
    chooses("b", "b", 0, "");
    other.config_hash++;
    assert_int_equal(rt_store_choose(dir, "c", &other, &name), RT_EUSAGE);
    assert_int_equal(rt_store_choose(dir, "latest", &other, &name), RT_EDATA);
    assert_non_null(strstr(rt_err_text(), "the newest: checkpoint 'd' was made with other files"));
    drop_file("d", "dense.safetensors");
    chooses("latest", "c", 0, "");
    chooses("d", NULL, RT_EDATA, "d/dense.safetensors: it is missing");
    put_file("b", "rows.00001", "shorter");
    chooses("latest", "a", 0, ""); /* c needs b */
    chooses("c", NULL, RT_EDATA, "b/rows.00001: it has 7 bytes");
    put_file("a", "manifest.json", "{}");
    chooses("latest", NULL, RT_EDATA, "no checkpoint can be used; the newest: ");
    chooses("a", NULL, RT_EDATA, "a/manifest.json: damaged manifest");
}

/* ---- going ---- */

static void what_is_needed_is_retained(void **state)
{
    /* Each letter is a checkpoint, older ones first: a capital is full, another letter goes on from the one before it. */
    static const struct {
        const char *made;
        uint32_t keep;
        const char *left; /* the newest first */
    } row[] = {
        {"A", 1, "A"},          {"AB", 1, "B"},
        {"AB", 2, "B A"},       {"AB", 9, "B A"},
        {"AbCd", 1, "d C"},     {"AbcDeF", 1, "F"},
        {"AbcDeF", 2, "F e D"}, {"AbcDeF", 3, "F e D c b A"},
        {"Abc", 1, "c b A"},    {"ABcd", 1, "d c B"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        size_t n = strlen(row[i].made);
        uint64_t left = (strlen(row[i].left) + 1) / 2;

        for (size_t k = 0; k < n; k++) {
            char name[2] = {row[i].made[k], 0}, base[2] = {k ? row[i].made[k - 1] : 0, 0};

            write_one(name, k + 1, name[0] >= 'a' ? k : 0, name[0] >= 'a' ? base : NULL);
        }
        int removed = rt_store_retain(dir, row[i].keep);
        if (removed != (int)(n - left) || strcmp(listed(), row[i].left) != 0)
            fail_msg("%s, keep %u: %d removed, left '%s'", row[i].made, row[i].keep, removed,
                     listed());
        for (const char *p = row[i].made; *p; p++)
            assert_int_equal(rt_store_remove(dir, (char[]){*p, 0}), 0);
    }
    assert_string_equal(listed(), "");
}

/* Begun by one name and published by another; a name that is taken is left alone. */
static void one_is_renamed_before_it_is_there(void **state)
{
    struct checkpoint_spec spec = small("step-7", 1, 0, NULL);

    (void)state;
    spec.begun_as = "step-5";
    assert_int_equal(checkpoint_bed_write(dir, &spec), 0);
    assert_string_equal(listed(), "step-7");
    assert_int_equal(verify("step-7"), 0);
    assert_false(is_there("step-5", "."));
    make_folder("step-9");
    assert_int_equal(rt_store_rename(dir, "step-9", "step-7"), RT_EUSAGE);
    assert_true(is_there("step-9", "."));
    assert_int_equal(rt_store_rename(dir, "step-9", "../step-9"), RT_EUSAGE);
    assert_int_equal(rt_store_rename(dir, "nobody", "step-11"), RT_EFILE);
}

/* They are none of the `keep`, and what goes on from one is not kept for its sake. */
static void what_has_a_name_stays(void **state)
{
    (void)state;
    write_of("release", 1, true, 0, false);
    write_one("a", 2, 1, "release");
    write_of("b", 3, false, 0, false);
    write_of("before-the-change", 4, true, 0, false);
    write_of("c", 5, false, 0, false);
    write_one("d", 6, 5, "c");
    assert_int_equal(rt_store_retain(dir, 2), 1);
    assert_string_equal(listed(), "d c before-the-change b release");
    assert_int_equal(rt_store_retain(dir, 1), 1);
    assert_string_equal(listed(), "d c before-the-change release");
    assert_int_equal(rt_store_retain(dir, 1), 0);
}

/* A job that was begun anew beside them does not go on from an older job's, whatever becomes of its own. */
static void other_runs_are_passed_over(void **state)
{
    struct rt_store_list list;

    (void)state;
    assert_int_equal(rt_store_begun_anew(dir), 0);
    write_of("x", 1, false, 0, false); /* of a program that knew no runs */
    write_of("a", 2, false, 7, false);
    assert_int_equal(rt_store_begun_anew(dir), 0);
    drop_file("a", "dense.safetensors");
    chooses("latest", "x", 0, "");
    write_of("b", 3, false, 8, true);
    assert_int_equal(rt_store_begun_anew(dir), 1);
    chooses("latest", "b", 0, "");
    write_of("c", 4, false, 8, true);
    drop_file("c", "dense.safetensors");
    chooses("latest", "b", 0, "");
    write_of("d", 5, false, 9, false);
    drop_file("d", "dense.safetensors");
    drop_file("x", "dense.safetensors");
    chooses("latest", NULL, RT_EDATA, "the newest: ");
    chooses("b", "b", 0, ""); /* whoever names it wants it */
    assert_int_equal(rt_store_list(dir, &list), 0);
    assert_true(rt_store_same_run(&list, 0));
    assert_false(rt_store_same_run(&list, 1));
    assert_true(rt_store_same_run(&list, list.n - 1));
    rt_store_list_release(&list);
    assert_int_equal(rt_store_begun_anew(dir), 0);
    assert_int_equal(rt_store_begun_anew("/no/such/folder"), RT_EFILE);
}

static void attempts_that_never_came_to_be_are_swept(void **state)
{
    char *outside = rt_path_join(dir, "link");

    (void)state;
    write_one("a", 1, 0, NULL);
    write_one("gone", 2, 0, NULL);
    drop_file("gone", "manifest.json");
    make_folder("now");
    put_file("now", "rows.00000.partial", "x");
    make_folder("mine");
    put_file("mine", "thesis.tex", "x");
    assert_int_equal(symlink("gone", outside), 0);
    assert_int_equal(rt_store_sweep(dir, "now"), 1);
    assert_false(is_there("gone", "."));
    assert_true(is_there("now", "rows.00000.partial"));
    assert_true(is_there("mine", "thesis.tex"));
    assert_int_equal(verify("a"), 0);
    assert_int_equal(rt_store_sweep(dir, NULL), 1);
    assert_false(is_there("now", "."));
    assert_int_equal(rt_store_sweep(dir, NULL), 0);
    rt_free(outside);
}

/* Nobody goes on from it then, and it stays; by whom it was found first makes no difference. */
static void one_that_is_damaged_is_set_aside(void **state)
{
    (void)state;
    write_one("a", 1, 0, NULL);
    write_one("b", 2, 0, NULL);
    assert_int_equal(rt_store_set_aside(dir, "../a"), RT_EUSAGE);
    assert_int_equal(rt_store_set_aside(dir, "b"), 0);
    assert_int_equal(rt_store_set_aside(dir, "b"), 0);
    assert_string_equal(listed(), "a");
    write_one("b", 3, 0, NULL);
    assert_int_equal(rt_store_set_aside(dir, "b"), 0);
    assert_true(is_there("b.damaged", "manifest.json"));
    assert_true(is_there("b.damaged.2", "rows.00000"));
    assert_int_equal(rt_store_sweep(dir, NULL), 0);
    assert_string_equal(listed(), "a");
}

static void the_generation_is_kept(void **state)
{
    struct rt_generation in = {7, 3, UINT64_MAX}, out = {1, 1, 1};
    (void)state;
    rt_generation_read(dir, &out);
    assert_true(out.number == 0 && out.went_back == 0 && out.steps_again == 0);
    assert_int_equal(rt_generation_write(dir, &in), 0);
    rt_generation_read(dir, &out);
    assert_true(out.number == 7 && out.went_back == 3 && out.steps_again == UINT64_MAX);
    assert_string_equal(listed(), "");
    put_file(".", ".generation", "generation x");
    rt_generation_read(dir, &out);
    assert_true(out.number == 0 && out.went_back == 0 && out.steps_again == 0);
}

static void a_job_can_go_back(void **state)
{
    (void)state;
    write_one("a", 1, 0, NULL);
    write_one("b", 2, 1, "a");
    write_one("c", 3, 0, NULL);
    assert_int_equal(rt_store_roll_back(dir, "x"), RT_EUSAGE);
    assert_int_equal(rt_store_roll_back(dir, "c"), 0);
    assert_int_equal(rt_store_roll_back(dir, "b"), 1);
    assert_string_equal(listed(), "b a");
    assert_true(is_there("c.abandoned", "manifest.json"));
    write_one("c", 4, 2, "b");
    assert_int_equal(rt_store_roll_back(dir, "a"), 2);
    assert_true(is_there("c.abandoned.2", "manifest.json"));
    assert_true(is_there("b.abandoned", "manifest.json"));
    assert_string_equal(listed(), "a");
    assert_int_equal(rt_store_sweep(dir, NULL), 0); /* nobody sweeps them */
    assert_true(is_there("b.abandoned", "rows.00000"));
    write_one("e", 6, 0, NULL);
    put_file("e", "manifest.json", "{}"); /* it may be newer, nobody can tell */
    assert_string_equal(listed(), "a e!");
    assert_int_equal(rt_store_roll_back(dir, "a"), 1);
    assert_string_equal(listed(), "a");
    assert_true(is_there("e.abandoned", "rows.00000"));
    put_file("a", "manifest.json", "{}");
    assert_int_equal(rt_store_roll_back(dir, "a"), RT_EUSAGE);
    assert_non_null(strstr(rt_err_text(), "damaged manifest"));
}

static void files_are_found_in_their_folder_only(void **state)
{
    char *path = NULL, *link = inside("a", "link");

    (void)state;
    write_one("a", 1, 0, NULL);
    assert_int_equal(rt_store_path(dir, "a", "rows.00001", &path), 0);
    assert_true(rt_file_exists(path));
    rt_free(path);
    assert_int_equal(rt_store_path(dir, "a", "rows.00002", &path), RT_EFILE);
    assert_int_equal(rt_store_path(dir, "b", "rows.00000", &path), RT_EFILE);
    assert_int_equal(rt_store_path(dir, "a", "../a/rows.00000", &path), RT_EUSAGE);
    assert_int_equal(rt_store_path(dir, "..", "rows.00000", &path), RT_EUSAGE);
    assert_int_equal(rt_store_path(dir, "a", "..", &path), RT_EUSAGE);
    assert_int_equal(rt_store_path(dir, "a", "", &path), RT_EUSAGE);
    assert_int_equal(symlink("rows.00000", link), 0);
    assert_int_equal(rt_store_path(dir, "a", "link", &path), RT_EDATA);
    rt_free(link);
}

/* ---- what may fail ---- */

enum task { WRITE_FULL, WRITE_INCREMENT, RETAIN, REMOVE, SWEEP, ROLL_BACK, TASKS };

/* There: a (1), b (2) on a, and "left", which never came to be. */
static int run_task(enum task task)
{
    switch (task) {
    case WRITE_FULL:
        return try_write("c", 3, 0, NULL);
    case WRITE_INCREMENT:
        return try_write("c", 3, 2, "b");
    case RETAIN:
        return rt_store_retain(dir, 1);
    case REMOVE:
        return rt_store_remove(dir, "b");
    case SWEEP:
        return rt_store_sweep(dir, NULL);
    case ROLL_BACK:
        return rt_store_roll_back(dir, "a");
    default:
        fail();
        return 0;
    }
}

static void prepare(enum task task)
{
    write_one("a", 1, 0, NULL);
    write_one("b", 2, task == RETAIN ? 0 : 1, task == RETAIN ? NULL : "a");
    make_folder("left");
    put_file("left", "rows.00000", "x");
    put_file("left", "dense.safetensors.tmp.1.1", "x");
}

/* Whatever was done of it: all that is listed is whole, and the task can be done again. */
static void check_after(enum task task, int nth, int err, bool can_be_repeated)
{
    static const char *const done[] = {"c b a", "c b a", "b", "a", "b a", "a"};
    struct rt_store_list list;

    assert_int_equal(rt_store_list(dir, &list), 0);
    for (size_t i = 0; i < list.n; i++)
        if (!list.at[i].manifest || rt_store_verify(dir, list.at[i].manifest, job, NULL, NULL) != 0)
            fail_msg("task %d, call %d: %s is not whole: %s", task, nth, list.at[i].name,
                     rt_err_text());
    rt_store_list_release(&list);
    if (err >= 0 && strcmp(listed(), done[task]) != 0)
        fail_msg("task %d, call %d: done, but '%s' are there", task, nth, listed());
    if (err < 0 && can_be_repeated) {
        if (task <= WRITE_INCREMENT)
            assert_int_equal(rt_store_remove(dir, "c"), 0);
        if (run_task(task) < 0 || strcmp(listed(), done[task]) != 0)
            fail_msg("task %d, call %d: again: '%s': %s", task, nth, listed(), rt_err_text());
    }
}

static void clear(void)
{
    tear_down(NULL);
    set_up(NULL);
}

/* The n-th call that changes or opens a file fails, for every n. */
static int fail_calls(enum task task, int with, bool cut_short)
{
    int nth = 0;

    disk_errno = with;
    disk_short = cut_short;
    for (bool hit = true; hit; nth++) {
        prepare(task);
        disk_hit = false;
        disk_fault = nth;
        int err = run_task(task);
        hit = disk_hit;
        disk_fault = -1;
        check_after(task, nth, err, true);
        if (!hit)
            assert_true(err >= 0);
        clear();
    }
    disk_short = false;
    return nth - 1;
}

static void whatever_call_fails(void **state)
{
    int calls = 0;

    (void)state;
    rt_log_set_level(RT_LOG_ERROR);
    for (int task = 0; task < TASKS; task++)
        calls += fail_calls((enum task)task, EIO, false);
    calls += fail_calls(WRITE_FULL, ENOSPC, false);
    calls += fail_calls(WRITE_FULL, ENOSPC, true); /* writes are cut short, and go on */
    print_message("%d calls failed\n", calls);
    assert_true(calls > 200);
}

static void whatever_memory_is_missing(void **state)
{
    (void)state;
    for (int task = 0; task < TASKS; task++) {
        int nth = 0;

        for (bool hit = true; hit; nth++) {
            prepare((enum task)task);
            rt_fault_alloc(nth);
            int err = run_task((enum task)task);
            hit = rt_fault_hit();
            rt_fault_alloc(-1);
            check_after((enum task)task, nth, err, true);
            if (!hit)
                assert_true(err >= 0);
            clear();
        }
    }
}

/* Verifying and choosing: an error, never "good" and never another one. */
static void reading_survives_what_fails(void **state)
{
    int err = -1;

    (void)state;
    prepare(WRITE_FULL);
    for (int nth = 0;; nth++) {
        rt_fault_alloc(nth);
        err = verify("b");
        bool hit = rt_fault_hit();
        rt_fault_alloc(-1);
        if (!hit)
            break;
        assert_true(err == RT_ENOMEM || err == RT_EFILE);
    }
    assert_int_equal(err, 0);
    for (int nth = 0;; nth++) {
        char *name = NULL;

        disk_hit = false;
        disk_fault = nth;
        err = verify("b");
        bool hit = disk_hit;
        disk_fault = -1;
        if (!hit)
            break;
        assert_int_equal(err, RT_EFILE);
        rt_fault_alloc(nth);
        err = rt_store_choose(dir, "b", job, &name);
        rt_fault_alloc(-1);
        assert_true(err ? err == RT_ENOMEM || err == RT_EFILE : strcmp(name, "b") == 0);
        rt_free(name);
    }
    assert_int_equal(err, 0);
}

struct progress {
    uint64_t last;
    int calls;
};

static void read_so_far(void *ctx, uint64_t bytes)
{
    struct progress *progress = ctx;

    assert_true(bytes >= progress->last);
    progress->last = bytes;
    progress->calls++;
}

static void verifying_tells_how_far_it_is(void **state)
{
    struct progress progress = {0};
    struct rt_manifest *m;
    uint64_t sum = 0;

    (void)state;
    write_one("a", 1, 0, NULL);
    assert_int_equal(rt_manifest_read(dir, "a", &m), 0);
    for (uint32_t i = 0; i < m->n_files; i++)
        sum += m->file[i].bytes;
    assert_int_equal(rt_store_verify(dir, m, NULL, read_so_far, &progress), 0);
    assert_int_equal(progress.last, sum);
    assert_true(progress.calls >= (int)m->n_files);
    progress = (struct progress){0};
    assert_int_equal(rt_store_verify_file(dir, m, 1, job, read_so_far, &progress), 0);
    assert_int_equal(progress.last, m->file[1].bytes);
    rt_manifest_destroy(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(names_are_tokens, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_an_attempt_left_is_written_over, set_up, tear_down),
        cmocka_unit_test_setup_teardown(nothing_is_published_that_is_not_there, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_newest_is_first, set_up, tear_down),
        cmocka_unit_test_setup_teardown(increments_need_those_before, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_newest_whole_one_is_chosen, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_needed_is_retained, set_up, tear_down),
        cmocka_unit_test_setup_teardown(one_is_renamed_before_it_is_there, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_has_a_name_stays, set_up, tear_down),
        cmocka_unit_test_setup_teardown(other_runs_are_passed_over, set_up, tear_down),
        cmocka_unit_test_setup_teardown(one_that_is_damaged_is_set_aside, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_generation_is_kept, set_up, tear_down),
        cmocka_unit_test_setup_teardown(attempts_that_never_came_to_be_are_swept, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_job_can_go_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(files_are_found_in_their_folder_only, set_up, tear_down),
        cmocka_unit_test_setup_teardown(whatever_call_fails, set_up, tear_down),
        cmocka_unit_test_setup_teardown(whatever_memory_is_missing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(reading_survives_what_fails, set_up, tear_down),
        cmocka_unit_test_setup_teardown(verifying_tells_how_far_it_is, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
