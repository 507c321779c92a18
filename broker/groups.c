/* The coordinator as a whole: opening and closing it, the shards, the tables of groups. */
#include "broker/group.h"

#include <stdio.h>

#include "broker/base/clock.h"
#include "broker/base/diag.h"
#include "broker/base/mem.h"

#define MAX_THREADS 4
#define LARGEST_NUMBER ((INT64_C(1) << 38) - 1)
#define ROOT_MODE 01777 /* of .kqfs/groups, until somebody changes it */

static const struct kq_caller broker_itself = {.kernel_checked = true};

void kq_group_options_defaults(struct kq_group_options *ret)
{
    *ret = (struct kq_group_options){
        .min_session_timeout_ms = 6000,
        .max_session_timeout_ms = 1800000,
        .initial_rebalance_delay_ms = 3000,
        .max_members = 10000,
        .max_groups = 100000,
        .max_protocols = 64,
        .max_metadata_bytes = 1 << 20,
        .offset_metadata_max_bytes = 4096,
        .offsets_partitions = 50,
        .offsets_segment_bytes = 100 << 20,
        .offsets_retention_ms = INT64_C(7) * 24 * 3600 * 1000,
        .offsets_check_ms = 600000,
        .max_lag_metrics = 10000,
    };
}

const char *kq_group_state_name(enum kq_group_state state)
{
    static const char *const names[] = {"Empty", "PreparingRebalance", "CompletingRebalance",
                                        "Stable", "Dead"};
    return names[state];
}

/* --- Groups --- */

struct kq_group *kq_group_ref(struct kq_group *group)
{
    atomic_fetch_add_explicit(&group->references, 1, memory_order_relaxed);
    return group;
}

static void free_group(struct kq_group *group)
{
    kq_group_clear_members(group);
    kq_group_topics_free(group);
    kq_attributes_release(&group->attributes);
    free((char *)group->protocol_type.data);
    free((char *)group->protocol.data);
    free(group->subscribed);
    pthread_mutex_destroy(&group->lock);
    free(group);
}

void kq_group_unref(struct kq_group *group)
{
    if (group && atomic_fetch_sub_explicit(&group->references, 1, memory_order_acq_rel) == 1)
        free_group(group);
}

static int new_group(struct kq_group_shard *shard, struct kq_str name,
                     const struct kq_attributes *attributes, struct kq_group **ret)
{
    struct kq_group *group = kq_zalloc(sizeof(*group) + (size_t)name.length + 1);
    int r = group ? kq_attributes_copy(attributes, &group->attributes) : -ENOMEM;
    if (r < 0) {
        free(group);
        return r;
    }
    memcpy(group->name, name.data, (size_t)name.length);
    group->length = name.length;
    group->groups = shard->groups;
    group->shard = shard;
    group->state = KQ_GROUP_EMPTY;
    group->previous = KQ_GROUP_DEAD;
    group->state_ms = kq_clock_wall_ms();
    group->unsaved = true;
    group->assignment = 1;
    group->protocol_type = group->protocol = KQ_STR_NULL;
    atomic_init(&group->changed_ms, group->state_ms);
    atomic_init(&group->references, 1);
    pthread_mutex_init(&group->lock, NULL);
    kq_alarm_init(&group->join_alarm, group, NULL, kq_group_join_due);
    kq_alarm_init(&group->sync_alarm, group, NULL, kq_group_sync_due);
    *ret = group;
    return 0;
}

struct kq_str kq_group_name(const struct kq_group *group)
{
    return (struct kq_str){group->name, group->length};
}

int64_t kq_group_number(const struct kq_group *group)
{
    return group->number;
}

int64_t kq_group_changed_ms(struct kq_group *group)
{
    return atomic_load_explicit(&group->changed_ms, memory_order_relaxed);
}

bool kq_group_deleted(struct kq_group *group)
{
    return atomic_load(&group->dead);
}

static void tell(struct kq_group_wait *wait)
{
    for (struct kq_group_wait *next; wait; wait = next) {
        next = wait->next;
        wait->done(wait);
    }
}

bool kq_group_unlock_but(struct kq_group *group, struct kq_group_wait *own)
{
    struct kq_group_wait *answered = group->answered, **at = &answered;
    struct kq_group_shard *shard = group->queued ? group->shard : NULL;
    group->answered = NULL;
    group->queued = false;
    pthread_mutex_unlock(&group->lock);
    if (shard)
        kq_group_shard_kick(shard);
    while (*at && *at != own)
        at = &(*at)->next;
    bool found = *at;
    if (found)
        *at = own->next;
    tell(answered);
    return found;
}

void kq_group_unlock(struct kq_group *group)
{
    kq_group_unlock_but(group, NULL);
}

/* --- Names in order, and numbers --- */

static int compare(struct kq_str a, struct kq_str b)
{
    int32_t common = a.length < b.length ? a.length : b.length;
    int order = common > 0 ? memcmp(a.data, b.data, (size_t)common) : 0;
    return order ? order : (a.length > b.length) - (a.length < b.length);
}

/* With the lock held: the place of the first name > AFTER; a null is before all. */
static size_t place_behind(const struct kq_groups *groups, struct kq_str after)
{
    size_t low = 0, high = groups->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (compare(kq_group_name(groups->sorted[middle]), after) > 0)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static int make_room(struct kq_groups *groups)
{
    if (groups->count >= (size_t)groups->options.max_groups)
        return KQ_GROUP_TOO_LARGE;
    if (groups->count < groups->capacity)
        return 0;
    size_t capacity = groups->capacity ? groups->capacity * 2 : 64;
    struct kq_group **sorted = kq_realloc(groups->sorted, capacity * sizeof(struct kq_group *));
    if (!sorted)
        return -ENOMEM;
    groups->sorted = sorted;
    groups->capacity = capacity;
    return 0;
}

/* With the lock held. The same after every start, but for the rare two names that share a hash:
 * it goes into st_ino. */
static int64_t choose_number(const struct kq_groups *groups, struct kq_str name)
{
    const struct kq_group *other;
    uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
    for (int32_t i = 0; i < name.length; i++)
        hash = (hash ^ (uint8_t)name.data[i]) * UINT64_C(0x100000001b3);
    int64_t number = (int64_t)(hash % LARGEST_NUMBER);
    do {
        number = number % LARGEST_NUMBER + 1;
        HASH_FIND(by_number, groups->by_number, &number, sizeof(number), other);
    } while (other);
    return number;
}

static int register_group(struct kq_groups *groups, struct kq_group *group)
{
    pthread_rwlock_wrlock(&groups->names_lock);
    int r = make_room(groups);
    if (r == 0) {
        group->number = choose_number(groups, kq_group_name(group));
        kq_uthash_failed = false;
        HASH_ADD(by_number, groups->by_number, number, sizeof(group->number), group);
        r = kq_uthash_failed ? -ENOMEM : 0;
    }
    if (r == 0) {
        size_t at = place_behind(groups, kq_group_name(group));
        memmove(groups->sorted + at + 1, groups->sorted + at,
                (groups->count - at) * sizeof(struct kq_group *));
        groups->sorted[at] = group;
        groups->count++;
    }
    pthread_rwlock_unlock(&groups->names_lock);
    return r;
}

static void unregister_group(struct kq_groups *groups, struct kq_group *group)
{
    pthread_rwlock_wrlock(&groups->names_lock);
    size_t behind = place_behind(groups, kq_group_name(group));
    memmove(groups->sorted + behind - 1, groups->sorted + behind,
            (groups->count - behind) * sizeof(struct kq_group *));
    groups->count--;
    HASH_DELETE(by_number, groups->by_number, group);
    pthread_rwlock_unlock(&groups->names_lock);
}

int kq_group_next(struct kq_broker *broker, struct kq_str after, struct kq_group **ret)
{
    struct kq_groups *groups = broker->groups;
    pthread_rwlock_rdlock(&groups->names_lock);
    size_t at = place_behind(groups, after);
    struct kq_group *next = at < groups->count ? kq_group_ref(groups->sorted[at]) : NULL;
    pthread_rwlock_unlock(&groups->names_lock);
    if (!next)
        return KQ_END;
    *ret = next;
    return 0;
}

int kq_group_find(struct kq_broker *broker, int64_t number, struct kq_group **ret)
{
    struct kq_groups *groups = broker->groups;
    struct kq_group *group;
    pthread_rwlock_rdlock(&groups->names_lock);
    HASH_FIND(by_number, groups->by_number, &number, sizeof(number), group);
    if (group)
        kq_group_ref(group);
    pthread_rwlock_unlock(&groups->names_lock);
    if (!group)
        return KQ_GROUP_NOT_FOUND;
    *ret = group;
    return 0;
}

/* --- Shards --- */

int kq_groups_shard(struct kq_groups *groups, struct kq_str name, struct kq_group_shard **ret)
{
    if (!kq_groups_name_valid(name))
        return KQ_GROUP_INVALID_ID;
    if (atomic_load_explicit(&groups->stopping, memory_order_relaxed))
        return KQ_GROUP_NOT_AVAILABLE;
    struct kq_group_shard *shards = atomic_load_explicit(&groups->shards, memory_order_acquire);
    if (!shards)
        return KQ_WOULD_BLOCK;
    /* As Kafka's Utils.abs: Integer.MIN_VALUE counts as 0. */
    int32_t hash = kq_groups_hash(name);
    int32_t number = hash == INT32_MIN ? 0 : hash < 0 ? -hash : hash;
    struct kq_group_shard *shard = &shards[number % groups->shard_count];
    int state = atomic_load_explicit(&shard->state, memory_order_acquire);
    if (state != KQ_SHARD_LOADED)
        return state == KQ_SHARD_LOADING ? KQ_GROUP_LOADING : KQ_GROUP_NOT_AVAILABLE;
    *ret = shard;
    return 0;
}

/* With the shard's lock held. */
static struct kq_group *look_up(struct kq_group_shard *shard, struct kq_str name)
{
    struct kq_group *group;
    HASH_FIND(by_name, shard->table, name.data, (unsigned)name.length, group);
    return group;
}

/* Into all tables, or none. */
static int enter(struct kq_group_shard *shard, struct kq_group *group)
{
    kq_uthash_failed = false;
    HASH_ADD_KEYPTR(by_name, shard->table, group->name, (unsigned)group->length, group);
    if (kq_uthash_failed)
        return -ENOMEM;
    int r = register_group(shard->groups, group);
    if (r != 0)
        HASH_DELETE(by_name, shard->table, group);
    return r;
}

static int make(struct kq_group_shard *shard, struct kq_str name,
                const struct kq_attributes *attributes, struct kq_group **ret)
{
    struct kq_group *group;
    int r = new_group(shard, name, attributes, &group);
    if (r != 0)
        return r;
    r = enter(shard, group);
    if (r == 0)
        *ret = group;
    else
        kq_group_unref(group);
    return r;
}

int kq_groups_take(struct kq_group_shard *shard, struct kq_str name,
                   const struct kq_attributes *create, bool *ret_created, struct kq_group **ret)
{
    int r = 0;
    pthread_mutex_lock(&shard->lock);
    struct kq_group *group = look_up(shard, name);
    bool created = !group && create;
    if (created)
        r = make(shard, name, create, &group);
    if (group)
        kq_group_ref(group);
    pthread_mutex_unlock(&shard->lock);
    if (r == 0 && !group)
        r = KQ_GROUP_NOT_FOUND;
    if (r != 0)
        return r;
    if (ret_created)
        *ret_created = created;
    *ret = group;
    return 0;
}

void kq_groups_remove(struct kq_group *group)
{
    struct kq_group_shard *shard = group->shard;
    if (atomic_exchange(&group->dead, true))
        return;
    pthread_mutex_lock(&shard->lock);
    HASH_DELETE(by_name, shard->table, group);
    pthread_mutex_unlock(&shard->lock);
    unregister_group(shard->groups, group);
    kq_group_unref(group);
}

int kq_group_get(struct kq_broker *broker, const struct kq_caller *caller, struct kq_str name,
                 unsigned rights, struct kq_group **ret)
{
    struct kq_group_shard *shard;
    struct kq_group *group;
    int r = kq_groups_shard(broker->groups, name, &shard);
    if (r == KQ_WOULD_BLOCK)
        r = KQ_GROUP_NOT_FOUND;
    if (r == 0)
        r = kq_groups_take(shard, name, NULL, NULL, &group);
    if (r == KQ_GROUP_NOT_FOUND && rights != 0 &&
        kq_group_authorize(broker->groups, NULL, caller, KQ_RIGHT_DESCRIBE) < 0)
        return -EACCES;
    if (r != 0)
        return r;
    r = kq_group_authorize(broker->groups, group, caller, rights);
    if (r == 0)
        *ret = group;
    else
        kq_group_unref(group);
    return r;
}

bool kq_groups_loaded(struct kq_broker *broker)
{
    struct kq_groups *groups = broker->groups;
    pthread_mutex_lock(&groups->load_lock);
    bool loaded = groups->loading == 0 && groups->failed == 0;
    pthread_mutex_unlock(&groups->load_lock);
    return loaded;
}

int kq_groups_await_loaded(struct kq_broker *broker)
{
    struct kq_groups *groups = broker->groups;
    pthread_mutex_lock(&groups->load_lock);
    while (groups->loading > 0 && !atomic_load(&groups->stopping))
        pthread_cond_wait(&groups->loaded, &groups->load_lock);
    bool loaded = groups->loading == 0 && groups->failed == 0;
    pthread_mutex_unlock(&groups->load_lock);
    return loaded ? 0 : KQ_GROUP_NOT_AVAILABLE;
}

void kq_groups_note_load(struct kq_groups *groups, int loading, int failed)
{
    pthread_mutex_lock(&groups->load_lock);
    groups->loading += loading;
    groups->failed += failed;
    pthread_cond_broadcast(&groups->loaded);
    pthread_mutex_unlock(&groups->load_lock);
}

/* --- __consumer_offsets --- */

static void load_again(struct kq_timer *timer)
{
    struct kq_group_shard *shard =
        (struct kq_group_shard *)((char *)timer - offsetof(struct kq_group_shard, retry));
    atomic_store_explicit(&shard->state, KQ_SHARD_LOADING, memory_order_release);
    kq_groups_note_load(shard->groups, 1, -1);
    kq_pool_submit(shard->groups->loaders, &shard->load);
}

static int init_shard(struct kq_groups *groups, struct kq_topic *topic, int32_t number,
                      struct kq_group_shard *shard)
{
    struct kq_partition *partition;
    int r = kq_partition_get(topic, number, &partition);
    if (r == 0)
        r = kq_partition_access(partition, &broker_itself, KQ_RIGHT_READ | KQ_RIGHT_WRITE,
                                &shard->access);
    if (r < 0)
        return r;
    shard->groups = groups;
    shard->load.run = kq_group_shard_load;
    shard->retry.expire = load_again;
    shard->job.run = kq_group_shard_run_queue;
    shard->sync.done = kq_group_shard_synced;
    shard->queue_last = &shard->queue;
    pthread_mutex_init(&shard->lock, NULL);
    pthread_mutex_init(&shard->queue_lock, NULL);
    pthread_cond_init(&shard->idle, NULL);
    return 0;
}

static void free_shards(struct kq_group_shard *shards, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        struct kq_group_shard *shard = &shards[i];
        kq_partition_unref(shard->access.partition);
        kq_buf_release(&shard->batch);
        pthread_mutex_destroy(&shard->lock);
        pthread_mutex_destroy(&shard->queue_lock);
        pthread_cond_destroy(&shard->idle);
    }
    free(shards);
}

/* Begins to load what TOPIC holds, unless it IS_NEW. */
static int take_topic(struct kq_groups *groups, struct kq_topic *topic, bool is_new)
{
    int32_t count = kq_topic_partition_count(topic), ready = 0;
    struct kq_group_shard *shards = kq_zalloc((size_t)count * sizeof(*shards));
    int r = shards ? 0 : -ENOMEM;
    for (; r == 0 && ready < count; ready += r == 0) {
        r = init_shard(groups, topic, ready, &shards[ready]);
        atomic_init(&shards[ready].state, is_new ? KQ_SHARD_LOADED : KQ_SHARD_LOADING);
    }
    if (r < 0) {
        free_shards(shards, ready);
        return r;
    }
    groups->shard_count = count;
    kq_groups_note_load(groups, is_new ? 0 : count, 0);
    atomic_store_explicit(&groups->shards, shards, memory_order_release);
    for (int32_t i = 0; !is_new && i < count; i++)
        kq_pool_submit(groups->loaders, &shards[i].load);
    return 0;
}

static int create_topic(struct kq_groups *groups, struct kq_topic **ret)
{
    char segment_bytes[16];
    snprintf(segment_bytes, sizeof(segment_bytes), "%d", groups->options.offsets_segment_bytes);
    const struct kq_topic_setting settings[] = {{"cleanup.policy", "compact"},
                                                {"compression.type", "producer"},
                                                {"segment.bytes", segment_bytes}};
    struct kq_topic_spec spec = {
        .name = KQ_GROUPS_TOPIC,
        .partitions = groups->options.offsets_partitions,
        .topic = {.uid = geteuid(), .gid = getegid(), .mode = 0700},
        .partition = {.uid = geteuid(), .gid = getegid(), .mode = 0600},
        .settings = settings,
        .setting_count = kq_array_size(settings),
    };
    int r = kq_topic_create(groups->broker, &broker_itself, &spec, ret);
    if (r < 0)
        kq_diag_limited(60000, LOG_ERR,
                        "cannot make " KQ_GROUPS_TOPIC ": %s; until that works no group can be "
                        "joined and no offset committed",
                        strerror(-r));
    return r;
}

int kq_groups_prepare(struct kq_broker *broker, bool may_block)
{
    struct kq_groups *groups = broker->groups;
    struct kq_topic *topic;
    if (atomic_load_explicit(&groups->shards, memory_order_acquire))
        return 0;
    if (!may_block)
        return KQ_WOULD_BLOCK;
    int r = 0;
    pthread_mutex_lock(&groups->create_lock);
    if (!atomic_load_explicit(&groups->shards, memory_order_acquire)) {
        bool is_new = kq_topic_get(broker, KQ_GROUPS_TOPIC, &topic) < 0;
        r = is_new ? create_topic(groups, &topic) : 0;
        if (r == 0) {
            r = take_topic(groups, topic, is_new);
            kq_topic_unref(topic);
        }
    }
    pthread_mutex_unlock(&groups->create_lock);
    return r;
}

/* --- Opening and closing --- */

static void listen(struct kq_listener *listener, enum kq_event event, struct kq_topic *topic,
                   struct kq_partition *partition)
{
    struct kq_groups *groups =
        (struct kq_groups *)((char *)listener - offsetof(struct kq_groups, listener));
    if (event == KQ_EVENT_TOPIC_CREATED || event == KQ_EVENT_TOPIC_DELETED)
        kq_groups_sweep(groups, false, true);
}

static struct kq_groups *set_up(struct kq_broker *broker)
{
    struct kq_groups *groups = kq_zalloc(sizeof(*groups));
    if (!groups)
        return NULL;
    groups->broker = broker;
    groups->options = broker->options.groups;
    if (groups->options.max_groups == 0)
        kq_group_options_defaults(&groups->options);
    groups->root = (struct kq_attributes){.uid = geteuid(), .gid = getegid(), .mode = ROOT_MODE};
    groups->listener.event = listen;
    groups->sweep.run = kq_groups_run_sweep;
    groups->sweep_timer.expire = kq_groups_sweep_due;
    pthread_mutex_init(&groups->create_lock, NULL);
    pthread_mutex_init(&groups->load_lock, NULL);
    pthread_cond_init(&groups->loaded, NULL);
    pthread_rwlock_init(&groups->names_lock, NULL);
    pthread_mutex_init(&groups->change_lock, NULL);
    pthread_mutex_init(&groups->sweep_lock, NULL);
    pthread_cond_init(&groups->swept, NULL);
    return groups;
}

int kq_groups_open(struct kq_broker *broker)
{
    struct kq_topic *topic;
    struct kq_groups *groups = broker->groups = set_up(broker);
    if (!groups)
        return -ENOMEM;
    int r = kq_pool_new("kqfs-groups", MAX_THREADS, &groups->pool);
    if (r == 0)
        r = kq_pool_new("kqfs-load", MAX_THREADS, &groups->loaders);
    if (r == 0)
        r = kq_timers_new("kqfs-sessions", &groups->timers);
    if (r == 0 && kq_topic_get(broker, KQ_GROUPS_TOPIC, &topic) == 0) {
        r = take_topic(groups, topic, false);
        kq_topic_unref(topic);
    }
    if (r < 0)
        return r;
    kq_broker_listen(broker, &groups->listener);
    kq_timers_set(groups->timers, &groups->sweep_timer,
                  kq_clock_mono_ns() + groups->options.offsets_check_ms * 1000000);
    return 0;
}

/* Alarms that were set before this are cancelled; none is set any more. */
static void quiet(struct kq_group *group)
{
    kq_group_lock(group);
    kq_group_dismiss(group, KQ_GROUP_NOT_AVAILABLE);
    kq_group_unlock(group);
}

void kq_groups_stop(struct kq_broker *broker)
{
    struct kq_groups *groups = broker->groups;
    struct kq_group *group;
    if (!groups)
        return;
    atomic_store(&groups->stopping, true);
    kq_groups_note_load(groups, 0, 0);
    struct kq_group_shard *shards = atomic_load(&groups->shards);
    for (int32_t i = 0; shards && i < groups->shard_count; i++)
        kq_group_shard_drain(&shards[i]);
    struct kq_group *last = NULL;
    while (kq_group_next(broker, last ? kq_group_name(last) : KQ_STR_NULL, &group) == 0) {
        quiet(group);
        kq_group_unref(last);
        last = group;
    }
    kq_group_unref(last);
}

static void forget_groups(struct kq_groups *groups)
{
    while (groups->count > 0)
        kq_groups_remove(groups->sorted[groups->count - 1]);
}

void kq_groups_close(struct kq_broker *broker)
{
    struct kq_groups *groups = broker->groups;
    if (!groups)
        return;
    if (groups->listener.next || groups->timers)
        kq_broker_unlisten(broker, &groups->listener);
    kq_groups_stop(broker);
    kq_timers_free(groups->timers);
    kq_pool_free(groups->loaders);
    kq_pool_free(groups->pool);
    forget_groups(groups);
    free_shards(atomic_load(&groups->shards), groups->shard_count);
    free(groups->sorted);
    kq_attributes_release(&groups->root);
    pthread_mutex_destroy(&groups->create_lock);
    pthread_mutex_destroy(&groups->load_lock);
    pthread_cond_destroy(&groups->loaded);
    pthread_rwlock_destroy(&groups->names_lock);
    pthread_mutex_destroy(&groups->change_lock);
    pthread_mutex_destroy(&groups->sweep_lock);
    pthread_cond_destroy(&groups->swept);
    free(groups);
    broker->groups = NULL;
}
