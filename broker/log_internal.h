/* The partition log's inside: shared by the sources of the log, nobody else.
 *
 * Locks, in the order in which they may be taken: removing, counting, names, lock, renderings_lock,
 * map; sync_lock is taken alone. Nothing waits for a disk under `map` or `sync_lock`. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "broker/aborted.h"
#include "broker/epochs.h"
#include "broker/log.h"
#include "broker/producer.h"
#include "broker/segment.h"

struct kq_log {
    const struct kq_log_shared *shared;
    struct kq_file_place place;
    char *name;

    pthread_mutex_t removing; /* one removal or replacement of segments at a time */
    pthread_mutex_t names;    /* the place's */

    pthread_mutex_t lock; /* orders writers; guards the writer's fields of segments, and: */
    struct kq_log_config config;
    int64_t reserved;
    int64_t unsynced_messages; /* for flush_messages */
    int synced_in_a_row;       /* appends, the last ones, each of which a sync was asked for */
    bool cannot_reserve;       /* the file system has no fallocate(2) */
    bool producers_changed;    /* since the last snapshot of them */
    int64_t unsynced_since_ms; /* for flush_ms: wall clock of the first; 0: none */
    int64_t trimmed;           /* `appended` when the log was trimmed last */
    struct kq_producers producers;
    int64_t uncovered;       /* the first batch that changed them and is in no synced snapshot;
                                INT64_MAX: there is none */
    struct kq_buf snapshots; /* int64_t each, ascending: offsets of the .snapshot files */

    pthread_mutex_t map;          /* short; guards the array, the index buffers and counts */
    struct kq_segment **segments; /* changed with both lock and map held; the last is active */
    size_t segment_count, segment_capacity;

    _Atomic int64_t start, end, recovery_point;
    _Atomic int64_t sync_asked;       /* the end when somebody asked for a sync last */
    _Atomic int64_t bytes;            /* of all segments */
    _Atomic int64_t appended, synced; /* bytes since the log was opened */
    _Atomic int64_t max_batch_bytes;
    _Atomic int64_t modified_ms; /* wall clock of the last append */
    atomic_bool failed;
    _Atomic int64_t unstable; /* the first offset whose transaction is open; INT64_MAX */

    struct kq_aborted_index aborted;
    struct kq_epochs epochs;

    pthread_rwlock_t renderings_lock;
    const struct kq_renderings *renderings;

    /* Text. While text_behind is false the writer keeps text_end up with end; while it is true, who
     * holds `counting` does. It changes with `lock` held. */
    pthread_mutex_t counting;
    atomic_bool text_behind;
    bool steps_known; /* see below */
    _Atomic int64_t text_end;
    _Atomic int64_t text_held; /* counted up to this offset, where a transaction is open; -1 */
    _Atomic int64_t deleting;  /* what lies before this offset is being deleted */
    int64_t text_start, text_start_of; /* text position of an offset, under map; -1: not known */
    struct kq_segment *counted_in;     /* where counting goes on; referenced; NULL: not known yet */
    int64_t counted_position;
    int64_t counted_text;          /* relative to the segment */
    int64_t counted_entry;         /* position of the last text entry */
    _Atomic int64_t counted_bytes; /* of the log that were read for it, since it was opened */

    /* Holes in the text (textlayout.c). The array and whether it is known are under map. */
    _Atomic uint64_t layout;    /* changes when text is cleaned away; 0: none ever was */
    struct kq_text_step *steps; /* one for each segment with holes, ascending */
    size_t step_count;
    int64_t steps_before; /* bytes of holes in segments that retention took since LAYOUT */

    pthread_mutex_t sync_lock;
    pthread_cond_t sync_idle;
    struct kq_sync *waiting, **last_waiting;
    bool sync_running, sync_wanted;
    struct kq_job sync_job;
};

/* A segment with holes in its text. */
struct kq_text_step {
    struct kq_segment *segment; /* referenced; its text_base, span and length are known */
    int64_t before;             /* bytes of holes in those before it */
};

static inline struct kq_segment *kq_log_active(struct kq_log *log)
{
    return log->segments[log->segment_count - 1];
}

/* Adds SEGMENT (consumes the reference) as the last one. With `lock` held. -ENOMEM. */
int kq_log_add_segment(struct kq_log *log, struct kq_segment *segment);

/* Makes the file of a new, empty segment that begins at BASE, and puts it last. With `lock`. */
int kq_log_create_segment(struct kq_log *log, int64_t base);

/* Seals the active segment and begins a new one at the end. With `lock` held. */
int kq_log_roll(struct kq_log *log);

/* The segment with the largest base offset <= OFFSET, or the first; referenced. */
struct kq_segment *kq_log_segment_at(struct kq_log *log, int64_t offset);

/* The segment behind SEGMENT, referenced; NULL behind the last. */
struct kq_segment *kq_log_segment_after(struct kq_log *log, const struct kq_segment *segment);

/* The first one; referenced. */
struct kq_segment *kq_log_first_segment(struct kq_log *log);

/* Lists, checks and repairs what is on disk; fills segments, start, end. (recover.c) */
int kq_log_recover(struct kq_log *log, const struct kq_log_checkpoint *checkpoint,
                   struct kq_log_recovery *ret);

/* A sync in the background, if none is under way. (sync.c) */
void kq_log_start_sync(struct kq_log *log);
void kq_log_run_sync(struct kq_job *job);

/* Waits until all before OFFSET is on disk. On no thread that syncs. -errno. */
int kq_log_sync_up_to(struct kq_log *log, int64_t offset);

/* Waits for the sync under way. */
void kq_log_wait_sync(struct kq_log *log);

/* Kafka's largestTimestamp of SEGMENT, a sealed one: where messages have none, the time of the last
 * write stands in. -errno. (retain.c) */
int kq_log_largest_timestamp(struct kq_log *log, struct kq_segment *segment, int64_t *ret);

/* Sets aside what is reserved, and LENGTH bytes before that, behind the active segment's end. With
 * `lock` held. 0; -ENOSPC, -EDQUOT, -errno. (reserve.c) */
int kq_log_ensure_reserved(struct kq_log *log, int64_t length, int64_t reserved);

/* Gives back the disk behind the end of the active segment. With `lock` held. */
void kq_log_release_reserve(struct kq_log *log, struct kq_segment *segment);

/* Makes SEGMENT's text base known and its header durable, so that those before it may go. With no
 * lock held; may block. (count.c) */
int kq_log_fix_text(struct kq_log *log, struct kq_segment *segment);

/* Counts text up to the end, or to what is published while it counts. 0; KQ_WOULD_BLOCK; -errno. */
int kq_log_count_text(struct kq_log *log, bool may_block);

/* The text position of SEGMENT's first byte, which lies before what was counted. 0; KQ_END: before
 * it a transaction is open; KQ_WOULD_BLOCK; -EBADMSG; -errno. */
int kq_log_text_base(struct kq_log *log, struct kq_segment *segment, bool may_block, int64_t *ret);

/* The text position of the batch at POSITION of SEGMENT. 0; KQ_WOULD_BLOCK; -EIO: it cannot be told
 * for damage before it; -errno. (logtext.c) */
int kq_log_text_of(struct kq_log *log, struct kq_segment *segment, int64_t position, bool may_block,
                   int64_t *ret);

/* Of SEGMENT, whose text_base is known: BY_TEXT the batch whose text contains WANTED, a text
 * position relative to the segment, else the batch at file position WANTED; and where its text
 * begins, relative too. RET_FOUND is for BY_TEXT only. Repairs the text index of a sealed segment
 * where it is in the way; does without one if it cannot. 0; KQ_END: it lies behind all batches;
 * KQ_WOULD_BLOCK; -EIO: WANTED lies in a damaged place, or its text position cannot be told for
 * damage; -errno. With no lock held. (textwalk.c) */
int kq_log_find_text(struct kq_log *log, struct kq_segment *segment, bool by_text, int64_t wanted,
                     bool may_block, struct kq_found *ret_found, int64_t *ret_text);

struct kq_holes;

/* What the .textholes of SEGMENT, which has one, says. 0; -EBADMSG; KQ_WOULD_BLOCK; -errno.
 * (textlayout.c) */
int kq_segment_read_holes(struct kq_segment *segment, bool may_block, struct kq_holes *ret);

/* How much text SEGMENT has, a sealed one whose text_base is known. -errno. May block. */
int kq_log_text_in(struct kq_log *log, struct kq_segment *segment, int64_t *ret);

/* What was compacted says of SEGMENT's text, from its own file or, where that is damaged, by
 * counting. 0; KQ_WOULD_BLOCK; -errno. (textlayout.c) */
int kq_log_load_holes(struct kq_log *log, struct kq_segment *segment, bool may_block);

/* Where a position PACKED in the text that SEGMENT has stands in the text it had; both relative.
 * What begins behind a hole stands behind it. 0; KQ_WOULD_BLOCK; -errno. */
int kq_log_place_text(struct kq_log *log, struct kq_segment *segment, int64_t packed,
                      bool may_block, int64_t *ret);

/* The reverse. 0; KQ_HOLE: it was cleaned away, RET is where the text behind it begins, which is
 * the end of it where there is none; KQ_END: PLACE is behind SEGMENT, which has holes;
 * KQ_WOULD_BLOCK; -errno. */
int kq_log_pack_text(struct kq_log *log, struct kq_segment *segment, int64_t place, bool may_block,
                     int64_t *ret);

/* What the layout says of the log's text: layout, removed, settled. 0; KQ_WOULD_BLOCK; -errno. */
int kq_log_layout_bounds(struct kq_log *log, bool may_block, struct kq_log_text_bounds *ret);

/* SEGMENT is the first and leaves the list. With map held. */
void kq_log_layout_drops(struct kq_log *log, const struct kq_segment *segment);

/* Frees what is known of the layout. With map held, or nobody else there. */
void kq_log_forget_layout(struct kq_log *log);

/* Text length of the whole batch at BYTES between FROM and TO; a batch that cannot be read has
 * none. -ENOMEM. */
int kq_log_measure(struct kq_log *log, const uint8_t *bytes, const struct kq_batch_header *header,
                   int64_t from, int64_t to, struct kq_buf *scratch, int64_t *ret);

/* Writes the text index of SEGMENT, a sealed one, anew. BASE: its text position, or -1: that of the
 * NEXT segment minus the length of its text. NEXT: -1 where it is not known; text that is missing
 * between the two lies in the damaged place, the last if there are several, so that what follows
 * keeps its position. With `counting` held. -errno. */
int kq_log_rebuild_text(struct kq_log *log, struct kq_segment *segment, int64_t base, int64_t next);

/* Makes an extent of what is published in SEGMENT from FOUND on. (logread.c) */
int kq_log_make_extent(struct kq_segment *segment, const struct kq_found *found, uint32_t max_bytes,
                       bool may_block, struct kq_extent *ret);

/* Reads the batch FOUND of SEGMENT, whole, and checks its checksum unless that is known to hold.
 * RET_BYTES lie in WALK until kq_walk_end, which is due only after success.
 * 0; KQ_WOULD_BLOCK; -EBADMSG: it is damaged; -errno. (logread.c) */
int kq_log_load_batch(struct kq_segment *segment, const struct kq_found *found, bool may_block,
                      struct kq_walk *walk, struct kq_batch_header *ret_header,
                      const uint8_t **ret_bytes);
