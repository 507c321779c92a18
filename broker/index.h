/* A sparse index: fixed-size entries in a file, the youngest in a small buffer behind it.
 *
 * One kind of index for offsets (.index), times (.timeindex), text (.textindex) and what compaction
 * took out of it (.textholes, which is never appended to). Entries are
 * written when the buffer is full and where the log asks for it; what a crash takes with it is
 * rebuilt from the log. An index is a hint: whoever uses an entry compares it with the batch that
 * it points to.
 *
 * One writer at a time. Look-ups run beside it: LOCK (the log's short one) guards the buffer and
 * the counts, and is never held over a system call. */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "broker/base/buf.h"
#include "broker/file.h"

#define KQ_INDEX_TAIL 64 /* entries in the buffer */
#define KQ_INDEX_ENTRY_MAX 20

/* Kafka's: relative offset of a batch's last message u32, file position of the batch u32. */
#define KQ_OFFSET_ENTRY 8
/* Kafka's: largest timestamp so far i64, relative last offset of the batch that brought it u32. */
#define KQ_TIME_ENTRY 12

struct kq_index {
    struct kq_file *file; /* under LOCK once readers run */
    uint8_t kind;         /* enum kq_file_kind */
    uint8_t entry_size;
    uint8_t header_size; /* bytes before the first entry */
    bool loaded;         /* STORED is known */
    atomic_bool dirty;   /* written since the last sync */
    uint32_t stored;     /* entries in the file */
    uint32_t tail_count;
    uint8_t *tail; /* NULL: none were added lately */
};

/* What part of an entry a look-up compares. */
typedef int64_t kq_index_key(const uint8_t *entry);
kq_index_key kq_index_offset_key;      /* .index: relative offset */
kq_index_key kq_index_position_key;    /* .index: file position */
kq_index_key kq_index_time_key;        /* .timeindex: timestamp */
kq_index_key kq_index_time_offset_key; /* .timeindex: relative offset */

/* A closed index of KIND. -ENOMEM. */
int kq_index_init(struct kq_index *index, enum kq_file_kind kind, const struct kq_file_place *place,
                  int64_t base);
void kq_index_release(struct kq_index *index);

/* Of a file that is not there yet or is to be written anew: no entries. */
void kq_index_set_empty(struct kq_index *index);

/* Finds out how many whole entries the file has; a missing file has none. MAY_BLOCK as ever.
 * 0; KQ_WOULD_BLOCK; -errno. RET_SIZE (may be NULL): bytes of the file, -1 where it is missing. */
int kq_index_load(struct kq_index *index, pthread_mutex_t *lock, bool may_block, int64_t *ret_size);

static inline uint32_t kq_index_count(const struct kq_index *index)
{
    return index->stored + index->tail_count;
}

/* Adds an entry behind the last; writes the buffer first if it is full. An entry that cannot be
 * kept (-ENOMEM, -ENOSPC, …) is left out: the index is sparser then, not wrong. */
int kq_index_append(struct kq_index *index, pthread_mutex_t *lock, const uint8_t *entry);

static inline bool kq_index_is_full_tail(const struct kq_index *index)
{
    return index->tail_count == KQ_INDEX_TAIL;
}

/* Writes the buffer (and makes the file if it is missing). */
int kq_index_flush(struct kq_index *index, pthread_mutex_t *lock);

/* Are there entries that were not written? */
bool kq_index_has_tail(struct kq_index *index, pthread_mutex_t *lock);

/* Frees the buffer if it is empty. */
void kq_index_trim(struct kq_index *index, pthread_mutex_t *lock);

/* Keeps the first COUNT entries, all of them in the file, and nothing behind. No readers yet. */
int kq_index_truncate(struct kq_index *index, uint32_t count);

/* Entry NUMBER (< kq_index_count). 0; KQ_WOULD_BLOCK; -EBADMSG (the file is shorter); -errno. */
int kq_index_get(struct kq_index *index, pthread_mutex_t *lock, uint32_t number, bool may_block,
                 uint8_t *ret);

/* The last entry whose key is <= WANTED, in O(log n).
 * 0 with the entry and its number (may be NULL); KQ_END where there is none; KQ_WOULD_BLOCK;
 * -EBADMSG; -errno. */
int kq_index_search(struct kq_index *index, pthread_mutex_t *lock, kq_index_key *key,
                    int64_t wanted, bool may_block, uint8_t *ret, uint32_t *ret_number);
