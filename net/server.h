/* The TCP front end: listeners, loops, connections. What main.c sees of it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "net/audit.h"

struct kq_broker;
struct kq_principals;
struct kq_sasl_mechanism;
struct kq_server;

/* One of the broker's own settings, as DescribeConfigs shows it. */
struct kq_server_setting {
    const char *name, *value, *fallback; /* fallback: the default, where is_default is false */
    bool is_default, is_number, is_flag;
};

/* Of listeners with TLS; what is pointed to is valid as long as the server. */
struct kq_tls_settings {
    const char *certificate, *key, *ca, *crl; /* absolute paths; NULL or "": not set */
    const char *client_authentication;        /* none, requested, required; "": none */
    unsigned threads;                         /* for handshakes, at most */
    unsigned max_handshakes;                  /* under way at once */
    int64_t handshake_ms;                     /* how long one may take */
    int64_t reload_ms;                        /* how often the files are looked at */
    int64_t buffer_bytes;                     /* of a loop: what is encrypted at once */
    int64_t max_records;                      /* with one key of TLS 1.3 */
};

struct kq_server_options {
    const char *listen;         /* addresses (net/address.h), separated by blanks */
    const char *plaintext_user; /* net/identify.h; "": not set */
    unsigned threads;           /* loops */
    unsigned workers;           /* threads for what may block, at most */
    unsigned readers;           /* threads that read in what the page cache lacks, at most */
    int64_t max_request_bytes;
    int64_t max_queued_bytes;   /* of requests, over all connections */
    int64_t max_request_memory; /* of one request, besides its own bytes */
    int64_t max_send_bytes;     /* a connection with more to send is not read */
    unsigned max_in_flight;     /* requests of one connection */
    unsigned max_connections;   /* in all */
    unsigned max_connections_per_ip;
    unsigned max_connection_rate; /* new ones a second; 0: any */
    int64_t idle_ms;              /* a connection without traffic is closed */
    int64_t request_ms;           /* from a request's first byte to its last */
    int64_t drain_ms; /* what queued responses get when a connection or the broker ends */
    /* Of listeners with SASL; what is pointed to is valid as long as the server. */
    const struct kq_sasl_mechanism *mechanisms; /* that are switched on */
    size_t mechanism_count;
    struct kq_principals *principals; /* whose rights a name has */
    bool plain_without_tls;           /* so have mechanisms that show the secret */
    int64_t max_sasl_bytes;           /* of a frame before the client has said who it is */
    int64_t sasl_ms;                  /* from the connection to its having done so */
    int64_t failed_login_delay_ms;    /* how long the answer waits that refuses it */
    int64_t max_reauth_ms;            /* then it has to do so again; 0: never */
    struct kq_tls_settings tls;
    struct kq_audit_options audit;
    /* What handlers go by. */
    bool auto_create_topics;          /* auto.create.topics.enable */
    unsigned umask;                   /* of topics that are made over the wire */
    int32_t fetch_max_bytes;          /* fetch.max.bytes: of one response */
    int32_t max_described_partitions; /* max.request.partition.size.limit: of one response */
    /* Calls TAKE for each setting of the broker; the strings are valid during the call. Any thread;
     * never blocks. NULL: there are none. */
    void (*each_setting)(void *context,
                         void (*take)(void *to, const struct kq_server_setting *setting), void *to);
    void *setting_context;
};

/* Binds all listeners; takes no connections yet. Options are copied. Before threads are made, so
 * that the caller can go to the background afterwards. 0; -EINVAL (options) or -EADDRINUSE, … (a
 * listener), reported in one line; -ENOMEM. */
int kq_server_new(const struct kq_server_options *options, struct kq_server **ret);

/* Starts the loops and begins to accept. BROKER outlives the server's stop. 0; -errno, reported. */
int kq_server_start(struct kq_server *server, struct kq_broker *broker);

/* Reads the files of TLS again, soon; connections stay. Any thread, while SERVER lives. False: no
 * listener has TLS, or it was not started. */
bool kq_server_reload(struct kq_server *server);

/* Tells the operator where it listens. */
void kq_server_announce(const struct kq_server *server);

/* Takes no more connections and requests, lets those under way end for a while, closes. When it
 * returns no call into the broker is under way and none follows. Never started is fine. */
void kq_server_stop(struct kq_server *server);

/* Stopped, or never started; NULL is fine. */
void kq_server_free(struct kq_server *server);
