/* Reads of files that do not block at their end: text, JSON lines, one value, control files. */
#pragma once

#include <pthread.h>

#include "fs/anchor.h"
#include "fs/cursor.h"
#include "fs/logview.h"

struct kq_handle;

/* Where a run of reads goes on in text with holes. */
struct kq_reading_on {
    int64_t position; /* in the file; -1: nowhere */
    int64_t offset;   /* of the next message at least; of the one at hand where SKIP > 0 */
    int64_t skip;     /* bytes of its text that were handed over */
};

/* What a handle keeps between reads. */
struct kq_reading {
    pthread_mutex_t lock;
    struct kq_text_base base; /* of the file's byte 0 */
    int64_t length;           /* of a sealed file; else INT64_MAX */
    struct kq_cursor *cursor; /* where the last read ended; a read under way takes it */
    int64_t damage;           /* text position where the log was found damaged last; -1 */
    struct kq_log_run run;    /* p0.log */
    struct kq_reading_on on;  /* for when there are holes */
    int64_t first_offset;     /* JSON lines: of the file's first message */
    int64_t bytes_at;         /* position in the file of bytes.data[0] */
    struct kq_buf bytes;      /* JSON lines on their way, control text */
};

void kq_reading_init(struct kq_reading *reading);
void kq_reading_release(struct kq_reading *reading);

/* Up to SIZE bytes at POSITION of HANDLE's file: all of them unless the file ends before. The bytes
 * are the thread's own scratch, so that HANDLE may be gone once they are on their way.
 * 0; KQ_WOULD_BLOCK unless MAY_BLOCK; -ESTALE (retention took them), -EBADMSG (damaged), -ESPIPE (a
 * JSON view is read in order), -errno. */
int kq_read_file(struct kq_handle *handle, int64_t position, size_t size, bool may_block,
                 const uint8_t **ret, size_t *ret_length);

/* A read under way has the handle's cursor for itself; another at the same time gets one of its
 * own. NULL: there is no memory. */
struct kq_cursor *kq_reading_take(struct kq_handle *handle, int64_t *ret_damage,
                                  struct kq_reading_on *ret_on);

/* The read is over; the next one goes on with CURSOR, and at ON. */
void kq_reading_give(struct kq_handle *handle, struct kq_cursor *cursor, int64_t damage,
                     const struct kq_reading_on *on);

/* The worker that is to go on cannot have what lies in this thread's reply: back to BEFORE, where
 * that costs nothing; else CURSOR's text is unknown, -1. */
void kq_cursor_go_back(struct kq_cursor *cursor, const struct kq_cursor *before);

/* As kq_read_file, of text with holes; BOUNDS is what there is. (cleaned.c) */
int kq_read_cleaned(struct kq_handle *handle, const struct kq_log_text_bounds *bounds,
                    int64_t position, size_t size, bool may_block, size_t *ret_length);

/* Says where the log under CURSOR is damaged; at most once a second. */
void kq_report_damage(const struct kq_cursor *cursor);
