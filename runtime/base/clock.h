/* runtime/base/clock.h -- CLOCK_MONOTONIC for everything that waits; wall clock for names and logs only. */
#ifndef RT_CLOCK_H
#define RT_CLOCK_H

#include <stdint.h>

#define RT_MS 1000000ULL
#define RT_S  1000000000ULL

uint64_t rt_now_ns(void);  /* monotonic; role logic uses its rt_io's clock instead */
uint64_t rt_wall_ms(void); /* milliseconds since 1970 */

#endif
