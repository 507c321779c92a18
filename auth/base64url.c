#include "auth/base64url.h"

static int value_of(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '-' ? 62 : c == '_' ? 63 : -1;
}

int kq_base64url_decode(const char *text, size_t length, struct kq_buf *ret)
{
    uint32_t bits = 0;
    unsigned count = 0;
    if (length % 4 == 1)
        return -EBADMSG;
    if (kq_buf_reserve(ret, length / 4 * 3 + 3) < 0)
        return -ENOMEM;
    for (size_t i = 0; i < length; i++) {
        int value = value_of(text[i]);
        if (value < 0)
            return -EBADMSG;
        bits = (bits << 6 | (uint32_t)value) & 0xffff;
        count += 6;
        if (count >= 8) {
            count -= 8;
            ret->data[ret->length++] = (uint8_t)(bits >> count);
        }
    }
    return bits & ((1u << count) - 1) ? -EBADMSG : 0;
}
