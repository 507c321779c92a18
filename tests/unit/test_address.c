#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/un.h>

#include <cmocka.h>

#include "net/address.h"
#include "tests/unit/said.h"

static struct kq_address taken(const char *text)
{
    struct kq_address address;
    said_clear();
    assert_int_equal(kq_address_parse(text, strlen(text), &address), 0);
    assert_int_equal(said_count, 0);
    return address;
}

static void refused(const char *text, const char *reason)
{
    struct kq_address address;
    said_clear();
    assert_int_equal(kq_address_parse(text, strlen(text), &address), -EINVAL);
    assert_int_equal(said_count, 1);
    if (!strstr(said, reason))
        fail_msg("%s: said `%s`", text, said);
}

static void addresses_of_both_families(void **state)
{
    struct kq_address address = taken("plaintext://127.0.0.1:9092");
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)&address.socket;
    assert_int_equal(v4->sin_family, AF_INET);
    assert_int_equal(ntohl(v4->sin_addr.s_addr), INADDR_LOOPBACK);
    assert_int_equal(ntohs(v4->sin_port), 9092);
    assert_true(address.is_loopback);
    assert_false(address.is_unix);
    assert_string_equal(address.advertised.host, "");

    address = taken("PLAINTEXT://[::1]:0");
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&address.socket;
    assert_int_equal(v6->sin6_family, AF_INET6);
    assert_int_equal(v6->sin6_port, 0);
    assert_string_equal(address.host.host, "::1");
    assert_true(address.is_loopback);

    assert_false(taken("plaintext://0.0.0.0:1").is_loopback);
    assert_false(taken("plaintext://[::]:65535").is_loopback);
    address = taken("plaintext://:9092");
    assert_int_equal(address.socket.ss_family, AF_INET6);
    assert_false(address.is_loopback);
}

static void what_clients_are_told_is_an_option_of_the_address(void **state)
{
    struct kq_address address = taken("plaintext://0.0.0.0:1,advertised=broker.example:9093");
    assert_string_equal(address.advertised.host, "broker.example");
    assert_int_equal(address.advertised.port, 9093);
    address = taken("plaintext://0.0.0.0:1,advertised=[fe80::1]:9093");
    assert_string_equal(address.advertised.host, "fe80::1");
    address = taken("unix:///run/k,advertised=host:1");
    assert_string_equal(address.advertised.host, "host");
    assert_string_equal(((struct sockaddr_un *)&address.socket)->sun_path, "/run/k");
}

static void a_scheme_says_what_a_client_must_do_first(void **state)
{
    struct kq_address address = taken("plaintext://127.0.0.1:1");
    assert_false(address.tls || address.sasl);
    address = taken("ssl://127.0.0.1:1");
    assert_true(address.tls && !address.sasl);
    address = taken("SASL_plaintext://127.0.0.1:1");
    assert_true(address.sasl && !address.tls);
    address = taken("SASL_SSL://127.0.0.1:1,advertised=broker.example:9093");
    assert_true(address.sasl && address.tls);
}

static void a_unix_socket_is_a_path(void **state)
{
    char text[200] = "unix:///";
    struct kq_address address = taken("unix:///run/kqfs.sock");
    assert_true(address.is_unix && address.is_loopback);
    assert_string_equal(((struct sockaddr_un *)&address.socket)->sun_path, "/run/kqfs.sock");
    memset(text + 8, 'x', 106);
    taken(text);
    text[8 + 106] = 'x';
    refused(text, "at most 107 bytes");
    refused("unix://run/kqfs.sock", "absolute path");
    refused("unix://", "absolute path");
}

static void what_is_no_address_is_refused_in_one_line(void **state)
{
    refused("", "begins with none");
    refused("127.0.0.1:9092", "begins with none");
    refused("http://127.0.0.1:80", "begins with none");
    refused("plaintext://127.0.0.1", "HOST:PORT");
    refused("plaintext://127.0.0.1:", "HOST:PORT");
    refused("plaintext://127.0.0.1:65536", "HOST:PORT");
    refused("plaintext://127.0.0.1:999999", "HOST:PORT");
    refused("plaintext://127.0.0.1:-1", "HOST:PORT");
    refused("plaintext://127.0.0.1:9x", "HOST:PORT");
    refused("plaintext://::1:9092", "in brackets");
    refused("plaintext://host.invalid:1", "host.invalid");
    refused("plaintext://0.0.0.0:1,advertised=", "advertised= needs");
    refused("plaintext://0.0.0.0:1,advertised=:9092", "advertised= needs");
    refused("plaintext://0.0.0.0:1,advertised=host:0", "advertised= needs");
    refused("plaintext://0.0.0.0:1,what=1", "no option but advertised");
}

static void a_quoted_address_is_cut_where_it_has_no_end(void **state)
{
    char text[5000];
    memset(text, 'a', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    refused(text, "begins with none");
    assert_true(strlen(said) < 300);
    memcpy(text, "plaintext://", 12);
    memcpy(text + sizeof(text) - 3, ":1", 2);
    refused(text, "HOST:PORT");
}

static struct sockaddr_storage make(const char *text)
{
    struct sockaddr_storage storage = {0};
    struct sockaddr_in *v4 = (struct sockaddr_in *)&storage;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&storage;
    if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
        storage.ss_family = AF_INET;
        v4->sin_port = htons(7);
    } else {
        assert_int_equal(inet_pton(AF_INET6, text, &v6->sin6_addr), 1);
        storage.ss_family = AF_INET6;
        v6->sin6_port = htons(7);
    }
    return storage;
}

static bool same(const char *a, const char *b)
{
    struct sockaddr_storage first = make(a), second = make(b);
    return kq_address_same_host(&first, &second);
}

static bool is_loopback(const char *text)
{
    struct sockaddr_storage address = make(text);
    return kq_address_is_loopback(&address);
}

static void ipv4_within_ipv6_is_that_ipv4(void **state)
{
    struct kq_host_port named;
    struct sockaddr_storage mapped = make("::ffff:10.1.2.3");
    assert_true(kq_address_format(&mapped, &named));
    assert_string_equal(named.host, "10.1.2.3");
    assert_int_equal(named.port, 7);
    assert_true(same("::ffff:10.1.2.3", "10.1.2.3"));
    assert_true(same("fe80::1", "fe80::1"));
    assert_false(same("fe80::1", "fe80::2"));
    assert_false(same("::1", "127.0.0.1"));
    assert_false(same("10.1.2.3", "10.1.2.4"));
    assert_true(is_loopback("127.1.2.3") && is_loopback("::1") && is_loopback("::ffff:127.0.0.1"));
    assert_false(is_loopback("128.0.0.1") || is_loopback("::2") || is_loopback("::ffff:1.2.3.4"));
    struct sockaddr_storage path = {.ss_family = AF_UNIX};
    assert_false(kq_address_format(&path, &named));
    assert_true(kq_address_is_loopback(&path));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses_of_both_families),
        cmocka_unit_test(what_clients_are_told_is_an_option_of_the_address),
        cmocka_unit_test(a_scheme_says_what_a_client_must_do_first),
        cmocka_unit_test(a_unix_socket_is_a_path),
        cmocka_unit_test(what_is_no_address_is_refused_in_one_line),
        cmocka_unit_test(a_quoted_address_is_cut_where_it_has_no_end),
        cmocka_unit_test(ipv4_within_ipv6_is_that_ipv4),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
