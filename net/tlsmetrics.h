/* What is counted of TLS, in .kqfs/metrics. Any thread. */
#pragma once

#include <openssl/ssl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "broker/base/buf.h"

enum kq_tls_count {
    KQ_TLS_FULL,             /* handshakes that came to their end */
    KQ_TLS_RESUMED,          /* likewise, with a ticket */
    KQ_TLS_FAILED,           /* not TLS, or not what this host takes */
    KQ_TLS_BAD_CERTIFICATE,  /* the client's: none, expired, revoked, of another CA, … */
    KQ_TLS_BROKEN_OFF,       /* the client went */
    KQ_TLS_TIMED_OUT,        /* tls.handshake.timeout.ms */
    KQ_TLS_TOO_MANY,         /* tls.max.handshakes */
    KQ_TLS_NO_USER,          /* no rule for the name, no memory, … */
    KQ_TLS_SENDFILE_BYTES,   /* of files, straight from the page cache */
    KQ_TLS_COPIED_BYTES,     /* of files, through a buffer */
    KQ_TLS_REKEYED,          /* keys replaced after tls.max.records */
    KQ_TLS_ENDED_BY_REQUEST, /* connections: the peer asked for a key that the kernel cannot take */
    KQ_TLS_ENDED_BY_RECORDS, /* connections: tls.max.records, likewise */
    KQ_TLS_RELOADED,         /* contexts that were replaced */
    KQ_TLS_NOT_RELOADED,     /* whose files could not be used */
    KQ_TLS_COUNTS,
};

#define KQ_TLS_CIPHERS 9 /* that auth/tls.c allows */

struct kq_tls_counts {
    atomic_uint_fast64_t counts[KQ_TLS_COUNTS];
    atomic_uint under_way;                     /* handshakes */
    atomic_int open[KQ_TLS_CIPHERS + 1][2][2]; /* cipher (or another), TLS 1.3, kernel */
};

static inline void kq_tls_add(struct kq_tls_counts *counts, enum kq_tls_count which,
                              uint64_t amount)
{
    atomic_fetch_add_explicit(&counts->counts[which], amount, memory_order_relaxed);
}

static inline void kq_tls_count(struct kq_tls_counts *counts, enum kq_tls_count which)
{
    kq_tls_add(counts, which, 1);
}

/* By CHANGE more connections like SSL, or fewer. */
void kq_tls_count_open(struct kq_tls_counts *counts, SSL *ssl, bool is_kernel, int change);

/* As Prometheus text, appended. -ENOMEM. */
int kq_tls_counts_format(struct kq_tls_counts *counts, struct kq_buf *ret);
