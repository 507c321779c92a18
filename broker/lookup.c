/* Looking things up in a segment, and what to do where an index or a batch is damaged. */
#include <string.h>

#include "broker/base/diag.h"
#include "broker/base/endian.h"
#include "broker/base/io.h"
#include "broker/base/mem.h"
#include "broker/segment.h"

/* More bytes than this between an index entry and what was looked for: entries are missing. */
#define FAR_BYTES (4 * 1024 * 1024)

struct lookup {
    struct kq_segment *segment;
    pthread_mutex_t *lock;
    int fd;
    int64_t size, next_offset; /* as published */
    bool may_block;
    bool damaged; /* an index entry does not fit the log */
};

static bool is_damage(int error)
{
    return error == -EBADMSG || error == KQ_PARTIAL;
}

static void begin_walk(struct kq_walk *walk, const struct lookup *lookup, int64_t position)
{
    kq_walk_begin(walk, lookup->fd, lookup->segment->base, position, lookup->size, KQ_WALK_NEAR,
                  lookup->may_block);
    walk->most = kq_min64(walk->most, lookup->next_offset - 1);
}

/* Does ENTRY of the offset index point at the batch that ends with its offset? 0, or why not. */
static int verify_entry(const struct lookup *lookup, const uint8_t *entry)
{
    struct kq_batch_header header;
    struct kq_walk walk;
    begin_walk(&walk, lookup, kq_index_position_key(entry));
    int r = kq_walk_header(&walk, &header);
    kq_walk_end(&walk);
    if (r == 0 &&
        kq_batch_next_offset(&header) - 1 != lookup->segment->base + kq_index_offset_key(entry))
        r = -EBADMSG;
    return r == KQ_END || r == KQ_PARTIAL ? -EBADMSG : r;
}

/* Where to begin to look for OFFSET: at an entry that was verified, or at the start. RET_NUMBER: of
 * the first entry behind it. 0; KQ_WOULD_BLOCK; -errno. */
static int start_position(struct lookup *lookup, int64_t offset, int64_t *ret_position,
                          uint32_t *ret_number)
{
    uint8_t entry[KQ_INDEX_ENTRY_MAX];
    uint32_t number;
    *ret_position = 0;
    *ret_number = 0;
    int r = kq_index_search(&lookup->segment->offsets, lookup->lock, kq_index_offset_key,
                            offset - lookup->segment->base, lookup->may_block, entry, &number);
    if (r == KQ_END)
        return 0;
    if (r == 0)
        r = verify_entry(lookup, entry);
    if (r == 0) {
        *ret_position = kq_index_position_key(entry);
        *ret_number = number + 1;
        return 0;
    }
    if (r == -EBADMSG || r == -ENOENT || r == -EINVAL) {
        lookup->damaged = true;
        return 0;
    }
    return r;
}

/* The chain of batches is broken somewhere before OFFSET: goes on at the next index entry. */
static int start_behind_damage(struct lookup *lookup, int64_t offset, uint32_t number,
                               struct kq_walk *walk)
{
    uint8_t entry[KQ_INDEX_ENTRY_MAX];
    struct kq_batch_header header;
    if (number >= kq_index_count(&lookup->segment->offsets))
        return -EBADMSG;
    int r = kq_index_get(&lookup->segment->offsets, lookup->lock, number, lookup->may_block, entry);
    if (r == 0)
        r = verify_entry(lookup, entry);
    if (r != 0)
        return r;
    walk->position = kq_index_position_key(entry);
    r = kq_walk_header(walk, &header);
    return r == 0 && header.base_offset > offset ? -EBADMSG : r;
}

/* OFFSET is in none of the batches that were passed, the last of which is BEFORE at POSITION: that
 * a header says so is not enough, or messages would be missing as if they had never been. */
static int verify_gap(struct lookup *lookup, struct kq_walk *walk, int64_t position,
                      const struct kq_batch_header *before)
{
    const uint8_t *bytes;
    int64_t here = walk->position;
    walk->position = position;
    int r = kq_walk_bytes(walk, before, &bytes);
    if (r == 0)
        r = kq_verified_check(lookup->segment->file->verified, position, before, bytes);
    walk->position = here;
    return r;
}

static int walk_to(struct lookup *lookup, struct kq_walk *walk, int64_t offset,
                   struct kq_batch_header *ret)
{
    int64_t from = walk->position, passed = -1;
    struct kq_batch_header before;
    int r;
    while ((r = kq_walk_header(walk, ret)) == 0 && kq_batch_next_offset(ret) <= offset) {
        passed = walk->position;
        before = *ret;
        kq_walk_step(walk, ret);
        if (walk->position - from > FAR_BYTES + (int64_t)ret->size) {
            lookup->damaged = true;
            if (!lookup->may_block)
                return KQ_WOULD_BLOCK;
        }
    }
    if (r == 0 && ret->base_offset > offset && passed >= 0)
        r = verify_gap(lookup, walk, passed, &before);
    return r;
}

static int find_in_file(struct lookup *lookup, int64_t offset, struct kq_found *ret)
{
    struct kq_batch_header header;
    struct kq_walk walk;
    int64_t position;
    uint32_t number;
    int r = start_position(lookup, offset, &position, &number);
    if (r != 0)
        return r;
    begin_walk(&walk, lookup, position);
    r = walk_to(lookup, &walk, offset, &header);
    if (is_damage(r)) {
        r = start_behind_damage(lookup, offset, number, &walk);
        if (r == 0)
            r = walk_to(lookup, &walk, offset, &header);
    }
    if (r == 0)
        *ret = (struct kq_found){
            .position = walk.position,
            .base_offset = header.base_offset,
            .next_offset = kq_batch_next_offset(&header),
            .size = header.size,
        };
    kq_walk_end(&walk);
    return r == KQ_PARTIAL ? -EBADMSG : r;
}

static int find_and_repair(struct lookup *lookup, int64_t offset, struct kq_found *ret)
{
    int r = find_in_file(lookup, offset, ret);
    if (!lookup->damaged || !lookup->segment->sealed || lookup->segment->rebuilt)
        return r;
    if (!lookup->may_block)
        return KQ_WOULD_BLOCK;
    if (kq_segment_rebuild(lookup->segment, lookup->lock) == 0)
        r = find_in_file(lookup, offset, ret);
    return r;
}

int kq_segment_find(struct kq_segment *segment, pthread_mutex_t *lock, int64_t offset,
                    bool may_block, struct kq_found *ret)
{
    struct kq_published state;
    kq_segment_published(segment, &state);
    if (offset >= state.next_offset || state.size == 0)
        return KQ_END;
    if (state.last_base >= 0 && offset >= state.last_base) {
        *ret = (struct kq_found){
            .position = state.last_position,
            .base_offset = state.last_base,
            .next_offset = state.next_offset,
            .size = state.size - state.last_position,
        };
        return 0;
    }
    struct lookup lookup = {.segment = segment,
                            .lock = lock,
                            .size = state.size,
                            .next_offset = state.next_offset,
                            .may_block = may_block};
    int r = kq_file_use(segment->file, may_block ? 0 : KQ_FILE_NO_BLOCK, &lookup.fd);
    if (r != 0)
        return r;
    r = find_and_repair(&lookup, offset, ret);
    kq_file_done(segment->file);
    return r;
}

/* --- Times --- */

int kq_segment_verify_time(struct kq_segment *segment, pthread_mutex_t *lock, const uint8_t *entry,
                           bool may_block)
{
    struct kq_batch_header header;
    struct kq_found found;
    struct kq_walk walk;
    int64_t offset = segment->base + kq_index_time_offset_key(entry);
    int fd;
    int r = kq_segment_find(segment, lock, offset, may_block, &found);
    if (r != 0)
        return r == KQ_END ? -EBADMSG : r;
    r = kq_file_use(segment->file, may_block ? 0 : KQ_FILE_NO_BLOCK, &fd);
    if (r != 0)
        return r;
    kq_walk_begin(&walk, fd, segment->base, found.position, found.position + found.size,
                  KQ_BATCH_HEADER, may_block);
    r = kq_walk_header(&walk, &header);
    kq_walk_end(&walk);
    kq_file_done(segment->file);
    if (r == 0 && (kq_batch_next_offset(&header) - 1 != offset ||
                   header.max_timestamp != kq_index_time_key(entry)))
        r = -EBADMSG;
    return r;
}

static int walk_to_time(struct kq_walk *walk, int64_t timestamp_ms, int64_t from,
                        struct kq_batch_header *ret)
{
    int64_t begin = walk->position;
    int r;
    for (; (r = kq_walk_header(walk, ret)) == 0; kq_walk_step(walk, ret)) {
        if (ret->max_timestamp >= timestamp_ms && kq_batch_next_offset(ret) > from)
            return 0;
        if (!walk->may_block && walk->position - begin > FAR_BYTES)
            return KQ_WOULD_BLOCK;
    }
    return r;
}

/* Is no batch behind ENTRY younger? Of a time index that was cut off the last entry is not the last
 * there was. Where messages come in order of time there is nothing to read. */
static int verify_last_time(struct kq_segment *segment, pthread_mutex_t *lock, const uint8_t *entry,
                            bool may_block)
{
    struct kq_batch_header header;
    struct kq_published state;
    struct kq_found found;
    struct kq_walk walk;
    int64_t behind = segment->base + kq_index_time_offset_key(entry) + 1;
    int fd;
    kq_segment_published(segment, &state);
    if (behind >= state.next_offset || kq_index_time_key(entry) == INT64_MAX)
        return 0;
    int r = kq_segment_find(segment, lock, behind, may_block, &found);
    if (r == 0)
        r = kq_file_use(segment->file, may_block ? 0 : KQ_FILE_NO_BLOCK, &fd);
    if (r != 0)
        return r == KQ_END ? 0 : r;
    kq_walk_begin(&walk, fd, segment->base, found.position, state.size,
                  may_block ? KQ_WALK_FAR : KQ_WALK_NEAR, may_block);
    r = walk_to_time(&walk, kq_index_time_key(entry) + 1, behind, &header);
    kq_walk_end(&walk);
    kq_file_done(segment->file);
    return r == 0 ? -EBADMSG : r == KQ_WOULD_BLOCK ? r : 0;
}

/* The largest timestamp as the last entry says. KQ_END: there is none. */
static int last_time(struct kq_segment *segment, pthread_mutex_t *lock, bool may_block,
                     int64_t *ret)
{
    uint8_t entry[KQ_INDEX_ENTRY_MAX];
    int r = kq_index_load(&segment->times, lock, may_block, NULL);
    if (r != 0)
        return r;
    uint32_t count = kq_index_count(&segment->times);
    if (count == 0)
        return KQ_END;
    r = kq_index_get(&segment->times, lock, count - 1, may_block, entry);
    if (r == 0)
        r = kq_segment_verify_time(segment, lock, entry, may_block);
    if (r == 0)
        r = verify_last_time(segment, lock, entry, may_block);
    if (r == 0)
        *ret = kq_index_time_key(entry);
    return r;
}

int kq_segment_max_timestamp(struct kq_segment *segment, pthread_mutex_t *lock, bool may_block,
                             int64_t *ret)
{
    int64_t max = atomic_load_explicit(&segment->max_timestamp, memory_order_relaxed);
    if (max == KQ_NO_TIME && atomic_load(&segment->size) > 0) {
        int r = last_time(segment, lock, may_block, &max);
        if (r == KQ_END || r == -EBADMSG || r == -ENOENT) {
            if (!may_block)
                return KQ_WOULD_BLOCK;
            r = kq_segment_rebuild(segment, lock);
            max = atomic_load_explicit(&segment->max_timestamp, memory_order_relaxed);
        }
        if (r != 0)
            return r;
        atomic_store_explicit(&segment->max_timestamp, max, memory_order_relaxed);
    }
    *ret = max;
    return 0;
}

/* The offset from which to look for TIMESTAMP_MS: what lies before is older. */
static int time_start(struct kq_segment *segment, pthread_mutex_t *lock, int64_t timestamp_ms,
                      bool may_block, int64_t *ret)
{
    uint8_t entry[KQ_INDEX_ENTRY_MAX];
    *ret = segment->base;
    int r = kq_index_search(&segment->times, lock, kq_index_time_key, timestamp_ms, may_block,
                            entry, NULL);
    if (r == 0)
        r = kq_segment_verify_time(segment, lock, entry, may_block);
    if (r == 0)
        *ret = segment->base + kq_index_time_offset_key(entry);
    return r == KQ_WOULD_BLOCK ? r : 0;
}

int kq_segment_find_time(struct kq_segment *segment, pthread_mutex_t *lock, int64_t timestamp_ms,
                         int64_t from, bool may_block, struct kq_found *ret)
{
    struct kq_published state;
    struct kq_batch_header header;
    struct kq_found start;
    struct kq_walk walk;
    int64_t offset;
    int fd;
    kq_segment_published(segment, &state);
    int r = time_start(segment, lock, timestamp_ms, may_block, &offset);
    if (r == 0)
        r = kq_segment_find(segment, lock, kq_max64(offset, from), may_block, &start);
    if (r == 0)
        r = kq_file_use(segment->file, may_block ? 0 : KQ_FILE_NO_BLOCK, &fd);
    if (r != 0)
        return r;
    kq_walk_begin(&walk, fd, segment->base, start.position, state.size,
                  may_block ? KQ_WALK_FAR : KQ_WALK_NEAR, may_block);
    r = walk_to_time(&walk, timestamp_ms, from, &header);
    if (r == 0)
        *ret = (struct kq_found){
            .position = walk.position,
            .base_offset = header.base_offset,
            .next_offset = kq_batch_next_offset(&header),
            .size = header.size,
        };
    kq_walk_end(&walk);
    kq_file_done(segment->file);
    return r == KQ_PARTIAL ? -EBADMSG : r;
}
