/* The text index of a segment: from text position to batch. Ours, big-endian:
 *
 *   header (40 bytes)   0 magic "kqfstext" · 8 version u32 = 1 · 12 zero u32 · 16 base offset of
 * the segment i64 · 24 text position of the segment's first byte i64 · 32 zero u32 · 36 CRC-32C of
 * the 36 bytes before u32 entries (16 bytes)  0 check u16 · 2 text position relative to the
 * header's u48 · 8 file position of the batch u32 · 12 its base offset, relative u32
 *
 * Text before a batch is counted in its entry. An entry whose file position is the end of the
 * segment stands for the batch to come. `check` is a CRC-32C of the entry with `check` zero and of
 * the segment's base offset, folded to 16 bits. The header is what makes text positions last when
 * earlier segments are gone; entries are rebuilt from the log. */
#pragma once

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

#define KQ_TEXT_HEADER 40
#define KQ_TEXT_ENTRY 16
#define KQ_TEXT_VERSION 1
#define KQ_TEXT_POSITION_MAX ((INT64_C(1) << 48) - 1) /* within a segment */

struct kq_text_header_stored {
    uint8_t magic[8];
    uint8_t version[4];
    uint8_t zero[4];
    uint8_t base_offset[8];
    uint8_t text_base[8];
    uint8_t zero_too[4];
    uint8_t crc[4];
};
static_assert(sizeof(struct kq_text_header_stored) == KQ_TEXT_HEADER, "the layout on disk");

struct kq_text_entry {
    int64_t text; /* relative to the segment's */
    uint32_t position;
    uint32_t offset; /* relative */
};

void kq_text_header_write(uint8_t *at, int64_t base_offset, int64_t text_base);

/* 0; -EBADMSG: damaged, of another segment, or of another version. */
int kq_text_header_read(const uint8_t *at, int64_t base_offset, int64_t *ret_text_base);

void kq_text_entry_write(uint8_t *at, int64_t base_offset, const struct kq_text_entry *entry);
int kq_text_entry_read(const uint8_t *at, int64_t base_offset, struct kq_text_entry *ret);

/* Keys for kq_index_search. */
int64_t kq_text_key(const uint8_t *entry);
int64_t kq_text_position_key(const uint8_t *entry);
