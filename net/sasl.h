/* SASL on the connections of sasl_plaintext:// and sasl_ssl:// (KIP-12, KIP-43, KIP-152, KIP-368).
 *
 * Before a client has said who it is, it may ask for ApiVersions and SaslHandshake, one at a time
 * and in small frames, and it has not for ever. Behind a handshake of version 0 frames are tokens
 * without a header, behind one of version 1 they are SaslAuthenticate requests. A session may end,
 * unless the client proves anew, in time and on the same connection, that it is who it is.
 *
 * All calls: the connection's loop, unless they say otherwise.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "auth/sasl.h"
#include "net/request.h"

struct kq_listener;
struct kq_sasl;

/* Of a new connection of LISTENER; NULL where that asks for none. -ENOMEM. */
int kq_sasl_new(const struct kq_server *server, const struct kq_listener *listener, int64_t now_ns,
                struct kq_sasl **ret);
void kq_sasl_free(struct kq_sasl *sasl); /* NULL is fine */

/* SASL may be NULL from here on, which stands for a client that need not say who it is. */

/* Has it said so? Until then one request at a time is taken, of few bytes. Stays true while it
 * proves itself anew. */
bool kq_sasl_is_done(const struct kq_sasl *sasl);

/* Is the next frame a token without a header? */
bool kq_sasl_takes_tokens(const struct kq_sasl *sasl);

/* By when it has to be done; INT64_MAX: it is. */
int64_t kq_sasl_due_ns(const struct kq_sasl *sasl);

/* May a request of API start? False: *RET_WHY (enum kq_tally) is what its connection ends by. */
bool kq_sasl_admits(const struct kq_sasl *sasl, const struct kq_api *api, int64_t now_ns,
                    int *ret_why);

/* Has a proof been taken whose effect is still to come? Until then no other request starts. */
bool kq_sasl_is_settling(const struct kq_sasl *sasl);

/* REQUEST, of SaslHandshake or SaslAuthenticate, was answered: what it has brought about happens.
 * True: the connection is to end once the answer is sent, by *RET_WHY. */
bool kq_sasl_settle(struct kq_conn *conn, struct kq_request *request, int *ret_why);

/* Can listeners that do (or do not) have TLS offer any mechanism? */
bool kq_sasl_is_offered(const struct kq_server *server, bool tls);
