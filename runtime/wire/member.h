/* runtime/wire/member.h -- codecs of proto/{handshake,presence,control}.proto. Conventions as in
 * runtime/wire/batch.h. */
#ifndef WIRE_MEMBER_H
#define WIRE_MEMBER_H

#include "runtime/base/mem.h"
#include "runtime/base/role.h"
#include "runtime/net/rpc.h"
#include "runtime/wire/method.h"

extern const struct rt_greeting wire_greeting; /* for struct rt_rpc_conf */

#define WIRE_STATUS_MAX (512u << 10) /* bytes of a control reply's text */

/* A word that may stand in a subject: [A-Za-z0-9_-]{1,63}. NULL is none. */
bool wire_is_token(const char *word);

enum wire_state {
    WIRE_STARTING,
    WIRE_WAITING,
    WIRE_READY,
    WIRE_DRAINING,
    WIRE_DONE,
    WIRE_FAILED,
    WIRE_STATE_COUNT
};
const char *wire_state_name(enum wire_state state); /* "starting" ... */

const char *wire_job_part_name(enum wire_job_part part); /* "embedding.yml" */

struct wire_hello {
    const char *job;
    enum rt_role role;
    uint32_t index;
    uint64_t incarnation, sequence;
    enum wire_state state;
    uint32_t replicas;
    uint32_t n_addresses;
    const char *const *address; /* [n_addresses], one per event loop */
    const char *host_id;        /* equal: the same machine and network namespace */
    uint64_t config_hash, plan_hash;
    uint32_t wire_version;
    const char *admin, *version;
    uint64_t part_hash[WIRE_PART_COUNT]; /* by enum wire_job_part; 0: not told */
    const char *host;                    /* its name, for people */
    bool has_folder;                     /* of trainer/0: for checkpoints */
};
int wire_hello_pack(const struct wire_hello *in, struct wire_out *out);
int wire_hello_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                      struct wire_hello *out);

struct wire_who {
    enum rt_role role;
    uint32_t index;
};
int wire_who_pack(const struct wire_who *in, struct wire_out *out);
int wire_who_unpack(const uint8_t *data, size_t size, struct rt_arena *arena, struct wire_who *out);

struct wire_held {
    enum rt_role role;
    uint32_t index;
    uint64_t incarnation; /* > 0 */
};
int wire_held_pack(const struct wire_held *in, struct wire_out *out);
int wire_held_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                     struct wire_held *out);

enum wire_command {
    WIRE_CTL_STATUS = 1,
    WIRE_CTL_CHECKPOINT,
    WIRE_CTL_DRAIN,
    WIRE_CTL_STOP,
    WIRE_CTL_LOG_LEVEL,
    WIRE_CTL_LEARNING_RATE,
    WIRE_CTL_SAVE, /* the model, into the folder `text` of the run directory: a token; `number`: a whole one that no
                    * other save of that name has; WIRE_CTL_STATE */
    WIRE_CTL_IMPORT, /* the model in the folder `text`; `number` names this import; `stage`; WIRE_CTL_FRESH, WIRE_CTL_REPLACE */
};
enum wire_control_flags {
    WIRE_CTL_STATE = 1,   /* the optimizers' state too */
    WIRE_CTL_FRESH = 2,   /* optimizers begin anew, whatever was saved */
    WIRE_CTL_REPLACE = 4, /* rows that the model has not are forgotten */
    WIRE_CTL_FLAGS = 7    /* all there are */
};
/* Of an import, one after the other: trainer/import.h. */
enum wire_import_stage {
    WIRE_IMPORT_NONE,
    WIRE_IMPORT_CHECK, /* trainer/0, servers: read all of it, change nothing */
    WIRE_IMPORT_HOLD,  /* trainer/0: the group makes no step */
    WIRE_IMPORT_LOAD,  /* trainer/0: rows change from here on; then servers: load them */
    WIRE_IMPORT_TAKE,  /* trainer/0: the dense network, and training goes on */
    WIRE_IMPORT_FAIL   /* trainer/0: it was cut off, `text` says why */
};
struct wire_control_request {
    uint64_t id, incarnation;
    uint32_t ttl_ms;
    enum wire_command command;
    const char *text;
    double number;
    uint32_t flags; /* of enum wire_control_flags */
    uint32_t stage; /* enum wire_import_stage */
};
int wire_control_request_pack(const struct wire_control_request *in, struct wire_out *out);
int wire_control_request_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                                struct wire_control_request *out);

struct wire_control_reply {
    uint64_t id, incarnation;
    enum rt_role role;
    uint32_t index;
    int32_t status;
    const char *text; /* the error, or JSON; at most WIRE_STATUS_MAX */
};
int wire_control_reply_pack(const struct wire_control_reply *in, struct wire_out *out);
int wire_control_reply_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                              struct wire_control_reply *out);

#endif
