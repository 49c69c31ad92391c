/* tests/sim/owner_stub.h -- owners as trainer/0 sees them in a checkpoint: they cut, write a row file without rows, and say what
 * they have lost. Rows are those of the job_world's own owners, which know nothing of checkpoints; at every cut their filters are
 * compared with trainer/0's ledger. */
#ifndef OWNER_STUB_H
#define OWNER_STUB_H

#include "tests/sim/job_world.h"

enum { STUBS_MAX = 4 };

struct stubs;

struct owner_stub {
    struct stubs *all;
    unsigned number;
    uint64_t incarnation;
    struct rt_rpc *rpc;
    char address[RT_ADDRESS_MAX];
    uint64_t attempt, base, step, kept; /* of the latest cut; that was published last */
    char name[64];
    bool written;
    uint64_t bytes, digest;
    struct rt_call *await, *held; /* held: a Cut that is not answered */
    struct rt_timer timer;
};

struct stubs {
    struct job_world *world;
    char dir[128];
    unsigned n;
    struct owner_stub at[STUBS_MAX];
    uint64_t key, draws;
    bool mute;        /* Cut is not answered */
    bool fails;       /* no file can be written */
    uint64_t slow_ns; /* what writing one takes beyond what it takes else */
    bool rolled_back; /* rows are ahead of the ledger: the trainers have gone back */
    uint64_t lose;    /* batches that the next TellLedger will hear are lost */
    unsigned cuts, increments, refused, kept, given_up, told;
};

/* As jw_start(), with stubs as owners in a new folder; conf: with spares for `n` of them. */
void stubs_start(struct stubs *stubs, struct job_world *w, struct jw_conf *conf, unsigned n);
void stubs_stop(struct stubs *stubs); /* before jw_stop() */
/* All loops of the server die and come back, without what they were at. */
void stubs_restart(struct stubs *stubs);

#endif
