#include "broker/producer.h"

#include <string.h>

#define NO_EPOCH (-1) /* of an entry that is reserved only */

/* --- Finding, adding, forgetting --- */

void kq_producers_init(struct kq_producers *producers, size_t max, int64_t forgotten)
{
    *producers = (struct kq_producers){.max = max, .forgotten = forgotten};
    TAILQ_INIT(&producers->used);
    TAILQ_INIT(&producers->open);
}

static void remove_entry(struct kq_producers *producers, struct kq_producer_entry *entry)
{
    HASH_DEL(producers->by_id, entry);
    TAILQ_REMOVE(&producers->used, entry, by_use);
    if (entry->transaction >= 0)
        TAILQ_REMOVE(&producers->open, entry, by_start);
    producers->count--;
    free(entry);
}

void kq_producers_clear(struct kq_producers *producers, int64_t forgotten)
{
    struct kq_producer_entry *entry;
    while ((entry = TAILQ_FIRST(&producers->used)))
        remove_entry(producers, entry);
    producers->forgotten = forgotten;
}

struct kq_producer_entry *kq_producers_find(const struct kq_producers *producers, int64_t id)
{
    struct kq_producer_entry *entry;
    HASH_FIND(hh, producers->by_id, &id, sizeof(id), entry);
    return entry;
}

static void forget(struct kq_producers *producers, struct kq_producer_entry *entry)
{
    producers->forgotten = kq_max64(producers->forgotten, entry->id);
    remove_entry(producers, entry);
}

static void make_room(struct kq_producers *producers)
{
    struct kq_producer_entry *entry = TAILQ_FIRST(&producers->used), *next;
    for (; entry && producers->count >= producers->max; entry = next) {
        next = TAILQ_NEXT(entry, by_use);
        if (entry->transaction < 0)
            forget(producers, entry);
    }
}

static int add_entry(struct kq_producers *producers, int64_t id, struct kq_producer_entry **ret)
{
    struct kq_producer_entry *entry = kq_zalloc(sizeof(*entry));
    if (!entry)
        return -ENOMEM;
    *entry = (struct kq_producer_entry){
        .id = id, .timestamp = -1, .transaction = -1, .coordinator_epoch = -1, .epoch = NO_EPOCH};
    kq_uthash_failed = false;
    HASH_ADD(hh, producers->by_id, id, sizeof(entry->id), entry);
    if (kq_uthash_failed) {
        free(entry);
        return -ENOMEM;
    }
    TAILQ_INSERT_TAIL(&producers->used, entry, by_use);
    producers->count++;
    *ret = entry;
    return 0;
}

static int find_or_add(struct kq_producers *producers, int64_t id, struct kq_producer_entry **ret)
{
    *ret = kq_producers_find(producers, id);
    if (*ret)
        return 0;
    make_room(producers);
    return add_entry(producers, id, ret);
}

int kq_producers_reserve(struct kq_producers *producers, int64_t id)
{
    struct kq_producer_entry *entry;
    return find_or_add(producers, id, &entry);
}

void kq_producers_unreserve(struct kq_producers *producers, int64_t id)
{
    struct kq_producer_entry *entry = kq_producers_find(producers, id);
    if (entry && entry->epoch == NO_EPOCH)
        remove_entry(producers, entry);
}

size_t kq_producers_expire(struct kq_producers *producers, int64_t before_ms,
                           int64_t *ret_oldest_ms)
{
    struct kq_producer_entry *entry = TAILQ_FIRST(&producers->used), *next;
    size_t before = producers->count;
    for (; entry && entry->seen_ms < before_ms; entry = next) {
        next = TAILQ_NEXT(entry, by_use);
        if (entry->transaction < 0)
            forget(producers, entry);
    }
    *ret_oldest_ms = entry ? entry->seen_ms : INT64_MAX;
    return before - producers->count;
}

int64_t kq_producer_last_offset(const struct kq_producer_entry *entry)
{
    return entry->batch_count ? entry->batches[entry->batch_count - 1].last_offset
                              : entry->transaction;
}

bool kq_producers_drop_open(struct kq_producers *producers, int64_t start)
{
    struct kq_producer_entry *entry = TAILQ_FIRST(&producers->open), *next;
    bool dropped = false;
    for (; entry && entry->transaction < start; entry = next) {
        next = TAILQ_NEXT(entry, by_start);
        if (kq_producer_last_offset(entry) >= start)
            continue;
        TAILQ_REMOVE(&producers->open, entry, by_start);
        entry->transaction = -1;
        dropped = true;
    }
    return dropped;
}

int64_t kq_producers_unstable(const struct kq_producers *producers)
{
    const struct kq_producer_entry *first = TAILQ_FIRST(&producers->open);
    return first ? first->transaction : INT64_MAX;
}

/* --- Checking --- */

static int32_t last_sequence(const struct kq_batch_header *header)
{
    return kq_sequence_add(header->base_sequence, header->last_offset_delta);
}

static const struct kq_producer_batch *find_batch(const struct kq_producer_entry *entry,
                                                  const struct kq_batch_header *header)
{
    for (int i = entry->batch_count - 1; i >= 0; i--) {
        const struct kq_producer_batch *batch = &entry->batches[i];
        if (batch->last_sequence == last_sequence(header) &&
            batch->offset_delta == header->last_offset_delta)
            return batch;
    }
    return NULL;
}

static int32_t next_sequence(const struct kq_producer_entry *entry)
{
    return entry->batch_count
               ? kq_sequence_add(entry->batches[entry->batch_count - 1].last_sequence, 1)
               : 0;
}

int kq_producers_check(const struct kq_producers *producers, const struct kq_batch_header *header,
                       struct kq_producer_batch *ret)
{
    const struct kq_producer_entry *entry = kq_producers_find(producers, header->producer_id);
    bool first = header->base_sequence == 0;
    if (!entry || entry->epoch == NO_EPOCH)
        return first || header->producer_id <= producers->forgotten ? 0 : KQ_OUT_OF_ORDER_SEQUENCE;
    if (header->producer_epoch < entry->epoch)
        return KQ_FENCED_PRODUCER;
    if (header->producer_epoch == entry->epoch) {
        const struct kq_producer_batch *batch = find_batch(entry, header);
        if (batch) {
            *ret = *batch;
            return KQ_READY;
        }
        first = header->base_sequence == next_sequence(entry);
    }
    if (!first)
        return KQ_OUT_OF_ORDER_SEQUENCE;
    bool transactional = header->attributes & KQ_ATTRIBUTE_TRANSACTIONAL;
    return entry->transaction >= 0 && !transactional ? KQ_TRANSACTIONAL : 0;
}

/* --- Noting --- */

static void use(struct kq_producers *producers, struct kq_producer_entry *entry,
                const struct kq_batch_header *header, int64_t now_ms)
{
    if (entry->epoch != header->producer_epoch) {
        entry->epoch = header->producer_epoch;
        entry->batch_count = 0;
    }
    entry->seen_ms = now_ms;
    entry->timestamp = header->max_timestamp;
    TAILQ_REMOVE(&producers->used, entry, by_use);
    TAILQ_INSERT_TAIL(&producers->used, entry, by_use);
}

int kq_producers_note(struct kq_producers *producers, const struct kq_batch_header *header,
                      int64_t now_ms)
{
    struct kq_producer_entry *entry;
    int r = find_or_add(producers, header->producer_id, &entry);
    if (r < 0)
        return r;
    use(producers, entry, header, now_ms);
    if (entry->batch_count == KQ_PRODUCER_BATCHES)
        memmove(entry->batches, entry->batches + 1,
                --entry->batch_count * sizeof(entry->batches[0]));
    entry->batches[entry->batch_count++] = (struct kq_producer_batch){
        .last_offset = kq_batch_next_offset(header) - 1,
        .timestamp = header->max_timestamp,
        .last_sequence = last_sequence(header),
        .offset_delta = header->last_offset_delta,
    };
    if ((header->attributes & KQ_ATTRIBUTE_TRANSACTIONAL) && entry->transaction < 0) {
        entry->transaction = header->base_offset;
        TAILQ_INSERT_TAIL(&producers->open, entry, by_start);
    }
    return 0;
}

int kq_producers_note_end(struct kq_producers *producers, const struct kq_batch_header *header,
                          int32_t coordinator_epoch, int64_t now_ms, struct kq_producer_end *ret)
{
    struct kq_producer_entry *entry;
    int r = find_or_add(producers, header->producer_id, &entry);
    if (r < 0)
        return r;
    use(producers, entry, header, now_ms);
    entry->coordinator_epoch = coordinator_epoch;
    ret->first_offset = entry->transaction;
    if (entry->transaction >= 0) {
        TAILQ_REMOVE(&producers->open, entry, by_start);
        entry->transaction = -1;
    }
    ret->last_stable = kq_min64(kq_producers_unstable(producers), kq_batch_next_offset(header));
    return 0;
}
