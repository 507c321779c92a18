#include "net/wire.h"

#include "broker/base/mem.h"
#include "net/message.h"

int kq_wire_header_read(struct kq_wire_reader *reader, struct kq_wire_header *ret)
{
    struct kq_wire_header header = {.key = kq_wire_read_int16(reader),
                                    .version = kq_wire_read_int16(reader),
                                    .correlation_id = kq_wire_read_int32(reader),
                                    .client_id = kq_wire_read_string(reader, false, true)};
    header.message = kq_message_find(header.key);
    if (header.message && header.version >= header.message->flexible)
        kq_wire_skip_tags(reader);
    if (!reader->error)
        *ret = header;
    return reader->error;
}

static bool has_response_tags(const struct kq_message *message, int16_t version)
{
    return version >= message->flexible && message->key != KQ_WIRE_API_VERSIONS;
}

int kq_wire_response_header_read(struct kq_wire_reader *reader, const struct kq_message *message,
                                 int16_t version, int32_t *ret_correlation_id)
{
    int32_t correlation_id = kq_wire_read_int32(reader);
    if (has_response_tags(message, version))
        kq_wire_skip_tags(reader);
    if (!reader->error)
        *ret_correlation_id = correlation_id;
    return reader->error;
}

static int add_splice(struct kq_wire_writer *writer, const struct kq_extent *extent,
                      uint32_t length)
{
    struct kq_wire_frame *frame = (struct kq_wire_frame *)writer;
    if (length > extent->length)
        return -EINVAL;
    if (frame->splice_count == frame->splice_capacity) {
        size_t capacity = frame->splice_capacity ? frame->splice_capacity * 2 : 8;
        void *splices = kq_realloc(frame->splices, capacity * sizeof(*frame->splices));
        if (!splices)
            return -ENOMEM;
        frame->splices = splices;
        frame->splice_capacity = capacity;
    }
    kq_extent_ref(extent);
    struct kq_wire_splice *splice = &frame->splices[frame->splice_count++];
    *splice = (struct kq_wire_splice){writer->buf->length, *extent};
    splice->extent.length = length;
    frame->spliced += length;
    return 0;
}

static void begin(struct kq_wire_frame *frame, struct kq_buf *buf)
{
    *frame = (struct kq_wire_frame){.start = buf->length};
    kq_wire_writer_init(&frame->writer, buf);
    frame->writer.splice = add_splice;
    kq_wire_write_int32(&frame->writer, 0); /* the size, once it is known */
}

void kq_wire_response_begin(struct kq_wire_frame *frame, struct kq_buf *buf,
                            const struct kq_message *message, int16_t version,
                            int32_t correlation_id)
{
    begin(frame, buf);
    kq_wire_write_int32(&frame->writer, correlation_id);
    if (has_response_tags(message, version))
        kq_wire_write_uvarint(&frame->writer, 0);
}

void kq_wire_request_begin(struct kq_wire_frame *frame, struct kq_buf *buf,
                           const struct kq_message *message, int16_t version,
                           int32_t correlation_id, struct kq_str client_id)
{
    begin(frame, buf);
    kq_wire_write_int16(&frame->writer, message->key);
    kq_wire_write_int16(&frame->writer, version);
    kq_wire_write_int32(&frame->writer, correlation_id);
    kq_wire_write_string(&frame->writer, false, true, client_id);
    if (version >= message->flexible)
        kq_wire_write_uvarint(&frame->writer, 0);
}

int kq_wire_frame_end(struct kq_wire_frame *frame)
{
    struct kq_buf *buf = frame->writer.buf;
    uint64_t size = frame->spliced + (buf->length - frame->start) - sizeof(int32_t);
    if (!frame->writer.error && size > INT32_MAX)
        kq_wire_writer_fail(&frame->writer, -EMSGSIZE);
    if (frame->writer.error) {
        buf->length = frame->start;
        kq_wire_frame_release(frame);
        return frame->writer.error;
    }
    kq_store_be32(buf->data + frame->start, (uint32_t)size);
    return 0;
}

struct kq_extent kq_wire_frame_take(struct kq_wire_frame *frame, size_t index)
{
    struct kq_extent extent = frame->splices[index].extent;
    frame->splices[index].extent.owner = NULL;
    return extent;
}

void kq_wire_frame_release(struct kq_wire_frame *frame)
{
    for (size_t i = 0; i < frame->splice_count; i++)
        kq_extent_unref(&frame->splices[i].extent);
    free(frame->splices);
    frame->splices = NULL;
    frame->splice_count = frame->splice_capacity = 0;
    frame->spliced = 0;
}
