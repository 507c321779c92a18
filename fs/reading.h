/* Reads of files that do not block at their end: text, JSON lines, one value, control files. */
#pragma once

#include <pthread.h>

#include "fs/cursor.h"
#include "fs/logview.h"

struct kq_handle;

/* What a handle keeps between reads. */
struct kq_reading {
    pthread_mutex_t lock;
    int64_t base;             /* text position of the file's byte 0 */
    int64_t end;              /* text position behind a sealed file's last byte; else INT64_MAX */
    struct kq_cursor *cursor; /* where the last read ended; a read under way takes it */
    int64_t damage;           /* text position where the log was found damaged last; -1 */
    struct kq_log_run run;    /* p0.log */
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

/* Says where the log under CURSOR is damaged; at most once a second. */
void kq_report_damage(const struct kq_cursor *cursor);
