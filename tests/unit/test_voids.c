/* tests/unit/test_voids.c -- what a local run says of checkpoints that were given up: each is told of once, and not too often. */
#include "ctl/voids.h"
#include "runtime/base/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static char said[1024];

/* What trainer/0 says; what was printed of it is in `said`. */
static void look(struct ctl_voids *voids, unsigned incarnation, unsigned voided)
{
    struct ctl_progress progress = {0};
    struct ctl_snapshot snapshot = {0};
    int out = dup(STDOUT_FILENO), pipe_fd[2];
    ssize_t n;

    snapshot.role[RT_ROLE_TRAINER] =
        json_pack("[{s:i, s:i, s:[{s:s, s:s}, {s:s, s:s, s:s}]}]", "incarnation", (int)incarnation,
                  "checkpoints_void", (int)voided, "checkpoints_before", "name", "step-9", "state",
                  "done", "name", "step-7", "state", "failed", "error", "the disk is full");
    assert_non_null(snapshot.role[RT_ROLE_TRAINER]);
    assert_int_equal(pipe(pipe_fd), 0);
    fflush(stdout);
    dup2(pipe_fd[1], STDOUT_FILENO);
    close(pipe_fd[1]);
    ctl_voids_look(voids, &snapshot, &progress);
    fflush(stdout);
    dup2(out, STDOUT_FILENO);
    close(out);
    n = read(pipe_fd[0], said, sizeof(said) - 1);
    said[n > 0 ? n : 0] = '\0';
    close(pipe_fd[0]);
    json_decref(snapshot.role[RT_ROLE_TRAINER]);
}

static void each_is_told_of_once(void **state)
{
    struct ctl_voids voids = {0};

    (void)state;
    look(&voids, 1, 0);
    assert_string_equal(said, "");
    look(&voids, 1, 1);
    assert_non_null(
        strstr(said, "the checkpoint step-7 was given up; training goes on: the disk is full"));
    look(&voids, 1, 1);
    assert_string_equal(said, "");
    look(&voids, 1, 2); /* too soon after */
    look(&voids, 1, 5);
    assert_string_equal(said, "");
    voids.told_ns -= CTL_VOIDS_EVERY_NS;
    look(&voids, 1, 5);
    assert_non_null(strstr(said, "the checkpoint step-7 was given up, and 3 before it; "));
    voids.told_ns -= CTL_VOIDS_EVERY_NS;
    look(&voids, 2, 0); /* it was started again, and counts from 0 */
    assert_string_equal(said, "");
    look(&voids, 2, 1);
    assert_non_null(strstr(said, "step-7 was given up; "));
}

static void who_does_not_answer_has_none(void **state)
{
    struct ctl_voids voids = {0};
    struct ctl_progress progress = {0};
    struct ctl_snapshot snapshot = {0};

    (void)state;
    ctl_voids_look(&voids, &snapshot, &progress);
    snapshot.role[RT_ROLE_TRAINER] = json_pack("[n]");
    ctl_voids_look(&voids, &snapshot, &progress);
    json_decref(snapshot.role[RT_ROLE_TRAINER]);
    assert_int_equal(voids.known, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_is_told_of_once),
        cmocka_unit_test(who_does_not_answer_has_none),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
