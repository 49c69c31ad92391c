/* runtime/process/address.c -- our own address.
 *
 * A UDP socket that is "connected" to a far address sends nothing, but the kernel has chosen the route and
 * with it the source address: in a container that is the address that its peers reach it by. The host's
 * name could be resolved instead; in many containers it leads to the loopback, or nowhere. */
#include "runtime/process/address.h"
#include "runtime/base/err.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Documentation prefixes (RFC 5737, RFC 3849): never a host of ours. */
#define FAR_4 "192.0.2.1"
#define FAR_6 "2001:db8::1"

bool rt_address_is_any(const char *ip)
{
    return strcmp(ip, "0.0.0.0") == 0 || strcmp(ip, "::") == 0;
}

int rt_address_of_host(const char *bind_to, char *out, size_t size)
{
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(9)};
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(9)};
    bool is_six = strchr(bind_to, ':') != NULL;
    struct sockaddr *address = is_six ? (struct sockaddr *)&six : (struct sockaddr *)&four;
    const void *raw = is_six ? (const void *)&six.sin6_addr : (const void *)&four.sin_addr;
    socklen_t len = is_six ? sizeof(six) : sizeof(four);
    int fd = socket(address->sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0), failed;

    inet_pton(AF_INET, FAR_4, &four.sin_addr);
    inet_pton(AF_INET6, FAR_6, &six.sin6_addr);
    failed = fd < 0 || connect(fd, address, len) != 0 || getsockname(fd, address, &len) != 0 ||
             !inet_ntop(address->sa_family, raw, out, (socklen_t)size);
    if (failed)
        failed = RT_FAIL(RT_EUSAGE,
                         "--bind %s: this host's own address cannot be told (%s); give --advertise",
                         bind_to, strerror(errno));
    if (fd >= 0)
        close(fd);
    return failed;
}

void rt_address_join(const char *ip, unsigned port, char *out, size_t size)
{
    bool is_six = strchr(ip, ':') != NULL;

    snprintf(out, size, "%s%s%s:%u", is_six ? "[" : "", ip, is_six ? "]" : "", port);
}
