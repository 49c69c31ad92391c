/* runtime/process/host.c -- see the header. */
#include "runtime/process/host.h"
#include "runtime/base/mem.h"
#include "runtime/net/address.h"
#include "runtime/net/near.h"
#include "runtime/wire/member.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define BOOT_ID_FILE   "/proc/sys/kernel/random/boot_id"
#define BOOT_ID_CHARS  36
#define NAMESPACE_FILE "/proc/self/ns/net"

void rt_host_id(char out[RT_HOST_ID_MAX])
{
    char boot[BOOT_ID_CHARS + 1] = "";
    FILE *file = fopen(BOOT_ID_FILE, "re");
    struct stat st;

    out[0] = '\0';
    if (!file)
        return;
    if (fread(boot, 1, BOOT_ID_CHARS, file) == BOOT_ID_CHARS && stat(NAMESPACE_FILE, &st) == 0)
        snprintf(out, RT_HOST_ID_MAX, "%s-%llu", boot, (unsigned long long)st.st_ino);
    fclose(file);
}

/* Loopback is near without being told so. */
static bool is_to_be_told(const char *text)
{
    struct rt_address address;

    return rt_address_parse(text, &address) == 0 && !address.local && !address.near &&
           !rt_near_is(&address);
}

char **rt_host_addresses(const char *id, const struct wire_hello *hello)
{
    bool same = id[0] && strcmp(id, hello->host_id) == 0;
    char **address = rt_xcalloc(hello->n_addresses, sizeof(*address));

    for (uint32_t i = 0; i < hello->n_addresses; i++) {
        const char *told = hello->address[i];

        address[i] = same && is_to_be_told(told) ? rt_xasprintf(RT_NEAR_PREFIX "%s", told)
                                                 : rt_xstrdup(told);
    }
    return address;
}

void rt_host_addresses_free(char **address, size_t n)
{
    for (size_t i = 0; i < n; i++)
        rt_free(address[i]);
    rt_free(address);
}
