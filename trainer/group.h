/* trainer/group.h -- the ranks of a job as one: who is in, and what each brings to the next step.
 *
 *   JOINING -on_joined-> FETCHING (behind) -tr_form_done-> FORMED;   at the same step: FORMED at once
 *   any -tr_group_break-> JOINING: a rank came back with another incarnation, or nothing moved for long
 *
 * FORMED: the ranks go through rounds together. A round is one header of every rank, gathered by rank 0
 * (group.c); where somebody has a batch it is a step (step.c). Forming is form.c's. Touch: loop thread. */
#ifndef TR_GROUP_H
#define TR_GROUP_H

#include "runtime/base/map.h"
#include "runtime/net/rpc.h"
#include "runtime/wire/batch.h"
#include "runtime/wire/step.h"
#include "trainer/header.h"

struct tr_trainer;
struct tr_batch;

enum tr_group_state { TR_JOINING, TR_FETCHING, TR_FORMED };

/* Our place in the round that is being gathered. */
enum tr_standing {
    TR_OUT,         /* rank 0 has no header of ours, and waits for one */
    TR_IN_BATCH,    /* it has our batch */
    TR_IN_NOTHING,  /* we join without one */
    TR_WITHDRAWING, /* we had nothing and now expect a batch */
};

/* One rank's part of a round. */
struct tr_share {
    bool has_batch;
    uint32_t samples;
    uint64_t batch_id, unaveraged;
};

struct tr_round {
    struct tr_share *share; /* [world] */
    double learning_rate;   /* factor, rank 0's */
};

/* What rank 0 knows of a rank. */
struct tr_seat {
    struct rt_call *call; /* its header's, owed the round */
    bool in;
    struct wire_step_header header; /* finished: ours to free */
    struct rt_call *join_call;      /* its JoinGroup's, owed the group */
    bool joined;
    uint8_t *state; /* that came with it: counts when the group forms */
    size_t state_size;
    uint64_t step, imports, imports_due, group_epoch;
    uint64_t steps_before; /* in its weights, when `step` was 0 */
    uint64_t digest;       /* of what it begins with; 0: it was in a group already */
    uint64_t epoch_heard;  /* the latest that a frame of this incarnation was sent in */
    uint64_t unaware;      /* incarnation that may not know that weights differ: agree.h; 0: none */
    bool telling;          /* it is being told */
};

/* Whoever is as far as the leader fetches nothing, and has to agree. */
static inline bool tr_seat_is_as_far(const struct tr_seat *seat, const struct tr_seat *leader)
{
    return seat->imports == leader->imports && seat->step == leader->step;
}

struct tr_group {
    struct tr_trainer *trainer;
    uint32_t world, self;
    enum tr_group_state state;
    bool
        was_formed; /* in this life: what we know of ledger and phase goes with weights that are here */
    uint64_t epoch, epoch_known; /* of the group; the highest that was heard of */
    uint64_t epoch_over;         /* rank 0 has said that it forms the group again after this one */

    uint64_t round; /* that is being gathered; the one before it may be under way as a step */
    enum tr_standing standing;
    bool sent;       /* rank 0 has it, or it is on its way on a connection that is up */
    uint64_t serial; /* of the latest header or JoinGroup: replies to older ones do not count */
    struct wire_step_header mine;
    struct tr_batch *entered; /* the batch in our header */
    uint64_t *news;           /* [n_news] finished here, not yet told in a round */
    size_t n_news, n_told, news_capacity;
    uint32_t news_max; /* of one header */

    bool gathered; /* `next` has all headers and waits for the step before it */
    struct tr_round next, current;
    uint64_t unaveraged; /* mode `async`: samples since the latest average */
    uint32_t local_steps;
    bool must_average; /* ... before the first local step of this group epoch */

    struct tr_seat *seat;            /* [world]; rank 0 */
    uint64_t *incarnation;           /* [world] of the ranks in this group epoch */
    struct wire_rank_counts *counts; /* [world] as the latest round told them */
    uint64_t attempt;     /* that steps of this group epoch are; greater than that of any before */
    struct wire_out last; /* rank 0: the latest round, or the group's forming, for who asks again */
    struct wire_out formed; /* JoinGroupReply of this group epoch */

    struct rt_map noted;  /* batch id: finished at the rank before us, not yet told in a round */
    struct rt_map owed;   /* batch id -> struct wire_owed: stepped, not finished, of any rank */
    uint64_t begins_with; /* digest of the weights and the state that this rank was started with */
    uint32_t leader;      /* whose state we fetch */
    uint64_t leader_step, leader_imports;
    float *fetched; /* parameters and optimizer state on their way */
    size_t n_fetched;
    struct wire_owed *fetched_owed; /* of the steps in them */
    uint32_t n_fetched_owed;
    uint8_t *heard; /* meanwhile, the group's ledger and phase: they count with the weights */
    size_t heard_size;
    struct rt_timer tell_again; /* NoteFinished that failed */
    struct rt_timer again;      /* the leader is not in the group yet: ask once more */
};

int tr_group_create(struct tr_trainer *trainer);
void tr_group_destroy(struct tr_group *group); /* after the rpc; NULL is legal */
void tr_group_close(struct tr_group *group);   /* before the rpc: calls are answered */

/* group.c */
void tr_group_pump(struct tr_group *group); /* send our header, or what joining needs */
/* The gathered round becomes group->current. false: there is none. */
bool tr_group_begin(struct tr_group *group);
void tr_group_serve_header(void *trainer, struct rt_call *call, const struct rt_frame *request);
void tr_group_reset(struct tr_group *group); /* no header is anywhere; our batch is READY again */
/* Form the group again. `why` goes to the log. */
void tr_group_break(struct tr_group *group, const char *why);
void tr_group_peer_up(struct tr_group *group, struct rt_peer *peer);
void tr_group_heard(struct tr_group *group, uint32_t rank, uint64_t incarnation); /* a hello */

/* finished.c */
/* All owners have the batch. Data-compose hears of it when the next rank has noted it: with one rank alone the
 * knowledge could die, and then nobody would ever finish the batch. */
void tr_group_finish(struct tr_batch *batch);
void tr_group_serve_note(void *trainer, struct rt_call *call, const struct rt_frame *request);
void tr_group_serve_finished(void *trainer, struct rt_call *call, const struct rt_frame *request);
/* The next rank is reached: tell it of all batches that wait for that. */
void tr_group_tell_neighbour(struct tr_group *group);
/* What the ranks before us told us counts, though they did not live to tell it in a round. */
void tr_group_believe_notes(struct tr_group *group);
/* Finished here: to be told in a header. */
void tr_group_news(struct tr_group *group, uint64_t batch_id);
/* How much of it goes into the next header; the rest waits for the one after. */
size_t tr_group_news_to_tell(const struct tr_group *group);
/* What a header of a complete round tells, into the ledger. */
void tr_group_take_news(struct tr_group *group, const struct wire_step_header *header);
/* Rank 0, of a batch that is owed: is it known to be finished, though no round has told it yet? Its rank has noted it here, or says so
 * in the header of the round that is being gathered. */
bool tr_group_has_heard(struct tr_group *group, uint64_t batch_id);
/* A batch was committed in `step`: remember what running it again would need. */
void tr_group_owe(struct tr_group *group, const struct wire_owed *owed);
/* Has the group stepped a batch of this rank that is not finished? */
bool tr_group_owes(const struct tr_group *group);
/* Batches of ours that are stepped, and hold no permit yet: they have to come again. */
size_t tr_group_owes_later(const struct tr_group *group);
/* What all ranks' ledgers together know as finished is owed no more. */
void tr_group_forget_finished(struct tr_group *group);
void tr_group_forget_owed(struct tr_group *group);
/* What headers and notes of this group have to be. */
struct tr_header_rules tr_group_rules(const struct tr_group *group);

/* form.c */
/* Of weights, optimizer state and steps, as they are before the first group forms. 50 million floats take 30 ms (Zen 3), so it is made
 * before there are peers. */
uint64_t tr_form_digest(const struct tr_trainer *trainer);
/* A rank of a group that was never in it in this life takes nothing that goes with the weights: RT_ENOTREADY. */
int tr_form_check_known(const struct tr_group *group, const char *what);
/* Nor, while the group forms, what is finished by others' weights: those may be lost before we have them. RT_ENOTREADY. */
int tr_form_check_formed(const struct tr_group *group, const char *what);
void tr_form_pump(struct tr_group *group);
void tr_form_invite(struct tr_group *group, struct rt_peer *peer);
void tr_form_serve_join(void *trainer, struct rt_call *call, const struct rt_frame *request);
/* What rank 0 packed for all: the ledger and the phase are ours too. The scratch arena is the caller's. */
int tr_form_take(struct tr_trainer *trainer, const uint8_t *data, size_t size);
void tr_form_done(
    struct tr_group *group); /* the group is there, and this rank is as far as the others */

/* fetch.c */
void tr_fetch_pump(struct tr_group *group); /* FETCHING: ask the leader for the next part */
void tr_fetch_serve(void *trainer, struct rt_call *call, const struct rt_frame *request);
void tr_fetch_forget(
    struct tr_group *group); /* what was fetched and heard of a group that has broken */

#endif
