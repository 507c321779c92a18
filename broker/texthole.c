#include "broker/texthole.h"

#include <string.h>

#include "broker/base/crc32c.h"
#include "broker/base/endian.h"
#include "broker/base/err.h"

static const uint8_t magic[8] = {'k', 'q', 'f', 's', 'h', 'o', 'l', 'e'};

#define AT_CRC (KQ_HOLES_HEADER - 4)

void kq_holes_write(uint8_t *at, int64_t base_offset, const struct kq_holes *holes)
{
    memset(at, 0, KQ_HOLES_HEADER);
    memcpy(at, magic, sizeof(magic));
    kq_store_be32(at + 8, KQ_HOLES_VERSION);
    kq_store_be64(at + 16, (uint64_t)base_offset);
    kq_store_be64(at + 24, (uint64_t)holes->text_base);
    kq_store_be64(at + 32, (uint64_t)holes->span);
    kq_store_be64(at + 40, (uint64_t)holes->length);
    kq_store_be32(at + AT_CRC, kq_crc32c(0, at, AT_CRC));
}

int kq_holes_read(const uint8_t *at, int64_t base_offset, struct kq_holes *ret)
{
    struct kq_holes holes = {
        .text_base = (int64_t)kq_load_be64(at + 24),
        .span = (int64_t)kq_load_be64(at + 32),
        .length = (int64_t)kq_load_be64(at + 40),
    };
    if (memcmp(at, magic, sizeof(magic)) != 0 || kq_load_be32(at + 8) != KQ_HOLES_VERSION ||
        (int64_t)kq_load_be64(at + 16) != base_offset ||
        kq_load_be32(at + AT_CRC) != kq_crc32c(0, at, AT_CRC))
        return -EBADMSG;
    if (holes.text_base < 0 || holes.length < 0 || holes.span < holes.length ||
        holes.text_base > INT64_MAX - holes.span)
        return -EBADMSG;
    *ret = holes;
    return 0;
}

static uint32_t check(const uint8_t *entry, int64_t base_offset)
{
    uint8_t base[8];
    kq_store_be64(base, (uint64_t)base_offset);
    return kq_crc32c(kq_crc32c(0, base, sizeof(base)), entry + 4, KQ_HOLE_ENTRY - 4);
}

void kq_hole_write(uint8_t *at, int64_t base_offset, const struct kq_hole *hole)
{
    kq_store_be64(at + 4, (uint64_t)hole->text);
    kq_store_be64(at + 12, (uint64_t)hole->removed);
    kq_store_be32(at, check(at, base_offset));
}

int kq_hole_read(const uint8_t *at, int64_t base_offset, struct kq_hole *ret)
{
    if (kq_load_be32(at) != check(at, base_offset))
        return -EBADMSG;
    *ret = (struct kq_hole){
        .text = (int64_t)kq_load_be64(at + 4),
        .removed = (int64_t)kq_load_be64(at + 12),
    };
    return 0;
}

int64_t kq_hole_text_key(const uint8_t *entry)
{
    return (int64_t)kq_load_be64(entry + 4);
}

int64_t kq_hole_place_key(const uint8_t *entry)
{
    return (int64_t)(kq_load_be64(entry + 4) + kq_load_be64(entry + 12));
}
