/* tests/sim/job_rows.c -- see job_rows.h. */
#include "tests/sim/job_rows.h"

#include "runtime/base/clock.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void on_read(void *arg)
{
    *(bool *)arg = true;
}

static bool is_read(void *arg)
{
    return *(bool *)arg;
}

void jw_count_rows(struct job_world *w, bool steps_are_equal, const uint32_t *declared,
                   struct oracle_result *out)
{
    const char *address[JW_MAX];
    struct oracle *oracle;
    bool done = false;
    for (unsigned k = 0; k < w->conf.owners; k++)
        address[k] = ebs_owner_address(w->owner[k]);
    struct oracle_conf conf = {.io = sim_node(w->sim, jw_node_spare(w)),
                               .job = w->job,
                               .servers = w->conf.servers,
                               .workers = jw_workers(w),
                               .address = address,
                               .steps_are_equal = steps_are_equal,
                               .declared = declared,
                               .done = on_read,
                               .arg = &done};
    oracle_start(&conf, &oracle);
    if (!sim_run_until(w->sim, is_read, &done, 60 * RT_S))
        fail_msg("seed %llu: the rows cannot be read", (unsigned long long)w->conf.seed);
    oracle_result(oracle, out);
    oracle_destroy(oracle);
}
