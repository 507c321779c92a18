/* A place in a partition, and the walk from it: batch by batch, record by record, without a search.
 *
 * Happy path: a seek finds the batch; from then on each request goes on where the last one stopped,
 * if need be in the middle of a record, and reads the log in pieces as large as the request. Bytes
 * of uncompressed batches go through the caller's lens (a buffer of its thread) or, where a value
 * is large, straight to where they are wanted; a compressed batch is decompressed once and kept. A
 * batch that nobody checked yet is read whole first, and nothing of it is given if it is damaged.
 *
 * Failure modes: KQ_WOULD_BLOCK where the page cache does not hold what is needed (the place is
 * then undefined: seek again); -EBADMSG where the bytes are no batch, or not those that were
 * written.
 *
 * One thread at a time.
 */
#pragma once

#include "broker/broker.h"
#include "fs/lens.h"

struct kq_cursor {
    struct kq_access access;
    int64_t limit;           /* batches from this offset on are not for the reader yet */
    struct kq_extent extent; /* being walked; kept when it is used up, to go on from */
    int64_t batch_at;        /* position in the file: of the batch, or of the next one */
    struct kq_batch_header batch;
    bool in_batch, inflated_batch;
    int32_t left;                   /* records still to come */
    int64_t record_at, records_end; /* positions in the file, or in INFLATED */
    int64_t skip;                   /* text bytes of the next record that were handed over */
    int64_t text;                   /* text position of the next byte */
    bool by_text;                   /* that is known */
    int64_t next_offset;            /* of the next record at least */
    struct kq_buf inflated;
    struct kq_rendering rendering;
    int64_t rendering_until;
};

/* On nothing; ACCESS must stay valid as long as the cursor is used. */
void kq_cursor_init(struct kq_cursor *cursor, const struct kq_access *access);

/* Releases what it holds; it is on nothing and may be used again. */
void kq_cursor_release(struct kq_cursor *cursor);

static inline bool kq_cursor_is_placed(const struct kq_cursor *cursor)
{
    return cursor->extent.owner != NULL;
}

/* A request begins: batches from LIMIT on do not exist for it (INT64_MAX: the caller knows how many
 * bytes there are). What was set about rendering before LIMIT was looked up is known from here. */
void kq_cursor_begin(struct kq_cursor *cursor, int64_t limit);

/* To the byte at text position TEXT. 0; KQ_GONE; KQ_END; KQ_WOULD_BLOCK; -EBADMSG; -errno. */
int kq_cursor_seek_text(struct kq_cursor *cursor, struct kq_lens *lens, int64_t text);

/* To the first record at or behind OFFSET; with WANT_TEXT cursor->text is its text position, else
 * undefined. 0; KQ_GONE; KQ_END (OFFSET is the end); KQ_BEYOND; KQ_WOULD_BLOCK; -errno. */
int kq_cursor_seek_offset(struct kq_cursor *cursor, struct kq_lens *lens, int64_t offset,
                          bool want_text);

/* Moves to the next record, into the next batch if need be; CURSOR's LEFT is > 0 then.
 * 0; KQ_END; KQ_GONE (retention took what follows); KQ_WOULD_BLOCK; -EBADMSG; -errno. */
int kq_cursor_enter(struct kq_cursor *cursor, struct kq_lens *lens);

/* After -EBADMSG: goes behind the damage, to the batch that follows on disk, whatever offsets the
 * damaged one claims to have. 0; -EBADMSG: the cursor is on nothing; KQ_WOULD_BLOCK and other
 * -errno: it is where it was. */
int kq_cursor_pass_damage(struct kq_cursor *cursor, struct kq_lens *lens);

/* The next record, whole; its pointers are valid until the next call. The cursor stays before it.
 * As kq_cursor_enter; -ENOMEM. */
int kq_cursor_peek(struct kq_cursor *cursor, struct kq_lens *lens, struct kq_record *ret,
                   int64_t *ret_size);

/* Goes behind the record that kq_cursor_peek returned with SIZE. */
void kq_cursor_step(struct kq_cursor *cursor, const struct kq_record *record, int64_t size);

/* Where the parts of a record lie: in the file, or in cursor->inflated. */
struct kq_record_head {
    int64_t offset;
    int64_t key_at, value_at, end;
    int32_t key_length, value_length; /* -1: null */
};

/* The parts of the next record, without its bytes. Inside a batch, LEFT > 0.
 * 0; KQ_WOULD_BLOCK; -EBADMSG; -errno. */
int kq_cursor_head(struct kq_cursor *cursor, struct kq_lens *lens, struct kq_record_head *ret);

/* Goes behind the record of HEAD. */
void kq_cursor_pass(struct kq_cursor *cursor, const struct kq_record_head *head);

/* At least NEED bytes at AT of the current batch's records (which must hold them), and how many
 * there are in all. 0; KQ_WOULD_BLOCK; -EIO, -ENOMEM. */
int kq_cursor_bytes(struct kq_cursor *cursor, struct kq_lens *lens, int64_t at, size_t need,
                    const uint8_t **ret, size_t *ret_length);

/* Copies LENGTH bytes at AT of the current batch's records to TO. 0; KQ_WOULD_BLOCK; -EIO. */
int kq_cursor_copy(struct kq_cursor *cursor, struct kq_lens *lens, int64_t at, size_t length,
                   uint8_t *to);

/* Makes cursor->rendering the one of OFFSET. */
void kq_cursor_render_as(struct kq_cursor *cursor, int64_t offset);

/* Length of the text of the record of HEAD; its rendering must be cursor->rendering. */
static inline int64_t kq_head_text_length(const struct kq_rendering *rendering,
                                          const struct kq_record_head *head)
{
    int64_t length = rendering->delimiter_length;
    if (head->value_length > 0)
        length += head->value_length;
    if (rendering->separator_length && head->key_length >= 0)
        length += head->key_length + rendering->separator_length;
    return length;
}
