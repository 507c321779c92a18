/* What is to be exported, and what speaks against it. Shared by the sources of the export. */
#pragma once

#include "broker/export.h"
#include "broker/exporttarget.h"
#include "broker/internal.h"

struct kq_export_plan {
    struct kq_buf topics;     /* struct kq_topic * each, referenced */
    struct kq_buf partitions; /* struct kq_partition * each: those that are in the target */
    int64_t bytes;
};

static inline size_t kq_export_topic_count(const struct kq_export_plan *plan)
{
    return plan->topics.length / sizeof(struct kq_topic *);
}

static inline struct kq_topic *kq_export_topic(const struct kq_export_plan *plan, size_t i)
{
    return ((struct kq_topic **)(void *)plan->topics.data)[i];
}

/* The topics named, or all but the internal ones. Zero-initialise PLAN; release it after any
 * result. -EINVAL: one is not here (reported); -ENOMEM. */
int kq_export_plan_topics(struct kq_export_plan *plan, struct kq_broker *broker,
                          const char *const *topics, size_t count);

/* Their partitions in TARGET. -EINVAL: something is in the way (each reported); -errno. */
int kq_export_plan_partitions(struct kq_export_plan *plan, const struct kq_export_target *target,
                              bool overwrite);

void kq_export_plan_release(struct kq_export_plan *plan);

/* Says where TOPIC's configuration there is another than here, as far as Kafka's metadata tells. */
void kq_export_compare(struct kq_topic *topic, const struct kq_export_target *target);
