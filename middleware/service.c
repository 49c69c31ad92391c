/* middleware/service.c -- loops on threads of their own; what comes from the control loop is posted to them.
 * What others see of us (ready, status) is read from the loops' counters, which any thread may read. */
#include "middleware/service.h"
#include "middleware/loop.h"
#include "runtime/admin/net_metrics.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"

#include <sched.h>
#include <stdio.h>

#define LOOPS_DEFAULT_MAX 4

struct worker {
    struct rt_loop *loop;
    struct mw_loop *middleware;
    bool runs; /* its thread */
};

struct mw_service {
    struct rt_process *process;
    struct worker *worker; /* [workers] */
    uint32_t workers;
    struct rt_credit budget; /* of all loops' links */
    bool ready;              /* as last told */
};

/* A hello on its way to a data loop. */
struct server_hello {
    struct mw_service *service;
    struct mw_loop *to;
    uint32_t index, replicas, n_addresses;
    uint64_t incarnation;
    char *address[];
};

static uint32_t count_loops(const struct rt_job *job)
{
    uint32_t cores = 1;
    cpu_set_t set;

    if (job->global.middleware_loops > 0)
        return job->global.middleware_loops;
    if (sched_getaffinity(0, sizeof(set), &set) == 0)
        cores = (uint32_t)CPU_COUNT(&set);
    return cores < LOOPS_DEFAULT_MAX ? cores : LOOPS_DEFAULT_MAX;
}

/* ---- hellos ---- */

static void free_hello(struct server_hello *hello)
{
    for (uint32_t i = 0; i < hello->n_addresses; i++)
        rt_free(hello->address[i]);
    rt_free(hello);
}

/* On the data loop. */
static void take_hello(void *arg)
{
    struct server_hello *hello = arg;
    int err = mw_loop_on_server(hello->to, hello->index, hello->replicas, hello->n_addresses,
                                (const char *const *)hello->address, hello->incarnation);

    if (err)
        rt_process_fail(hello->service->process, err);
    free_hello(hello);
}

static struct server_hello *copy_hello(struct mw_service *service, struct mw_loop *to,
                                       const struct wire_hello *hello)
{
    struct server_hello *copy =
        rt_xcalloc(1, sizeof(*copy) + hello->n_addresses * sizeof(copy->address[0]));

    *copy = (struct server_hello){.service = service,
                                  .to = to,
                                  .index = hello->index,
                                  .replicas = hello->replicas,
                                  .n_addresses = hello->n_addresses,
                                  .incarnation = hello->incarnation};
    for (uint32_t i = 0; i < hello->n_addresses; i++)
        copy->address[i] = rt_xstrdup(hello->address[i]);
    return copy;
}

void mw_service_on_hello(void *ctx, const struct wire_hello *hello)
{
    struct mw_service *service = ctx;

    if (hello->role != RT_ROLE_EMBEDDING_SERVER)
        return;
    for (uint32_t i = 0; i < service->workers; i++) {
        struct server_hello *copy = copy_hello(service, service->worker[i].middleware, hello);
        int err = rt_loop_post(service->worker[i].loop, take_hello, copy);

        if (err) { /* hellos come as news, not again: 1,024 of them unheard is a loop that hangs */
            rt_process_fail(service->process, err);
            free_hello(copy);
        }
    }
}

/* ---- what others see of us ---- */

int mw_service_ready(void *ctx)
{
    struct mw_service *service = ctx;
    bool ready = true;

    for (uint32_t i = 0; i < service->workers; i++)
        ready = ready && mw_loop_ready(service->worker[i].middleware);
    if (ready != service->ready)
        rt_process_set_waiting(service->process, ready ? NULL : "embedding_server");
    service->ready = ready;
    return ready;
}

void mw_service_status(void *ctx, json_t *object)
{
    const struct mw_service *service = ctx;
    json_int_t ids;

    for (uint32_t i = 0; i < service->workers; i++)
        if (service->worker[i].middleware)
            mw_loop_status(service->worker[i].middleware, object);
    ids = json_integer_value(json_object_get(object, "ids"));
    json_object_set_new(
        object, "distinct_ratio", /* rows asked for per id: what deduplication leaves */
        ids ? json_real((double)json_integer_value(json_object_get(object, "distinct")) /
                        (double)ids)
            : json_null());
}

/* A newer process has our identity. On a data loop. */
static void on_fenced(void *ctx, uint64_t held)
{
    struct mw_service *service = ctx;

    rt_process_fenced(service->process, held);
}

/* ---- start and stop ---- */

struct mw_service *mw_service_create(void)
{
    return rt_xcalloc(1, sizeof(struct mw_service));
}

static int start_worker(struct mw_service *service, uint32_t i)
{
    struct rt_process *process = service->process;
    struct worker *worker = &service->worker[i];
    const struct rt_job *job = rt_process_job(process);
    struct rt_loop_conf loop = {.name = "middleware", .pool_budget = mw_pool_budget(job)};
    char listen[RT_ADDRESS_MAX], name[16];
    struct mw_loop_conf conf = {.job = job,
                                .greeting = &wire_greeting,
                                .listen = listen,
                                .budget = &service->budget,
                                .ctx = service,
                                .fenced = on_fenced};
    int err = rt_loop_create(&loop, &worker->loop);

    if (err)
        return err;
    conf.io = rt_loop_io(worker->loop);
    rt_process_identity(process, i, &conf.identity);
    rt_process_listen_address(process, i, listen);
    err = mw_loop_create(&conf, &worker->middleware);
    if (err)
        return err;
    snprintf(name, sizeof(name), "%u", i);
    rt_metrics_loop(rt_process_metrics(process), RT_ROLE_MIDDLEWARE, name, worker->loop);
    mw_loop_register(worker->middleware, rt_process_metrics(process));
    err = rt_loop_start_thread(worker->loop);
    worker->runs = !err;
    return err;
}

int mw_service_start(struct mw_service *service, struct rt_process *process)
{
    uint32_t workers = count_loops(rt_process_job(process));
    const char **address;
    int err = 0;

    service->process = process;
    service->worker = rt_xcalloc(workers, sizeof(*service->worker));
    service->workers = workers;
    service->budget.limit = RT_CREDIT_LINKS * rt_process_job(process)->global.credit;
    for (uint32_t i = 0; i < workers && !err; i++)
        err = start_worker(service, i);
    if (err)
        return err;
    rt_process_set_waiting(process, "embedding_server");
    address = rt_xcalloc(workers, sizeof(*address));
    for (uint32_t i = 0; i < workers; i++)
        address[i] = mw_loop_address(service->worker[i].middleware);
    err = rt_process_announce(process, address, workers);
    rt_free(address);
    return err;
}

void mw_service_destroy(struct mw_service *service)
{
    if (!service)
        return;
    for (uint32_t i = 0; i < service->workers; i++) {
        struct worker *worker = &service->worker[i];

        if (worker->runs) {
            rt_loop_stop(worker->loop);
            rt_loop_join(worker->loop);
        }
        mw_loop_destroy(worker->middleware);
        rt_loop_destroy(worker->loop);
    }
    rt_free(service->worker);
    rt_free(service);
}
