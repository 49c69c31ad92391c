/* tests/unit/test_cut_asked.c -- Cut, AwaitCut and EndCut: what an owner refuses, attempts one after the other, and who waits for whom while
 * nothing can be written. */
#include "embedding_server/cut_write.h"
#include "embedding_server/serve.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "tests/unit/cut_bed.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

/* A machine that stops the worker for as long as one of these looks like a disk that stands still. */
#define STILL_NS      500000000u
#define SLOW_STILL_NS 1000000000u

/* ---- what is refused ---- */

static void what_is_refused(void **state)
{
    struct cut_bed_answer *open, *refused;

    (void)state;
    cut_bed_update(10, ++cut_bed.step, 1);
    cut_bed_run(1);
    cut_bed_expect(
        cut_bed_cut_with(10, 0), RT_ENOTREADY,
        "is applied here and not finished in the ledger: the trainers have gone back, and have "
        "to make it again first");
    cut_bed_expect(cut_bed_make(10, 9), RT_ESTALE,
                   "an increment to attempt 9, this owner knows what changed since attempt 0");
    open = cut_bed_update(10, 2, 2);
    cut_bed_look_up(); /* comes behind it */
    cut_bed_run(1);
    cut_bed_expect(cut_bed_make(10, 0), RT_ENOTREADY,
                   "0 updates are being applied, 1 wait for their parts");
    assert_false(open->done);
    owner_bed_connect(&cut_bed.owner, CUT_BED_MIDDLEWARE); /* who waited for it is gone */
    assert_true(open->done && open->err);
    cut_bed.wanted = 0;
    cut_bed_expect(cut_bed_make(10, 0), 0, "");
    cut_bed_expect(cut_bed_make(9, 0), RT_ESTALE, "attempt 9, this owner has heard of 10");
    cut_bed_expect(
        cut_bed_cut_of(CUT_BED_TRAINER,
                       &(struct wire_cut){.attempt = 10, .step = 1, .age = 1, .name = "d"}),
        RT_ESTALE, "attempt 10, this owner has heard of 10");
    refused = cut_bed_await(9);
    cut_bed_run(1);
    cut_bed_expect(refused, RT_EUNKNOWN, "attempt 9 is not known here, the latest is 10");
    cut_bed_expect(cut_bed_end(9, true), RT_ESTALE,
                   "attempt 9 is not here to be kept, the latest is 10");
    refused = cut_bed_cut_of(CUT_BED_MIDDLEWARE,
                             &(struct wire_cut){.attempt = 11, .step = 1, .age = 1, .name = "c"});
    assert_true(refused->err != 0);
}

/* Large updates are in the turn: not the instant that the trainer takes it for. */
static void an_update_under_way(void **state)
{
    struct cut_bed_answer *updates[20], *asked, *refused;

    (void)state;
    owner_bed_close(&cut_bed.owner);
    cut_bed_open(64, cut_bed.dir);
    for (size_t u = 0; u < ARRAY_LEN(updates); u++)
        updates[u] = cut_bed_update(CUT_BED_UPDATE, 1, 1);
    asked = cut_bed_look_up(); /* comes behind them */
    while (!asked->done)
        cut_bed_run(1);
    cut_bed.step = 1;
    refused = cut_bed_make(1, 0);
    while (!refused->done)
        cut_bed_run(1);
    cut_bed_expect(refused, RT_ENOTREADY, " updates are being applied, 0 wait for their parts");
    for (size_t u = 0; u < ARRAY_LEN(updates); u++)
        while (!updates[u]->done)
            cut_bed_run(1);
    cut_bed.wanted = 0;
    cut_bed_whole_cut(0, 3, CUT_BED_UPDATE);
}

static void without_a_folder(void **state)
{
    struct cut_bed_answer *awaited;

    (void)state;
    cut_bed_expect(
        cut_bed_cut_of(CUT_BED_TRAINER, &(struct wire_cut){.attempt = 3, .name = "nowhere"}), 0,
        "");
    awaited = cut_bed_await(3);
    cut_bed_run(1);
    cut_bed_expect(awaited, RT_EFILE, "/nowhere/rows.00000.partial: cannot be made: No such file");
    cut_bed_expect(cut_bed_end(3, true), RT_ENOTREADY, "attempt 3 is not on disk");
    cut_bed_expect(cut_bed_end(3, false), 0, "");
    owner_bed_close(&cut_bed.owner);
    cut_bed_open(0, NULL);
    cut_bed_expect(cut_bed_make(4, 0), RT_EUSAGE, "this embedding server has no checkpoint folder");
}

static void a_step_that_is_not_here(void **state)
{
    (void)state;
    cut_bed.job.global.mode = RT_MODE_FULL;
    cut_bed.step = 1;
    cut_bed_expect(cut_bed_make(1, 0), RT_ENOTREADY,
                   "a cut at step 1, this owner has applied steps up to 0");
    cut_bed.step = 0;
    cut_bed_expect(cut_bed_make(1, 0), 0, "");
}

/* ---- the worker held up ---- */

/* It takes a moment until its jobs have come back. */
static void make_when_the_disk_goes_on(uint64_t attempt)
{
    const struct cut_bed_answer *answer = cut_bed_make(attempt, 0);

    for (int i = 0; i < 5000 && answer->err == RT_ENOTREADY; i++) {
        usleep(1000);
        answer = cut_bed_make(attempt, 0);
    }
    cut_bed_expect(answer, 0, "");
}

static void attempts_one_after_the_other(void **state)
{
    struct cut_bed_answer *first, *second;
    uint64_t rows;

    (void)state;
    rows = cut_bed_make(20, 0)->rows;
    assert_true(rows > CUT_BED_ROWS / 2);
    cut_bed_expect(cut_bed_end(20, true), RT_ENOTREADY, "attempt 20 is not on disk");
    first = cut_bed_await(20);
    cut_bed_expect(cut_bed_make(20, 0), 0, "");
    assert_int_equal(cut_bed.answer[(cut_bed.asked - 1) % CUT_BED_ANSWERS].rows, rows);
    second = cut_bed_await(20);
    cut_bed_run(1);
    cut_bed_expect(first, RT_ECANCELED, "asked again");
    assert_false(second->done);
    cut_bed.wanted++; /* for the one that waits */
    cut_bed_make(21, 0);
    cut_bed_expect(second, RT_ECANCELED, "a newer checkpoint has begun");
    first = cut_bed_await(21);
    cut_bed.wanted++;
    cut_bed_end(21, false);
    cut_bed_expect(first, RT_ECANCELED, "the checkpoint was given up");
    cut_bed_expect(cut_bed_make(21, 0), RT_ESTALE, "attempt 21, this owner has heard of 21");
    cut_bed_expect(cut_bed_end(30, false), 0, "");
    cut_bed_expect(cut_bed_make(30, 0), RT_ESTALE, "attempt 30, this owner has heard of 30");
    cut_bed_expect(cut_bed_make(31, 0), RT_ENOTREADY, "which was given up, for "); /* two are */
    atomic_store(&cut_bed_hold.go, true);
    make_when_the_disk_goes_on(31);
    first = cut_bed_await(31);
    cut_bed_run(1);
    cut_bed_expect(first, 0, "");
    assert_true(cut_bed_is_there("rows.00000"));
    second = cut_bed_await(31); /* its answer was lost */
    cut_bed_run(1);
    cut_bed_expect(second, 0, "");
    cut_bed_expect(cut_bed_end(31, true), 0, "");
    cut_bed_expect(cut_bed_end(31, true), 0, "");
    cut_bed_expect(cut_bed_end(31, false), RT_ESTALE, "attempt 31 was kept");
    cut_bed_expect(cut_bed_make(32, 31), 0, "");
    assert_int_equal(cut_bed.answer[(cut_bed.asked - 1) % CUT_BED_ANSWERS].rows, 0);
    first = cut_bed_await(32);
    cut_bed_run(1);
    cut_bed_expect(first, 0, "");
    cut_bed_expect(cut_bed_end(32, false), 0, "");
    for (int i = 0; i < 1000 && cut_bed_is_there("rows.00000"); i++)
        usleep(1000);
    assert_false(cut_bed_is_there("rows.00000"));
    cut_bed_expect(cut_bed_make(33, 31), RT_ESTALE, "since attempt 0");
    assert_false(cut_bed_is_there("rows.00000.partial"));
}

/* Nothing is written: updates wait when the buffer is full, and lookups do not. */
static void updates_wait_and_lookups_do_not(void **state)
{
    const struct ebs_owner_stats *stats = ebs_owner_stats(cut_bed.owner.owner);
    struct cut_bed_answer *updates[8], *awaited, *asked;
    int done = 0;

    (void)state;
    cut_bed_expect(cut_bed_make(1, 0), 0, "");
    awaited = cut_bed_await(1);
    for (size_t u = 0; u < ARRAY_LEN(updates); u++)
        updates[u] = cut_bed_update(CUT_BED_UPDATE, ++cut_bed.step, 1);
    for (int i = 0; i < 2000 && stats->cut_waits == 0; i++) {
        asked = cut_bed_look_up();
        while (!asked->done)
            cut_bed_run(1);
        assert_int_equal(asked->err, 0);
    }
    assert_true(stats->cut_waits > 0);
    for (size_t u = 0; u < ARRAY_LEN(updates); u++)
        done += updates[u]->done;
    assert_true(done < (int)ARRAY_LEN(updates) && !awaited->done);
    atomic_store(&cut_bed_hold.go, true);
    while (!awaited->done)
        cut_bed_run(1);
    cut_bed_expect(awaited, 0, "");
    for (size_t u = 0; u < ARRAY_LEN(updates); u++) {
        while (!updates[u]->done)
            cut_bed_run(1);
        assert_int_equal(updates[u]->err, 0);
    }
}

/* ---- disks ---- */

/* What a job of the worker takes is what these tests say, on whatever disk their files are: none of it is waited for. (The system's is
 * hidden from all of this program.) */
int fsync(int fd)
{
    return fcntl(fd, F_GETFD) < 0 ? -1 : 0;
}

static int set_up_still(void **state)
{
    cut_bed.still_ns = STILL_NS;
    (void)cut_bed_set_up_thread(state);
    cut_bed.still_ns = 0;
    return 0;
}

/* Attempts that the worker has yet to give back, and buffers of theirs: as the owner's thread sees them. */
struct left {
    unsigned attempts, buffers;
    _Atomic bool counted;
};

static void count_left(void *arg)
{
    struct left *left = arg;

    for (const struct ebs_cut *cut = cut_bed.owner.owner->cutter.given_up; cut; cut = cut->next) {
        left->attempts++;
        left->buffers += cut->buf.n_blocks > 0;
    }
    atomic_store(&left->counted, true);
}

/* No block comes back: the attempt is over. As many as are tried meanwhile are refused, and updates do not wait for them; the next one
 * is whole when the disk goes on. */
static void a_disk_that_stands_still(void **state)
{
    struct cut_bed_answer *awaited, *update;
    struct left left = {0};

    (void)state;
    cut_bed_expect(cut_bed_make(1, 0), 0, "");
    awaited = cut_bed_await(1);
    cut_bed_run(1);
    cut_bed_expect(awaited, RT_EFILE, "/c/rows.00000: its disk has stood still for 0.5 s");
    cut_bed_expect(cut_bed_end(1, false), 0, "");
    usleep(EBS_CUT_LEFT_NS / 1000);
    for (uint64_t attempt = 2; attempt < 30; attempt++) {
        cut_bed_expect(cut_bed_make(attempt, 0), RT_ENOTREADY,
                       "the disk has been at checkpoint c, attempt 1, which was given up, for ");
        cut_bed_expect(cut_bed_end(attempt, false), 0, "");
    }
    for (unsigned i = 0; i < 8; i++) {
        update = cut_bed_update(CUT_BED_UPDATE, ++cut_bed.step, 1);
        cut_bed_run(1);
        cut_bed_expect(update, 0, "");
    }
    assert_int_equal(rt_loop_post(cut_bed.owner.owner_loop, count_left, &left), 0);
    while (!atomic_load(&left.counted))
        usleep(100);
    assert_int_equal(left.attempts, 1);
    assert_int_equal(left.buffers, 0); /* the worker is at no block */
    atomic_store(&cut_bed_hold.go, true);
    make_when_the_disk_goes_on(30);
    awaited = cut_bed_await(30);
    cut_bed_run(1);
    cut_bed_expect(awaited, 0, "");
    assert_true(cut_bed_is_there("rows.00000"));
}

static int set_up_slow(void **state)
{
    cut_bed.still_ns = SLOW_STILL_NS;
    (void)cut_bed_set_up_thread(state);
    cut_bed.still_ns = 0;
    return 0;
}

static void slow_run(void *arg)
{
    (void)arg;
    usleep(15000);
}

/* Behind each block comes another wait. */
static void slow_done(void *arg)
{
    struct rt_work *work = arg;

    if (ebs_get(&ebs_owner_stats(cut_bed.owner.owner)->cut_writing))
        rt_io_work(rt_loop_io(cut_bed.owner.owner_loop), work);
}

static void slow_post(void *arg)
{
    rt_io_work(rt_loop_io(cut_bed.owner.owner_loop), arg);
}

/* A file that takes longer than a disk may stand still, and never stands still. */
static void a_disk_that_is_slow(void **state)
{
    static struct rt_work slow = {.run = slow_run, .done = slow_done, .arg = &slow};
    struct cut_bed_answer *awaited;

    (void)state;
    cut_bed_expect(cut_bed_make(1, 0), 0, "");
    awaited = cut_bed_await(1);
    assert_int_equal(rt_loop_post(cut_bed.owner.owner_loop, slow_post, &slow), 0);
    atomic_store(&cut_bed_hold.go, true);
    cut_bed_run(1);
    cut_bed_expect(awaited, 0, "");
    assert_true(ebs_owner_stats(cut_bed.owner.owner)->cut_seconds > 1e-9 * SLOW_STILL_NS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_is_refused, cut_bed_set_up, cut_bed_tear_down),
        cmocka_unit_test_setup_teardown(an_update_under_way, cut_bed_set_up, cut_bed_tear_down),
        cmocka_unit_test_setup_teardown(without_a_folder, cut_bed_set_up, cut_bed_tear_down),
        cmocka_unit_test_setup_teardown(a_step_that_is_not_here, cut_bed_set_up, cut_bed_tear_down),
        cmocka_unit_test_setup_teardown(attempts_one_after_the_other, cut_bed_set_up_thread,
                                        cut_bed_tear_down),
        cmocka_unit_test_setup_teardown(updates_wait_and_lookups_do_not, cut_bed_set_up_thread,
                                        cut_bed_tear_down),
        cmocka_unit_test_setup_teardown(a_disk_that_stands_still, set_up_still, cut_bed_tear_down),
        cmocka_unit_test_setup_teardown(a_disk_that_is_slow, set_up_slow, cut_bed_tear_down),
    };

    return cmocka_run_group_tests_name("cut_asked", tests, NULL, NULL);
}
