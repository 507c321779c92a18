#include "broker/base/diag.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "broker/base/clock.h"

static atomic_bool use_syslog;
static int level = LOG_INFO;
static void (*tap_function)(int, const char *);

void kq_diag(int priority, const char *format, ...)
{
    if (priority > level)
        return;
    int saved = errno;
    char line[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof(line), format, arguments);
    va_end(arguments);
    if (tap_function)
        tap_function(priority, line);
    if (use_syslog)
        syslog(priority, "%s", line);
    else
        dprintf(STDERR_FILENO, "kqfs: %s\n", line);
    errno = saved;
}

bool kq_diag_limit_pass(struct kq_diag_limit *limit, int interval_ms)
{
    long long now = kq_clock_mono_ns();
    long long next = limit->next_ns;
    if (now < next || !atomic_compare_exchange_strong(&limit->next_ns, &next,
                                                      now + (long long)interval_ms * 1000000)) {
        limit->suppressed++;
        return false;
    }
    unsigned suppressed = limit->suppressed;
    limit->suppressed = 0;
    if (suppressed)
        kq_diag(LOG_NOTICE, "%u similar messages left out", suppressed);
    return true;
}

void kq_diag_to_syslog(bool on)
{
    use_syslog = on;
}

void kq_diag_set_level(int priority)
{
    level = priority;
}

void kq_diag_set_tap(void (*tap)(int priority, const char *line))
{
    tap_function = tap;
}
