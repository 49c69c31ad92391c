/* runtime/base/cpu.h -- which instruction set the vector code of this process uses.
 *
 * Found once by CPUID. SAFFRON_ISA=plain|avx2|avx512 lowers it (tests compare each against plain). */
#ifndef RT_CPU_H
#define RT_CPU_H

enum rt_isa { RT_ISA_PLAIN, RT_ISA_AVX2, RT_ISA_AVX512 };

enum rt_isa rt_cpu_isa(void);
void rt_cpu_set_isa(enum rt_isa isa); /* tests only; never above what the CPU has */
const char *rt_isa_name(enum rt_isa isa);

#endif
