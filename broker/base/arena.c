#include "broker/base/arena.h"

#include <string.h>

#include "broker/base/mem.h"

/* With malloc's own header this fills whole pages. */
#define FIRST_CHUNK (4096 - 32)
#define LARGEST_CHUNK (256 * 1024)

struct kq_arena_chunk {
    struct kq_arena_chunk *next;
    size_t size; /* bytes behind this header */
};

void kq_arena_init(struct kq_arena *arena, size_t limit)
{
    *arena = (struct kq_arena){.limit = limit};
}

size_t kq_arena_left(const struct kq_arena *arena)
{
    return (arena->limit ? arena->limit : SIZE_MAX / 2) - arena->used;
}

/* Chunks double, so that a large request takes few of them; what does not fit gets one of its own
 * size. */
static int add_chunk(struct kq_arena *arena, size_t size)
{
    size_t room = FIRST_CHUNK;
    if (arena->chunks)
        room = arena->chunks->size * 2;
    if (room > LARGEST_CHUNK)
        room = LARGEST_CHUNK;
    if (room < size)
        room = size;
    struct kq_arena_chunk *chunk = kq_alloc(sizeof(*chunk) + room);
    if (!chunk)
        return -ENOMEM;
    *chunk = (struct kq_arena_chunk){.next = arena->chunks, .size = room};
    arena->chunks = chunk;
    arena->at = (uint8_t *)(chunk + 1);
    arena->end = arena->at + room;
    return 0;
}

void *kq_arena_alloc(struct kq_arena *arena, size_t size)
{
    size_t left = kq_arena_left(arena);
    if (size > left)
        return NULL;
    size = size ? (size + 7) & ~(size_t)7 : 8;
    if (size > left)
        return NULL;
    if (size > (size_t)(arena->end - arena->at) && add_chunk(arena, size) < 0)
        return NULL;
    void *bytes = arena->at;
    arena->at += size;
    arena->used += size;
    return memset(bytes, 0, size);
}

void *kq_arena_array(struct kq_arena *arena, size_t count, size_t size)
{
    size_t product;
    return __builtin_mul_overflow(count, size, &product) ? NULL : kq_arena_alloc(arena, product);
}

char *kq_arena_string(struct kq_arena *arena, const char *bytes, size_t length)
{
    char *copy = length < SIZE_MAX ? kq_arena_alloc(arena, length + 1) : NULL;
    if (copy && length)
        memcpy(copy, bytes, length);
    return copy;
}

void kq_arena_release(struct kq_arena *arena)
{
    while (arena->chunks) {
        struct kq_arena_chunk *chunk = arena->chunks;
        arena->chunks = chunk->next;
        free(chunk);
    }
    kq_arena_init(arena, arena->limit);
}
