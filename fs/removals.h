/* Who removes one name over and over. unlink(2) of what goes with its topic succeeds and does
 * nothing, so that rm -r gets past it; tar(1) that extracts over a topic takes that for progress,
 * tries to make the file, finds it there and removes it again, without end. */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define KQ_REMOVALS_IN_A_ROW 16
#define KQ_REMOVALS_SLOTS 64

/* The last removal of each process, as far as no other took its slot. */
struct kq_removals {
    pthread_mutex_t lock;
    struct kq_removal {
        pid_t pid;
        uint64_t parent;
        char name[256];
        int64_t when_ms;
        unsigned count;
    } slots[KQ_REMOVALS_SLOTS];
};

void kq_removals_init(struct kq_removals *removals);
void kq_removals_destroy(struct kq_removals *removals);

/* PID removes NAME (below 256 bytes) in PARENT at NOW_MS of the monotonic clock, and IDLE says that
 * there was nothing to remove. True, unless it has just done so KQ_REMOVALS_IN_A_ROW times: the
 * same name, nothing else in between, each within a second of the one before. Any thread. */
bool kq_removals_may(struct kq_removals *removals, pid_t pid, uint64_t parent, const char *name,
                     bool idle, int64_t now_ms);
