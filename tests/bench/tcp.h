/* A bare Kafka client for the benchmarks: no library between the socket and the clock. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Connected, TCP_NODELAY; exits where that fails. */
int tcp_connect(const char *host, const char *port);

void tcp_send(int fd, const void *bytes, size_t length);
void tcp_receive(int fd, void *bytes, size_t length);

/* A socket that listens on a port of the loopback that is free; exits where that fails. */
int tcp_listen_anywhere(uint16_t *ret_port);

struct frame {
    uint8_t bytes[1024];
    size_t length;
};

/* A Fetch of at most MAX bytes from offset 0 on; where the offset stands in the frame. */
size_t tcp_fetch_request(struct frame *frame, const char *topic, int partition, int64_t max);

/* tcp-fetch HOST PORT TOPIC PARTITION BYTES MAX OFFSET: Fetch requests of at most MAX bytes one
 * after the other, from OFFSET on, until BYTES of batches came; what comes is discarded. The next
 * offset is read from the batches' headers. */
int job_tcp_fetch(char **arguments);

/* tcp-serve FILE: the yardstick of tcp-fetch. Prints a port, then sends to one client after the
 * other as many bytes as its request of 8 bytes says, by sendfile(2) from the file, over and over.
 */
int job_tcp_serve(char **arguments);

/* tcp-drain HOST PORT BYTES MAX: asks tcp-serve for BYTES, in requests of MAX bytes, and discards
 * them as tcp-fetch does. */
int job_tcp_drain(char **arguments);

/* tcp-latency HOST PORT TOPIC COUNT INTERVAL_US: a connection produces a message of 100 bytes on a
 * fixed beat, another waits for each in a long poll; from before the one's send to after the
 * other's receive. */
int job_tcp_latency(char **arguments);

/* tcp-pingpong COUNT INTERVAL_US CPU: the yardstick: as many bytes go through a process on CPU (-1:
 * any) that only hands on what it receives, over two connections on the loopback. */
int job_tcp_pingpong(char **arguments);

/* tcp-idle HOST PORT COUNT: so many connections that asked once for the versions; prints its line
 * once all are there, and ends with its standard input. */
int job_tcp_idle(char **arguments);

/* tcp-metadata HOST PORT COUNT: so many Metadata requests for all topics, one after the other. */
int job_tcp_metadata(char **arguments);

/* tcp-requests HOST PORT TOPIC COUNT produce|fetch: so many requests, one after the other: a
 * Produce of one message of 100 bytes, or a Fetch of the first batch of partition 0. */
int job_tcp_requests(char **arguments);
