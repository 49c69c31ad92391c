/* trainer/collective/single.c -- the group of one rank. */
#include "trainer/collective/collective.h"

#include "runtime/base/mem.h"

struct single {
    struct tr_collective base;
    tr_reduced_fn done;
    void *arg;
};

static void begin(struct tr_collective *collective, float *value, size_t n, uint32_t dtype,
                  tr_reduced_fn done, void *arg)
{
    struct single *single = (struct single *)collective;
    (void)value, (void)n, (void)dtype; /* one summand is the sum */
    single->done = done;
    single->arg = arg;
}

static void ready(struct tr_collective *collective, size_t from)
{
    (void)collective, (void)from;
}

static void complete(struct tr_collective *collective, bool nonfinite)
{
    struct single *single = (struct single *)collective;
    uint8_t flag = nonfinite;
    single->done(single->arg, 0, &flag);
}

static void abort_open(struct tr_collective *collective)
{
    (void)collective;
}

static void form(struct tr_collective *collective, uint64_t group_epoch)
{
    (void)collective, (void)group_epoch;
}

static void destroy(struct tr_collective *collective)
{
    rt_free(collective);
}

int tr_collective_single(struct tr_collective **out)
{
    static const struct tr_collective_ops ops = {"single",   begin, ready,  complete,
                                                 abort_open, form,  destroy};
    struct single *single = rt_xcalloc(1, sizeof *single);
    single->base.ops = &ops;
    *out = &single->base;
    return 0;
}
