/* ctl/view.c -- status JSON to numbers.
 *
 * Ranks count what they themselves did: samples, losses, bytes, first and last batch. What the group holds in
 * copies (the ledger with its rows read, the epoch, the result of an evaluation) is taken from rank 0. */
#include "ctl/view.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

double ctl_view_number(const json_t *status, const char *key)
{
    const json_t *value = json_object_get(status, key);

    return json_is_number(value) ? json_number_value(value) : (double)NAN;
}

static void text(const json_t *status, const char *key, char *out, size_t size)
{
    const char *value = json_string_value(json_object_get(status, key));

    snprintf(out, size, "%s", value ? value : "");
}

/* Sum over replicas of `key`, within their objects `outer` and, in that, `inner` (NULL: as if they were not there); NaN
 * when nobody told. */
static double sum_of(const json_t *list, const char *outer, const char *inner, const char *key)
{
    double total = (double)NAN;
    const json_t *status;
    size_t i;

    json_array_foreach (list, i, status) {
        const json_t *at = outer ? json_object_get(status, outer) : status;
        double value = ctl_view_number(inner ? json_object_get(at, inner) : at, key);

        if (!isnan(value))
            total = isnan(total) ? value : total + value;
    }
    return total;
}

static double sum(const json_t *list, const char *key)
{
    return sum_of(list, NULL, NULL, key);
}

static double largest(const json_t *list, const char *key)
{
    double most = (double)NAN;
    const json_t *status;
    size_t i;

    json_array_foreach (list, i, status)
        most = fmax(most, ctl_view_number(status, key)); /* fmax prefers the one that is no NaN */
    return most;
}

static double smallest(const json_t *list, const char *key)
{
    double least = (double)NAN;
    const json_t *status;
    size_t i;

    json_array_foreach (list, i, status)
        least = fmin(least, ctl_view_number(status, key));
    return least;
}

/* Mean of `key` over the replicas that have told it, each with the weight `weight_key` says. */
static double mean(const json_t *list, const char *key, const char *weight_key)
{
    double total = 0, weights = 0;
    const json_t *status;
    size_t i;

    json_array_foreach (list, i, status) {
        double value = ctl_view_number(status, key), weight = ctl_view_number(status, weight_key);

        if (!isnan(value) && weight > 0) {
            total += weight * value;
            weights += weight;
        }
    }
    return weights > 0 ? total / weights : (double)NAN;
}

/* From the first batch at any rank to the last ack, less the evaluations. */
static double train_seconds(const json_t *trainers)
{
    double away = ctl_view_number(json_array_get(trainers, 0), "evaluated_seconds");
    double seconds = largest(trainers, "train_ended") - smallest(trainers, "train_began") - away;

    if (json_array_size(trainers) == 1 || isnan(seconds)) /* one clock's own figure is better */
        return largest(trainers, "train_seconds");
    return seconds > 0 ? seconds : 0;
}

static void read_ranks(const json_t *trainers, struct ctl_view *out)
{
    const json_t *status;
    size_t i;

    out->begun = out->done = false;
    out->ranks = (uint32_t)json_array_size(trainers);
    out->ranks_done = 0;
    out->digest_rank[0] = out->digest_rank[1] = 0;
    out->digest[0][0] = out->digest[1][0] = '\0';
    json_array_foreach (trainers, i, status) {
        bool done = json_is_true(json_object_get(status, "done"));
        char digest[CTL_DIGEST_MAX];

        out->begun |= json_is_object(status);
        out->ranks_done += done;
        if (i == 0)
            out->done = done;
        text(status, "dense_digest", digest, sizeof(digest));
        if (!digest[0] || ctl_view_digests_differ(out))
            continue;
        if (!out->digest[0][0]) {
            memcpy(out->digest[0], digest, sizeof(digest));
            out->digest_rank[0] = (uint32_t)i;
        }
        memcpy(out->digest[1], digest, sizeof(digest));
        out->digest_rank[1] = (uint32_t)i;
    }
}

bool ctl_view_digests_differ(const struct ctl_view *view)
{
    return strcmp(view->digest[0], view->digest[1]) != 0;
}

/* Rows of all servers, and what one costs on average. */
static void read_rows(const json_t *servers, struct ctl_view *out)
{
    double bytes = 0, rows = 0;
    const json_t *status;
    size_t i;

    out->rows_total = sum(servers, "rows_total");
    out->rows_refused = sum(servers, "rows_refused");
    json_array_foreach (servers, i, status) {
        double n = ctl_view_number(status, "rows_total");
        double each = ctl_view_number(status, "bytes_per_row");

        if (n > 0 && !isnan(each)) {
            rows += n;
            bytes += n * each;
        }
    }
    out->bytes_per_row = rows > 0 ? bytes / rows : (double)NAN;
}

static void read_counts(const json_t *trainers, struct ctl_view *out)
{
    const json_t *first = json_array_get(trainers, 0);

    out->step = largest(trainers, "step");
    out->samples_trained = sum(trainers, "samples_trained");
    out->samples_now = out->samples_trained - fmax(ctl_view_number(first, "samples_restored"), 0);
    out->samples_dropped = sum(trainers, "samples_dropped");
    out->samples_quarantined = ctl_view_number(first, "samples_quarantined");
    out->batches_retried = sum(trainers, "batches_retried");
    out->loss_spikes = sum(trainers, "loss_spikes");
    out->generation = ctl_view_number(first, "generation");
    out->went_back = ctl_view_number(first, "went_back");
    out->steps_again = ctl_view_number(first, "steps_again");
    out->samples_read = ctl_view_number(first, "samples_read");
    if (!out->done || isnan(out->samples_read)) /* an open epoch: the rows whose outcome is known */
        out->samples_read = out->samples_trained + out->samples_dropped + out->samples_quarantined;
    out->train_seconds = train_seconds(trainers);
    /* Of the rank that went on: another one's time may be of all the run. */
    out->train_seconds_total = fmax(ctl_view_number(first, "train_seconds"), 0) +
                               fmax(ctl_view_number(first, "train_seconds_restored"), 0);
    out->samples_per_second =
        out->train_seconds > 0 ? out->samples_now / out->train_seconds : (double)NAN;
    out->staleness_max = largest(trainers, "staleness_max");
    out->loss = mean(trainers, "loss", "samples_trained");
    out->train_loss = mean(trainers, "train_loss", "train_loss_samples");
}

void ctl_view_read(const struct ctl_snapshot *snapshot, struct ctl_view *out)
{
    const json_t *trainers = snapshot->role[RT_ROLE_TRAINER];
    const json_t *composers = snapshot->role[RT_ROLE_DATA_COMPOSE];
    const json_t *first = json_array_get(trainers, 0);

    read_ranks(trainers, out);
    text(first, "state", out->state, sizeof(out->state));
    text(first, "phase", out->phase, sizeof(out->phase));
    text(first, "waiting", out->waiting, sizeof(out->waiting));
    out->epoch = ctl_view_number(first, "epoch");
    out->epochs = ctl_view_number(first, "epochs");
    out->samples_per_epoch = sum(trainers, "samples_per_epoch");
    if (!(out->samples_per_epoch > 0)) /* in the first epoch data-compose knows better */
        out->samples_per_epoch = sum(composers, "epoch_rows");
    read_counts(trainers, out);
    out->test_auc = ctl_view_number(first, "test_auc");
    out->test_logloss = ctl_view_number(first, "test_logloss");
    out->test_samples = ctl_view_number(first, "test_samples");
    out->test_auc_best = ctl_view_number(json_array_get(composers, 0), "test_auc_best_possible");
    out->evaluations = json_object_get(first, "evaluations");
    if (!json_is_array(out->evaluations))
        out->evaluations = NULL;
    out->heads = json_object_get(first, "heads");
    if (!json_is_array(out->heads))
        out->heads = NULL;
    read_rows(snapshot->role[RT_ROLE_EMBEDDING_SERVER], out);
}

void ctl_view_predictions(const struct ctl_snapshot *snapshot, struct ctl_predictions *out)
{
    const json_t *status;
    size_t i;

    *out = (struct ctl_predictions){0};
    json_array_foreach (snapshot->role[RT_ROLE_TRAINER], i, status) {
        const json_t *predictions = json_object_get(status, "predictions");
        const char *error = json_string_value(json_object_get(predictions, "error"));
        double rows = ctl_view_number(predictions, "rows");

        out->rows += isnan(rows) ? 0 : rows;
        if (error && !out->error[0])
            snprintf(out->error, sizeof(out->error), "trainer/%zu: %s", i, error);
    }
}

/* Of head h, over the ranks, each by its samples. */
static double head_loss(const json_t *trainers, size_t h)
{
    double sum = 0, samples = 0;
    const json_t *status;
    size_t i;

    json_array_foreach (trainers, i, status) {
        const json_t *head = json_array_get(json_object_get(status, "heads"), h);
        double loss = ctl_view_number(head, "train_loss");
        double n = ctl_view_number(status, "train_loss_samples");

        if (isnan(loss) || isnan(n))
            continue;
        sum += n * loss;
        samples += n;
    }
    return samples > 0 ? sum / samples : (double)NAN;
}

json_t *ctl_view_heads(const struct ctl_snapshot *snapshot)
{
    const json_t *trainers = snapshot->role[RT_ROLE_TRAINER];
    json_t *heads = json_deep_copy(json_object_get(json_array_get(trainers, 0), "heads")), *head;
    size_t h;

    json_array_foreach (heads, h, head) {
        double loss = head_loss(trainers, h);

        json_object_set_new(head, "train_loss", isnan(loss) ? json_null() : json_real(loss));
    }
    return heads;
}

double ctl_view_train_cpu(const struct ctl_snapshot *snapshot, enum rt_role role)
{
    return sum_of(snapshot->role[role], "purpose_cpu_seconds", NULL, "train");
}

double ctl_view_hop_bytes(const struct ctl_snapshot *snapshot, enum rt_role role, enum rt_role to)
{
    return sum_of(snapshot->role[role], "hop_bytes", "train", rt_role_name(to));
}

void ctl_view_waiting(const struct ctl_snapshot *snapshot, char *out, size_t size)
{
    char what[128];

    out[0] = '\0';
    for (int role = 0; role < RT_ROLE_COUNT; role++) {
        const json_t *status;
        size_t i;

        json_array_foreach (snapshot->role[role], i, status) {
            text(status, "waiting", what, sizeof(what));
            if (what[0]) {
                snprintf(out, size, "%s/%zu waits for %s", rt_role_name((enum rt_role)role), i,
                         what);
                return;
            }
        }
    }
}
