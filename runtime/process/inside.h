/* runtime/process/inside.h -- what process.c and presence.c share of a process; for nobody else. */
#ifndef RT_PROCESS_INSIDE_H
#define RT_PROCESS_INSIDE_H

#include "runtime/member/stranger.h"
#include "runtime/process/flags.h"
#include "runtime/process/host.h"
#include "runtime/process/incarnation.h"
#include "runtime/process/linger.h"
#include "runtime/process/page.h"
#include "runtime/process/process.h"

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <uv.h>

#define RT_PROCESS_REASON_MAX  1024
#define RT_PROCESS_WAITING_MAX 160
#define RT_PROCESS_IP_MAX      64
#define RT_PROCESS_ADMIN_MAX   96

struct rt_process {
    struct rt_process_role role;
    struct rt_flags flags;
    struct rt_job *job;
    struct rt_loop *loop;
    struct rt_page *page;
    struct rt_member *member; /* NULL before the announcement */
    char *const *argv;
    struct rt_incarnation start;
    _Atomic uint64_t held; /* Touched by: any; the highest that a peer named */
    uint64_t incarnation, started_ns;
    enum wire_state state;
    bool was_ready;   /* at some time */
    bool job_is_done; /* as trainer/0 says */
    bool leader_ends; /* trainer/0 is told to stop, as it says */
    bool no_folder;   /* for checkpoints, as it says: it makes none */
    char waiting[RT_PROCESS_WAITING_MAX];
    char stranger[RT_STRANGER_TEXT]; /* the latest peer that was refused, and why; "": none */
    char **address;                  /* announced */
    uint32_t n_addresses;
    char ip[RT_PROCESS_IP_MAX], admin_address[RT_PROCESS_ADMIN_MAX], host[HOST_NAME_MAX + 1],
        host_id[RT_HOST_ID_MAX];
    struct rt_timer tick, drain;
    struct rt_linger linger;
    uv_signal_t on_term, on_int;
    char *status_text; /* the latest answer to ctl */
    char reply_text[RT_PROCESS_REASON_MAX];

    pthread_mutex_t lock; /* guards the two below */
    int err;
    char reason[RT_PROCESS_REASON_MAX];
};

/* Does the role do its part? */
bool rt_process_is_ready(struct rt_process *p);
/* A request of `saffron`, answered. */
void rt_process_control(void *process, const struct wire_control_request *request,
                        struct wire_control_reply *reply);

#endif
