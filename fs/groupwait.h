/* A thread that waits for a change of a group to be durable. */
#pragma once

#include <semaphore.h>

#include "broker/groups.h"

struct kq_group_waiting {
    struct kq_group_change change; /* to be handed to the call */
    sem_t ended;
};

void kq_group_waiting_init(struct kq_group_waiting *waiting);

/* R is what the call returned, which had CHANGE. Blocks until it is done; what came of it: 0, or as
 * the call. */
int kq_group_waiting_end(struct kq_group_waiting *waiting, int r);
