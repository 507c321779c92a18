/* Big-endian (the log, the wire) and little-endian numbers at unaligned addresses. */
#pragma once

#include <endian.h>
#include <stdint.h>
#include <string.h>

#define KQ_ENDIAN(name, type, to_host, from_host)                                                  \
    static inline type kq_load_##name(const void *bytes)                                           \
    {                                                                                              \
        type value;                                                                                \
        memcpy(&value, bytes, sizeof(value));                                                      \
        return to_host(value);                                                                     \
    }                                                                                              \
    static inline void kq_store_##name(void *bytes, type value)                                    \
    {                                                                                              \
        value = from_host(value);                                                                  \
        memcpy(bytes, &value, sizeof(value));                                                      \
    }

KQ_ENDIAN(be16, uint16_t, be16toh, htobe16)
KQ_ENDIAN(be32, uint32_t, be32toh, htobe32)
KQ_ENDIAN(be64, uint64_t, be64toh, htobe64)
KQ_ENDIAN(le16, uint16_t, le16toh, htole16)
KQ_ENDIAN(le32, uint32_t, le32toh, htole32)
KQ_ENDIAN(le64, uint64_t, le64toh, htole64)
