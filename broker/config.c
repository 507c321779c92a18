#include "broker/config.h"

#include <ini.h>
#include <limits.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "broker/base/diag.h"
#include "broker/base/mem.h"
#include "broker/configusers.h"
#include "broker/octal.h"

struct kq_config_source {
    enum kq_origin origin;
    int line; /* of the file */
};

static int64_t default_max_open_files(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return 256;
    /* The other half is for /dev/fuse, directories and segments that readers hold open. */
    return kq_max64(64, kq_min64((int64_t)(limit.rlim_cur / 2), 65536));
}

/* Those that this process may run on: two loops on one CPU would wait for each other's turns. */
static int64_t processors(void)
{
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0)
        return kq_max64(1, CPU_COUNT(&allowed));
    return kq_max64(1, sysconf(_SC_NPROCESSORS_ONLN)); /* more than a cpu_set_t holds */
}

static int64_t default_max_receivers(void)
{
    return kq_max64(4, kq_min64(2 * processors(), 64));
}

static int64_t default_max_workers(void)
{
    return kq_max64(16, kq_min64(4 * processors(), 64));
}

/* An eighth of the memory, within reason. */
static int64_t default_max_queued(void)
{
    int64_t memory = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
    return kq_max64(INT64_C(256) << 20, kq_min64(memory / 8, INT64_C(8) << 30));
}

static int64_t default_umask(void)
{
    mode_t mask = umask(0);
    umask(mask);
    return mask;
}

#define AT(member) offsetof(struct kq_config, member)
#define DAY_MS INT64_C(86400000)

/* section, name, letter, type, offset, least, most, default, computed, argument, help, in --help */
static const struct kq_setting settings[] = {
    {"mount", "foreground", 'f', KQ_SETTING_FLAG, AT(foreground), 0, 1, 0, NULL, NULL,
     "stay in the foreground, log to stderr", true},
    {"mount", "debug", 'd', KQ_SETTING_FLAG, AT(debug), 0, 1, 0, NULL, NULL,
     "trace every request (implies -f)", true},
    {"mount", "options", 0, KQ_SETTING_MOUNT, AT(mount_options), 0, 0, 0, NULL, "LIST",
     "options of the mount, as for -o: allow_other, ro, noexec, …", false},
    {"mount", "mountpoint", 0, KQ_SETTING_PATH, AT(mountpoint), 0, 0, 0, NULL, "DIR",
     "where to mount, instead of the argument MOUNTPOINT", false},
    {NULL, "config", 0, KQ_SETTING_PATH, AT(file), 0, 0, 0, NULL, "FILE",
     "settings as an INI file: kqfs.conf(5)", true},
    {"broker", "data", 0, KQ_SETTING_PATH, AT(data), 0, 0, 0, NULL, "DIR", "where the log lives",
     true},
    {"broker", "user", 0, KQ_SETTING_WORD, AT(user), 0, 0, 0, NULL, "USER",
     "as root: serve as this user, a helper keeps root", true},
    {"broker", "helper", 0, KQ_SETTING_PATH, AT(helper), 0, 0, 0, NULL, "SOCKET",
     "the unix socket of a helper that runs already", false},
    {"broker", "confine", 0, KQ_SETTING_WORD, AT(confine), 0, 0, 0, NULL, "yes|no|require",
     "with a user: seccomp and Landlock, where the kernel has them", false},
    {"broker", "confine.action", 0, KQ_SETTING_WORD, AT(confine_action), 0, 0, 0, NULL,
     "refuse|kill", "what a system call outside of that does", false},
    {"broker", "num.partitions", 0, KQ_SETTING_NUMBER, AT(default_partitions), 1, 100000, 1, NULL,
     "N", "partitions of a new topic", true},
    {"broker", "log.retention.check.interval.ms", 0, KQ_SETTING_NUMBER, AT(retention_check_ms), 1,
     DAY_MS * 365, 300000, NULL, "MS", "how often retention looks for what is too old", false},
    {"broker", "log.flush.offset.checkpoint.interval.ms", 0, KQ_SETTING_NUMBER, AT(checkpoint_ms),
     1, DAY_MS * 365, 60000, NULL, "MS", "how often recovery points are written down", false},
    {"broker", "recovery.trail.bytes", 0, KQ_SETTING_NUMBER, AT(trail_bytes), 4096,
     INT64_C(1) << 40, INT64_C(64) << 20, NULL, "BYTES",
     "how far a log may be ahead of what is synced", false},
    {"broker", "max.topics", 0, KQ_SETTING_NUMBER, AT(max_topics), 1, 1000000, 100000, NULL, "N",
     "topics at most", false},
    {"broker", "max.partitions", 0, KQ_SETTING_NUMBER, AT(max_partitions), 1, 1000000, 100000, NULL,
     "N", "partitions at most, of all topics together", false},
    {"broker", "max.open.files", 0, KQ_SETTING_NUMBER, AT(max_open_files), 16, 1000000, 0,
     default_max_open_files, "N", "segment files kept open where nobody reads them", false},
    {"broker", "sync.threads", 0, KQ_SETTING_NUMBER, AT(sync_threads), 1, 256, 8, NULL, "N",
     "threads that wait for fdatasync", false},
    {"broker", "log.cleaner.enable", 0, KQ_SETTING_FLAG, AT(cleaner), 0, 1, 1, NULL, NULL,
     "compact the logs of topics that ask for it", false},
    {"broker", "log.cleaner.threads", 0, KQ_SETTING_NUMBER, AT(cleaner_threads), 1, 256, 1, NULL,
     "N", "threads that compact logs", false},
    {"broker", "log.cleaner.dedupe.buffer.size", 0, KQ_SETTING_NUMBER, AT(cleaner_dedupe_bytes),
     65536, INT64_C(1) << 40, INT64_C(128) << 20, NULL, "BYTES",
     "memory for keys, 24 bytes each, of all these threads", false},
    {"broker", "log.cleaner.io.buffer.size", 0, KQ_SETTING_NUMBER, AT(cleaner_io_bytes), 1024,
     INT32_MAX, 512 << 10, NULL, "BYTES", "memory for reading and writing, of all of them", false},
    {"broker", "log.cleaner.io.max.bytes.per.second", 0, KQ_SETTING_NUMBER, AT(cleaner_io_rate),
     1024, INT64_MAX, INT64_MAX, NULL, "BYTES", "what these threads read and write at most", false},
    {"broker", "log.cleaner.backoff.ms", 0, KQ_SETTING_NUMBER, AT(cleaner_backoff_ms), 1,
     DAY_MS * 365, 15000, NULL, "MS", "how often they look for something to do", false},
    {"broker", "producer.id.expiration.ms", 0, KQ_SETTING_NUMBER, AT(producer_expiry_ms), 1,
     DAY_MS * 365, DAY_MS, NULL, "MS", "how long a silent idempotent producer is known", false},
    {"broker", "max.producers.per.partition", 0, KQ_SETTING_NUMBER, AT(max_producers), 1, 10000000,
     10000, NULL, "N", "idempotent producers that are known at most", false},
    {"broker", "group.min.session.timeout.ms", 0, KQ_SETTING_NUMBER,
     AT(groups.min_session_timeout_ms), 1, INT32_MAX, 6000, NULL, "MS",
     "the shortest session that a member of a group may ask for", false},
    {"broker", "group.max.session.timeout.ms", 0, KQ_SETTING_NUMBER,
     AT(groups.max_session_timeout_ms), 1, INT32_MAX, 1800000, NULL, "MS", "the longest one",
     false},
    {"broker", "group.initial.rebalance.delay.ms", 0, KQ_SETTING_NUMBER,
     AT(groups.initial_rebalance_delay_ms), 0, INT32_MAX, 3000, NULL, "MS",
     "how long an empty group waits for more members", false},
    {"broker", "group.max.size", 0, KQ_SETTING_NUMBER, AT(groups.max_members), 1, 1000000, 10000,
     NULL, "N", "members of a group at most", false},
    {"broker", "group.max.groups", 0, KQ_SETTING_NUMBER, AT(groups.max_groups), 1, 10000000, 100000,
     NULL, "N", "consumer groups at most", false},
    {"broker", "group.max.protocols", 0, KQ_SETTING_NUMBER, AT(groups.max_protocols), 1, 1000, 64,
     NULL, "N", "assignors that a member may offer", false},
    {"broker", "group.max.metadata.bytes", 0, KQ_SETTING_NUMBER, AT(groups.max_metadata_bytes), 1,
     INT32_MAX, 1 << 20, NULL, "BYTES", "what a member says of itself, or is assigned, at most",
     false},
    {"broker", "offset.metadata.max.bytes", 0, KQ_SETTING_NUMBER, AT(groups.offset_metadata_bytes),
     0, INT16_MAX, 4096, NULL, "BYTES", "text that may be committed with an offset", false},
    {"broker", "offsets.topic.num.partitions", 0, KQ_SETTING_NUMBER, AT(groups.offsets_partitions),
     1, 100000, 50, NULL, "N", "partitions of __consumer_offsets, when it is made", false},
    {"broker", "offsets.topic.segment.bytes", 0, KQ_SETTING_NUMBER,
     AT(groups.offsets_segment_bytes), 1048576, INT32_MAX, 100 << 20, NULL, "BYTES",
     "its segment.bytes, when it is made", false},
    {"broker", "offsets.retention.minutes", 0, KQ_SETTING_NUMBER,
     AT(groups.offsets_retention_minutes), 1, INT32_MAX, 10080, NULL, "MINUTES",
     "how long offsets outlive the last member of their group", false},
    {"broker", "offsets.retention.check.interval.ms", 0, KQ_SETTING_NUMBER,
     AT(groups.offsets_check_ms), 1, DAY_MS * 365, 600000, NULL, "MS",
     "how often offsets that have expired are looked for", false},
    {"broker", "metrics.max.group.lags", 0, KQ_SETTING_NUMBER, AT(groups.max_lags), 0, 10000000,
     10000, NULL, "N", "lines of kqfs_group_lag in the metrics, at most", false},
    {"broker", "quota.window.num", 0, KQ_SETTING_NUMBER, AT(quotas.windows), 1, 1000, 11, NULL, "N",
     "windows of time that quotas look back on", false},
    {"broker", "quota.window.size.seconds", 0, KQ_SETTING_NUMBER, AT(quotas.window_s), 1, 3600, 1,
     NULL, "S", "how long each of them is", false},
    {"broker", "quota.max.entities", 0, KQ_SETTING_NUMBER, AT(quotas.max_entities), 1, 1000000,
     10000, NULL, "N", "users and client ids that have quotas of their own, at most", false},
    {"broker", "quota.max.accounts", 0, KQ_SETTING_NUMBER, AT(quotas.max_accounts), 1, 10000000,
     10000, NULL, "N", "clients under a quota of which it is kept what they use, at most", false},
    {"mount", "poll.us", 0, KQ_SETTING_NUMBER, AT(poll_us), 0, 10000, 50, NULL, "US",
     "poll so long before sleeping", true},
    {"mount", "max.receivers", 0, KQ_SETTING_NUMBER, AT(max_receivers), 1, 256, 0,
     default_max_receivers, "N", "threads that take requests, at most (-s: 1)", true},
    {"mount", "max.workers", 0, KQ_SETTING_NUMBER, AT(max_workers), 1, 1024, 0, default_max_workers,
     "N", "threads for what waits for a disk, at most", false},
    {"mount", "attribute.timeout.ms", 0, KQ_SETTING_NUMBER, AT(attribute_timeout_ms), 0, 1000, 1000,
     NULL, "MS", "how long the kernel may keep owner and mode", false},
    {"mount", "max.write.bytes", 0, KQ_SETTING_NUMBER, AT(max_write), 4096, 1 << 20, 1 << 20, NULL,
     "BYTES", "the largest write request", false},
    {"mount", "max.pending.bytes", 0, KQ_SETTING_NUMBER, AT(max_pending_bytes), 4096,
     INT64_C(1) << 40, INT64_C(256) << 20, NULL, "BYTES",
     "half lines and open framing=file messages, of all handles", false},
    {"mount", "no-mount", 0, KQ_SETTING_FLAG, AT(no_mount), 0, 1, 0, NULL, NULL,
     "mount nothing: serve the network only", true},
    {"net", "listen", 0, KQ_SETTING_LIST, AT(listen), 0, 0, 0, NULL, "URL",
     "serve Kafka clients: plaintext://HOST:PORT, ssl://", true},
    {"net", "plaintext.user", 0, KQ_SETTING_WORD, AT(plaintext_user), 0, 0, 0, NULL, "USER",
     "who clients of plaintext:// are", false},
    {"net", "net.threads", 0, KQ_SETTING_NUMBER, AT(net_threads), 1, 256, 0, processors, "N",
     "threads that serve connections", false},
    {"net", "net.workers", 0, KQ_SETTING_NUMBER, AT(net_workers), 1, 1024, 0, default_max_workers,
     "N", "threads for requests that wait for a disk, at most", false},
    {"net", "net.readers", 0, KQ_SETTING_NUMBER, AT(net_readers), 1, 1024, 16, NULL, "N",
     "threads that read in what is not cached, at most", false},
    {"net", "socket.request.max.bytes", 0, KQ_SETTING_NUMBER, AT(max_request_bytes), 1024,
     INT32_MAX, INT64_C(100) << 20, NULL, "BYTES", "the largest request", false},
    {"net", "request.memory.max.bytes", 0, KQ_SETTING_NUMBER, AT(max_request_memory), 65536,
     INT64_C(1) << 40, INT64_C(64) << 20, NULL, "BYTES",
     "memory that a request may take besides its own bytes", false},
    {"net", "queued.max.request.bytes", 0, KQ_SETTING_NUMBER, AT(max_queued_bytes), 65536,
     INT64_C(1) << 50, 0, default_max_queued, "BYTES", "requests in memory, of all connections",
     false},
    {"net", "send.queue.max.bytes", 0, KQ_SETTING_NUMBER, AT(max_send_bytes), 1, INT64_C(1) << 40,
     INT64_C(16) << 20, NULL, "BYTES", "with more to send, a connection is not read", false},
    {"net", "max.in.flight.requests", 0, KQ_SETTING_NUMBER, AT(max_in_flight), 1, 1000000, 128,
     NULL, "N", "requests of one connection that are not answered", false},
    {"net", "max.connections", 0, KQ_SETTING_NUMBER, AT(max_connections), 1, 10000000, 100000, NULL,
     "N", "connections at most", false},
    {"net", "max.connections.per.ip", 0, KQ_SETTING_NUMBER, AT(max_connections_per_ip), 1, 10000000,
     10000000, NULL, "N", "connections at most, of one address", false},
    {"net", "max.connection.creation.rate", 0, KQ_SETTING_NUMBER, AT(max_connection_rate), 1,
     10000000, 10000000, NULL, "N", "new connections in a second, at most", false},
    {"net", "connections.max.idle.ms", 0, KQ_SETTING_NUMBER, AT(max_idle_ms), 1, DAY_MS * 365,
     600000, NULL, "MS", "a connection without traffic is closed", false},
    {"net", "socket.request.timeout.ms", 0, KQ_SETTING_NUMBER, AT(request_timeout_ms), 1,
     DAY_MS * 365, 30000, NULL, "MS", "from the first byte of a request to its last", false},
    {"net", "drain.timeout.ms", 0, KQ_SETTING_NUMBER, AT(drain_timeout_ms), 0, DAY_MS, 5000, NULL,
     "MS", "for what is under way when a client or the broker ends", false},
    {"net", "fetch.max.bytes", 0, KQ_SETTING_NUMBER, AT(fetch_max_bytes), 1024, INT32_MAX,
     INT64_C(55) << 20, NULL, "BYTES", "of one Fetch response, whatever the client allows", false},
    {"net", "max.request.partition.size.limit", 0, KQ_SETTING_NUMBER, AT(max_described_partitions),
     1, INT32_MAX, 2000, NULL, "N", "partitions in one DescribeTopicPartitions response", false},
    {"net", "auto.create.topics.enable", 0, KQ_SETTING_FLAG, AT(auto_create_topics), 0, 1, 1, NULL,
     NULL, "a topic is made when a client first asks for it", false},
    {"net", "create.umask", 0, KQ_SETTING_MODE, AT(umask), 0, 0777, 0, default_umask, "MODE",
     "of topics that clients make, as umask(1)", false},
    {"sasl", "mechanisms", 0, KQ_SETTING_LIST, AT(sasl.mechanisms), 0, 0, 0, NULL, "LIST",
     "how clients of sasl_… may say who they are", false},
    {"sasl", "plain_without_tls", 0, KQ_SETTING_FLAG, AT(sasl.plain_without_tls), 0, 1, 0, NULL,
     NULL, "take passwords and tokens that the network has seen", false},
    {"sasl", "max_receive_bytes", 0, KQ_SETTING_NUMBER, AT(sasl.max_receive_bytes), 1024, INT32_MAX,
     512 << 10, NULL, "BYTES", "the largest request before that", false},
    {"sasl", "authentication_timeout_ms", 0, KQ_SETTING_NUMBER, AT(sasl.timeout_ms), 1, DAY_MS,
     30000, NULL, "MS", "how long they may take to say it", false},
    {"sasl", "failed_authentication_delay_ms", 0, KQ_SETTING_NUMBER, AT(sasl.delay_ms), 0, 60000,
     100, NULL, "MS", "how long an answer waits that refuses one", false},
    {"sasl", "max_reauth_ms", 0, KQ_SETTING_NUMBER, AT(sasl.max_reauth_ms), 0, DAY_MS * 365, 0,
     NULL, "MS", "when they have to say it again; 0: never", false},
    {"sasl", "scram_iterations", 0, KQ_SETTING_NUMBER, AT(sasl.scram_iterations), 4096, 16384, 4096,
     NULL, "N", "of a password that kqfs passwd sets", false},
    {"sasl", "max_users", 0, KQ_SETTING_NUMBER, AT(sasl.max_users), 1, 10000000, 100000, NULL, "N",
     "users that have a password, at most", false},
    {"net", "principal.refresh.ms", 0, KQ_SETTING_NUMBER, AT(principal_refresh_ms), 1000, DAY_MS,
     60000, NULL, "MS", "how long it may take until a user's new groups count", false},
    {"net", "principal.max.entries", 0, KQ_SETTING_NUMBER, AT(max_principals), 1, 10000000, 10000,
     NULL, "N", "names of which the user is remembered, at most", false},
    {"tls", "certificate", 0, KQ_SETTING_PATH, AT(tls.certificate), 0, 0, 0, NULL, "FILE",
     "of ssl:// listeners, with its chain, in PEM", false},
    {"tls", "key", 0, KQ_SETTING_PATH, AT(tls.key), 0, 0, 0, NULL, "FILE",
     "of that certificate, without a passphrase, in PEM", false},
    {"tls", "ca", 0, KQ_SETTING_PATH, AT(tls.ca), 0, 0, 0, NULL, "FILE",
     "who vouches for clients: certificates in PEM", false},
    {"tls", "crl", 0, KQ_SETTING_PATH, AT(tls.crl), 0, 0, 0, NULL, "FILE",
     "what each of them has revoked, in PEM", false},
    {"tls", "client_authentication", 0, KQ_SETTING_WORD, AT(tls.client_authentication), 0, 0, 0,
     NULL, "WORD", "certificates of clients: none, requested, required", false},
    {"tls", "tls.handshake.threads", 0, KQ_SETTING_NUMBER, AT(tls.threads), 1, 256, 0, processors,
     "N", "threads for handshakes, at most", false},
    {"tls", "tls.max.handshakes", 0, KQ_SETTING_NUMBER, AT(tls.max_handshakes), 1, 10000000, 10000,
     NULL, "N", "handshakes under way at once", false},
    {"tls", "tls.handshake.timeout.ms", 0, KQ_SETTING_NUMBER, AT(tls.handshake_ms), 1, DAY_MS,
     10000, NULL, "MS", "how long one may take", false},
    {"tls", "tls.reload.interval.ms", 0, KQ_SETTING_NUMBER, AT(tls.reload_ms), 10, DAY_MS, 10000,
     NULL, "MS", "how often these files are looked at", false},
    {"tls", "tls.buffer.bytes", 0, KQ_SETTING_NUMBER, AT(tls.buffer_bytes), 16384, 1 << 20,
     256 << 10, NULL, "BYTES", "what is encrypted at once; each of net.threads has one", false},
    {"tls", "tls.max.records", 0, KQ_SETTING_NUMBER, AT(tls.max_records), 2048, 1 << 24, 1 << 24,
     NULL, "N", "records that one key of TLS 1.3 may protect", false},
    {"tls", "ssl.principal.mapping.rules", 0, KQ_SETTING_LIST, AT(certificate_rules), 0, 0, 0, NULL,
     "RULES", "names of certificates' subjects", false},
    {"sasl", "sasl.kerberos.keytab", 0, KQ_SETTING_PATH, AT(kerberos.keytab), 0, 0, 0, NULL, "FILE",
     "the service's keys, for GSSAPI", false},
    {"sasl", "sasl.kerberos.principal", 0, KQ_SETTING_WORD, AT(kerberos.principal), 0, 0, 0, NULL,
     "NAME", "the service: kafka/HOST@REALM; not set: any in the keytab", false},
    {"sasl", "sasl.kerberos.realm", 0, KQ_SETTING_WORD, AT(kerberos.realm), 0, 0, 0, NULL, "REALM",
     "whose principals are users without a rule", false},
    {"sasl", "sasl.kerberos.principal.to.local.rules", 0, KQ_SETTING_LIST, AT(kerberos.rules), 0, 0,
     0, NULL, "RULES", "names of Kerberos principals", false},
    {"sasl", "sasl.oauthbearer.jwks.file", 0, KQ_SETTING_PATH, AT(oauth.jwks), 0, 0, 0, NULL,
     "FILE", "who signs tokens, for OAUTHBEARER", false},
    {"sasl", "sasl.oauthbearer.expected.issuer", 0, KQ_SETTING_WORD, AT(oauth.issuer), 0, 0, 0,
     NULL, "ISS", "who is to have issued tokens", false},
    {"sasl", "sasl.oauthbearer.expected.audience", 0, KQ_SETTING_LIST, AT(oauth.audience), 0, 0, 0,
     NULL, "AUD", "for whom tokens are to be, any of them", false},
    {"sasl", "sasl.oauthbearer.algorithms", 0, KQ_SETTING_LIST, AT(oauth.algorithms), 0, 0, 0, NULL,
     "ALG", "signatures that are taken: RS256, ES256, …", false},
    {"sasl", "sasl.oauthbearer.sub.claim.name", 0, KQ_SETTING_WORD, AT(oauth.claim), 0, 0, 0, NULL,
     "CLAIM", "what in a token is the name, instead of sub", false},
    {"sasl", "sasl.oauthbearer.clock.skew.seconds", 0, KQ_SETTING_NUMBER, AT(oauth.skew_s), 0, 3600,
     30, NULL, "S", "by how much clocks may differ", false},
    {"sasl", "sasl.oauthbearer.max.token.bytes", 0, KQ_SETTING_NUMBER, AT(oauth.max_token_bytes),
     256, 1 << 20, 16384, NULL, "BYTES", "the longest token", false},
    {"audit", "audit.log", 0, KQ_SETTING_WORD, AT(audit_log), 0, 0, 0, NULL, "none|denied|all",
     "which acts of clients are lines of the log", false},
    {"audit", "audit.max.lines.per.second", 0, KQ_SETTING_NUMBER, AT(audit_lines), 1, 1000000, 10,
     NULL, "N", "such lines in a second, at most", false},
    {"audit", "audit.repeat.ms", 0, KQ_SETTING_NUMBER, AT(audit_repeat_ms), 0, DAY_MS, 60000, NULL,
     "MS", "the same act is one line in so long", false},
    {"audit", "audit.max.events", 0, KQ_SETTING_NUMBER, AT(audit_events), 1, 10000000, 10000, NULL,
     "N", "acts that are remembered for that, at most", false},
};

#define SETTING_COUNT kq_array_size(settings)
#define ALL_SECTIONS "there are [broker], [mount], [net], [tls], [sasl], [audit], [users], [topic]"
#define TOPIC_PREFIX "topic."
#define USERS_PREFIX KQ_USERS_SECTION "."

const struct kq_setting *kq_setting_row(size_t index)
{
    return index < SETTING_COUNT ? &settings[index] : NULL;
}

static size_t topic_setting_count(void)
{
    size_t count = 0;
    while (kq_topic_config_name(count))
        count++;
    return count;
}

static int default_data(char **ret)
{
    const char *xdg = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
    char *path;
    if (geteuid() == 0)
        path = kq_strdup("/var/lib/kqfs");
    else if (xdg && xdg[0] == '/')
        path = kq_format("%s/kqfs", xdg);
    else if (home && home[0] == '/')
        path = kq_format("%s/.local/share/kqfs", home);
    else
        path = kq_strdup(""); /* must be given; kq_options_parse says so */
    if (!path)
        return -ENOMEM;
    *ret = path;
    return 0;
}

static bool is_number(enum kq_setting_type type)
{
    return type == KQ_SETTING_NUMBER || type == KQ_SETTING_MODE;
}

static int set_default_text(const struct kq_setting *row, char **at)
{
    static const struct {
        size_t offset;
        const char *text;
    } texts[] = {{AT(sasl.mechanisms), "SCRAM-SHA-256 SCRAM-SHA-512"},
                 {AT(confine), "yes"},
                 {AT(audit_log), "denied"},
                 {AT(confine_action), "refuse"}};
    const char *text = "";
    for (size_t i = 0; i < kq_array_size(texts); i++)
        if (texts[i].offset == row->offset)
            text = texts[i].text;
    *at = kq_strdup(text);
    return *at ? 0 : -ENOMEM;
}

/* A path that nobody gave is NULL, other texts are empty. */
static int set_default(struct kq_config *config, const struct kq_setting *row)
{
    char *at = (char *)config + row->offset;
    if (is_number(row->type))
        *(int64_t *)at = row->compute ? row->compute() : row->fallback;
    else if (row->type == KQ_SETTING_FLAG)
        *(bool *)at = row->fallback != 0;
    else if (row->type != KQ_SETTING_PATH)
        return set_default_text(row, (char **)at);
    return 0;
}

int kq_config_new(struct kq_config **ret)
{
    struct kq_config *config = kq_zalloc(sizeof(*config));
    if (!config)
        return -ENOMEM;
    config->sources = kq_zalloc((SETTING_COUNT + topic_setting_count()) * sizeof(*config->sources));
    int r = config->sources ? default_data(&config->data) : -ENOMEM;
    for (size_t i = 0; r == 0 && i < SETTING_COUNT; i++)
        r = set_default(config, &settings[i]);
    if (r) {
        kq_config_free(config);
        return r;
    }
    kq_topic_config_defaults(&config->topic);
    *ret = config;
    return 0;
}

void kq_config_free(struct kq_config *config)
{
    if (!config)
        return;
    for (size_t i = 0; i < SETTING_COUNT; i++)
        if (!is_number(settings[i].type) && settings[i].type != KQ_SETTING_FLAG)
            free(*(char **)((char *)config + settings[i].offset));
    kq_config_users_free(config);
    free(config->sources);
    free(config);
}

/* --- Setting one value --- */

static int complain(const char *where, const char *name, const char *format, ...)
    kq_printf_like(3, 4);

static int complain(const char *where, const char *name, const char *format, ...)
{
    char reason[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(reason, sizeof(reason), format, arguments);
    va_end(arguments);
    kq_diag(LOG_ERR, "%s: %s: %s", where, name, reason);
    return -EINVAL;
}

static int parse_number(const struct kq_setting *row, const char *where, const char *value,
                        int64_t *ret)
{
    char *end;
    errno = 0;
    bool octal = row->type == KQ_SETTING_MODE;
    long long number = strtoll(value, &end, octal ? 8 : 10);
    /* strtoll takes leading blanks and a plus sign; a configuration file should not. */
    bool digits = (value[0] >= '0' && value[0] <= '9') || value[0] == '-';
    if (octal && (!digits || *end || errno || number < row->least || number > row->most))
        return complain(where, row->name, "`%.64s` is not an octal number up to %llo", value,
                        (long long)row->most);
    if (!digits || *end || errno || number < row->least || number > row->most)
        return complain(where, row->name, "`%.64s` is not a whole number from %lld to %lld", value,
                        (long long)row->least, (long long)row->most);
    *ret = number;
    return 0;
}

static int parse_flag(const struct kq_setting *row, const char *where, const char *value, bool *ret)
{
    if (strcmp(value, "true") != 0 && strcmp(value, "false") != 0)
        return complain(where, row->name, "`%.64s` is neither true nor false", value);
    *ret = value[0] == 't';
    return 0;
}

static int parse_path(const struct kq_setting *row, const char *where, const char *value,
                      char **ret)
{
    if (!value[0])
        return complain(where, row->name, "needs a path");
    if (strlen(value) >= PATH_MAX)
        return complain(where, row->name, "a path has at most %d bytes", PATH_MAX - 1);
    char *path;
    if (value[0] == '/') {
        path = kq_strdup(value);
    } else {
        kq_autofree char *here = getcwd(NULL, 0);
        if (!here)
            return complain(where, row->name, "the current directory: %s; give an absolute path",
                            strerror(errno));
        path = kq_format("%s/%s", here, value);
    }
    if (!path)
        return -ENOMEM;
    *ret = path;
    return 0;
}

/* As it stands in the file, where bytes that a line cannot hold are escaped. */
static int parse_path_in_file(const struct kq_setting *row, const char *where, const char *value,
                              char **ret)
{
    kq_autofree char *plain = kq_strdup(value);
    if (!plain)
        return -ENOMEM;
    kq_octal_decode(plain, KQ_OCTAL_PATH);
    return parse_path(row, where, plain, ret);
}

/* Words with one blank between them; what a line of the file could not hold is refused. */
static int parse_words(const struct kq_setting *row, const char *where, const char *value,
                       char **ret)
{
    kq_autobuf struct kq_buf words = {0};
    int r = 0;
    for (const char *at = value; r == 0 && *at; at++) {
        bool blank = *at == ' ' || *at == '\t';
        if (*at == ';' || *at == 127 || (*at > 0 && *at < ' ' && !blank))
            return complain(where, row->name, "`%.64s` has bytes that cannot stand here", value);
        if (blank && row->type == KQ_SETTING_WORD)
            return complain(where, row->name, "`%.64s` is not one word", value);
        if (!blank && words.length && (at[-1] == ' ' || at[-1] == '\t'))
            r = kq_buf_append_string(&words, " ");
        if (r == 0 && !blank)
            r = kq_buf_append(&words, at, 1);
    }
    if (r == 0)
        r = kq_buf_append(&words, "", 1);
    char *copy = r == 0 ? kq_strdup((const char *)words.data) : NULL;
    if (!copy)
        return -ENOMEM;
    *ret = copy;
    return 0;
}

static int parse_text(const struct kq_setting *row, const char *where, bool in_section,
                      const char *value, char **ret)
{
    if (row->type == KQ_SETTING_WORD || row->type == KQ_SETTING_LIST)
        return parse_words(row, where, value, ret);
    return in_section ? parse_path_in_file(row, where, value, ret)
                      : parse_path(row, where, value, ret);
}

/* What a list has already from the same place, with *TEXT behind it. */
static int join(const char *before, char **text)
{
    char *joined = kq_format("%s%s%s", before, before[0] && (*text)[0] ? " " : "", *text);
    if (!joined)
        return -ENOMEM;
    free(*text);
    *text = joined;
    return 0;
}

static int take_source(struct kq_config *config, size_t index, enum kq_origin origin,
                       const char *where, int line, const char *name, bool *ret_wins)
{
    struct kq_config_source *source = &config->sources[index];
    bool has_lines = index < SETTING_COUNT && settings[index].type == KQ_SETTING_LIST;
    if (origin == KQ_ORIGIN_FILE && source->line && !has_lines)
        return complain(where, name, "set twice, first in line %d", source->line);
    *ret_wins = origin >= source->origin;
    if (origin == KQ_ORIGIN_FILE)
        source->line = line;
    if (*ret_wins)
        source->origin = origin;
    return 0;
}

static int set_row(struct kq_config *config, const struct kq_setting *row, enum kq_origin origin,
                   const char *where, int line, bool in_section, const char *value)
{
    int64_t number = 0;
    bool flag = false, wins = false;
    kq_autofree char *text = NULL;
    char *at = (char *)config + row->offset;
    size_t index = (size_t)(row - settings);
    int r = 0;
    if (is_number(row->type))
        r = parse_number(row, where, value, &number);
    else if (row->type == KQ_SETTING_FLAG)
        r = parse_flag(row, where, value, &flag);
    else if (row->type != KQ_SETTING_MOUNT)
        r = parse_text(row, where, in_section, value, &text);
    if (r == 0 && text && row->type == KQ_SETTING_LIST && config->sources[index].origin == origin)
        r = join(*(char **)at, &text);
    if (r == 0)
        r = take_source(config, index, origin, where, line, row->name, &wins);
    if (r)
        return r;
    if (row->type == KQ_SETTING_MOUNT)
        return kq_config_set_mount_options(config, origin, where, line, value);
    if (!wins)
        return 0;
    if (is_number(row->type)) {
        *(int64_t *)at = number;
    } else if (row->type == KQ_SETTING_FLAG) {
        *(bool *)at = flag;
    } else {
        free(*(char **)at);
        *(char **)at = text;
        text = NULL;
    }
    return 0;
}

static int set_topic(struct kq_config *config, enum kq_origin origin, const char *where, int line,
                     const char *name, const char *value)
{
    const char *reason = "not a value for it", *row;
    size_t index = 0;
    while ((row = kq_topic_config_name(index)) && strcmp(row, name) != 0)
        index++;
    if (!row)
        return complain(where, name, "no such topic setting (kqfs.conf(5) lists them)");
    /* On a copy: a value from a place that does not win is checked all the same. */
    struct kq_topic_config changed = config->topic;
    int r = kq_topic_config_set(&changed, name, value, &reason);
    if (r)
        return complain(where, name, "`%.64s`: %s", value, reason);
    bool wins = false;
    r = take_source(config, SETTING_COUNT + index, origin, where, line, name, &wins);
    if (r == 0 && wins)
        config->topic = changed;
    return r;
}

bool kq_config_knows(const char *name)
{
    bool topic = strncmp(name, TOPIC_PREFIX, strlen(TOPIC_PREFIX)) == 0;
    const char *known;
    if (strncmp(name, USERS_PREFIX, strlen(USERS_PREFIX)) == 0)
        return true;
    for (size_t i = 0; !topic && i < SETTING_COUNT; i++)
        if (strcmp(settings[i].name, name) == 0)
            return true;
    for (size_t i = 0; topic && (known = kq_topic_config_name(i)); i++)
        if (strcmp(known, name + strlen(TOPIC_PREFIX)) == 0)
            return true;
    return false;
}

int kq_config_set(struct kq_config *config, enum kq_origin origin, const char *where, int line,
                  const char *section, const char *name, const char *value)
{
    size_t prefix = strlen(TOPIC_PREFIX);
    if (section ? strcmp(section, "topic") == 0 : strncmp(name, TOPIC_PREFIX, prefix) == 0)
        return set_topic(config, origin, where, line, section ? name : name + prefix, value);
    prefix = strlen(USERS_PREFIX);
    if (section ? strcmp(section, KQ_USERS_SECTION) == 0 : strncmp(name, USERS_PREFIX, prefix) == 0)
        return kq_config_users_set(config, origin, where, line, section != NULL,
                                   section ? name : name + prefix, value);
    bool known_section = !section;
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        const char *its = settings[i].section;
        bool here = !section || (its && strcmp(section, its) == 0);
        if (here && strcmp(settings[i].name, name) == 0)
            return set_row(config, &settings[i], origin, where, line, section != NULL, value);
        known_section |= here;
    }
    if (!known_section && !section[0])
        return complain(where, name, "stands before any section; " ALL_SECTIONS);
    if (!known_section)
        return complain(where, section, "no such section; " ALL_SECTIONS);
    return complain(where, name, "no such setting%s%s (kqfs.conf(5) lists them)",
                    section ? " in section " : "", section ? section : "");
}

/* FILE:LINE, or what else it came from. */
static int format_origin(const struct kq_config *config, const struct kq_config_source *source,
                         struct kq_buf *ret)
{
    static const char *const names[] = {[KQ_ORIGIN_DEFAULT] = "default",
                                        [KQ_ORIGIN_MOUNT_OPTION] = "-o",
                                        [KQ_ORIGIN_COMMAND_LINE] = "command line"};
    if (source->origin != KQ_ORIGIN_FILE)
        return kq_buf_append_string(ret, names[source->origin]);
    int r = config->file ? kq_octal_append(ret, config->file, KQ_OCTAL_PATH) : 0;
    return r ? r : kq_buf_printf(ret, ":%d", source->line);
}

int kq_config_check(const struct kq_config *config)
{
    const char *name, *reason, *row;
    int r = kq_topic_config_check(&config->topic, &name, &reason);
    if (r == 0)
        return 0;
    size_t index = 0;
    while ((row = kq_topic_config_name(index)) && strcmp(row, name) != 0)
        index++;
    kq_autobuf struct kq_buf where = {0};
    r = format_origin(config, &config->sources[SETTING_COUNT + index], &where);
    if (r == 0)
        r = kq_buf_append(&where, "", 1);
    return r ? r : complain((const char *)where.data, name, "%s", reason);
}

/* --- Showing them --- */

#define LINE_BYTES_MAX ((size_t)INI_MAX_LINE - 2) /* without newline and NUL */

/* `NAME = VALUE` and where it came from, which stands in front where one line cannot hold both. A
 * value that no line can hold has to be given as an option, so here it is a comment. */
static int format_line(const struct kq_config *config, const char *name, const struct kq_buf *value,
                       const struct kq_config_source *source, struct kq_buf *ret)
{
    kq_autobuf struct kq_buf setting = {0}, origin = {0};
    int r = kq_buf_printf(&setting, "%s = ", name);
    if (r == 0)
        r = kq_buf_append(&setting, value->data, value->length);
    if (r == 0)
        r = kq_buf_append_string(&origin, "; ");
    if (r == 0)
        r = format_origin(config, source, &origin);
    if (r)
        return r;
    bool too_long = setting.length > LINE_BYTES_MAX;
    bool apart = !too_long && setting.length + 1 + origin.length > LINE_BYTES_MAX;
    const struct kq_buf *first = apart ? &origin : &setting, *second = apart ? &setting : &origin;
    return kq_buf_printf(ret, "%s%.*s%c%.*s\n", too_long ? "; too long for a line: " : "",
                         (int)first->length, (char *)first->data, apart ? '\n' : ' ',
                         (int)second->length, (char *)second->data);
}

int kq_config_value(const struct kq_config *config, size_t index, struct kq_buf *ret,
                    bool *ret_default)
{
    const struct kq_setting *row = &settings[index];
    const char *at = (const char *)config + row->offset;
    if (ret_default)
        *ret_default = config->sources[index].origin == KQ_ORIGIN_DEFAULT;
    switch (row->type) {
    case KQ_SETTING_NUMBER:
        return kq_buf_printf(ret, "%lld", (long long)*(const int64_t *)at);
    case KQ_SETTING_MODE:
        return kq_buf_printf(ret, "%03llo", (long long)*(const int64_t *)at);
    case KQ_SETTING_FLAG:
        return kq_buf_append_string(ret, *(const bool *)at ? "true" : "false");
    default:
        break;
    }
    const char *text = *(char *const *)at;
    return text ? kq_buf_append_string(ret, text) : 0;
}

/* Cut at blanks into lines that a file can hold. */
static int format_list(const struct kq_config *config, size_t index, struct kq_buf *ret)
{
    const struct kq_setting *row = &settings[index];
    const char *at = *(char *const *)((const char *)config + row->offset);
    size_t room = LINE_BYTES_MAX - strlen(row->name) - strlen(" = ");
    do {
        size_t length = strlen(at), cut = room;
        while (length > room && cut > 0 && at[cut] != ' ')
            cut--;
        if (length > room && cut > 0)
            length = cut;
        struct kq_buf line = {.data = (uint8_t *)at, .length = length};
        int r = format_line(config, row->name, &line, &config->sources[index], ret);
        if (r)
            return r;
        at += length + (at[length] == ' ');
    } while (*at);
    return 0;
}

/* As it stands in a file; nothing for a path that is not set. */
static int format_row(const struct kq_config *config, size_t index, struct kq_buf *ret)
{
    const struct kq_setting *row = &settings[index];
    kq_autobuf struct kq_buf value = {0};
    bool escaped = row->type == KQ_SETTING_PATH || row->type == KQ_SETTING_MOUNT;
    const char *text = escaped ? *(char *const *)((const char *)config + row->offset) : NULL;
    if (escaped && !text)
        return 0;
    if (row->type == KQ_SETTING_LIST)
        return format_list(config, index, ret);
    int r = escaped
                ? kq_octal_append(&value, text,
                                  row->type == KQ_SETTING_PATH ? KQ_OCTAL_PATH : KQ_OCTAL_OPTION)
                : kq_config_value(config, index, &value, NULL);
    struct kq_config_source source = config->sources[index];
    if (row->type == KQ_SETTING_MOUNT)
        source.origin = config->mount_options_origin;
    return r ? r : format_line(config, row->name, &value, &source, ret);
}

/* The value of a topic's setting. Blanks and semicolons of a delimiter are escaped: as they are,
 * INI would drop them. */
static int format_topic_value(const struct kq_config *config, const char *name, struct kq_buf *ret)
{
    kq_autobuf struct kq_buf value = {0};
    int r = kq_topic_config_format(&config->topic, name, &value);
    for (size_t i = 0; r == 0 && i < value.length; i++) {
        bool escape =
            (value.data[i] == ' ' || value.data[i] == ';') && kq_topic_config_is_rendering(name);
        r = escape ? kq_buf_printf(ret, "\\x%02x", value.data[i])
                   : kq_buf_append(ret, &value.data[i], 1);
    }
    return r;
}

static int format_topic(const struct kq_config *config, struct kq_buf *ret)
{
    const char *name;
    int r = kq_buf_append_string(ret, "[topic]\n");
    for (size_t i = 0; r == 0 && (name = kq_topic_config_name(i)); i++) {
        const struct kq_config_source *source = &config->sources[SETTING_COUNT + i];
        kq_autobuf struct kq_buf value = {0};
        r = format_topic_value(config, name, &value);
        if (r == 0)
            r = format_line(config, name, &value, source, ret);
    }
    return r;
}

int kq_config_format(const struct kq_config *config, struct kq_buf *ret)
{
    static const char *const sections[] = {"broker", "mount", "net", "tls", "sasl", "audit"};
    int r = 0;
    for (size_t s = 0; r == 0 && s < kq_array_size(sections); s++) {
        r = kq_buf_printf(ret, "[%s]\n", sections[s]);
        for (size_t i = 0; r == 0 && i < SETTING_COUNT; i++)
            if (settings[i].section && strcmp(settings[i].section, sections[s]) == 0)
                r = format_row(config, i, ret);
        if (r == 0)
            r = kq_buf_append_string(ret, "\n");
    }
    if (r == 0)
        r = kq_config_users_format(config, ret);
    if (r == 0)
        r = kq_buf_append_string(ret, "\n");
    return r ? r : format_topic(config, ret);
}
