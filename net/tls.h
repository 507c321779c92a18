/* A socket inside TLS as a transport, after its handshake.
 *
 * There are two ways to send. Where the kernel encrypts (its TLS, enabled by OpenSSL where module
 * and cipher are there), memory goes by sendmsg(2) and files by SSL_sendfile(3), straight from the
 * page cache. Elsewhere both go through one buffer of the loop and SSL_write(3); between two calls
 * nothing is left in that buffer, so a connection holds none.
 *
 * A key must not protect more than 2^24 records in TLS 1.3 (RFC 8446, 5.5), and a peer may ask for
 * a new one (4.6.3). OpenSSL does that, but not for a key that the kernel has: then the transport
 * asks for its own end, and the client reconnects.
 */
#pragma once

#include <openssl/ssl.h>
#include <stdatomic.h>

#include "net/tlsmetrics.h"
#include "net/transport.h"

/* What the connections of one loop share. */
struct kq_tls_desk {
    struct kq_tls_counts *counts;
    size_t buffer_bytes;  /* what is encrypted at once, at most */
    uint64_t max_records; /* with one key */
    uint8_t *buffer;      /* made when it is first needed */
};

void kq_tls_desk_release(struct kq_tls_desk *desk);

/* Makes a transport of SSL, whose handshake is done and whose descriptor is the transport's, and
 * which belongs to it where 0 is returned. DESK is of the loop that owns it from now on, and
 * outlives it. Any thread. -ENOMEM. */
int kq_tls_init_consume(struct kq_transport *transport, SSL *ssl, struct kq_tls_desk *desk);

/* Does the kernel encrypt what is sent on it? */
bool kq_tls_is_kernel(SSL *ssl);

/* What the call that returned N on SSL means: 0: the peer will send no more; -EAGAIN, and
 * *RET_WANTS is what to wait for (EPOLLIN, EPOLLOUT); -errno (-EPROTO: of TLS itself). */
int kq_tls_result(SSL *ssl, int n, unsigned *ret_wants);
