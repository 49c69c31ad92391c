/* tests/lib/rpc_world.h -- two rpcs on one real loop, for the tests of runtime/net.
 *
 * The loop is turned by hand (uv_run once) until what a test waits for has come. The server plays
 * embedding_server/0.0 with incarnation 100, the client middleware/0.0 with 200; times are short. */
#ifndef RPC_WORLD_H
#define RPC_WORLD_H

#include "runtime/net/loop.h"
#include "runtime/net/rpc.h"

enum { METHOD_ECHO = 16, METHOD_HOLD, METHOD_FAIL, METHOD_TRAINER_ONLY, METHOD_DROP, METHOD_JOIN };
#define ECHO_MESSAGE_MAX 1000
#define ECHO_PAYLOAD_MAX (8u << 20)
#define POOL_BUDGET      (32u << 20)
#define HELD_MAX         16
#define RW_GREET_NS      (400 * RT_MS) /* how long a handshake may take */
#define RW_DEAD_NS       (600 * RT_MS) /* a busy machine keeps the loop away from a link for less */

struct end {
    struct rt_rpc *rpc;
    struct rt_call *held[HELD_MAX];
    int n_held, served, ups, downs, fenced;
    uint64_t fenced_by;
    char why[256];
    char bound[RT_ADDRESS_MAX];
};

struct world {
    struct rt_loop *loop;
    struct end server, client;
    struct rt_peer *peer;
    struct rt_timer tick;
    char address[RT_ADDRESS_MAX];
};

struct answer {
    int count, err;
    char text[256];
    struct rt_header header;
    struct rt_buf *payload;
    uint8_t message[64];
};

/* TCP as between machines, Unix, TCP on loopback with its short way (near.h): i is 0, 1 or 2. */
const char *rw_address(int i);
const char *rw_unix_address(void);

struct rt_rpc_conf rw_conf(struct world *w, struct end *end, enum rt_role role,
                           uint64_t incarnation);
void rw_open(struct world *w, const char *address);      /* with a server */
void rw_open_both(struct world *w, const char *address); /* with a client that is connected */
void rw_open_loop(struct world *w, const char *address, size_t queue_max);
void rw_start_server(struct world *w, uint64_t incarnation);
void rw_start_client(struct world *w, const struct rt_rpc_conf *conf);
void rw_close(struct world *w);

/* Turn the loop until *count reaches n; the test fails after 2 s. */
void rw_wait(struct world *w, const int *count, int n, const char *what);
void rw_turn(struct world *w, uint64_t ns);

/* Ask the server with a small message; the answer is written down. */
int rw_call(struct world *w, uint16_t method, uint64_t deadline_ns, struct answer *a);
void rw_on_answer(void *arg, int err, const struct rt_frame *reply); /* an rt_reply_fn */
void rw_answer_reset(struct answer *a);
struct rt_buf *rw_filled(struct world *w, size_t size, uint8_t seed);

#endif
