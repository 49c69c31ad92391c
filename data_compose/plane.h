/* data_compose/plane.h -- a plane of rows (rows.h) to the columns of a batch, compiled per instruction set. For payload.c. */
#ifndef DC_PLANE_H
#define DC_PLANE_H

#include "data_compose/rows.h"

/* Column k of row order[s] goes to to[k][s * stride[k]]. */
struct dc_plane_copy {
    const uint64_t *plane;
    const uint32_t *order;
    uint32_t n, width;
    uint64_t *to[DC_PLANE];
    uint32_t stride[DC_PLANE];
};
typedef void (*dc_plane_fn)(const struct dc_plane_copy *copy);
void dc_plane_plain(const struct dc_plane_copy *copy);
void dc_plane_avx512(const struct dc_plane_copy *copy);

#endif
