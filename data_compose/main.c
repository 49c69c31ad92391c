/* data_compose/main.c -- saffron-data-compose: raw records in, complete batches out. */
#include "data_compose/composer.h"
#include "data_compose/convert.h"
#include "data_compose/generate.h"
#include "runtime/base/err.h"
#include "runtime/process/process.h"

#include <math.h>
#include <string.h>

struct program {
    struct rt_process *process;
    struct dc_composer *composer;
    bool done;
};

static void on_hello(void *ctx, const struct wire_hello *h)
{
    struct dc_composer *composer = ((struct program *)ctx)->composer;

    if (composer && h->role == RT_ROLE_MIDDLEWARE)
        dc_composer_on_middleware(composer, h->index, h->replicas, h->address, h->n_addresses,
                                  h->incarnation);
    else if (composer && h->role == RT_ROLE_TRAINER)
        dc_composer_on_trainer(composer, h->index, h->replicas, h->address, h->n_addresses,
                               h->incarnation);
}

static int is_ready(void *ctx)
{
    struct program *program = ctx;
    char waiting[64];
    bool ready =
        program->composer && dc_composer_ready(program->composer, waiting, sizeof(waiting));

    if (program->composer && !program->done)
        rt_process_set_waiting(program->process, ready ? NULL : waiting);
    return ready;
}

static void put_count(json_t *object, const char *key, uint64_t value)
{
    json_object_set_new(object, key, json_integer((json_int_t)value));
}

static void put_number(json_t *object, const char *key, double value)
{
    json_object_set_new(object, key, isfinite(value) ? json_real(value) : json_null());
}

static void status(void *ctx, json_t *object)
{
    struct dc_status s;

    if (!((struct program *)ctx)->composer)
        return;
    dc_composer_status(((struct program *)ctx)->composer, &s);
    json_object_set_new(object, "phase", json_string(s.stage));
    put_count(object, "epoch", s.epoch);
    put_count(object, "rows_read", s.rows_read);
    put_count(object, "rows_quarantined", s.rows_quarantined);
    put_count(object, "batches_done", s.batches_done);
    put_count(object, "batches_retried", s.batches_retried);
    put_count(object, "batches_open", s.batches_open);
    put_count(object, "queue_batches", s.queue);
    put_count(object, "bytes_read", s.bytes_read);
    put_count(object, "bytes_put", s.bytes_put);
    put_number(object, "epoch_rows", s.epoch_rows);
    put_number(object, "test_auc_best_possible", s.test_auc_best_possible);
}

static void on_failed(void *ctx, int err)
{
    rt_process_fail(((struct program *)ctx)->process, err);
}

static void on_done(void *ctx)
{
    ((struct program *)ctx)->done = true;
    rt_process_set_state(((struct program *)ctx)->process, WIRE_DONE);
}

static void on_replaced(void *ctx, uint64_t by)
{
    rt_process_fenced(((struct program *)ctx)->process, by);
}

static int start(struct program *program)
{
    struct rt_process *process = program->process;
    struct dc_composer_conf conf = {
        .io = rt_loop_io(rt_process_loop(process)),
        .job = rt_process_job(process),
        .size = rt_process_size(process),
        .run_dir = rt_process_run_dir(process),
        .metrics = rt_process_metrics(process),
        .ctx = program,
        .failed = on_failed,
        .done = on_done,
        .replaced = on_replaced,
    };

    rt_process_identity(process, 0, &conf.identity);
    int err = dc_composer_create(&conf, &program->composer);
    return err ? err : rt_process_announce(process, NULL, 0);
}

int main(int argc, char **argv)
{
    struct program program = {0};
    const struct rt_process_role role = {
        .role = RT_ROLE_DATA_COMPOSE,
        .program = "saffron-data-compose",
        .doc = "Read the data files and send complete batches to middlewares and trainers; or, as "
               "`saffron-data-compose convert`, write a job's rows in a form that is faster to "
               "read; or, "
               "as `... generate`, write files of a click log (their --help tells more).",
        .listens_to = RT_ROLE_BIT(RT_ROLE_MIDDLEWARE) | RT_ROLE_BIT(RT_ROLE_TRAINER),
        .ctx = &program,
        .hello = on_hello,
        .ready = is_ready,
        .status = status,
    };
    if (argc > 1 && strcmp(argv[1], "generate") == 0) {
        argv[1] = "saffron-data-compose generate";
        return dc_generate(argc - 1, argv + 1);
    }
    if (argc > 1 && strcmp(argv[1], "convert") == 0) {
        argv[1] = "saffron-data-compose convert";
        return dc_convert(argc - 1, argv + 1);
    }
    int err = rt_process_start(argc, argv, &role, &program.process);

    if (err)
        return rt_exit_code(err);
    err = start(&program);
    if (!err)
        err = rt_process_run(program.process);
    dc_composer_destroy(program.composer);
    return rt_process_end(program.process, err);
}
