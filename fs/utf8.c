#include "fs/utf8.h"

#include <string.h>

#define EACH(byte) (UINT64_C(0x0101010101010101) * (byte))

/* Eight bytes at once: ASCII, and none that JSON escapes. */
static inline bool is_plain(const uint8_t *bytes)
{
    uint64_t word;
    memcpy(&word, bytes, sizeof(word));
    uint64_t quote = word ^ EACH('"'), backslash = word ^ EACH('\\');
    uint64_t odd = word | (word - EACH(0x20)) | (quote - EACH(0x01)) | (backslash - EACH(0x01));
    return (odd & EACH(0x80)) == 0;
}

static inline size_t json_length(uint8_t byte)
{
    if (byte >= 0x20)
        return byte == '"' || byte == '\\' ? 2 : 1;
    return byte == '\b' || byte == '\t' || byte == '\n' || byte == '\f' || byte == '\r' ? 2 : 6;
}

static inline bool continues(uint8_t byte)
{
    return (byte & 0xc0) == 0x80;
}

/* Length of the character of more than one byte at AT; 0: not one. */
static size_t long_character(const uint8_t *at, const uint8_t *end)
{
    size_t left = (size_t)(end - at);
    if (at[0] >= 0xc2 && at[0] <= 0xdf)
        return left >= 2 && continues(at[1]) ? 2 : 0;
    if (at[0] >= 0xe0 && at[0] <= 0xef) {
        if (left < 3 || !continues(at[1]) || !continues(at[2]))
            return 0;
        bool overlong = at[0] == 0xe0 && at[1] < 0xa0, surrogate = at[0] == 0xed && at[1] > 0x9f;
        return overlong || surrogate ? 0 : 3;
    }
    if (at[0] >= 0xf0 && at[0] <= 0xf4) {
        if (left < 4 || !continues(at[1]) || !continues(at[2]) || !continues(at[3]))
            return 0;
        bool overlong = at[0] == 0xf0 && at[1] < 0x90, beyond = at[0] == 0xf4 && at[1] > 0x8f;
        return overlong || beyond ? 0 : 4;
    }
    return 0;
}

bool kq_utf8_json_length(const uint8_t *bytes, size_t length, size_t *ret)
{
    const uint8_t *at = bytes, *end = bytes + length;
    size_t total = 0, size;
    while (at < end) {
        if (end - at >= 8 && is_plain(at)) {
            size = 8;
            total += 8;
        } else if (*at < 0x80) {
            size = 1;
            total += json_length(*at);
        } else {
            size = long_character(at, end);
            if (size == 0)
                return false;
            total += size;
        }
        at += size;
    }
    *ret = total;
    return true;
}
