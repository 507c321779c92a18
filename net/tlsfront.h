/* What the listeners with TLS share: contexts that follow their files, threads for handshakes,
 * their limits and counters. */
#pragma once

#include "auth/tls.h"
#include "broker/metrics.h"
#include "net/address.h"
#include "net/server.h"
#include "net/tlsmetrics.h"

struct kq_handshake;
struct kq_listener;
struct kq_pool;
struct kq_tls_front;

/* SETTINGS outlive it. No thread is made yet. 0; -ENOMEM. */
int kq_tls_front_new(const struct kq_tls_settings *settings, struct kq_tls_front **ret);
/* NULL is fine. */
void kq_tls_front_free(struct kq_tls_front *front);

/* The context of a listener at ADDRESS, whose options win over the settings; the front's own. WHERE
 * is for reports. 0; -EINVAL, -errno (reported); -ENOMEM. */
int kq_tls_front_add(struct kq_tls_front *front, const struct kq_address *address,
                     const char *where, struct kq_tls **ret);

/* Threads, metrics; files are looked at from now on. Without a context it does nothing. 0; -errno.
 */
int kq_tls_front_start(struct kq_tls_front *front);
/* When no handshake is under way. Not started is fine. */
void kq_tls_front_stop(struct kq_tls_front *front);

/* Reads the files, soon. Any thread, between start and stop. False: there are no contexts. */
bool kq_tls_front_reload(struct kq_tls_front *front);

const struct kq_tls_settings *kq_tls_front_settings(const struct kq_tls_front *front);
struct kq_tls_counts *kq_tls_front_counts(struct kq_tls_front *front);
struct kq_pool *kq_tls_front_pool(struct kq_tls_front *front); /* of handshakes */
