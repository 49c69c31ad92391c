/* runtime/net/address.c -- parse and print addresses; sweep dead Unix sockets. */
#include "runtime/net/address.h"

#include "runtime/base/err.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static int bad_tcp(const char *text)
{
    return RT_FAIL(RT_EUSAGE, "address %s: expected tcp:IPV4:PORT, tcp:[IPV6]:PORT or unix:PATH",
                   text);
}

static int parse_tcp(const char *text, const char *rest, struct rt_address *out)
{
    char host[INET6_ADDRSTRLEN];
    const char *colon = strrchr(rest, ':');
    bool v6 = rest[0] == '[';
    const char *from = v6 ? rest + 1 : rest, *to = colon;
    if (!colon || (v6 && (colon == rest || colon[-1] != ']')))
        return bad_tcp(text);
    to -= v6;
    if (to < from || (size_t)(to - from) >= sizeof(host))
        return bad_tcp(text);
    memcpy(host, from, (size_t)(to - from));
    host[to - from] = '\0';
    char *end;
    unsigned long port = strtoul(colon + 1, &end, 10);
    if (colon[1] < '0' || colon[1] > '9' || *end || port > 65535)
        return bad_tcp(text);
    if (v6) {
        out->sock.v6.sin6_family = AF_INET6;
        out->sock.v6.sin6_port = htons((uint16_t)port);
        return inet_pton(AF_INET6, host, &out->sock.v6.sin6_addr) == 1 ? 0 : bad_tcp(text);
    }
    out->sock.v4.sin_family = AF_INET;
    out->sock.v4.sin_port = htons((uint16_t)port);
    return inet_pton(AF_INET, host, &out->sock.v4.sin_addr) == 1 ? 0 : bad_tcp(text);
}

int rt_address_parse(const char *text, struct rt_address *out)
{
    memset(out, 0, sizeof(*out));
    if (strlen(text) >= RT_ADDRESS_MAX)
        return RT_FAIL(RT_EUSAGE, "address of %zu bytes: expected fewer than %d", strlen(text),
                       RT_ADDRESS_MAX);
    out->near = strncmp(text, RT_NEAR_PREFIX, strlen(RT_NEAR_PREFIX)) == 0;
    const char *tcp = out->near ? text + strlen(RT_NEAR_PREFIX) : text;
    if (strncmp(tcp, "tcp:", 4) == 0)
        return parse_tcp(text, tcp + 4, out);
    if (strncmp(text, "unix:", 5) != 0 || text[5] == '\0')
        return bad_tcp(text);
    if (strlen(text + 5) >= sizeof(out->path))
        return RT_FAIL(RT_EUSAGE, "address %s: a Unix socket's path has at most %zu bytes, got %zu",
                       text, sizeof(out->path) - 1, strlen(text + 5));
    out->local = true;
    memcpy(out->path, text + 5, strlen(text + 5));
    return 0;
}

void rt_address_print(const struct sockaddr *sock, char out[RT_ADDRESS_MAX])
{
    char host[INET6_ADDRSTRLEN] = "?";
    if (sock->sa_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)sock;
        inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof(host));
        snprintf(out, RT_ADDRESS_MAX, "tcp:[%s]:%d", host, ntohs(v6->sin6_port));
    } else {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)sock;
        inet_ntop(AF_INET, &v4->sin_addr, host, sizeof(host));
        snprintf(out, RT_ADDRESS_MAX, "tcp:%s:%d", host, ntohs(v4->sin_port));
    }
}

int rt_address_sweep(const struct rt_address *address)
{
    struct stat st;
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    if (lstat(address->path, &st))
        return 0; /* nothing there; other errors are bind's to tell */
    if (!S_ISSOCK(st.st_mode))
        return RT_FAIL(RT_EUSAGE, "%s: exists and is not a socket", address->path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    memcpy(un.sun_path, address->path, sizeof(un.sun_path));
    int err = connect(fd, (struct sockaddr *)&un, sizeof(un)) ? errno : 0;
    close(fd);
    if (err != ECONNREFUSED)
        return RT_FAIL(RT_EUSAGE, "%s: another process listens on it", address->path);
    return unlink(address->path) ? -errno : 0;
}
