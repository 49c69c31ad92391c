/* ctl/summary.c -- one object of results.
 *
 * Counts come from the trainer's ledger, which knows each row of each epoch once. What processes used in all comes
 * from the kernel, at their end; what training took of it, and of the network, they told themselves in the last round of
 * answers: who was restarted tells only of the time since. Other tools rely on the names: a field is null where a run has no such
 * figure, and never left out. `error` is there only when the run failed. */
#include "ctl/summary.h"
#include "ctl/progress.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static json_t *real_or_null(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *count_or_null(double value)
{
    return isfinite(value) ? json_integer((json_int_t)(value + 0.5)) : json_null();
}

/* Bytes of frames sent for training, by hop, for each trained sample: as the series saffron_<role>_hop_bytes_total
 * count them, headers and beats included. What evaluations sent is left out. */
static json_t *hops(const struct ctl_snapshot *final, double samples)
{
    json_t *out = json_object();

    for (int role = 0; role < RT_ROLE_COUNT && samples > 0; role++) {
        for (int to = 0; to < RT_ROLE_COUNT; to++) {
            const char *from = rt_role_name((enum rt_role)role);
            const char *peer = rt_role_name((enum rt_role)to);
            double bytes = ctl_view_hop_bytes(final, (enum rt_role)role, (enum rt_role)to);
            char hop[80];

            snprintf(hop, sizeof(hop), "%s_to_%s", from, peer);
            if (bytes > 0)
                json_object_set_new(out, hop, json_real(bytes / samples));
        }
    }
    return out;
}

/* CPU time that training took of all processes of a role, for each trained sample. */
static json_t *cpu_of_samples(const struct ctl_snapshot *final, double samples)
{
    json_t *out = json_object();

    for (int role = 0; role < RT_ROLE_COUNT; role++)
        json_object_set_new(
            out, rt_role_name((enum rt_role)role),
            samples > 0
                ? real_or_null(1e6 * ctl_view_train_cpu(final, (enum rt_role)role) / samples)
                : json_null());
    return out;
}

/* No trainer has ever answered: then no batch has gone anywhere, and the counts are known to be 0. */
static void know_nothing_was_done(struct ctl_view *view)
{
    if (view->begun)
        return;
    view->step = view->samples_read = view->samples_trained = view->samples_now = 0;
    view->samples_quarantined = view->samples_dropped = view->batches_retried = 0;
    view->loss_spikes = 0;
    view->train_seconds = view->train_seconds_total = view->staleness_max = 0;
    if (isnan(view->rows_total))
        view->rows_total = 0;
}

/* What a trainer had counted is gone with it; the group's ledger, when the job is done, has each row once. */
static void count_for_the_dead(const struct ctl_summary *summary, struct ctl_view *view)
{
    double trained = view->samples_read - view->samples_quarantined - view->samples_dropped;

    if (summary->restarts[RT_ROLE_TRAINER] > 0 && view->done && isfinite(trained))
        view->samples_trained = trained;
}

static void read_view(const struct ctl_summary *summary, struct ctl_view *view)
{
    ctl_view_read(summary->final, view);
    count_for_the_dead(summary, view);
}

static void put_counts(json_t *out, const struct ctl_view *view)
{
    json_object_set_new(out, "steps", count_or_null(view->step));
    json_object_set_new(out, "samples_read", count_or_null(view->samples_read));
    json_object_set_new(out, "samples_trained", count_or_null(view->samples_trained));
    json_object_set_new(out, "samples_quarantined", count_or_null(view->samples_quarantined));
    json_object_set_new(out, "samples_dropped", count_or_null(view->samples_dropped));
    json_object_set_new(out, "train_seconds", real_or_null(view->train_seconds));
    json_object_set_new(out, "train_seconds_total", real_or_null(view->train_seconds_total));
    json_object_set_new(out, "samples_per_second",
                        view->train_seconds > 0
                            ? real_or_null(view->samples_now / view->train_seconds)
                            : json_null());
}

static void put_quality(json_t *out, const struct ctl_view *view)
{
    json_object_set_new(out, "train_loss", real_or_null(view->train_loss));
    json_object_set_new(out, "test_auc", real_or_null(view->test_auc));
    json_object_set_new(out, "test_logloss", real_or_null(view->test_logloss));
    json_object_set_new(out, "test_samples", count_or_null(view->test_samples));
    json_object_set_new(out, "test_auc_best_possible", real_or_null(view->test_auc_best));
    json_object_set_new(out, "staleness_max", count_or_null(view->staleness_max));
    json_object_set_new(out, "rows_total", count_or_null(view->rows_total));
    json_object_set_new(out, "rows_refused", count_or_null(view->rows_refused));
    json_object_set_new(out, "bytes_per_row", real_or_null(view->bytes_per_row));
}

static json_t *checkpoint_or_null(const struct ctl_restorable *checkpoint)
{
    if (!checkpoint || !checkpoint->name)
        return json_null();
    return json_pack("{s:s, s:I, s:I}", "name", checkpoint->name, "step",
                     (json_int_t)checkpoint->step, "age", (json_int_t)checkpoint->age);
}

static json_t *build(const struct ctl_summary *summary)
{
    json_t *out = json_object(), *cpu = json_object(), *rss = json_object();
    json_t *restarts = json_object();
    const struct rt_job *job = summary->job;
    struct ctl_view view;

    read_view(summary, &view);
    know_nothing_was_done(&view);
    json_object_set_new(out, "job", json_string(job->name));
    json_object_set_new(out, "mode", json_string(rt_mode_name(job->global.mode)));
    json_object_set_new(out, "model", json_string(job->model_name));
    json_object_set_new(out, "dataset", json_string(job->data.name));
    json_object_set_new(out, "seed", json_integer((json_int_t)job->global.seed));
    json_object_set_new(out, "epochs", json_integer(job->data.epochs));
    put_counts(out, &view);
    put_quality(out, &view);
    json_t *heads = ctl_view_heads(summary->final);
    json_object_set_new(out, "heads", heads ? heads : json_array());
    json_object_set_new(out, "bytes_per_sample", hops(summary->final, view.samples_now));
    json_object_set_new(out, "cpu_us_per_sample", cpu_of_samples(summary->final, view.samples_now));
    for (int role = 0; role < RT_ROLE_COUNT; role++) {
        const char *name = rt_role_name((enum rt_role)role);

        json_object_set_new(cpu, name, json_real(summary->cpu_seconds[role]));
        json_object_set_new(rss, name, json_integer((json_int_t)summary->peak_rss_bytes[role]));
        json_object_set_new(restarts, name, json_integer(summary->restarts[role]));
    }
    json_object_set_new(out, "cpu_seconds", cpu);
    json_object_set_new(out, "peak_rss_bytes", rss);
    json_object_set_new(out, "restarts", restarts);
    json_object_set_new(out, "checkpoint", checkpoint_or_null(summary->checkpoint));
    json_object_set_new(out, "batches_retried", count_or_null(view.batches_retried));
    json_object_set_new(out, "loss_spikes", count_or_null(view.loss_spikes));
    json_object_set_new(out, "generation", count_or_null(view.generation));
    json_object_set_new(out, "went_back", count_or_null(view.went_back));
    json_object_set_new(out, "steps_again", count_or_null(view.steps_again));
    if (view.evaluations)
        json_object_set_new(out, "evaluations", json_deep_copy(view.evaluations));
    if (summary->error) { /* a path in it need not be UTF-8, which JSON is */
        json_t *error = json_string(summary->error);

        json_object_set_new(out, "error", error ? error : json_string("see the log"));
    }
    return out;
}

int ctl_summary_write(const struct ctl_summary *summary, const char *run_dir)
{
    char *path = rt_path_join(run_dir, "summary.json");
    json_t *root = build(summary);
    char *text = json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    int err = RT_FAIL(RT_ENOMEM, "%s: out of memory", path);

    if (text) {
        char *line = rt_xasprintf("%s\n", text);

        err = rt_file_write(path, line, strlen(line));
        rt_free(line);
    }
    free(text);
    json_decref(root);
    rt_free(path);
    return err;
}

/* What an evaluation found of a head; the rest of it is in summary.json. */
static void print_head(const json_t *head)
{
    static const struct {
        const char *key, *words;
    } row[] = {
        {"auc", "AUC"},           {"group_auc", "group AUC"},
        {"logloss", "log loss"},  {"mse", "mean squared error"},
        {"accuracy", "accuracy"},
    };

    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        double value = ctl_view_number(head, row[i].key);

        if (isfinite(value))
            printf(value < 1000 ? "%s %.4f  " : "%s %.4g  ", row[i].words, value);
    }
}

/* The first head, and then the others by their names. */
static void print_test(const struct ctl_view *view)
{
    char samples[32];
    const json_t *head;
    size_t h;

    double nonfinite = ctl_view_number(json_array_get(view->heads, 0), "nonfinite");

    if (!(view->test_samples > 0) && !(nonfinite > 0)) {
        printf("  test        none: data.yml has no `test:` files\n");
        return;
    }
    printf("  test        ");
    print_head(json_array_get(view->heads, 0));
    printf("(%s samples", ctl_thousands(view->test_samples, samples, sizeof(samples)));
    if (nonfinite > 0)
        printf(" and %s left out: their score is not finite",
               ctl_thousands(nonfinite, samples, sizeof(samples)));
    printf(")\n");
    json_array_foreach (view->heads, h, head) {
        if (h == 0)
            continue;
        printf("              %s  ", json_string_value(json_object_get(head, "name")));
        print_head(head);
        printf("\n");
    }
    if (isfinite(view->test_auc_best))
        printf("              the best possible AUC on this data is %.4f\n", view->test_auc_best);
}

void ctl_summary_print(const struct ctl_summary *summary, const char *run_dir)
{
    const struct rt_job *job = summary->job;
    char a[32], b[32], c[32];
    struct ctl_view view;

    read_view(summary, &view);
    printf("\n  job         %s: %s, %s, %u epoch%s of %s, seed %llu\n", job->name, job->model_name,
           rt_mode_name(job->global.mode), job->data.epochs, job->data.epochs == 1 ? "" : "s",
           job->data.name, (unsigned long long)job->global.seed);
    print_test(&view);
    if (job->data.epochs == 0)
        printf("  training    none\n");
    else
        printf("  training    %s samples in %.1f s, %s samples/s, loss %.4f in the last epoch\n",
               ctl_thousands(view.samples_trained, a, sizeof(a)), view.train_seconds_total,
               ctl_thousands(view.samples_now / view.train_seconds, b, sizeof(b)), view.train_loss);
    if (view.loss_spikes > 0)
        printf("              the loss, or its gradients, rose above what was usual: %s time%s "
               "(loss_spike in the trainers' logs)\n",
               ctl_thousands(view.loss_spikes, a, sizeof(a)), view.loss_spikes > 1 ? "s" : "");
    if (view.went_back > 0)
        printf("              went back to a checkpoint %s time%s; %s steps were made again\n",
               ctl_thousands(view.went_back, a, sizeof(a)), view.went_back > 1 ? "s" : "",
               ctl_thousands(view.steps_again, b, sizeof(b)));
    printf("  embeddings  %s rows; input rows quarantined %s, samples dropped %s\n",
           ctl_thousands(view.rows_total, a, sizeof(a)),
           ctl_thousands(view.samples_quarantined, b, sizeof(b)),
           ctl_thousands(view.samples_dropped, c, sizeof(c)));
    if (view.rows_refused > 0)
        printf("              no room for rows of new ids: %s gradients were left out "
               "(rows_refused in the logs)\n",
               ctl_thousands(view.rows_refused, a, sizeof(a)));
    printf("  files       %s/summary.json, logs beside it\n", run_dir);
}
