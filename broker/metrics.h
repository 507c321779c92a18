/* Counters and gauges, shown as Prometheus text. Registered once, before traffic; counting is a
 * relaxed atomic add from any thread. */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

#include "broker/base/buf.h"

enum kq_metric_type {
    KQ_COUNTER,
    KQ_GAUGE,
};

struct kq_metric {
    const char *name; /* kqfs_…, with Prometheus' unit suffixes */
    const char *help;
    enum kq_metric_type type;
    _Atomic int64_t value;
    struct kq_metric *next; /* the registry's own */
};

/* Adds METRIC (static storage) to what kq_metrics_format shows. Registering twice is fine. */
void kq_metric_register(struct kq_metric *metric);

static inline void kq_metric_add(struct kq_metric *metric, int64_t amount)
{
    atomic_fetch_add_explicit(&metric->value, amount, memory_order_relaxed);
}

static inline void kq_metric_set(struct kq_metric *metric, int64_t value)
{
    atomic_store_explicit(&metric->value, value, memory_order_relaxed);
}

/* Appends the HELP and TYPE lines of metrics that are not registered, as those with labels. */
int kq_metrics_head(struct kq_buf *ret, const char *name, const char *help,
                    enum kq_metric_type type);

/* Metrics that somebody else keeps, such as those with labels; lives in its owner's memory. */
struct kq_metric_source {
    int (*format)(struct kq_metric_source *source, struct kq_buf *ret); /* 0; -ENOMEM */
    struct kq_metric_source *next;                                      /* the registry's own */
};

/* SOURCE is asked by kq_metrics_format from now on, until it was removed: it is not being asked
 * then. Removing what was not added is fine. */
void kq_metric_source_add(struct kq_metric_source *source);
void kq_metric_source_remove(struct kq_metric_source *source);

/* Appends HELP, TYPE and value of each registered metric, then what the sources say. -ENOMEM. */
int kq_metrics_format(struct kq_buf *ret);
