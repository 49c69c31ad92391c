/* runtime/process/host.h -- which host this is, and who else is on it. */
#ifndef RT_HOST_H
#define RT_HOST_H

#include <stdbool.h>
#include <stddef.h>

#define RT_HOST_ID_MAX 64

struct wire_hello;

/* "<boot id>-<network namespace>": two processes with the same one reach each other's abstract Unix sockets, and a
 * TCP port means the same listener to both. Pods of one node have namespaces, and so ids, of their own. "" where
 * the kernel does not tell. */
void rt_host_id(char out[RT_HOST_ID_MAX]);

/* The addresses of a hello as they are best connected to from the host `id`: those of the same host by the short way
 * (runtime/net/near.h), all others as they are. [hello->n_addresses], to be freed by rt_host_addresses_free. */
char **rt_host_addresses(const char *id, const struct wire_hello *hello);
void rt_host_addresses_free(char **address, size_t n);

#endif
