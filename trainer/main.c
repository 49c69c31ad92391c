/* trainer/main.c -- saffron-trainer: one rank of the dense network. */
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "runtime/process/process.h"
#include "runtime/process/saving.h"
#include "trainer/checkpoint.h"
#include "trainer/describe.h"
#include "trainer/folder.h"
#include "trainer/gpu.h"
#include "trainer/import.h"
#include "trainer/trainer.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

struct program {
    struct rt_process *process;
    struct tr_trainer *trainer;
    struct tr_device_of device;
    struct tr_folder folder;
    struct rt_saving *saving; /* the latest; NULL: none */
    bool done;
    uint64_t digest; /* of the weights, once done: hashed once, 50 million take 30 ms */
};

static void on_hello(void *ctx, const struct wire_hello *hello)
{
    struct program *program = ctx;
    if (hello->role == RT_ROLE_MIDDLEWARE && hello->n_addresses > 0)
        tr_trainer_on_middleware(program->trainer, hello->index, hello->replicas, hello->address,
                                 hello->n_addresses, hello->incarnation);
    if (hello->role == RT_ROLE_EMBEDDING_SERVER && hello->n_addresses > 0)
        tr_trainer_on_server(program->trainer, hello->index, hello->replicas, hello->address,
                             hello->n_addresses, hello->incarnation);
    if (hello->role == RT_ROLE_EMBEDDING_SERVER && hello->state == WIRE_DRAINING)
        tr_trainer_on_server_leaving(program->trainer, hello->index, hello->incarnation);
    if (hello->role == RT_ROLE_TRAINER && hello->n_addresses > 0)
        tr_trainer_on_rank(program->trainer, hello->index, hello->replicas, hello->address[0],
                           hello->incarnation);
}

static int is_ready(void *ctx)
{
    struct program *program = ctx;
    char waiting[128];
    bool ready = program->trainer && tr_trainer_ready(program->trainer, waiting, sizeof waiting);
    if (program->trainer && !program->done)
        rt_process_set_waiting(program->process, ready ? NULL : waiting);
    return ready;
}

static json_t *number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static void put_count(json_t *object, const char *key, uint64_t value)
{
    json_object_set_new(object, key, json_integer((json_int_t)value));
}

static void put_digest(json_t *object, uint64_t digest)
{
    char text[17];
    snprintf(text, sizeof text, "%016" PRIx64, digest);
    json_object_set_new(object, "dense_digest", json_string(text));
}

static json_t *evaluations(const struct tr_report *r)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < r->n_evaluation; i++) {
        const struct tr_evaluation *e = &r->evaluation[i];
        json_t *one = json_object();
        put_count(one, "step", e->step);
        put_count(one, "epoch", e->epoch);
        put_count(one, "samples", e->samples);
        json_object_set_new(one, "auc", number(e->auc));
        json_object_set_new(one, "logloss", number(e->logloss));
        json_array_append_new(list, one);
    }
    return list;
}

/* Of a head in the latest evaluation; what is not of its kind is left out. */
static void put_test(json_t *object, const struct tr_head_report *head)
{
    enum { BCE = 1 << TR_HEAD_BCE, MSE = 1 << TR_HEAD_MSE, CLASSES = 1 << TR_HEAD_SOFTMAX };
    const struct tr_quality *q = &head->test;
    const struct {
        const char *key;
        int kinds;
        double value;
    } row[] = {
        {"loss", BCE | MSE | CLASSES, q->loss},
        {"auc", BCE, q->auc},
        {"group_auc", BCE, q->group_auc},
        {"logloss", BCE | CLASSES, q->logloss},
        {"normalized_entropy", BCE, q->normalized_entropy},
        {"calibration", BCE | MSE, q->calibration},
        {"mse", MSE, q->mse},
        {"accuracy", CLASSES, q->accuracy},
    };
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++)
        if (row[i].kinds >> head->kind & 1)
            json_object_set_new(object, row[i].key, number(row[i].value));
    if (BCE >> head->kind & 1)
        put_count(object, "groups", q->groups);
    put_count(object, "nonfinite", q->nonfinite);
}

static json_t *heads(const struct tr_report *r)
{
    json_t *list = json_array();
    for (uint32_t h = 0; h < r->n_heads; h++) {
        json_t *one = json_object();
        json_object_set_new(one, "name", json_string(r->head[h].name));
        json_object_set_new(one, "kind", json_string(tr_head_kind_name(r->head[h].kind)));
        json_object_set_new(one, "weight", json_real(r->head[h].weight));
        json_object_set_new(one, "train_loss", number(r->head[h].train_loss));
        put_test(one, &r->head[h]);
        json_array_append_new(list, one);
    }
    return list;
}

static json_t *parts(const struct tr_report *r)
{
    json_t *seconds = json_object();
    for (int p = 0; p < TR_PARTS; p++)
        json_object_set_new(seconds, tr_part_name(p), json_real(r->part_seconds[p]));
    return seconds;
}

static void put_lists(json_t *object, const struct tr_report *r)
{
    json_object_set_new(object, "evaluations", evaluations(r));
    json_object_set_new(object, "heads", heads(r));
    json_object_set_new(object, "step_seconds", parts(r));
}

/* A path need not be UTF-8, which JSON is. */
static void put_text(json_t *object, const char *key, const char *text)
{
    json_t *value = json_string(text);
    json_object_set_new(object, key, value ? value : json_string("see this trainer's log"));
}

static void put_predictions(json_t *object, const char *file, const struct tr_report *r)
{
    if (!file)
        return;
    json_t *predictions = json_object();
    put_count(predictions, "rows", r->predicted);
    if (r->predict_error)
        put_text(predictions, "error", r->predict_error);
    json_object_set_new(object, "predictions", predictions);
}

/* As an embedding server has it. */
static void put_import(json_t *object, const struct tr_trainer *trainer)
{
    const struct tr_import *import = tr_trainer_imported(trainer);
    const char *state = import->failed ? "failed" : tr_import_done(trainer) ? "done" : "working";
    if (import->number > 0)
        json_object_set_new(object, "import",
                            json_pack("{s:I, s:I, s:s, s:s}", "number", (json_int_t)import->number,
                                      "stage", (json_int_t)import->stage, "state", state, "error",
                                      import->failed ? import->error : ""));
}

static void put_alarm(json_t *object, const struct tr_report *r)
{
    put_count(object, "loss_spikes", r->loss_spikes);
    json_object_set_new(object, "loss_spike", json_boolean(r->loss_spike));
}

static json_t *told_json(const struct tr_checkpoint_told *told)
{
    static const char *const word[] = {[TR_CHECKPOINT_WORKS] = "writing",
                                       [TR_CHECKPOINT_WAITS] = "waiting",
                                       [TR_CHECKPOINT_DONE] = "done",
                                       [TR_CHECKPOINT_FAILED] = "failed"};
    json_t *one =
        json_pack("{s:s, s:I, s:s, s:I, s:b, s:b, s:I, s:I}", "name", told->name, "number",
                  (json_int_t)told->number, "state", word[told->state], "step",
                  (json_int_t)told->step, "full", told->base == 0, "suspect", told->suspect, "rows",
                  (json_int_t)told->rows, "bytes", (json_int_t)told->bytes);
    json_object_set_new(one, "seconds", number(told->seconds));
    json_object_set_new(one, "held_seconds", number(told->held_seconds));
    if (told->state == TR_CHECKPOINT_FAILED)
        put_text(one, "error", told->error);
    if (told->state == TR_CHECKPOINT_WAITS)
        put_text(one, "waits_for", told->error);
    return one;
}

/* The one that waits for its time, or is being made; else the latest. Those that ended stand in a list, newest first. */
static void put_checkpoints(json_t *object, const struct program *program,
                            const struct tr_report *r)
{
    const struct tr_checkpoint *c = tr_trainer_checkpoints(program->trainer);
    if (rt_process_index(program->process) != 0 || !rt_process_checkpoint_dir(program->process))
        return;
    put_count(object, "samples_restored", r->samples_restored);
    put_count(object, "updates_lost", r->updates_lost);
    json_object_set_new(object, "train_seconds_restored", number(r->train_seconds_restored));
    json_t *before = json_array();
    for (uint32_t i = 0; i < c->n_before; i++)
        json_array_append_new(before, told_json(&c->before[i]));
    struct tr_checkpoint_told waits = {.number = c->asked, .state = TR_CHECKPOINT_WAITS};
    snprintf(waits.name, sizeof waits.name, "%s", c->asked_name);
    snprintf(waits.error, sizeof waits.error, "%s",
             c->state == TR_CHECKPOINT_IDLE ? c->waits : "the one that is being made");
    const struct tr_checkpoint_told *latest = c->asked                         ? &waits
                                              : c->state != TR_CHECKPOINT_IDLE ? &c->now
                                                                               : c->before;
    if (c->asked || c->state != TR_CHECKPOINT_IDLE || c->n_before > 0)
        json_object_set_new(object, "checkpoint", told_json(latest));
    json_object_set_new(object, "checkpoints_before", before);
    put_count(object, "checkpoints_published", c->published);
    put_count(object, "checkpoints_void", c->voided);
}

static void put_counts(json_t *object, const struct tr_report *r)
{
    const struct {
        const char *key;
        uint64_t value;
    } count[] = {
        {"epoch", r->epoch},
        {"epochs", r->epochs},
        {"step", r->step},
        {"group_epoch", r->group_epoch},
        {"generation", r->generation},
        {"went_back", r->went_back},
        {"steps_again", r->steps_again},
        {"samples_trained", r->samples_trained},
        {"samples_dropped", r->samples_dropped},
        {"samples_read", r->samples_read},
        {"samples_quarantined", r->samples_quarantined},
        {"samples_per_epoch", r->samples_epoch},
        {"train_loss_samples", r->train_loss_samples},
        {"test_samples", r->test_samples},
        {"staleness_max", r->staleness_max},
        {"staleness_limit", r->permits},
        {"permits_used", r->permits_used},
        {"batches_open", r->batches_open},
        {"batches_trained", r->batches_trained},
        {"batches_dropped", r->batches_dropped},
        {"batches_retried", r->batches_retried},
        {"rank", r->rank},
        {"world", r->world},
        {"bytes_train_batch", r->bytes_train_batch},
        {"bytes_embeddings", r->bytes_embeddings},
        {"bytes_gradients", r->bytes_gradients},
    };
    for (size_t i = 0; i < ARRAY_LEN(count); i++)
        put_count(object, count[i].key, count[i].value);
    if (!r->read_whole) /* not yet, or never: training stopped in the midst of an epoch */
        json_object_set_new(object, "samples_read", json_null());
}

static void put_reals(json_t *object, const struct tr_report *r)
{
    const struct {
        const char *key;
        double value;
    } real[] = {
        {"train_seconds", r->train_seconds},
        {"train_began", r->train_began},
        {"train_ended", r->train_ended},
        {"evaluated_seconds", r->evaluated_seconds},
        {"samples_per_second", r->samples_per_second},
        {"train_loss", r->train_loss},
        {"loss", r->loss},
        {"staleness_mean", r->staleness_mean},
        {"learning_rate", r->learning_rate},
        {"test_auc", r->test_auc},
        {"test_logloss", r->test_logloss},
        {"test_calibration", r->test_calibration},
    };
    for (size_t i = 0; i < ARRAY_LEN(real); i++)
        json_object_set_new(object, real[i].key, number(real[i].value));
}

static void status(void *ctx, json_t *object)
{
    struct program *program = ctx;
    if (!program->trainer)
        return;
    struct tr_report r;
    tr_trainer_report(program->trainer, &r);
    json_object_set_new(object, "phase", json_string(r.phase));
    json_object_set_new(object, "done", json_boolean(r.done));
    put_lists(object, &r);
    if (r.done)
        put_digest(object, program->done ? program->digest : tr_trainer_digest(program->trainer));
    put_counts(object, &r);
    put_reals(object, &r);
    rt_saving_status(program->saving, object);
    put_predictions(object, rt_process_predict(program->process), &r);
    put_import(object, program->trainer);
    put_alarm(object, &r);
    put_checkpoints(object, program, &r);
}

/* All ranks have the same weights: the first one's are the group's. */
static int save(struct program *program, const struct wire_control_request *request)
{
    struct rt_save *part;
    int err;
    if (rt_process_index(program->process) != 0)
        return RT_FAIL(RT_EUSAGE, "the dense weights are saved by trainer/0");
    err =
        rt_saving_begin(&program->saving, rt_process_run_dir(program->process), request, 1, &part);
    if (!err && part)
        tr_trainer_save(program->trainer, part);
    return err;
}

static int control(void *ctx, const struct wire_control_request *request)
{
    struct program *program = ctx;
    if (request->command == WIRE_CTL_LEARNING_RATE)
        return tr_trainer_set_learning_rate(program->trainer, request->number);
    if (request->command == WIRE_CTL_SAVE)
        return save(program, request);
    if (request->command == WIRE_CTL_IMPORT)
        return program->trainer ? tr_trainer_import(program->trainer, request)
                                : RT_FAIL(RT_ENOTREADY, "not started yet");
    if (request->command == WIRE_CTL_CHECKPOINT)
        return program->trainer ? tr_trainer_checkpoint(program->trainer, request)
                                : RT_FAIL(RT_ENOTREADY, "not started yet");
    return RT_FAIL(RT_EUSAGE, "a trainer does not know command %d", (int)request->command);
}

static void on_failed(void *ctx, int err)
{
    rt_process_fail(((struct program *)ctx)->process, err);
}

static int on_post(void *ctx, void (*run)(void *arg), void *arg)
{
    return rt_loop_post(rt_process_loop(((struct program *)ctx)->process), run, arg);
}

/* What the job came to, for who has only this log. Rank 0 has the evaluation, and the rows of all ranks. */
static void log_result(const struct tr_trainer *trainer, uint64_t digest)
{
    struct tr_report r;
    tr_trainer_report(trainer, &r);
    if (r.step == 0 && r.evaluations == 0) {
        rt_log(RT_LOG_INFO, "result none reason=\"this process has trained nothing\"");
        return;
    }
    rt_log(RT_LOG_INFO,
           "result test_auc=%.6f test_logloss=%.6f test_samples=%" PRIu64
           " train_loss=%.6f epochs=%" PRIu64 " steps=%" PRIu64 " samples_read=%" PRIu64
           " train_seconds=%.3f dense_digest=%016" PRIx64,
           r.test_auc, r.test_logloss, r.test_samples, r.train_loss, r.epochs, r.step,
           r.samples_read, r.train_seconds, digest);
}

static void on_done(void *ctx)
{
    struct program *program = ctx;
    program->done = true;
    program->digest = tr_trainer_digest(program->trainer);
    rt_log(RT_LOG_INFO, "done dense_digest=%016" PRIx64, program->digest);
    if (rt_process_index(program->process) == 0)
        log_result(program->trainer, program->digest);
    rt_process_set_state(program->process, WIRE_DONE);
}

static bool drain(void *ctx)
{
    struct program *program = ctx;
    return program->trainer && tr_trainer_drain(program->trainer);
}

static bool is_needed(void *ctx)
{
    const struct program *program = ctx;
    return program->trainer && !program->done && tr_trainer_is_needed(program->trainer);
}

static void on_drained(void *ctx)
{
    rt_process_stop(((struct program *)ctx)->process);
}

static void on_replaced(void *ctx, uint64_t by)
{
    rt_process_fenced(((struct program *)ctx)->process, by);
}

/* 0: the system has none yet. */
static uint64_t draw_run(void)
{
    uint64_t run = 0;
    return getrandom(&run, sizeof run, GRND_NONBLOCK) == (ssize_t)sizeof run ? run : 0;
}

static int start(struct program *program)
{
    struct rt_process *process = program->process;
    char listen[RT_ADDRESS_MAX];
    rt_process_listen_address(process, 0, listen);
    struct tr_trainer_conf conf = {
        .io = rt_loop_io(rt_process_loop(process)),
        .job = rt_process_job(process),
        .world = rt_process_size(process),
        .listen = listen,
        .init_from = rt_process_init_from(process),
        .checkpoint_dir = rt_process_checkpoint_dir(process),
        .restore = rt_process_restores(process),
        .anew = rt_process_begins_anew(process),
        .run = draw_run(),
        .predict = rt_process_predict(process),
        .metrics = rt_process_metrics(process),
        .ctx = program,
        .failed = on_failed,
        .done = on_done,
        .replaced = on_replaced,
        .drained = on_drained,
        .post = on_post,
    };
    rt_process_identity(process, 0, &conf.self);
    const char *run_dir = rt_process_run_dir(process);
    char *board = run_dir ? rt_path_join(run_dir, "tensorboard") : NULL;
    conf.tensorboard = board;
    int err = tr_gpu_open(conf.job, &program->device);
    conf.device = program->device;
    if (!err)
        err = tr_trainer_create(&conf, &program->trainer);
    rt_free(board);
    if (err)
        return err;
    const char *address = tr_trainer_address(program->trainer);
    return rt_process_announce(process, &address, 1);
}

/* What is in the folder counts from here on. */
static void on_folder(void *ctx, int err)
{
    struct program *program = ctx;
    rt_process_set_waiting(program->process, NULL);
    if (!err)
        err = start(program);
    if (err)
        rt_process_fail(program->process, err);
}

/* At once, or when the one before has left the folder. */
static void begin(struct program *program)
{
    struct rt_process *process = program->process;
    const struct rt_job *job = rt_process_job(process);
    program->folder = (struct tr_folder){.io = rt_loop_io(rt_process_loop(process)),
                                         .dir = rt_process_checkpoint_dir(process),
                                         .job = job->name,
                                         .ctx = program,
                                         .taken = on_folder};
    rt_process_set_waiting(process, "the checkpoint folder");
    if (program->folder.dir && rt_process_index(process) == 0 && job->data.epochs > 0)
        tr_folder_take(&program->folder);
    else
        on_folder(program, 0);
}

int main(int argc, char **argv)
{
    struct program program = {0};
    const struct rt_process_role role = {
        .role = RT_ROLE_TRAINER,
        .program = "saffron-trainer",
        .doc = "Train the dense network: one rank per process.",
        .listens_to = RT_ROLE_BIT(RT_ROLE_MIDDLEWARE) | RT_ROLE_BIT(RT_ROLE_TRAINER) |
                      RT_ROLE_BIT(RT_ROLE_EMBEDDING_SERVER),
        .ctx = &program,
        .hello = on_hello,
        .ready = is_ready,
        .status = status,
        .control = control,
        .drain = drain,
        .needed = is_needed,
        .describe = tr_describe,
        .picture = tr_describe_picture,
    };
    int err = rt_process_start(argc, argv, &role, &program.process);
    if (err)
        return rt_exit_code(err);
    begin(&program);
    err = rt_process_run(program.process);
    tr_trainer_destroy(program.trainer);
    tr_gpu_close(&program.device);
    tr_folder_give(&program.folder);
    rt_saving_destroy(program.saving);
    return rt_process_end(program.process, err);
}
