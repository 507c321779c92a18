#include "broker/registry.h"

#include <string.h>

#include "broker/base/mem.h"
#include "broker/internal.h"

_Thread_local bool kq_uthash_failed;

void kq_registry_init(struct kq_registry *registry, size_t max_topics, size_t max_partitions)
{
    *registry = (struct kq_registry){.max_topics = max_topics, .max_partitions = max_partitions};
    pthread_rwlock_init(&registry->lock, NULL);
}

void kq_registry_destroy(struct kq_registry *registry)
{
    free(registry->sorted);
    pthread_rwlock_destroy(&registry->lock);
}

static struct kq_topic *find(const struct kq_registry *registry, const char *name)
{
    struct kq_topic *topic;
    HASH_FIND(by_name, registry->by_name, name, strlen(name), topic);
    return topic;
}

/* The index of the first topic whose name is >= NAME, or > NAME. */
static size_t position(const struct kq_registry *registry, const char *name, bool behind)
{
    size_t low = 0, high = registry->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        int order = strcmp(registry->sorted[middle]->name, name);
        if (order < 0 || (behind && order == 0))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static int grow(struct kq_registry *registry)
{
    if (registry->count < registry->capacity)
        return 0;
    size_t capacity = registry->capacity ? 2 * registry->capacity : 16;
    struct kq_topic **sorted = kq_realloc(registry->sorted, capacity * sizeof(*sorted));
    if (!sorted)
        return -ENOMEM;
    registry->sorted = sorted;
    registry->capacity = capacity;
    return 0;
}

static int insert(struct kq_registry *registry, struct kq_topic *topic)
{
    int r = grow(registry);
    if (r < 0)
        return r;
    kq_uthash_failed = false;
    HASH_ADD_KEYPTR(by_name, registry->by_name, topic->name, strlen(topic->name), topic);
    if (kq_uthash_failed)
        return -ENOMEM;
    HASH_ADD(by_id, registry->by_id, id, sizeof(topic->id), topic);
    if (kq_uthash_failed) {
        HASH_DELETE(by_name, registry->by_name, topic);
        return -ENOMEM;
    }
    size_t at = position(registry, topic->name, false);
    memmove(&registry->sorted[at + 1], &registry->sorted[at],
            (registry->count - at) * sizeof(struct kq_topic *));
    registry->sorted[at] = kq_topic_ref(topic);
    registry->count++;
    return 0;
}

static int check(const struct kq_registry *registry, const char *name)
{
    const struct kq_topic *other = find(registry, name);
    if (other)
        return other->state == KQ_REGISTRY_LIVE ? -EEXIST : -EBUSY;
    return registry->count >= registry->max_topics ? -EDQUOT : 0;
}

int kq_registry_add(struct kq_registry *registry, struct kq_topic *topic)
{
    pthread_rwlock_wrlock(&registry->lock);
    int r = check(registry, topic->name);
    topic->state = KQ_REGISTRY_CREATING;
    if (r == 0)
        r = insert(registry, topic);
    pthread_rwlock_unlock(&registry->lock);
    return r;
}

int kq_registry_check(struct kq_registry *registry, const char *name, int32_t count)
{
    pthread_rwlock_rdlock(&registry->lock);
    int r = check(registry, name);
    if (r == 0 && registry->partitions + (size_t)count > registry->max_partitions)
        r = -EDQUOT;
    pthread_rwlock_unlock(&registry->lock);
    return r;
}

void kq_registry_set_state(struct kq_registry *registry, struct kq_topic *topic,
                           enum kq_registry_state state)
{
    pthread_rwlock_wrlock(&registry->lock);
    topic->state = state;
    pthread_rwlock_unlock(&registry->lock);
}

void kq_registry_remove(struct kq_registry *registry, struct kq_topic *topic)
{
    pthread_rwlock_wrlock(&registry->lock);
    size_t at = position(registry, topic->name, false);
    HASH_DELETE(by_name, registry->by_name, topic);
    HASH_DELETE(by_id, registry->by_id, topic);
    registry->count--;
    memmove(&registry->sorted[at], &registry->sorted[at + 1],
            (registry->count - at) * sizeof(struct kq_topic *));
    pthread_rwlock_unlock(&registry->lock);
    kq_topic_unref(topic);
}

bool kq_registry_taken(struct kq_registry *registry, const char *name)
{
    pthread_rwlock_rdlock(&registry->lock);
    bool taken = find(registry, name) != NULL;
    pthread_rwlock_unlock(&registry->lock);
    return taken;
}

int kq_registry_count_partitions(struct kq_registry *registry, long count)
{
    int r = 0;
    pthread_rwlock_wrlock(&registry->lock);
    if (count > 0 && (size_t)count > registry->max_partitions - registry->partitions)
        r = -EDQUOT;
    else
        registry->partitions += (size_t)count;
    pthread_rwlock_unlock(&registry->lock);
    return r;
}

static int take(struct kq_topic *topic, struct kq_topic **ret)
{
    if (!topic || topic->state != KQ_REGISTRY_LIVE)
        return -ENOENT;
    *ret = kq_topic_ref(topic);
    return 0;
}

int kq_registry_get(struct kq_registry *registry, const char *name, struct kq_topic **ret)
{
    pthread_rwlock_rdlock(&registry->lock);
    int r = take(find(registry, name), ret);
    pthread_rwlock_unlock(&registry->lock);
    return r;
}

int kq_registry_find(struct kq_registry *registry, const uint8_t *id, struct kq_topic **ret)
{
    struct kq_topic *topic;
    pthread_rwlock_rdlock(&registry->lock);
    HASH_FIND(by_id, registry->by_id, id, KQ_UUID_BYTES, topic);
    int r = take(topic, ret);
    pthread_rwlock_unlock(&registry->lock);
    return r;
}

int kq_registry_next(struct kq_registry *registry, const char *after, struct kq_topic **ret)
{
    int r = KQ_END;
    pthread_rwlock_rdlock(&registry->lock);
    for (size_t at = position(registry, after, true); at < registry->count && r == KQ_END; at++) {
        if (registry->sorted[at]->state == KQ_REGISTRY_LIVE) {
            *ret = kq_topic_ref(registry->sorted[at]);
            r = 0;
        }
    }
    pthread_rwlock_unlock(&registry->lock);
    return r;
}
