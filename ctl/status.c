/* ctl/status.c -- ask the roles of a running job what they do, or to stop.
 *
 * A job is reached through its NATS and its name; a run directory of `saffron local` knows both, and who
 * supervises. A supervised run is stopped through its supervisor, which takes the end of a role for a
 * failure otherwise. */
#include "ctl/status.h"
#include "ctl/target.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "runtime/member/member.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define CONNECT_TIMEOUT_MS 3000
#define ASK_TIMEOUT_MS     500
#define STOP_WAIT_MS       45000 /* of which 30 s are for a last checkpoint (local.c) */
#define REPLICAS_MAX       100000

/* One request to every role; how many answered. */
static int ask_all(const struct ctl_target *target, enum wire_command command, void *ctx,
                   void (*reply)(void *ctx, const struct wire_control_reply *reply))
{
    struct wire_control_request request = {
        .id = rt_now_ns(), .ttl_ms = ASK_TIMEOUT_MS, .command = command, .text = ""};
    struct rt_control_client *client = NULL;
    int n = 0, err = rt_control_connect(target->run.nats, CONNECT_TIMEOUT_MS, &client);

    for (int role = 0; role < RT_ROLE_COUNT && !err; role++) {
        uint32_t known = target->run.replicas[role];
        int got = rt_control_ask(client, target->run.job, (enum rt_role)role, NULL, &request,
                                 ASK_TIMEOUT_MS, known ? known : REPLICAS_MAX, ctx, reply);

        if (got > 0)
            n += got;
    }
    if (client)
        rt_control_close(client);
    return err ? err : n;
}

static void cell(const json_t *status, const char *key, char *out, size_t size)
{
    const json_t *value = json_object_get(status, key);

    if (json_is_integer(value))
        snprintf(out, size, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    else if (json_is_real(value))
        snprintf(out, size, "%.4g", json_real_value(value));
    else
        rt_log_escape(json_is_string(value) ? json_string_value(value) : "-", out, size);
}

/* One process that answered. */
struct row {
    enum rt_role role;
    uint32_t index;
    uint64_t incarnation;
    json_t *status; /* owned; NULL: no JSON */
};
struct rows {
    struct row *row;
    size_t n, room;
};

static void keep_row(void *ctx, const struct wire_control_reply *reply)
{
    struct rows *rows = ctx;

    if (rows->n == rows->room) {
        rows->room = rows->room ? 2 * rows->room : 16;
        rows->row = rt_xrealloc(rows->row, rows->room * sizeof(*rows->row));
    }
    rows->row[rows->n++] = (struct row){reply->role, reply->index, reply->incarnation,
                                        reply->text ? json_loads(reply->text, 0, NULL) : NULL};
}

/* Trainers first: they know most. */
static int compare_rows(const void *left, const void *right)
{
    const struct row *a = left, *b = right;

    if (a->role != b->role)
        return a->role > b->role ? -1 : 1;
    return (a->index > b->index) - (a->index < b->index);
}

static void print_row(const struct row *row)
{
    char name[48], state[24], waiting[160], rows[24], steps[24];

    snprintf(name, sizeof(name), "%s/%u", rt_role_name(row->role), row->index);
    cell(row->status, "state", state, sizeof(state));
    cell(row->status, "waiting", waiting, sizeof(waiting));
    cell(row->status, row->role == RT_ROLE_DATA_COMPOSE ? "rows_read" : "rows_total", rows,
         sizeof(rows));
    cell(row->status, "step", steps, sizeof(steps));
    printf("%-22s %-10s %14" PRIu64 " %12s %10s  %s\n", name, state, row->incarnation, rows, steps,
           waiting[0] ? waiting : "-");
}

/* A run directory knows how many there should be. */
static void print_silent(const struct ctl_target *target, const struct rows *rows)
{
    for (int role = RT_ROLE_COUNT - 1; role >= 0; role--) {
        for (uint32_t k = 0; k < target->run.replicas[role]; k++) {
            bool found = false;

            for (size_t i = 0; i < rows->n; i++)
                found |= (int)rows->row[i].role == role && rows->row[i].index == k;
            if (!found)
                printf("%s/%u does not answer\n", rt_role_name((enum rt_role)role), k);
        }
    }
}

static void print_refused(const struct row *row)
{
    const char *text = json_string_value(json_object_get(row->status, "refused"));
    char clean[1024];

    if (text)
        printf("%s/%u refuses: %s\n", rt_role_name(row->role), row->index,
               rt_log_escape(text, clean, sizeof(clean)));
}

static void print_spike(const struct row *row)
{
    if (json_is_true(json_object_get(row->status, "loss_spike")))
        printf(
            "%s/%u: the loss, or its gradients, stands above what was usual; checkpoints made now "
            "are marked suspect\n",
            rt_role_name(row->role), row->index);
}

/* Of an `exact` job: trainer/0 knows. */
static void print_generation(const struct row *row)
{
    json_int_t back = json_integer_value(json_object_get(row->status, "went_back"));
    char generation[24], again[24];

    if (row->role != RT_ROLE_TRAINER || row->index != 0 || back <= 0)
        return;
    cell(row->status, "generation", generation, sizeof(generation));
    cell(row->status, "steps_again", again, sizeof(again));
    printf("generation %s: the job went back to a checkpoint %" JSON_INTEGER_FORMAT
           " time%s, and made %s steps again\n",
           generation, back, back > 1 ? "s" : "", again);
}

static void print_rows(const struct ctl_target *target, struct rows *rows)
{
    qsort(rows->row, rows->n, sizeof(*rows->row), compare_rows);
    printf("%-22s %-10s %14s %12s %10s  %s\n", "ROLE", "STATE", "INCARNATION", "ROWS", "STEPS",
           "WAITS FOR");
    for (size_t i = 0; i < rows->n; i++)
        print_row(&rows->row[i]);
    if (rows->n > 0)
        print_generation(&rows->row[0]);
    print_silent(target, rows);
    for (size_t i = 0; i < rows->n; i++) {
        print_refused(&rows->row[i]);
        print_spike(&rows->row[i]);
    }
}

int ctl_status(int argc, char **argv)
{
    struct ctl_target target;
    struct rows rows = {0};
    int n, err = ctl_target_find(argc, argv, "What the roles of a running job are doing.", &target);

    if (err)
        return ctl_target_complain(err);
    n = ask_all(&target, WIRE_CTL_STATUS, &rows, keep_row);
    if (rows.n > 0)
        print_rows(&target, &rows);
    for (size_t i = 0; i < rows.n; i++)
        json_decref(rows.row[i].status);
    rt_free(rows.row);
    if (n < 0)
        return ctl_target_complain(n);
    return n == 0 ? ctl_target_nobody(&target) : 0;
}

/* The pid may have gone to somebody else since the run ended. */
static bool is_supervisor(long pid)
{
    char own[4096], theirs[4096], *path = rt_xasprintf("/proc/%ld/exe", pid);
    ssize_t a = readlink("/proc/self/exe", own, sizeof(own));
    ssize_t b = readlink(path, theirs, sizeof(theirs));

    rt_free(path);
    return a > 0 && a == b && memcmp(own, theirs, (size_t)a) == 0;
}

static int stop_supervisor(const struct ctl_target *target)
{
    const struct timespec pause = {.tv_nsec = 50000000};
    uint64_t deadline = rt_now_ns() + STOP_WAIT_MS * RT_MS;
    long pid = target->run.pid;

    if (!is_supervisor(pid)) {
        printf("the run in %s has ended already\n", target->run_dir);
        return 0;
    }
    if (kill((pid_t)pid, SIGTERM) != 0)
        return RT_FAIL(-errno, "cannot stop process %ld: %s", pid, strerror(errno));
    while (is_supervisor(pid)) {
        if (rt_now_ns() > deadline)
            return RT_FAIL(RT_EDEADLINE, "process %ld has not ended after %d s", pid,
                           STOP_WAIT_MS / 1000);
        nanosleep(&pause, NULL);
    }
    printf("the run in %s is stopped\n", target->run_dir);
    return 0;
}

static void ignore_reply(void *ctx, const struct wire_control_reply *reply)
{
    (void)ctx;
    (void)reply;
}

int ctl_stop(int argc, char **argv)
{
    struct ctl_target target;
    int n, err = ctl_target_find(argc, argv, "Stop a running job: all its roles.", &target);

    if (!err && target.run_dir)
        err = stop_supervisor(&target);
    if (err)
        return ctl_target_complain(err);
    if (target.run_dir)
        return 0;
    n = ask_all(&target, WIRE_CTL_STOP, NULL, ignore_reply);
    if (n < 0)
        return ctl_target_complain(n);
    if (n == 0)
        return ctl_target_nobody(&target);
    printf("%d processes of job '%s' are stopping\n", n, target.run.job);
    return 0;
}
