/* trainer/backend/real.h -- the number that the dense network computes in: float32. model/ and the reference are compiled a
 * second time with it as float64 (-DTR_REAL_DOUBLE), for one test: there central differences are exact enough to tell a
 * wrong gradient from rounding (tests/unit/test_gradients.c). */
#ifndef TR_REAL_H
#define TR_REAL_H

#ifdef TR_REAL_DOUBLE
typedef double tr_real;
#else
typedef float tr_real;
#endif

#endif
