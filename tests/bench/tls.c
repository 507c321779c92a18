/* TLS 1.3 with AES-128-GCM: consumers that count what comes instead of decrypting it, so that the
 * server is what is measured, and bare loops to compare it with. */
#include "tests/bench/tls.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/base/endian.h"
#include "tests/bench/client.h"
#include "tests/bench/tcp.h"

/* A record's header, and what it holds besides data: a byte for its type, the tag (RFC 8446, 5.2).
 */
enum { HEAD = 5, OVERHEAD = 17, PIECE = 1 << 20, WRITE = 256 << 10 };

static const char cipher[] = "TLS_AES_128_GCM_SHA256";

static _Noreturn void die_tls(const char *what)
{
    char text[256];
    ERR_error_string_n(ERR_peek_error(), text, sizeof(text));
    fprintf(stderr, "client: %s: %s\n", what, ERR_peek_error() ? text : strerror(errno));
    exit(1);
}

static SSL_CTX *context_of(const SSL_METHOD *method)
{
    SSL_CTX *context = SSL_CTX_new(method);
    if (!context || !SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) ||
        !SSL_CTX_set_ciphersuites(context, cipher))
        die_tls("TLS");
    return context;
}

/* --- A consumer --- */

struct stream {
    int fd;
    SSL *ssl; /* NULL: plaintext */
    uint8_t head[HEAD];
    size_t have; /* of a record's header */
    size_t skip; /* of the record that has begun */
};

static char *piece(void)
{
    static char *bytes;
    if (!bytes && !(bytes = aligned_alloc(4096, PIECE)))
        die("memory");
    return bytes;
}

/* The server of a benchmark is not checked. */
static SSL *shake_hands(SSL_CTX *context, int fd, SSL_SESSION *session)
{
    SSL *ssl = SSL_new(context);
    if (!ssl || SSL_set_fd(ssl, fd) != 1 || (session && SSL_set_session(ssl, session) != 1) ||
        SSL_connect(ssl) != 1)
        die_tls("handshake");
    return ssl;
}

static struct stream open_stream(SSL_CTX *context, const char *host, const char *port)
{
    struct stream stream = {.fd = tcp_connect(host, port)};
    if (context)
        stream.ssl = shake_hands(context, stream.fd, NULL);
    return stream;
}

static void stream_send(struct stream *stream, const void *bytes, size_t length)
{
    if (!stream->ssl)
        tcp_send(stream->fd, bytes, length);
    else if (SSL_write(stream->ssl, bytes, (int)length) != (int)length)
        die_tls("send");
}

static void stream_receive(struct stream *stream, void *bytes, size_t length)
{
    if (!stream->ssl) {
        tcp_receive(stream->fd, bytes, length);
        return;
    }
    while (length > 0) {
        int got = SSL_read(stream->ssl, bytes, (int)length);
        if (got <= 0)
            die_tls("receive");
        bytes = (char *)bytes + got;
        length -= (size_t)got;
    }
}

/* How much data LENGTH bytes of records hold, which begin where the ones before have ended. */
static size_t data_in(struct stream *stream, const uint8_t *bytes, size_t length)
{
    size_t data = 0;
    while (length > 0) {
        if (stream->skip > 0) {
            size_t step = stream->skip < length ? stream->skip : length;
            stream->skip -= step;
            bytes += step;
            length -= step;
            continue;
        }
        stream->head[stream->have++] = *bytes++;
        length--;
        if (stream->have < HEAD)
            continue;
        stream->have = 0;
        stream->skip = kq_load_be16(stream->head + 3);
        if (stream->head[0] != SSL3_RT_APPLICATION_DATA || stream->skip < OVERHEAD) {
            fprintf(stderr, "client: what came is no record of data\n");
            exit(1);
        }
        data += stream->skip - OVERHEAD;
    }
    return data;
}

/* Takes LENGTH bytes of data from the socket, and what belongs to their records. */
static void discard(struct stream *stream, size_t length)
{
    while (length > 0 || stream->skip > 0) {
        size_t most = stream->ssl || length > PIECE ? PIECE : length;
        /* tcp(7): with MSG_TRUNC nothing is copied. */
        ssize_t got = recv(stream->fd, piece(), most, stream->ssl ? 0 : MSG_TRUNC);
        if (got <= 0)
            die("receive");
        size_t data = stream->ssl ? data_in(stream, (uint8_t *)piece(), (size_t)got) : (size_t)got;
        if (data > length) {
            fprintf(stderr, "client: more came than was asked for\n");
            exit(1);
        }
        length -= data;
    }
}

static void receive_all(struct stream *stream, size_t length)
{
    while (length > 0) {
        size_t step = length < PIECE ? length : PIECE;
        stream_receive(stream, piece(), step);
        length -= step;
    }
}

static void print_rate(int64_t bytes, int64_t ns, int64_t operations)
{
    printf("{\"bytes\": %" PRId64 ", \"seconds\": %.6f, \"operations\": %" PRId64 "}\n", bytes,
           (double)ns / 1e9, operations);
}

/* Asks with REQUEST for LENGTH bytes, again and again until WANTED came, at RATE bytes a second (0:
 * as fast as they come). */
static void consume(struct stream *stream, const void *request, size_t request_length,
                    int64_t length, int64_t wanted, int64_t rate)
{
    int64_t begun = now_ns(), got = 0, requests = 0;
    for (; got < wanted; got += length, requests++) {
        stream_send(stream, request, request_length);
        discard(stream, (size_t)length);
        int64_t ahead_ns = rate ? (int64_t)((double)(got + length) / (double)rate * 1e9) : 0;
        int64_t wait_ns = begun + ahead_ns - now_ns();
        if (wait_ns > 0)
            usleep((useconds_t)(wait_ns / 1000));
    }
    print_rate(got, now_ns() - begun, requests);
}

int job_refetch(char **arguments)
{
    struct frame frame;
    uint8_t size[4];
    bool tls = strcmp(arguments[0], "tls") == 0;
    struct stream stream =
        open_stream(tls ? context_of(TLS_client_method()) : NULL, arguments[1], arguments[2]);
    tcp_fetch_request(&frame, arguments[3], 0, number(arguments[5]));
    stream_send(&stream, frame.bytes, frame.length);
    stream_receive(&stream, size, sizeof(size));
    receive_all(&stream, kq_load_be32(size));
    consume(&stream, frame.bytes, frame.length, (int64_t)sizeof(size) + kq_load_be32(size),
            number(arguments[4]), number(arguments[6]));
    return 0;
}

int job_tls_drain(char **arguments)
{
    uint8_t request[8];
    int64_t max = number(arguments[3]);
    struct stream stream = open_stream(context_of(TLS_client_method()), arguments[0], arguments[1]);
    kq_store_be64(request, (uint64_t)max);
    stream_send(&stream, request, sizeof(request));
    receive_all(&stream, (size_t)max);
    consume(&stream, request, sizeof(request), max, number(arguments[2]), 0);
    return 0;
}

/* --- A bare server --- */

struct source {
    int fd;
    off_t at, size;
    char *buffer; /* NULL: the kernel encrypts from the file */
};

static void send_from(struct source *source, SSL *ssl, uint64_t length)
{
    source->at = 0;
    while (length > 0) {
        if (source->at == source->size)
            source->at = 0;
        uint64_t left = (uint64_t)(source->size - source->at);
        size_t step = (size_t)(left < length ? left : length);
        ssize_t sent;
        if (source->buffer) {
            sent = pread(source->fd, source->buffer, step < WRITE ? step : WRITE, source->at);
            if (sent <= 0)
                die("read");
            sent = SSL_write(ssl, source->buffer, (int)sent);
        } else {
            sent = SSL_sendfile(ssl, source->fd, source->at, step < PIECE ? step : PIECE, 0);
        }
        if (sent <= 0)
            die_tls("send");
        source->at += sent;
        length -= (uint64_t)sent;
    }
}

static void serve_one(SSL_CTX *context, int listener, struct source *source)
{
    uint8_t request[8];
    int on = 1, fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    SSL *ssl = SSL_new(context);
    if (fd < 0 || !ssl || SSL_set_fd(ssl, fd) != 1)
        die("accept");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (SSL_accept(ssl) != 1)
        die_tls("accept");
    if (!source->buffer && !BIO_get_ktls_send(SSL_get_wbio(ssl))) {
        fprintf(stderr, "client: the kernel does not encrypt\n");
        exit(1);
    }
    while (SSL_read(ssl, request, sizeof(request)) == sizeof(request))
        send_from(source, ssl, kq_load_be64(request));
    SSL_free(ssl);
    close(fd);
}

int job_tls_serve(char **arguments)
{
    uint16_t port;
    struct stat st;
    SSL_CTX *context = context_of(TLS_server_method());
    bool by_kernel = strcmp(arguments[3], "sendfile") == 0;
    struct source source = {.fd = open(arguments[0], O_RDONLY | O_CLOEXEC)};

    if (source.fd < 0 || fstat(source.fd, &st) < 0)
        die(arguments[0]);
    source.size = st.st_size;
    if (!by_kernel && !(source.buffer = aligned_alloc(4096, WRITE)))
        die("memory");
    if (by_kernel)
        SSL_CTX_set_options(context, SSL_OP_ENABLE_KTLS);
    if (SSL_CTX_use_certificate_chain_file(context, arguments[1]) != 1 ||
        SSL_CTX_use_PrivateKey_file(context, arguments[2], SSL_FILETYPE_PEM) != 1)
        die_tls(arguments[2]);
    int listener = tcp_listen_anywhere(&port);
    printf("{\"port\": %u}\n", port);
    fflush(stdout);
    for (;;)
        serve_one(context, listener, &source);
}

/* --- Handshakes --- */

/* Up to the ticket, with which a server shows that it has taken the client's last message. The
 * session is the caller's. */
static SSL_SESSION *connect_once(SSL_CTX *context, char **arguments, SSL_SESSION *resumed)
{
    char byte;
    int fd = tcp_connect(arguments[0], arguments[1]);
    SSL *ssl = shake_hands(context, fd, resumed);
    if (SSL_read(ssl, &byte, 1) > 0 || SSL_get_error(ssl, -1) != SSL_ERROR_WANT_READ)
        die_tls("ticket");
    if (!SSL_session_reused(ssl) != !resumed) {
        fprintf(stderr, "client: the session was %sresumed\n", resumed ? "not " : "");
        exit(1);
    }
    SSL_SESSION *session = SSL_get1_session(ssl);
    SSL_set_shutdown(ssl, SSL_SENT_SHUTDOWN); /* else the session would not resume */
    SSL_free(ssl);
    close(fd);
    return session;
}

static _Noreturn void shake_many(char **arguments, int64_t count, bool resumes, int start)
{
    SSL_CTX *context = context_of(TLS_client_method());
    char byte;
    SSL_CTX_clear_mode(context, SSL_MODE_AUTO_RETRY);
    SSL_SESSION *session = resumes ? connect_once(context, arguments, NULL) : NULL;
    if (read(start, &byte, 1) < 0)
        die("pipe");
    while (count-- > 0)
        SSL_SESSION_free(connect_once(context, arguments, session));
    exit(0);
}

int job_tls_handshakes(char **arguments)
{
    int64_t count = number(arguments[2]), clients = number(arguments[3]);
    bool resumes = strcmp(arguments[4], "resumed") == 0;
    int start[2], status, worst = 0;

    if (pipe(start) < 0)
        die("pipe");
    for (int64_t i = 0; i < clients; i++)
        if (fork() == 0) {
            close(start[1]);
            shake_many(arguments, count / clients, resumes, start[0]);
        }
    usleep(500000); /* all have what they begin with */
    int64_t begun = now_ns();
    close(start[1]);
    while (wait(&status) > 0)
        worst |= status;
    print_rate(0, now_ns() - begun, count / clients * clients);
    return worst != 0;
}

/* --- Many connections --- */

int job_tls_idle(char **arguments)
{
    static const uint8_t versions[] = {0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 7, 0xff, 0xff};
    int64_t count = number(arguments[3]);
    SSL_CTX *context = strcmp(arguments[0], "tls") ? NULL : context_of(TLS_client_method());
    struct rlimit files;
    uint8_t size[4];
    char byte;

    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    for (int64_t i = 0; i < count; i++) {
        struct stream stream = open_stream(context, arguments[1], arguments[2]);
        stream_send(&stream, versions, sizeof(versions));
        stream_receive(&stream, size, sizeof(size));
        receive_all(&stream, kq_load_be32(size));
    }
    printf("{\"connections\": %" PRId64 "}\n", count);
    fflush(stdout);
    while (read(STDIN_FILENO, &byte, 1) > 0)
        continue;
    return 0;
}
