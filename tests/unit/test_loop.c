/* tests/unit/test_loop.c -- posts, timers, work, files and long sends of the real loop. */
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/net/loop.h"
#include "tests/lib/temp.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { POSTERS = 4, POSTS = 5000, JOBS = 20 };

static struct rt_loop *new_loop(void)
{
    struct rt_loop_conf conf = {.name = "test", .pool_budget = 1 << 20};
    struct rt_loop *loop;
    assert_int_equal(rt_loop_create(&conf, &loop), 0);
    return loop;
}

/* ---- posts from several threads to one loop ---- */

struct poster {
    struct rt_loop *loop;
    int posted, came; /* came: touched by the loop only */
};

static void take(void *arg)
{
    struct poster *p = arg;
    rt_assert(rt_loop_is_current(p->loop));
    p->came++;
}

static void *post_all(void *arg)
{
    struct poster *p = arg;
    rt_assert(!rt_loop_is_current(p->loop));
    while (p->posted < POSTS) {
        if (rt_loop_post(p->loop, take, p) == 0)
            p->posted++;
        else
            usleep(100); /* full: hold back */
    }
    return NULL;
}

static void set_flag(void *arg)
{
    atomic_store((atomic_int *)arg, 1);
}

static void test_posts(void **state)
{
    struct rt_loop *loop = new_loop();
    struct poster poster[POSTERS];
    pthread_t thread[POSTERS];
    atomic_int runs = 0;
    (void)state;
    assert_int_equal(rt_loop_start_thread(loop), 0);
    assert_int_equal(rt_loop_post(loop, set_flag, &runs), 0);
    while (!atomic_load(&runs)) /* until then it is anybody's loop */
        usleep(100);
    for (int i = 0; i < POSTERS; i++) {
        poster[i] = (struct poster){.loop = loop};
        pthread_create(&thread[i], NULL, post_all, &poster[i]);
    }
    for (int i = 0; i < POSTERS; i++)
        pthread_join(thread[i], NULL);
    rt_loop_stop(loop); /* what was posted before runs first */
    rt_loop_join(loop);
    for (int i = 0; i < POSTERS; i++)
        assert_int_equal(poster[i].came, POSTS);
    rt_loop_destroy(loop);
}

static void test_posts_are_bounded(void **state)
{
    struct rt_loop *loop = new_loop();
    struct poster p = {.loop = loop};
    int n = 0;
    (void)state;
    while (rt_loop_post(loop, take, &p) == 0)
        n++;
    assert_int_equal(n, 1024);
    assert_int_equal(rt_loop_post(loop, take, &p), RT_EFULL);
    rt_loop_stop(loop);
    rt_loop_run(loop);
    assert_int_equal(p.came, 1024);
    rt_loop_destroy(loop);
}

/* ---- timers ---- */

struct clock_test {
    struct rt_loop *loop;
    struct rt_timer timer[3], never;
    int order[4], n;
    uint64_t start, soon_ns, fired_ns;
};

static void fired(struct clock_test *t, int which)
{
    t->order[t->n++] = which;
}

static void fire_late(void *arg)
{
    struct clock_test *t = arg;
    fired(t, 2);
    t->fired_ns = rt_now_ns();
    rt_loop_stop(t->loop);
}

static void fire_soon(void *arg)
{
    struct clock_test *t = arg;
    fired(t, 1);
    t->soon_ns = rt_now_ns();
    if (t->n == 1)
        rt_timer_start(rt_loop_io(t->loop), &t->timer[0], 0); /* again, from inside */
    else
        rt_timer_stop(rt_loop_io(t->loop), &t->never);
}

/* Work in slices: each asks for the next at once, until another's word has come through the loop. */
struct sliced {
    struct rt_loop *loop;
    struct rt_timer slice;
    uint64_t until_ns;
    int slices;
    bool heard, starved;
};

static void hear(void *arg)
{
    ((struct sliced *)arg)->heard = true;
}

static void do_slice(void *arg)
{
    struct sliced *s = arg;
    if (++s->slices == 100)
        assert_int_equal(rt_loop_post(s->loop, hear, s), 0);
    s->starved = !s->heard && rt_now_ns() > s->until_ns;
    if (s->heard || s->starved)
        rt_loop_stop(s->loop);
    else
        rt_timer_start(rt_loop_io(s->loop), &s->slice, 0);
}

static void start_slices(void *arg)
{
    struct sliced *s = arg;
    rt_timer_start(rt_loop_io(s->loop), &s->slice, 0);
}

static void test_slices_let_others_in(void **state)
{
    struct sliced s = {.loop = new_loop()};
    (void)state;
    s.slice = (struct rt_timer){.fire = do_slice, .arg = &s};
    s.until_ns = rt_now_ns() + 20 * RT_S;
    assert_int_equal(rt_loop_post(s.loop, start_slices, &s), 0);
    assert_int_equal(rt_loop_run(s.loop), 0);
    assert_true(s.heard && !s.starved);
    rt_loop_destroy(s.loop);
}

static void fire_never(void *arg)
{
    fired(arg, 9);
}

static void run_timers(struct clock_test *t)
{
    struct rt_io *io;

    *t = (struct clock_test){.loop = new_loop()};
    io = rt_loop_io(t->loop);
    t->timer[0] = (struct rt_timer){.fire = fire_soon, .arg = t};
    t->timer[1] = (struct rt_timer){.fire = fire_late, .arg = t};
    t->never = (struct rt_timer){.fire = fire_never, .arg = t};
    t->start = rt_now_ns();
    rt_timer_start(io, &t->timer[1], 350 * RT_MS);
    rt_timer_start(io, &t->never, 300 * RT_MS);
    rt_timer_start(io, &t->timer[0], 5 * RT_MS);
    rt_loop_run(t->loop);
    rt_loop_destroy(t->loop);
}

/* A machine that stands still for 300 ms makes all of them due at once: then again. */
static void test_timers(void **state)
{
    struct clock_test t;
    (void)state;
    for (int attempt = 0; attempt < 10; attempt++) {
        run_timers(&t);
        if (t.soon_ns - t.start < 290 * RT_MS && t.fired_ns - t.start < 3 * RT_S)
            break;
    }
    assert_int_equal(t.n, 3);
    assert_int_equal(t.order[0], 1);
    assert_int_equal(t.order[1], 1);
    assert_int_equal(t.order[2], 2);
    assert_true(t.fired_ns - t.start >= 350 * RT_MS);
    assert_true(t.fired_ns - t.start < 3 * RT_S);
}

/* ---- work ---- */

struct job {
    struct rt_work work;
    struct rt_loop *loop;
    int *next, at, ran, done;
};

static void job_run(void *arg)
{
    struct job *job = arg;
    rt_assert(!rt_loop_is_current(job->loop));
    job->ran = ++*job->next; /* one worker: no race */
}

static void job_done(void *arg)
{
    struct job *job = arg;
    rt_assert(rt_loop_is_current(job->loop));
    job->done++;
    if (job->at == JOBS - 1)
        rt_loop_stop(job->loop);
}

static void start_jobs(void *arg)
{
    struct job *job = arg;
    for (int i = 0; i < JOBS; i++)
        rt_io_work(rt_loop_io(job->loop), &job[i].work);
}

static void test_work_order(void **state)
{
    struct rt_loop *loop = new_loop();
    struct job job[JOBS] = {0};
    int next = 0;
    (void)state;
    for (int i = 0; i < JOBS; i++) {
        job[i] = (struct job){.loop = loop, .next = &next, .at = i};
        job[i].work = (struct rt_work){.run = job_run, .done = job_done, .arg = &job[i]};
    }
    rt_loop_post(loop, start_jobs, job);
    rt_loop_run(loop);
    for (int i = 0; i < JOBS; i++) {
        assert_int_equal(job[i].ran, i + 1);
        assert_int_equal(job[i].done, 1);
    }
    rt_loop_destroy(loop);
}

struct slow {
    struct rt_work work;
    struct rt_loop *loop;
    int ran, done;
};

static void slow_run(void *arg)
{
    struct slow *slow = arg;
    rt_loop_stop(slow->loop); /* the loop ends while the job is running */
    usleep(100000);
    slow->ran++;
}

static void slow_done(void *arg)
{
    struct slow *slow = arg;
    slow->done++;
    rt_loop_stop(slow->loop);
}

static void start_slow(void *arg)
{
    struct slow *slow = arg;
    rt_io_work(rt_loop_io(slow->loop), &slow->work);
}

/* Stopped in the middle of a job: the run ends after it, and what it used may be freed. */
static void test_stop_while_working(void **state)
{
    struct slow slow = {.loop = new_loop()};
    (void)state;
    slow.work = (struct rt_work){.run = slow_run, .done = slow_done, .arg = &slow};
    rt_loop_post(slow.loop, start_slow, &slow);
    rt_loop_run(slow.loop);
    assert_int_equal(slow.ran, 1);
    assert_int_equal(slow.done, 0);
    rt_loop_run(slow.loop); /* once more: now it is told */
    assert_int_equal(slow.ran, 1);
    assert_int_equal(slow.done, 1);
    rt_loop_destroy(slow.loop);
}

enum { TELLS = 100 };

struct teller {
    struct rt_work work;
    struct rt_loop *loop;
    uint64_t written[TELLS + 1]; /* by the job, before it tells that it has */
    _Atomic uint64_t heard;      /* the latest */
    uint64_t times;
    bool done;
};

static void teller_run(void *arg)
{
    struct teller *teller = arg;
    for (uint64_t what = 1; what <= TELLS; what++) {
        teller->written[what] = what;
        rt_io_work_tell(rt_loop_io(teller->loop), &teller->work, what);
        while (what % 4 == 0 && atomic_load(&teller->heard) < what) /* it is told while we work */
            usleep(100);
    }
}

static void teller_told(void *arg, uint64_t what)
{
    struct teller *teller = arg;
    rt_assert(rt_loop_is_current(teller->loop));
    assert_false(teller->done);
    assert_true(what > atomic_load(&teller->heard) && what <= TELLS);
    assert_int_equal(teller->written[what], what);
    teller->times++;
    atomic_store(&teller->heard, what);
}

static void teller_done(void *arg)
{
    struct teller *teller = arg;
    teller->done = true;
    rt_loop_stop(teller->loop);
}

static void start_teller(void *arg)
{
    struct teller *teller = arg;
    rt_io_work(rt_loop_io(teller->loop), &teller->work);
}

static void test_work_tells(void **state)
{
    struct teller teller = {.loop = new_loop()};
    (void)state;
    teller.work = (struct rt_work){
        .run = teller_run, .done = teller_done, .told = teller_told, .arg = &teller};
    rt_loop_post(teller.loop, start_teller, &teller);
    rt_loop_run(teller.loop);
    assert_true(teller.done);
    assert_int_equal(atomic_load(&teller.heard), TELLS);
    assert_in_range(teller.times, TELLS / 4, TELLS);
    rt_loop_destroy(teller.loop);
}

struct placed {
    struct rt_work work[2]; /* by `disk` */
    struct rt_loop *loop;
    cpu_set_t own, cores[2]; /* of the loop's thread, of the workers */
    int done;
};

static void placed_run(void *arg)
{
    struct placed *p = arg;
    char name[16];
    rt_assert(pthread_getname_np(pthread_self(), name, sizeof(name)) == 0);
    bool disk = strstr(name, "-fs") != NULL;
    rt_assert(sched_getaffinity(0, sizeof(p->cores[0]), &p->cores[disk]) == 0);
}

static void placed_done(void *arg)
{
    struct placed *p = arg;
    if (++p->done == 2)
        rt_loop_stop(p->loop);
}

static void start_placed(void *arg)
{
    struct placed *p = arg;
    cpu_set_t one;
    int core = 0;
    while (!CPU_ISSET(core, &p->own))
        core++;
    CPU_ZERO(&one);
    CPU_SET(core, &one);
    rt_assert(sched_setaffinity(0, sizeof(one), &one) == 0);
    rt_io_work(rt_loop_io(p->loop), &p->work[0]);
    rt_io_work(rt_loop_io(p->loop), &p->work[1]);
}

/* A worker does not share the core that the loop's thread is bound to, if the process has others. */
static void test_workers_are_not_bound(void **state)
{
    struct placed p = {.loop = new_loop()};
    (void)state;
    assert_int_equal(sched_getaffinity(0, sizeof(p.own), &p.own), 0);
    for (int disk = 0; disk < 2; disk++)
        p.work[disk] =
            (struct rt_work){.run = placed_run, .done = placed_done, .arg = &p, .disk = disk != 0};
    assert_int_equal(rt_loop_post(p.loop, start_placed, &p), 0);
    assert_int_equal(rt_loop_start_thread(p.loop), 0);
    rt_loop_join(p.loop);
    for (int disk = 0; disk < 2; disk++)
        assert_true(CPU_EQUAL(&p.cores[disk], &p.own));
    rt_loop_destroy(p.loop);
}

/* ---- files ---- */

static void test_files(void **state)
{
    struct rt_loop *loop = new_loop();
    struct rt_io *io = rt_loop_io(loop);
    struct rt_file *file;
    char path[TEMP_PATH_MAX], text[16];
    int fd = temp_file(path);
    (void)state;
    assert_int_equal(write(fd, "0123456789", 10), 10);
    close(fd);
    assert_int_equal(io->ops->file_open(io, path, &file), 0);
    assert_int_equal(io->ops->file_read(file, text, 6), 6);
    assert_int_equal(io->ops->file_read(file, text + 6, 10), 4);
    assert_memory_equal(text, "0123456789", 10);
    assert_int_equal(io->ops->file_read(file, text, 10), 0);
    io->ops->file_close(file);
    unlink(path);
    assert_int_equal(io->ops->file_open(io, path, &file), RT_EFILE);
    assert_non_null(strstr(rt_err_text(), path));
    rt_loop_destroy(loop);
}

/* ---- a long send to a fast reader ---- */

enum { SEND_BYTES = 64 << 20 };

struct sender {
    struct rt_loop *loop;
    struct rt_link *link;
    struct rt_timer look;
    size_t queued; /* when the send returned */
    int turns;     /* in which some of it waited */
    int listener;
    size_t read; /* touched by the reader until it is joined */
};

static void *read_all(void *arg)
{
    static char buffer[1 << 20];
    struct sender *s = arg;
    int fd = accept(s->listener, NULL, NULL);
    ssize_t n;

    while ((n = read(fd, buffer, sizeof(buffer))) > 0)
        s->read += (size_t)n;
    close(fd);
    return NULL;
}

static void look_again(void *arg)
{
    struct sender *s = arg;
    const struct rt_io_ops *ops = rt_loop_io(s->loop)->ops;

    s->turns++;
    if (ops->link_queued(s->link) == 0)
        ops->link_close(s->link, RT_ECANCELED, "all was sent");
    else
        rt_timer_start(rt_loop_io(s->loop), &s->look, 0);
}

static void send_long(void *arg)
{
    struct sender *s = arg;
    const struct rt_io_ops *ops = rt_loop_io(s->loop)->ops;
    static const char zeros[SEND_BYTES];
    struct rt_piece piece = {.data = zeros, .size = sizeof(zeros)};
    struct rt_header header = {.method = RT_METHOD_ROLE_FIRST};

    assert_int_equal(ops->link_send(s->link, &header, NULL, 0, &piece, 1, NULL), 0);
    s->queued = ops->link_queued(s->link);
    s->look.fire = look_again;
    s->look.arg = s;
    rt_timer_start(rt_loop_io(s->loop), &s->look, 0);
}

static void sent_down(void *arg, int err, const char *why)
{
    struct sender *s = arg;
    if (err != RT_ECANCELED)
        fail_msg("the link is down: %s", why);
    rt_loop_stop(s->loop);
}

/* However fast the other end reads, a send gives the loop back with what the kernel took at once (4 MiB on TCP), so
 * others have their turns between. */
static void test_sends_let_others_in(void **state)
{
    static const struct rt_link_events events = {.up = send_long, .down = sent_down};
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sender s = {.loop = new_loop(), .listener = socket(AF_INET, SOCK_STREAM, 0)};
    socklen_t size = sizeof(at);
    char address[RT_ADDRESS_MAX];
    pthread_t reader;

    (void)state;
    assert_int_equal(bind(s.listener, (struct sockaddr *)&at, size), 0);
    assert_int_equal(listen(s.listener, 1), 0);
    assert_int_equal(getsockname(s.listener, (struct sockaddr *)&at, &size), 0);
    snprintf(address, sizeof(address), "tcp:127.0.0.1:%d", ntohs(at.sin_port));
    assert_int_equal(pthread_create(&reader, NULL, read_all, &s), 0);
    struct rt_io *io = rt_loop_io(s.loop);
    assert_int_equal(io->ops->connect(io, address, &events, &s, &s.link), 0);
    assert_int_equal(rt_loop_run(s.loop), 0);
    assert_int_equal(pthread_join(reader, NULL), 0);
    assert_true(s.queued >= SEND_BYTES / 2);
    assert_true(s.turns >= 3);
    assert_int_equal(s.read, RT_FRAME_HEADER_SIZE + SEND_BYTES);
    close(s.listener);
    rt_loop_destroy(s.loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_posts),      cmocka_unit_test(test_posts_are_bounded),
        cmocka_unit_test(test_timers),     cmocka_unit_test(test_slices_let_others_in),
        cmocka_unit_test(test_work_order), cmocka_unit_test(test_stop_while_working),
        cmocka_unit_test(test_work_tells), cmocka_unit_test(test_workers_are_not_bound),
        cmocka_unit_test(test_files),      cmocka_unit_test(test_sends_let_others_in),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
