/* trainer/model/lanes.c -- see lanes.h.
 *
 * A run is a number that grows: each lane waits for one that it has not done. They sleep rather than spin: a step has two runs, and
 * the cores are other roles' meanwhile. */
#include "trainer/model/lanes.h"

#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"

struct lane {
    struct tr_lanes *lanes;
    uint32_t number;
    pthread_t thread;
};

struct tr_lanes {
    uint32_t n, started;
    pthread_mutex_t lock;
    pthread_cond_t begun, done;
    /* Under the lock: */
    uint64_t run;  /* how many were begun */
    uint32_t left; /* lanes that are not done with it */
    bool over;
    void (*fn)(void *arg, uint32_t lane);
    void *arg;
    struct lane lane[];
};

static void *work(void *arg)
{
    struct lane *lane = arg;
    struct tr_lanes *lanes = lane->lanes;
    pthread_mutex_lock(&lanes->lock);
    for (uint64_t seen = 0;; seen++) {
        while (lanes->run == seen && !lanes->over)
            pthread_cond_wait(&lanes->begun, &lanes->lock);
        if (lanes->over)
            break;
        pthread_mutex_unlock(&lanes->lock);
        lanes->fn(lanes->arg, lane->number);
        pthread_mutex_lock(&lanes->lock);
        if (--lanes->left == 0)
            pthread_cond_signal(&lanes->done);
    }
    pthread_mutex_unlock(&lanes->lock);
    return NULL;
}

int tr_lanes_create(uint32_t n, struct tr_lanes **out)
{
    rt_assert(n >= 1 && n <= TR_LANES_MAX);
    struct tr_lanes *lanes = rt_xcalloc(1, sizeof *lanes + n * sizeof lanes->lane[0]);
    pthread_mutex_init(&lanes->lock, NULL);
    pthread_cond_init(&lanes->begun, NULL);
    pthread_cond_init(&lanes->done, NULL);
    lanes->n = n;
    for (lanes->started = 1; lanes->started < n; lanes->started++) {
        struct lane *lane = &lanes->lane[lanes->started];
        *lane = (struct lane){.lanes = lanes, .number = lanes->started};
        int err = pthread_create(&lane->thread, NULL, work, lane);
        if (err) {
            uint32_t got = lanes->started;
            tr_lanes_destroy(lanes);
            return RT_FAIL(RT_ENOMEM, "trainer.threads: thread %u of %u: %s", got + 1, n,
                           strerror(err));
        }
    }
    *out = lanes;
    return 0;
}

void tr_lanes_destroy(struct tr_lanes *lanes)
{
    if (!lanes)
        return;
    pthread_mutex_lock(&lanes->lock);
    lanes->over = true;
    pthread_cond_broadcast(&lanes->begun);
    pthread_mutex_unlock(&lanes->lock);
    for (uint32_t i = 1; i < lanes->started; i++)
        pthread_join(lanes->lane[i].thread, NULL);
    pthread_cond_destroy(&lanes->done);
    pthread_cond_destroy(&lanes->begun);
    pthread_mutex_destroy(&lanes->lock);
    rt_free(lanes);
}

void tr_lanes_run(struct tr_lanes *lanes, void (*fn)(void *arg, uint32_t lane), void *arg)
{
    pthread_mutex_lock(&lanes->lock);
    lanes->fn = fn;
    lanes->arg = arg;
    lanes->left = lanes->n - 1;
    lanes->run++;
    pthread_cond_broadcast(&lanes->begun);
    pthread_mutex_unlock(&lanes->lock);
    fn(arg, 0);
    pthread_mutex_lock(&lanes->lock);
    while (lanes->left > 0)
        pthread_cond_wait(&lanes->done, &lanes->lock);
    pthread_mutex_unlock(&lanes->lock);
}
