/* How much of something there was in a second, over the last windows of time.
 *
 * The rate is what the windows hold, divided by their time: at least all windows but one, however
 * recent the first of them is, so that the first request does not look like a flood. Source: the
 * behaviour of Kafka's org.apache.kafka.common.metrics.stats.Rate and
 * org.apache.kafka.server.quota.QuotaUtils.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kq_quota_sample {
    double amount;
    int64_t begin_ms, last_ms;
};

/* Zero-initialised is empty. One more sample than there are windows: the oldest may lie partly
 * within them. */
struct kq_quota_rate {
    uint32_t first, count; /* in the ring of samples, the oldest first */
    struct kq_quota_sample samples[];
};

struct kq_quota_windows {
    uint32_t count; /* > 0 */
    int64_t ms;     /* of each, > 0 */
};

/* Bytes of a rate over WINDOWS. */
size_t kq_quota_rate_size(const struct kq_quota_windows *windows);

/* AMOUNT came at NOW_MS. */
void kq_quota_rate_add(struct kq_quota_rate *rate, const struct kq_quota_windows *windows,
                       double amount, int64_t now_ms);

/* Is nothing in the windows? */
bool kq_quota_rate_is_empty(struct kq_quota_rate *rate, const struct kq_quota_windows *windows,
                            int64_t now_ms);

/* The rate, AMOUNT more being taken for granted, must not be above LIMIT: how many milliseconds
 * without anything bring it there; 0: it is. AMOUNT is not noted. */
int64_t kq_quota_rate_excess_ms(struct kq_quota_rate *rate, const struct kq_quota_windows *windows,
                                double amount, double limit, int64_t now_ms);
