#include "net/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/un.h>

#include "broker/base/diag.h"
#include "broker/base/err.h"

#define QUOTED_MAX 120

struct text {
    const char *at;
    size_t length;
};

static int refuse(struct text whole, const char *reason)
{
    size_t shown = whole.length < QUOTED_MAX ? whole.length : QUOTED_MAX;
    kq_diag(LOG_ERR, "listen: %.*s: %s", (int)shown, whole.at, reason);
    return -EINVAL;
}

/* Cuts PREFIX off. */
static bool skip(struct text *text, const char *prefix)
{
    size_t length = strlen(prefix);
    if (text->length < length || strncasecmp(text->at, prefix, length) != 0)
        return false;
    text->at += length;
    text->length -= length;
    return true;
}

/* What stands before the first WHERE, which is cut off with it. */
static struct text cut(struct text *rest, char where)
{
    struct text first = *rest;
    const char *found = rest->length ? memchr(rest->at, where, rest->length) : NULL;
    if (!found) {
        rest->length = 0;
        return first;
    }
    first.length = (size_t)(found - rest->at);
    rest->at = found + 1;
    rest->length -= first.length + 1;
    return first;
}

static bool parse_port(struct text text, uint16_t *ret)
{
    unsigned port = 0;
    if (text.length < 1 || text.length > 5)
        return false;
    for (size_t i = 0; i < text.length; i++) {
        if (text.at[i] < '0' || text.at[i] > '9')
            return false;
        port = port * 10 + (unsigned)(text.at[i] - '0');
    }
    *ret = (uint16_t)port;
    return port <= UINT16_MAX;
}

/* HOST:PORT or [HOST]:PORT. */
static bool parse_host_port(struct text text, struct kq_host_port *ret)
{
    const char *colon = text.length ? memrchr(text.at, ':', text.length) : NULL;
    if (!colon)
        return false;
    struct text host = {text.at, (size_t)(colon - text.at)};
    struct text port = {colon + 1, text.length - host.length - 1};
    bool brackets = host.length >= 2 && host.at[0] == '[' && host.at[host.length - 1] == ']';
    if (brackets) {
        host.at++;
        host.length -= 2;
    }
    if (host.length >= KQ_HOST_BYTES || (!brackets && memchr(host.at, ':', host.length)) ||
        memchr(host.at, '\0', host.length))
        return false;
    memcpy(ret->host, host.at, host.length);
    ret->host[host.length] = '\0';
    return parse_port(port, &ret->port);
}

static int parse_unix(struct text whole, struct text path, struct kq_address *ret)
{
    struct sockaddr_un *name = (struct sockaddr_un *)&ret->socket;
    if (path.length == 0 || path.at[0] != '/')
        return refuse(whole, "a unix socket needs an absolute path: unix:///run/kqfs.sock");
    if (path.length >= sizeof(name->sun_path) || memchr(path.at, '\0', path.length))
        return refuse(whole, "the path of a unix socket has at most 107 bytes");
    ret->is_unix = ret->is_loopback = true;
    name->sun_family = AF_UNIX;
    memcpy(name->sun_path, path.at, path.length);
    ret->socket_length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + path.length + 1);
    return 0;
}

static int look_up(struct text whole, struct kq_address *ret)
{
    char port[8];
    struct addrinfo *found;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_PASSIVE | AI_NUMERICSERV,
                             .ai_family = ret->host.host[0] ? AF_UNSPEC : AF_INET6};
    snprintf(port, sizeof(port), "%u", ret->host.port);
    int r = getaddrinfo(ret->host.host[0] ? ret->host.host : NULL, port, &hints, &found);
    if (r)
        return refuse(whole, r == EAI_SYSTEM ? strerror(errno) : gai_strerror(r));
    memcpy(&ret->socket, found->ai_addr, found->ai_addrlen);
    ret->socket_length = found->ai_addrlen;
    freeaddrinfo(found);
    ret->is_loopback = kq_address_is_loopback(&ret->socket);
    return 0;
}

static const struct scheme {
    const char *prefix;
    bool tls, sasl;
} schemes[] = {
    {"plaintext://", false, false},
    {"ssl://", true, false},
    {"sasl_plaintext://", false, true},
    {"sasl_ssl://", true, true},
};

static int parse_tcp(struct text whole, const struct scheme *scheme, struct text first,
                     struct kq_address *ret)
{
    ret->tls = scheme->tls;
    ret->sasl = scheme->sasl;
    if (!parse_host_port(first, &ret->host))
        return refuse(whole, "is not SCHEME://HOST:PORT (an IPv6 address in brackets)");
    return look_up(whole, ret);
}

static int parse_scheme(struct text whole, struct text *first, struct kq_address *ret)
{
    if (skip(first, "unix://"))
        return parse_unix(whole, *first, ret);
    for (size_t i = 0; i < kq_array_size(schemes); i++)
        if (skip(first, schemes[i].prefix))
            return parse_tcp(whole, &schemes[i], *first, ret);
    return refuse(whole, "begins with none of plaintext://, ssl://, sasl_plaintext://, "
                         "sasl_ssl://, unix://");
}

static int parse_advertised(struct text whole, struct text value, struct kq_address *ret)
{
    if (!parse_host_port(value, &ret->advertised) || !ret->advertised.host[0] ||
        !ret->advertised.port)
        return refuse(whole, "advertised= needs HOST:PORT");
    return 0;
}

static int parse_option(struct text whole, struct text option, struct kq_address *ret)
{
    const struct {
        const char *prefix;
        struct kq_address_option *to;
    } of_tls[] = {
        {"certificate=", &ret->certificate},
        {"key=", &ret->key},
        {"ca=", &ret->ca},
        {"crl=", &ret->crl},
        {"client_authentication=", &ret->client_authentication},
    };
    if (skip(&option, "advertised="))
        return parse_advertised(whole, option, ret);
    for (size_t i = 0; ret->tls && i < kq_array_size(of_tls); i++) {
        if (!skip(&option, of_tls[i].prefix))
            continue;
        bool is_path = of_tls[i].to != &ret->client_authentication;
        if (!option.length || (is_path && option.at[0] != '/') ||
            memchr(option.at, '\0', option.length))
            return refuse(whole, is_path ? "the files of TLS need absolute paths"
                                         : "client_authentication= needs a word");
        *of_tls[i].to = (struct kq_address_option){option.at, option.length};
        return 0;
    }
    return refuse(whole, ret->tls
                             ? "knows no options but advertised=HOST:PORT, certificate=, key=, "
                               "ca=, crl= and client_authentication="
                             : "knows no option but advertised=HOST:PORT");
}

int kq_address_parse(const char *text, size_t length, struct kq_address *ret)
{
    struct text whole = {text, length}, rest = whole, first = cut(&rest, ',');
    struct kq_address address = {0};
    int r = parse_scheme(whole, &first, &address);
    while (r == 0 && rest.length > 0)
        r = parse_option(whole, cut(&rest, ','), &address);
    if (r == 0)
        *ret = address;
    return r;
}

/* --- Addresses of sockets --- */

static bool is_v4_in_v6(const struct sockaddr_storage *address)
{
    return address->ss_family == AF_INET6 &&
           IN6_IS_ADDR_V4MAPPED(&((const struct sockaddr_in6 *)address)->sin6_addr);
}

/* The IPv4 address in host order; false: it is none. */
static bool get_v4(const struct sockaddr_storage *address, uint32_t *ret)
{
    if (address->ss_family == AF_INET)
        *ret = ntohl(((const struct sockaddr_in *)address)->sin_addr.s_addr);
    else if (is_v4_in_v6(address))
        memcpy(ret, &((const struct sockaddr_in6 *)address)->sin6_addr.s6_addr[12], 4),
            *ret = ntohl(*ret);
    else
        return false;
    return true;
}

bool kq_address_is_loopback(const struct sockaddr_storage *address)
{
    uint32_t v4;
    if (address->ss_family == AF_UNIX)
        return true;
    if (get_v4(address, &v4))
        return v4 >> 24 == IN_LOOPBACKNET;
    return address->ss_family == AF_INET6 &&
           IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)address)->sin6_addr);
}

bool kq_address_same_host(const struct sockaddr_storage *a, const struct sockaddr_storage *b)
{
    uint32_t v4_a = 0, v4_b = 0;
    bool is_v4_a = get_v4(a, &v4_a), is_v4_b = get_v4(b, &v4_b);
    if (is_v4_a || is_v4_b)
        return is_v4_a && is_v4_b && v4_a == v4_b;
    return a->ss_family == AF_INET6 && b->ss_family == AF_INET6 &&
           IN6_ARE_ADDR_EQUAL(&((const struct sockaddr_in6 *)a)->sin6_addr,
                              &((const struct sockaddr_in6 *)b)->sin6_addr);
}

bool kq_address_format(const struct sockaddr_storage *from, struct kq_host_port *ret)
{
    uint32_t v4;
    if (from->ss_family != AF_INET && from->ss_family != AF_INET6)
        return false;
    if (get_v4(from, &v4)) {
        struct in_addr address = {htonl(v4)};
        inet_ntop(AF_INET, &address, ret->host, sizeof(ret->host));
    } else {
        inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)from)->sin6_addr, ret->host,
                  sizeof(ret->host));
    }
    ret->port = ntohs(from->ss_family == AF_INET ? ((const struct sockaddr_in *)from)->sin_port
                                                 : ((const struct sockaddr_in6 *)from)->sin6_port);
    return true;
}
