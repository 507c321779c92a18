/* A plain socket, TCP or unix, as a transport. */
#pragma once

#include "net/transport.h"

/* FD is a connected non-blocking stream socket and belongs to RET from now on. */
void kq_tcp_init_consume_fd(struct kq_transport *ret, int fd);
