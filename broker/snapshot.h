/* A small value that many threads read without a lock or a shared write, and that one thread at a
 * time replaces: a sequence lock over atomic words. Readers never block; they look again when they
 * met a replacement. */
#pragma once

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define KQ_SNAPSHOT_WORDS(type) ((sizeof(type) + 7) / 8)

/* Declares a member that holds a TYPE. Zero-initialised it holds zeros. */
#define KQ_SNAPSHOT(type)                                                                          \
    struct {                                                                                       \
        _Atomic uint32_t sequence;                                                                 \
        _Atomic uint64_t words[KQ_SNAPSHOT_WORDS(type)];                                           \
    }

/* COUNT words of WORDS are replaced by SIZE bytes of VALUE. One writer at a time. */
static inline void kq_snapshot_store(_Atomic uint32_t *sequence, _Atomic uint64_t *words,
                                     const void *value, size_t size)
{
    uint32_t now = atomic_load_explicit(sequence, memory_order_relaxed);
    atomic_store_explicit(sequence, now + 1, memory_order_relaxed);
    for (size_t at = 0; at < size; at += 8) {
        uint64_t word = 0;
        memcpy(&word, (const char *)value + at, size - at < 8 ? size - at : 8);
        atomic_store_explicit(&words[at / 8], word, memory_order_release);
    }
    atomic_store_explicit(sequence, now + 2, memory_order_release);
}

static inline void kq_snapshot_load(const _Atomic uint32_t *sequence, const _Atomic uint64_t *words,
                                    void *ret_value, size_t size)
{
    for (;;) {
        uint32_t before = atomic_load_explicit(sequence, memory_order_acquire);
        for (size_t at = 0; at < size; at += 8) {
            uint64_t word = atomic_load_explicit(&words[at / 8], memory_order_acquire);
            memcpy((char *)ret_value + at, &word, size - at < 8 ? size - at : 8);
        }
        if (!(before & 1) && atomic_load_explicit(sequence, memory_order_relaxed) == before)
            return;
    }
}
