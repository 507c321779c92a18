/* A segment: one .log file of whole batches and its three indexes.
 *
 * Its log's writer (who holds log->lock) appends; readers look up what is published. LOCK in what
 * follows is the log's short lock (log->map), which guards the index buffers. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "broker/batch.h"
#include "broker/index.h"
#include "broker/log.h"
#include "broker/walk.h"

#define KQ_SEGMENT_MAX INT32_MAX /* bytes, and offsets from base to last: Kafka's limits */
#define KQ_NO_TIME INT64_MIN

/* What readers may see; all of it holds at the same moment. */
struct kq_published {
    int64_t next_offset; /* behind the last batch */
    int64_t size;        /* bytes, up to the end of the last batch */
    int64_t last_base;   /* of the last batch, -1 where not known */
    int64_t last_position;
};

struct kq_segment {
    atomic_int references;
    int64_t base;
    struct kq_file *file;
    struct kq_index offsets, times, texts;
    struct kq_index *holes; /* NULL: it was never compacted (texthole.h) */

    _Atomic uint32_t sequence; /* odd while the four below change */
    _Atomic int64_t next_offset, size, last_base, last_position;

    _Atomic int64_t max_timestamp; /* KQ_NO_TIME: not known yet, or no batch */
    atomic_bool name_synced;       /* the directory entry survives power loss */
    _Atomic int64_t text_base;     /* text position of the first byte, -1: not known */
    atomic_bool text_header;       /* that is in the .textindex file */
    atomic_bool sealed;            /* no more batches will come */
    atomic_bool rebuilt;           /* .index and .timeindex were: once is enough */
    atomic_bool text_rebuilt;      /* so was .textindex */
    atomic_bool holes_lost;        /* .textholes is damaged */
    atomic_bool retired;           /* another one is in its place, under its files' names */
    _Atomic int32_t interval;      /* index.interval.bytes */
    _Atomic int64_t text_span;     /* where there are holes: what their file says; -1: not read */
    _Atomic int64_t text_length;
    uint64_t layout; /* of the log's text, since it was compacted; 0: it never was */

    /* the writer's */
    bool pinned;                  /* the file is kept open: it has bytes that were not synced */
    bool torn;                    /* there may be bytes behind the published size */
    int64_t allocated;            /* disk is set aside up to here */
    int64_t first_timestamp;      /* of the first batch, KQ_NO_TIME */
    int64_t max_timestamp_offset; /* last offset of the batch with the largest timestamp */
    int64_t since_index;          /* bytes since the last index entry */
};

/* A segment in memory that is empty so far. INTERVAL: index.interval.bytes. -ENOMEM. */
int kq_segment_new(const struct kq_file_place *place, int64_t base, int32_t interval,
                   struct kq_segment **ret);

/* SEGMENT was compacted, in LAYOUT of the log's text. Before others see it. -ENOMEM. */
int kq_segment_set_holes(struct kq_segment *segment, uint64_t layout);

void kq_segment_ref(struct kq_segment *segment);
void kq_segment_unref(struct kq_segment *segment); /* NULL is fine */

/* Waits, for as long as a few stores take, where a publication is between its begin and its end. */
void kq_segment_published(struct kq_segment *segment, struct kq_published *ret);
void kq_segment_publish(struct kq_segment *segment, const struct kq_published *state);

/* The same in two: what is stored in between is seen by whoever sees STATE. */
void kq_segment_begin_publish(struct kq_segment *segment, const struct kq_published *state);
void kq_segment_end_publish(struct kq_segment *segment);

/* Takes the batch at POSITION (about to be published) into times and indexes. TEXT: where its text
 * begins, relative to the segment; -1: leave the text index alone. */
void kq_segment_index(struct kq_segment *segment, pthread_mutex_t *lock,
                      const struct kq_batch_header *header, int64_t position, int64_t text);

/* Is it time for a new segment before LENGTH more bytes with offsets up to LAST_OFFSET and largest
 * timestamp MAX_TIMESTAMP come? Kafka's LogSegment.shouldRoll. RET_FORCED: they cannot go here. */
bool kq_segment_is_full(struct kq_segment *segment, const struct kq_log_config *config,
                        int64_t length, int64_t last_offset, int64_t max_timestamp,
                        bool *ret_forced);

/* Writes the buffers of .index and .timeindex and, with SEAL, the last entry of the latter. What
 * cannot be written now stays in the buffers. The writer. 0 or the first -errno. */
int kq_segment_flush_indexes(struct kq_segment *segment, pthread_mutex_t *lock, bool seal);

/* The same for the text index, by whoever keeps it up. */
int kq_segment_flush_text(struct kq_segment *segment, pthread_mutex_t *lock);

/* Writes the header of the text index, whose text_base is known. */
int kq_segment_write_text_header(struct kq_segment *segment, pthread_mutex_t *lock);

/* A batch that was found. */
struct kq_found {
    int64_t position, base_offset, next_offset;
    int64_t size;
};

/* The batch that contains OFFSET, or the next one behind it.
 * 0; KQ_END (all before OFFSET); KQ_WOULD_BLOCK; -EBADMSG (OFFSET lies in a damaged place); -errno.
 * The indexes of a sealed segment are rebuilt if they turn out to be damaged. */
int kq_segment_find(struct kq_segment *segment, pthread_mutex_t *lock, int64_t offset,
                    bool may_block, struct kq_found *ret);

/* Is there a batch that ends with the offset of ENTRY (of the time index) and has its timestamp?
 * 0; -EBADMSG; KQ_WOULD_BLOCK; -errno. */
int kq_segment_verify_time(struct kq_segment *segment, pthread_mutex_t *lock, const uint8_t *entry,
                           bool may_block);

/* The largest timestamp of a sealed segment. KQ_NO_TIME where it has no batch. -errno,
 * KQ_WOULD_BLOCK. */
int kq_segment_max_timestamp(struct kq_segment *segment, pthread_mutex_t *lock, bool may_block,
                             int64_t *ret);

/* The first batch with a timestamp >= TIMESTAMP_MS that ends behind FROM.
 * 0; KQ_END; KQ_WOULD_BLOCK; -EBADMSG; -errno. */
int kq_segment_find_time(struct kq_segment *segment, pthread_mutex_t *lock, int64_t timestamp_ms,
                         int64_t from, bool may_block, struct kq_found *ret);

/* Another segment is about to be put under the names of SEGMENT's files, which is sealed: keeps
 * them open for those who still read it, and lets nobody write any of them anew. With place->names
 * held; SEGMENT stays as it is after an error. -errno. */
int kq_segment_retire(struct kq_segment *segment, pthread_mutex_t *lock);

/* Nothing came of it. With place->names held since. */
void kq_segment_unretire(struct kq_segment *segment, pthread_mutex_t *lock);

/* Writes .index and .timeindex of a sealed segment anew from its batches, also those behind a
 * damaged place. -errno. */
int kq_segment_rebuild(struct kq_segment *segment, pthread_mutex_t *lock);

/* Puts BYTES in place of INDEX's file. -ESTALE: the segment is retired. */
int kq_segment_replace_index(struct kq_segment *segment, struct kq_index *index,
                             pthread_mutex_t *lock, const struct kq_buf *bytes);
