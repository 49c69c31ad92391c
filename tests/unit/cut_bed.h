/* tests/unit/cut_bed.h -- one owner on the test's loop, or on a thread of its own, asked for cuts by a trainer and for updates by a
 * middleware over loopback; the rows of an instant, and rows as a file has them. What fails, fails the test. One bed in a process.
 * Thread: the test's. */
#ifndef TESTS_CUT_BED_H
#define TESTS_CUT_BED_H

#include "runtime/job/layout.h"
#include "runtime/wire/checkpoint.h"
#include "tests/lib/temp.h"
#include "tests/unit/owner_bed.h"

#define CUT_BED_TRAINER    0u
#define CUT_BED_MIDDLEWARE 1u
#define CUT_BED_ROWS       6000u /* of a table */
#define CUT_BED_ROW_MAX    160u  /* bytes */
#define CUT_BED_UPDATE     2000u /* ids, at most */
#define CUT_BED_ANSWERS    64u

enum { CUT_BED_WIDE, CUT_BED_HALF, CUT_BED_NONE, CUT_BED_TABLES };

struct cut_bed_answer {
    bool done;
    int err;
    char text[600];
    uint16_t method;
    uint64_t rows; /* CutReply */
    struct wire_await_cut_reply awaited;
    struct wire_cut_table table[CUT_BED_TABLES];
    char file[64];
};

/* Rows of each table by the number of their id. */
struct cut_bed_rows {
    bool has[CUT_BED_TABLES][CUT_BED_ROWS];
    uint8_t row[CUT_BED_TABLES][CUT_BED_ROWS][CUT_BED_ROW_MAX];
    uint64_t n[CUT_BED_TABLES];
};

struct cut_bed {
    char dir[TEMP_PATH_MAX];
    struct rt_job job;
    struct owner_bed owner;
    struct cut_bed_answer answer[CUT_BED_ANSWERS];
    unsigned asked;
    int wanted;
    bool thread;       /* the owner has one of its own */
    uint64_t still_ns; /* of the owner's next life (owner.h) */
    uint64_t attempt, step, batch, draws;
    struct rt_row_layout layout[CUT_BED_TABLES];
    struct cut_bed_rows now, base;
};
extern struct cut_bed cut_bed;

/* The owner's worker, held up until `go`. */
struct cut_bed_hold {
    struct rt_work work;
    _Atomic bool go;
};
extern struct cut_bed_hold cut_bed_hold;

/* A new folder with one of a checkpoint, "c", and an owner; _thread: on a thread of its own, with rows, its worker held up. */
int cut_bed_set_up(void **state);
int cut_bed_set_up_thread(void **state);
int cut_bed_tear_down(void **state);
/* An owner in the place of one that was closed. @dir: of checkpoints, or NULL. */
void cut_bed_open(uint32_t slice_rows, const char *dir);
void cut_bed_hold_worker(void);
bool cut_bed_is_there(const char *name); /* a file of the checkpoint */

/* Until so many more answers have come. */
void cut_bed_run(int n);
/* Cut, answered: as it is, of the bed's step, and with a ledger of so many finished batches of split 0. */
struct cut_bed_answer *cut_bed_cut_of(uint32_t asker, const struct wire_cut *m);
struct cut_bed_answer *cut_bed_make(uint64_t attempt, uint64_t base);
struct cut_bed_answer *cut_bed_cut_with(uint64_t attempt, uint64_t finished);
struct cut_bed_answer *cut_bed_await(uint64_t attempt); /* not answered yet, as the two below */
struct cut_bed_answer *cut_bed_end(uint64_t attempt, bool keep); /* answered */
/* Of two tables, n ids each; parts of two are an update that waits for the other one. */
struct cut_bed_answer *cut_bed_update(uint32_t n, uint64_t step, uint32_t parts);
struct cut_bed_answer *cut_bed_look_up(void);
void cut_bed_fill(void); /* some thousand rows */

void cut_bed_expect(const struct cut_bed_answer *answer, int err, const char *words);
uint64_t cut_bed_draw(uint64_t below);
uint64_t cut_bed_id_of(size_t k);

/* A cut with updates beside it; base + file are the rows of its instant. */
void cut_bed_whole_cut(uint64_t base, int updates, uint32_t n);

#endif
