/* runtime/base/cpu.c -- the instruction set, found once.
 *
 * The levels are those that the Makefile compiles _avx2.c (x86-64-v3) and _avx512.c (x86-64-v4) for, and
 * __builtin_cpu_supports() answers for the whole level, operating system's register state included. */
#include "runtime/base/cpu.h"
#include "runtime/base/log.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static const char *const isa_word[] = {"plain", "avx2", "avx512"};

static atomic_int isa_now =
    -1; /* Touched by: any; all writers before the first set store the same. */

static enum rt_isa isa_of_cpu(void)
{
    __builtin_cpu_init();
    if (__builtin_cpu_supports("x86-64-v4"))
        return RT_ISA_AVX512;
    if (__builtin_cpu_supports("x86-64-v3"))
        return RT_ISA_AVX2;
    return RT_ISA_PLAIN;
}

static enum rt_isa isa_wanted(void)
{
    enum rt_isa isa = isa_of_cpu();
    const char *word = getenv("SAFFRON_ISA");
    char shown[32];

    if (!word || !*word)
        return isa;
    for (int i = 0; i <= RT_ISA_AVX512; i++) {
        if (strcmp(word, isa_word[i]) == 0)
            return i < (int)isa ? (enum rt_isa)i : isa;
    }
    rt_log(RT_LOG_WARN, "isa ignored SAFFRON_ISA='%s', expected plain|avx2|avx512",
           rt_log_escape(word, shown, sizeof(shown)));
    return isa;
}

enum rt_isa rt_cpu_isa(void)
{
    int isa = atomic_load_explicit(&isa_now, memory_order_relaxed);

    if (isa < 0) {
        isa = (int)isa_wanted();
        atomic_store_explicit(&isa_now, isa, memory_order_relaxed);
    }
    return (enum rt_isa)isa;
}

void rt_cpu_set_isa(enum rt_isa isa)
{
    enum rt_isa most = isa_of_cpu();

    atomic_store(&isa_now, (int)(isa < most ? isa : most));
}

const char *rt_isa_name(enum rt_isa isa)
{
    return (unsigned)isa <= RT_ISA_AVX512 ? isa_word[isa] : "unknown";
}
