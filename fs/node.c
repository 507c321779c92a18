/* The table of nodes: slots in chunks that never move, so that resolving a number takes no lock.
 *
 * One mutex guards the two hash tables and every change of a count from or to zero; a count that
 * stays above zero changes without it. A slot is published by its count: its fields are written
 * before the count leaves zero, and stay as they are until it is zero again. */
#include "fs/node.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "broker/base/endian.h"
#include "broker/base/mem.h"

#define ROOT_NUMBER 1
#define VIEW_SHIFT 58
#define SLOT_SHIFT 38
#define SLOT_BITS 20
#define OFFSET_MASK ((UINT64_C(1) << SLOT_SHIFT) - 1)
#define SLOT_MASK ((UINT64_C(1) << SLOT_BITS) - 1)

#define CHUNK_BITS 9
#define CHUNK_SLOTS (1u << CHUNK_BITS)
#define CHUNKS (1u << (SLOT_BITS - CHUNK_BITS))
#define FIRST_BUCKETS 256

/* One topic, or one window of a partition's offsets. */
struct slot {
    atomic_uint_least64_t lookups; /* of the kernel, on all nodes of this slot; 0: free */
    _Atomic(struct kq_topic *) topic;
    _Atomic(struct kq_fspart *) part; /* NULL: the slot of a topic */
    _Atomic int64_t window;           /* offset >> SLOT_SHIFT, and above it the layout */
    uint32_t next;                    /* in its bucket, or in the list of free ones; 0: last */
};

struct kq_nodes {
    pthread_mutex_t lock;
    uint32_t *buckets; /* of slots, by topic or partition and window */
    size_t bucket_count, slots_used;
    struct kq_fspart **part_buckets; /* by partition */
    size_t part_bucket_count, parts_used;
    uint32_t first_free, next_fresh;
    _Atomic(struct slot *) chunks[CHUNKS];
};

static_assert(KQ_VIEW_ROOT == ROOT_NUMBER, "the root's view is FUSE's number of the root");

int kq_nodes_new(struct kq_nodes **ret)
{
    struct kq_nodes *nodes = kq_zalloc(sizeof(*nodes));
    if (!nodes)
        return -ENOMEM;
    nodes->buckets = kq_zalloc(FIRST_BUCKETS * sizeof(*nodes->buckets));
    nodes->part_buckets = kq_zalloc(FIRST_BUCKETS * sizeof(struct kq_fspart *));
    nodes->bucket_count = nodes->part_bucket_count = FIRST_BUCKETS;
    nodes->next_fresh = 1; /* slot 0 belongs to what is neither topic nor partition */
    if (!nodes->buckets || !nodes->part_buckets) {
        free(nodes->part_buckets);
        free(nodes->buckets);
        free(nodes);
        return -ENOMEM;
    }
    pthread_mutex_init(&nodes->lock, NULL);
    *ret = nodes;
    return 0;
}

static struct slot *slot_at(struct kq_nodes *nodes, uint32_t index)
{
    struct slot *chunk =
        atomic_load_explicit(&nodes->chunks[index >> CHUNK_BITS], memory_order_acquire);
    return chunk ? &chunk[index & (CHUNK_SLOTS - 1)] : NULL;
}

void kq_nodes_free(struct kq_nodes *nodes)
{
    if (!nodes)
        return;
    for (uint32_t i = 1; i < nodes->next_fresh; i++) {
        struct slot *slot = slot_at(nodes, i);
        if (atomic_load(&slot->lookups) == 0)
            continue;
        struct kq_fspart *part = atomic_load(&slot->part);
        if (part)
            kq_fspart_unref(nodes, part);
        else
            kq_topic_unref(atomic_load(&slot->topic));
    }
    for (size_t i = 0; i < CHUNKS; i++)
        free(atomic_load(&nodes->chunks[i]));
    pthread_mutex_destroy(&nodes->lock);
    free(nodes->part_buckets);
    free(nodes->buckets);
    free(nodes);
}

/* --- Hashing --- */

static uint64_t mix(uint64_t x)
{
    x ^= x >> 30;
    x *= UINT64_C(0xbf58476d1ce4e5b9);
    x ^= x >> 27;
    x *= UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static size_t hash_of(const void *owner, int64_t window)
{
    return mix((uintptr_t)owner + (uint64_t)window * UINT64_C(0x9e3779b97f4a7c15));
}

/* What a slot is found by: its partition, or its topic. */
static const void *owner_of(const struct slot *slot)
{
    struct kq_fspart *part = atomic_load_explicit(&slot->part, memory_order_relaxed);
    return part ? (const void *)part->partition
                : atomic_load_explicit(&slot->topic, memory_order_relaxed);
}

static size_t bucket_of(const struct kq_nodes *nodes, const struct slot *slot)
{
    int64_t window = atomic_load_explicit(&slot->window, memory_order_relaxed);
    return hash_of(owner_of(slot), window) & (nodes->bucket_count - 1);
}

/* Where there is no memory the chains get longer, and that is all. */
static void grow_slots(struct kq_nodes *nodes)
{
    size_t count = nodes->bucket_count * 2;
    uint32_t *old = nodes->buckets;
    uint32_t *buckets = kq_zalloc(count * sizeof(*buckets));
    if (!buckets)
        return;
    size_t old_count = nodes->bucket_count;
    nodes->buckets = buckets;
    nodes->bucket_count = count;
    for (size_t i = 0; i < old_count; i++) {
        for (uint32_t index = old[i], next; index; index = next) {
            struct slot *slot = slot_at(nodes, index);
            size_t bucket = bucket_of(nodes, slot);
            next = slot->next;
            slot->next = buckets[bucket];
            buckets[bucket] = index;
        }
    }
    free(old);
}

static void grow_parts(struct kq_nodes *nodes)
{
    size_t count = nodes->part_bucket_count * 2;
    struct kq_fspart **buckets = kq_zalloc(count * sizeof(struct kq_fspart *));
    if (!buckets)
        return;
    for (size_t i = 0; i < nodes->part_bucket_count; i++) {
        for (struct kq_fspart *part = nodes->part_buckets[i], *next; part; part = next) {
            size_t bucket = hash_of(part->partition, 0) & (count - 1);
            next = part->next_in_bucket;
            part->next_in_bucket = buckets[bucket];
            buckets[bucket] = part;
        }
    }
    free(nodes->part_buckets);
    nodes->part_buckets = buckets;
    nodes->part_bucket_count = count;
}

/* --- Counts that may not leave or reach zero without the lock --- */

/* Takes COUNT back unless that would leave nothing. */
static bool sub_above_zero(atomic_uint_least64_t *counter, uint64_t count)
{
    uint64_t value = atomic_load_explicit(counter, memory_order_relaxed);
    while (value > count)
        if (atomic_compare_exchange_weak_explicit(counter, &value, value - count,
                                                  memory_order_release, memory_order_relaxed))
            return true;
    return false;
}

static bool unref_above_one(atomic_uint *references)
{
    unsigned value = atomic_load_explicit(references, memory_order_relaxed);
    while (value > 1)
        if (atomic_compare_exchange_weak_explicit(references, &value, value - 1,
                                                  memory_order_release, memory_order_relaxed))
            return true;
    return false;
}

/* --- Partitions that somebody looks at --- */

/* With the lock held. */
static struct kq_fspart **find_part(struct kq_nodes *nodes, const struct kq_partition *partition)
{
    size_t bucket = hash_of(partition, 0) & (nodes->part_bucket_count - 1);
    struct kq_fspart **at = &nodes->part_buckets[bucket];
    while (*at && (*at)->partition != partition)
        at = &(*at)->next_in_bucket;
    return at;
}

/* With the lock held. */
static int get_part(struct kq_nodes *nodes, struct kq_partition *partition, struct kq_fspart **ret)
{
    struct kq_fspart *part = *find_part(nodes, partition);
    if (part) {
        atomic_fetch_add_explicit(&part->references, 1, memory_order_relaxed);
        *ret = part;
        return 0;
    }
    part = kq_zalloc(sizeof(*part));
    if (!part)
        return -ENOMEM;
    if (nodes->parts_used >= nodes->part_bucket_count)
        grow_parts(nodes);
    part->partition = kq_partition_ref(partition);
    atomic_init(&part->references, 1);
    struct kq_fspart **end = find_part(nodes, partition);
    part->next_in_bucket = NULL;
    *end = part;
    nodes->parts_used++;
    *ret = part;
    return 0;
}

int kq_fspart_get(struct kq_nodes *nodes, struct kq_partition *partition, struct kq_fspart **ret)
{
    pthread_mutex_lock(&nodes->lock);
    int r = get_part(nodes, partition, ret);
    pthread_mutex_unlock(&nodes->lock);
    return r;
}

struct kq_fspart *kq_fspart_find(struct kq_nodes *nodes, struct kq_partition *partition)
{
    pthread_mutex_lock(&nodes->lock);
    struct kq_fspart *part = *find_part(nodes, partition);
    if (part)
        kq_fspart_ref(part);
    pthread_mutex_unlock(&nodes->lock);
    return part;
}

struct kq_fspart *kq_fspart_ref(struct kq_fspart *part)
{
    atomic_fetch_add_explicit(&part->references, 1, memory_order_relaxed);
    return part;
}

void kq_fspart_unref(struct kq_nodes *nodes, struct kq_fspart *part)
{
    if (!part || unref_above_one(&part->references))
        return;
    pthread_mutex_lock(&nodes->lock);
    bool last = atomic_fetch_sub_explicit(&part->references, 1, memory_order_acq_rel) == 1;
    if (last) {
        *find_part(nodes, part->partition) = part->next_in_bucket;
        nodes->parts_used--;
    }
    pthread_mutex_unlock(&nodes->lock);
    if (last) {
        kq_partition_unref(part->partition);
        free(part);
    }
}

/* --- Slots --- */

/* With the lock held: the slot of the topic or partition OWNER, 0 where there is none. */
static uint32_t find_slot(struct kq_nodes *nodes, const void *owner, int64_t window)
{
    uint32_t index = nodes->buckets[hash_of(owner, window) & (nodes->bucket_count - 1)];
    while (index) {
        struct slot *slot = slot_at(nodes, index);
        if (owner_of(slot) == owner &&
            atomic_load_explicit(&slot->window, memory_order_relaxed) == window)
            break;
        index = slot->next;
    }
    return index;
}

/* With the lock held: a slot nobody uses. */
static int take_free_slot(struct kq_nodes *nodes, uint32_t *ret)
{
    uint32_t index = nodes->first_free;
    if (index) {
        nodes->first_free = slot_at(nodes, index)->next;
        *ret = index;
        return 0;
    }
    index = nodes->next_fresh;
    if (index > SLOT_MASK)
        return -ENFILE;
    if (!slot_at(nodes, index)) {
        struct slot *chunk = kq_zalloc(CHUNK_SLOTS * sizeof(*chunk));
        if (!chunk)
            return -ENOMEM;
        atomic_store_explicit(&nodes->chunks[index >> CHUNK_BITS], chunk, memory_order_release);
    }
    nodes->next_fresh++;
    *ret = index;
    return 0;
}

/* With the lock held: makes the slot, counted once. */
static int make_slot(struct kq_nodes *nodes, struct kq_topic *topic, struct kq_partition *partition,
                     int64_t window, uint32_t *ret)
{
    struct kq_fspart *part = NULL;
    uint32_t index;
    int r = take_free_slot(nodes, &index);
    if (r < 0)
        return r;
    struct slot *slot = slot_at(nodes, index);
    if (partition && (r = get_part(nodes, partition, &part)) < 0) {
        slot->next = nodes->first_free;
        nodes->first_free = index;
        return r;
    }
    if (nodes->slots_used >= nodes->bucket_count)
        grow_slots(nodes);
    atomic_store_explicit(&slot->topic, part ? topic : kq_topic_ref(topic), memory_order_relaxed);
    atomic_store_explicit(&slot->part, part, memory_order_relaxed);
    atomic_store_explicit(&slot->window, window, memory_order_relaxed);
    size_t bucket = bucket_of(nodes, slot);
    slot->next = nodes->buckets[bucket];
    nodes->buckets[bucket] = index;
    nodes->slots_used++;
    atomic_store_explicit(&slot->lookups, 1, memory_order_release);
    *ret = index;
    return 0;
}

/* With the lock held. */
static void remove_slot(struct kq_nodes *nodes, uint32_t index)
{
    struct slot *slot = slot_at(nodes, index);
    uint32_t *at = &nodes->buckets[bucket_of(nodes, slot)];
    while (*at != index)
        at = &slot_at(nodes, *at)->next;
    *at = slot->next;
    slot->next = nodes->first_free;
    nodes->first_free = index;
    nodes->slots_used--;
}

static uint64_t number_of(enum kq_view view, uint32_t slot, int64_t offset)
{
    return (uint64_t)view << VIEW_SHIFT | (uint64_t)slot << SLOT_SHIFT |
           ((uint64_t)offset & OFFSET_MASK);
}

#define WINDOW_BITS (63 - SLOT_SHIFT)

/* The partition's window of OFFSET, in LAYOUT; a topic has only one. */
static int64_t window_of(const struct kq_partition *partition, int64_t offset, uint64_t layout)
{
    return partition ? offset >> SLOT_SHIFT | (int64_t)(layout << WINDOW_BITS) : 0;
}

int kq_node_remember(struct kq_nodes *nodes, enum kq_view view, struct kq_topic *topic,
                     struct kq_partition *partition, int64_t offset, uint64_t layout,
                     uint64_t *ret_number)
{
    if (!topic) {
        *ret_number = view == KQ_VIEW_ROOT ? ROOT_NUMBER : number_of(view, 0, offset);
        return 0;
    }
    const void *owner = partition ? (const void *)partition : topic;
    int64_t window = window_of(partition, offset, layout);
    int r = 0;
    pthread_mutex_lock(&nodes->lock);
    uint32_t index = find_slot(nodes, owner, window);
    if (index)
        atomic_fetch_add_explicit(&slot_at(nodes, index)->lookups, 1, memory_order_relaxed);
    else
        r = make_slot(nodes, topic, partition, window, &index);
    pthread_mutex_unlock(&nodes->lock);
    if (r == 0)
        *ret_number = number_of(view, index, offset);
    return r;
}

uint64_t kq_node_find(struct kq_nodes *nodes, enum kq_view view, struct kq_topic *topic,
                      struct kq_partition *partition, int64_t offset)
{
    if (!topic)
        return view == KQ_VIEW_ROOT ? ROOT_NUMBER : number_of(view, 0, offset);
    const void *owner = partition ? (const void *)partition : topic;
    pthread_mutex_lock(&nodes->lock);
    uint32_t index = find_slot(nodes, owner, window_of(partition, offset, 0));
    pthread_mutex_unlock(&nodes->lock);
    return index ? number_of(view, index, offset) : 0;
}

int kq_node_resolve(struct kq_nodes *nodes, uint64_t number, struct kq_node *ret)
{
    enum kq_view view = (enum kq_view)(number >> VIEW_SHIFT);
    uint32_t index = number >> SLOT_SHIFT & SLOT_MASK;
    if (number == ROOT_NUMBER)
        view = KQ_VIEW_ROOT;
    if (kq_unlikely(view == KQ_VIEW_NONE || view >= KQ_VIEW_COUNT))
        return -ESTALE;
    const struct kq_view_row *row = kq_view_row(view);
    struct kq_node node = {
        .view = view,
        .offset = row->of_groups || row->of_users ? (int64_t)(number & OFFSET_MASK) : 0};
    if (row->per_topic) {
        struct slot *slot = slot_at(nodes, index);
        if (!index || !slot || !atomic_load_explicit(&slot->lookups, memory_order_acquire))
            return -ESTALE;
        node.topic = atomic_load_explicit(&slot->topic, memory_order_relaxed);
        node.part = atomic_load_explicit(&slot->part, memory_order_relaxed);
        uint64_t window = (uint64_t)atomic_load_explicit(&slot->window, memory_order_relaxed);
        node.layout = window >> WINDOW_BITS;
        node.offset = (int64_t)((window & ((UINT64_C(1) << WINDOW_BITS) - 1)) << SLOT_SHIFT |
                                (number & OFFSET_MASK));
        if (row->per_partition != !!node.part)
            return -ESTALE;
    }
    *ret = node;
    return 0;
}

void kq_node_forget(struct kq_nodes *nodes, uint64_t number, uint64_t count)
{
    uint32_t index = number >> SLOT_SHIFT & SLOT_MASK;
    struct slot *slot = slot_at(nodes, index);
    if (number == ROOT_NUMBER || !index || !slot || sub_above_zero(&slot->lookups, count))
        return;
    struct kq_topic *topic = NULL;
    struct kq_fspart *part = NULL;
    pthread_mutex_lock(&nodes->lock);
    uint64_t lookups = atomic_load_explicit(&slot->lookups, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&slot->lookups, &lookups,
                                                  lookups > count ? lookups - count : 0,
                                                  memory_order_acq_rel, memory_order_relaxed))
        ;
    if (lookups > 0 && lookups <= count) {
        part = atomic_load_explicit(&slot->part, memory_order_relaxed);
        topic = part ? NULL : atomic_load_explicit(&slot->topic, memory_order_relaxed);
        remove_slot(nodes, index);
    }
    pthread_mutex_unlock(&nodes->lock);
    kq_topic_unref(topic);
    kq_fspart_unref(nodes, part);
}

/* --- st_ino --- */

/* Is each offset a file of its own? */
static bool offset_counts(enum kq_view view)
{
    switch (view) {
    case KQ_VIEW_TIME_LINK:
    case KQ_VIEW_SEGMENT_LINK:
    case KQ_VIEW_OFFSET_TEXT:
    case KQ_VIEW_OFFSET_STREAM:
    case KQ_VIEW_OFFSET_JSONL:
    case KQ_VIEW_OFFSET_JSONL_STREAM:
    case KQ_VIEW_OFFSET_VALUE:
    case KQ_VIEW_SEGMENT:
        return true;
    default:
        return kq_view_row(view)->of_groups || kq_view_row(view)->of_users;
    }
}

uint64_t kq_inode(enum kq_view view, const struct kq_topic *topic, int32_t partition,
                  int64_t offset)
{
    if (view == KQ_VIEW_ROOT)
        return ROOT_NUMBER;
    uint64_t hash = mix(view);
    if (topic) {
        const uint8_t *id = kq_topic_id(topic);
        hash = mix(hash ^ kq_load_le64(id));
        hash = mix(hash ^ kq_load_le64(id + 8));
        hash = mix(hash ^ (uint32_t)partition);
    }
    if (offset_counts(view))
        hash = mix(hash ^ (uint64_t)offset);
    return hash > ROOT_NUMBER ? hash : hash + 2;
}

uint64_t kq_node_inode(const struct kq_node *node)
{
    int32_t partition = node->part ? kq_partition_number(node->part->partition) : -1;
    return kq_inode(node->view, node->topic, partition, node->offset);
}
