/* runtime/process/address.h -- what peers connect to when we listen everywhere; where NATS is. */
#ifndef RT_PROCESS_ADDRESS_H
#define RT_PROCESS_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>

/* "0.0.0.0" or "::": listens everywhere, and is nowhere to connect to. */
bool rt_address_is_any(const char *ip);

/* The source address of the default route, of the family of `bind_to`. RT_EUSAGE when there is none. */
int rt_address_of_host(const char *bind_to, char *out, size_t size);

/* `ip`, in brackets when it is IPv6, ":" and the port. */
void rt_address_join(const char *ip, unsigned port, char *out, size_t size);

/* What peers shall connect to: the port that is bound ("tcp:IP:PORT"), at the address that is told. Another
 * address is told as it is. The caller's (rt_free). */
char *rt_address_told(const char *ip, const char *bound);

/* Could it be where NATS listens: nats://HOST:PORT, several with commas between; scheme and port may be left
 * out? RT_EUSAGE when not: such a URL would be tried in vain for ever. */
int rt_address_check_nats(const char *url);

#endif
