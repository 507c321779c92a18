/* From a connection that was accepted to one inside TLS, whose client is known.
 *
 * The loop that will own the connection waits for the peer's bytes; each step that they make
 * possible runs on a thread of the front's pool, which never waits for the network. So a handshake
 * that does not go on costs memory, until its time is over, and no thread.
 */
#pragma once

#include "net/internal.h"

/* ARRIVED has no identity yet and is the callee's from now on. WHERE there are too many already it
 * is closed. Any thread. */
void kq_handshake_start_consume(const struct kq_arrived *arrived);

/* Ends those of SHARD, whose thread this is. */
void kq_handshake_end_all(struct kq_shard *shard);
