/* trainer/back.h -- the job goes back to a checkpoint: mode `exact`, when a trainer or an embedding server was lost.
 *
 * Weights and rows are of one line of steps. Of a process that was lost what it had since the checkpoint is gone, and to make it again
 * the others must not have it: so all go back to the newest checkpoint that is there (to the beginning, where there is none), and make the
 * steps since then again, with the same bits. A process goes back by ending, with RT_EXIT_AGAIN: whoever keeps it up (Kubernetes,
 * `local --restart on-failure`) starts it again, and it restores as ever. One that has just what the checkpoint has stays.
 *
 *   trainer/0:  NONE -tr_back_begin-> CHOOSING (the disk thread) -chosen-> TELLING (GoBack to all that are there) -heard-> ends, or
 *               PAUSING (it stays) -> NONE: owners are asked again, and the group forms
 *
 * It leads whatever was lost: it finds out because every owner, and every rank, is compared with what trainer/0 has before it is worked with:
 * owners by the ledger (owners.h) before anything is looked up, and when they come back; ranks when the group forms. So roles that
 * are of different moments never make a step together, in whatever order they died and were started, and whatever died meanwhile:
 * trainer/0 itself begins with the same comparison. Checkpoints that one of them cannot use are set aside by the one that finds
 * out (rt_store_set_aside()), so "the newest" is the same for all. Middlewares and data-composes stay: batches of steps that are over are
 * refused by owners (embedding_server/back.h), and a composer begins where the ledger is.
 *
 * In the other modes it goes back only where a job has just begun from a checkpoint, made no step, and an owner had to take an older one:
 * then trainers follow it, and nothing is lost. Owners that are ahead answer that they have a batch. Touch: loop thread, but for `work`. */
#ifndef TR_BACK_H
#define TR_BACK_H

#include "runtime/checkpoint/generation.h"
#include "runtime/net/rpc.h"

struct tr_trainer;
struct tr_group;

enum tr_back_state {
    TR_BACK_NONE,
    TR_BACK_CHOOSING,
    TR_BACK_TELLING,
    TR_BACK_PAUSING,
    TR_BACK_ENDS
};

struct tr_back {
    enum tr_back_state state;
    bool counted;             /* this time is in `known`: until all have come together */
    uint64_t base, base_step; /* attempt of the checkpoint that we began with, 0: none; its step */
    uint64_t base_imports;    /* models that it has */
    uint64_t reached;         /* the greatest step that was heard of, of what is given up */
    char why[256];            /* who was lost */
    char said[256];           /* the latest that the log has, of those after which we stayed */
    struct rt_generation known; /* as the folder has it */
    struct rt_generation
        next; /* Touched by: the disk thread while CHOOSING; and so are the next ones */
    uint64_t attempt, step; /* chosen; 0: the beginning */
    char name[64];          /* "": the same */
    int err;
    char text[512];
    struct rt_work work;
    uint64_t round;   /* of GoBack: answers to others do not count */
    uint32_t pending; /* answers */
    struct rt_timer timer;
};

void tr_back_init(struct tr_trainer *trainer); /* before the checkpoint is restored */
void tr_back_release(struct tr_trainer *trainer);
bool tr_back_is_on(const struct tr_trainer *trainer);
/* Rank 0: somebody is of another moment. @reached: a step that was made, as far as is known. */
void tr_back_begin(struct tr_trainer *trainer, uint64_t reached, const char *why);
/* Rank 0: all ranks are here. false: the group does not form now; not all are of one line, or owners are not compared yet. */
bool tr_back_may_form(struct tr_group *group);
/* All are together: the next time is another one. */
void tr_back_together(struct tr_trainer *trainer);
/* Is it known that all have what we have? Before that nothing is looked up. */
bool tr_back_may_work(const struct tr_trainer *trainer);
void tr_back_serve(void *trainer, struct rt_call *call, const struct rt_frame *request);

#endif
