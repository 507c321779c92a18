#include "broker/metrics.h"

#include <pthread.h>
#include <stdbool.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct kq_metric *first, **last = &first;
static struct kq_metric_source *sources;

void kq_metric_register(struct kq_metric *metric)
{
    pthread_mutex_lock(&lock);
    bool known = metric->next || last == &metric->next;
    if (!known) {
        *last = metric;
        last = &metric->next;
    }
    pthread_mutex_unlock(&lock);
}

void kq_metric_source_add(struct kq_metric_source *source)
{
    pthread_mutex_lock(&lock);
    source->next = sources;
    sources = source;
    pthread_mutex_unlock(&lock);
}

void kq_metric_source_remove(struct kq_metric_source *source)
{
    pthread_mutex_lock(&lock);
    struct kq_metric_source **at = &sources;
    while (*at && *at != source)
        at = &(*at)->next;
    if (*at)
        *at = source->next;
    pthread_mutex_unlock(&lock);
}

int kq_metrics_head(struct kq_buf *ret, const char *name, const char *help,
                    enum kq_metric_type type)
{
    return kq_buf_printf(ret, "# HELP %s %s\n# TYPE %s %s\n", name, help, name,
                         type == KQ_COUNTER ? "counter" : "gauge");
}

int kq_metrics_format(struct kq_buf *ret)
{
    int r = 0;
    pthread_mutex_lock(&lock);
    for (struct kq_metric *metric = first; metric && r == 0; metric = metric->next) {
        r = kq_metrics_head(ret, metric->name, metric->help, metric->type);
        if (r == 0)
            r = kq_buf_printf(
                ret, "%s %lld\n", metric->name,
                (long long)atomic_load_explicit(&metric->value, memory_order_relaxed));
    }
    for (struct kq_metric_source *source = sources; source && r == 0; source = source->next)
        r = source->format(source, ret);
    pthread_mutex_unlock(&lock);
    return r;
}
