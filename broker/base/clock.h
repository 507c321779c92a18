/* Time, through a seam that a test can replace. All calls: any thread. */
#pragma once

#include <stdint.h>

/* Wall-clock milliseconds since 1970-01-01 UTC: what goes into timestamps and retention. */
int64_t kq_clock_wall_ms(void);

/* Monotonic nanoseconds: what goes into durations and deadlines. */
int64_t kq_clock_mono_ns(void);

/* For tests: shifts both clocks by so many milliseconds from the true time. */
void kq_clock_shift_ms(int64_t shift_ms);
