/* Topics and partitions as requests name them: by name or by id, with what the caller may do.
 *
 * All of these return one of Kafka's error codes (errmap.h), KQ_ERROR_NONE where it worked. None
 * blocks but kq_topics_create. Any thread.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "broker/base/wire.h"
#include "broker/broker.h"
#include "net/request.h"

#define KQ_TOPIC_NAME_MAX 249

/* What a request says of a topic. */
struct kq_topic_ref {
    struct kq_str name;
    const uint8_t *id; /* NULL: it is named by NAME */
};

/* Takes a reference. UNKNOWN_TOPIC_OR_PARTITION; UNKNOWN_TOPIC_ID where it is named by id;
 * TOPIC_AUTHORIZATION_FAILED where the caller may not even look at the root. Rights on the topic
 * itself are not asked. */
int16_t kq_topics_find(const struct kq_request *request, const struct kq_topic_ref *ref,
                       struct kq_topic **ret);

/* As kq_topics_find, for one who may DESCRIBE it: else TOPIC_AUTHORIZATION_FAILED. */
int16_t kq_topics_describe(const struct kq_request *request, const struct kq_topic_ref *ref,
                           struct kq_topic **ret);

/* Calls STEP for each topic that the caller may DESCRIBE, in order of their names, until it returns
 * other than 0, and returns that. */
int kq_topics_each(struct kq_request *request,
                   int (*step)(struct kq_request *request, struct kq_topic *topic, void *context),
                   void *context);

/* Partition NUMBER of TOPIC (as REF found it) with RIGHTS; takes a reference, which is to be given
 * back by kq_partition_unref(ret->partition). TOPIC_AUTHORIZATION_FAILED for this partition alone,
 * UNKNOWN_TOPIC_OR_PARTITION, UNKNOWN_TOPIC_ID. */
int16_t kq_topics_access(const struct kq_request *request, const struct kq_topic_ref *ref,
                         struct kq_topic *topic, int32_t number, unsigned rights,
                         struct kq_access *ret);

/* Does the client believe in the present leader? EPOCH is what it knows; -1: it does not say. NONE;
 * FENCED_LEADER_EPOCH (it is behind); UNKNOWN_LEADER_EPOCH (it is ahead). KIP-320. */
int16_t kq_topics_fence(struct kq_partition *partition, int32_t epoch);

/* What a client is told when the topic that REF found is gone. */
int16_t kq_topics_gone(const struct kq_topic_ref *ref);

/* Is the name one that Kafka allows? The name need not be terminated. */
bool kq_topics_name_valid(struct kq_str name);

/* Makes the topic NAME as its first use does, with the default number of partitions, owned by the
 * caller as if by mkdir(1) under the setting `umask`; or finds the one that somebody has made
 * meanwhile. Takes a reference. May block. INVALID_TOPIC_EXCEPTION, TOPIC_AUTHORIZATION_FAILED,
 * POLICY_VIOLATION (max_topics, max_partitions), LEADER_NOT_AVAILABLE (being made or deleted at
 * this moment: ask again), …
 */
int16_t kq_topics_create(const struct kq_request *request, struct kq_str name,
                         struct kq_topic **ret);

/* The owner, mode and ACL of a topic that the caller makes over the wire, and of its partitions: as
 * mkdir(1) on the mount gives them. To be released. 0; -ENOMEM. */
int kq_topics_inherit(const struct kq_request *request, struct kq_attributes *ret_topic,
                      struct kq_attributes *ret_partition);

/* The same of a partition that is added to TOPIC. */
int kq_topics_inherit_partition(const struct kq_request *request, struct kq_topic *topic,
                                struct kq_attributes *ret);

/* What the caller may do with TOPIC, or, TOPIC NULL, with the cluster: a bit for each
 * org.apache.kafka.common.acl.AclOperation. READ and WRITE only where all partitions grant it.
 * Looks at all partitions, of the topic or (for IDEMPOTENT_WRITE) of all topics: where it may take
 * long. */
int32_t kq_topics_operations(const struct kq_request *request, struct kq_topic *topic);

#define KQ_OPERATIONS_UNKNOWN INT32_MIN /* not asked for */
