/* The audit log: who asked for what, from where, and whether they may. One line an event through
 * diag.h, in a format that stays (docs/security.md, "Audit").
 *
 * What happens again within a while is counted and said with the next line of its kind; lines of a
 * second are limited, those beyond are counted and said too. Memory does not grow.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "broker/base/buf.h"
#include "broker/base/wire.h"

enum kq_audit_level {
    KQ_AUDIT_NONE,
    KQ_AUDIT_DENIED,
    KQ_AUDIT_ALL, /* also what is allowed */
};

struct kq_audit_options {
    enum kq_audit_level level;
    unsigned max_lines;  /* of a second; > 0 */
    int64_t repeat_ms;   /* the same event is one line in so long */
    unsigned max_events; /* that are remembered for that; > 0 */
};

struct kq_audit;

/* Options are copied. 0; -ENOMEM. */
int kq_audit_new(const struct kq_audit_options *options, struct kq_audit **ret);
/* Says what was left out and not said yet. NULL is fine. */
void kq_audit_free(struct kq_audit *audit);

/* WORD: none, denied or all. */
bool kq_audit_parse_level(const char *word, enum kq_audit_level *ret);

/* Strings are of any content and NULL where there is nothing to say; those that a client chose are
 * made harmless and cut. */
struct kq_audit_event {
    bool allowed;
    const char *request, *code; /* "Fetch", "TOPIC_AUTHORIZATION_FAILED" */
    const char *principal;      /* proved, or, of a login that was refused, claimed */
    uid_t uid;                  /* KQ_UID_UNKNOWN: nobody's */
    const char *peer;           /* an address, or "unix" */
    long port;                  /* of PEER; of a unix socket the process; <= 0: not known */
    const char *client;         /* id */
    const char *operation;      /* "Read" */
    const char *resource;       /* "Topic" */
    struct kq_str name;         /* of the resource */
    const char *listener;       /* as it is written */
    const char *mechanism, *reason;
};

/* Any thread. AUDIT may be NULL. */
void kq_audit_note(struct kq_audit *audit, const struct kq_audit_event *event);

/* Says in one line what was left out since that was said last, if anything was; once in repeat_ms,
 * and in a second. Any thread. */
void kq_audit_sum_up(struct kq_audit *audit);

/* kqfs_audit_… for .kqfs/metrics. -ENOMEM. */
int kq_audit_format(const struct kq_audit *audit, struct kq_buf *ret);
