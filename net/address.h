/* Where the broker listens, as it is written: what stands behind --listen.
 *
 *     plaintext://HOST:PORT[,advertised=HOST:PORT]
 *     ssl://HOST:PORT[,advertised=HOST:PORT]             TLS
 *     sasl_plaintext://HOST:PORT[,advertised=HOST:PORT]  SASL
 *     sasl_ssl://HOST:PORT[,advertised=HOST:PORT]        SASL inside TLS
 *     unix://PATH[,advertised=HOST:PORT]
 *
 * Those with TLS may also have certificate=, key=, ca=, crl= (absolute paths without commas and
 * blanks) and client_authentication=none|requested|required, instead of those of [tls].
 *
 * HOST is a name, an address, an IPv6 address in brackets, or empty: every address of this host.
 * PORT 0 takes any that is free.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#define KQ_HOST_BYTES 256 /* of a host's name, with its NUL: RFC 1035 allows 253 characters */

struct kq_host_port {
    char host[KQ_HOST_BYTES]; /* an IPv6 address without brackets; "": not given */
    uint16_t port;
};

/* Part of the text that was parsed, valid as long as that; length 0: not given. */
struct kq_address_option {
    const char *at;
    size_t length;
};

struct kq_address {
    bool is_unix;
    bool tls, sasl;   /* what a client must do first; neither: it is who the kernel says */
    bool is_loopback; /* only this host can reach it */
    struct kq_host_port host;
    struct kq_host_port advertised; /* to clients; host "": not given */
    /* Of TLS, instead of what [tls] says; absolute paths. */
    struct kq_address_option certificate, key, ca, crl, client_authentication;
    struct sockaddr_storage socket; /* for bind(2) */
    socklen_t socket_length;
};

/* Parses LENGTH bytes at TEXT and looks the host's name up, which may block. 0; -EINVAL (also for
 * an unknown option), reported in one line that quotes it. */
int kq_address_parse(const char *text, size_t length, struct kq_address *ret);

/* The numeric address and port of a TCP socket's name, IPv4 in IPv6 as IPv4. False: it has none. */
bool kq_address_format(const struct sockaddr_storage *from, struct kq_host_port *ret);

/* Do the two name the same host? Is it this one, over the loopback interface? */
bool kq_address_same_host(const struct sockaddr_storage *a, const struct sockaddr_storage *b);
bool kq_address_is_loopback(const struct sockaddr_storage *address);
