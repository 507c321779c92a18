#include "broker/compactmap.h"

#include <string.h>
#include <sys/random.h>

#include "broker/base/endian.h"
#include "broker/base/mem.h"

struct slot {
    uint64_t hash[2];
    int64_t next_offset; /* the offset and 1; 0: empty */
};

struct kq_compact_map {
    uint64_t secret[2];
    size_t slots, limit, count;
    struct slot at[];
};

_Static_assert(sizeof(struct slot) == KQ_COMPACT_SLOT, "what the settings are about");

/* --- SipHash-2-4, 128 bits --- */

static inline uint64_t rotate(uint64_t x, int bits)
{
    return x << bits | x >> (64 - bits);
}

static inline void rounds(uint64_t v[4], int count)
{
    while (count-- > 0) {
        v[0] += v[1];
        v[2] += v[3];
        v[1] = rotate(v[1], 13) ^ v[0];
        v[3] = rotate(v[3], 16) ^ v[2];
        v[0] = rotate(v[0], 32);
        v[2] += v[1];
        v[0] += v[3];
        v[1] = rotate(v[1], 17) ^ v[2];
        v[3] = rotate(v[3], 21) ^ v[0];
        v[2] = rotate(v[2], 32);
    }
}

static inline void absorb(uint64_t v[4], uint64_t word)
{
    v[3] ^= word;
    rounds(v, 2);
    v[0] ^= word;
}

void kq_compact_hash(const uint64_t secret[2], const void *bytes, size_t length, uint64_t ret[2])
{
    const uint8_t *at = bytes;
    uint64_t v[4] = {
        secret[0] ^ UINT64_C(0x736f6d6570736575),
        secret[1] ^ UINT64_C(0x646f72616e646f6d) ^ 0xee,
        secret[0] ^ UINT64_C(0x6c7967656e657261),
        secret[1] ^ UINT64_C(0x7465646279746573),
    };
    uint64_t last = (uint64_t)length << 56;
    for (; length >= 8; length -= 8, at += 8)
        absorb(v, kq_load_le64(at));
    for (size_t i = 0; i < length; i++)
        last |= (uint64_t)at[i] << 8 * i;
    absorb(v, last);
    v[2] ^= 0xee;
    rounds(v, 4);
    ret[0] = v[0] ^ v[1] ^ v[2] ^ v[3];
    v[1] ^= 0xdd;
    rounds(v, 4);
    ret[1] = v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* --- The table: open addressing, one slot behind the other --- */

int kq_compact_map_new(size_t bytes, double load, struct kq_compact_map **ret)
{
    size_t slots = bytes / sizeof(struct slot);
    slots = slots < 2 ? 2 : slots;
    struct kq_compact_map *map = kq_zalloc(sizeof(*map) + slots * sizeof(struct slot));
    if (!map)
        return -ENOMEM;
    if (getrandom(map->secret, sizeof(map->secret), 0) != sizeof(map->secret)) {
        free(map);
        return -EIO;
    }
    size_t limit = (size_t)((double)slots * load);
    map->slots = slots;
    /* One slot stays empty, so that a search ends. */
    map->limit = limit < 1 ? 1 : limit > slots - 1 ? slots - 1 : limit;
    *ret = map;
    return 0;
}

void kq_compact_map_free(struct kq_compact_map *map)
{
    free(map);
}

/* The slot of the key of HASH, or the empty one where it would be. */
static size_t find(const struct kq_compact_map *map, const uint64_t hash[2])
{
    size_t at = (size_t)(((unsigned __int128)hash[0] * map->slots) >> 64);
    for (; map->at[at].next_offset; at = at + 1 == map->slots ? 0 : at + 1)
        if (map->at[at].hash[0] == hash[0] && map->at[at].hash[1] == hash[1])
            break;
    return at;
}

bool kq_compact_map_put(struct kq_compact_map *map, const void *key, size_t length, int64_t offset)
{
    uint64_t hash[2];
    kq_compact_hash(map->secret, key, length, hash);
    struct slot *slot = &map->at[find(map, hash)];
    if (slot->next_offset == 0) {
        if (map->count == map->limit)
            return false;
        map->count++;
        memcpy(slot->hash, hash, sizeof(hash));
    }
    slot->next_offset = offset + 1;
    return true;
}

int64_t kq_compact_map_get(const struct kq_compact_map *map, const void *key, size_t length)
{
    uint64_t hash[2];
    kq_compact_hash(map->secret, key, length, hash);
    return map->at[find(map, hash)].next_offset - 1;
}

size_t kq_compact_map_count(const struct kq_compact_map *map)
{
    return map->count;
}

size_t kq_compact_map_limit(const struct kq_compact_map *map)
{
    return map->limit;
}
