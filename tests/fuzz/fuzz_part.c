/* tests/fuzz/fuzz_part.c -- see fuzz.h. */
#include "runtime/base/mem.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

char *fuzz_part(const uint8_t *data, size_t size, size_t *at, size_t *part_size)
{
    static const char separator[] = "====\n";

    if (*at > size)
        return NULL;
    const uint8_t *from = size ? data + *at : data;
    const uint8_t *stop = *at < size ? memmem(from, size - *at, separator, 5) : NULL;
    *part_size = stop ? (size_t)(stop - from) : size - *at;
    char *part = rt_xmalloc(*part_size + 1);
    if (*part_size)
        memcpy(part, from, *part_size);
    part[*part_size] = 0;
    *at = stop ? *at + *part_size + 5 : size + 1;
    return part;
}
