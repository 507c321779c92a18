/* A growable run of bytes. Zero-initialised is empty and valid; one owner, no locking. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "broker/base/err.h"

struct kq_buf {
    uint8_t *data;
    size_t length;   /* bytes in use */
    size_t capacity; /* bytes allocated */
};

/* Makes room for EXTRA more bytes behind the ones in use; the capacity at least doubles.
 * -ENOMEM leaves the buffer as it was. */
int kq_buf_reserve_slow(struct kq_buf *buf, size_t extra);

static inline int kq_buf_reserve(struct kq_buf *buf, size_t extra)
{
    return kq_likely(buf->capacity - buf->length >= extra) ? 0 : kq_buf_reserve_slow(buf, extra);
}

/* Appends; -ENOMEM changes nothing. */
int kq_buf_append(struct kq_buf *buf, const void *bytes, size_t length);
int kq_buf_append_string(struct kq_buf *buf, const char *string);
int kq_buf_printf(struct kq_buf *buf, const char *format, ...) kq_printf_like(2, 3);

/* Removes the first LENGTH bytes (at most those in use). */
void kq_buf_drop_front(struct kq_buf *buf, size_t length);

/* Empties it; frees the memory if it is larger than KEEP bytes. */
void kq_buf_clear(struct kq_buf *buf, size_t keep);

/* Frees the memory; the buffer is empty and valid again. */
void kq_buf_release(struct kq_buf *buf);

#define kq_autobuf __attribute__((cleanup(kq_buf_release)))
