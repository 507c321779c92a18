#include "broker/base/clock.h"

#include <stdatomic.h>
#include <time.h>

static _Atomic int64_t shift_ms;

static int64_t now_ns(clockid_t id)
{
    struct timespec now;
    clock_gettime(id, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int64_t kq_clock_wall_ms(void)
{
    return now_ns(CLOCK_REALTIME) / 1000000 + atomic_load_explicit(&shift_ms, memory_order_relaxed);
}

int64_t kq_clock_mono_ns(void)
{
    return now_ns(CLOCK_MONOTONIC) +
           atomic_load_explicit(&shift_ms, memory_order_relaxed) * 1000000;
}

void kq_clock_shift_ms(int64_t ms)
{
    atomic_store_explicit(&shift_ms, ms, memory_order_relaxed);
}
