/* runtime/base/cpu.c -- the instruction set, found once.
 *
 * The levels are those that the Makefile compiles _avx2.c (x86-64-v3) and _avx512.c (x86-64-v4) for. Every
 * feature of a level is asked for, since hypervisors mask single ones, and so is the operating system's
 * promise to save the registers. CPUID itself and not the compiler's builtin, whose names for levels
 * gcc 12 and clang 14 do not share. */
#include "runtime/base/cpu.h"
#include "runtime/base/log.h"

#include <stdatomic.h>
#include <cpuid.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static const char *const isa_word[] = {"plain", "avx2", "avx512"};

static atomic_int isa_now =
    -1; /* Touched by: any; all writers before the first set store the same. */

/* Which register files the operating system saves: bits 1, 2 SSE and AVX, 5 to 7 AVX-512's. */
static uint32_t saved_registers(void)
{
    uint32_t low, high;

    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static bool has(uint32_t word, uint32_t bits)
{
    return (word & bits) == bits;
}

static enum rt_isa isa_of_cpu(void)
{
    const uint32_t v3_leaf1 = bit_FMA | bit_MOVBE | bit_OSXSAVE | bit_AVX | bit_F16C;
    const uint32_t v3_leaf7 = bit_BMI | bit_AVX2 | bit_BMI2;
    const uint32_t v4_leaf7 =
        bit_AVX512F | bit_AVX512DQ | bit_AVX512CD | bit_AVX512BW | bit_AVX512VL;
    uint32_t a, b, c, d;

    if (!__get_cpuid(1, &a, &b, &c, &d) || !has(c, v3_leaf1) || !has(saved_registers(), 0x06))
        return RT_ISA_PLAIN;
    if (!__get_cpuid(0x80000001, &a, &b, &c, &d) || !has(c, bit_LZCNT))
        return RT_ISA_PLAIN;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !has(b, v3_leaf7))
        return RT_ISA_PLAIN;
    return has(b, v4_leaf7) && has(saved_registers(), 0xe6) ? RT_ISA_AVX512 : RT_ISA_AVX2;
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
