/* trainer/model/convert.h -- where the caller's numbers meet ours: float32 or 16 bits outside, tr_real inside. With float32 these
 * are runtime/base/half.h and the kernels; float64 knows RT_DTYPE_F32 alone, which then means float64 outside too. Private to
 * trainer/model/. Touch: any thread. */
#ifndef TR_CONVERT_H
#define TR_CONVERT_H

#include <stddef.h>
#include <stdint.h>

#include "trainer/backend/real.h"

size_t tr_element(uint32_t dtype); /* bytes of one, outside */
void tr_widen(uint32_t dtype, const void *in, tr_real *out, size_t n);
void tr_narrow(uint32_t dtype, float scale, const tr_real *in, void *out, size_t n);
float tr_narrow_scale(const tr_real *in, size_t n); /* rt_half_scale() */

#endif
