/* middleware/loop.h -- one event loop of the middleware: the batches it holds, and the four calls it serves.
 *
 * Serves PutBatch (from C), LookupBatch, PushGradients, ReleaseBatch (from T); calls LookupRows and
 * ApplyGradients at the owners. Stateless but for batches in flight: whatever is forgotten can be put
 * again, and owners apply a batch once however often it is pushed. Loops share nothing.
 * Touch: the io's thread (or any before it runs), where nothing else is said. */
#ifndef MW_LOOP_H
#define MW_LOOP_H

#include "runtime/admin/metrics.h"
#include "runtime/job/job.h"
#include "runtime/net/rpc.h"

#include <jansson.h>

struct mw_loop;

struct mw_loop_conf {
    struct rt_io *io;            /* its pool lends at least mw_pool_budget(job) */
    struct rt_identity identity; /* identity.loop: which loop of the process */
    const struct rt_job *job;    /* outlives the loop */
    const struct rt_greeting *greeting;
    const char *listen;       /* "tcp:127.0.0.1:0"; NULL: serve nobody */
    struct rt_credit *budget; /* of the process (net/credit.h); NULL: one of its own */
    size_t
        part_bytes; /* of a message to or from an owner; 0: by the credit (cut.c). Tests set it. */
    void *ctx;      /* for fenced */
    void (*fenced)(void *ctx, uint64_t held); /* a newer incarnation of us exists; may be NULL */
};

/* Fails as rt_rpc_listen does. */
int mw_loop_create(const struct mw_loop_conf *conf, struct mw_loop **out);
/* Answers what is owed with RT_EUNKNOWN and closes all connections. NULL is legal. */
void mw_loop_destroy(struct mw_loop *loop);
const char *mw_loop_address(
    const struct mw_loop *loop); /* where peers connect to; "" without listen */

/* A hello of an embedding server: one address per owner. Owner k is worker k mod n_addresses of server
 * k / n_addresses, so all servers must have the same number of workers, and say the same number of
 * servers: RT_EUSAGE names both, and nothing changes. n_addresses 0 (it is starting) is ignored. */
int mw_loop_on_server(struct mw_loop *loop, uint32_t index, uint32_t replicas, uint32_t n_addresses,
                      const char *const *address, uint64_t incarnation);

int mw_loop_ready(const struct mw_loop *loop); /* all owners are up. Touch: any thread */

/* Add the numbers of one loop to those in the object, for /status. Touch: any thread. */
void mw_loop_status(const struct mw_loop *loop, json_t *object);
/* The same for /metrics, labelled loop="K", and the times of its work; the loop must outlive the page. */
void mw_loop_register(const struct mw_loop *loop, struct rt_metrics *metrics);

/* Bytes that the payload pool of a loop needs: the batches held, and requests on their way in. */
size_t mw_pool_budget(const struct rt_job *job);

#endif
