/* Whose is the other end of a TCP connection within this host? */
#pragma once

#include <sys/types.h>

/* The owner of the socket at the other end of FD, as the kernel says (sock_diag(7)). Never blocks.
 * -ENOENT: not a socket of this host and network namespace, or closed by now; -errno. */
int kq_peer_uid(int fd, uid_t *ret);
