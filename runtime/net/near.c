/* runtime/net/near.c -- see near.h. */
#include "runtime/net/near.h"

#include <arpa/inet.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define NAME_PREFIX "saffron/"

static atomic_bool is_off;

void rt_near_set(bool on)
{
    is_off = !on;
}

bool rt_near_is(const struct rt_address *address)
{
    if (address->local || is_off)
        return false;
    if (address->near)
        return true;
    if (address->sock.any.sa_family == AF_INET6)
        return IN6_IS_ADDR_LOOPBACK(&address->sock.v6.sin6_addr);
    return ntohl(address->sock.v4.sin_addr.s_addr) >> 24 == 127;
}

/* A socket and the abstract name (its first byte is 0); size 0: the name does not fit. */
static int open_named(const char *address, struct sockaddr_un *un, socklen_t *size)
{
    int n = snprintf(un->sun_path + 1, sizeof(un->sun_path) - 1, NAME_PREFIX "%s", address);

    if (n < 0 || (size_t)n >= sizeof(un->sun_path) - 1)
        return -1;
    un->sun_family = AF_UNIX;
    *size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
    return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

int rt_near_bind(const char *bound)
{
    struct sockaddr_un un = {0};
    socklen_t size = 0;
    int fd = is_off ? -1 : open_named(bound, &un, &size);

    if (fd >= 0 && bind(fd, (struct sockaddr *)&un, size) != 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static int connect_named(const char *address)
{
    struct sockaddr_un un = {0};
    struct ucred other = {.uid = (uid_t)-1};
    socklen_t size = 0, other_size = sizeof(other);
    int fd = open_named(address, &un, &size);

    if (fd < 0)
        return -1;
    if (connect(fd, (struct sockaddr *)&un, size) == 0 &&
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &other, &other_size) == 0 && other.uid == geteuid())
        return fd;
    close(fd);
    return -1;
}

int rt_near_connect(const struct rt_address *address)
{
    struct rt_address any = *address;
    char name[RT_ADDRESS_MAX];
    int fd;

    rt_address_print(&address->sock.any, name);
    fd = connect_named(name);
    if (fd >= 0)
        return fd;
    if (any.sock.any.sa_family == AF_INET6)
        any.sock.v6.sin6_addr = in6addr_any;
    else
        any.sock.v4.sin_addr.s_addr = htonl(INADDR_ANY);
    rt_address_print(&any.sock.any, name);
    return connect_named(name);
}
