/* The primitive types of Kafka's protocol (KIP-482 and the protocol guide): requests, responses and
 * the records of internal topics are made of them.
 *
 * Reader and writer remember the first error and then do nothing more, so that a caller asks once,
 * at the end. What is read borrows from the bytes; arrays come from the reader's arena. One owner,
 * no locking.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "broker/base/arena.h"
#include "broker/base/buf.h"
#include "broker/base/endian.h"
#include "broker/base/err.h"

struct kq_extent;

/* NOT NUL-terminated. A length of -1 is null; DATA may be NULL where the length is 0. */
struct kq_str {
    const char *data;
    int32_t length;
};

struct kq_bytes {
    const uint8_t *data;
    int32_t length; /* -1: null */
};

/* Record batches: DATA in memory (all that is read), or, to be written, the first LENGTH bytes of
 * EXTENT, which are not copied. */
struct kq_wire_records {
    const struct kq_extent *extent;
    const uint8_t *data;
    int32_t length; /* -1: null */
};

#define KQ_STR(literal) ((struct kq_str){(literal), (int32_t)sizeof(literal) - 1})
#define KQ_STR_NULL ((struct kq_str){NULL, -1})

/* Strings longer than this are refused, as Kafka does. */
#define KQ_WIRE_LARGEST_STRING INT16_MAX

/* A NUL-terminated string, borrowed; null for NULL. Cut at INT32_MAX bytes. */
static inline struct kq_str kq_str_of(const char *string)
{
    if (!string)
        return KQ_STR_NULL;
    size_t length = strlen(string);
    return (struct kq_str){string, length < INT32_MAX ? (int32_t)length : INT32_MAX};
}

static inline bool kq_str_is(struct kq_str a, struct kq_str b)
{
    return a.length == b.length && (a.length <= 0 || memcmp(a.data, b.data, (size_t)a.length) == 0);
}

/* --- Reading --- */

struct kq_wire_reader {
    const uint8_t *at, *end;
    struct kq_arena *arena; /* for arrays; NULL where none are read */
    int error;              /* 0; -EBADMSG: malformed or cut off; -ENOMEM; -E2BIG: beyond the
                               arena's limit */
};

/* BYTES may be NULL where the length is 0. */
static inline void kq_wire_reader_init(struct kq_wire_reader *reader, const void *bytes,
                                       size_t length, struct kq_arena *arena)
{
    const uint8_t *at = length ? bytes : (const uint8_t *)"";
    *reader = (struct kq_wire_reader){at, at + length, arena, 0};
}

/* Remembers ERROR if it is the first; nothing is left to read. */
void kq_wire_reader_fail(struct kq_wire_reader *reader, int error);

/* The end of a message: the error, or -EBADMSG if bytes are left over. */
int kq_wire_reader_finish(struct kq_wire_reader *reader);

static inline size_t kq_wire_left(const struct kq_wire_reader *reader)
{
    return (size_t)(reader->end - reader->at);
}

/* The next LENGTH bytes, or NULL and -EBADMSG. */
static inline const uint8_t *kq_wire_take(struct kq_wire_reader *reader, size_t length)
{
    if (kq_unlikely(kq_wire_left(reader) < length)) {
        kq_wire_reader_fail(reader, -EBADMSG);
        return NULL;
    }
    const uint8_t *bytes = reader->at;
    reader->at += length;
    return bytes;
}

/* All of these return 0 (false) after an error. */
static inline int8_t kq_wire_read_int8(struct kq_wire_reader *reader)
{
    const uint8_t *bytes = kq_wire_take(reader, 1);
    return bytes ? (int8_t)*bytes : 0;
}

static inline bool kq_wire_read_bool(struct kq_wire_reader *reader)
{
    return kq_wire_read_int8(reader) != 0;
}

static inline uint16_t kq_wire_read_uint16(struct kq_wire_reader *reader)
{
    const uint8_t *bytes = kq_wire_take(reader, 2);
    return bytes ? kq_load_be16(bytes) : 0;
}

static inline int16_t kq_wire_read_int16(struct kq_wire_reader *reader)
{
    return (int16_t)kq_wire_read_uint16(reader);
}

static inline uint32_t kq_wire_read_uint32(struct kq_wire_reader *reader)
{
    const uint8_t *bytes = kq_wire_take(reader, 4);
    return bytes ? kq_load_be32(bytes) : 0;
}

static inline int32_t kq_wire_read_int32(struct kq_wire_reader *reader)
{
    return (int32_t)kq_wire_read_uint32(reader);
}

static inline int64_t kq_wire_read_int64(struct kq_wire_reader *reader)
{
    const uint8_t *bytes = kq_wire_take(reader, 8);
    return bytes ? (int64_t)kq_load_be64(bytes) : 0;
}

double kq_wire_read_float64(struct kq_wire_reader *reader);
void kq_wire_read_uuid(struct kq_wire_reader *reader, uint8_t ret[16]); /* zero after an error */

/* At most five (ten) bytes; what does not fit the type is malformed. The signed ones are zigzag. */
uint32_t kq_wire_read_uvarint(struct kq_wire_reader *reader);
int32_t kq_wire_read_varint(struct kq_wire_reader *reader);
int64_t kq_wire_read_varlong(struct kq_wire_reader *reader);

/* COMPACT: with an unsigned varint of the length plus one (flexible versions), else with 16 bits
 * (strings) or 32 bits. A null where NULLABLE is false is malformed. */
struct kq_str kq_wire_read_string(struct kq_wire_reader *reader, bool compact, bool nullable);
struct kq_bytes kq_wire_read_bytes(struct kq_wire_reader *reader, bool compact, bool nullable);

/* An array's count, -1 for null: at most what the bytes left can hold at MINIMUM (> 0) bytes an
 * element; more is malformed. */
int32_t kq_wire_read_count(struct kq_wire_reader *reader, bool compact, bool nullable,
                           size_t minimum);

/* Zeroed memory for COUNT elements of SIZE bytes, or NULL and -E2BIG or -ENOMEM. */
void *kq_wire_reader_array(struct kq_wire_reader *reader, int32_t count, size_t size);

/* The next of COUNT tagged fields: its tag, which must be larger than *LAST (-1 at first; set
 * here), and a reader of its bytes, behind which READER then stands. Ask for reader->error. */
void kq_wire_read_tag(struct kq_wire_reader *reader, int64_t *last, struct kq_wire_reader *ret);

/* Skips a section of tagged fields of which none is known. */
void kq_wire_skip_tags(struct kq_wire_reader *reader);

/* --- Writing --- */

struct kq_wire_writer {
    struct kq_buf *buf;
    int error; /* 0; -ENOMEM; -EINVAL: a value that the type or the version cannot hold */
    /* Takes records that lie in a file, for which the length was just written; they belong behind
     * the last byte of BUF. NULL: such records are -EINVAL. Returns 0 or -errno. */
    int (*splice)(struct kq_wire_writer *writer, const struct kq_extent *extent, uint32_t length);
};

static inline void kq_wire_writer_init(struct kq_wire_writer *writer, struct kq_buf *buf)
{
    *writer = (struct kq_wire_writer){.buf = buf};
}

/* Remembers ERROR if it is the first. */
void kq_wire_writer_fail(struct kq_wire_writer *writer, int error);

/* Room for LENGTH more bytes, counted as written; NULL after an error. */
static inline uint8_t *kq_wire_put(struct kq_wire_writer *writer, size_t length)
{
    if (kq_unlikely(writer->error))
        return NULL;
    int r = kq_buf_reserve(writer->buf, length);
    if (kq_unlikely(r < 0)) {
        kq_wire_writer_fail(writer, r);
        return NULL;
    }
    uint8_t *bytes = writer->buf->data + writer->buf->length;
    writer->buf->length += length;
    return bytes;
}

static inline void kq_wire_write_int8(struct kq_wire_writer *writer, int8_t value)
{
    uint8_t *bytes = kq_wire_put(writer, 1);
    if (bytes)
        *bytes = (uint8_t)value;
}

static inline void kq_wire_write_bool(struct kq_wire_writer *writer, bool value)
{
    kq_wire_write_int8(writer, value);
}

static inline void kq_wire_write_int16(struct kq_wire_writer *writer, int16_t value)
{
    uint8_t *bytes = kq_wire_put(writer, 2);
    if (bytes)
        kq_store_be16(bytes, (uint16_t)value);
}

static inline void kq_wire_write_int32(struct kq_wire_writer *writer, int32_t value)
{
    uint8_t *bytes = kq_wire_put(writer, 4);
    if (bytes)
        kq_store_be32(bytes, (uint32_t)value);
}

static inline void kq_wire_write_int64(struct kq_wire_writer *writer, int64_t value)
{
    uint8_t *bytes = kq_wire_put(writer, 8);
    if (bytes)
        kq_store_be64(bytes, (uint64_t)value);
}

void kq_wire_write_float64(struct kq_wire_writer *writer, double value);
void kq_wire_write_raw(struct kq_wire_writer *writer, const void *bytes, size_t length);
void kq_wire_write_uvarint(struct kq_wire_writer *writer, uint32_t value);
void kq_wire_write_varint(struct kq_wire_writer *writer, int32_t value);
void kq_wire_write_varlong(struct kq_wire_writer *writer, int64_t value);

/* As the reading ones. -EINVAL: null where NULLABLE is false, or too long. */
void kq_wire_write_string(struct kq_wire_writer *writer, bool compact, bool nullable,
                          struct kq_str string);
void kq_wire_write_bytes(struct kq_wire_writer *writer, bool compact, bool nullable,
                         struct kq_bytes bytes);
void kq_wire_write_records(struct kq_wire_writer *writer, bool compact, bool nullable,
                           struct kq_wire_records records);
void kq_wire_write_count(struct kq_wire_writer *writer, bool compact, bool nullable, int32_t count);

/* Puts the length of what was written since FROM (a position in the buffer) in front of it, as an
 * unsigned varint: the size of a tagged field. */
void kq_wire_write_size_at(struct kq_wire_writer *writer, size_t from);
