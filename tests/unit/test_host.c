/* tests/unit/test_host.c -- who is on this host, and how its addresses are told to roles. */
#include "runtime/base/assert.h"
#include "runtime/net/near.h"
#include "runtime/process/host.h"
#include "runtime/wire/member.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void the_id_stays(void **state)
{
    char id[RT_HOST_ID_MAX], again[RT_HOST_ID_MAX];
    int status = 0;

    (void)state;
    rt_host_id(id);
    rt_host_id(again);
    assert_string_equal(id, again);
    assert_in_range(strlen(id), 38, RT_HOST_ID_MAX - 1); /* a boot id, a dash, a number */
    pid_t pid = fork();
    if (pid == 0) {
        rt_host_id(again);
        _exit(strcmp(id, again) != 0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

/* As a pod of the same node. */
static void another_network_has_another(void **state)
{
    char id[RT_HOST_ID_MAX], other[RT_HOST_ID_MAX];
    int status = 0;

    (void)state;
    rt_host_id(id);
    pid_t pid = fork();
    if (pid == 0) {
        if (unshare(CLONE_NEWNET) != 0)
            _exit(2);
        rt_host_id(other);
        _exit(strcmp(id, other) == 0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 2)
        skip(); /* not ours to make */
    assert_int_equal(status, 0);
}

static void addresses_of_a_hello(void **state)
{
    static const char *const told[] = {"tcp:10.0.0.5:7100", "tcp:127.0.0.1:7100", "tcp:[::1]:7100",
                                       "unix:/run/x", "sim:3"};
    static const struct {
        const char *id, *theirs;
        const char *want; /* of the first; the others stay as they are */
    } row[] = {{"a-1", "a-1", "near:tcp:10.0.0.5:7100"},
               {"a-1", "a-2", "tcp:10.0.0.5:7100"},
               {"", "", "tcp:10.0.0.5:7100"},
               {"a-1", "", "tcp:10.0.0.5:7100"}};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct wire_hello hello = {
            .host_id = row[i].theirs, .n_addresses = ARRAY_LEN(told), .address = told};
        char **address = rt_host_addresses(row[i].id, &hello);

        if (strcmp(address[0], row[i].want) != 0)
            fail_msg("row %zu: expected %s, got %s", i, row[i].want, address[0]);
        for (size_t k = 1; k < ARRAY_LEN(told); k++)
            assert_string_equal(address[k], told[k]);
        rt_host_addresses_free(address, ARRAY_LEN(told));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_id_stays),
        cmocka_unit_test(another_network_has_another),
        cmocka_unit_test(addresses_of_a_hello),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
