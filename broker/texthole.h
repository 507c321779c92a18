/* What compaction took out of the text of a segment: .textholes. Ours, big-endian.
 *
 * Text positions (those of pN.log) never change, so text that was cleaned away stays a hole. The
 * messages of a compacted segment have a text of their own, without holes, which is what its
 * .textindex is about and what can be counted again from its batches; this file says how far each
 * piece of it is from where it was. It is there for every segment that was compacted, and cannot be
 * made again: without it, what was taken out counts as having stood at the segment's end.
 *
 *   header (56 bytes)   0 magic "kqfshole" · 8 version u32 = 1 · 12 zero u32 · 16 base offset of
 *                       the segment i64 · 24 text position of its first byte i64 · 32 bytes of text
 *                       from there to the next segment, holes included, i64 · 40 bytes of text that
 *                       it has i64 · 48 zero u32 · 52 CRC-32C of the 52 bytes before u32
 *   entries (20 bytes)  one for each hole but the last, where no message follows:
 *                       0 check u32 · 4 where the text behind the hole begins in the segment's own
 *                       i64 · 12 bytes that were taken out before that, by this hole and all before
 *                       it, i64
 *
 * So text at P of the segment's own stands at P and the second number of the last entry up to P.
 * `check` is a CRC-32C of the entry with `check` zero and of the segment's base offset. */
#pragma once

#include <stdint.h>

#define KQ_HOLES_HEADER 56
#define KQ_HOLE_ENTRY 20
#define KQ_HOLES_VERSION 1

struct kq_holes {
    int64_t text_base;
    int64_t span;   /* bytes of text up to the next segment, holes included */
    int64_t length; /* bytes of text that it has */
};

void kq_holes_write(uint8_t *at, int64_t base_offset, const struct kq_holes *holes);

/* 0; -EBADMSG: damaged, of another segment, or of another version. */
int kq_holes_read(const uint8_t *at, int64_t base_offset, struct kq_holes *ret);

struct kq_hole {
    int64_t text; /* in the segment's own */
    int64_t removed;
};

void kq_hole_write(uint8_t *at, int64_t base_offset, const struct kq_hole *hole);
int kq_hole_read(const uint8_t *at, int64_t base_offset, struct kq_hole *ret);

/* Keys for kq_index_search: where the text behind the hole begins, in the segment's own text, and
 * where it stood. */
int64_t kq_hole_text_key(const uint8_t *entry);
int64_t kq_hole_place_key(const uint8_t *entry);
