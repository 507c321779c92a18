#include "broker/base/buf.h"

#include <stdarg.h>
#include <stdio.h>

#include "broker/base/mem.h"

int kq_buf_reserve_slow(struct kq_buf *buf, size_t extra)
{
    if (extra > SIZE_MAX / 4 - buf->length)
        return -ENOMEM;
    size_t capacity = buf->capacity ? buf->capacity * 2 : 64;
    while (capacity < buf->length + extra)
        capacity *= 2;
    uint8_t *data = kq_realloc(buf->data, capacity);
    if (!data)
        return -ENOMEM;
    buf->data = data;
    buf->capacity = capacity;
    return 0;
}

int kq_buf_append(struct kq_buf *buf, const void *bytes, size_t length)
{
    int r = kq_buf_reserve(buf, length);
    if (r < 0)
        return r;
    if (length)
        memcpy(buf->data + buf->length, bytes, length);
    buf->length += length;
    return 0;
}

int kq_buf_append_string(struct kq_buf *buf, const char *string)
{
    return kq_buf_append(buf, string, strlen(string));
}

int kq_buf_printf(struct kq_buf *buf, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (length < 0)
        return -EINVAL;
    int r = kq_buf_reserve(buf, (size_t)length + 1);
    if (r < 0)
        return r;
    va_start(arguments, format);
    vsnprintf((char *)buf->data + buf->length, (size_t)length + 1, format, arguments);
    va_end(arguments);
    buf->length += (size_t)length;
    return 0;
}

void kq_buf_drop_front(struct kq_buf *buf, size_t length)
{
    if (length >= buf->length) {
        buf->length = 0;
        return;
    }
    buf->length -= length;
    memmove(buf->data, buf->data + length, buf->length);
}

void kq_buf_clear(struct kq_buf *buf, size_t keep)
{
    if (buf->capacity > keep)
        kq_buf_release(buf);
    buf->length = 0;
}

void kq_buf_release(struct kq_buf *buf)
{
    free(buf->data);
    *buf = (struct kq_buf){0};
}
