/* A partition's log: segments of record batches in one directory, Kafka's own files.
 *
 *   <20-digit base offset>.log        record batches v2
 *   <base>.index                      8-byte entries: relative offset u32, file position u32
 *   <base>.timeindex                  12-byte entries: max timestamp so far i64, relative offset
 * u32 <base>.textindex                  ours: text position -> batch (textindex.h)
 *   leader-epoch-checkpoint, partition.metadata
 *
 * Happy path: kq_log_append writes one batch behind the last with one pwrite(2) and publishes it;
 * readers take extents of what is published and never wait for a writer. Failure modes: a write
 * that fails leaves nothing readable (the tail is cut off again before the next append); a sync
 * that fails makes the log read-only until it is opened anew, since the kernel has dropped what it
 * could not write; a torn tail is cut off when the log is opened.
 *
 * All calls: any thread, unless said otherwise. One mutex orders writers; published ends are read
 * without it.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "broker/base/err.h"
#include "broker/base/pool.h"
#include "broker/extent.h"
#include "broker/text.h"

struct kq_log;
struct kq_producer_ids;

/* What the topic's configuration says of its logs; Kafka's names and meanings, -1 = no limit. */
struct kq_log_config {
    int32_t segment_bytes;
    int64_t segment_ms;
    int32_t index_interval_bytes;
    int32_t segment_index_bytes;
    int64_t retention_ms;
    int64_t retention_bytes;
    bool delete_old;         /* cleanup.policy has `delete` */
    int64_t flush_messages;  /* 1: every append is to be synced before it is acknowledged */
    int64_t flush_ms;        /* at most so long unsynced; INT64_MAX: never for that reason */
    int64_t max_batch_bytes; /* decompressed bytes of a batch that are read at most */
};

/* What all logs of a broker share. Outlives them. */
struct kq_log_shared {
    int dirfd;                            /* the data directory */
    size_t max_producers;                 /* with an id, that are known of one log */
    int64_t producer_expiry_ms;           /* so long they are known at least, if there is room */
    struct kq_producer_ids *producer_ids; /* NULL: nobody gives any out */
    struct kq_pool *syncer;               /* runs fdatasync */
    int64_t trail_bytes;     /* start a sync in the background when so much is unsynced (64 MiB) */
    bool for_kafka;          /* it was a Kafka's: an empty segment has index files, too */
    unsigned max_open_files; /* keep at most so many segment files open where nobody reads them */
    /* A recovery point moved: BYTES more of some log are on disk. From any thread, no lock held;
     * does not block. NULL: not wanted. */
    void (*synced)(void *context, int64_t bytes);
    void *context;
};

/* What the broker's checkpoints say of one log when it is opened. */
struct kq_log_checkpoint {
    bool clean;             /* the broker stopped cleanly: the log ends where its files end */
    int64_t recovery_point; /* everything before this offset is known to be on disk and whole; 0 */
    int64_t log_start;      /* -1: the base offset of the first segment */
    int32_t epochs_begun;   /* of a log that was taken over: how many leader epochs its cluster has
                               begun; 0: not known */
};

/* What opening a log found and did, for the report. */
struct kq_log_recovery {
    int64_t scanned_bytes;
    int64_t truncated_bytes; /* torn or damaged tails that were cut off */
    unsigned rebuilt_indexes;
    unsigned damaged_segments; /* with damage that is not a torn tail */
};

/* Opens (or creates) the log in directory NAME of shared->dirfd. RENDERINGS is shared: it stays
 * valid until kq_log_set_renderings replaces it and the call returned.
 *
 * Every batch from the recovery point on is checked. The log ends before the first damaged one of
 * its last segment; what is cut off there that is not a torn tail (valid batches follow) is kept
 * beside the log as `<base>.log.damaged`. Where synced messages follow, and in an earlier segment,
 * what is valid behind the damage stays: reading the damaged place gives -EBADMSG, offsets behind
 * it can be read. Offsets that were given before the recovery point are not given again, even where
 * their files are missing. Damaged index files are rebuilt, now or when somebody meets the damage.
 * All of this is reported. The time this takes depends on the bytes behind the recovery point, not
 * on the size of the log. 0; -errno with the reason reported. */
int kq_log_open(const struct kq_log_shared *shared, const char *name,
                const struct kq_log_config *config, const struct kq_renderings *renderings,
                const struct kq_log_checkpoint *checkpoint, struct kq_log_recovery *ret_recovery,
                struct kq_log **ret);

/* Syncs (unless the log failed) and closes. Extents stay valid. No other call may be under way. */
void kq_log_close(struct kq_log *log);

/* Takes effect for what is appended, rolled and retained from now on. */
void kq_log_set_config(struct kq_log *log, const struct kq_log_config *config);

/* The new history; it must agree with the old one for all offsets before the log's end. The old one
 * may be freed when this returns. */
void kq_log_set_renderings(struct kq_log *log, const struct kq_renderings *renderings);

/* --- Appending --- */

struct kq_log_append {
    uint8_t *bytes; /* one whole valid batch; base offset and leader epoch are patched in place */
    size_t length;
    int64_t text_length; /* of its text under the rendering for new messages, -1: not known */
    const struct kq_rendering *rendering; /* that text_length was counted under; NULL: the present
                                             one. The length is forgotten if that changed */
    int64_t
        unreserve; /* bytes of an earlier kq_log_reserve that this append uses up or gives back */
};

struct kq_log_appended {
    int64_t base_offset; /* of the batch; where it is a DUPLICATE, of the one appended before */
    int64_t next_offset; /* the log end behind it */
    int64_t timestamp;   /* its largest */
    bool duplicate;      /* its producer had it appended before: nothing was done */
};

/* Appends one batch: when this returns 0 or KQ_MUST_SYNC it has its offsets, every reader can read
 * it and it survives the broker's death. Rolls the segment first when due; an append that uses a
 * reservation never needs new space. A batch with a producer id must follow that producer's last
 * one, or is one of its last five, sent again (producer.h).
 * 0; KQ_MUST_SYNC (done; flush_messages asks for kq_log_sync before it is acknowledged);
 * KQ_OUT_OF_ORDER_SEQUENCE, KQ_FENCED_PRODUCER, KQ_TRANSACTIONAL: nothing was done, the reservation
 * is kept;
 * -ENOSPC, -EDQUOT, -EIO, …: nothing of it is in the log, the reservation is kept; -EROFS: the log
 * failed earlier; -EINVAL: not a batch. */
int kq_log_append(struct kq_log *log, const struct kq_log_append *append,
                  struct kq_log_appended *ret);

/* Sets DELTA bytes of disk aside for what is to be appended later (batch overhead included by the
 * caller), or gives back with a negative DELTA. 0; -ENOSPC, -EDQUOT. */
int kq_log_reserve(struct kq_log *log, int64_t delta);

/* --- Durability --- */

struct kq_sync {
    void (*done)(struct kq_sync *sync, int error); /* from a syncer thread, no lock held; once */
    int64_t offset;                                /* the log's own */
    struct kq_sync *next;                          /* the log's own */
};

/* Asks that everything appended before this call survives power loss; many callers share one
 * fdatasync(2). KQ_READY: it does already, DONE is not called. 0: DONE will be called, with 0 or
 * -errno; SYNC stays untouched until then. */
int kq_log_sync(struct kq_log *log, struct kq_sync *sync);

/* --- Reading --- */

struct kq_log_bounds {
    int64_t start;          /* first retained offset */
    int64_t end;            /* next offset to be given; the high watermark of a single node */
    int64_t last_stable;    /* end, or the first offset whose transaction is open */
    int64_t recovery_point; /* everything before it is synced */
    int64_t bytes;          /* of retained segments on disk */
    int64_t modified_ms;    /* wall clock of the last append; st_mtime of the newest segment until
                               there was one since the log was opened */
    uint64_t layout;        /* of the text, see below; 0: nothing was ever cleaned out of it */
};

/* Up to which offset the log is known to be on disk and whole, and what was said of its producers
 * is, too: for the broker's checkpoint. Writes and syncs a snapshot of the producers if it must. */
int64_t kq_log_checkpoint(struct kq_log *log);

/* Never blocks. */
void kq_log_bounds(struct kq_log *log, struct kq_log_bounds *ret);

/* Text positions never change: what retention took is gone at the front, what compaction took stays
 * a hole. Without the holes the text is packed: packed positions hold for one layout, which changes
 * whenever something is cleaned away. */
struct kq_log_text_bounds {
    int64_t start; /* text position of the first retained message */
    int64_t end;   /* text position behind the last stable message: all text there has ever been */
    uint64_t layout;
    int64_t removed; /* bytes of holes: END is packed position END - REMOVED */
    int64_t settled; /* there is no hole behind this text position */
};

/* Counts the text of batches that were appended without a length first.
 * 0; KQ_WOULD_BLOCK unless MAY_BLOCK, where that means reading the log; -errno. */
int kq_log_text_bounds(struct kq_log *log, bool may_block, struct kq_log_text_bounds *ret);

/* The packed position of TEXT, or of what follows where it lies in a hole, and the layout for which
 * it holds. 0; KQ_WOULD_BLOCK; -errno. */
int kq_log_pack(struct kq_log *log, int64_t text, bool may_block, int64_t *ret_packed,
                uint64_t *ret_layout);

/* The text position of PACKED in LAYOUT. 0; KQ_GONE (the layout has changed); KQ_WOULD_BLOCK;
 * -errno. */
int kq_log_unpack(struct kq_log *log, int64_t packed, uint64_t layout, bool may_block,
                  int64_t *ret_text);

/* The text position of the first message at or behind OFFSET, the end of text behind the last.
 * 0; KQ_GONE; KQ_BEYOND; KQ_WOULD_BLOCK; -errno. */
int kq_log_text_of_offset(struct kq_log *log, int64_t offset, bool may_block, int64_t *ret);

/* The first text position at or behind TEXT that lies in no hole. 0; KQ_GONE; KQ_BEYOND;
 * KQ_WOULD_BLOCK; -errno. */
int kq_log_next_text(struct kq_log *log, int64_t text, bool may_block, int64_t *ret);

/* An extent that begins with the batch that contains OFFSET (in a gap: the next) and goes on for at
 * most MAX_BYTES (but the first batch is whole) within one segment; ends at a batch boundary unless
 * MAX_BYTES cut it. With WANT_TEXT, ret->text is the text position of that first batch.
 * 0; KQ_GONE; KQ_END (OFFSET is the log end); KQ_BEYOND; KQ_WOULD_BLOCK unless MAY_BLOCK, where the
 * batches between an index entry and OFFSET, or an index, are not cached; -EBADMSG (OFFSET lies in
 * a damaged place; only headers are looked at here); -EIO (with WANT_TEXT: its text position cannot
 * be told, since there is more damage between it and the places before and behind whose positions
 * are recorded); -errno. */
int kq_log_read(struct kq_log *log, int64_t offset, uint32_t max_bytes, bool want_text,
                bool may_block, struct kq_extent *ret);

/* What follows behind BEFORE (an extent not cut by MAX_BYTES: its next_offset is known), without a
 * search; ret->text is -1, or that of the next segment where one begins here and it is known. 0;
 * KQ_END (nothing published yet); KQ_GONE (retention took it); -EINVAL (BEFORE was cut); -errno.
 * Reads the disk only to open the next segment, and for the header of the first batch where
 * MAX_BYTES cuts the extent. */
int kq_log_read_next(struct kq_log *log, const struct kq_extent *before, uint32_t max_bytes,
                     struct kq_extent *ret);

/* As kq_log_read with WANT_TEXT, by text position: the batch whose text contains TEXT, and
 * ret->text so that as many bytes of text as TEXT is behind it come before TEXT in the extent.
 * KQ_END where TEXT is the end of text. KQ_HOLE: it was cleaned away. -EIO: the place is damaged,
 * TEXT was lost; what is behind it has the positions that it always had. */
int kq_log_read_text(struct kq_log *log, int64_t text, uint32_t max_bytes, bool may_block,
                     struct kq_extent *ret);

/* The first retained offset whose timestamp is >= TIMESTAMP_MS, and that timestamp.
 * 0; KQ_END (there is none); KQ_WOULD_BLOCK; -errno. */
int kq_log_find_time(struct kq_log *log, int64_t timestamp_ms, bool may_block, int64_t *ret_offset,
                     int64_t *ret_timestamp);

/* The first retained offset that has the largest timestamp of all, and that timestamp. As
 * kq_log_find_time; KQ_END: the log is empty. */
int kq_log_find_newest(struct kq_log *log, bool may_block, int64_t *ret_offset,
                       int64_t *ret_timestamp);

/* A sealed segment as a range of offsets and text. */
struct kq_log_range {
    int64_t base_offset, next_offset;
    int64_t text_start, text_end;
    int64_t text_length; /* what of that is not cleaned away */
    int64_t max_timestamp;
    uint64_t layout; /* since which the segment is as it is; 0: it was never compacted */
};

/* The first sealed segment whose base offset is >= FROM and which is retained whole.
 * 0; KQ_END; KQ_WOULD_BLOCK (text not counted yet); -errno. */
int kq_log_next_range(struct kq_log *log, int64_t from, bool may_block, struct kq_log_range *ret);

/* --- Keeping house: from the broker's housekeeping thread, or any that may block --- */

/* Moves the log start up to OFFSET (at most the end) and removes segments that lie wholly before.
 * Text positions are durable before a file goes; a start within a segment is the caller's to
 * record. 0; KQ_BEYOND; -errno (the start may have moved, files may be left). */
int kq_log_delete_before(struct kq_log *log, int64_t offset);

/* Rolls the active segment if segment_ms says so, removes what retention no longer keeps, syncs if
 * flush_ms asks for it. RET_NEXT_MS: the wall clock at which it should be called next at the latest
 * (INT64_MAX: no need before the next append). Returns 0, or -errno of what failed; what could be
 * done is done. */
int kq_log_housekeep(struct kq_log *log, int64_t now_ms, int64_t *ret_next_ms);

/* Closes files that nobody used since the last call; keeps memory and descriptors of idle logs low.
 */
void kq_log_trim(struct kq_log *log);

/* Removes everything: the directory NAME and what is in it. The log is closed. 0; -errno. */
int kq_log_remove(const struct kq_log_shared *shared, const char *name);
