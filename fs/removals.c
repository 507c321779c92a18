#include "fs/removals.h"

#include <string.h>

#define SOON_MS 1000

void kq_removals_init(struct kq_removals *removals)
{
    memset(removals->slots, 0, sizeof(removals->slots));
    pthread_mutex_init(&removals->lock, NULL);
}

void kq_removals_destroy(struct kq_removals *removals)
{
    pthread_mutex_destroy(&removals->lock);
}

bool kq_removals_may(struct kq_removals *removals, pid_t pid, uint64_t parent, const char *name,
                     bool idle, int64_t now_ms)
{
    pthread_mutex_lock(&removals->lock);
    struct kq_removal *last = &removals->slots[(unsigned)pid % KQ_REMOVALS_SLOTS];
    bool again = idle && last->pid == pid && last->parent == parent &&
                 now_ms - last->when_ms < SOON_MS && strcmp(last->name, name) == 0;
    bool may = !again || last->count < KQ_REMOVALS_IN_A_ROW;
    if (!again) {
        last->pid = pid;
        last->parent = parent;
        strcpy(last->name, name);
        last->count = 0;
    }
    last->count += may && idle;
    last->when_ms = now_ms;
    pthread_mutex_unlock(&removals->lock);
    return may;
}
