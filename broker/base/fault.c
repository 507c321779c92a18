#include "broker/base/fault.h"

#include <errno.h>

atomic_uint kq_fault_armed;
static atomic_long countdown;
static atomic_int fault_error;
static atomic_bool fault_sticky;
static atomic_bool delivered;

bool kq_fault_count(unsigned kind)
{
    (void)kind;
    long left = atomic_fetch_sub(&countdown, 1);
    if (left > 1 || (left < 1 && !atomic_load(&fault_sticky)))
        return false;
    atomic_store(&delivered, true);
    errno = atomic_load(&fault_error);
    return true;
}

void kq_fault_arm(unsigned kinds, long nth, int error, bool sticky)
{
    atomic_store(&kq_fault_armed, 0);
    atomic_store(&countdown, nth);
    atomic_store(&fault_error, error);
    atomic_store(&fault_sticky, sticky);
    atomic_store(&delivered, false);
    atomic_store(&kq_fault_armed, kinds);
}

bool kq_fault_disarm(void)
{
    atomic_store(&kq_fault_armed, 0);
    return atomic_load(&delivered);
}
