#include "broker/base/wire.h"

void kq_wire_reader_fail(struct kq_wire_reader *reader, int error)
{
    if (!reader->error)
        reader->error = error;
    reader->at = reader->end;
}

int kq_wire_reader_finish(struct kq_wire_reader *reader)
{
    if (reader->at != reader->end)
        kq_wire_reader_fail(reader, -EBADMSG);
    return reader->error;
}

double kq_wire_read_float64(struct kq_wire_reader *reader)
{
    double value;
    int64_t bits = kq_wire_read_int64(reader);
    memcpy(&value, &bits, sizeof(value));
    return value;
}

void kq_wire_read_uuid(struct kq_wire_reader *reader, uint8_t ret[16])
{
    const uint8_t *bytes = kq_wire_take(reader, 16);
    if (bytes)
        memcpy(ret, bytes, 16);
    else
        memset(ret, 0, 16);
}

static uint64_t read_varint(struct kq_wire_reader *reader, unsigned bits)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < bits; shift += 7) {
        const uint8_t *byte = kq_wire_take(reader, 1);
        if (!byte)
            return 0;
        uint64_t part = *byte & 0x7f;
        if (shift + 7 > bits && part >> (bits - shift))
            break;
        value |= part << shift;
        if (*byte < 0x80)
            return value;
    }
    kq_wire_reader_fail(reader, -EBADMSG);
    return 0;
}

uint32_t kq_wire_read_uvarint(struct kq_wire_reader *reader)
{
    if (kq_likely(reader->at < reader->end && *reader->at < 0x80))
        return *reader->at++;
    return (uint32_t)read_varint(reader, 32);
}

int32_t kq_wire_read_varint(struct kq_wire_reader *reader)
{
    uint32_t value = kq_wire_read_uvarint(reader);
    return (int32_t)(value >> 1 ^ -(value & 1));
}

int64_t kq_wire_read_varlong(struct kq_wire_reader *reader)
{
    uint64_t value = read_varint(reader, 64);
    return (int64_t)(value >> 1 ^ -(value & 1));
}

/* A length or count in one of its forms; -1 is null. */
static int64_t read_length(struct kq_wire_reader *reader, bool compact, bool nullable, bool wide)
{
    int64_t length;
    if (compact)
        length = (int64_t)kq_wire_read_uvarint(reader) - 1;
    else
        length = wide ? kq_wire_read_int32(reader) : kq_wire_read_int16(reader);
    if (length < (nullable ? -1 : 0))
        kq_wire_reader_fail(reader, -EBADMSG);
    return reader->error ? -1 : length;
}

struct kq_str kq_wire_read_string(struct kq_wire_reader *reader, bool compact, bool nullable)
{
    int64_t length = read_length(reader, compact, nullable, false);
    if (length > KQ_WIRE_LARGEST_STRING)
        kq_wire_reader_fail(reader, -EBADMSG);
    if (length < 0 || reader->error)
        return KQ_STR_NULL;
    const uint8_t *bytes = kq_wire_take(reader, (size_t)length);
    return bytes ? (struct kq_str){(const char *)bytes, (int32_t)length} : KQ_STR_NULL;
}

struct kq_bytes kq_wire_read_bytes(struct kq_wire_reader *reader, bool compact, bool nullable)
{
    int64_t length = read_length(reader, compact, nullable, true);
    if (length > INT32_MAX)
        kq_wire_reader_fail(reader, -EBADMSG);
    if (length < 0 || reader->error)
        return (struct kq_bytes){NULL, -1};
    const uint8_t *bytes = kq_wire_take(reader, (size_t)length);
    return bytes ? (struct kq_bytes){bytes, (int32_t)length} : (struct kq_bytes){NULL, -1};
}

int32_t kq_wire_read_count(struct kq_wire_reader *reader, bool compact, bool nullable,
                           size_t minimum)
{
    int64_t count = read_length(reader, compact, nullable, true);
    if (count > INT32_MAX || (count > 0 && (uint64_t)count > kq_wire_left(reader) / minimum)) {
        kq_wire_reader_fail(reader, -EBADMSG);
        return -1;
    }
    return (int32_t)count;
}

void *kq_wire_reader_array(struct kq_wire_reader *reader, int32_t count, size_t size)
{
    void *array = kq_arena_array(reader->arena, (size_t)count, size);
    if (!array) {
        bool over = (size_t)count > kq_arena_left(reader->arena) / size;
        kq_wire_reader_fail(reader, over ? -E2BIG : -ENOMEM);
    }
    return array;
}

void kq_wire_read_tag(struct kq_wire_reader *reader, int64_t *last, struct kq_wire_reader *ret)
{
    uint32_t tag = kq_wire_read_uvarint(reader);
    uint32_t size = kq_wire_read_uvarint(reader);
    if (tag <= *last)
        kq_wire_reader_fail(reader, -EBADMSG);
    const uint8_t *bytes = kq_wire_take(reader, size);
    if (reader->error)
        return;
    *last = tag;
    kq_wire_reader_init(ret, bytes, size, reader->arena);
}

void kq_wire_skip_tags(struct kq_wire_reader *reader)
{
    int64_t last = -1;
    struct kq_wire_reader field;
    for (uint32_t count = kq_wire_read_uvarint(reader); count && !reader->error; count--)
        kq_wire_read_tag(reader, &last, &field);
}

void kq_wire_writer_fail(struct kq_wire_writer *writer, int error)
{
    if (!writer->error)
        writer->error = error;
}

void kq_wire_write_float64(struct kq_wire_writer *writer, double value)
{
    int64_t bits;
    memcpy(&bits, &value, sizeof(bits));
    kq_wire_write_int64(writer, bits);
}

void kq_wire_write_raw(struct kq_wire_writer *writer, const void *bytes, size_t length)
{
    uint8_t *to = kq_wire_put(writer, length);
    if (to && length)
        memcpy(to, bytes, length);
}

/* The varint of VALUE; its length. */
static size_t form_varint(uint64_t value, uint8_t ret[10])
{
    size_t length = 0;
    while (value >= 0x80) {
        ret[length++] = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    ret[length++] = (uint8_t)value;
    return length;
}

void kq_wire_write_uvarint(struct kq_wire_writer *writer, uint32_t value)
{
    uint8_t bytes[10];
    if (kq_likely(value < 0x80))
        kq_wire_write_int8(writer, (int8_t)value);
    else
        kq_wire_write_raw(writer, bytes, form_varint(value, bytes));
}

void kq_wire_write_varint(struct kq_wire_writer *writer, int32_t value)
{
    kq_wire_write_uvarint(writer, (uint32_t)value << 1 ^ (uint32_t)(value >> 31));
}

void kq_wire_write_varlong(struct kq_wire_writer *writer, int64_t value)
{
    uint8_t bytes[10];
    size_t length = form_varint((uint64_t)value << 1 ^ (uint64_t)(value >> 63), bytes);
    kq_wire_write_raw(writer, bytes, length);
}

static void write_length(struct kq_wire_writer *writer, bool compact, bool nullable, bool wide,
                         int32_t length)
{
    if (length < (nullable ? -1 : 0))
        kq_wire_writer_fail(writer, -EINVAL);
    else if (compact)
        kq_wire_write_uvarint(writer, (uint32_t)length + 1);
    else if (wide)
        kq_wire_write_int32(writer, length);
    else
        kq_wire_write_int16(writer, (int16_t)length);
}

void kq_wire_write_string(struct kq_wire_writer *writer, bool compact, bool nullable,
                          struct kq_str string)
{
    if (string.length > KQ_WIRE_LARGEST_STRING) {
        kq_wire_writer_fail(writer, -EINVAL);
        return;
    }
    write_length(writer, compact, nullable, false, string.length);
    if (string.length > 0)
        kq_wire_write_raw(writer, string.data, (size_t)string.length);
}

void kq_wire_write_bytes(struct kq_wire_writer *writer, bool compact, bool nullable,
                         struct kq_bytes bytes)
{
    write_length(writer, compact, nullable, true, bytes.length);
    if (bytes.length > 0)
        kq_wire_write_raw(writer, bytes.data, (size_t)bytes.length);
}

void kq_wire_write_records(struct kq_wire_writer *writer, bool compact, bool nullable,
                           struct kq_wire_records records)
{
    if (!records.extent || records.length <= 0) {
        kq_wire_write_bytes(writer, compact, nullable,
                            (struct kq_bytes){records.data, records.length});
        return;
    }
    write_length(writer, compact, nullable, true, records.length);
    if (writer->error)
        return;
    int r =
        writer->splice ? writer->splice(writer, records.extent, (uint32_t)records.length) : -EINVAL;
    if (r < 0)
        kq_wire_writer_fail(writer, r);
}

void kq_wire_write_count(struct kq_wire_writer *writer, bool compact, bool nullable, int32_t count)
{
    write_length(writer, compact, nullable, true, count);
}

void kq_wire_write_size_at(struct kq_wire_writer *writer, size_t from)
{
    uint8_t prefix[10];
    size_t size = writer->buf->length - from;
    size_t length = form_varint(size, prefix);
    if (size > INT32_MAX)
        kq_wire_writer_fail(writer, -EINVAL);
    if (!kq_wire_put(writer, length))
        return;
    uint8_t *at = writer->buf->data + from;
    memmove(at + length, at, size);
    memcpy(at, prefix, length);
}
