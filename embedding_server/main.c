/* embedding_server/main.c -- saffron-embedding-server: some owners, a loop and a thread each. */
#include "embedding_server/importing.h"
#include "embedding_server/load.h"
#include "embedding_server/owner.h"
#include "embedding_server/place.h"
#include "embedding_server/report.h"
#include "embedding_server/restore.h"
#include "embedding_server/save.h"
#include "runtime/admin/net_metrics.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "runtime/process/process.h"
#include "runtime/process/saving.h"

#include <sched.h>
#include <stdio.h>

#define WORKERS_DEFAULT_MAX 8
#define POOL_BYTES          ((size_t)1 << 30) /* payloads in flight, per owner: of a batch at most half */

struct worker {
    struct rt_loop *loop;
    struct ebs_owner *owner;
    struct rt_save *save;      /* what it is to write */
    struct ebs_import *import; /* what it is to read */
    uint64_t lasts;            /* of its stats, when we were told to stop */
    bool runs;                 /* its thread */
    bool pinned, local;        /* the thread to its place; its memory too */
    struct ebs_place place;
};

struct server {
    struct rt_process *process;
    struct worker *worker; /* [workers] */
    uint32_t workers;
    struct rt_credit budget; /* of all owners' links */
    struct ebs_report *report;
    struct rt_saving *saving;        /* the latest; NULL: none */
    struct ebs_importing *importing; /* likewise */
    bool ready, leaves;              /* leaves: told to stop */
};

/* ---- what others see of us ---- */

static int is_ready(void *ctx)
{
    return ((struct server *)ctx)->ready;
}

static void status(void *ctx, json_t *object)
{
    const struct server *server = ctx;

    if (server->report)
        ebs_report_status(server->report, object);
    rt_saving_status(server->saving, object);
    ebs_importing_status(server->importing, object);
}

/* ---- what it is asked ---- */

/* Runs on the owner's thread. */
static void save_rows(void *arg)
{
    struct worker *worker = arg;

    ebs_owner_save(worker->owner, worker->save);
}

/* Rows that came back from a checkpoint may be older than the weights that are saved beside them. */
static int check_compared(const struct server *server)
{
    for (uint32_t w = 0; w < server->workers; w++)
        if (ebs_history_waits(server->worker[w].owner))
            return RT_FAIL(RT_ENOTREADY, "trainer/0 has not compared these rows yet");
    return 0;
}

static int save(struct server *server, const struct wire_control_request *request)
{
    struct rt_save *part;
    int err = check_compared(server);

    if (err)
        return err;
    err = rt_saving_begin(&server->saving, rt_process_run_dir(server->process), request,
                          server->workers, &part);

    for (uint32_t w = 0; !err && part && w < server->workers; w++) {
        struct worker *worker = &server->worker[w];
        int full;

        worker->save = &part[w];
        full = rt_loop_post(worker->loop, save_rows, worker);
        if (full)
            rt_save_end(&part[w], full);
    }
    return err;
}

/* Runs on the owner's thread. */
static void import_rows(void *arg)
{
    struct worker *worker = arg;

    ebs_owner_import(worker->owner, worker->import);
}

static int import(struct server *server, const struct wire_control_request *request)
{
    struct ebs_import *part;
    int err = ebs_importing_begin(&server->importing, request, server->workers, &part);

    for (uint32_t w = 0; !err && part && w < server->workers; w++) {
        struct worker *worker = &server->worker[w];

        if (atomic_load(&part[w].state) == EBS_IMPORT_DONE)
            continue;
        worker->import = &part[w];
        if (rt_loop_post(worker->loop, import_rows, worker) != 0) {
            snprintf(part[w].error, sizeof(part[w].error), "%s", rt_err_text());
            atomic_store(&part[w].state, EBS_IMPORT_FAILED);
        }
    }
    return err;
}

static int control(void *ctx, const struct wire_control_request *request)
{
    struct server *server = ctx;

    if (!server->ready)
        return RT_FAIL(RT_ENOTREADY, "not started yet");
    if (request->command == WIRE_CTL_SAVE)
        return save(server, request);
    if (request->command == WIRE_CTL_IMPORT)
        return import(server, request);
    return RT_FAIL(RT_EUSAGE, "an embedding server does not know command %d",
                   (int)request->command);
}

/* All rows are in a checkpoint, and trainer/0 lets no step follow before we have gone: nothing is lost. */
static bool is_saved(const struct server *server)
{
    bool saved = true;

    for (uint32_t w = 0; w < server->workers; w++) {
        const struct worker *worker = &server->worker[w];

        saved &= atomic_load(&ebs_owner_stats(worker->owner)->cut_lasts) > worker->lasts;
    }
    return saved;
}

/* Of the trainers only the one that makes checkpoints has connections to us. Asked first when we are told to stop. */
static bool is_needed(void *ctx)
{
    struct server *server = ctx;

    for (uint32_t w = 0; !server->leaves && w < server->workers; w++)
        server->worker[w].lasts = atomic_load(&ebs_owner_stats(server->worker[w].owner)->cut_lasts);
    server->leaves = true;
    return rt_rpc_links_open(RT_ROLE_TRAINER) > 0 && !is_saved(server);
}

/* A checkpoint is being made. */
static bool is_cut(void *ctx)
{
    const struct server *server = ctx;
    bool cut = false;

    for (uint32_t w = 0; w < server->workers; w++)
        cut |= atomic_load(&ebs_owner_stats(server->worker[w].owner)->cut_open) > 0;
    return cut;
}

/* ---- start and stop ---- */

/* A newer process has our identity. Runs on an owner's thread. */
static void on_fenced(void *ctx, uint64_t held)
{
    struct server *server = ctx;

    rt_process_fenced(server->process, held);
}

/* Its rows are of a generation that is over. Runs on an owner's thread, whose error text says why. */
static void on_back(void *ctx)
{
    struct server *server = ctx;

    rt_process_fail(server->process, RT_EBACK);
}

static uint32_t count_workers(const struct rt_job *job)
{
    uint32_t cores = 1;
    cpu_set_t set;

    if (job->global.embedding_server_workers > 0)
        return job->global.embedding_server_workers;
    if (sched_getaffinity(0, sizeof(set), &set) == 0)
        cores = (uint32_t)CPU_COUNT(&set);
    return cores < WORKERS_DEFAULT_MAX ? cores : WORKERS_DEFAULT_MAX;
}

/* Runs on the owner's thread, before all else. */
static void take_place(void *arg)
{
    const struct worker *worker = arg;
    const struct ebs_place *place = &worker->place;
    int err = ebs_place_take(place, worker->local);

    if (err)
        rt_log(RT_LOG_WARN, "not_placed core=%u error=\"%s\"", place->core, rt_err_text());
    else
        rt_log(RT_LOG_INFO, "placed core=%u node=%d", place->core,
               place->node == EBS_NODE_NONE ? -1 : (int)place->node);
}

/* Give each worker its place, if the job wants that. */
static int plan_places(struct server *server)
{
    const struct rt_global_conf *global = &rt_process_job(server->process)->global;
    uint32_t first = rt_process_index(server->process) * server->workers;
    struct ebs_place *place;
    struct ebs_cores allowed;
    int err;

    if (!global->embedding_server_pin)
        return 0;
    place = rt_xcalloc(server->workers, sizeof(*place));
    err = ebs_cores_allowed(&allowed);
    if (!err)
        err = ebs_place_plan(NULL, &allowed, first, server->workers, place);
    for (uint32_t w = 0; !err && w < server->workers; w++) {
        server->worker[w].place = place[w];
        server->worker[w].local = global->embedding_server_numa_local;
        server->worker[w].pinned = true;
    }
    rt_free(place);
    return err;
}

static int make_worker(struct server *server, const struct rt_shard_map *shards, uint32_t w)
{
    struct rt_process *process = server->process;
    struct worker *worker = &server->worker[w];
    char listen[RT_ADDRESS_MAX], name[16];
    struct ebs_owner_conf conf = {
        .job = rt_process_job(process),
        .shards = shards,
        .owner = rt_process_index(process) * server->workers + w,
        .greeting = &wire_greeting,
        .listen = listen,
        .budget = &server->budget,
        .memory = rt_process_job(process)->global.embedding_server_memory / server->workers,
        .checkpoint_dir = rt_process_checkpoint_dir(process),
        .ctx = server,
        .fenced = on_fenced,
        .back = on_back};
    int err = rt_loop_create(&(struct rt_loop_conf){.name = "owner", .pool_budget = POOL_BYTES},
                             &worker->loop);

    if (err)
        return err;
    conf.io = rt_loop_io(worker->loop);
    rt_process_identity(process, w, &conf.identity);
    rt_process_listen_address(process, w, listen);
    err = ebs_owner_create(&conf, &worker->owner);
    if (err)
        return err;
    snprintf(name, sizeof(name), "%u", w);
    rt_metrics_loop(rt_process_metrics(process), RT_ROLE_EMBEDDING_SERVER, name, worker->loop);
    ebs_owner_register(worker->owner, rt_process_metrics(process));
    ebs_report_add(server->report, worker->owner);
    return 0;
}

static int start_worker(struct worker *worker)
{
    int err = 0;

    if (worker->pinned)
        err = rt_loop_post(worker->loop, take_place, worker);
    if (!err)
        err = rt_loop_start_thread(worker->loop);
    worker->runs = !err;
    return err;
}

/* The memory of an owner's rows is that of the thread which writes them first. */
static void restore_begins(void *ctx, uint32_t w)
{
    const struct worker *worker = &((const struct server *)ctx)->worker[w];

    if (worker->pinned)
        (void)ebs_place_take(&worker->place, worker->local); /* the owner's own thread warns */
}

/* *there: the rows are those of a checkpoint. */
static int restore_rows(struct server *server, struct ebs_owner *const *owner, bool *there)
{
    struct ebs_restore restore = {.dir = rt_process_checkpoint_dir(server->process),
                                  .job = rt_process_job(server->process),
                                  .owner = owner,
                                  .n = server->workers,
                                  .begin = restore_begins,
                                  .ctx = server};
    uint64_t began = rt_now_ns();
    struct ebs_restored restored;
    int err;

    *there = false;
    if (!rt_process_restores(server->process))
        return 0;
    err = ebs_restore(&restore, &restored);
    *there = !err && restored.name[0] != '\0';
    if (!*there)
        return err;
    rt_log(RT_LOG_INFO, "restored name=%s attempt=%llu step=%llu rows=%llu bytes=%llu seconds=%.3f",
           restored.name, (unsigned long long)restored.attempt, (unsigned long long)restored.step,
           (unsigned long long)restored.rows, (unsigned long long)restored.bytes,
           (double)(rt_now_ns() - began) / 1e9);
    if (restored.left_out > 0)
        rt_log(RT_LOG_WARN, "rows_left_out rows=%llu from=\"%s/%s\"",
               (unsigned long long)restored.left_out, restore.dir, restored.name);
    if (restored.counts_left_out)
        rt_log(RT_LOG_WARN,
               "admission_counts_left_out from=\"%s/%s\" why=\"of another number of workers\"",
               restore.dir, restored.name);
    if (rt_process_init_from(server->process))
        rt_log(RT_LOG_INFO, "init_from_not_read from=\"%s\" why=\"there is a checkpoint\"",
               rt_process_init_from(server->process));
    return 0;
}

/* The rows of a saved model. */
static int load_saved(struct server *server, struct ebs_owner *const *owner)
{
    const struct rt_job *job = rt_process_job(server->process);
    const char *dir = rt_process_init_from(server->process);
    bool fresh = !job->global.load_state || job->data.epochs == 0; /* or it is never used */
    struct ebs_loaded loaded;
    int err;

    if (!dir)
        return 0;
    err = ebs_load(dir, fresh, owner, server->workers, &loaded);
    if (!err)
        rt_log(RT_LOG_INFO, "rows_loaded rows=%llu with_state=%llu files=%llu from=\"%s\"",
               (unsigned long long)loaded.rows, (unsigned long long)loaded.with_state,
               (unsigned long long)loaded.files, dir);
    if (!err && loaded.left_out > 0)
        rt_log(RT_LOG_WARN, "rows_left_out rows=%llu from=\"%s\"",
               (unsigned long long)loaded.left_out, dir);
    return err;
}

/* What the server begins with, before anybody can ask for a row. */
static int load_rows(struct server *server)
{
    struct ebs_owner **owner = rt_xcalloc(server->workers, sizeof(*owner));
    bool there;
    int err;

    for (uint32_t w = 0; w < server->workers; w++)
        owner[w] = server->worker[w].owner;
    err = restore_rows(server, owner, &there);
    if (!err && !there)
        err = load_saved(server, owner);
    rt_free(owner);
    return err;
}

static int start(struct server *server)
{
    struct rt_process *process = server->process;
    struct rt_shard_map shards;
    const char **address;
    int err;

    server->workers = count_workers(rt_process_job(process));
    server->budget.limit = RT_CREDIT_LINKS * rt_process_job(process)->global.credit;
    if (rt_process_index(process) >= rt_process_size(process))
        return RT_FAIL(RT_EUSAGE, "index %u of %u embedding servers", rt_process_index(process),
                       rt_process_size(process));
    err = rt_shard_map_init(&shards, rt_process_size(process), server->workers);
    if (err)
        return err;
    server->worker = rt_xcalloc(server->workers, sizeof(*server->worker));
    server->report = ebs_report_create(rt_process_job(process), rt_process_metrics(process));
    err = plan_places(server);
    for (uint32_t w = 0; w < server->workers && !err; w++)
        err = make_worker(server, &shards, w);
    if (!err)
        err = load_rows(server);
    for (uint32_t w = 0; w < server->workers && !err; w++)
        err = start_worker(&server->worker[w]);
    if (err)
        return err;
    address = rt_xcalloc(server->workers, sizeof(*address));
    for (uint32_t w = 0; w < server->workers; w++)
        address[w] = ebs_owner_address(server->worker[w].owner);
    err = rt_process_announce(process, address, server->workers);
    rt_free(address);
    server->ready = !err;
    if (!err)
        rt_process_set_state(process, WIRE_READY);
    return err;
}

static void stop(struct server *server)
{
    for (uint32_t w = 0; server->worker && w < server->workers; w++) {
        struct worker *worker = &server->worker[w];

        if (worker->runs) {
            rt_loop_stop(worker->loop);
            rt_loop_join(worker->loop);
        }
        ebs_owner_destroy(worker->owner);
        rt_loop_destroy(worker->loop);
    }
    rt_free(server->worker);
    rt_saving_destroy(server->saving);
    ebs_importing_destroy(server->importing);
    ebs_report_destroy(server->report);
    server->report = NULL;
}

int main(int argc, char **argv)
{
    struct server server = {0};
    const struct rt_process_role role = {
        .role = RT_ROLE_EMBEDDING_SERVER,
        .program = "saffron-embedding-server",
        .doc = "Holds the rows of embedding tables and applies their gradients.",
        .ctx = &server,
        .ready = is_ready,
        .status = status,
        .control = control,
        .needed = is_needed,
        .awaited = is_cut,
    };
    int err = rt_process_start(argc, argv, &role, &server.process);

    if (err)
        return rt_exit_code(err);
    err = start(&server); /* owners, each with its loop, thread and listener */
    if (!err)
        err = rt_process_run(server.process); /* until told to stop */
    stop(&server);
    return rt_process_end(server.process, err);
}
