/* data_compose/composer.h -- one data-compose replica: asks the trainer what is wanted, and brings it.
 *
 * Written against rt_io and rt_rpc only, so it also runs in the simulator. It keeps nothing durable: what is
 * finished the trainer's ledger knows, and everything else is a function of the files and the data plan.
 * Everything is called on the io's thread. */
#ifndef DC_COMPOSER_H
#define DC_COMPOSER_H

#include "runtime/admin/metrics.h"
#include "runtime/job/job.h"
#include "runtime/net/rpc.h"

struct dc_composer;

struct dc_composer_conf {
    struct rt_io *io;
    struct rt_identity identity; /* index: which composer */
    const struct rt_job *job;    /* outlives the composer */
    uint32_t size;               /* composers of the job */
    const char *run_dir;         /* where quarantine/ goes; NULL: bad rows are only counted */
    struct rt_metrics *metrics;  /* or NULL; the composer must outlive its page */
    void *ctx;
    void (*failed)(void *ctx, int err); /* once: the job cannot go on; text in rt_err_text() */
    void (*done)(void *ctx);            /* the trainer says that all is done; may be NULL */
    void (*replaced)(void *ctx, uint64_t by_incarnation); /* may be NULL */
};

/* RT_EUSAGE: columns, format or sizes that cannot be read; RT_EUSAGE from the `synthetic:` section. */
int dc_composer_create(const struct dc_composer_conf *conf, struct dc_composer **out);
void dc_composer_destroy(struct dc_composer *composer); /* NULL is legal */

/* Hellos: where the loops of a middleware, or a trainer rank, are now. `replicas` as it says; the world is
 * what trainer rank 0 says first. n 0 (it is starting) is ignored. */
void dc_composer_on_middleware(struct dc_composer *composer, uint32_t index, uint32_t replicas,
                               const char *const *address, uint32_t n, uint64_t incarnation);
void dc_composer_on_trainer(struct dc_composer *composer, uint32_t index, uint32_t replicas,
                            const char *const *address, uint32_t n, uint64_t incarnation);

/* true when every trainer rank and a loop of the middleware are connected. `waiting` (may be NULL) names one
 * that is not. */
bool dc_composer_ready(const struct dc_composer *composer, char *waiting, size_t size);

struct dc_status {
    const char *
        stage; /* "frequencies" "truth" "waiting" "statistics" "counting" "train" "evaluate" "done" "failed" */
    uint64_t epoch;                       /* from 0 */
    uint64_t rows_read, rows_quarantined; /* training rows of our splits, over the passes so far */
    uint64_t batches_done, batches_retried;
    uint64_t bytes_put;           /* ids of training batches, sent to the middleware */
    uint64_t bytes_read;          /* of data files, by all passes */
    uint32_t batches_open, queue; /* queue: of these, and one held: no trainer has them yet */
    double epoch_rows; /* training rows of our splits in one epoch, estimated; NaN: not known yet */
    double test_auc_best_possible; /* synthetic, composer 0, once known; else NaN */
};
void dc_composer_status(const struct dc_composer *composer, struct dc_status *out);

#endif
