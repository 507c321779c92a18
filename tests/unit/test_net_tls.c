/* A socket inside TLS as a transport, with a client of OpenSSL at its other end, in one thread. */
#include "net/tls.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/transport.h"
#include "tests/unit/tls_kit.h"

#define LARGE (1 << 20)
#define BUFFER 65536

static SSL_CTX *server_context;
static struct kq_tls_counts counts;
static struct kq_tls_desk desk;
static struct kq_transport transport;
static SSL *client;
static uint8_t sent[LARGE], got[LARGE];

static int set_up_keys(void **state)
{
    EVP_PKEY *key = tls_make_key();
    X509 *own = tls_make_certificate("own", key, -TLS_DAY, TLS_DAY, NULL, NULL);
    server_context = SSL_CTX_new(TLS_server_method());
    assert_int_equal(SSL_CTX_use_certificate(server_context, own), 1);
    assert_int_equal(SSL_CTX_use_PrivateKey(server_context, key), 1);
    SSL_CTX_set_options(server_context, SSL_OP_NO_RENEGOTIATION | SSL_OP_IGNORE_UNEXPECTED_EOF);
    SSL_CTX_set_mode(server_context,
                     SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_clear_mode(server_context, SSL_MODE_AUTO_RETRY);
    X509_free(own);
    EVP_PKEY_free(key);
    for (size_t i = 0; i < LARGE; i++)
        sent[i] = (uint8_t)(i * 31 + (i >> 8) * 17);
    return 0;
}

static int tear_down_keys(void **state)
{
    SSL_CTX_free(server_context);
    return 0;
}

static SSL *make_client(int fd, int version)
{
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_min_proto_version(context, version);
    SSL_CTX_set_max_proto_version(context, version);
    SSL *ssl = SSL_new(context);
    SSL_CTX_free(context);
    assert_int_equal(SSL_set_fd(ssl, fd), 1);
    SSL_set_connect_state(ssl);
    return ssl;
}

/* A client of VERSION at FDS[1], and the transport that it meets at FDS[0]. */
static void join_over(const int *fds, int version, uint64_t max_records)
{
    SSL *server = SSL_new(server_context);
    assert_int_equal(SSL_set_fd(server, fds[0]), 1);
    SSL_set_accept_state(server);
    client = make_client(fds[1], version);
    while (!SSL_is_init_finished(server) || !SSL_is_init_finished(client)) {
        SSL_do_handshake(client);
        SSL_do_handshake(server);
    }
    ERR_clear_error();
    memset(&counts, 0, sizeof(counts));
    desk =
        (struct kq_tls_desk){.counts = &counts, .buffer_bytes = BUFFER, .max_records = max_records};
    transport = (struct kq_transport){.fd = fds[0]};
    assert_int_equal(kq_tls_init_consume(&transport, server, &desk), 0);
}

static void join(int version, uint64_t max_records)
{
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    join_over(fds, version, max_records);
}

/* As socketpair(2), over TCP. */
static void connect_pair(int *fds)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t length = sizeof(address);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    fds[1] = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&address, length), 0);
    assert_int_equal(listen(listener, 1), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &length), 0);
    assert_int_equal(connect(fds[1], (struct sockaddr *)&address, length), 0);
    fds[0] = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    assert_true(fds[0] >= 0);
    assert_int_equal(fcntl(fds[1], F_SETFL, O_NONBLOCK), 0);
    close(listener);
}

static int join_1_3(void **state)
{
    join(TLS1_3_VERSION, 1 << 24);
    return 0;
}

static void leave(void)
{
    if (client) {
        close(SSL_get_fd(client));
        SSL_free(client);
    }
    client = NULL;
}

static int part(void **state)
{
    leave();
    kq_transport_close(&transport);
    for (size_t i = 0; i < KQ_TLS_CIPHERS + 1; i++)
        for (size_t k = 0; k < 4; k++)
            assert_int_equal(atomic_load(&counts.open[i][k / 2][k % 2]), 0);
    kq_tls_desk_release(&desk);
    return 0;
}

static uint64_t count(enum kq_tls_count which)
{
    return atomic_load(&counts.counts[which]);
}

static ssize_t take(size_t length)
{
    return kq_transport_read(&transport, got, length);
}

/* All that the client can read now, behind what it has. */
static size_t client_takes(size_t had)
{
    for (;;) {
        int n = SSL_read(client, got + had, (int)(LARGE - had));
        if (n <= 0)
            break;
        had += (size_t)n;
    }
    ERR_clear_error();
    return had;
}

/* --- Tests --- */

static void what_a_client_writes_is_read(void **state)
{
    size_t written = 0, taken = 0;
    while (taken < LARGE) {
        int n = written < LARGE ? SSL_write(client, sent + written, (int)(LARGE - written)) : 0;
        written += n > 0 ? (size_t)n : 0;
        ssize_t r = kq_transport_read(&transport, got + taken, LARGE - taken);
        assert_true(r > 0 || r == -EAGAIN);
        taken += r > 0 ? (size_t)r : 0;
        ERR_clear_error();
    }
    assert_memory_equal(got, sent, LARGE);
    assert_int_equal(take(1), -EAGAIN);
    assert_int_equal(kq_transport_wants(&transport, false), EPOLLIN);
}

static void what_is_written_in_parts_comes_in_order(void **state)
{
    struct iovec parts[3] = {{sent, 10}, {sent + 10, 20000}, {sent + 20010, 100000}};
    size_t done = 0, had = 0;
    ssize_t n = kq_transport_writev(&transport, parts, 3, false);
    assert_true(n > 0 && n <= BUFFER);
    for (done = (size_t)n; done < 120010; done += (size_t)n) {
        struct iovec rest = {sent + done, 120010 - done};
        had = client_takes(had);
        n = kq_transport_writev(&transport, &rest, 1, false);
        assert_true(n > 0 || n == -EAGAIN);
        n = n > 0 ? n : 0;
    }
    had = client_takes(had);
    assert_int_equal(had, 120010);
    assert_memory_equal(got, sent, had);
}

static void a_peer_that_does_not_read_is_waited_for(void **state)
{
    size_t done = 0;
    ssize_t n = 0;
    while (done < LARGE && n >= 0) {
        struct iovec rest = {sent + done, LARGE - done};
        n = kq_transport_writev(&transport, &rest, 1, false);
        done += n > 0 ? (size_t)n : 0;
    }
    assert_int_equal(n, -EAGAIN);
    assert_int_equal(kq_transport_wants(&transport, true), EPOLLOUT);
    size_t had = client_takes(0);
    while (done < LARGE) {
        struct iovec rest = {sent + done, LARGE - done};
        n = kq_transport_writev(&transport, &rest, 1, false);
        done += n > 0 ? (size_t)n : 0;
        had = client_takes(had);
    }
    assert_int_equal(had, LARGE);
    assert_memory_equal(got, sent, LARGE);
}

static bool is_held_back(void)
{
    int value = -1;
    socklen_t length = sizeof(value);
    assert_int_equal(getsockopt(transport.fd, IPPROTO_TCP, TCP_CORK, &value, &length), 0);
    return value;
}

static void only_what_is_followed_at_once_is_held_back(void **state)
{
    int fds[2];
    connect_pair(fds);
    part(NULL);
    join_over(fds, TLS1_3_VERSION, 1 << 24);
    for (size_t length = 10; length <= 50000; length *= 10) {
        struct iovec first = {sent, length}, rest = {sent + length, length};
        assert_int_equal(kq_transport_writev(&transport, &first, 1, false), length);
        assert_false(is_held_back());
        assert_int_equal(kq_transport_writev(&transport, &first, 1, true), length);
        assert_true(is_held_back());
        assert_int_equal(kq_transport_writev(&transport, &rest, 1, false), length);
        assert_false(is_held_back());
        size_t had = 0;
        while (had < 3 * length)
            had = client_takes(had);
        assert_memory_equal(got + length, sent, 2 * length);
    }
}

static void a_full_socket_holds_nothing_back(void **state)
{
    int fds[2];
    ssize_t n = 0;
    connect_pair(fds);
    part(NULL);
    join_over(fds, TLS1_3_VERSION, 1 << 24);
    for (size_t i = 0; i < 10000 && n >= 0; i++)
        n = kq_transport_writev(&transport, &(struct iovec){sent, LARGE}, 1, true);
    assert_int_equal(n, -EAGAIN);
    assert_false(is_held_back());
}

static void a_file_is_copied_and_counted(void **state)
{
    char path[] = "/tmp/kqfs-net-tls-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0 && write(fd, sent, 50000) == 50000);
    unlink(path);
    size_t at = 0;
    for (ssize_t n; (n = kq_transport_sendfile(&transport, fd, 100 + (int64_t)at, 60000)) > 0;)
        at += (size_t)n;
    assert_int_equal(at, 49900);
    assert_int_equal(client_takes(0), at);
    assert_memory_equal(got, sent + 100, at);
    assert_int_equal(count(KQ_TLS_COPIED_BYTES), at);
    assert_int_equal(kq_transport_sendfile(&transport, fd, 50000, 10), 0);
    close(fd);
}

static void ask_for_key(void)
{
    assert_int_equal(SSL_key_update(client, SSL_KEY_UPDATE_REQUESTED), 1);
    assert_int_equal(SSL_do_handshake(client), 1);
}

static void keys_between_data_are_replaced(void **state)
{
    for (int i = 0; i < 500; i++) {
        ask_for_key();
        assert_int_equal(SSL_write(client, sent, 10), 10);
        assert_int_equal(take(100), 10);
        struct iovec part = {sent, 100};
        assert_int_equal(kq_transport_writev(&transport, &part, 1, false), 100);
        assert_int_equal(client_takes(0), 100);
    }
}

static void keys_without_end_are_not(void **state)
{
    ssize_t n = -EAGAIN;
    int asked = 0;
    for (; n == -EAGAIN && asked < 1000; asked++) {
        ask_for_key();
        n = take(100);
    }
    assert_int_equal(n, -EPROTO);
    assert_in_range(asked, 30, 40);
    assert_int_equal(SSL_write(client, sent, 10), 10);
    assert_int_equal(take(100), -EPROTO); /* it stays so */
}

static void a_key_that_is_worn_is_replaced(void **state)
{
    part(NULL);
    join(TLS1_3_VERSION, 1024 + 5);
    for (int i = 0; i < 20; i++) {
        struct iovec part = {sent, 1000};
        assert_int_equal(kq_transport_writev(&transport, &part, 1, false), 1000);
        assert_int_equal(client_takes(0), 1000);
    }
    assert_in_range(count(KQ_TLS_REKEYED), 3, 4);
    assert_false(transport.ending);
}

static void renegotiation_is_refused(void **state)
{
    part(NULL);
    join(TLS1_2_VERSION, 1 << 24);
    assert_int_equal(SSL_write(client, sent, 10), 10);
    assert_int_equal(take(100), 10);
    assert_int_equal(SSL_renegotiate(client), 1);
    SSL_do_handshake(client);
    ssize_t n = take(100);
    assert_true(n == -EAGAIN || n == -EPROTO);
    assert_int_equal(SSL_do_handshake(client), -1);
    assert_int_equal(ERR_GET_REASON(ERR_peek_error()), SSL_R_NO_RENEGOTIATION);
    ERR_clear_error();
}

static void the_end_of_a_client_is_seen(void **state)
{
    SSL_shutdown(client);
    assert_int_equal(take(100), 0);
    assert_int_equal(take(100), 0);
    part(NULL);
    join(TLS1_3_VERSION, 1 << 24);
    assert_int_equal(SSL_write(client, sent, 10), 10);
    client_takes(0);
    leave(); /* without a word */
    assert_int_equal(take(100), 10);
    assert_int_equal(take(100), 0);
}

static void garbage_is_an_error(void **state)
{
    static const uint8_t records[][25] = {
        "\x17\x03\x03\x00\x13wwwwwwwwwwwwwwwwwww", /* not encrypted */
        "\x17\x03\x03\xff\xffwwwwwwwwwwwwwwwwwww", /* too long */
        "GET / HTTP/1.1\r\n\r\n12345",
    };
    for (size_t i = 0; i < 3; i++) {
        part(NULL);
        join(TLS1_3_VERSION, 1 << 24);
        assert_int_equal(write(SSL_get_fd(client), records[i], 24), 24);
        assert_int_equal(take(100), -EPROTO);
    }
}

static void the_peer_is_told_of_the_end(void **state)
{
    kq_transport_shutdown(&transport);
    assert_int_equal(SSL_read(client, got, 10), 0);
    assert_int_equal(SSL_get_error(client, 0), SSL_ERROR_ZERO_RETURN);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, join_1_3, part)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_a_client_writes_is_read),
        TEST(what_is_written_in_parts_comes_in_order),
        TEST(a_peer_that_does_not_read_is_waited_for),
        TEST(only_what_is_followed_at_once_is_held_back),
        TEST(a_full_socket_holds_nothing_back),
        TEST(a_file_is_copied_and_counted),
        TEST(keys_between_data_are_replaced),
        TEST(keys_without_end_are_not),
        TEST(a_key_that_is_worn_is_replaced),
        TEST(renegotiation_is_refused),
        TEST(the_end_of_a_client_is_seen),
        TEST(garbage_is_an_error),
        TEST(the_peer_is_told_of_the_end),
    };
    return cmocka_run_group_tests(tests, set_up_keys, tear_down_keys);
}
