/* Quotas on the wire: what a request has used is charged to who asked it, and a client that has
 * overdrawn its account is answered at once and then not read for a while (KIP-219). */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct kq_conn;
struct kq_request;

/* When something began that takes a thread's time: for kq_throttle_spent; 0 where nobody counts it.
 * Any thread. */
int64_t kq_throttle_clock(const struct kq_request *request);

/* REQUEST has had its thread since BEGAN_NS. The thread. */
void kq_throttle_spent(struct kq_request *request, int64_t began_ns);

/* The same of sending on CONN, which is charged with its next request. On the loop. */
int64_t kq_throttle_send_clock(const struct kq_conn *conn);
void kq_throttle_sent(struct kq_conn *conn, int64_t began_ns);

/* How many bytes of messages the client may be sent at once without being throttled. */
int64_t kq_throttle_fetch_bytes(const struct kq_request *request);

/* May the answer to the Fetch REQUEST have BYTES of messages? False: it is to be empty. */
bool kq_throttle_fetch(struct kq_request *request, int64_t bytes);

/* REQUEST is done: charges it, and says in it and its response for how long the client is to hold
 * back, where it is. On the loop. */
void kq_throttle(struct kq_request *request);
