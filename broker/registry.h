/* The topics by name and by id: hash tables to find one and a sorted array to walk them, under one
 * lock for many readers. A name is taken from before a topic's files exist until they are gone. */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kq_topic;

enum kq_registry_state {
    KQ_REGISTRY_CREATING, /* holds the name, is not found */
    KQ_REGISTRY_LIVE,
    KQ_REGISTRY_DELETING, /* as CREATING */
};

struct kq_registry {
    pthread_rwlock_t lock;
    struct kq_topic *by_name, *by_id;
    struct kq_topic **sorted;
    size_t count, capacity;
    size_t partitions;
    size_t max_topics, max_partitions;
};

void kq_registry_init(struct kq_registry *registry, size_t max_topics, size_t max_partitions);
void kq_registry_destroy(struct kq_registry *registry); /* empty */

/* Takes TOPIC's name (and id, which must be set), in state CREATING, and a reference. 0; -EEXIST;
 * -EBUSY (being created or deleted); -EDQUOT; -ENOMEM. */
int kq_registry_add(struct kq_registry *registry, struct kq_topic *topic);
void kq_registry_set_state(struct kq_registry *registry, struct kq_topic *topic,
                           enum kq_registry_state state);
/* Frees the name; drops the reference. */
void kq_registry_remove(struct kq_registry *registry, struct kq_topic *topic);

/* What kq_registry_add would say of NAME, and kq_registry_count_partitions of COUNT, by now. */
int kq_registry_check(struct kq_registry *registry, const char *name, int32_t count);

/* Has somebody taken NAME, in whatever state? */
bool kq_registry_taken(struct kq_registry *registry, const char *name);

/* Counts COUNT more partitions (or fewer, which never fails). 0; -EDQUOT. */
int kq_registry_count_partitions(struct kq_registry *registry, long count);

/* As kq_topic_get, kq_topic_find and kq_topic_next. */
int kq_registry_get(struct kq_registry *registry, const char *name, struct kq_topic **ret);
int kq_registry_find(struct kq_registry *registry, const uint8_t *id, struct kq_topic **ret);
int kq_registry_next(struct kq_registry *registry, const char *after, struct kq_topic **ret);
