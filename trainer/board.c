/* trainer/board.c -- see board.h. Points are made on the loop thread, which has all numbers between two steps, and written on the
 * step thread, some hundred bytes a second. */
#include "trainer/board.h"

#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "trainer/metric/events.h"
#include "trainer/model/spec.h"
#include "trainer/state.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define POINTS_EACH   20000u /* points until there are half as many a second */
#define DOUBLINGS_MAX 6u

static double wall_seconds(const struct tr_trainer *trainer)
{
    return (double)trainer->io->ops->wall_ms(trainer->io) * 1e-3;
}

/* ---- to disk ---- */

static void give_up(struct tr_board *board, const char *why)
{
    rt_log(RT_LOG_WARN, "tensorboard_ends reason=\"%s\"", why);
    tr_events_destroy(board->events);
    board->events = NULL;
}

static void write_events(void *arg)
{
    struct tr_board *board = arg;
    uint64_t began = rt_now_ns();
    board->err = tr_events_write(board->events);
    board->took_ns = rt_now_ns() - began;
    board->written = true;
    if (board->err) /* the text belongs to this thread */
        snprintf(board->text, sizeof board->text, "%s", rt_err_text());
}

/* What is put meanwhile waits, up to events.h's limit, and is written at once. */
static void events_written(void *arg)
{
    struct tr_board *board = arg;
    tr_events_given(board->events);
    board->not_before_ns = rt_now_ns() + 50 * board->took_ns;
    if (board->err)
        give_up(board, board->text);
}

static void flush(struct tr_trainer *trainer)
{
    struct tr_board *board = &trainer->board;
    if (rt_now_ns() < board->not_before_ns || !tr_events_take(board->events))
        return;
    board->written = false;
    board->work = (struct rt_work){.run = write_events, .done = events_written, .arg = board};
    rt_io_work(trainer->io, &board->work);
}

void tr_board_init(struct tr_trainer *trainer)
{
    const char *dir = trainer->conf.tensorboard;
    struct tr_board *board = &trainer->board;
    if (!dir || trainer->conf.self.index != 0)
        return;
    if (tr_events_create(dir, wall_seconds(trainer), &board->events) != 0)
        rt_log(RT_LOG_WARN, "tensorboard_ends reason=\"%s\"", rt_err_text());
    else
        flush(trainer);
}

void tr_board_release(struct tr_trainer *trainer)
{
    struct tr_board *board = &trainer->board;
    if (!board->events)
        return;
    uint64_t left_out = tr_events_left_out(board->events);
    if (left_out)
        rt_log(RT_LOG_WARN, "tensorboard_left_out points=%" PRIu64, left_out);
    bool taken = board->work.arg && !board->written; /* no time was left for it */
    if (!taken) {
        tr_events_given(board->events);
        taken = tr_events_take(board->events);
    }
    for (; taken; taken = tr_events_take(board->events)) {
        if (tr_events_write(board->events) != 0) {
            give_up(board, rt_err_text());
            return;
        }
        tr_events_given(board->events);
    }
    tr_events_destroy(board->events);
    board->events = NULL;
}

/* ---- points ---- */

static void put(const struct tr_trainer *trainer, uint32_t head, const char *name, double value)
{
    char tag[TR_NAME_MAX + 64];
    snprintf(tag, sizeof tag, "%s/%s", trainer->head[head].name, name);
    tr_events_value(trainer->board.events, tag, value);
}

/* What is not of the head's kind is NaN, and left out. */
static void put_quality(const struct tr_trainer *trainer, uint32_t head, const char *set,
                        const struct tr_quality *q)
{
    const struct {
        const char *name;
        double value;
    } row[] = {
        {"auc", q->auc},
        {"group_auc", q->group_auc},
        {"normalized_entropy", q->normalized_entropy},
        {"calibration", q->calibration},
        {"accuracy", q->accuracy},
    };
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s_%s", set, row[i].name);
        put(trainer, head, name, row[i].value);
    }
}

static void put_rates(const struct tr_trainer *trainer, uint64_t now_ns)
{
    const struct tr_board *board = &trainer->board;
    double seconds = board->at_ns ? (double)(now_ns - board->at_ns) * 1e-9 : NAN;
    tr_events_value(board->events, "job/learning_rate",
                    trainer->learning_rate * trainer->step_factor);
    tr_events_value(board->events, "job/gradient_norm", trainer->metric.gradient_norm);
    if (seconds > 0)
        tr_events_value(board->events, "job/samples_per_second",
                        (double)board->group_samples / seconds);
}

/* Between two steps: the window is the step thread's, and that is at rest. */
static void put_point(struct tr_trainer *trainer, bool epoch_over)
{
    struct tr_board *board = &trainer->board;
    uint64_t now_ns = rt_io_now(trainer->io);
    tr_events_begin(board->events, wall_seconds(trainer), trainer->step);
    for (uint32_t h = 0; h < trainer->n_heads; h++) {
        if (board->samples > 0)
            put(trainer, h, "train_loss", board->loss_sum[h] / (double)board->samples);
        if (trainer->window.runs != board->windows)
            put_quality(trainer, h, "train", &trainer->window.quality[h]);
        if (epoch_over)
            put(trainer, h, "epoch_loss", trainer->count.head[h].train_loss);
    }
    if (board->group_samples > 0)
        put_rates(trainer, now_ns);
    tr_events_end(board->events);
    memset(board->loss_sum, 0, sizeof board->loss_sum);
    board->samples = board->group_samples = 0;
    board->windows = trainer->window.runs;
    board->at_ns = now_ns;
    board->points++;
    flush(trainer);
}

void tr_board_batch(struct tr_trainer *trainer, const struct tr_batch *batch)
{
    struct tr_board *board = &trainer->board;
    board->samples += batch->head.samples;
    for (uint32_t h = 0; h < trainer->n_heads; h++)
        board->loss_sum[h] += batch->loss_sum[h];
}

/* A job of weeks has a curve of as many points as one can look at. */
static uint64_t interval_ns(const struct tr_board *board)
{
    uint64_t doublings = board->points / POINTS_EACH;
    return RT_S << (doublings < DOUBLINGS_MAX ? doublings : DOUBLINGS_MAX);
}

void tr_board_step(struct tr_trainer *trainer)
{
    struct tr_board *board = &trainer->board;
    uint64_t since = rt_io_now(trainer->io) - board->at_ns;
    board->group_samples += trainer->global_samples;
    bool is_due = board->at_ns == 0 || since >= interval_ns(board);
    bool has_window = trainer->window.runs != board->windows && board->points < POINTS_EACH;
    if (board->events && (is_due || has_window))
        put_point(trainer, false);
}

void tr_board_epoch(struct tr_trainer *trainer)
{
    if (trainer->board.events && trainer->step > 0)
        put_point(trainer, true);
}

void tr_board_test(struct tr_trainer *trainer, uint64_t took_ns)
{
    struct tr_board *board = &trainer->board;
    board->at_ns += board->at_ns ? took_ns : 0;
    if (!board->events)
        return;
    tr_events_begin(board->events, wall_seconds(trainer), trainer->evaluated_step);
    for (uint32_t h = 0; h < trainer->n_heads; h++) {
        put(trainer, h, "test_loss", trainer->quality[h].loss);
        put_quality(trainer, h, "test", &trainer->quality[h]);
    }
    tr_events_end(board->events);
    flush(trainer);
}
