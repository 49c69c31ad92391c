/* middleware/main.c -- saffron-middleware: a few loops, a thread each. */
#include "middleware/service.h"
#include "runtime/base/err.h"
#include "runtime/process/process.h"

/* Gradients may be on their way through us, of which a last checkpoint is to be made. */
static bool is_needed(void *ctx)
{
    (void)ctx;
    return rt_rpc_links_open(RT_ROLE_TRAINER) > 0;
}

int main(int argc, char **argv)
{
    struct mw_service *service = mw_service_create();
    const struct rt_process_role role = {
        .role = RT_ROLE_MIDDLEWARE,
        .program = "saffron-middleware",
        .doc = "Turns ids into embeddings, and sends gradients to the rows they belong to.",
        .listens_to = RT_ROLE_BIT(RT_ROLE_EMBEDDING_SERVER),
        .ctx = service,
        .hello = mw_service_on_hello,
        .ready = mw_service_ready,
        .status = mw_service_status,
        .needed = is_needed,
    };
    struct rt_process *process = NULL;
    int err = rt_process_start(argc, argv, &role, &process);

    if (err) {
        mw_service_destroy(service);
        return rt_exit_code(err);
    }
    err = mw_service_start(service, process); /* loops, their threads and listeners */
    if (!err)
        err = rt_process_run(process); /* until told to stop */
    mw_service_destroy(service);
    return rt_process_end(process, err);
}
