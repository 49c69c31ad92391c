/* ctl/status.c -- ask the roles of a running job what they do, or to stop.
 *
 * A job is reached through its NATS and its name; a run directory of `saffron local` knows both, and who
 * supervises. A supervised run is stopped through its supervisor, which takes the end of a role for a
 * failure otherwise. */
#include "ctl/status.h"
#include "ctl/rundir.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "runtime/member/member.h"
#include "runtime/process/address.h"

#include <argp.h>
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
#define STOP_WAIT_MS       8000
#define REPLICAS_MAX       100000

enum option_key { KEY_NATS = 256, KEY_JOB, KEY_RUN_DIR };

struct target {
    const char *run_dir;
    struct ctl_run run;
};

static const struct argp_option option[] = {
    {"nats", KEY_NATS, "URL", 0,
     "where NATS listens (default: SAFFRON_NATS_URL, else nats://127.0.0.1:4222)", 0},
    {"job", KEY_JOB, "NAME", 0, "name of the job (default: SAFFRON_JOB)", 0},
    {"run-dir", KEY_RUN_DIR, "DIR", 0, "a run directory of `saffron local`: it knows NATS and job",
     0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct target *target = state->input;

    switch (key) {
    case KEY_NATS:
        if (rt_address_check_nats(arg) != 0)
            argp_error(state, "--nats: %s", rt_err_text());
        snprintf(target->run.nats, sizeof(target->run.nats), "%s", arg);
        break;
    case KEY_JOB:
        snprintf(target->run.job, sizeof(target->run.job), "%s", arg);
        break;
    case KEY_RUN_DIR:
        target->run_dir = arg;
        break;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument '%s'", arg);
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static int find_target(int argc, char **argv, const char *doc, struct target *out)
{
    const struct argp argp = {.options = option, .parser = parse, .doc = doc};
    const char *nats = getenv("SAFFRON_NATS_URL"), *job = getenv("SAFFRON_JOB");

    *out = (struct target){0};
    snprintf(out->run.nats, sizeof(out->run.nats), "%s", nats ? nats : "nats://127.0.0.1:4222");
    snprintf(out->run.job, sizeof(out->run.job), "%s", job ? job : "");
    argp_parse(&argp, argc, argv, 0, NULL, out);
    if (out->run_dir)
        return ctl_rundir_read(out->run_dir, &out->run);
    if (!out->run.job[0])
        return RT_FAIL(RT_EUSAGE, "which job? give --run-dir DIR, or --job NAME (and --nats URL)");
    return 0;
}

/* One request to every role; how many answered. */
static int ask_all(const struct target *target, enum wire_command command, void *ctx,
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
static void print_silent(const struct target *target, const struct rows *rows)
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

static void print_rows(const struct target *target, struct rows *rows)
{
    qsort(rows->row, rows->n, sizeof(*rows->row), compare_rows);
    printf("%-22s %-10s %14s %12s %10s  %s\n", "ROLE", "STATE", "INCARNATION", "ROWS", "STEPS",
           "WAITS FOR");
    for (size_t i = 0; i < rows->n; i++)
        print_row(&rows->row[i]);
    print_silent(target, rows);
    for (size_t i = 0; i < rows->n; i++)
        print_refused(&rows->row[i]);
}

static int complain(int err)
{
    fprintf(stderr, "saffron: %s\n", rt_err_text());
    return rt_exit_code(err);
}

static int nobody(const struct target *target)
{
    fprintf(stderr, "saffron: nobody of job '%s' answers on %s\n", target->run.job,
            target->run.nats);
    return 1;
}

int ctl_status(int argc, char **argv)
{
    struct target target;
    struct rows rows = {0};
    int n, err = find_target(argc, argv, "What the roles of a running job are doing.", &target);

    if (err)
        return complain(err);
    n = ask_all(&target, WIRE_CTL_STATUS, &rows, keep_row);
    if (rows.n > 0)
        print_rows(&target, &rows);
    for (size_t i = 0; i < rows.n; i++)
        json_decref(rows.row[i].status);
    rt_free(rows.row);
    if (n < 0)
        return complain(n);
    return n == 0 ? nobody(&target) : 0;
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

static int stop_supervisor(const struct target *target)
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
    struct target target;
    int n, err = find_target(argc, argv, "Stop a running job: all its roles.", &target);

    if (!err && target.run_dir)
        err = stop_supervisor(&target);
    if (err)
        return complain(err);
    if (target.run_dir)
        return 0;
    n = ask_all(&target, WIRE_CTL_STOP, NULL, ignore_reply);
    if (n < 0)
        return complain(n);
    if (n == 0)
        return nobody(&target);
    printf("%d processes of job '%s' are stopping\n", n, target.run.job);
    return 0;
}
