/* Logs of a broker, put into a stopped Kafka's log directory, under topics that exist there.
 *
 * Everything is looked at before the first change: where one topic cannot be exported, none is. A
 * partition that was replaced is so for good; one at which it failed is as it was. See
 * exporttarget.h for what a crash in between leaves.
 */
#pragma once

#include <stdbool.h>
#include <stdio.h>

#include "broker/broker.h"

/* How far it is. */
struct kq_export_state {
    const char *topic;
    int32_t partition;
    size_t done, partitions;
    int64_t bytes, all_bytes;
};

struct kq_export_options {
    const char *target; /* one of Kafka's log.dirs */
    const char *const *topics;
    size_t topic_count; /* 0: all but the internal ones */
    bool overwrite;     /* partitions that hold messages there, too */
    /* From time to time: go on? NULL: yes. */
    bool (*show)(const struct kq_export_state *state);
};

struct kq_export_result {
    size_t topics, partitions;
    int64_t messages, bytes;
};

/* One caller; nobody may append meanwhile; may block for long. 0; -EINVAL: refused, nothing was
 * changed; -EINTR: it was not to go on; -errno. Each reported. RET says what was done in any case.
 */
int kq_export(struct kq_broker *broker, const struct kq_export_options *options,
              struct kq_export_result *ret);

/* Writes commands for a shell to TO that make the topics, with their configurations, in a Kafka
 * whose address is in BOOTSTRAP there. -EINVAL: a topic is not here (reported); -ENOMEM. */
int kq_export_commands(struct kq_broker *broker, const char *const *topics, size_t topic_count,
                       FILE *to);
