/* The command's settings: one table gives each its name, section, type, bounds, default and help.
 *
 * A setting has one name wherever it is given: `NAME = VALUE` in its section of the file,
 * `--NAME VALUE` on the command line, `-o NAME=VALUE` as mount(8) hands it over. The command line
 * wins over -o, -o over the file, the file over the default. Topic defaults stand in the section
 * [topic] under Kafka's names, elsewhere as topic.NAME; users in [users] as NAME = uid, elsewhere
 * as users.NAME.
 *
 * Plain values: main.c copies them into the options of the parts. One owner; read by any thread
 * once it no longer changes.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/base/buf.h"
#include "broker/topicconfig.h"

/* Where a value came from; a higher one wins. */
enum kq_origin {
    KQ_ORIGIN_DEFAULT,
    KQ_ORIGIN_FILE,
    KQ_ORIGIN_MOUNT_OPTION, /* -o */
    KQ_ORIGIN_COMMAND_LINE,
};

struct kq_config {
    /* [broker] */
    char *data;
    char *user;           /* whom to become; "": stay who we are */
    char *helper;         /* a unix socket; NULL: fork one */
    char *confine;        /* "yes", "no", "require" */
    char *confine_action; /* "refuse", "kill" */
    int64_t default_partitions;
    int64_t retention_check_ms;
    int64_t checkpoint_ms;
    int64_t trail_bytes;
    int64_t max_topics;
    int64_t max_partitions;
    int64_t max_open_files;
    int64_t sync_threads;
    bool cleaner;
    int64_t cleaner_threads;
    int64_t cleaner_dedupe_bytes;
    int64_t cleaner_io_bytes;
    int64_t cleaner_io_rate;
    int64_t cleaner_backoff_ms;
    int64_t producer_expiry_ms;
    int64_t max_producers;
    struct kq_group_settings {
        int64_t min_session_timeout_ms, max_session_timeout_ms, initial_rebalance_delay_ms;
        int64_t max_members, max_groups, max_protocols, max_metadata_bytes;
        int64_t offset_metadata_bytes, offsets_partitions, offsets_segment_bytes;
        int64_t offsets_retention_minutes, offsets_check_ms, max_lags;
    } groups;
    struct kq_quota_settings {
        int64_t windows, window_s, max_entities, max_accounts;
    } quotas;
    /* [mount] */
    char *mountpoint;    /* NULL: not given */
    char *mount_options; /* what the kernel and libfuse are to see, comma-separated, escaped; "" */
    bool foreground;
    bool debug;
    int64_t poll_us;
    int64_t max_receivers;
    int64_t max_workers;
    int64_t attribute_timeout_ms;
    int64_t max_write;
    int64_t max_pending_bytes;
    bool no_mount;
    /* [net] */
    char *listen;         /* addresses with blanks between them; "" */
    char *plaintext_user; /* a name or a number; "" */
    int64_t net_threads;
    int64_t net_workers;
    int64_t net_readers;
    int64_t max_request_bytes;
    int64_t max_request_memory;
    int64_t max_queued_bytes;
    int64_t max_send_bytes;
    int64_t max_in_flight;
    int64_t max_connections;
    int64_t max_connections_per_ip;
    int64_t max_connection_rate;
    int64_t max_idle_ms;
    int64_t request_timeout_ms;
    int64_t drain_timeout_ms;
    int64_t fetch_max_bytes;
    int64_t max_described_partitions;
    bool auto_create_topics;
    int64_t umask; /* of topics that are made over the wire */
    /* [sasl] */
    struct kq_sasl_settings {
        char *mechanisms; /* words */
        bool plain_without_tls;
        int64_t max_receive_bytes, timeout_ms, delay_ms, max_reauth_ms;
        int64_t scram_iterations, max_users;
    } sasl;
    int64_t principal_refresh_ms;
    int64_t max_principals;
    /* [tls] */
    struct kq_tls_config {
        char *certificate, *key, *ca, *crl; /* NULL: not given */
        char *client_authentication;        /* "": none */
        int64_t threads, max_handshakes, handshake_ms, reload_ms, buffer_bytes, max_records;
    } tls;
    char *certificate_rules; /* with blanks between them; "" */
    /* [sasl] */
    struct kq_kerberos_settings {
        char *keytab;    /* NULL: no Kerberos */
        char *principal; /* of the service; "" */
        char *realm;     /* "": that of krb5.conf */
        char *rules;     /* with blanks between them; "" */
    } kerberos;
    struct kq_oauth_settings {
        char *jwks;       /* NULL: no OAUTHBEARER */
        char *issuer;     /* "": any */
        char *audience;   /* with blanks between them; "": any */
        char *algorithms; /* likewise; "": all that are known */
        char *claim;      /* ""; "sub" */
        int64_t skew_s;
        int64_t max_token_bytes;
    } oauth;
    /* [audit] */
    char *audit_log; /* none, denied, all */
    int64_t audit_lines, audit_repeat_ms, audit_events;
    /* [users] */
    void *users; /* configusers.c's own */
    size_t user_count;
    /* [topic] */
    struct kq_topic_config topic;

    enum kq_origin mount_options_origin; /* of the last that was added */
    char *file;                          /* the configuration file, or NULL */
    bool sloppy; /* mount -s: options of the mount that nobody knows are left out */

    struct kq_config_source *sources; /* config.c's own: where each value came from */
};

enum kq_setting_type {
    KQ_SETTING_NUMBER, /* int64_t */
    KQ_SETTING_MODE,   /* int64_t, written in octal */
    KQ_SETTING_FLAG,   /* bool: true, false */
    KQ_SETTING_PATH,   /* char *, made absolute */
    KQ_SETTING_MOUNT,  /* char *: options for libfuse, checked one by one */
    KQ_SETTING_WORD,   /* char *: without blanks */
    KQ_SETTING_LIST,   /* char *: words; given again from the same place, more of them; the file
                        * may have several lines */
};

/* One row of the table. */
struct kq_setting {
    const char *section; /* in the file; NULL: cannot stand there */
    const char *name;
    char letter; /* -f; 0: none */
    enum kq_setting_type type;
    size_t offset; /* in struct kq_config */
    int64_t least, most;
    int64_t fallback;         /* the default of a number or flag … */
    int64_t (*compute)(void); /* … unless the machine decides */
    const char *argument;     /* for help: what is to be given */
    const char *help;         /* one line */
    bool in_help;             /* --help shows it; the manual shows all */
};

/* The rows; NULL behind the last. */
const struct kq_setting *kq_setting_row(size_t index);

/* All defaults; data is "" where there is no home to put it into. 0; -ENOMEM. */
int kq_config_new(struct kq_config **ret);
void kq_config_free(struct kq_config *config); /* NULL is fine */

/* Is NAME a setting, as it is written on the command line? */
bool kq_config_knows(const char *name);

/* Sets one value. NAME is looked up in SECTION, or, where SECTION is NULL, as it stands on the
 * command line. The value is checked in any case and takes effect unless a higher origin has set
 * it. In a SECTION, a path has the escapes of broker/octal.h. WHERE names the place for the report:
 * "FILE:LINE", "-o" or "command line"; LINE is kept for kq_config_format. 0; -EINVAL: one line with
 * place, name and reason was reported; -ENOMEM. */
int kq_config_set(struct kq_config *config, enum kq_origin origin, const char *where, int line,
                  const char *section, const char *name, const char *value);

/* The value of -o: settings as NAME=VALUE, and options of mount(8) and libfuse, which are collected
 * in mount_options, or dropped where only mount(8) reads them (noauto, user, x-…, …). A comma or
 * backslash in a value is written with a backslash before it, any byte as in broker/octal.h. 0;
 * -EINVAL (reported); -ENOMEM. */
int kq_config_set_mount_options(struct kq_config *config, enum kq_origin origin, const char *where,
                                int line, const char *options);

/* Do the settings fit together? To be asked when all are in. 0; -EINVAL (reported, with the place
 * of the one to blame); -ENOMEM. */
int kq_config_check(const struct kq_config *config);

/* Reads the INI file PATH. 0; -ENOENT (not reported); -EINVAL (reported); -errno (reported). */
int kq_config_read_file(struct kq_config *config, const char *path);

/* As kq_config_read_file, with the file's LENGTH bytes at hand; PATH for reports only. */
int kq_config_parse(struct kq_config *config, const char *path, const char *bytes, size_t length);

/* Calls TAKE for each of [users], in order of their names. */
void kq_config_each_user(const struct kq_config *config,
                         void (*take)(void *context, const char *name, uint32_t uid),
                         void *context);

/* The value of row INDEX, as it is written, appended to RET; nothing where it is not set. Where
 * RET_DEFAULT is not NULL, it is set to whether nobody has set it. -ENOMEM. */
int kq_config_value(const struct kq_config *config, size_t index, struct kq_buf *ret,
                    bool *ret_default);

/* All settings as a file that kq_config_read_file takes with the same result, each with a comment
 * on where it came from; appended to RET. A value too long for a line of such a file (a path from
 * the command line) stands there as a comment. -ENOMEM. */
int kq_config_format(const struct kq_config *config, struct kq_buf *ret);
