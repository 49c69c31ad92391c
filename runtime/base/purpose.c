/* runtime/base/purpose.c -- one account for the whole process. */
#include "runtime/base/purpose.h"
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

static _Atomic int now;                                   /* enum rt_purpose */
static _Atomic uint64_t sent[RT_PURPOSES][RT_ROLE_COUNT]; /* Touched by: all loops */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;  /* guards the two below */
static uint64_t used_ns[RT_PURPOSES], since_ns; /* of closed stretches; CPU clock at the change */

const char *rt_purpose_name(enum rt_purpose purpose)
{
    static const char *const name[RT_PURPOSES] = {"other", "train", "evaluate"};

    rt_assert((unsigned)purpose < RT_PURPOSES);
    return name[purpose];
}

static uint64_t process_cpu_ns(void)
{
    struct timespec used;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return (uint64_t)used.tv_sec * RT_S + (uint64_t)used.tv_nsec;
}

enum rt_purpose rt_purpose_now(void)
{
    return (enum rt_purpose)atomic_load_explicit(&now, memory_order_relaxed);
}

void rt_purpose_begin(enum rt_purpose purpose)
{
    uint64_t used;

    rt_assert((unsigned)purpose < RT_PURPOSES);
    if (rt_purpose_now() == purpose)
        return;
    pthread_mutex_lock(&lock);
    used = process_cpu_ns();
    used_ns[rt_purpose_now()] += used - since_ns;
    since_ns = used;
    atomic_store_explicit(&now, purpose, memory_order_relaxed);
    pthread_mutex_unlock(&lock);
}

uint64_t rt_purpose_cpu_ns(enum rt_purpose purpose)
{
    uint64_t used;

    rt_assert((unsigned)purpose < RT_PURPOSES);
    pthread_mutex_lock(&lock);
    used = used_ns[purpose];
    if (rt_purpose_now() == purpose)
        used += process_cpu_ns() - since_ns;
    pthread_mutex_unlock(&lock);
    return used;
}

void rt_purpose_sent(enum rt_purpose purpose, enum rt_role to, uint64_t bytes)
{
    atomic_fetch_add_explicit(&sent[purpose][to], bytes, memory_order_relaxed);
}

const _Atomic uint64_t *rt_purpose_sent_bytes(enum rt_purpose purpose, enum rt_role to)
{
    rt_assert((unsigned)purpose < RT_PURPOSES && (unsigned)to < RT_ROLE_COUNT);
    return &sent[purpose][to];
}
