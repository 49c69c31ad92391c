/* runtime/base/failpoint.h -- places at which a test has a process die, fail or stop for a while, named by the protocol's step.
 *
 * What users get has none of it: the macros are empty, unless RT_FAILPOINTS is defined, as it is for the programs of
 * `make failpoints` (Makefile). tests/failpoints.md lists all, each with what must happen; tests/lib/failpoint.c is what they call,
 * and tells how one is chosen. Touch: any thread. */
#ifndef RT_FAILPOINT_H
#define RT_FAILPOINT_H

#ifdef RT_FAILPOINTS
/* 0, or RT_EFILE where it is to fail. The program may end here. */
int rt_failpoint(const char *name);

#define RT_FAILPOINT(name)       ((void)rt_failpoint(name))
#define RT_FAILPOINT_FAILS(name) rt_failpoint(name) /* where there is an error to be had */
#else
#define RT_FAILPOINT(name)       ((void)0)
#define RT_FAILPOINT_FAILS(name) 0
#endif

#endif
