/* Where files lie in the text of their partition. */
#pragma once

#include "fs/cursor.h"
#include "fs/internal.h"

/* The text position of the first byte of the message at OFFSET (in a gap: of the next; at the end:
 * the end of text). 0; KQ_GONE; KQ_BEYOND; KQ_WOULD_BLOCK; -errno. */
int kq_find_offset(const struct kq_access *access, int64_t offset, bool may_block,
                   int64_t *ret_text);

/* The exact message at ACCESS's OFFSET: CURSOR is placed before it (see kq_cursor_head).
 * 0; -ENOENT (gone, not there, not a message); KQ_WOULD_BLOCK; -errno. The caller releases CURSOR.
 */
int kq_find_message(const struct kq_access *access, int64_t offset, bool may_block,
                    struct kq_cursor *cursor, struct kq_record_head *ret);

/* The sealed segment that begins at OFFSET. 0; -ENOENT; KQ_WOULD_BLOCK; -errno. */
int kq_find_segment(struct kq_partition *partition, int64_t offset, bool may_block,
                    struct kq_log_range *ret);
