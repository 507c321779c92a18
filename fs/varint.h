/* Zigzag numbers in records, inline: what the loops over every record need. */
#pragma once

#include <stdint.h>

#include "broker/batch.h"

/* As kq_varint_read, quick for one byte and two. */
static inline int kq_varint_quick(const uint8_t **at, const uint8_t *end, int64_t *ret)
{
    const uint8_t *byte = *at;
    uint32_t raw;
    if (kq_unlikely(end - byte < 2))
        return kq_varint_read(at, end, ret);
    if ((raw = byte[0]) < 0x80) {
        *at = byte + 1;
    } else if (byte[1] < 0x80) {
        raw = (raw & 0x7f) | (uint32_t)byte[1] << 7;
        *at = byte + 2;
    } else {
        return kq_varint_read(at, end, ret);
    }
    *ret = (int64_t)(raw >> 1) ^ -(int64_t)(raw & 1);
    return 0;
}
