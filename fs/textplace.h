/* Where files lie in the text of their partition. */
#pragma once

#include "fs/anchor.h"
#include "fs/cursor.h"
#include "fs/internal.h"

/* Where a file begins whose byte 0 is the first of the message at OFFSET (in a gap: of the next; at
 * the end: the end of text), in the present layout. 0; KQ_GONE; KQ_BEYOND; KQ_WOULD_BLOCK; -errno.
 */
int kq_find_base(struct kq_partition *partition, int64_t offset, bool may_block,
                 struct kq_text_base *ret);

/* The exact message at ACCESS's OFFSET: CURSOR is placed before it (see kq_cursor_head).
 * 0; -ENOENT (gone, not there, not a message); KQ_WOULD_BLOCK; -errno. The caller releases CURSOR.
 */
int kq_find_message(const struct kq_access *access, int64_t offset, bool may_block,
                    struct kq_cursor *cursor, struct kq_record_head *ret);

/* The sealed segment that begins at OFFSET, if it is as it has been since LAYOUT. 0; -ENOENT;
 * -ESTALE (it was compacted); KQ_WOULD_BLOCK; -errno. */
int kq_find_segment(struct kq_partition *partition, int64_t offset, uint64_t layout, bool may_block,
                    struct kq_log_range *ret);
