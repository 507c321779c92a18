/* What a request was about, and whether its client may, for the audit log: read from the response,
 * by its schema. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "net/audit.h"
#include "net/request.h"

struct kq_conn_peer;

/* Is CODE one of Kafka's errors that say that a client may not? */
bool kq_audit_is_refusal(int16_t code);

/* REQUEST has its response, with a refusal in it or not. Where its answer is complete; any thread.
 */
void kq_audit_answered(const struct kq_request *request);

/* REQUEST, of SASL: its client is PRINCIPAL, or only says so. REASON: why not. Any thread. */
void kq_audit_login(const struct kq_request *request, int16_t code, const char *principal,
                    uid_t uid, const char *mechanism, const char *reason);

/* REQUEST is not even read, and its connection ends: REASON. Any thread. */
void kq_audit_turned_away(const struct kq_request *request, const char *reason);

/* A connection of LISTENER has TLS now (REASON NULL), or does not get it. Any thread. */
void kq_audit_tls(struct kq_audit *audit, const char *listener, const struct kq_conn_peer *peer,
                  const char *principal, uid_t uid, const char *reason);
