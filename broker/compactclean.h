/* One run of compaction, from inside: the map of keys, and a group of segments that becomes one. */
#pragma once

#include "broker/compact.h"
#include "broker/compactfilter.h"
#include "broker/compactwrite.h"
#include "broker/log_internal.h"

/* Holes of a segment that was compacted before, in order. */
struct kq_hole_feed {
    struct kq_segment *segment; /* NULL: there are none */
    int64_t position;           /* in the file, of what is behind BYTES */
    struct kq_buf bytes;
    size_t at;
    int64_t text, removed; /* of the next hole; INT64_MAX: none */
};

struct kq_cleaning {
    struct kq_log *log;
    const struct kq_compact_work *work;
    struct kq_compact_done *done;
    int dirfd;
    struct kq_compact_map *map;
    int64_t map_end; /* all keys before this offset are in the map */
    struct kq_renderings *renderings;
    struct kq_buf aborted;   /* struct kq_compact_aborted each: all that matter */
    struct kq_buf producers; /* struct kq_compact_producer each */
    struct kq_compact_txns txns;
    struct kq_compact_filter filter;
    struct kq_compact_writer writer;
    struct kq_buf out;

    /* Of the segment that is being read. */
    int64_t place;   /* text position of its first byte, relative to the writer's */
    int64_t packed;  /* text of it that was read */
    int64_t removed; /* holes in that */
    struct kq_hole_feed holes;
    bool textless; /* the batch at hand has no text */
    bool changed;  /* the group is not what it was */
};

/* Fills MAP from the dirty part; map_end says how far it came. */
int kq_compact_build_map(struct kq_cleaning *cleaning);

/* All that is to be cleaned is read from its front now. -ENOMEM. */
int kq_compact_begin_groups(struct kq_cleaning *cleaning);

/* Writes what is left of COUNT segments, the last of which has batches, and puts it in their place,
 * unless it is one and all of it stays. */
int kq_compact_clean_group(struct kq_cleaning *cleaning, struct kq_segment *const *segments,
                           size_t count);

/* --- compactinstall.c --- */

/* Puts FRESH, whose files are .cleaned and on disk, in the place of COUNT SEGMENTS, on disk and in
 * memory. RET_TEXT_CHANGED is set where text was taken out. 0; -ESTALE: retention took some of
 * them; -errno: the old ones stay; where the replacement was decided, it is finished when the log
 * is opened anew. */
int kq_log_replace_segments(struct kq_log *log, int dirfd, struct kq_segment *const *segments,
                            size_t count, struct kq_segment *fresh, bool *ret_text_changed);
