/* Waiting until what a Produce appended is on disk, where its topics ask for that. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "broker/broker.h"
#include "net/request.h"

struct kq_produce_syncs;

/* One partition to be synced. */
struct kq_produce_wait {
    struct kq_partition *partition;
    int16_t *error; /* of the answer: set where it fails, or takes too long */
};

/* What request->state begins with. */
struct kq_produce_waits {
    struct kq_produce_wait *at; /* in the request's arena */
    size_t count;
    struct kq_produce_syncs *syncs; /* produce_sync.c's own */
};

/* Syncs the partitions that request->state names and, when all are on disk or TIMEOUT_MS after the
 * request came (0: however long it takes), calls CONCLUDE on the loop, whose answer is the
 * request's. The handler returns what this returns. On the loop. */
enum kq_handled kq_produce_sync(struct kq_request *request, int32_t timeout_ms,
                                kq_handle_fn conclude);
