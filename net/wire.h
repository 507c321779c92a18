/* Frames of Kafka's protocol: a 32-bit size, a header, a message (messages: message.h).
 *
 * Requests have header v1 (size | key, version, correlation id, client id), or v2 with tagged
 * fields behind it where the message's version is flexible; the client id keeps its 16-bit length
 * in both (KIP-482). Responses have header v0 (size | correlation id) or v1 with tagged fields;
 * ApiVersions always v0, so that a client can read it before it knows what the broker speaks
 * (KIP-511).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/base/wire.h"
#include "broker/extent.h"

struct kq_message;

#define KQ_WIRE_API_VERSIONS 18      /* the key whose response header is special */
#define KQ_WIRE_SASL_AUTHENTICATE 36 /* what a token without a header stands for */

struct kq_wire_header {
    int16_t key, version;
    int32_t correlation_id;
    struct kq_str client_id;          /* borrowed */
    const struct kq_message *message; /* of KEY; NULL: unknown, and then the client id is all that
                                         was read */
};

/* Reads a request's header, from behind the size to the first byte of the body. VERSION may be one
 * that the message's schema does not have: the caller checks it. Returns reader->error. */
int kq_wire_header_read(struct kq_wire_reader *reader, struct kq_wire_header *ret);

/* The same of a response to a request for VERSION of MESSAGE. */
int kq_wire_response_header_read(struct kq_wire_reader *reader, const struct kq_message *message,
                                 int16_t version, int32_t *ret_correlation_id);

/* Bytes of a file inside a frame. */
struct kq_wire_splice {
    size_t position;         /* they belong in front of this byte of the buffer */
    struct kq_extent extent; /* cut to what is to be sent; holds a reference */
};

/* A frame that is being written to a buffer, whose earlier bytes it leaves alone.
 *
 *     kq_wire_response_begin(&frame, &buf, message, version, correlation_id);
 *     kq_message_write_response(message, &frame.writer, version, response);
 *     r = kq_wire_frame_end(&frame);      0: the bytes are in BUF, the splices in the frame
 *     … the send queue takes them, see kq_wire_frame_take …
 *     kq_wire_frame_release(&frame);
 */
struct kq_wire_frame {
    struct kq_wire_writer writer; /* first: its splice callback finds the frame by it */
    size_t start;                 /* of the frame in the buffer */
    struct kq_wire_splice *splices;
    size_t splice_count, splice_capacity;
    uint64_t spliced; /* bytes of all splices */
};

void kq_wire_response_begin(struct kq_wire_frame *frame, struct kq_buf *buf,
                            const struct kq_message *message, int16_t version,
                            int32_t correlation_id);
void kq_wire_request_begin(struct kq_wire_frame *frame, struct kq_buf *buf,
                           const struct kq_message *message, int16_t version,
                           int32_t correlation_id, struct kq_str client_id);

/* Sets the size: that of the bytes in the buffer and of the splices. 0, or the writer's error (then
 * the buffer is as it was before and the splices are released); -EMSGSIZE over 2 GiB. */
int kq_wire_frame_end(struct kq_wire_frame *frame);

/* The extent of a splice, whose reference is the caller's from now on. */
struct kq_extent kq_wire_frame_take(struct kq_wire_frame *frame, size_t index);

/* Releases the splices that nobody took, and the list. */
void kq_wire_frame_release(struct kq_wire_frame *frame);
