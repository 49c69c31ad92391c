/* runtime/net/address.h -- "tcp:127.0.0.1:4000", "tcp:[::1]:4000", "unix:/run/x.sock". Numeric only.
 *
 * "near:tcp:10.0.0.5:4000": whoever listens there does so in this network namespace (see near.h). */
#ifndef RT_ADDRESS_H
#define RT_ADDRESS_H

#include "runtime/net/io.h"

#include <netinet/in.h>
#include <sys/un.h>

#define RT_NEAR_PREFIX "near:"

struct rt_address {
    bool local; /* a Unix socket: `path`; else `sock` */
    bool near;  /* of this network namespace, as told; loopback is so in any case */
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } sock;
};

int rt_address_parse(const char *text, struct rt_address *out); /* RT_EUSAGE, naming the form */
void rt_address_print(const struct sockaddr *sock, char out[RT_ADDRESS_MAX]);

/* Before a Unix socket is bound: remove one that nobody listens on any more. RT_EUSAGE when somebody
 * does, or when the path is something else. */
int rt_address_sweep(const struct rt_address *address);

#endif
