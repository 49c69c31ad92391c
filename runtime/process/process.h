/* runtime/process/process.h -- what every role's main() does around its work: command line,
 * environment, job, identity, control loop, presence, admin page, signals, exit code.
 *
 *   main: rt_process_start -> the role makes its loops and objects -> rt_process_announce(addresses)
 *         -> rt_process_run (until SIGTERM, SIGINT, ctl stop, or rt_process_fail) -> the role tears down
 *         -> rt_process_end
 * The control loop runs on the main thread. A role with one loop may use it for its data plane too. */
#ifndef RT_PROCESS_H
#define RT_PROCESS_H

#include "runtime/admin/admin.h"
#include "runtime/job/job.h"
#include "runtime/member/member.h"

#include <jansson.h>

struct rt_process;

#define RT_DRAIN_NS (25 * 1000000000ull) /* a pod's grace is 30 s */

struct rt_process_role {
    enum rt_role role;
    const char *program, *doc; /* "saffron-trainer", one line for --help */
    uint32_t listens_to;       /* RT_ROLE_BIT()s of the peers whose hellos are wanted */
    void *ctx;
    /* All on the control loop: */
    void (*hello)(void *ctx, const struct wire_hello *hello);
    int (*ready)(void *ctx);
    void (*status)(void *ctx, json_t *object); /* add the role's own fields */
    /* Control commands beyond status, stop and log_level; RT_EUSAGE with text when not understood. */
    int (*control)(void *ctx, const struct wire_control_request *request);
    /* Told to stop, by SIGTERM, SIGINT or ctl: is there something to end first? Then the role stops by rt_process_stop(), or is
     * stopped after RT_DRAIN_NS. NULL: there is nothing. */
    bool (*drain)(void *ctx);
    /* Told to stop: could trainer/0 need us still, for its last checkpoint (linger.h)? NULL: no. */
    bool (*needed)(void *ctx);
    /* Is trainer/0 at one that we are in, and needs us to its end? NULL: no. */
    bool (*awaited)(void *ctx);
    /* For --describe: what this role makes of the job, on standard output, or its complaint. May be NULL. */
    int (*describe)(const struct rt_job *job);
    int (*picture)(const struct rt_job *job); /* for --describe=dot, so; NULL: there is none */
};

/* Flags and environment (docs in --help): --index/REPLICA_INDEX (or the host name's ordinal), --size/
 * REPLICA_SIZE, --job/SAFFRON_JOB, --nats/SAFFRON_NATS_URL, --config DIR, SAFFRON_*_CONFIG, --data/
 * SAFFRON_DATA_DIR, --model, --init-from/SAFFRON_INIT_FROM, --checkpoint-dir/SAFFRON_CHECKPOINT_DIR, --restore/SAFFRON_RESTORE, --predict/SAFFRON_PREDICT, --bind/SAFFRON_BIND, --port, --admin-port, --run-dir, --seed, --set (repeat),
 * --log-level/LOG_LEVEL, --metrics-gateway/SAFFRON_METRICS_GATEWAY_ADDR, --fixed-ports (base ports of
 * global.yml; without it free ports).
 * An error was already printed when it fails. --help, --version and --describe exit here. */
int rt_process_start(int argc, char **argv, const struct rt_process_role *role,
                     struct rt_process **out);

const struct rt_job *rt_process_job(const struct rt_process *process);
struct rt_loop *rt_process_loop(struct rt_process *process);
struct rt_metrics *rt_process_metrics(struct rt_process *process);
uint32_t rt_process_index(const struct rt_process *process);
uint32_t rt_process_size(const struct rt_process *process);
const char *rt_process_run_dir(const struct rt_process *process);        /* NULL: none */
const char *rt_process_init_from(const struct rt_process *process);      /* NULL: drawn */
const char *rt_process_checkpoint_dir(const struct rt_process *process); /* NULL: none */
/* Does the job go on from the newest checkpoint, if there is one? Not with 0 epochs: it evaluates a saved model. Else with
 * --restore=latest; and =none as well where the run that began so has checkpoints: it was obeyed once. */
bool rt_process_restores(const struct rt_process *process);
bool rt_process_begins_anew(const struct rt_process *process);    /* --restore=none was given */
const char *rt_process_predict(const struct rt_process *process); /* NULL: none */
/* Identity of one of our data-plane loops, for struct rt_rpc_conf. */
void rt_process_identity(const struct rt_process *process, uint32_t loop, struct rt_identity *out);
/* "tcp:BIND:PORT" to listen on for data loop `loop`: base port + loop with --fixed-ports, else port 0. */
void rt_process_listen_address(const struct rt_process *process, uint32_t loop,
                               char out[RT_ADDRESS_MAX]);

/* Begin to say hello, with one address per data loop (n may be 0). Copies. */
int rt_process_announce(struct rt_process *process, const char *const *address, uint32_t n);
void rt_process_set_state(struct rt_process *process, enum wire_state state);
void rt_process_set_waiting(struct rt_process *process, const char *what);

/* Until told to stop. 0, or the error given to rt_process_fail. At its end the last page is made for the push gateway, so
 * what is registered as a metric has to be there until it returns. */
int rt_process_run(struct rt_process *process);
void rt_process_stop(struct rt_process *process); /* Touch: any thread */
/* End with an error; the current rt_err_text() is kept and logged. Touch: any thread. */
void rt_process_fail(struct rt_process *process, int err);
/* A peer holds a higher incarnation of us: for struct rt_rpc_conf.fenced and what roles make of it. A process that
 * nobody has taken yet starts anew above that number (its clock was put back); any other was replaced by a newer
 * one, and fails. Touch: any thread. */
void rt_process_fenced(struct rt_process *process, uint64_t held);
/* Frees; returns the exit code. */
int rt_process_end(struct rt_process *process, int err);

#endif
