/* runtime/process/address.c -- our own address.
 *
 * A UDP socket that is "connected" to a far address sends nothing, but the kernel has chosen the route and
 * with it the source address: in a container that is the address that its peers reach it by. The host's
 * name could be resolved instead; in many containers it leads to the loopback, or nowhere. */
#include "runtime/process/address.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Documentation prefixes (RFC 5737, RFC 3849): never a host of ours. */
#define FAR_4 "192.0.2.1"
#define FAR_6 "2001:db8::1"

#define IP_PORT_MAX 96

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

char *rt_address_told(const char *ip, const char *bound)
{
    const char *port = strrchr(bound, ':');
    char ip_port[IP_PORT_MAX];

    if (strncmp(bound, "tcp:", 4) != 0 || !port)
        return rt_xstrdup(bound);
    rt_address_join(ip, (unsigned)strtoul(port + 1, NULL, 10), ip_port, sizeof(ip_port));
    return rt_xasprintf("tcp:%s", ip_port);
}

/* [nats://|tls://][USER[:PASSWORD]@]HOST[:PORT] in n characters. */
static bool is_nats_url(const char *url, size_t n)
{
    const char *scheme = memmem(url, n, "://", 3), *end = url + n, *at, *port;
    unsigned long number;
    char *stop;

    if (scheme && (scheme - url != 4 || strncmp(url, "nats", 4) != 0) &&
        (scheme - url != 3 || strncmp(url, "tls", 3) != 0))
        return false;
    url = scheme ? scheme + 3 : url;
    at = memrchr(url, '@', (size_t)(end - url));
    url = at ? at + 1 : url;
    port = memrchr(url, ':', (size_t)(end - url));
    if (port && memchr(port, ']', (size_t)(end - port)))
        port = NULL; /* the colons of an IPv6 address */
    if (!port)
        return end > url;
    if (port == url || port[1] < '0' || port[1] > '9')
        return false;
    number = strtoul(port + 1, &stop, 10);
    return stop == end && number >= 1 && number <= UINT16_MAX;
}

int rt_address_check_nats(const char *url)
{
    const char *at = url;

    for (;;) {
        size_t n = strcspn(at, ",");

        if (!is_nats_url(at, n))
            return RT_FAIL(RT_EUSAGE, "expected nats://HOST:PORT, got '%.*s'", (int)n, at);
        if (!at[n])
            return 0;
        at += n + 1;
    }
}
