/* The text of a partition: how messages read as bytes of a file.
 *
 * Each committed message is [key SEP] value DELIMITER; a null value is empty, a null key leaves out
 * key and SEP; control batches have no text. The settings hold from the offset at which they were
 * set, so that a position in the text never moves. Any thread; values are immutable once shared.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "broker/base/buf.h"
#include "broker/batch.h"

#define KQ_TEXT_MARK_BYTES 16

enum kq_framing {
    KQ_FRAMING_LINE,  /* a message ends at the delimiter */
    KQ_FRAMING_WRITE, /* every write(2) is a message */
    KQ_FRAMING_FILE,  /* all between open and last close is a message */
};

struct kq_rendering {
    int64_t from_offset; /* the first offset it holds for */
    enum kq_framing framing;
    uint8_t delimiter_length; /* 1–16 for KQ_FRAMING_LINE, 0–16 else */
    uint8_t separator_length; /* 0: keys do not show */
    uint8_t delimiter[KQ_TEXT_MARK_BYTES];
    uint8_t separator[KQ_TEXT_MARK_BYTES];
};

/* The history of a partition's rendering; the first is from offset 0, offsets ascend. */
struct kq_renderings {
    size_t count;
    struct kq_rendering at[];
};

/* The rendering of OFFSET. RET_UNTIL (may be NULL): the first offset it no longer holds for,
 * INT64_MAX for the last one. */
const struct kq_rendering *kq_rendering_at(const struct kq_renderings *renderings, int64_t offset,
                                           int64_t *ret_until);

/* Bytes of text that RECORD has. */
static inline int64_t kq_text_length(const struct kq_rendering *rendering,
                                     const struct kq_record *record)
{
    int64_t length = rendering->delimiter_length;
    if (record->value_length > 0)
        length += record->value_length;
    if (rendering->separator_length && record->key_length >= 0)
        length += record->key_length + rendering->separator_length;
    return length;
}

/* Writes that text at TO, which has room for it; returns the byte behind it. */
uint8_t *kq_text_write(const struct kq_rendering *rendering, const struct kq_record *record,
                       uint8_t *to);

/* Text length of the records of the whole batch at BYTES whose offsets are in [FROM, TO). LIMIT and
 * SCRATCH as for kq_record_reader_open. A damaged batch: -EBADMSG. */
int kq_text_length_of_batch(const struct kq_renderings *renderings, const void *bytes,
                            const struct kq_batch_header *header, int64_t from, int64_t to,
                            size_t limit, struct kq_buf *scratch, int64_t *ret);
