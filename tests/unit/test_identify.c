/* Who is at the other end: by the kernel over loopback and unix sockets, else nobody. */
#include <fcntl.h>
#include <grp.h>
#include <netinet/in.h>
#include <pwd.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "broker/base/err.h"
#include "net/identify.h"
#include "net/peer.h"
#include "tests/unit/said.h"

struct ends {
    int listening, client, server;
};

static int accept_from(int family, const struct sockaddr *at, socklen_t length, struct ends *ret)
{
    struct sockaddr_storage bound;
    socklen_t bound_length = sizeof(bound);
    int off = 0;
    ret->listening = socket(family, SOCK_STREAM, 0);
    if (family == AF_INET6)
        setsockopt(ret->listening, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
    if (bind(ret->listening, at, length) < 0) {
        close(ret->listening);
        return -errno;
    }
    assert_int_equal(listen(ret->listening, 1), 0);
    assert_int_equal(getsockname(ret->listening, (struct sockaddr *)&bound, &bound_length), 0);
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    v4.sin_port = ((struct sockaddr_in6 *)&bound)->sin6_port; /* at the same place in both */
    bool mapped = family == AF_INET6 &&
                  IN6_IS_ADDR_UNSPECIFIED(&((const struct sockaddr_in6 *)at)->sin6_addr);
    ret->client = socket(mapped ? AF_INET : family, SOCK_STREAM, 0);
    assert_int_equal(mapped ? connect(ret->client, (struct sockaddr *)&v4, sizeof(v4))
                            : connect(ret->client, (struct sockaddr *)&bound, bound_length),
                     0);
    ret->server = accept(ret->listening, NULL, NULL);
    assert_true(ret->server >= 0);
    return 0;
}

static void close_all(struct ends *ends)
{
    close(ends->client);
    close(ends->server);
    close(ends->listening);
}

static const struct kq_identity *of(struct kq_identify *identify, int fd, bool is_unix)
{
    const struct kq_identity *identity;
    assert_int_equal(kq_identify(identify, fd, is_unix, true, &identity), 0);
    return identity;
}

static struct kq_identify *fresh(const char *user)
{
    struct kq_identify *identify;
    said_clear();
    assert_int_equal(kq_identify_new(user, &identify), 0);
    return identify;
}

static void expect_self(const struct kq_identity *identity)
{
    char principal[100];
    struct passwd *self = getpwuid(getuid());
    snprintf(principal, sizeof(principal), "User:%s", self ? self->pw_name : "?");
    assert_int_equal(identity->uid, getuid());
    if (self)
        assert_string_equal(identity->principal, principal);
    kq_identity_unref(identity);
}

static void over_loopback_it_is_who_owns_the_other_socket(void **state)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_addr = in6addr_loopback};
    struct sockaddr_in6 any = {.sin6_family = AF_INET6};
    struct kq_identify *identify = fresh("");
    const struct kq_identity *identity;
    struct ends ends;
    int ask = kq_peer_open();
    if (ask < 0)
        skip();
    close(ask);
    accept_from(AF_INET, (struct sockaddr *)&v4, sizeof(v4), &ends);
    /* The first time takes a look into the user data base, the second does not. */
    assert_int_equal(kq_identify(identify, ends.server, false, false, &identity), KQ_WOULD_BLOCK);
    expect_self(of(identify, ends.server, false));
    assert_int_equal(kq_identify(identify, ends.server, false, false, &identity), 0);
    expect_self(identity);
    close_all(&ends);
    if (accept_from(AF_INET6, (struct sockaddr *)&v6, sizeof(v6), &ends) == 0) {
        expect_self(of(identify, ends.server, false));
        close_all(&ends);
        accept_from(AF_INET6, (struct sockaddr *)&any, sizeof(any), &ends); /* IPv4 within IPv6 */
        expect_self(of(identify, ends.server, false));
        close_all(&ends);
    }
    kq_identify_free(identify);
}

static void one_who_has_closed_already_is_nobody(void **state)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct kq_identify *identify = fresh("");
    struct ends ends;
    for (int i = 0; i < 50; i++) {
        accept_from(AF_INET, (struct sockaddr *)&v4, sizeof(v4), &ends);
        assert_int_equal(write(ends.client, "x", 1), 1);
        close(ends.client);
        const struct kq_identity *identity = of(identify, ends.server, false);
        assert_int_equal(identity->uid, KQ_UID_UNKNOWN);
        assert_string_equal(identity->principal, "User:ANONYMOUS");
        assert_int_equal(identity->group_count, 0);
        kq_identity_unref(identity);
        close(ends.server);
        close(ends.listening);
    }
    kq_identify_free(identify);
}

static void who_asks_about_another_user_is_told_of_that_user(void **state)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in bound;
    socklen_t length = sizeof(bound);
    struct kq_identify *identify = fresh("");
    int listening = socket(AF_INET, SOCK_STREAM, 0), status;
    if (geteuid() != 0)
        skip();
    assert_int_equal(bind(listening, (struct sockaddr *)&v4, sizeof(v4)), 0);
    assert_int_equal(listen(listening, 1), 0);
    getsockname(listening, (struct sockaddr *)&bound, &length);
    pid_t child = fork();
    if (child == 0) {
        char byte;
        if (setgroups(0, NULL) < 0 || setresuid(54321, 54321, 54321) < 0)
            _exit(1);
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(fd, (struct sockaddr *)&bound, sizeof(bound)) < 0)
            _exit(1);
        _exit(read(fd, &byte, 1) == 1 ? 0 : 1);
    }
    int fd = accept(listening, NULL, NULL);
    const struct kq_identity *identity = of(identify, fd, false);
    assert_int_equal(identity->uid, 54321);
    assert_string_equal(identity->principal, "User:#54321");
    kq_identity_unref(identity);
    assert_int_equal(write(fd, "x", 1), 1);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    close(fd);
    close(listening);
    kq_identify_free(identify);
}

static void on_a_unix_socket_it_is_who_connected(void **state)
{
    struct kq_identify *identify = fresh("");
    const struct kq_identity *identity;
    gid_t groups[1024];
    int ends[2], count = getgroups(1024, groups);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    assert_int_equal(kq_identify(identify, ends[0], true, false, &identity), KQ_WOULD_BLOCK);
    identity = of(identify, ends[0], true);
    assert_int_equal(identity->gid, getgid());
    assert_int_equal(identity->group_count, count);
    for (int i = 0; i < count; i++)
        assert_int_equal(identity->groups[i], groups[i]);
    expect_self(identity);
    close(ends[0]);
    close(ends[1]);
    kq_identify_free(identify);
}

static void a_user_that_is_set_is_everybody(void **state)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct kq_identify *identify = fresh("4321");
    const struct kq_identity *identity;
    struct ends ends;
    accept_from(AF_INET, (struct sockaddr *)&v4, sizeof(v4), &ends);
    assert_int_equal(kq_identify(identify, ends.server, false, false, &identity), 0);
    assert_int_equal(identity->uid, 4321);
    assert_string_equal(identity->principal, "User:ANONYMOUS");
    kq_identity_unref(identity);
    close_all(&ends);
    kq_identify_free(identify);
    identify = fresh("root");
    identity = of(identify, 0, false);
    assert_int_equal(identity->uid, 0);
    assert_true(identity->group_count > 0);
    kq_identity_unref(identity);
    kq_identify_free(identify);
}

static void a_user_that_there_is_not_is_refused(void **state)
{
    struct kq_identify *identify;
    static const char *const wrong[] = {"no such user", "-1", "4294967295", "12x"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        said_clear();
        assert_int_equal(kq_identify_new(wrong[i], &identify), -EINVAL);
        assert_int_equal(said_count, 1);
        assert_non_null(strstr(said, "there is no user"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(over_loopback_it_is_who_owns_the_other_socket),
        cmocka_unit_test(one_who_has_closed_already_is_nobody),
        cmocka_unit_test(who_asks_about_another_user_is_told_of_that_user),
        cmocka_unit_test(on_a_unix_socket_it_is_who_connected),
        cmocka_unit_test(a_user_that_is_set_is_everybody),
        cmocka_unit_test(a_user_that_there_is_not_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
