#include "net/telemetry.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "broker/base/clock.h"
#include "broker/base/mem.h"
#include "net/admit.h"
#include "net/auditwalk.h"
#include "net/errmap.h"
#include "net/internal.h"
#include "net/outcome.h"

#ifdef KQFS_PROBES
#include <sys/sdt.h>
#else
#define DTRACE_PROBE5(provider, name, a, b, c, d, e) ((void)0)
#define DTRACE_PROBE6(provider, name, a, b, c, d, e, f) ((void)0)
#endif

#define ERRORS 130 /* codes -1 … 128 */
#define BUCKETS 24 /* of latency: up to 16 µs, 32 µs, … 67 s, and beyond */
#define FIRST_BUCKET_US 16
#define SOFTWARE_MAX 64 /* clients counted by name; the rest together */
#define SOFTWARE_BYTES 32

/* Counters have one writer; readers see each of them whole, and no two at the same instant. */
typedef _Atomic uint64_t counter;

static void add(counter *to, uint64_t amount)
{
    atomic_store_explicit(to, atomic_load_explicit(to, memory_order_relaxed) + amount,
                          memory_order_relaxed);
}

static uint64_t get(const counter *from)
{
    return atomic_load_explicit((counter *)from, memory_order_relaxed);
}

struct of_key {
    struct kq_outcome_plan *plan;
    counter requests, failed, bytes_in, bytes_out, latency_ns;
    counter buckets[BUCKETS];
    counter errors[ERRORS];
};

struct software {
    char name[SOFTWARE_BYTES], version[SOFTWARE_BYTES];
    counter connections;
};

struct kq_telemetry {
    counter tallies[KQ_TALLIES];
    struct software software[SOFTWARE_MAX];
    _Atomic unsigned software_count; /* entries below it do not change but for their counter */
    counter other_software;
    size_t key_count;
    struct of_key keys[];
};

int kq_telemetry_new(struct kq_telemetry **ret)
{
    size_t count = 0;
    while (kq_api_row(count))
        count++;
    struct kq_telemetry *telemetry = kq_zalloc(sizeof(*telemetry) + count * sizeof(struct of_key));
    if (!telemetry)
        return -ENOMEM;
    telemetry->key_count = count;
    for (size_t i = 0; i < count; i++)
        if (kq_outcome_plan_new(kq_api_row(i)->message, &telemetry->keys[i].plan) < 0) {
            kq_telemetry_free(telemetry);
            return -ENOMEM;
        }
    *ret = telemetry;
    return 0;
}

void kq_telemetry_free(struct kq_telemetry *telemetry)
{
    for (size_t i = 0; telemetry && i < telemetry->key_count; i++)
        kq_outcome_plan_free(telemetry->keys[i].plan);
    free(telemetry);
}

void kq_tally(struct kq_telemetry *telemetry, enum kq_tally which, uint64_t amount)
{
    add(&telemetry->tallies[which], amount);
}

/* --- Requests --- */

struct outcome {
    struct of_key *key;
    bool to_audit;
};

static void count_error(void *context, int16_t code)
{
    struct outcome *outcome = context;
    if (code >= -1 && code < ERRORS - 1)
        add(&outcome->key->errors[code + 1], 1);
    if (kq_audit_is_refusal(code))
        outcome->to_audit = true;
}

static bool audits_all(const struct kq_request *request)
{
    return request->server->options.audit.level == KQ_AUDIT_ALL;
}

/* The bytes of records that are in memory. */
static uint64_t note_outcome(struct of_key *key, const struct kq_request *request)
{
    struct outcome outcome = {.key = key, .to_audit = audits_all(request)};
    uint64_t copied = kq_outcome_walk(key->plan, request->response, count_error, &outcome);
    if (kq_unlikely(outcome.to_audit))
        kq_audit_answered(request);
    return copied;
}

static unsigned bucket_of(int64_t latency_ns)
{
    uint64_t us = latency_ns > 0 ? (uint64_t)latency_ns / 1000 : 0;
    unsigned bucket = 0;
    for (uint64_t bound = FIRST_BUCKET_US; us > bound && bucket < BUCKETS - 1; bound *= 2)
        bucket++;
    return bucket;
}

void kq_telemetry_start(const struct kq_request *request)
{
    DTRACE_PROBE5(kqfs, request__start, request->api->key, request->version,
                  request->correlation_id, kq_conn_number(request->conn), request->size);
}

void kq_telemetry_end(struct kq_telemetry *telemetry, const struct kq_request *request,
                      uint64_t response_bytes)
{
    struct of_key *key = &telemetry->keys[request->api->index];
    int64_t latency_ns = kq_clock_mono_ns() - request->received_ns;
    add(&key->requests, 1);
    add(&key->bytes_in, request->size);
    add(&key->bytes_out, response_bytes);
    add(&key->latency_ns, latency_ns > 0 ? (uint64_t)latency_ns : 0);
    add(&key->buckets[bucket_of(latency_ns)], 1);
    if (response_bytes || request->told_by_end)
        kq_tally(telemetry, KQ_TALLY_COPIED, note_outcome(key, request));
    if (!response_bytes && request->result == KQ_HANDLED_CLOSE)
        add(&key->failed, 1);
    else if (request->result == KQ_HANDLED_SILENT && audits_all(request))
        kq_audit_answered(request);
    DTRACE_PROBE6(kqfs, request__end, request->api->key, request->version, request->correlation_id,
                  kq_conn_number(request->conn), latency_ns, response_bytes);
}

/* --- What clients say that they are --- */

static bool is_said(const char *have, struct kq_str said)
{
    size_t length = strlen(have);
    return length == (size_t)said.length && memcmp(have, said.data, length) == 0;
}

void kq_telemetry_software(struct kq_telemetry *telemetry, struct kq_str name,
                           struct kq_str version)
{
    unsigned count = atomic_load_explicit(&telemetry->software_count, memory_order_relaxed);
    for (unsigned i = 0; i < count; i++) {
        struct software *known = &telemetry->software[i];
        if (is_said(known->name, name) && is_said(known->version, version)) {
            add(&known->connections, 1);
            return;
        }
    }
    if (count == SOFTWARE_MAX || name.length >= SOFTWARE_BYTES ||
        version.length >= SOFTWARE_BYTES) {
        add(&telemetry->other_software, 1);
        return;
    }
    struct software *fresh = &telemetry->software[count];
    memcpy(fresh->name, name.data, (size_t)name.length);
    memcpy(fresh->version, version.data, (size_t)version.length);
    add(&fresh->connections, 1);
    atomic_store_explicit(&telemetry->software_count, count + 1, memory_order_release);
}

/* --- Showing it --- */

uint64_t kq_telemetry_sum(const struct kq_server *server, enum kq_tally which)
{
    uint64_t sum = 0;
    if (which == KQ_TALLY_UNIDENTIFIED) /* which no loop counts */
        return atomic_load((atomic_uint *)&server->unidentified);
    for (unsigned i = 0; i < server->shard_count; i++)
        sum += get(&server->shards[i].telemetry->tallies[which]);
    return sum;
}

static const struct {
    enum kq_tally tally;
    const char *name, *label, *help; /* HELP of the first one of a name */
} shown[] = {
    {KQ_TALLY_RECEIVED, "kqfs_net_received_bytes_total", "", "Bytes received from clients."},
    {KQ_TALLY_SENT, "kqfs_net_sent_bytes_total", "", "Bytes sent to clients."},
    {KQ_TALLY_SENDFILE, "kqfs_net_sendfile_bytes_total", "",
     "Bytes of record batches sent straight from the page cache."},
    {KQ_TALLY_COPIED, "kqfs_net_copied_bytes_total", "",
     "Bytes of record batches that were copied to be sent; 0 unless a fetch cannot use sendfile."},
    {KQ_TALLY_COLD, "kqfs_net_cold_reads_total", "",
     "Ranges that were not in the page cache and were read in before they were sent."},
    {KQ_TALLY_ACCEPTED, "kqfs_net_connections_accepted_total", "", "Connections accepted."},
    {KQ_TALLY_LIMIT_TOTAL, "kqfs_net_connections_refused_total", "{reason=\"max.connections\"}",
     "Connections that were closed at once."},
    {KQ_TALLY_LIMIT_IP, "kqfs_net_connections_refused_total", "{reason=\"max.connections.per.ip\"}",
     NULL},
    {KQ_TALLY_LIMIT_FILES, "kqfs_net_connections_refused_total", "{reason=\"descriptors\"}", NULL},
    {KQ_TALLY_UNIDENTIFIED, "kqfs_net_connections_refused_total", "{reason=\"user\"}", NULL},
    {KQ_TALLY_LIMIT_RATE, "kqfs_net_connections_delayed_total", "",
     "Times that accepting waited for max.connection.creation.rate."},
    {KQ_TALLY_BY_PEER, "kqfs_net_connections_closed_total", "{reason=\"peer\"}",
     "Connections that ended."},
    {KQ_TALLY_BY_STOP, "kqfs_net_connections_closed_total", "{reason=\"stop\"}", NULL},
    {KQ_TALLY_IDLE, "kqfs_net_connections_closed_total", "{reason=\"idle\"}", NULL},
    {KQ_TALLY_SLOW, "kqfs_net_connections_closed_total", "{reason=\"slow\"}", NULL},
    {KQ_TALLY_UNDRAINED, "kqfs_net_connections_closed_total", "{reason=\"drain\"}", NULL},
    {KQ_TALLY_TOO_LARGE, "kqfs_net_connections_closed_total", "{reason=\"too large\"}", NULL},
    {KQ_TALLY_GREEDY, "kqfs_net_connections_closed_total", "{reason=\"request memory\"}", NULL},
    {KQ_TALLY_MALFORMED, "kqfs_net_connections_closed_total", "{reason=\"malformed\"}", NULL},
    {KQ_TALLY_UNSUPPORTED, "kqfs_net_connections_closed_total", "{reason=\"unsupported\"}", NULL},
    {KQ_TALLY_REFUSED, "kqfs_net_connections_closed_total", "{reason=\"refused\"}", NULL},
    {KQ_TALLY_NO_MEMORY, "kqfs_net_connections_closed_total", "{reason=\"memory\"}", NULL},
    {KQ_TALLY_FAILED, "kqfs_net_connections_closed_total", "{reason=\"log\"}", NULL},
    {KQ_TALLY_STRANGER, "kqfs_net_connections_closed_total", "{reason=\"not logged in\"}", NULL},
    {KQ_TALLY_LOGIN_REFUSED, "kqfs_net_connections_closed_total", "{reason=\"login refused\"}",
     NULL},
    {KQ_TALLY_LOGIN_SLOW, "kqfs_net_connections_closed_total", "{reason=\"login timeout\"}", NULL},
    {KQ_TALLY_EXPIRED, "kqfs_net_connections_closed_total", "{reason=\"session\"}", NULL},
    {KQ_TALLY_LOGIN, "kqfs_net_logins_total", "{result=\"success\"}",
     "Times that clients have said who they are."},
    {KQ_TALLY_LOGIN_AGAIN, "kqfs_net_logins_total", "{result=\"renewed\"}", NULL},
    {KQ_TALLY_LOGIN_FAILED, "kqfs_net_logins_total", "{result=\"failure\"}", NULL},
    {KQ_TALLY_MUTED, "kqfs_net_held_total", "{reason=\"quota\"}",
     "Times that a client was not read for a while."},
    {KQ_TALLY_CROWDED, "kqfs_net_held_total", "{reason=\"queued.max.request.bytes\"}", NULL},
    {KQ_TALLY_IN_FLIGHT, "kqfs_net_held_total", "{reason=\"max.in.flight.requests\"}", NULL},
    {KQ_TALLY_UNSENT, "kqfs_net_held_total", "{reason=\"send.queue.max.bytes\"}", NULL},
};

static int format_tallies(const struct kq_server *server, struct kq_buf *ret)
{
    int r = 0;
    for (size_t i = 0; i < kq_array_size(shown) && r == 0; i++) {
        if (shown[i].help)
            r = kq_metrics_head(ret, shown[i].name, shown[i].help, KQ_COUNTER);
        if (r == 0)
            r = kq_buf_printf(ret, "%s%s %llu\n", shown[i].name, shown[i].label,
                              (unsigned long long)kq_telemetry_sum(server, shown[i].tally));
    }
    return r;
}

static int format_gauges(const struct kq_server *server, struct kq_buf *ret)
{
    int r = kq_metrics_head(ret, "kqfs_net_connections", "Connections that are open.", KQ_GAUGE);
    if (r == 0)
        r = kq_buf_printf(ret, "kqfs_net_connections %u\n", kq_admit_count(server->admit));
    if (r == 0)
        r = kq_metrics_head(ret, "kqfs_net_queued_request_bytes",
                            "Bytes of requests that are in memory.", KQ_GAUGE);
    if (r == 0)
        r = kq_buf_printf(
            ret, "kqfs_net_queued_request_bytes %llu\n",
            (unsigned long long)atomic_load((atomic_uint_fast64_t *)&server->queued_bytes));
    return r;
}

static uint64_t sum_at(const struct kq_server *server, size_t key, size_t offset)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < server->shard_count; i++)
        sum += get((counter *)((char *)&server->shards[i].telemetry->keys[key] + offset));
    return sum;
}

#define SUM(server, key, member) sum_at(server, key, offsetof(struct of_key, member))

static int format_histogram(const struct kq_server *server, size_t key, const char *name,
                            struct kq_buf *ret)
{
    uint64_t below = 0;
    int r = 0;
    for (size_t i = 0; i < BUCKETS && r == 0; i++) {
        below += SUM(server, key, buckets[i]);
        if (i < BUCKETS - 1)
            r = kq_buf_printf(ret,
                              "kqfs_request_duration_seconds_bucket{request=\"%s\",le=\"%g\"} "
                              "%llu\n",
                              name, (double)((uint64_t)FIRST_BUCKET_US << i) / 1e6,
                              (unsigned long long)below);
    }
    if (r == 0)
        r = kq_buf_printf(ret,
                          "kqfs_request_duration_seconds_bucket{request=\"%s\",le=\"+Inf\"} %llu\n"
                          "kqfs_request_duration_seconds_sum{request=\"%s\"} %.9g\n"
                          "kqfs_request_duration_seconds_count{request=\"%s\"} %llu\n",
                          name, (unsigned long long)below, name,
                          (double)SUM(server, key, latency_ns) / 1e9, name,
                          (unsigned long long)below);
    return r;
}

static int format_errors(const struct kq_server *server, size_t key, const char *name,
                         struct kq_buf *ret)
{
    int r = 0;
    for (size_t i = 0; i < ERRORS && r == 0; i++) {
        uint64_t count = SUM(server, key, errors[i]);
        if (count)
            r = kq_buf_printf(ret, "kqfs_request_errors_total{request=\"%s\",error=\"%s\"} %llu\n",
                              name, kq_error_name((int16_t)((int)i - 1)),
                              (unsigned long long)count);
    }
    return r;
}

static int format_plain(const struct kq_server *server, size_t key, const char *request,
                        const char *name, size_t offset, struct kq_buf *ret)
{
    return kq_buf_printf(ret, "%s{request=\"%s\"} %llu\n", name, request,
                         (unsigned long long)sum_at(server, key, offset));
}

/* Families in which each key that was ever asked for has a place. */
static const struct {
    const char *name, *help, *type;
    size_t offset; /* of a plain counter */
    int (*format)(const struct kq_server *server, size_t key, const char *name, struct kq_buf *ret);
} families[] = {
    {"kqfs_requests_total", "Requests answered.", "counter", offsetof(struct of_key, requests),
     NULL},
    {"kqfs_request_bytes_total", "Bytes of requests.", "counter", offsetof(struct of_key, bytes_in),
     NULL},
    {"kqfs_response_bytes_total", "Bytes of responses.", "counter",
     offsetof(struct of_key, bytes_out), NULL},
    {"kqfs_requests_closed_total", "Requests that ended their connection.", "counter",
     offsetof(struct of_key, failed), NULL},
    {"kqfs_request_errors_total", "Error codes in responses.", "counter", 0, format_errors},
    {"kqfs_request_duration_seconds",
     "From a request's last byte to its response, what it waited for included.", "histogram", 0,
     format_histogram},
};

static int format_family(const struct kq_server *server, size_t family, struct kq_buf *ret)
{
    const struct kq_api *api;
    int r = kq_buf_printf(ret, "# HELP %s %s\n# TYPE %s %s\n", families[family].name,
                          families[family].help, families[family].name, families[family].type);
    for (size_t key = 0; r == 0 && (api = kq_api_row(key)); key++) {
        if (SUM(server, key, requests) == 0)
            continue;
        const char *name = api->message->name;
        r = families[family].format ? families[family].format(server, key, name, ret)
                                    : format_plain(server, key, name, families[family].name,
                                                   families[family].offset, ret);
    }
    return r;
}

static int format_software(const struct kq_server *server, struct kq_buf *ret)
{
    uint64_t others = 0;
    int r = kq_metrics_head(ret, "kqfs_net_client_software_total",
                            "Connections by what the client says that it is, and the loop.",
                            KQ_COUNTER);
    for (unsigned s = 0; s < server->shard_count; s++) {
        const struct kq_telemetry *telemetry = server->shards[s].telemetry;
        unsigned count = atomic_load_explicit((_Atomic unsigned *)&telemetry->software_count,
                                              memory_order_acquire);
        others += get(&telemetry->other_software);
        for (unsigned i = 0; i < count && r == 0; i++)
            r = kq_buf_printf(
                ret,
                "kqfs_net_client_software_total{name=\"%s\",version=\"%s\",loop=\"%u\"} %llu\n",
                telemetry->software[i].name, telemetry->software[i].version, s,
                (unsigned long long)get(&telemetry->software[i].connections));
    }
    return r ? r
             : kq_buf_printf(ret, "kqfs_net_client_software_total{name=\"other\"} %llu\n",
                             (unsigned long long)others);
}

int kq_telemetry_format(const struct kq_server *server, struct kq_buf *ret)
{
    int r = format_tallies(server, ret);
    if (r == 0)
        r = format_gauges(server, ret);
    for (size_t i = 0; i < kq_array_size(families) && r == 0; i++)
        r = format_family(server, i, ret);
    return r ? r : format_software(server, ret);
}
