/* Whose is the other end of a TCP connection within this host? */
#pragma once

#include <stdint.h>
#include <sys/types.h>

/* A descriptor to ask the kernel with (sock_diag(7)), for one thread at a time; close(2) it.
 * -EPROTONOSUPPORT where the kernel has no such thing; -errno. */
int kq_peer_open(void);

/* The owner of the socket at the other end of FD. ASK is of kq_peer_open; SERIAL differs from that
 * of the call before. Never blocks. -ENOENT: not a socket of this host and network namespace, or
 * closed by now; -errno. */
int kq_peer_uid(int ask, uint32_t serial, int fd, uid_t *ret);
