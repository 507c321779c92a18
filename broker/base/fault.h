/* Fault injection by countdown: the Nth operation of a kind fails, for every N.
 *
 * The I/O seam (io.h) and the memory seam (mem.h) ask here before each operation. Disarmed, a
 * question costs one relaxed load of a word that never changes.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>

enum kq_fault_kind {
    KQ_FAULT_OPEN = 1 << 0,
    KQ_FAULT_READ = 1 << 1,
    KQ_FAULT_WRITE = 1 << 2,
    KQ_FAULT_SYNC = 1 << 3,
    KQ_FAULT_RENAME = 1 << 4, /* rename, link, unlink, mkdir, rmdir */
    KQ_FAULT_TRUNCATE = 1 << 5,
    KQ_FAULT_ALLOCATE = 1 << 6, /* fallocate(2) */
    KQ_FAULT_MEMORY = 1 << 7,
};

extern atomic_uint kq_fault_armed;

/* Counts one operation of KIND. Returns true, with errno set as armed, if it is to fail.
 * Called through kq_fault(). */
bool kq_fault_count(unsigned kind);

static inline bool kq_fault(unsigned kind)
{
    unsigned armed = atomic_load_explicit(&kq_fault_armed, memory_order_relaxed);
    return __builtin_expect(armed & kind, 0) && kq_fault_count(kind);
}

/* From now on the NTH (1 = the next) operation whose kind is in KINDS fails with ERROR (an errno);
 * with STICKY all after it fail too. For tests. */
void kq_fault_arm(unsigned kinds, long nth, int error, bool sticky);

/* Disarms. Returns true if a fault was delivered since it was armed: a test counts N up until this
 * says no. */
bool kq_fault_disarm(void);
