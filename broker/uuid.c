#include "broker/uuid.h"

#include <string.h>
#include <sys/random.h>

#include "broker/base/err.h"

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/* Kafka keeps the ids whose first half is zero for itself; a leading '-' reads as an option. */
static int usable(const uint8_t id[KQ_UUID_BYTES])
{
    static const uint8_t zeros[8];
    return memcmp(id, zeros, sizeof(zeros)) != 0 && alphabet[id[0] >> 2] != '-';
}

int kq_uuid_new(uint8_t ret[KQ_UUID_BYTES])
{
    uint8_t id[KQ_UUID_BYTES];
    do {
        if (getrandom(id, sizeof(id), 0) != sizeof(id))
            return errno ? -errno : -EIO;
        id[6] = (uint8_t)((id[6] & 0x0f) | 0x40);
        id[8] = (uint8_t)((id[8] & 0x3f) | 0x80);
    } while (!usable(id));
    memcpy(ret, id, sizeof(id));
    return 0;
}

void kq_uuid_format(const uint8_t id[KQ_UUID_BYTES], char ret[KQ_UUID_TEXT + 1])
{
    unsigned bits = 0, count = 0;
    for (size_t i = 0; i < KQ_UUID_BYTES; i++) {
        bits = bits << 8 | id[i];
        for (count += 8; count >= 6; count -= 6)
            *ret++ = alphabet[bits >> (count - 6) & 63];
    }
    *ret++ = alphabet[bits << (6 - count) & 63];
    *ret = '\0';
}

int kq_uuid_parse(const char *text, uint8_t ret[KQ_UUID_BYTES])
{
    uint8_t id[KQ_UUID_BYTES];
    unsigned bits = 0, count = 0;
    size_t length = 0;
    for (size_t i = 0; i < KQ_UUID_TEXT; i++) {
        const char *found = text[i] ? strchr(alphabet, text[i]) : NULL;
        if (!found)
            return -EINVAL;
        bits = bits << 6 | (unsigned)(found - alphabet);
        count += 6;
        if (count >= 8) {
            count -= 8;
            id[length++] = (uint8_t)(bits >> count);
        }
    }
    memcpy(ret, id, sizeof(id));
    return 0;
}
