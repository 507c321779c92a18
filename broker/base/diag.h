/* What the broker says to its operator: one line a message, to stderr or syslog. Any thread. */
#pragma once

#include <stdbool.h>
#include <syslog.h>

#include "broker/base/err.h"

/* PRIORITY as syslog(3): LOG_ERR, LOG_WARNING, LOG_NOTICE, LOG_INFO, LOG_DEBUG. The text has no
 * newline, names the thing and, for errors, the remedy. errno is kept. */
void kq_diag(int priority, const char *format, ...) kq_printf_like(2, 3);

/* As kq_diag, at most once in INTERVAL_MS a place; says how many it left out. For what a client or
 * a broken disk can repeat without end. */
#define kq_diag_limited(interval_ms, priority, ...)                                                \
    do {                                                                                           \
        static struct kq_diag_limit limit_;                                                        \
        if (kq_diag_limit_pass(&limit_, (interval_ms)))                                            \
            kq_diag((priority), __VA_ARGS__);                                                      \
    } while (0)

struct kq_diag_limit {
    _Atomic long long next_ns;
    _Atomic unsigned suppressed;
};

bool kq_diag_limit_pass(struct kq_diag_limit *limit, int interval_ms);

/* Where lines go from now on: syslog (after openlog by the caller) or stderr. Any thread. */
void kq_diag_to_syslog(bool on);

/* Lines of a lower priority (higher number) than this are dropped; LOG_INFO by default. */
void kq_diag_set_level(int priority);

/* For tests: each line that passes the level goes to TAP as well; NULL ends it. */
void kq_diag_set_tap(void (*tap)(int priority, const char *line));
