/* runtime/base/prefetch.h -- keep the prefetches that one wrote.
 *
 * gcc takes a function that only prefetches for one without effect, and leaves out calls of it (gcc 12, -O2). Such a
 * function says RT_PREFETCHES() at its end: no instruction, but something that may not be left out. */
#ifndef RT_PREFETCH_H
#define RT_PREFETCH_H

#define RT_PREFETCHES() __asm__ volatile("")

#endif
