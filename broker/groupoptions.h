/* The settings of the group coordinator. Plain data. */
#pragma once

#include <stdint.h>

/* The settings; Kafka's names and meanings, unless marked ours. */
struct kq_group_options {
    int32_t min_session_timeout_ms;     /* group.min.session.timeout.ms */
    int32_t max_session_timeout_ms;     /* group.max.session.timeout.ms */
    int32_t initial_rebalance_delay_ms; /* group.initial.rebalance.delay.ms */
    int32_t max_members;                /* group.max.size: of one group */
    int32_t max_groups;                 /* group.max.groups: ours */
    int32_t max_protocols;              /* group.max.protocols: ours, of one member */
    int32_t max_metadata_bytes; /* group.max.metadata.bytes: ours, what one member brings in a
                                   JoinGroup, and what is assigned to it */
    int32_t offset_metadata_max_bytes; /* offset.metadata.max.bytes */
    int32_t offsets_partitions;        /* offsets.topic.num.partitions */
    int32_t offsets_segment_bytes;     /* offsets.topic.segment.bytes */
    int64_t offsets_retention_ms;      /* offsets.retention.minutes */
    int64_t offsets_check_ms;          /* offsets.retention.check.interval.ms */
    int32_t max_lag_metrics;           /* metrics.max.group.lags: ours, lines of kqfs_group_lag */
};

/* Kafka's defaults and ours. */
void kq_group_options_defaults(struct kq_group_options *ret);
