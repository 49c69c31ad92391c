/* ctl/view.c -- status JSON to numbers. */
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

/* Sum over replicas; NaN when nobody told. */
static double sum(const json_t *list, const char *key)
{
    double total = (double)NAN;
    const json_t *status;
    size_t i;

    json_array_foreach (list, i, status) {
        double value = ctl_view_number(status, key);

        if (!isnan(value))
            total = isnan(total) ? value : total + value;
    }
    return total;
}

/* Rows of all servers, and what one costs on average. */
static void read_rows(const json_t *servers, struct ctl_view *out)
{
    double bytes = 0, rows = 0;
    const json_t *status;
    size_t i;

    out->rows_total = sum(servers, "rows_total");
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

void ctl_view_read(const struct ctl_snapshot *snapshot, struct ctl_view *out)
{
    const json_t *trainer = json_array_get(snapshot->role[RT_ROLE_TRAINER], 0);
    const json_t *composer = json_array_get(snapshot->role[RT_ROLE_DATA_COMPOSE], 0);

    text(trainer, "state", out->state, sizeof(out->state));
    text(trainer, "phase", out->phase, sizeof(out->phase));
    text(trainer, "waiting", out->waiting, sizeof(out->waiting));
    out->done = json_is_true(json_object_get(trainer, "done"));
    out->epoch = ctl_view_number(trainer, "epoch");
    out->epochs = ctl_view_number(trainer, "epochs");
    out->step = ctl_view_number(trainer, "step");
    out->samples_per_epoch = ctl_view_number(trainer, "samples_per_epoch");
    if (!(out->samples_per_epoch > 0)) /* in the first epoch data-compose knows better */
        out->samples_per_epoch = sum(snapshot->role[RT_ROLE_DATA_COMPOSE], "epoch_rows");
    out->samples_trained = ctl_view_number(trainer, "samples_trained");
    out->samples_dropped = ctl_view_number(trainer, "samples_dropped");
    out->samples_read = ctl_view_number(trainer, "samples_read");
    out->samples_quarantined = ctl_view_number(trainer, "samples_quarantined");
    out->train_seconds = ctl_view_number(trainer, "train_seconds");
    out->samples_per_second = ctl_view_number(trainer, "samples_per_second");
    out->loss = ctl_view_number(trainer, "loss");
    out->train_loss = ctl_view_number(trainer, "train_loss");
    out->test_auc = ctl_view_number(trainer, "test_auc");
    out->test_logloss = ctl_view_number(trainer, "test_logloss");
    out->test_samples = ctl_view_number(trainer, "test_samples");
    out->staleness_max = ctl_view_number(trainer, "staleness_max");
    out->test_auc_best = ctl_view_number(composer, "test_auc_best_possible");
    read_rows(snapshot->role[RT_ROLE_EMBEDDING_SERVER], out);
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
