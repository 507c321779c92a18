/* Which offset each key of a log has last: what compaction asks for every message.
 *
 * Keys are not kept, only 16 bytes of a keyed hash of each, and its offset, 24 bytes in all, in
 * memory of a size that is fixed when the map is made. The hash is SipHash-2-4 with 128 bits
 * (Aumasson, Bernstein: "SipHash: a fast short-input PRF") under a secret that is new for each map:
 * nobody can choose keys that fall together. One thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/base/err.h"

#define KQ_COMPACT_SLOT 24 /* bytes a key */

struct kq_compact_map;

/* Room for as many keys as fill LOAD (0 < LOAD <= 1) of BYTES of memory, at least one. The memory
 * is touched as keys come. -ENOMEM; -errno. */
int kq_compact_map_new(size_t bytes, double load, struct kq_compact_map **ret);
void kq_compact_map_free(struct kq_compact_map *map); /* NULL is fine */

/* KEY has OFFSET (>= 0) last. False: it is new and there is no room, nothing changed. */
bool kq_compact_map_put(struct kq_compact_map *map, const void *key, size_t length, int64_t offset);

/* The offset that was put last for KEY; -1: none. */
int64_t kq_compact_map_get(const struct kq_compact_map *map, const void *key, size_t length);

size_t kq_compact_map_count(const struct kq_compact_map *map); /* keys in it */
size_t kq_compact_map_limit(const struct kq_compact_map *map); /* keys that fit */

/* The hash as such, for the tests of it. */
void kq_compact_hash(const uint64_t secret[2], const void *bytes, size_t length, uint64_t ret[2]);
