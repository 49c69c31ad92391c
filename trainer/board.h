/* trainer/board.h -- what rank 0 puts on the TensorBoard: which numbers, and when. Private to trainer/.
 *
 *   after the first step, then once a second, at the end of each epoch, and where a training window is complete (metric/window.h);
 *   after 20,000 points every two seconds, after as many more every four, and so on to 64: 20 MB in a few weeks
 *       HEAD/train_loss        mean loss of this rank's samples since the point before
 *       HEAD/train_auc ...     of the window, at the step that completed it
 *       job/learning_rate      dense, of the step; job/gradient_norm: before clipping
 *       job/samples_per_second of all ranks (in mode async of this one), since the point before, evaluations apart
 *   at the end of each epoch  HEAD/epoch_loss, of this rank's samples
 *   after each evaluation     HEAD/test_loss, HEAD/test_auc ... as the summary has them
 * A file that cannot be written is told of once, and is no reason to end a job. Touch: loop thread. */
#ifndef TR_BOARD_H
#define TR_BOARD_H

#include "runtime/net/io.h"
#include "trainer/model/model.h"

struct tr_batch;
struct tr_events;
struct tr_trainer;

/* Zero is valid: nothing is put anywhere. */
struct tr_board {
    struct tr_events *events; /* NULL: there is no file, or no more */
    uint64_t at_ns;           /* of the point before; moved on by the time of evaluations */
    uint64_t points;
    double loss_sum[TR_HEADS_MAX]; /* since then */
    uint64_t samples, group_samples, windows;
    struct rt_work work;
    uint64_t
        not_before_ns; /* of the next write: a slow disk has a fiftieth of the step thread's time */
    bool written;      /* Touched by: the worker, while it writes; and the next three */
    uint64_t took_ns;
    int err;
    char text[512];
};

void tr_board_init(struct tr_trainer *trainer);
void tr_board_release(struct tr_trainer *trainer); /* writes what is left; the worker is at rest */

void tr_board_batch(struct tr_trainer *trainer, const struct tr_batch *batch); /* committed */
void tr_board_step(struct tr_trainer *trainer);                                /* made */
void tr_board_epoch(struct tr_trainer *trainer);                               /* closed */
void tr_board_test(struct tr_trainer *trainer, uint64_t took_ns);              /* evaluated */

#endif
