#include "broker/guard.h"

#include <linux/futex.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

void kq_guard_wake(struct kq_guard *guard)
{
    syscall(SYS_futex, &guard->users, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

void kq_guard_close(struct kq_guard *guard)
{
    uint32_t now = atomic_fetch_or(&guard->users, KQ_GUARD_CLOSED) | KQ_GUARD_CLOSED;
    while (now != KQ_GUARD_CLOSED) {
        syscall(SYS_futex, &guard->users, FUTEX_WAIT_PRIVATE, now, NULL, NULL, 0);
        now = atomic_load(&guard->users);
    }
}

void kq_guard_open(struct kq_guard *guard)
{
    atomic_fetch_and(&guard->users, ~KQ_GUARD_CLOSED);
}
