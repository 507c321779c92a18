#include "broker/textindex.h"

#include <stddef.h>
#include <string.h>

#include "broker/base/crc32c.h"
#include "broker/base/endian.h"
#include "broker/base/err.h"

static const uint8_t magic[8] = {'k', 'q', 'f', 's', 't', 'e', 'x', 't'};

void kq_text_header_write(uint8_t *at, int64_t base_offset, int64_t text_base)
{
    struct kq_text_header_stored header = {0};
    memcpy(header.magic, magic, sizeof(magic));
    kq_store_be32(header.version, KQ_TEXT_VERSION);
    kq_store_be64(header.base_offset, (uint64_t)base_offset);
    kq_store_be64(header.text_base, (uint64_t)text_base);
    kq_store_be32(header.crc, kq_crc32c(0, &header, offsetof(struct kq_text_header_stored, crc)));
    memcpy(at, &header, sizeof(header));
}

int kq_text_header_read(const uint8_t *at, int64_t base_offset, int64_t *ret_text_base)
{
    struct kq_text_header_stored header;
    memcpy(&header, at, sizeof(header));
    int64_t text_base = (int64_t)kq_load_be64(header.text_base);
    if (memcmp(header.magic, magic, sizeof(magic)) != 0 ||
        kq_load_be32(header.version) != KQ_TEXT_VERSION ||
        (int64_t)kq_load_be64(header.base_offset) != base_offset || text_base < 0 ||
        kq_load_be32(header.crc) !=
            kq_crc32c(0, &header, offsetof(struct kq_text_header_stored, crc)))
        return -EBADMSG;
    *ret_text_base = text_base;
    return 0;
}

static uint16_t check(const uint8_t *entry, int64_t base_offset)
{
    uint8_t base[8];
    kq_store_be64(base, (uint64_t)base_offset);
    uint32_t crc = kq_crc32c(kq_crc32c(0, base, sizeof(base)), entry + 2, KQ_TEXT_ENTRY - 2);
    return (uint16_t)(crc ^ crc >> 16);
}

void kq_text_entry_write(uint8_t *at, int64_t base_offset, const struct kq_text_entry *entry)
{
    kq_store_be64(at, (uint64_t)entry->text);
    kq_store_be32(at + 8, entry->position);
    kq_store_be32(at + 12, entry->offset);
    kq_store_be16(at, check(at, base_offset));
}

int kq_text_entry_read(const uint8_t *at, int64_t base_offset, struct kq_text_entry *ret)
{
    if (kq_load_be16(at) != check(at, base_offset))
        return -EBADMSG;
    *ret = (struct kq_text_entry){
        .text = kq_text_key(at),
        .position = kq_load_be32(at + 8),
        .offset = kq_load_be32(at + 12),
    };
    return 0;
}

int64_t kq_text_key(const uint8_t *entry)
{
    return (int64_t)kq_load_be64(entry) & KQ_TEXT_POSITION_MAX;
}

int64_t kq_text_position_key(const uint8_t *entry)
{
    return kq_load_be32(entry + 8);
}
