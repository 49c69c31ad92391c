/* trainer/state.h -- the inside of a trainer rank, shared by the files of trainer/ that make it up:
 * trainer.c (life), feed.c (batches in), batch.c (their memory), step.c, compute.c, beside.c and between.c (dense step), push.c (gradients out),
 * phase.c (epochs), group.c, form.c, fetch.c, finished.c and reduce.c (the other ranks), evaluate.c, numbers.c (metrics).
 *
 * A batch, with the function on each arrow:
 *
 *   TrainBatch -tr_feed_serve-> QUEUED -tr_feed_pump (permit)-> LOOKING -on_embeddings-> READY
 *   READY -tr_step_pump-> STEPPING -committed-> PUSHING -on_pushed-> finished (ledger, reply, permit back)
 *   READY -tr_group_pump-> ENTERED (in a header) -start_round-> STEPPING; the group breaks: READY again
 *   LOOKING -lookup failed-> reply RETRY, forgotten, permit back          (never stepped: nothing is lost)
 *   PUSHING -on_pushed, several ranks-> TELLING (the next rank notes that it is finished) -on_told-> finished
 *   PUSHING -middleware lost-> STRANDED, reply RETRY                      (stepped: gradients are kept)
 *   STRANDED -tr_feed_serve (C has put it again)-> PUSHING
 *   STEPPING -not finite-> dropped(nonfinite), released at the middleware
 * An evaluation batch goes QUEUED, LOOKING, READY, STEPPING (scored), finished; it holds a lookup slot
 * instead of a permit and leaves no trace in the training ledger. */
#ifndef TR_STATE_H
#define TR_STATE_H

#include "runtime/base/map.h"
#include "runtime/job/ledger.h"
#include "runtime/wire/batch.h"
#include "trainer/agree.h"
#include "trainer/alarm.h"
#include "trainer/back.h"
#include "trainer/board.h"
#include "trainer/checkpoint.h"
#include "trainer/collective/collective.h"
#include "trainer/group.h"
#include "trainer/hold.h"
#include "trainer/import.h"
#include "trainer/metric/scores.h"
#include "trainer/metric/window.h"
#include "trainer/model/model.h"
#include "trainer/numbers.h"
#include "trainer/optimizer.h"
#include "trainer/owners.h"
#include "trainer/permit.h"
#include "trainer/predict.h"
#include "trainer/schedule.h"
#include "trainer/trainer.h"

#define TR_OPEN_MAX      4096 /* batches held at once; data-compose keeps far fewer open */
#define TR_ATTEMPTS_MAX  3    /* failures of a batch's own before dropped(poisoned) */
#define TR_DEADLINE_NS   (30 * 1000000000ull)
#define TR_COMPOSERS_MAX 4096
#define TR_AGAIN_NS      (50 * 1000000ull) /* before a rank is told again what failed */
#define TR_ATTEMPT_BITS  20                /* of an attempt, for the group epoch: form.c */

enum tr_batch_state {
    TR_QUEUED,
    TR_LOOKING,
    TR_READY,
    TR_ENTERED,
    TR_STEPPING,
    TR_PUSHING,
    TR_STRANDED,
    TR_TELLING,
};

struct tr_batch {
    uint64_t id;
    enum tr_batch_state state;
    uint64_t since_ns;            /* in that state, of a batch that is traced; else 0 */
    struct wire_train_batch head; /* as C described it, latest attempt */
    struct rt_call *call;         /* the TrainBatch to answer; NULL when the caller is gone */
    uint32_t composer;            /* whose */
    struct rt_peer *middleware;   /* the loop that holds the ids */
    struct rt_buf *input;         /* dense, labels, weights: views below point into it */
    struct rt_buf *embeddings;    /* reply of the lookup */
    struct rt_buf *gradients;     /* payload of the push, kept until acked */
    size_t reserved;              /* bytes of the three, since TrainBatch */
    struct tr_batch_view view;
    const void **feature; /* [n_features] of the view; of the struct, as are the next and scores */
    struct tr_sequence_view *sequence;    /* [n_features] of the view */
    struct tr_feature_grad *feature_grad; /* [n_features] in `gradients`, with their scales */
    uint64_t saturated;                   /* of `gradients`, what was too large for 16 bits */
    uint64_t step, attempt;               /* the step that it was trained in; at it (group.h) */
    uint32_t place, among; /* of the ranks with a batch in that step, which, and how many */
    double learning_rate;  /* factor of that step */
    bool computed;         /* `gradients` are of that step */
    bool
        landing; /* but they are on their way here: PUSHING begins when they have come (beside.c) */
    bool telling;                  /* the next rank is being told that it is finished */
    bool waits;                    /* PUSHING, but not sent: the link's credit is used up */
    bool outdated;                 /* LOOKING: what comes are rows of before an import */
    uint32_t refused;              /* pushes that failed by themselves */
    bool failed;                   /* it goes back for a reason of its own */
    double loss_sum[TR_HEADS_MAX]; /* of each head */
    const uint64_t *group;         /* [samples] in `input`; NULL: there is no such column */
    const uint32_t *key_length; /* [samples] in `input`; NULL: all keys are empty, or none wanted */
    const char *key;
    float
        *scores; /* [batch_size][columns] of all heads, of an evaluation batch, once it is scored */
    struct tr_trainer *trainer;
    struct tr_batch *next; /* in queue or ready */
};

/* What trainer->step_open is about: step.c. */
enum tr_step_kind { TR_SCORE, TR_ALONE, TR_SHARED, TR_AGAIN, TR_AVERAGE, TR_READ };

struct tr_fifo {
    struct tr_batch *head, *tail;
};

/* AwaitPhase calls that wait for the next phase, one per composer. */
struct tr_waiter {
    struct rt_call *call;
    uint64_t known;
};

/* NothingYet of a composer, in this phase. */
struct tr_nothing {
    bool told, has_until;
    uint64_t until; /* batch id; it holds until that one is stepped */
};

/* What rank 0 knows of another rank. */
struct tr_other {
    struct tr_trainer *trainer;
    uint64_t told;        /* phase that it acked */
    uint64_t incarnation; /* whose ack that was */
    uint64_t telling;     /* phase of the call that is out; 0: none */
    bool refused;         /* it could not take it: told again when phase_timer fires */
    uint32_t parts;       /* of its scores that are here, in this evaluation */
    bool scored;          /* all of them */
};

/* A split of the test set, in this evaluation. */
struct tr_split_test {
    bool ended;
    uint64_t begin, end; /* sequences */
};

/* beside.c. Touched by: the step thread while it computes, but for `next` and `landing`, which are the loop's. */
struct tr_copied {
    struct rt_buf *input, *embeddings;
};
struct tr_beside_step {
    struct tr_batch *next;     /* that is computed next; NULL: none is known, or it is gone */
    bool begins;               /* its copies, in this job */
    struct tr_batch_view view; /* as it is; arrays: */
    const void **feature;      /* [n_features] */
    struct tr_sequence_view *sequence;
    struct tr_copied copied, before; /* what this job copies; what the one before did */
    struct tr_beside work;
    struct rt_buf *gradients; /* that are on their way; NULL: none are */
    struct tr_batch *landing; /* whose; NULL: it is gone */
    uint64_t since_ns;
    struct rt_timer timer;
};

struct tr_trainer {
    struct tr_trainer_conf conf;
    const struct rt_job *job;
    struct rt_io *io;
    struct rt_rpc *rpc;
    char address[RT_ADDRESS_MAX];
    bool closing;             /* being destroyed: calls that fail now are ours */
    struct rt_arena *scratch; /* of one message */
    struct wire_out out;      /* packed message, reused */

    uint32_t middlewares;       /* replicas; 0 until the first hello */
    uint32_t *middleware_loops; /* [middlewares]; 0: no hello yet */

    struct rt_map batches; /* batch id -> struct tr_batch */
    struct tr_fifo queue, ready;
    struct tr_fifo spare;               /* structs of batches to be used again */
    size_t reserved;                    /* payload bytes, by all of `batches` */
    struct tr_permits permits, lookups; /* training; evaluation */
    struct rt_ledger *ledger;

    struct tr_model *model; /* the step thread's while a step is running */
    struct tr_optimizer *optimizer;
    struct tr_collective *collective;
    double learning_rate; /* of model.yml; times the factor of a step: step_factor */
    struct tr_schedule schedule;
    double learning_factor; /* the operator's; times the schedule's */
    struct tr_group *group; /* NULL: a world of 1 */
    bool step_open;         /* one thing of step.c is under way: */
    enum tr_step_kind step_kind;
    struct tr_batch *stepping; /* our batch in it; NULL: we have none */
    double step_factor;        /* learning rate factor of it */
    struct rt_work work;
    bool computing; /* the step thread is at `stepping` */
    size_t
        unsettled; /* buckets of the step's all-reduce whose gradients are not complete; the step thread's */
    uint64_t reducing_ns; /* when the first of them was; 0: none is yet */
    struct rt_save *save; /* the dense network is to be written, or is; NULL: no */
    bool step_finite;
    bool step_landing; /* its gradients were left on their way */
    struct tr_beside_step beside;
    bool *unfit; /* [n_features] and why it is not. Touched by: the step thread while `computing` */
    int step_err;
    char step_text[256];
    uint64_t step, global_samples;
    uint64_t steps_before;   /* steps that the weights had made when ours was 0: a saved model's */
    uint64_t imports;        /* models that were taken since the job began */
    uint64_t imports_due;    /* of rank 0, as it told the group last: tr_import_due() */
    struct tr_import import; /* at rank 0 */
    struct tr_owners owners; /* at rank 0; with a checkpoint folder, or in mode `full` */
    struct tr_checkpoint checkpoint;
    bool wants_news;              /* of the group, in the round at hand: hold.h */
    struct rt_manifest *restored; /* while the trainer is made: what it goes on from */
    uint64_t generation; /* of the job: grows each time that it goes on from a checkpoint */
    struct tr_back back;
    uint64_t run; /* of the manifests: drawn, or that of the checkpoint that this goes on from */
    bool anew;    /* which began by --restore=none */
    uint64_t carried_train_ms; /* of what this goes on from */
    struct wire_rank_counts
        carried; /* at rank 0: of runs before that checkpoint, and of ranks that died */
    uint64_t
        carried_epoch_samples; /* of epoch_samples: whose loss is known of the first head only */
    uint64_t acked_step;       /* the latest of which a batch of ours was acked by every owner */

    uint64_t phase, epoch, pass; /* pass: passes over the phase's set before */
    uint64_t
        train_phase; /* the latest of training: this one, or before the evaluation, made again or not */
    enum wire_phase_kind kind;
    bool epoch_open; /* training of `epoch` is not complete: after an evaluation it goes on */
    struct tr_waiter waiter[TR_COMPOSERS_MAX];   /* by composer */
    uint32_t n_waiters;                          /* places of them that were ever used */
    struct tr_nothing nothing[TR_COMPOSERS_MAX]; /* by composer */
    uint32_t composers;                          /* of the job; 0: not known yet */
    struct tr_other *other;                      /* [world]; rank 0 */
    struct rt_call *tell_call;                   /* TellPhase, owed while batches are unfinished */
    bool tell_over;                              /* the phase began at the end of an epoch */
    uint64_t
        owed_since_ns; /* rank 0: since when the end of the phase waits for batches of any rank; 0: it does not */
    bool told;                   /* composers, and conf.done, have heard of the phase */
    struct rt_timer phase_timer; /* what failed is tried again */
    uint32_t n_statistics;
    struct wire_statistics *statistics;
    bool is_over;        /* a composer has heard of an earlier trainer that the job is done */
    uint64_t over_phase; /* the number of that phase */
    struct rt_arena *statistics_arena;

    const struct tr_head *head; /* [n_heads] of the model */
    uint32_t n_heads;
    struct tr_window window;    /* the step thread's */
    struct tr_scores scores;    /* the loop thread's; the worker's while summing_up */
    struct tr_split_test *test; /* [splits] */
    uint64_t scored;            /* own batches that are in the list */
    size_t scores_at,
        scores_next; /* batches of the list that rank 0 has; and with the part on its way */
    uint32_t scores_part;
    uint64_t scores_phase;        /* of the part on its way */
    bool scores_out, scores_sent; /* a part is on its way; all have arrived */
    uint64_t evaluator;           /* rank 0's incarnation when the evaluation began */
    struct rt_work sum_work;
    int sum_err;
    char sum_text[256];
    struct tr_predict *predict;     /* the step thread's; NULL: no file of scores is wanted */
    uint64_t scoring;               /* phase in which the batch that is being scored began */
    uint64_t predicting, predicted; /* phases: whose file is being ended, and was */
    struct tr_split_test
        *predict_of; /* [splits] as `test` then. Touched by: the worker meanwhile */
    struct rt_work predict_work;
    struct tr_predicted {
        int err;
        char text[512];
        uint64_t lines;
    } predict_result, predict_next; /* next: touched by the worker meanwhile */
    uint64_t evaluations_begun, evaluated_step;
    struct tr_evaluation evaluated[TR_EVALUATIONS_MAX]; /* the latest ones */
    uint32_t n_evaluated;
    struct tr_quality quality[TR_HEADS_MAX];      /* of the latest evaluation */
    struct tr_quality quality_next[TR_HEADS_MAX]; /* Touched by: the worker while summing_up */
    bool summing_up;                              /* the evaluation's result is being computed */
    struct tr_report count;                       /* the running numbers of the report */
    double epoch_loss_sum[TR_HEADS_MAX];
    uint64_t epoch_samples;
    uint64_t started_ns, last_ack_ns; /* of training: first batch in, last batch acked */
    uint64_t evaluating_since_ns, evaluated_ns;
    uint64_t evaluated_by_ack_ns; /* of evaluated_ns, what lies before last_ack_ns */
    struct tr_numbers metric;
    struct tr_alarm alarm;
    struct tr_agree agree;
    struct tr_board board;
};

/* All steps in the weights that have made this step of the job: what Adam, schedules and draws count. */
static inline uint64_t tr_age(const struct tr_trainer *trainer, uint64_t step)
{
    return trainer->steps_before + step;
}

/* restore.c: from the newest checkpoint that can be used; there may be none. RT_EUSAGE: there are some, and none can. */
int tr_restore_dense(struct tr_trainer *trainer); /* model and optimizer are made */
int tr_restore_state(
    struct tr_trainer *trainer); /* the rest, when all is as at the start of a job */
/* Steps of lower attempts are over: of a generation before this one. */
static inline uint64_t tr_least_attempt(uint64_t incarnation_of_rank_0)
{
    return incarnation_of_rank_0 << TR_ATTEMPT_BITS;
}

/* The group has lived on, and its ranks' counts with it. */
void tr_restore_forget_counts(struct tr_trainer *trainer);

/* trainer.c */
/* The batch is acked by every owner, or dropped: marks the ledger, and tells the other ranks with the
 * next step header. */
void tr_finished(struct tr_trainer *trainer, uint64_t batch_id);
/* Another rank; NULL for this one, and for one whose address is not known yet. */
struct rt_peer *tr_rank(struct tr_trainer *trainer, uint32_t rank);
void tr_fifo_push(struct tr_fifo *fifo, struct tr_batch *batch);
struct tr_batch *tr_fifo_pop(struct tr_fifo *fifo);
void tr_fifo_unpop(struct tr_fifo *fifo, struct tr_batch *batch); /* to the front */
void tr_fifo_remove(struct tr_fifo *fifo, struct tr_batch *batch);
struct rt_peer *tr_middleware(struct tr_trainer *trainer, uint32_t index, uint32_t loop);
void tr_fail(struct tr_trainer *trainer, int err);
void tr_pump(struct tr_trainer *trainer); /* start whatever can start */
/* From the first batch to the latest acked one, without evaluations; of this process. */
uint64_t tr_train_ns(const struct tr_trainer *trainer);

/* reduce.c: sums over the group, of the vector of gradients (tr_model_grads(), on a GPU perhaps there). 0, RT_EBACKEND; init: RT_EUSAGE too. */
int tr_reduce_init(struct tr_trainer *trainer);
int tr_reduce_begin(struct tr_trainer *trainer, uint32_t dtype, tr_reduced_fn done); /* open one */
int tr_reduce_bring(
    struct tr_trainer
        *trainer); /* on the step thread: what it computed comes to where it is summed */
int tr_reduce_bring_nothing(struct tr_trainer *trainer); /* of a rank without a batch: zeros */
int tr_reduce_take_average(struct tr_trainer *trainer);  /* the sum is the weights now */
bool tr_reduce_is_hopeless(int err);                     /* of a sum: no new group mends it */

/* numbers.c */
struct wire_rank_counts tr_own_counts(const struct tr_trainer *trainer);
double tr_epoch_loss(const struct tr_trainer *trainer,
                     uint32_t head); /* mean of the epoch so far; NaN: no sample */
void tr_numbers_init(struct tr_trainer *trainer);
void tr_numbers_phase(struct tr_trainer *trainer);
void tr_numbers_report(const struct tr_trainer *trainer, struct tr_report *out);
void tr_numbers_register(struct tr_trainer *trainer, struct rt_metrics *metrics);
void tr_count_durable(struct tr_trainer *trainer); /* a checkpoint is published */
/* nonfinite.c: which features a batch is to be dropped for, on the step thread; and when it is, the latest. */
void tr_nonfinite_find(struct tr_trainer *trainer, const struct tr_batch *batch);
void tr_nonfinite_count(struct tr_trainer *trainer);
void tr_batch_to(struct tr_batch *batch, enum tr_batch_state state);
void tr_batch_trace(
    struct tr_batch *batch); /* what it was in until now; before it changes, or is forgotten */
void tr_count_held(struct tr_batch *batch, bool held); /* it came into `batches`, or left it */
void tr_count_dropped(struct tr_batch *batch);
/* The time of this rank goes to `part` from now on (parts.h), if it is training; idle: it waits for a batch, or for
 * a round. It begins with the first batch that comes, or the first step of the group that it has none for. */
void tr_part_start(struct tr_trainer *trainer);
void tr_part(struct tr_trainer *trainer, enum tr_part part);
void tr_part_idle(struct tr_trainer *trainer);
void tr_count_step(struct tr_trainer *trainer); /* trainer->step was made */
/* What was found of all heads: of the test set, or of samples that were trained. */
void tr_count_quality(struct tr_trainer *trainer, enum tr_sample_set set,
                      const struct tr_quality *quality);

/* feed.c */
void tr_feed_serve(void *trainer, struct rt_call *call, const struct rt_frame *request);
void tr_feed_pump(struct tr_trainer *trainer);
/* Answer C and forget the batch. reason: for dropped and retry. */
void tr_feed_finish(struct tr_batch *batch, enum wire_outcome outcome, const char *reason);
/* Answer C, keep the batch. */
void tr_feed_answer(struct tr_batch *batch, enum wire_outcome outcome, const char *reason);
/* The group has formed: batches here that its ledger knows as finished are answered. */
void tr_feed_rejoin(struct tr_trainer *trainer);
/* Other rows are there: what was looked up and is not stepped goes back, to be looked up again. */
void tr_feed_return(struct tr_trainer *trainer);
/* An error of the way, not of the batch: it may come again as often as that happens. */
bool tr_feed_lost(int err);

/* batch.c */
/* All is zero, but for the arrays, whose contents are not defined. */
struct tr_batch *tr_batch_take(struct tr_trainer *trainer);
void tr_batch_give(struct tr_batch *batch); /* with its buffers and what it reserved */
void tr_batch_free_spare(struct tr_trainer *trainer);
int tr_batch_check_job(const struct tr_trainer *trainer); /* RT_EUSAGE: none would ever fit */
/* The payload bytes that it has and will need. RT_EFULL: not now, unless it must. */
int tr_batch_reserve(struct tr_batch *batch, bool must);
int tr_batch_take_gradients(struct tr_batch *batch); /* the buffer: RT_EFULL */
void tr_batch_lay_out(struct tr_batch *batch); /* gradients are written where they leave from */

/* compute.c */
int tr_step_init(struct tr_trainer *trainer); /* model and optimizer, with what they begin with */
void tr_step_release(struct tr_trainer *trainer);
/* On the step thread: of the batch that is stepped, by the kind of the step; and the optimizer's part, when gradients are summed. */
void tr_compute(void *trainer);
void tr_optimize(void *trainer);

/* beside.c: nothing happens without a GPU */
void tr_beside_init(struct tr_trainer *trainer);
void tr_beside_release(struct tr_trainer *trainer); /* after the model */
/* `batch` is about to be computed: which one comes after it. */
void tr_beside_choose(struct tr_trainer *trainer, const struct tr_batch *batch, bool evaluate);
/* On the step thread: what is done beside the pass. */
void tr_beside_view(struct tr_trainer *trainer, struct tr_batch_view *view);
/* trainer->stepping is computed. */
void tr_beside_done(struct tr_trainer *trainer);
/* No step is open, and none can begin: begin to wait for the gradients that are on their way, if any are. */
bool tr_beside_land(struct tr_trainer *trainer);
void tr_beside_forget(struct tr_batch *batch); /* it is given back */

/* between.c: begin what is to be read between two steps, if anything is */
bool tr_between_start(struct tr_trainer *trainer);

/* step.c */
/* A job for the step thread, for whoever has opened the step; and the step's end. */
void tr_step_work(struct tr_trainer *trainer, void (*run)(void *), void (*done)(void *));
void tr_step_close(struct tr_trainer *trainer);
bool tr_step_failed(struct tr_trainer *trainer); /* a job did: the trainer fails */
void tr_step_pump(struct tr_trainer *trainer);
/* The next of the READY batches that is not stepped; NULL: none. take: out of their list. */
struct tr_batch *tr_step_next_ready(const struct tr_trainer *trainer, bool evaluate);
struct tr_batch *tr_step_take_ready(struct tr_trainer *trainer, bool evaluate);
/* May a training batch be looked up now? Not before the group is formed (its ledger may know the batch);
 * and in `full` not while a step is under way, or may begin, that the lookup would have to see. */
bool tr_step_may_look_up(const struct tr_trainer *trainer);
/* No step is being made here, and (mode `async`) no local step waits for an average of the weights: where
 * the ledger is complete too, all ranks' weights are equal. Part of "the epoch is over". */
bool tr_step_settled(const struct tr_trainer *trainer);

/* push.c */
void tr_push_start(struct tr_batch *batch);
/* There is room on the link to this middleware again, or it is gone: send what waits for that. */
void tr_push_drained(struct tr_trainer *trainer, const struct rt_peer *middleware);
void tr_push_release(struct tr_batch *batch,
                     const char *reason); /* tell M that no gradients will come */

/* phase.c */
int tr_phase_init(struct tr_trainer *trainer); /* RT_EUSAGE, RT_EFILE, RT_EDATA */
void tr_phase_serve_await(void *trainer, struct rt_call *call, const struct rt_frame *request);
void tr_phase_serve_end(void *trainer, struct rt_call *call, const struct rt_frame *request);
void tr_phase_serve_nothing(void *trainer, struct rt_call *call, const struct rt_frame *request);
void tr_phase_check(struct tr_trainer *trainer); /* after a batch has finished */
void tr_phase_release(struct tr_trainer *trainer);
/* Enter a phase that rank 0 has told, or that was heard of when the group formed. An earlier one is none. */
int tr_phase_enter(struct tr_trainer *trainer, const struct wire_tell_phase *phase);
/* A TrainBatch of this composer: what it said of having nothing is over. */
void tr_phase_has_batch(struct tr_trainer *trainer, uint32_t composer);
/* Of the data alone, so they hold whoever tells them; kept where there are none yet. */
int tr_phase_take_statistics(struct tr_trainer *trainer, const struct wire_statistics *statistics,
                             uint32_t n);
/* Are batches stepped here and not finished? */
bool tr_phase_owes(const struct tr_trainer *trainer);
/* What is heard of the phase when the group forms. At rank 0 an evaluation that has lost its rank 0 is begun again. */
int tr_phase_adopt(struct tr_trainer *trainer, const struct wire_await_phase_reply *state);
/* In `full`: is it this batch's turn? */
bool tr_phase_in_turn(const struct tr_trainer *trainer, const struct tr_batch *batch);
/* All ranks are in the phase: composers, and the process, hear of it. */
void tr_phase_told(struct tr_trainer *trainer);
/* Rank 0: `lost` has taken scores of this evaluation with it; all of it is made again. */
void tr_phase_evaluate_again(struct tr_trainer *trainer, uint32_t lost);
void tr_phase_evaluated(struct tr_trainer *trainer); /* rank 0: what comes after an evaluation */
void tr_phase_again(struct tr_trainer *trainer);     /* pump again soon */
/* Nothing will come to be stepped here unless other ranks go on first: every split has ended and no batch
 * of our own is left to step, or every composer has ended or said NothingYet and no batch is in hand.
 * This rank then joins the group's step with weight zero. tr_pump() when it changes. */
bool tr_phase_has_nothing(struct tr_trainer *trainer);
/* May step trainer->step + 1 be made? false while a pause or an evaluation is due or running. */
bool tr_phase_may_step(struct tr_trainer *trainer);

/* tell.c */
void tr_tell_pump(struct tr_trainer *trainer); /* rank 0: all others; the others: their answer */
bool tr_tell_done(struct tr_trainer *trainer);
void tr_tell_serve(void *trainer, struct rt_call *call, const struct rt_frame *request);

/* evaluate.c */
int tr_evaluate_init(struct tr_trainer *trainer); /* RT_EUSAGE, RT_EFILE: of the file of scores */
void tr_evaluate_release(struct tr_trainer *trainer);
void tr_evaluate_begin(struct tr_trainer *trainer);
void tr_evaluate_leave(struct tr_trainer *trainer); /* the phase is over */
int tr_evaluate_end(struct tr_trainer *trainer, const struct wire_split_ledger *ended);
int tr_evaluate_scored(struct tr_trainer *trainer, const struct tr_batch *batch);
/* On the step thread: the scores of the batch into the file, where there is one. */
void tr_evaluate_write(struct tr_trainer *trainer, const struct tr_batch *batch);
void tr_evaluate_pump(struct tr_trainer *trainer); /* is our part complete? are all? */
void tr_evaluate_serve_scores(void *trainer, struct rt_call *call, const struct rt_frame *request);
/* At rank 0, a part of another rank's scores. One that is refused has changed nothing, and is awaited still. */
int tr_evaluate_take(struct tr_trainer *trainer, uint32_t rank, const struct rt_frame *frame);

#endif
