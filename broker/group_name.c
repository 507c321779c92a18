/* Names of groups: which are valid, and the hash that leads to a shard. */
#include "broker/group.h"

#include "broker/base/mem.h"

/* The next character of UTF-8 text and what it is long; 0: malformed (RFC 3629, section 4). */
static int decode(const uint8_t *at, const uint8_t *end, uint32_t *ret)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    int length = *at < 0x80 ? 1 : *at < 0xc0 ? 0 : *at < 0xe0 ? 2 : *at < 0xf0 ? 3 : 4;
    if (length == 0 || *at >= 0xf8 || end - at < length)
        return 0;
    uint32_t character = length == 1 ? *at : *at & (0x7fU >> length);
    for (int i = 1; i < length; i++) {
        if ((at[i] & 0xc0) != 0x80)
            return 0;
        character = character << 6 | (at[i] & 0x3f);
    }
    bool surrogate = character >= 0xd800 && character < 0xe000;
    if (character < least[length] || character > 0x10ffff || surrogate)
        return 0;
    *ret = character;
    return length;
}

bool kq_groups_name_valid(struct kq_str name)
{
    uint32_t character;
    if (name.length < 0 || name.length > KQ_WIRE_LARGEST_STRING)
        return false;
    const uint8_t *at = (const uint8_t *)name.data, *end = at + name.length;
    for (int length; at < end; at += length)
        if ((length = decode(at, end, &character)) == 0 || character == 0)
            return false;
    return true;
}

/* Over UTF-16, as Java keeps strings. */
int32_t kq_groups_hash(struct kq_str name)
{
    const uint8_t *at = (const uint8_t *)name.data, *end = at + name.length;
    uint32_t hash = 0, character;
    for (int length; at < end && (length = decode(at, end, &character)) > 0; at += length) {
        if (character >= 0x10000) {
            hash = hash * 31 + (0xd800 + ((character - 0x10000) >> 10));
            character = 0xdc00 + ((character - 0x10000) & 0x3ff);
        }
        hash = hash * 31 + character;
    }
    return (int32_t)hash;
}

int kq_group_copy(struct kq_str from, struct kq_str *ret)
{
    char *copy = NULL;
    if (from.length > 0) {
        copy = kq_alloc((size_t)from.length + 1);
        if (!copy)
            return -ENOMEM;
        memcpy(copy, from.data, (size_t)from.length);
        copy[from.length] = 0;
    }
    *ret = (struct kq_str){copy, from.length};
    return 0;
}
