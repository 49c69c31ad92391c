/* data_compose/state.h -- a composer from the inside; private to composer.c, phase.c, send.c, end.c, recall.c.
 *
 *   composer.c  life, peers, the two timers
 *   phase.c     what to do now: ask, one pass over a set in slices, say that splits have ended
 *   send.c      open batches: put, train, again, done
 *   end.c       what comes no more: EndOfEpoch, NothingYet
 *   recall.c    what is done, told to a rank that was started anew: TellFinished */
#ifndef DC_STATE_H
#define DC_STATE_H

#include "data_compose/batch.h"
#include "data_compose/composer.h"
#include "data_compose/frequency.h"
#include "data_compose/quarantine.h"
#include "data_compose/statistics.h"
#include "data_compose/synthetic.h"

#include "runtime/job/batch_id.h"
#include "runtime/wire/batch.h"

#define DC_PUT_DEADLINE_NS (10 * 1000000000ull)
#define DC_END_DEADLINE_NS (30 * 1000000000ull)
#define DC_PAUSE_NS        (50 * 1000000ull) /* before something refused is tried again */
#define DC_WORLD_MAX       4096u

/* FREQUENCIES -dc_phase_turn-> TRUTH
 * TRUTH -dc_phase_turn-> WAITING -on_phase-> STATISTICS -> WAITING
 *                                -on_phase-> [COUNTING ->] PASS -> ENDING -all ranks acked-> WAITING
 *                                -on_phase-> DONE
 * COUNTING, PASS, ENDING of training -on_phase, evaluate-> the pass is kept as it is, a pass over the test
 *     set begins; -on_phase, the same training epoch again-> the kept pass goes on
 * any -dc_fail-> FAILED;  any but FREQUENCIES, TRUTH, DONE -rank 0 has a new incarnation-> WAITING (dc_phase_reset)
 * AwaitPhase is out all the while, in DONE too, but for FREQUENCIES, TRUTH and STATISTICS. */
enum dc_stage {
    DC_FREQUENCIES, /* where a column has min_frequency: one pass to count ids, and the statistics in passing */
    DC_TRUTH,      /* composer 0, synthetic: the best possible AUC of the test rows */
    DC_WAITING,    /* for the next phase */
    DC_STATISTICS, /* one pass for the columns to be standardized */
    DC_COUNTING,   /* restarted in a later epoch: one pass to learn how many batches a split has */
    DC_PASS,       /* making batches */
    DC_ENDING,     /* all were sent once; EndOfEpoch is out */
    DC_DONE,
    DC_FAILED,
};

/* PUT_NEXT -dc_send_pump-> PUTTING -ack-> TRAIN_NEXT -dc_send_pump-> TRAINING -outcome-> closed
 * PUTTING -full, lost-> PUT_NEXT;  TRAIN_NEXT, TRAINING -retry, lost-> PUT_NEXT with attempt + 1 */
enum dc_open_state { DC_PUT_NEXT, DC_PUTTING, DC_TRAIN_NEXT, DC_TRAINING };

/* A batch that is held until its outcome is known. */
struct dc_open {
    struct dc_open *prev, *next;
    struct dc_composer *composer;
    struct dc_batch *batch;
    enum dc_open_state state;
    uint32_t rank, attempt; /* attempt: 1 + failures of its own */
    bool sent;              /* TrainBatch was called once at least */
    uint64_t put_ns;        /* when PutBatch was called first; 0: not yet */
    bool evaluate, dropped; /* dropped: of a phase that was given up; freed with its call */
    uint64_t epoch;
    uint64_t not_before_ns;
    bool full;                  /* not sent, for want of the link's credit */
    struct rt_peer *middleware; /* where it was put last; NULL: nowhere yet */
    uint64_t middleware_incarnation;
};

/* What a complete pass has told about a set; sets do not change. Per split, [splits]. */
struct dc_set {
    bool known;
    uint64_t *batches, *rows, *quarantined;
};

/* One pass over a set. That over the training files waits while an evaluation is made in its midst. */
struct dc_pass {
    struct dc_parser *parser;
    struct dc_batcher *batcher; /* NULL: there is no pass, or it has ended */
    struct dc_batcher *last;    /* of the pass that ended before, for its memory; or NULL */
    struct dc_open *held;       /* made, but there is no room for it */
    bool exists;
    enum dc_stage stage; /* COUNTING, PASS, ENDING: where it stands while it waits */
    uint64_t epoch;
    uint64_t number;                         /* passes over this set before */
    struct rt_arena *arena;                  /* of the ledger */
    const struct wire_split_ledger **ledger; /* [splits] NULL: nothing known of the split */
};

struct dc_rank {
    struct dc_composer *composer;
    struct rt_peer *peer; /* NULL before its hello */
    uint64_t incarnation; /* of the peer that was told what follows */
    uint32_t open[2];     /* batches: training, evaluation */
    bool end_out, end_acked;
    uint32_t end_phase; /* counts resets: a late reply of an earlier EndOfEpoch is not this one's */
    bool nothing_out, nothing_told; /* NothingYet */
    struct wire_nothing_yet nothing;
    bool recall, recall_out; /* TellFinished is due, is on its way */
};

/* The latest training batches that are done. */
struct dc_recall {
    uint64_t *batch; /* [capacity] a ring; NULL: none yet */
    uint64_t next;   /* of all; the latest is the one before */
    uint32_t capacity;
};

struct dc_composer {
    struct dc_composer_conf conf;
    const struct rt_job *job;
    struct rt_io *io;
    struct rt_rpc *rpc;
    struct rt_timer work;  /* the next slice */
    struct rt_timer pause; /* something refused is due again */
    bool pausing, destroying, failed;
    bool pool_full; /* until a batch is done, or the pause is over */
    enum dc_stage stage;
    struct wire_out out;

    struct dc_rank *rank; /* [world] */
    uint32_t world;       /* 0: not known yet */
    struct rt_peer **middleware;
    uint32_t n_middlewares, next_middleware;

    /* The phase that rank 0 told: */
    bool asking; /* AwaitPhase is out */
    uint64_t ask_not_before_ns;
    uint64_t phase, epoch;
    bool evaluate;
    struct rt_arena *phase_arena; /* of the reply: ledger, statistics */
    uint32_t end_phase;

    struct dc_pass pass[2]; /* training, test; [evaluate] is the running one */
    struct dc_synthetic *synthetic;
    struct dc_synthetic_conf synthetic_conf;
    struct dc_quarantine *quarantine;
    struct dc_statistics *statistics;
    struct dc_frequency *frequent; /* NULL: no column has min_frequency */
    struct dc_feed *truth_feed;
    struct dc_auc *truth;
    double best_auc;
    struct dc_set set[2]; /* training, test */
    bool recorded[2];     /* bad rows of the set are in the quarantine file */

    struct dc_recall recall;
    struct dc_open *first, *last; /* open batches, oldest first */
    uint32_t n_open;
    struct dc_open *idle;         /* those that are done, to be used again: a list by `next` */
    struct dc_batch_pool batches; /* and what they held */
    struct rt_arena *answer;      /* of the TrainBatch reply that is read */

    double epoch_rows; /* training rows of our splits in one epoch, estimated; NaN: not known */
    uint64_t rows_before, quarantined_before; /* of passes before the running one */
    _Atomic uint64_t rows_read, rows_quarantined, batches_done, batches_retried, batches_open;
    _Atomic uint64_t bytes_put;  /* ids of training batches, to the middleware, repeats included */
    _Atomic uint64_t bytes_read; /* of data files, by all passes */
    _Atomic uint64_t queue;      /* batches that are made and that no trainer has */
    uint64_t making_ns;          /* work since the latest batch was made */
    uint64_t read_from_ns;       /* its beginning; 0: none yet */
    struct rt_histogram parse_seconds, batch_seconds;
};

/* composer.c */
void dc_fail(struct dc_composer *composer, int err); /* text set */
void dc_pump(struct dc_composer *composer);          /* start whatever can be started */
void dc_pause(struct dc_composer *composer);         /* pump again in DC_PAUSE_NS */
bool dc_rank_up(const struct dc_composer *composer, uint32_t rank);
/* Do batches go in turns (turn.h)? */
static inline bool dc_in_turns(const struct dc_composer *composer)
{
    return composer->job->global.mode == RT_MODE_FULL && composer->conf.size == 1;
}
static inline struct dc_pass *dc_pass_now(struct dc_composer *composer)
{
    return &composer->pass[composer->evaluate];
}

/* phase.c */
int dc_phase_init(struct dc_composer *composer);
void dc_phase_release(struct dc_composer *composer);
void dc_phase_pump(struct dc_composer *composer); /* ask, end */
bool dc_phase_wants_turn(struct dc_composer *composer);
void dc_phase_turn(struct dc_composer *composer);  /* one slice of the stage */
void dc_phase_reset(struct dc_composer *composer); /* rank 0 started anew: forget the phase */
/* The rank started anew, it knows nothing of what it was told. */
void dc_phase_rank_lost(struct dc_composer *composer, struct dc_rank *rank);

/* send.c */
int dc_send_init(struct dc_composer *composer);
void dc_send_release(struct dc_composer *composer); /* after dc_send_drop: no call is out */
void dc_send_pump(struct dc_composer *composer);
void dc_send_drained(
    struct dc_composer *composer); /* what a link had no credit for need not wait any more */
void dc_send_open(struct dc_composer *composer, struct dc_batch *batch); /* takes it */
bool dc_send_room(struct dc_composer *composer); /* may one more batch be made? */
/* All open batches of training or of the test set; those with a call out later. */
void dc_send_drop(struct dc_composer *composer, bool evaluate);

/* end.c */
void dc_end_begin(struct dc_composer *composer);  /* the pass was read: tell all ranks */
int dc_end_pump(struct dc_composer *composer);    /* EndOfEpoch, NothingYet */
void dc_end_forget(struct dc_composer *composer); /* what ranks were told is of another phase */

/* recall.c */
void dc_recall_add(struct dc_composer *composer, uint64_t batch_id); /* it is done */
/* trainer/0 is another: nothing was done in its time. */
void dc_recall_forget(struct dc_composer *composer);
void dc_recall_release(struct dc_composer *composer);
int dc_recall_pump(struct dc_composer *composer);

#endif
