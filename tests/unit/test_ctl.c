/* tests/unit/test_ctl.c -- the parts of `saffron local` that need no job: processes, run directories,
 * figures, the summary. */
#include "ctl/backoff.h"
#include "ctl/child.h"
#include "ctl/options.h"
#include "ctl/progress.h"
#include "ctl/rundir.h"
#include "ctl/summary.h"
#include "ctl/view.h"
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "runtime/process/address.h"
#include "tests/lib/temp.h"

#include <ftw.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

static char folder[TEMP_PATH_MAX];

static int make_folder(void **state)
{
    (void)state;
    temp_folder(folder);
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st, (void)type, (void)at;
    return remove(path);
}

static int remove_folder(void **state)
{
    (void)state;
    return nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static char *in_folder(const char *name)
{
    return rt_path_join(folder, name);
}

static void write_text(const char *path, const char *text)
{
    assert_int_equal(rt_file_write(path, text, strlen(text)), 0);
}

/* sh -c SCRIPT as a child, waited for. */
static void run_script(struct ctl_child *child, const char *script)
{
    const struct timespec pause = {.tv_nsec = 2000000};
    uint64_t deadline = rt_now_ns() + 10 * RT_S;

    snprintf(child->name, sizeof(child->name), "trainer/0");
    child->log_path = in_folder("log");
    child->pid_path = in_folder("pid");
    ctl_child_arg(child, "sh");
    ctl_child_arg(child, "-c");
    ctl_child_arg(child, script);
    assert_int_equal(ctl_child_start(child), 0);
    while (!ctl_child_reap(child)) {
        assert_true(rt_now_ns() < deadline);
        nanosleep(&pause, NULL);
    }
}

static void child_ends_are_named(void **state)
{
    static const struct {
        const char *script, *how, *last;
    } row[] = {
        {"exit 0", "exited with status 0", ""},
        {"echo one; echo two; exit 3", "exited with status 3", "two"},
        {"echo '2026-01-31T12:00:00.123Z ERROR trainer/0 backend failed code=3' >&2; echo more; "
         "exit 1",
         "exited with status 1", "backend failed code=3"},
        {"kill -9 $$", "was killed by signal 9 (Killed)", ""},
        {"kill -TERM 0", "was killed by signal 15 (Terminated)", ""}, /* its own group, not ours */
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct ctl_child child = {0};
        char how[80], last[200];

        run_script(&child, row[i].script);
        ctl_child_how(&child, how, sizeof(how));
        ctl_log_last_error(child.log_path, child.log_from, last, sizeof(last));
        if (strcmp(how, row[i].how) != 0 || strcmp(last, row[i].last) != 0)
            fail_msg("'%s': got '%s' and '%s'", row[i].script, how, last);
        assert_int_equal(unlink(child.log_path), 0);
        ctl_child_release(&child);
    }
}

static void child_that_cannot_start(void **state)
{
    struct ctl_child child = {0};
    const struct timespec pause = {.tv_nsec = 2000000};
    char last[100], how[80];

    (void)state;
    child.log_path = in_folder("log-none");
    child.pid_path = in_folder("pid-none");
    ctl_child_arg(&child, "/nonexistent/saffron-trainer");
    assert_int_equal(ctl_child_start(&child), 0);
    while (!ctl_child_reap(&child))
        nanosleep(&pause, NULL);
    ctl_child_how(&child, how, sizeof(how));
    assert_string_equal(how, "exited with status 127");
    ctl_log_last_error(child.log_path, child.log_from, last, sizeof(last));
    assert_string_equal(last, "ERROR cannot be started: exec failed");
    ctl_child_release(&child);
}

/* Its second life complains of nothing: what it said in the first is not told as its last words. */
static void last_error_of_this_start(void **state)
{
    struct ctl_child child = {0};
    const struct timespec pause = {.tv_nsec = 2000000};
    char last[200];

    (void)state;
    run_script(&child, "echo 't ERROR trainer/0 first life'");
    assert_true(ctl_log_last_error(child.log_path, child.log_from, last, sizeof(last)));
    rt_free(child.argv[2]);
    child.argv[2] = rt_xstrdup("echo well");
    assert_int_equal(ctl_child_start(&child), 0);
    while (!ctl_child_reap(&child))
        nanosleep(&pause, NULL);
    assert_false(ctl_log_last_error(child.log_path, child.log_from, last, sizeof(last)));
    assert_string_equal(last, "well");
    assert_true(ctl_log_last_error(child.log_path, 0, last, sizeof(last)));
    assert_string_equal(last, "first life");
    assert_int_equal(unlink(child.log_path), 0);
    ctl_child_release(&child);
}

static void child_usage_is_counted(void **state)
{
    struct ctl_child child = {0};

    (void)state;
    run_script(&child, "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done");
    assert_true(child.cpu_s > 0.001);
    assert_true(child.peak_rss_bytes > 100000);
    ctl_child_release(&child);
}

static void last_error_of_logs(void **state)
{
    static const struct {
        const char *name, *log, *want;
    } row[] = {
        {"empty", "", ""},
        {"no newline", "saffron-trainer: global.yml:7: no", "global.yml:7: no"},
        {"last words", "t ERROR r/0 a\nsaffron-trainer: b: c\nt INFO r/0 state now=failed\n",
         "b: c"},
        {"the last of two", "t ERROR r/0 first\nt ERROR r/0 second\nt INFO r/0 bye\n", "second"},
        {"control characters", "t ERROR r/0 a\033[31mb\n", "a\\x1b[31mb"},
        {"a stamp without text", "t ERROR r/0\n", "t ERROR r/0"},
    };
    char *path = in_folder("some.log"), got[100];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        write_text(path, row[i].log);
        ctl_log_last_error(path, 0, got, sizeof(got));
        if (strcmp(got, row[i].want) != 0)
            fail_msg("%s: got '%s'", row[i].name, got);
    }
    ctl_log_last_error("/nonexistent/log", 0, got, sizeof(got));
    assert_string_equal(got, "");
    rt_free(path);
}

static void run_folder_is_taken_once(void **state)
{
    struct ctl_run run = {.job = "adult",
                          .nats = "nats://127.0.0.1:4222",
                          .pid = 77,
                          .replicas = {1, 2, 3, 4}},
                   back = {0};
    char *wanted = in_folder("a/b"), *dir = NULL, *again = NULL, *file;
    int lock, other;

    (void)state;
    assert_int_equal(ctl_rundir_read(wanted, &back), RT_EUSAGE);
    assert_int_equal(ctl_rundir_create(wanted, "adult", false, &dir, &lock), 0);
    assert_string_equal(dir, wanted);
    assert_int_equal(ctl_rundir_create(wanted, "adult", false, &again, &other), RT_EUSAGE);
    assert_non_null(strstr(rt_err_text(), "holds another run"));
    assert_null(again);
    assert_int_equal(ctl_rundir_write(dir, &run), 0);
    assert_int_equal(ctl_rundir_read(dir, &back), 0);
    assert_string_equal(back.job, "adult");
    assert_string_equal(back.nats, run.nats);
    assert_int_equal(back.pid, 77);
    assert_memory_equal(back.replicas, run.replicas, sizeof(run.replicas));
    file = rt_path_join(dir, "local.json");
    write_text(file, "{\"job\": 3}");
    assert_int_equal(ctl_rundir_read(dir, &back), RT_EDATA);
    close(lock);
    rt_free(file);
    rt_free(dir);
    rt_free(wanted);
}

static bool is_there(const char *dir, const char *name)
{
    char *path = rt_path_join(dir, name);
    bool there = rt_file_exists(path);

    rt_free(path);
    return there;
}

static void run_folder_is_taken_again(void **state)
{
    char *wanted = in_folder("again"), *dir = NULL, *model, *summary;
    int lock, other;

    (void)state;
    model = rt_path_join(wanted, "model/dense.safetensors");
    summary = rt_path_join(wanted, "summary.json");
    assert_int_equal(ctl_rundir_create(wanted, "adult", true, &dir, &lock), 0); /* nothing there */
    rt_free(dir);
    for (int i = 0; i < 2; i++) {
        char *aside = rt_xasprintf("model.%d/dense.safetensors", i + 1);

        dir = NULL;
        write_text(model, "a model");
        write_text(summary, "{}");
        assert_int_equal(ctl_rundir_create(wanted, "adult", true, &dir, &other), RT_EUSAGE);
        assert_non_null(strstr(rt_err_text(), "a run goes on in it"));
        assert_true(!dir && rt_file_exists(model) && rt_file_exists(summary));
        close(lock);
        assert_int_equal(ctl_rundir_create(wanted, "adult", false, &dir, &lock), RT_EUSAGE);
        assert_int_equal(ctl_rundir_create(wanted, "adult", true, &dir, &lock), 0);
        assert_true(!rt_file_exists(model) && !rt_file_exists(summary));
        assert_true(is_there(wanted, aside) && is_there(wanted, "model"));
        rt_free(aside);
        rt_free(dir);
    }
    close(lock);
    rt_free(summary);
    rt_free(model);
    rt_free(wanted);
}

/* Ends, each `life_s` after its start: milliseconds until the next one. */
static void pauses_between_starts(void **state)
{
    static const struct {
        const char *name;
        double life_s;
        int want[CTL_BACKOFF_MAX + 2];
    } row[] = {
        {"at once", 0, {100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000, 5000, -1, -1}},
        {"after 2 s", 2, {100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000, 5000, -1, -1}},
        {"five a minute", 10, {100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000, 5000, 5000, 5000}},
        {"all was well", 31, {100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 100}},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct ctl_backoff backoff = {0};
        uint64_t now = 5 * RT_S;

        for (size_t k = 0; k < ARRAY_LEN(row[i].want); k++) {
            uint64_t started = now;
            int got;

            now += (uint64_t)(row[i].life_s * (double)RT_S);
            got = ctl_backoff_ended(&backoff, started, now);
            if (got != row[i].want[k])
                fail_msg("%s, end %zu: got %d, want %d", row[i].name, k + 1, got, row[i].want[k]);
            now += (uint64_t)(got > 0 ? got : 0) * RT_MS;
        }
    }
}

/* Who asks to be started again has no fault: it is never the last time. */
static void pauses_of_who_asks(void **state)
{
    static const struct {
        const char *name;
        double life_s;
        uint32_t want[8];
    } row[] = {
        {"at once", 0, {100, 200, 400, 800, 1600, 3200, 5000, 5000}},
        {"it had worked", 2, {100, 100, 100, 100, 100, 100, 100, 100}},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct ctl_backoff backoff = {0};

        for (size_t k = 0; k < 100; k++) {
            uint64_t started = (k + 1) * RT_S;
            uint32_t got = ctl_backoff_asked(&backoff, started,
                                             started + (uint64_t)(row[i].life_s * (double)RT_S));
            uint32_t want = row[i].want[k < 8 ? k : 7];

            if (got != want)
                fail_msg("%s, end %zu: got %u, want %u", row[i].name, k + 1, got, want);
        }
    }
}

static void thousands(void **state)
{
    static const struct {
        double value;
        const char *want;
    } row[] = {
        {0, "0"},        {999, "999"},        {999.5, "1,000"},
        {1000, "1,000"}, {123456, "123,456"}, {1e9, "1,000,000,000"},
        {-1, "-"},       {(double)NAN, "-"},  {(double)INFINITY, "-"},
    };
    char got[32];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        if (strcmp(ctl_thousands(row[i].value, got, sizeof(got)), row[i].want) != 0)
            fail_msg("%f: got %s, want %s", row[i].value, got, row[i].want);
    }
}

static void numbers(void **state)
{
    static const struct {
        const char *text;
        bool ok;
        uint64_t want;
    } row[] = {
        {"1", true, 1},   {"64", true, 64}, {"0", false, 0},
        {"65", false, 0}, {"", false, 0},   {"-1", false, 0},
        {" 2", false, 0}, {"2x", false, 0}, {"18446744073709551616", false, 0},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        uint64_t got = 0;

        if (ctl_parse_u64(row[i].text, 1, 64, &got) != row[i].ok || got != row[i].want)
            fail_msg("'%s': got %llu", row[i].text, (unsigned long long)got);
    }
}

static void nats_urls(void **state)
{
    static const struct {
        const char *url;
        bool ok;
    } row[] = {
        {"nats://127.0.0.1:4222", true},
        {"127.0.0.1:4222", true},
        {"nats", true},
        {"nats://nats", true},
        {"tls://a.b.c:1", true},
        {"nats://user:secret@host:4222", true},
        {"nats://[::1]:4222", true},
        {"nats://[::1]", true},
        {"nats://a:1,nats://b:2", true},
        {"", false},
        {"nats://", false},
        {"http://a:1", false},
        {"nats://a:0", false},
        {"nats://a:65536", false},
        {"nats://a:", false},
        {"nats://a:1x", false},
        {"nats://:4222", false},
        {"nats://a:1,", false},
        {"nats://user@", false},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        int err = rt_address_check_nats(row[i].url);

        if ((err == 0) != row[i].ok || (err && err != RT_EUSAGE))
            fail_msg("'%s': got %d", row[i].url, err);
    }
}

static json_t *statuses(const char *text)
{
    json_t *list = json_loads(text, 0, NULL);

    assert_non_null(list);
    return list;
}

static struct ctl_snapshot a_snapshot(void)
{
    struct ctl_snapshot snapshot = {0};

    snapshot.role[RT_ROLE_TRAINER] = statuses(
        "[{\"state\": \"done\", \"done\": true, \"epoch\": 1, \"epochs\": 2, \"step\": 40,"
        " \"samples_trained\": 1000, \"samples_read\": 1003, \"samples_quarantined\": 3,"
        " \"samples_dropped\": 0, \"train_seconds\": 0.5, \"train_loss\": 0.25, \"test_auc\": 0.75,"
        " \"test_logloss\": 0.5, \"test_samples\": 200, \"staleness_max\": 4,"
        " \"purpose_cpu_seconds\": {\"other\": 9, \"train\": 0.004, \"evaluate\": 7},"
        " \"hop_bytes\": {\"other\": {}, \"train\": {\"middleware\": 2000}}}]");
    snapshot.role[RT_ROLE_EMBEDDING_SERVER] =
        statuses("[{\"rows_total\": 10, \"rows_refused\": 3, \"bytes_per_row\": 100,"
                 " \"purpose_cpu_seconds\": {\"train\": 0.002},"
                 " \"hop_bytes\": {\"train\": {\"middleware\": 300}, \"evaluate\": "
                 "{\"middleware\": 800}}}, null,"
                 " {\"rows_total\": 30, \"bytes_per_row\": 200, \"waiting\": \"middleware\","
                 " \"purpose_cpu_seconds\": {\"train\": 0.003},"
                 " \"hop_bytes\": {\"train\": {\"middleware\": 200}}}]");
    return snapshot;
}

static void view_adds_up(void **state)
{
    struct ctl_snapshot snapshot = a_snapshot();
    struct ctl_view view;
    char waiting[100];

    (void)state;
    ctl_view_read(&snapshot, &view);
    assert_true(view.done);
    assert_true(view.rows_total == 40 && view.rows_refused == 3 && view.bytes_per_row == 175);
    assert_true(view.samples_trained == 1000 && isnan(view.test_auc_best) && isnan(view.loss));
    ctl_view_waiting(&snapshot, waiting, sizeof(waiting));
    assert_string_equal(waiting, "embedding_server/2 waits for middleware");
    ctl_snapshot_release(&snapshot);
    ctl_view_read(&snapshot, &view); /* nobody has answered yet */
    assert_true(!view.done && isnan(view.samples_trained) && isnan(view.rows_total));
}

/* Two ranks, one of which has just begun to answer. */
static struct ctl_snapshot two_ranks(const char *digest0, const char *digest1)
{
    struct ctl_snapshot snapshot = {0};
    json_t *trainers = statuses(
        "[{\"done\": true, \"step\": 40, \"samples_trained\": 1000, \"samples_dropped\": 0,"
        " \"samples_read\": 1603, \"samples_quarantined\": 3, \"samples_per_epoch\": 500,"
        " \"train_seconds\": 9, \"train_seconds_restored\": 6, \"train_began\": 100, "
        "\"train_ended\": 104,"
        " \"evaluated_seconds\": 1, \"train_loss\": 0.25, \"train_loss_samples\": 500,"
        " \"test_auc\": 0.75, \"staleness_max\": 2, \"batches_retried\": 1, \"loss_spikes\": 1,"
        " \"evaluations\": [{\"step\": 40, \"auc\": 0.75}]},"
        " {\"done\": true, \"step\": 40, \"samples_trained\": 600, \"samples_dropped\": 0,"
        " \"samples_read\": 1603, \"samples_quarantined\": 3, \"samples_per_epoch\": 300,"
        " \"train_seconds\": 9, \"train_began\": 101, \"train_ended\": 105,"
        " \"evaluated_seconds\": 7, \"train_loss\": 0.75, \"train_loss_samples\": 300,"
        " \"staleness_max\": 4, \"batches_retried\": 2, \"loss_spikes\": 2}]");

    json_object_set_new(json_array_get(trainers, 0), "dense_digest", json_string(digest0));
    json_object_set_new(json_array_get(trainers, 1), "dense_digest", json_string(digest1));
    snapshot.role[RT_ROLE_TRAINER] = trainers;
    return snapshot;
}

static void ranks_are_merged(void **state)
{
    struct ctl_snapshot snapshot = two_ranks("aa", "aa");
    struct ctl_view view;
    json_t *first = json_array_get(snapshot.role[RT_ROLE_TRAINER], 0);

    (void)state;
    ctl_view_read(&snapshot, &view);
    assert_true(view.begun && view.done && view.ranks == 2 && view.ranks_done == 2);
    assert_false(ctl_view_digests_differ(&view));
    assert_true(view.samples_trained == 1600 && view.samples_read == 1603);
    assert_true(view.samples_per_epoch == 800 && view.step == 40 && view.batches_retried == 3);
    assert_true(view.loss_spikes == 3);
    assert_true(view.train_seconds == 4 && view.samples_per_second == 400);
    assert_true(view.train_seconds_total == 15);
    assert_true(view.staleness_max == 4 && view.test_auc == 0.75);
    assert_true(fabs(view.train_loss - (0.25 * 500 + 0.75 * 300) / 800) < 1e-12);
    assert_int_equal(json_array_size(view.evaluations), 1);

    /* Training was stopped in the midst of an epoch (max_steps): the ledger is not the whole. */
    json_object_set_new(first, "samples_read", json_null());
    ctl_view_read(&snapshot, &view);
    assert_true(view.done && view.samples_read == 1603);
    json_object_set_new(first, "done", json_false());
    json_object_set_new(first, "samples_read", json_integer(1003));
    ctl_view_read(&snapshot, &view);
    assert_true(!view.done && view.ranks_done == 1 && view.samples_read == 1603);
    ctl_snapshot_release(&snapshot);

    snapshot = two_ranks("aa", "bb");
    ctl_view_read(&snapshot, &view);
    assert_true(ctl_view_digests_differ(&view));
    assert_string_equal(view.digest[0], "aa");
    assert_string_equal(view.digest[1], "bb");
    assert_true(view.digest_rank[0] == 0 && view.digest_rank[1] == 1);
    ctl_snapshot_release(&snapshot);
}

static void silence_keeps_what_was_said(void **state)
{
    struct ctl_snapshot older = two_ranks("aa", "aa"), newer = {.silent = 1}, away = {.silent = 2};
    struct ctl_view view;

    (void)state;
    newer.role[RT_ROLE_TRAINER] = statuses("[null, {\"samples_trained\": 700}]");
    older.role[RT_ROLE_EMBEDDING_SERVER] = statuses("[{\"rows_total\": 7}]");
    ctl_snapshot_keep(&newer, &older);
    ctl_view_read(&newer, &view);
    assert_true(view.samples_trained == 1700 && view.rows_total == 7);
    ctl_snapshot_keep(&away, &newer);
    ctl_view_read(&away, &view);
    assert_true(view.samples_trained == 1700 && view.rows_total == 7 && away.silent == 2);
    ctl_snapshot_forget(&away, RT_ROLE_TRAINER, 0);
    ctl_snapshot_forget(&away, RT_ROLE_TRAINER, 0); /* silent already */
    ctl_snapshot_forget(&away, RT_ROLE_DATA_COMPOSE, 3);
    ctl_view_read(&away, &view);
    assert_true(view.samples_trained == 700 && view.ranks_done == 0 && away.silent == 3);
    ctl_snapshot_release(&away);
}

static json_t *summary_of(const struct ctl_snapshot *snapshot, const char *error)
{
    struct rt_job job = {.name = "adult", .model_name = "dlrm"};
    struct ctl_summary summary = {.job = &job, .final = snapshot, .error = error};
    struct ctl_restorable checkpoint = {.name = "step-7", .step = 7, .age = 9};
    char *path = in_folder("summary.json");
    json_t *root;

    job.global.mode = RT_MODE_HYBRID;
    job.global.seed = 9;
    job.data.name = "census";
    job.data.epochs = 2;
    summary.cpu_seconds[RT_ROLE_TRAINER] = 1.5;
    summary.peak_rss_bytes[RT_ROLE_TRAINER] = 4096;
    summary.restarts[RT_ROLE_TRAINER] = 3;
    summary.checkpoint = error ? NULL : &checkpoint;
    assert_int_equal(ctl_summary_write(&summary, folder), 0);
    root = json_load_file(path, 0, NULL);
    assert_non_null(root);
    rt_free(path);
    return root;
}

static double number_in(const json_t *summary, const char *object, const char *key)
{
    return ctl_view_number(json_object_get(summary, object), key);
}

static void summary_has_every_field(void **state)
{
    static const char *const field[] = {
        "job",
        "mode",
        "model",
        "dataset",
        "seed",
        "epochs",
        "steps",
        "samples_read",
        "samples_trained",
        "samples_quarantined",
        "samples_dropped",
        "train_seconds",
        "train_seconds_total",
        "samples_per_second",
        "train_loss",
        "test_auc",
        "test_logloss",
        "test_samples",
        "test_auc_best_possible",
        "staleness_max",
        "rows_total",
        "rows_refused",
        "bytes_per_row",
        "bytes_per_sample",
        "cpu_seconds",
        "cpu_us_per_sample",
        "peak_rss_bytes",
        "checkpoint",
        "restarts",
        "loss_spikes",
    };
    struct ctl_snapshot snapshot = a_snapshot();
    json_t *good = summary_of(&snapshot, NULL), *bad;
    double rate = json_number_value(json_object_get(good, "samples_per_second"));
    const json_t *hop = json_object_get(good, "bytes_per_sample");
    const json_t *cpu = json_object_get(good, "cpu_us_per_sample");

    (void)state;
    assert_int_equal(json_object_size(hop), 2);
    assert_true(fabs(json_number_value(json_object_get(cpu, "trainer")) - 4) < 1e-9);
    assert_true(fabs(json_number_value(json_object_get(cpu, "embedding_server")) - 5) < 1e-9);
    assert_true(json_is_null(json_object_get(cpu, "middleware"))); /* none has told */
    assert_true(rate == 2000);
    assert_true(json_number_value(json_object_get(hop, "trainer_to_middleware")) == 2);
    assert_true(json_number_value(json_object_get(hop, "embedding_server_to_middleware")) == 0.5);
    assert_null(json_object_get(good, "error"));
    assert_true(number_in(good, "restarts", "trainer") == 3);
    assert_true(number_in(good, "restarts", "middleware") == 0);
    assert_true(number_in(good, "checkpoint", "step") == 7);
    assert_true(number_in(good, "checkpoint", "age") == 9);
    ctl_snapshot_release(&snapshot);
    bad = summary_of(&snapshot, "trainer/0 was killed");
    assert_string_equal(json_string_value(json_object_get(bad, "error")), "trainer/0 was killed");
    for (size_t i = 0; i < ARRAY_LEN(field); i++) {
        if (!json_object_get(good, field[i]) || !json_object_get(bad, field[i]))
            fail_msg("no field %s", field[i]);
    }
    assert_true(json_is_null(json_object_get(bad, "test_auc")));
    assert_true(json_is_null(json_object_get(bad, "checkpoint")));
    assert_true(json_is_integer(json_object_get(bad, "samples_read"))); /* nobody: nothing, 0 */
    assert_true(json_is_null(json_object_get(bad, "samples_per_second")));
    json_decref(good);
    json_decref(bad);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(child_ends_are_named),
        cmocka_unit_test(child_that_cannot_start),
        cmocka_unit_test(last_error_of_this_start),
        cmocka_unit_test(child_usage_is_counted),
        cmocka_unit_test(last_error_of_logs),
        cmocka_unit_test(run_folder_is_taken_once),
        cmocka_unit_test(run_folder_is_taken_again),
        cmocka_unit_test(pauses_between_starts),
        cmocka_unit_test(pauses_of_who_asks),
        cmocka_unit_test(thousands),
        cmocka_unit_test(numbers),
        cmocka_unit_test(view_adds_up),
        cmocka_unit_test(ranks_are_merged),
        cmocka_unit_test(silence_keeps_what_was_said),
        cmocka_unit_test(nats_urls),
        cmocka_unit_test(summary_has_every_field),
    };

    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
