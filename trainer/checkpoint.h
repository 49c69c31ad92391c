/* trainer/checkpoint.h -- trainer/0 leads a checkpoint of the job (design section 8): weights, rows and ledger of one instant.
 * When one begins is checkpoint_begin.c's, what the disk thread does checkpoint_disk.c's, the rest checkpoint.c's.
 *
 *   IDLE -begin (it is due)-> OPENING -opened-> HOLDING -cut (quiet)-> CUTTING -all_cut-> WRITING -publish-> PUBLISHING
 *   PUBLISHING -published-> ENDING -ended-> IDLE      any -give_up-> ENDING: the attempt is void, its folder goes
 *
 *   OPENING     the folder DIR/NAME is made; once in this life others' folders without a manifest are swept
 *   HOLDING     the group makes no step, until what was stepped is with its owners at all ranks (hold.h)
 *   CUTTING     what the manifest will say is copied, dense network included, and every owner is told to cut: from its answer on it
 *               copies rows before they change. All have answered: the group goes on
 *   WRITING     owners write their files (AwaitCut), a disk thread the dense ones
 *   PUBLISHING  manifest.json, by rename: from here on the checkpoint is there. Where the disk does not say that it is, it counts as
 *               void, but it and those before it stay
 *   ENDING      owners hear whether it is kept (EndCut); what is too old, or void, is removed
 *
 * A step waits for HOLDING and CUTTING alone. They end with a bad end where the group breaks, a connection to an owner is lost or
 * checkpoint.cut_timeout_ms has passed; WRITING goes on whatever becomes of the ranks, for the instant is fixed, and ends with a bad
 * end when an owner is another than the one that cut, or says that its file cannot be written, or, while an owner cannot be asked or the
 * dense files alone are missing, nothing has moved for TR_CHECKPOINT_STILL_NS. Training goes on in any case; the next one is tried when it is due, and is a full one. So is one after an owner that refused to go on from the one
 * before: at once. When the process is told to stop, one more is made, again if it fails, and nobody steps any more (tr_trainer_drain). So it is when an
 * embedding server is told to stop (owners.h): at once, and nobody steps until that one has gone. In an
 * evaluation it is as quiet as it can be: one is made there too, and says what its training had come to.
 * Whoever makes checkpoints in a folder holds its lock (folder.h). Disk work goes to the io's disk thread, one job at a time.
 * Rank 0 alone. Touch: the loop thread, but for `job`. */
#ifndef TR_CHECKPOINT_H
#define TR_CHECKPOINT_H

#include "runtime/net/io.h"
#include "trainer/snapshot.h"

struct tr_trainer;
struct rt_peer;

#define TR_CHECKPOINT_KEPT     8u /* outcomes that are told */
#define TR_CHECKPOINT_HOLD_NS  (10 * 1000000000ull)
#define TR_CHECKPOINT_STILL_NS (600 * 1000000000ull)
#define TR_CHECKPOINT_ASKED_NS (60 * 1000000000ull) /* that an operator's waits to begin */
#define TR_CHECKPOINT_LAST_NS  (10 * 1000000000ull) /* and the last one of a process */
#define TR_CHECKPOINT_TRIES_NS (18 * 1000000000ull) /* and that may be tried again; it has 25 s */

enum tr_checkpoint_state {
    TR_CHECKPOINT_IDLE,
    TR_CHECKPOINT_OPENING,
    TR_CHECKPOINT_HOLDING,
    TR_CHECKPOINT_CUTTING,
    TR_CHECKPOINT_WRITING,
    TR_CHECKPOINT_PUBLISHING,
    TR_CHECKPOINT_ENDING,
};

/* One attempt, for status. */
struct tr_checkpoint_told {
    char name[64];
    uint64_t number; /* the operator's; 0: it was due by itself */
    enum {
        TR_CHECKPOINT_WORKS,
        TR_CHECKPOINT_DONE,
        TR_CHECKPOINT_FAILED,
        TR_CHECKPOINT_WAITS
    } state;
    uint64_t step, attempt, base, rows, bytes;
    double seconds, held_seconds; /* from its beginning; of no step */
    bool suspect;                 /* made while an alarm stood: alarm.h */
    char error[512];              /* why it failed; what it waits for */
};

/* What the disk thread works on. Touched by: it, between start_job() and job_done(). */
struct tr_checkpoint_job {
    struct rt_work work;
    bool open; /* there is one */
    int (*run)(struct tr_trainer *trainer);
    int err;
    char text[1024];
    char name[64]; /* of the folder; opening may choose another one, and publishing takes: */
    char final[64];
    uint64_t attempt;
    bool made; /* the folder, by this attempt */
    bool
        has_base; /* opening: what an increment would go on from is there, with all that it needs */
    bool doubted; /* publishing: nobody knows whether it is there, and stays; `text` says why */
    bool left;    /* what could not be removed: the next opening sweeps */
};

struct tr_checkpoint {
    enum tr_checkpoint_state state;
    struct tr_checkpoint_told now, before[TR_CHECKPOINT_KEPT]; /* before: ended, newest first */
    uint32_t n_before;
    uint64_t asked; /* the operator's number that is to be begun; 0: none */
    char asked_name[64];
    char waits[160]; /* what the next one that is wanted waits for; "": nothing */
    uint64_t asked_ns, draining_ns;
    bool holds;
    bool stays;   /* no step follows the latest: we, or an embedding server, are told to stop */
    bool is_full; /* the next one has to be: nothing is there to go on from, or it was refused */
    uint64_t last_attempt, last_step; /* published; attempt 0: none yet in this life */
    uint64_t last_imports;            /* models that it has */
    char last_name[64];
    uint32_t since_full;           /* published since the last full one */
    uint64_t tried_ns, tried_step; /* when the last attempt began, or this life */
    uint64_t known_attempt;        /* the greatest that was ever used */
    bool folder_known;             /* it was swept, and listed for its greatest attempt */
    bool refused;                  /* by an owner: a full one follows */
    bool draining, drain_tried;    /* the process is to stop after a last one; which was begun */
    bool drained;                  /* and that it may stop was said */
    uint8_t *cut;                  /* [owners] enum: what is known of the attempt there */
    uint64_t *cut_by;              /* [owners] the incarnation that cut */
    uint32_t n_cut, n_written;
    bool dense_written;
    uint64_t began_ns, held_ns, moved_ns;
    uint64_t quiet_ns; /* HOLDING: when nothing was on its way any more; 0: something is */
    uint64_t published, voided, published_ns;
    uint64_t void_told_ns, void_untold; /* when the log was told of one; of how many not since */
    uint64_t voided_in_row;             /* since the latest was published */
    uint64_t cut_ns;                    /* when the one at hand was cut */
    int64_t durable_ns; /* and the newest; or this life began. Below 0: before the clock did */
    struct rt_timer timer;
    struct rt_timer wait; /* while one is wanted that cannot begin, or it stays */
    struct tr_snapshot snapshot;
    struct tr_checkpoint_job job;
};

void tr_checkpoint_init(struct tr_trainer *trainer); /* before all else */
void tr_checkpoint_release(struct tr_trainer *trainer);
bool tr_checkpoint_holds(const struct tr_checkpoint *checkpoint); /* until it is cut */
bool tr_checkpoint_stays(const struct tr_checkpoint *checkpoint); /* and afterwards */
void tr_checkpoint_look(struct tr_trainer *trainer); /* now, and again while one is wanted */
void tr_checkpoint_pump(struct tr_trainer *trainer); /* begin what is due; cut when it is quiet */
/* The job goes back: one that is being made is given up; one whose manifest is being written comes to be. */
void tr_checkpoint_stop(struct tr_trainer *trainer);
/* A connection to an owner is there; its incarnation is that of the peer. */
void tr_checkpoint_owner_up(struct tr_trainer *trainer, uint32_t owner);

/* checkpoint_begin.c */
void tr_checkpoint_begin_init(struct tr_trainer *trainer);

/* checkpoint.c, for checkpoint_begin.c: `now` and job.name are set */
void tr_checkpoint_open(struct tr_trainer *trainer);
void tr_checkpoint_cut(struct tr_trainer *trainer); /* it is still (hold.h) */
void tr_checkpoint_give_up(struct tr_trainer *trainer, const char *why);
void tr_checkpoint_let_leave(struct tr_trainer *trainer);          /* nothing is being made */
void tr_checkpoint_keep_outcome(struct tr_checkpoint *checkpoint); /* `now` has ended */

/* checkpoint_disk.c: on the disk thread, of checkpoint.job; RT_EFILE and what store.h says */
int tr_checkpoint_open_folder(struct tr_trainer *trainer);
int tr_checkpoint_write_dense(struct tr_trainer *trainer);
int tr_checkpoint_write_manifest(struct tr_trainer *trainer);
int tr_checkpoint_remove_old(struct tr_trainer *trainer);
int tr_checkpoint_remove_void(struct tr_trainer *trainer);

#endif
