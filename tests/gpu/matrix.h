/* tests/gpu/matrix.h -- matrices at both places, and the shapes that one-pass operations are tested with: rows that lie close and apart, at
 * addresses of 16 bytes and not, narrower than a warp and wider than a block.
 *
 *     for (size_t i = 0; i < N_SHAPES; i++)
 *         for (int gpu = 0; gpu < 2; gpu++) ... .x = AT(x, gpu) ... bed_ok(bed, BACKEND(bed, gpu)->loops->copy(BACKEND(bed, gpu), &op)); */
#ifndef TESTS_GPU_MATRIX_H
#define TESTS_GPU_MATRIX_H

#include <stdio.h>

#include "tests/gpu/bed.h"

struct shape {
    uint32_t samples, width;
    size_t gap, offset; /* floats between rows; before the first */
};

static const struct shape shapes[] = {
    {1, 1, 0, 0},   {37, 17, 3, 0},   {300, 16, 0, 0},  {300, 16, 7, 1},    {37, 367, 1, 0},
    {300, 1, 4, 0}, {1, 1030, 2, 0},  {37, 64, 16, 0},  {37, 13, 0, 3},     {300, 100, 12, 0},
    {2, 5, 3, 0},   {1, 33000, 0, 0}, {1500, 32, 0, 0}, {300, 128, 16, 13}, {37, 32, 5, 0},
};
#define N_SHAPES (sizeof shapes / sizeof shapes[0])

struct matrix {
    struct bed_tensor all;
    float *host, *device; /* of the first row */
    size_t stride;
};

#define AT(matrix, gpu)   ((gpu) ? (matrix).device : (matrix).host)
#define BACKEND(bed, gpu) ((gpu) ? &(bed)->gpu : &(bed)->truth)

static inline size_t shape_floats(struct shape shape)
{
    return shape.offset + shape.samples * (shape.width + shape.gap);
}

static inline struct matrix matrix_of(struct shape shape, struct bed_tensor all)
{
    return (struct matrix){all, all.host + shape.offset, all.device + shape.offset,
                           shape.width + shape.gap};
}

static inline struct matrix matrix_random(struct bed *bed, struct shape shape)
{
    return matrix_of(shape, bed_random(bed, shape_floats(shape), -3, 3));
}

/* An output: random where it is added to, so that it counts; else poison. */
static inline struct matrix matrix_out(struct bed *bed, struct shape shape, bool add)
{
    return add ? matrix_random(bed, shape) : matrix_of(shape, bed_poison(bed, shape_floats(shape)));
}

/* Some elements become zero, some minus zero. */
static inline void matrix_zeros(struct bed *bed, struct matrix matrix)
{
    for (size_t i = 0; i < matrix.all.n; i += 1 + bed_below(bed, 5))
        matrix.all.host[i] = i % 2 ? 0.0f : -0.0f;
    bed_upload(bed, matrix.all);
}

static inline struct shape shape_with(struct shape shape, uint32_t width)
{
    shape.width = width;
    return shape;
}

static inline void matrix_compare(struct bed *bed, const char *what, struct shape shape,
                                  struct matrix matrix, double relative, double absolute)
{
    char text[120];
    snprintf(text, sizeof text, "%s, %u x %u, gap %zu, offset %zu", what, shape.samples,
             shape.width, shape.gap, shape.offset);
    bed_compare(bed, text, matrix.all, relative, absolute);
}

#endif
