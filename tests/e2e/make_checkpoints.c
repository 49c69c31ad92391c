/* tests/e2e/make_checkpoints.c -- make_checkpoints DIR: the checkpoints of tests/lib/made_checkpoints.h in a folder that is there. */
#include "tests/lib/job_fixture.h"
#include "tests/lib/made_checkpoints.h"

#include <stdio.h>

int main(int argc, char **argv)
{
    struct rt_job *job;

    if (argc != 2) {
        fprintf(stderr, "usage: make_checkpoints DIR\n");
        return 2;
    }
    job = made_job();
    made_checkpoints(argv[1], job);
    job_fixture_destroy(job);
    return 0;
}
