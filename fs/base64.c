#include "fs/base64.h"

#include <errno.h>

static const char alphabet[64] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void kq_base64_encode(const uint8_t *bytes, size_t length, uint8_t *to)
{
    for (; length >= 3; length -= 3, bytes += 3) {
        uint32_t word = (uint32_t)bytes[0] << 16 | (uint32_t)bytes[1] << 8 | bytes[2];
        *to++ = (uint8_t)alphabet[word >> 18];
        *to++ = (uint8_t)alphabet[word >> 12 & 63];
        *to++ = (uint8_t)alphabet[word >> 6 & 63];
        *to++ = (uint8_t)alphabet[word & 63];
    }
    if (length == 0)
        return;
    uint32_t word = (uint32_t)bytes[0] << 16 | (length == 2 ? (uint32_t)bytes[1] << 8 : 0);
    *to++ = (uint8_t)alphabet[word >> 18];
    *to++ = (uint8_t)alphabet[word >> 12 & 63];
    *to++ = length == 2 ? (uint8_t)alphabet[word >> 6 & 63] : '=';
    *to++ = '=';
}

static size_t padding(const char *text, size_t length)
{
    if (length == 0 || text[length - 1] != '=')
        return 0;
    return text[length - 2] == '=' ? 2 : 1;
}

int kq_base64_measure(const char *text, size_t length, int32_t *ret)
{
    if (length % 4 != 0)
        return -EINVAL;
    *ret = (int32_t)(length / 4 * 3 - padding(text, length));
    return 0;
}

static int digit(char character)
{
    if (character >= 'A' && character <= 'Z')
        return character - 'A';
    if (character >= 'a' && character <= 'z')
        return character - 'a' + 26;
    if (character >= '0' && character <= '9')
        return character - '0' + 52;
    return character == '+' ? 62 : character == '/' ? 63 : -1;
}

int kq_base64_decode(const char *text, size_t length, uint8_t *to)
{
    size_t digits = length - padding(text, length);
    uint32_t word = 0;
    unsigned bits = 0;
    for (size_t i = 0; i < digits; i++) {
        int value = digit(text[i]);
        if (value < 0)
            return -EINVAL;
        word = word << 6 | (uint32_t)value;
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            *to++ = (uint8_t)(word >> bits);
        }
    }
    return word & ((1u << bits) - 1) ? -EINVAL : 0;
}
