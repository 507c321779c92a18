#include "net/audit.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/random.h>

#include "broker/authz.h"
#include "broker/base/clock.h"
#include "broker/base/diag.h"
#include "broker/base/mem.h"
#include "broker/metrics.h"

#define NS_PER_MS INT64_C(1000000)
#define NS_PER_S INT64_C(1000000000)
#define SHELVES 16
#define WAYS 4 /* events that share a row: the oldest makes place */

#define NAME_BYTES 256 /* a topic's name is never cut */
#define PRINCIPAL_BYTES 128
#define REASON_BYTES 128
#define SHORT_BYTES 96

/* One event that was said, known by its hash only. */
struct slot {
    uint64_t hash; /* 0: free */
    int64_t until_ns;
    uint32_t repeats;
};

struct shelf {
    pthread_mutex_t lock;
    struct slot *slots; /* ROWS times WAYS */
    char apart[64];     /* from the next one's lock */
};

enum count {
    ALLOWED,
    DENIED,
    LINES,
    REPEATED,
    BEYOND, /* lines of a second */
    COUNTS,
};

struct kq_audit {
    struct kq_audit_options options;
    uint64_t seed;
    unsigned rows;        /* of a shelf; a power of two */
    pthread_mutex_t lock; /* of what follows */
    int64_t second_ns;    /* when the present second began */
    unsigned in_second;
    int64_t sum_up_ns;     /* not before that */
    uint64_t said[COUNTS]; /* of COUNTS, when they were last summed up */
    atomic_uint_fast64_t counts[COUNTS];
    struct shelf shelves[SHELVES];
};

bool kq_audit_parse_level(const char *word, enum kq_audit_level *ret)
{
    static const char *const words[] = {"none", "denied", "all"};
    for (size_t i = 0; i < kq_array_size(words); i++)
        if (strcmp(word, words[i]) == 0) {
            *ret = (enum kq_audit_level)i;
            return true;
        }
    return false;
}

int kq_audit_new(const struct kq_audit_options *options, struct kq_audit **ret)
{
    struct kq_audit *audit = kq_zalloc(sizeof(*audit));
    if (!audit)
        return -ENOMEM;
    audit->options = *options;
    pthread_mutex_init(&audit->lock, NULL);
    /* Without it, one could choose names that hide each other. */
    if (getrandom(&audit->seed, sizeof(audit->seed), GRND_NONBLOCK) < 0)
        audit->seed = (uint64_t)kq_clock_mono_ns();
    audit->rows = 1;
    while ((uint64_t)audit->rows * WAYS * SHELVES < options->max_events)
        audit->rows *= 2;
    int r = 0;
    for (int i = 0; i < SHELVES; i++) {
        struct shelf *shelf = &audit->shelves[i];
        pthread_mutex_init(&shelf->lock, NULL);
        shelf->slots = kq_zalloc((size_t)audit->rows * WAYS * sizeof(*shelf->slots));
        if (!shelf->slots)
            r = -ENOMEM;
    }
    if (r < 0)
        kq_audit_free(audit);
    else
        *ret = audit;
    return r;
}

static void sum_up(struct kq_audit *audit)
{
    uint64_t fresh[COUNTS], all = 0;
    pthread_mutex_lock(&audit->lock);
    for (int i = REPEATED; i <= BEYOND; i++) {
        uint64_t now = atomic_load_explicit(&audit->counts[i], memory_order_relaxed);
        fresh[i] = now - audit->said[i];
        audit->said[i] = now;
        all += fresh[i];
    }
    pthread_mutex_unlock(&audit->lock);
    if (all)
        kq_diag(LOG_NOTICE, "audit: left out: %llu repeats, %llu beyond %u lines a second",
                (unsigned long long)fresh[REPEATED], (unsigned long long)fresh[BEYOND],
                audit->options.max_lines);
}

void kq_audit_free(struct kq_audit *audit)
{
    if (!audit)
        return;
    sum_up(audit);
    for (int i = 0; i < SHELVES; i++) {
        free(audit->shelves[i].slots);
        pthread_mutex_destroy(&audit->shelves[i].lock);
    }
    pthread_mutex_destroy(&audit->lock);
    free(audit);
}

/* --- Has it been said? --- */

static uint64_t mix(uint64_t hash)
{
    hash = (hash ^ (hash >> 33)) * UINT64_C(0xff51afd7ed558ccd);
    hash = (hash ^ (hash >> 33)) * UINT64_C(0xc4ceb9fe1a85ec53);
    return hash ^ (hash >> 33);
}

static uint64_t add_bytes(uint64_t hash, const char *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++)
        hash = (hash ^ (unsigned char)bytes[i]) * UINT64_C(0x100000001b3);
    return mix(hash ^ length);
}

static uint64_t hash_of(const struct kq_audit *audit, const struct kq_audit_event *event)
{
    const char *const texts[] = {event->request,  event->code,      event->principal,
                                 event->peer,     event->operation, event->resource,
                                 event->listener, event->mechanism, event->reason};
    uint64_t hash = add_bytes(audit->seed, event->name.data,
                              event->name.length > 0 ? (size_t)event->name.length : 0);
    for (size_t i = 0; i < kq_array_size(texts); i++)
        hash = add_bytes(hash, texts[i], texts[i] ? strlen(texts[i]) : 0);
    hash = mix(hash ^ event->uid);
    return hash ? hash : 1;
}

/* That of HASH, or the one of its row whose time is over first. */
static struct slot *find(const struct kq_audit *audit, struct shelf *shelf, uint64_t hash)
{
    struct slot *row = &shelf->slots[((hash >> 8) & (audit->rows - 1)) * WAYS], *oldest = row;
    for (int i = 0; i < WAYS; i++) {
        if (row[i].hash == hash)
            return &row[i];
        if (row[i].until_ns < oldest->until_ns)
            oldest = &row[i];
    }
    return oldest;
}

static void count(struct kq_audit *audit, enum count which)
{
    atomic_fetch_add_explicit(&audit->counts[which], 1, memory_order_relaxed);
}

/* May one more line be written in this second? */
static bool pass_rate(struct kq_audit *audit, int64_t now_ns)
{
    pthread_mutex_lock(&audit->lock);
    if (now_ns - audit->second_ns >= NS_PER_S) {
        audit->second_ns = now_ns;
        audit->in_second = 0;
    }
    bool pass = audit->in_second < audit->options.max_lines;
    if (pass)
        audit->in_second++;
    pthread_mutex_unlock(&audit->lock);
    return pass;
}

/* Is it to be said, and how often has it happened since it was said last? */
static bool pass(struct kq_audit *audit, const struct kq_audit_event *event, uint32_t *ret_repeats)
{
    uint64_t hash = hash_of(audit, event);
    int64_t now_ns = kq_clock_mono_ns();
    struct shelf *shelf = &audit->shelves[hash % SHELVES];
    pthread_mutex_lock(&shelf->lock);
    struct slot *slot = find(audit, shelf, hash);
    bool known = slot->hash == hash, again = known && now_ns < slot->until_ns;
    bool to_say = !again && pass_rate(audit, now_ns);
    if (again)
        slot->repeats++;
    *ret_repeats = known ? slot->repeats : 0;
    if (to_say)
        *slot =
            (struct slot){.hash = hash, .until_ns = now_ns + audit->options.repeat_ms * NS_PER_MS};
    pthread_mutex_unlock(&shelf->lock);
    if (!to_say)
        count(audit, again ? REPEATED : BEYOND);
    return to_say;
}

/* --- Saying it --- */

/* What a client chose cannot end the line, look like another field, or reach a terminal. */
static void copy_text(const char *from, size_t length, char *ret, size_t size)
{
    static const char cut[] = "...";
    size_t at = 0;
    for (; at < length && at < size - 1; at++) {
        unsigned char c = (unsigned char)from[at];
        ret[at] = c <= ' ' || c == '"' || c == '\\' || c >= 0x7f ? '?' : (char)c;
    }
    ret[at] = '\0';
    if (at < length)
        memcpy(ret + size - sizeof(cut), cut, sizeof(cut));
}

static void copy_string(const char *from, char *ret, size_t size)
{
    copy_text(from, from ? strlen(from) : 0, ret, size);
}

/* A reason is the broker's own, but for names in it; blanks in it are readable. */
static void copy_reason(const char *from, char *ret, size_t size)
{
    copy_string(from, ret, size);
    for (size_t i = 0; ret[i]; i++)
        if (from[i] == ' ' && ret[i] == '?')
            ret[i] = ' ';
}

static const char *or_none(const char *word)
{
    return word ? word : "-";
}

static void say(const struct kq_audit_event *event, uint32_t repeats)
{
    char principal[PRINCIPAL_BYTES], client[SHORT_BYTES], name[NAME_BYTES], listener[SHORT_BYTES];
    char reason[REASON_BYTES];
    copy_string(event->principal, principal, sizeof(principal));
    copy_string(event->client, client, sizeof(client));
    copy_string(event->listener, listener, sizeof(listener));
    copy_reason(event->reason, reason, sizeof(reason));
    copy_text(event->name.data, event->name.length > 0 ? (size_t)event->name.length : 0, name,
              sizeof(name));
    kq_diag(LOG_NOTICE,
            "audit: %s request=%s code=%s principal=\"%s\" uid=%lld peer=%.46s client=\"%s\" "
            "operation=%s resource=%s name=\"%s\" port=%ld listener=\"%s\" mechanism=%.24s "
            "repeats=%u reason=\"%s\"",
            event->allowed ? "allowed" : "denied", event->request, event->code, principal,
            event->uid == KQ_UID_UNKNOWN ? -1LL : (long long)event->uid, or_none(event->peer),
            client, or_none(event->operation), or_none(event->resource), name,
            event->port > 0 ? event->port : 0, listener, or_none(event->mechanism), repeats,
            reason);
}

void kq_audit_note(struct kq_audit *audit, const struct kq_audit_event *event)
{
    uint32_t repeats;
    if (!audit || audit->options.level < (event->allowed ? KQ_AUDIT_ALL : KQ_AUDIT_DENIED))
        return;
    count(audit, event->allowed ? ALLOWED : DENIED);
    if (!pass(audit, event, &repeats))
        return;
    count(audit, LINES);
    say(event, repeats);
}

void kq_audit_sum_up(struct kq_audit *audit)
{
    int64_t now_ns = kq_clock_mono_ns();
    pthread_mutex_lock(&audit->lock);
    bool due = now_ns >= audit->sum_up_ns;
    if (due)
        audit->sum_up_ns = now_ns + kq_max64(audit->options.repeat_ms * NS_PER_MS, NS_PER_S);
    pthread_mutex_unlock(&audit->lock);
    if (due)
        sum_up(audit);
}

/* --- Metrics --- */

int kq_audit_format(const struct kq_audit *audit, struct kq_buf *ret)
{
    static const struct {
        enum count count;
        const char *name, *label, *help;
    } shown[] = {
        {ALLOWED, "kqfs_audit_events_total", "{result=\"allowed\"}",
         "What the audit log has been told."},
        {DENIED, "kqfs_audit_events_total", "{result=\"denied\"}", NULL},
        {LINES, "kqfs_audit_lines_total", "", "Lines of the audit log."},
        {REPEATED, "kqfs_audit_left_out_total", "{reason=\"repeated\"}",
         "Events without a line of their own."},
        {BEYOND, "kqfs_audit_left_out_total", "{reason=\"limit\"}", NULL},
    };
    int r = 0;
    for (size_t i = 0; r == 0 && i < kq_array_size(shown); i++) {
        uint64_t value = atomic_load_explicit(
            (atomic_uint_fast64_t *)&audit->counts[shown[i].count], memory_order_relaxed);
        if (shown[i].help)
            r = kq_metrics_head(ret, shown[i].name, shown[i].help, KQ_COUNTER);
        if (r == 0)
            r = kq_buf_printf(ret, "%s%s %llu\n", shown[i].name, shown[i].label,
                              (unsigned long long)value);
    }
    return r;
}
