/* Compaction of one log: of each key only the last message stays.
 *
 * The log is clean up to an offset and dirty behind it. A run reads keys and offsets of the dirty
 * part into a map of bounded memory, as many as fit, then writes all sealed segments up to there
 * anew, small ones together, and puts them in place of the old ones. Readers of those go on: an
 * extent holds its file. Offsets stay as they are, with gaps, and so do text positions, with holes.
 * Nothing here holds up an append; all I/O goes through the caller's pace.
 *
 * Failure modes: a run that fails or is stopped leaves the log as it was, or with some segments
 * cleaned, which is as good; the dirty part is then cleaned again. A damaged batch is never copied:
 * -EBADMSG, reported with its place.
 *
 * Source: Kafka's LogCleaner, LogCleanerManager. Any thread that may block; one run a log at a
 * time.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/base/err.h"

struct kq_log;

/* What the topic says, under Kafka's names. */
struct kq_compact_config {
    int64_t delete_retention_ms;
    int64_t min_lag_ms, max_lag_ms; /* min.compaction.lag.ms, max.… */
    double min_dirty_ratio;         /* min.cleanable.dirty.ratio */
};

/* What there is to do. */
struct kq_compact_state {
    int64_t first_dirty;              /* the log is clean before */
    int64_t until;                    /* from here on nothing may be cleaned yet */
    int64_t clean_bytes, dirty_bytes; /* before and behind FIRST_DIRTY, up to UNTIL */
    bool overdue;                     /* max.compaction.lag.ms asks for it */
    bool due;                         /* a run should be made */
    int64_t next_ms; /* the wall clock at which it may be, should nothing be appended; INT64_MAX */
};

static inline double kq_compact_dirty_ratio(const struct kq_compact_state *state)
{
    int64_t total = state->clean_bytes + state->dirty_bytes;
    return total ? (double)state->dirty_bytes / (double)total : 0;
}

/* FIRST_DIRTY: as it was recorded, -1: it was not. 0; -errno. */
int kq_log_compact_look(struct kq_log *log, const struct kq_compact_config *config,
                        int64_t first_dirty, int64_t now_ms, struct kq_compact_state *ret);

struct kq_compact_work {
    int64_t first_dirty, until; /* as kq_log_compact_look says */
    int64_t now_ms;
    int64_t delete_retention_ms;
    size_t map_bytes; /* at most */
    double map_load;
    size_t io_bytes; /* read at once */
    /* BYTES were read or are about to be written: waits as long as that should take. Returns < 0 to
     * stop: the run ends with it. */
    int (*pace)(void *context, int64_t bytes);
    void *context;
};

struct kq_compact_done {
    int64_t first_dirty; /* the log is clean up to here now */
    bool text_changed;   /* the layout of its text is another one */
    int64_t bytes_read, bytes_written;
    int64_t messages_read, messages_kept;
    int64_t keyless; /* messages without a key that went */
    double map_use;  /* share of the map that was filled */
};

/* 0; -EBADMSG (damaged: will fail again); -EROFS (the log failed); what PACE returned; -ENOSPC,
 * -ENOMEM, -errno. RET is filled in any case, with what was done; first_dirty is the work's unless
 * it returned 0. */
int kq_log_compact(struct kq_log *log, const struct kq_compact_work *work,
                   struct kq_compact_done *ret);
