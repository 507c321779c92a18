/* Base64 with padding, as RFC 4648 has it. Any thread. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Characters for LENGTH bytes. */
static inline size_t kq_base64_length(size_t length)
{
    return (length + 2) / 3 * 4;
}

/* Writes kq_base64_length(LENGTH) characters at TO, no NUL. */
void kq_base64_encode(const uint8_t *bytes, size_t length, uint8_t *to);

/* The number of bytes that LENGTH characters say. 0; -EINVAL (not a multiple of four). */
int kq_base64_measure(const char *text, size_t length, int32_t *ret);

/* Writes as many bytes at TO. 0; -EINVAL: a character that has no place there, or bits behind the
 * last byte that are not 0; TO may then be half written. */
int kq_base64_decode(const char *text, size_t length, uint8_t *to);
