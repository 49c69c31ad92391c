/* trainer/metric/window.c -- see the header. Runs do not overlap: a sample is sorted once, or not at all. */
#include "trainer/metric/window.h"

#include "runtime/base/err.h"
#include "runtime/base/mem.h"

#define SOME 256u /* samples on their way into an auc */

int tr_window_init(struct tr_window *window, const struct tr_head *head, uint32_t n_heads,
                   uint32_t batch_size)
{
    size_t most = TR_WINDOW_SAMPLES + (size_t)batch_size;
    const struct tr_head *last = &head[n_heads - 1];
    int err = 0;
    *window = (struct tr_window){.head = head, .n_heads = n_heads};
    window->score =
        rt_try_malloc((last->first + last->columns) * (size_t)batch_size * sizeof(float));
    if (!window->score)
        err = RT_FAIL(RT_ENOMEM, "no memory for the scores of %u samples", batch_size);
    for (uint32_t h = 0; h < n_heads && !err; h++) {
        window->quality[h] = tr_quality_unknown;
        err = tr_auc_create(head[h].kind, most, &window->auc[h]);
        if (!err)
            err = tr_auc_reserve(window->auc[h], most);
    }
    return err;
}

void tr_window_release(struct tr_window *window)
{
    for (uint32_t h = 0; h < TR_HEADS_MAX; h++)
        tr_auc_destroy(window->auc[h]);
    rt_free(window->score);
    *window = (struct tr_window){0};
}

static int add_head(struct tr_window *window, uint32_t h, const struct tr_scored_view *view)
{
    const struct tr_head *last = &window->head[window->n_heads - 1];
    size_t columns = last->first + last->columns;
    struct tr_auc_sample some[SOME];
    int err = 0;
    for (size_t s = 0; s < view->samples && !err;) {
        size_t n = 0;
        for (; n < SOME && s < view->samples; n++, s++)
            some[n] = tr_head_sample(&window->head[h], view->score + s * columns,
                                     view->label + s * view->n_labels,
                                     view->weight ? view->weight[s] : 1);
        err = tr_auc_add_samples(window->auc[h], some, n);
    }
    return err;
}

float *tr_window_scores(const struct tr_window *window)
{
    return window->rest > 0 ? NULL : window->score;
}

int tr_window_add(struct tr_window *window, const struct tr_scored_view *view, bool *complete)
{
    int err = 0;
    *complete = false;
    if (window->rest > 0) {
        window->rest -= view->samples < window->rest ? view->samples : window->rest;
        return 0;
    }
    window->samples += view->samples;
    *complete = window->samples >= TR_WINDOW_SAMPLES;
    for (uint32_t h = 0; h < window->n_heads && !err; h++) {
        err = add_head(window, h, view);
        if (*complete && !err)
            err = tr_auc_result(window->auc[h], NULL, &window->quality[h]);
        if (*complete)
            tr_auc_reset(window->auc[h]);
    }
    if (*complete) {
        window->samples = 0;
        window->rest = TR_WINDOW_REST;
        window->runs++;
    }
    return err;
}
