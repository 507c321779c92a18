#include "net/tls.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "broker/base/io.h"
#include "broker/base/mem.h"

#define RECORD_BYTES 16384
#define MARGIN 1024      /* records that may follow before a key is replaced */
#define MESSAGES_MAX 32  /* of the handshake's kind, without a byte of data between them */
#define DISCARD_MAX 1024 /* reads of what nobody will look at */
#define READ_AT_ONCE_MAX (1 << 30)

struct state {
    SSL *ssl;
    struct kq_tls_desk *desk;
    uint64_t records; /* sent with the present key, or more */
    unsigned read_wants, write_wants;
    unsigned messages;
    int failed; /* what the next read returns */
    bool is_kernel, may_rekey, must_end;
    bool corked;
};

void kq_tls_desk_release(struct kq_tls_desk *desk)
{
    free(desk->buffer);
    desk->buffer = NULL;
}

bool kq_tls_is_kernel(SSL *ssl)
{
    return BIO_get_ktls_send(SSL_get_wbio(ssl));
}

int kq_tls_result(SSL *ssl, int n, unsigned *ret_wants)
{
    int error = errno, r = -EPROTO;
    switch (SSL_get_error(ssl, n)) {
    case SSL_ERROR_WANT_READ:
        *ret_wants = EPOLLIN;
        r = -EAGAIN;
        break;
    case SSL_ERROR_WANT_WRITE:
        *ret_wants = EPOLLOUT;
        r = -EAGAIN;
        break;
    case SSL_ERROR_ZERO_RETURN:
        r = 0;
        break;
    case SSL_ERROR_SYSCALL:
        r = error ? -error : -ECONNRESET;
        break;
    default:
        break;
    }
    return r;
}

/* --- Reading --- */

/* The peer's requests for new keys come between its data (RFC 8446, 4.6.3). */
static void see_message(int writing, int version, int type, const void *bytes, size_t length,
                        SSL *ssl, void *argument)
{
    struct state *state = argument;
    const uint8_t *message = bytes;
    if (writing || type != SSL3_RT_HANDSHAKE)
        return;
    state->messages++;
    if (length >= 5 && message[0] == SSL3_MT_KEY_UPDATE && message[4] == SSL_KEY_UPDATE_REQUESTED &&
        state->is_kernel && !state->must_end) {
        state->must_end = true;
        kq_tls_count(state->desk->counts, KQ_TLS_ENDED_BY_REQUEST);
    }
}

/* One SSL_read. OpenSSL also returns after a message that is no data: that is tried again, but not
 * for ever. */
static int read_some(struct state *state, void *bytes, size_t length)
{
    for (;;) {
        unsigned before = state->messages;
        ERR_clear_error();
        errno = 0;
        int n = SSL_read(state->ssl, bytes,
                         (int)(length < READ_AT_ONCE_MAX ? length : READ_AT_ONCE_MAX));
        if (n > 0) {
            state->messages = 0;
            return n;
        }
        int r = kq_tls_result(state->ssl, n, &state->read_wants);
        if (state->must_end)
            return -ESHUTDOWN;
        if (r != -EAGAIN || state->messages == before)
            return r == 0 ? -ESHUTDOWN : r;
        if (state->messages > MESSAGES_MAX)
            return -EPROTO;
    }
}

static ssize_t tls_read(struct kq_transport *transport, void *bytes, size_t length)
{
    struct state *state = transport->state;
    size_t done = 0;
    int r = state->failed;
    while (r == 0 && done < length && !state->must_end) {
        r = read_some(state, (char *)bytes + done, length - done);
        if (r > 0) {
            done += (size_t)r;
            r = 0;
        }
    }
    transport->ending |= state->must_end;
    if (r == 0 && state->must_end)
        r = -ESHUTDOWN;
    if (r != -EAGAIN)
        state->failed = r;
    if (done > 0)
        return (ssize_t)done;
    return r == -ESHUTDOWN ? 0 : r;
}

/* --- Sending --- */

static bool is_worn(const struct state *state)
{
    return state->may_rekey && state->records + MARGIN >= state->desk->max_records;
}

/* With the kernel's key there is no other. */
static void note_records(struct kq_transport *transport, size_t sent)
{
    struct state *state = transport->state;
    state->records += sent / RECORD_BYTES + 1;
    if (!state->is_kernel || !is_worn(state) || state->must_end)
        return;
    state->must_end = true;
    kq_tls_count(state->desk->counts, KQ_TLS_ENDED_BY_RECORDS);
    transport->ending = true;
}

/* A record that is half sent goes first: then OpenSSL refuses, and it is tried again later. */
static void replace_key(struct state *state)
{
    if (!is_worn(state) || SSL_key_update(state->ssl, SSL_KEY_UPDATE_NOT_REQUESTED) != 1)
        return;
    kq_tls_count(state->desk->counts, KQ_TLS_REKEYED);
    state->records = 0;
}

/* While CORKED only full packets go (tcp(7)): OpenSSL gives the kernel one record at a time, and a
 * packet for each would wake the peer as often. */
static void cork(struct kq_transport *transport, bool corked)
{
    struct state *state = transport->state;
    int value = corked;
    if (state->corked == corked)
        return;
    state->corked = corked;
    setsockopt(transport->fd, IPPROTO_TCP, TCP_CORK, &value, sizeof(value));
}

/* Of LENGTH bytes as many as go; MORE: others follow at once. What does not go is given again with
 * the next call, as OpenSSL wants it: the bytes that come next in the connection are always the
 * same. */
static ssize_t encrypt(struct kq_transport *transport, const uint8_t *bytes, size_t length,
                       bool more)
{
    struct state *state = transport->state;
    size_t done = 0;
    int r = 0;
    if (more || length > RECORD_BYTES)
        cork(transport, true);
    while (done < length) {
        replace_key(state);
        ERR_clear_error();
        errno = 0;
        int n = SSL_write(state->ssl, bytes + done, (int)(length - done));
        if (n <= 0) {
            r = kq_tls_result(state->ssl, n, &state->write_wants);
            break;
        }
        done += (size_t)n;
        note_records(transport, 0);
    }
    if (!more || done < length)
        cork(transport, false);
    if (done > 0)
        return (ssize_t)done;
    return r == 0 ? -ECONNRESET : r;
}

static uint8_t *buffer_of(struct kq_tls_desk *desk)
{
    if (!desk->buffer)
        desk->buffer = kq_alloc(desk->buffer_bytes);
    return desk->buffer;
}

static ssize_t tls_writev(struct kq_transport *transport, const struct iovec *parts, int count,
                          bool more)
{
    struct state *state = transport->state;
    size_t room = state->desk->buffer_bytes, length = 0;
    if (count == 1)
        return encrypt(transport, parts->iov_base, parts->iov_len < room ? parts->iov_len : room,
                       more);
    uint8_t *buffer = buffer_of(state->desk);
    if (!buffer)
        return -ENOMEM;
    for (int i = 0; i < count && length < room; i++) {
        size_t piece = parts[i].iov_len < room - length ? parts[i].iov_len : room - length;
        memcpy(buffer + length, parts[i].iov_base, piece);
        length += piece;
    }
    return encrypt(transport, buffer, length, more);
}

static ssize_t tls_sendfile(struct kq_transport *transport, int fd, int64_t position, size_t length)
{
    struct state *state = transport->state;
    struct kq_tls_desk *desk = state->desk;
    uint8_t *buffer = buffer_of(desk);
    if (!buffer)
        return -ENOMEM;
    if (length > desk->buffer_bytes)
        length = desk->buffer_bytes;
    ssize_t n = kq_io_pread(fd, buffer, length, position);
    if (n > 0)
        n = encrypt(transport, buffer, (size_t)n, false);
    if (n > 0)
        kq_tls_add(desk->counts, KQ_TLS_COPIED_BYTES, (uint64_t)n);
    return n;
}

/* What the kernel gets is data of the application unless something else is said (the kernel's
 * Documentation/networking/tls.rst), so these need not go through OpenSSL, which would answer a
 * request for a new key first. */
static ssize_t kernel_writev(struct kq_transport *transport, const struct iovec *parts, int count,
                             bool more)
{
    struct msghdr message = {.msg_iov = (struct iovec *)parts, .msg_iovlen = (size_t)count};
    int flags = MSG_DONTWAIT | MSG_NOSIGNAL | (more ? MSG_MORE : 0);
    ssize_t n;
    do
        n = sendmsg(transport->fd, &message, flags);
    while (n < 0 && errno == EINTR);
    if (n > 0)
        note_records(transport, (size_t)n);
    return n < 0 ? -errno : n;
}

static ssize_t kernel_sendfile(struct kq_transport *transport, int fd, int64_t position,
                               size_t length)
{
    struct state *state = transport->state;
    ERR_clear_error();
    errno = 0;
    ssize_t n = SSL_sendfile(state->ssl, fd, position, length, 0);
    if (n < 0) {
        int r = kq_tls_result(state->ssl, (int)n, &state->write_wants);
        return r == 0 ? -ECONNRESET : r;
    }
    if (n > 0) {
        note_records(transport, (size_t)n);
        kq_tls_add(state->desk->counts, KQ_TLS_SENDFILE_BYTES, (uint64_t)n);
    }
    return n;
}

/* --- The rest --- */

static void tls_shutdown(struct kq_transport *transport)
{
    struct state *state = transport->state;
    ERR_clear_error();
    SSL_shutdown(state->ssl);
    shutdown(transport->fd, SHUT_WR);
}

static unsigned tls_wants(const struct kq_transport *transport, bool writing)
{
    const struct state *state = transport->state;
    return writing ? state->write_wants : state->read_wants;
}

/* What has come and was not read would make the kernel take back what the peer has not read yet. */
static void discard(int fd)
{
    char bytes[4096];
    for (int i = 0; i < DISCARD_MAX; i++)
        if (recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT) <= 0)
            return;
}

static void tls_close(struct kq_transport *transport)
{
    struct state *state = transport->state;
    if (!state)
        return;
    if (state->must_end && !(SSL_get_shutdown(state->ssl) & SSL_RECEIVED_SHUTDOWN))
        discard(transport->fd);
    kq_tls_count_open(state->desk->counts, state->ssl, state->is_kernel, -1);
    SSL_free(state->ssl);
    close(transport->fd);
    transport->fd = -1;
    free(state);
    transport->state = NULL;
}

static const struct kq_transport_class copying_class = {
    .read = tls_read,
    .writev = tls_writev,
    .sendfile = tls_sendfile,
    .shutdown = tls_shutdown,
    .wants = tls_wants,
    .close = tls_close,
    .copies_files = true,
    .encrypts = true,
};

static const struct kq_transport_class kernel_class = {
    .read = tls_read,
    .writev = kernel_writev,
    .sendfile = kernel_sendfile,
    .shutdown = tls_shutdown,
    .wants = tls_wants,
    .close = tls_close,
};

int kq_tls_init_consume(struct kq_transport *transport, SSL *ssl, struct kq_tls_desk *desk)
{
    struct state *state = kq_alloc(sizeof(*state));
    if (!state)
        return -ENOMEM;
    *state = (struct state){.ssl = ssl,
                            .desk = desk,
                            .read_wants = EPOLLIN,
                            .write_wants = EPOLLOUT,
                            .is_kernel = kq_tls_is_kernel(ssl),
                            .may_rekey = SSL_version(ssl) >= TLS1_3_VERSION};
    SSL_set_msg_callback(ssl, see_message);
    SSL_set_msg_callback_arg(ssl, state);
    kq_tls_count_open(desk->counts, ssl, state->is_kernel, 1);
    transport->class = state->is_kernel ? &kernel_class : &copying_class;
    transport->state = state;
    return 0;
}
