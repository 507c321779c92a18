/* Consumers over TLS, and what they are compared with. */
#pragma once

/* refetch tls|plain HOST PORT TOPIC BYTES MAX RATE: the first MAX bytes of partition 0 again and
 * again until BYTES came, at RATE bytes a second (0: as fast as they come). The first response is
 * decrypted; of those that follow, which have its length, the records are counted and discarded. */
int job_refetch(char **arguments);

/* tls-serve FILE CERTIFICATE KEY write|sendfile: prints a port, then sends to one client after the
 * other as many bytes of the file as its request of 8 bytes says, by SSL_write(3) from a buffer of
 * 256 KiB, or by SSL_sendfile(3); ends where the kernel does not encrypt then. */
int job_tls_serve(char **arguments);

/* tls-drain HOST PORT BYTES MAX: asks tls-serve for MAX bytes until BYTES came, as refetch does. */
int job_tls_drain(char **arguments);

/* tls-handshakes HOST PORT COUNT CLIENTS full|resumed: COUNT connections that end when the server's
 * ticket came, by CLIENTS processes. */
int job_tls_handshakes(char **arguments);

/* tls-idle tls|plain HOST PORT COUNT: as tcp-idle. */
int job_tls_idle(char **arguments);
