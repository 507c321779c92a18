/* Zigzag numbers in records, inline: what the loops over every record need. */
#pragma once

#include <stdint.h>

#include "broker/batch.h"

/* By value: a loop whose variables have no address keeps them in registers. */
struct kq_varint {
    int64_t value;
    const uint8_t *next; /* the byte behind it; NULL: END came first, or it is malformed */
};

static __attribute__((noinline, unused)) struct kq_varint kq_varint_long(const uint8_t *at,
                                                                         const uint8_t *end)
{
    struct kq_varint varint = {0, at};
    if (kq_varint_read(&varint.next, end, &varint.value) != 0)
        varint.next = NULL;
    return varint;
}

/* Quick for one byte and two. */
static inline struct kq_varint kq_varint_at(const uint8_t *at, const uint8_t *end)
{
    uint32_t raw;
    if (kq_unlikely(end - at < 2))
        return kq_varint_long(at, end);
    if ((raw = at[0]) < 0x80) {
        at += 1;
    } else if (at[1] < 0x80) {
        raw = (raw & 0x7f) | (uint32_t)at[1] << 7;
        at += 2;
    } else {
        return kq_varint_long(at, end);
    }
    return (struct kq_varint){(int64_t)(raw >> 1) ^ -(int64_t)(raw & 1), at};
}
