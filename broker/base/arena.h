/* Memory for one request: many small allocations, released together. Zero-initialised is empty and
 * valid, without a limit; one owner, no locking. */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct kq_arena_chunk;

struct kq_arena {
    struct kq_arena_chunk *chunks; /* the newest first */
    uint8_t *at, *end;             /* what is free of the newest */
    size_t used;                   /* bytes handed out, each allocation rounded up to 8 */
    size_t limit;                  /* of them; 0: none */
};

/* Empty, for at most LIMIT bytes in all (0: no limit). */
void kq_arena_init(struct kq_arena *arena, size_t limit);

/* Bytes that the limit still allows. */
size_t kq_arena_left(const struct kq_arena *arena);

/* SIZE zeroed bytes, aligned to 8, valid until the release; never NULL for a size of 0 where there
 * is memory. NULL over the limit or without memory: nothing changed. */
void *kq_arena_alloc(struct kq_arena *arena, size_t size);

/* As kq_arena_alloc, COUNT * SIZE bytes; NULL also where the product overflows. */
void *kq_arena_array(struct kq_arena *arena, size_t count, size_t size);

/* A copy of LENGTH bytes with a NUL behind them; NULL as above. */
char *kq_arena_string(struct kq_arena *arena, const char *bytes, size_t length);

/* Frees all of it; the arena is empty and keeps its limit. */
void kq_arena_release(struct kq_arena *arena);

#define kq_autoarena __attribute__((cleanup(kq_arena_release)))
