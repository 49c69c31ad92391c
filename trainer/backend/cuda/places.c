/* trainer/backend/cuda/places.c -- a batch's places by row, on the host: struct tr_cuda_sums in step.h. Two passes over the index; no memory
 * but the caller's, for row_begin is what is counted in. */
#include "trainer/backend/cuda/step.h"

#include <string.h>

static void place_all(const struct tr_sequence_view *view, uint32_t samples, uint32_t longest,
                      uint32_t *next, uint32_t *place)
{
    const uint32_t *index = view->index;
    for (uint32_t s = 0; s < samples; s++)
        for (uint32_t i = 0; i < view->length[s]; i++)
            place[next[*index++]++] = s * longest + i;
}

void tr_cuda_places(const struct tr_sequence_view *view, uint32_t samples, uint32_t longest,
                    uint32_t *begin, uint32_t *row_begin, uint32_t *place)
{
    begin[0] = 0;
    for (uint32_t s = 0; s < samples; s++)
        begin[s + 1] = begin[s] + view->length[s];
    memset(row_begin, 0, ((size_t)view->rows + 1) * sizeof *row_begin);
    for (uint32_t k = 0; k < begin[samples]; k++)
        row_begin[view->index[k] + 1]++;
    for (uint32_t r = 0; r < view->rows; r++)
        row_begin[r + 1] += row_begin[r];
    /* Each row's beginning moves to its end, which is the next one's beginning. */
    place_all(view, samples, longest, row_begin, place);
    memmove(row_begin + 1, row_begin, view->rows * sizeof *row_begin);
    row_begin[0] = 0;
}
