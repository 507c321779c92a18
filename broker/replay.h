/* What the batches of a log say of their producers, read from their headers. */
#pragma once

#include "broker/base/buf.h"
#include "broker/log_internal.h"

struct kq_replay {
    struct kq_producers *producers; /* as they were at FROM; as they are at TO then */
    int64_t from, to;               /* offsets of batches */
    int64_t now_ms;
    bool met;              /* there was a batch with a producer id */
    struct kq_buf aborted; /* struct kq_compact_aborted each: transactions that ended in between */
};

/* Reads [replay->from, replay->to) of LOG, and nothing else; damaged places are passed over. May
 * block. No lock held, but the log may not be in use yet where PRODUCERS are its own. -ENOMEM,
 * -errno. */
int kq_log_replay(struct kq_log *log, struct kq_replay *replay);
