/* trainer/trainer.h -- one trainer rank: takes batches, looks up, steps, pushes, counts, evaluates.
 *
 * Written against rt_io and rt_rpc only, so it also runs in the simulator. Everything is called on the
 * io's thread; the dense computation runs through rt_io_work (the step thread). */
#ifndef TR_TRAINER_H
#define TR_TRAINER_H

#include "runtime/admin/metrics.h"
#include "runtime/job/job.h"
#include "runtime/net/rpc.h"
#include "trainer/gpu.h"
#include "trainer/metric/auc.h"
#include "trainer/parts.h"

struct tr_trainer;

struct tr_trainer_conf {
    struct rt_io *io;
    struct rt_identity self; /* index = rank */
    const struct rt_job *job;
    uint32_t world;        /* ranks of the group */
    const char *listen;    /* address for data-compose and the other ranks */
    size_t state_part;     /* parameters in a message of FetchState; 0: 2 Mi. Tests set it. */
    const char *init_from; /* folder of a saved model that the weights begin with; NULL: drawn */
    const char *checkpoint_dir; /* shared with the embedding servers; NULL: no checkpoints */
    bool restore; /* go on from the newest one there, if there is one: it goes before init_from */
    uint64_t
        run; /* a number that no other run has, for the manifests, unless it goes on from one; 0: of the incarnation */
    bool anew; /* --restore=none was given */
    /* File for the scores of the test rows (predict.h), with more than one rank of each FILE.RANK; NULL: none. */
    const char *predict;
    const char *tensorboard;    /* folder for rank 0's event file (board.h); NULL: none */
    struct rt_metrics *metrics; /* or NULL */
    struct tr_device_of device; /* open as long as the trainer is there; none: the CPU */
    void *ctx;
    /* The job cannot go on; text in rt_err_text(). RT_EBACK: it goes on when this rank is started again. */
    void (*failed)(void *ctx, int err);
    void (*done)(void *ctx); /* after the last epoch's evaluation */
    void (*replaced)(void *ctx, uint64_t by_incarnation);
    void (*drained)(void *ctx); /* what tr_trainer_drain() began has ended */
    /* Has run(arg) called on this thread, from any other one: rt_loop_post. NULL: sums of GPUs are looked after by the clock. */
    int (*post)(void *ctx, void (*run)(void *arg), void *arg);
};

int tr_trainer_create(const struct tr_trainer_conf *conf, struct tr_trainer **out);
/* The io's worker must be at rest, as rt_loop_run leaves it: a step that was made and not yet told is
 * forgotten with its batch. Buffers go back to the io's pool. */
void tr_trainer_destroy(struct tr_trainer *trainer);
const char *tr_trainer_address(const struct tr_trainer *trainer);

/* A middleware's hello: where its loops are. `replicas` as it says. */
void tr_trainer_on_middleware(struct tr_trainer *trainer, uint32_t index, uint32_t replicas,
                              const char *const *address, uint32_t n, uint64_t incarnation);

/* An embedding server's hello: where its owners' loops are. Of use at rank 0, with a checkpoint folder or in mode `full`. */
void tr_trainer_on_server(struct tr_trainer *trainer, uint32_t index, uint32_t replicas,
                          const char *const *address, uint32_t n, uint64_t incarnation);

/* Its hello says that it is told to stop: it waits for a checkpoint, so that nothing of it is lost. */
void tr_trainer_on_server_leaving(struct tr_trainer *trainer, uint32_t index, uint64_t incarnation);

/* Another rank's hello. `replicas` must be the world. A higher incarnation than before: that rank has
 * lost its state, and the group re-forms. */
void tr_trainer_on_rank(struct tr_trainer *trainer, uint32_t index, uint32_t replicas,
                        const char *address, uint64_t incarnation);

/* true when every loop of every middleware is connected. `waiting` (may be NULL) names one that is not. */
bool tr_trainer_ready(const struct tr_trainer *trainer, char *waiting, size_t size);

/* Factor on all learning rates, dense and sparse, from the next step on. */
int tr_trainer_set_learning_rate(struct tr_trainer *trainer, double factor);

/* Write the dense network, as it is between two steps (save.h). One at a time; `save` is WRITING. */
struct rt_save;
void tr_trainer_save(struct tr_trainer *trainer, struct rt_save *save);

/* A stage of an import (import.h), of rank 0. RT_EUSAGE: it cannot be; RT_ENOTREADY: not yet. Asking again does no harm. */
struct wire_control_request;
int tr_trainer_import(struct tr_trainer *trainer, const struct wire_control_request *request);
const struct tr_import *tr_trainer_imported(const struct tr_trainer *trainer); /* the latest */

/* The control command: make a checkpoint `text`, which its `number` names too; rank 0. Its progress is in
 * tr_trainer_checkpoints(). Asked again with the same number, nothing is begun. RT_EUSAGE; RT_EFULL: another one is asked for. */
int tr_trainer_checkpoint(struct tr_trainer *trainer, const struct wire_control_request *request);
/* The process is told to stop: a last checkpoint, if one can be made; no step is made after its instant. @return false: it may stop
 * at once; true: conf.drained will tell. */
bool tr_trainer_drain(struct tr_trainer *trainer);
/* The same at another rank: is rank 0 there, which could not make its last checkpoint without us? */
bool tr_trainer_is_needed(struct tr_trainer *trainer);
const struct tr_checkpoint *tr_trainer_checkpoints(const struct tr_trainer *trainer);

#define TR_EVALUATIONS_MAX                                                                         \
    128 /* that are kept; /status has them all, which takes some 9 KB for each at each question */

struct tr_evaluation {
    uint64_t step, epoch, samples;
    double auc, logloss;
};

/* A head of the model: model.h; quality of the latest evaluation, at rank 0. */
struct tr_head_report {
    const char *name;
    enum tr_head_kind kind;
    double weight, train_loss; /* as the report's, of this head */
    struct tr_quality test;
};

/* Numbers for status and summary. NaN: not known (yet). Samples are this rank's own; rank 0 has also what was
 * read and quarantined in all, and the results of evaluations. */
struct tr_report {
    const char *phase; /* "statistics" "train" "evaluate" "done" */
    uint64_t epoch, epochs, step;
    uint64_t group_epoch; /* 0: the ranks have not met yet; a world of 1: 1 */
    uint64_t samples_trained, samples_dropped, samples_read, samples_quarantined;
    uint64_t
        samples_restored;  /* of those trained: before this run, or by ranks that died; rank 0 */
    uint64_t updates_lost; /* batches that embedding servers came back without; rank 0 */
    uint64_t loss_spikes;  /* of this rank: alarm.h */
    bool loss_spike;       /* one stands */
    uint64_t generation, went_back, steps_again; /* back.h; rank 0 */
    bool read_whole; /* samples_read is of the whole job: rank 0, between epochs */
    uint32_t rank, world;
    uint64_t samples_epoch; /* of one epoch, known after the first; else 0 */
    double train_seconds, samples_per_second, train_loss, loss;
    double train_seconds_restored; /* of what it went on from; rank 0 */
    uint64_t
        train_loss_samples; /* what train_loss is the mean of: the last epoch's, of this rank */
    /* First batch in and last batch acked, in seconds of the wall clock; evaluations in between. With
     * them the ranks' figures make one train_seconds. */
    double train_began, train_ended, evaluated_seconds;
    double test_auc, test_logloss, test_calibration;
    uint64_t test_samples;
    struct tr_head_report head[TR_HEADS_MAX]; /* [n_heads]; the first one's are the numbers above */
    uint32_t n_heads;
    uint32_t staleness_max, permits_used, permits;
    double staleness_mean;         /* over all lookups; NaN before the first */
    double part_seconds[TR_PARTS]; /* of all steps made */
    double learning_rate;          /* dense, of the latest step */
    uint64_t batches_open, batches_stepped, batches_trained, batches_dropped, batches_retried;
    uint64_t bytes_train_batch, bytes_embeddings, bytes_gradients; /* payloads, by hop */
    uint64_t evaluations;
    const struct tr_evaluation *evaluation; /* the latest ones, oldest first; the trainer's */
    uint32_t n_evaluation;
    bool done;
    /* Of the file of scores, once it was written: rows, and why it is not there; NULL: it is, or none is wanted. */
    const char *predict_error;
    uint64_t predicted;
};
void tr_trainer_report(const struct tr_trainer *trainer, struct tr_report *out);

/* Digest of the dense parameters: equal bits, equal digest. */
uint64_t tr_trainer_digest(struct tr_trainer *trainer);

#endif
