#include "broker/quotarate.h"

#include "broker/base/err.h"

size_t kq_quota_rate_size(const struct kq_quota_windows *windows)
{
    return sizeof(struct kq_quota_rate) +
           ((size_t)windows->count + 1) * sizeof(struct kq_quota_sample);
}

static struct kq_quota_sample *at(struct kq_quota_rate *rate,
                                  const struct kq_quota_windows *windows, uint32_t index)
{
    size_t place = (size_t)rate->first + index, size = (size_t)windows->count + 1;
    return &rate->samples[place < size ? place : place - size];
}

static void drop_oldest(struct kq_quota_rate *rate, const struct kq_quota_windows *windows)
{
    rate->first = rate->first == windows->count ? 0 : rate->first + 1;
    rate->count--;
}

/* What has left the windows altogether. */
static void forget(struct kq_quota_rate *rate, const struct kq_quota_windows *windows,
                   int64_t now_ms)
{
    int64_t age_ms = windows->count * windows->ms;
    while (rate->count > 0 && now_ms - at(rate, windows, 0)->last_ms >= age_ms)
        drop_oldest(rate, windows);
}

void kq_quota_rate_add(struct kq_quota_rate *rate, const struct kq_quota_windows *windows,
                       double amount, int64_t now_ms)
{
    struct kq_quota_sample *last = rate->count ? at(rate, windows, rate->count - 1) : NULL;
    if (!last || now_ms - last->begin_ms >= windows->ms) {
        if (rate->count == windows->count + 1)
            drop_oldest(rate, windows);
        last = at(rate, windows, rate->count++);
        *last = (struct kq_quota_sample){.begin_ms = now_ms, .last_ms = now_ms};
    }
    last->amount += amount;
    last->last_ms = kq_max64(last->last_ms, now_ms);
}

bool kq_quota_rate_is_empty(struct kq_quota_rate *rate, const struct kq_quota_windows *windows,
                            int64_t now_ms)
{
    forget(rate, windows, now_ms);
    return rate->count == 0;
}

/* What the rate is measured over. */
static int64_t span_ms(struct kq_quota_rate *rate, const struct kq_quota_windows *windows,
                       int64_t now_ms)
{
    int64_t elapsed = rate->count ? kq_max64(0, now_ms - at(rate, windows, 0)->begin_ms) : 0;
    int64_t whole = elapsed / windows->ms, least = (int64_t)windows->count - 1;
    if (whole < least)
        elapsed += (least - whole) * windows->ms;
    return kq_max64(elapsed, 1);
}

int64_t kq_quota_rate_excess_ms(struct kq_quota_rate *rate, const struct kq_quota_windows *windows,
                                double amount, double limit, int64_t now_ms)
{
    forget(rate, windows, now_ms);
    double span = (double)span_ms(rate, windows, now_ms);
    for (uint32_t i = 0; i < rate->count; i++)
        amount += at(rate, windows, i)->amount;
    double observed = amount * 1000 / span;
    if (observed <= limit)
        return 0;
    double excess = (observed - limit) / limit * span + 0.5;
    return excess < (double)INT32_MAX ? kq_max64(1, (int64_t)excess) : INT32_MAX;
}
