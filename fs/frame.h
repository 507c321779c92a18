/* What is written to a file becomes messages: bytes -> record batches.
 *
 *   framing=line   the bytes before each delimiter are a message; bytes behind the last one wait in
 *                  the frame (the half line) for the next write, or become a message when the file
 *                  is closed
 *   framing=write  all bytes of a request are a message
 *   framing=file   all bytes until the close are a message; no byte: no message
 *   JSON           each line is a message as jsonl.h reads it, whatever the framing
 *
 * With a key separator a message's bytes are `key SEP value`, cut at the first SEP; without SEP the
 * key is null. So the text of what was built (text.h) is what was written, byte for byte; where
 * framing is line, and a delimiter ends the bytes.
 *
 * One frame an open file; calls on it one at a time. The order of one request:
 *
 *   kq_frame_write  takes the request in; the batches are in the output, the frame holds the rest
 *   kq_reserve      disk for the growth of what is pending (kq_frame_reserve_bytes)
 *   kq_append       each batch
 *   kq_frame_abort  if one of these two failed
 *
 * After an error, of kq_frame_write too, nothing of the request is in the frame: the half line is
 * dropped, and so is what is written up to the next delimiter, unless the request began and ended
 * between two messages. A later write never completes a message that lost a part.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/base/buf.h"
#include "broker/batch.h"
#include "broker/text.h"

/* Zero-initialised is a frame that holds nothing; the fields are frame.c's own. */
struct kq_frame {
    struct kq_buf pending; /* the half line, the file so far */
    bool dropping;         /* up to the next delimiter, the close for framing=file */
    bool began_inside;     /* the last request began inside a message */
    uint8_t tail_length;   /* while dropping: the last bytes, in case they begin a delimiter */
    uint8_t delimiter_length;
    uint8_t tail[KQ_TEXT_MARK_BYTES];
    uint8_t delimiter[KQ_TEXT_MARK_BYTES]; /* that PENDING has been searched for */
    enum kq_framing framing;
    int error; /* framing=file: that lost the message; every later write gets it too */
};

struct kq_frame_request {
    const struct kq_rendering *rendering; /* of new messages */
    int64_t max_message_bytes; /* max.message.bytes: a message counts as a batch of one */
    int64_t timestamp_ms;      /* of messages that bring none */
    int16_t attributes;        /* 0 or KQ_ATTRIBUTE_LOG_APPEND_TIME */
    bool json;                 /* the file is a .jsonl */
    bool may_be_fragment;      /* of one write(2): framing=write refuses it */
    bool needs_key;            /* cleanup.policy has compact: a message without key is refused */
    /* message.timestamp.before.max.ms and …after.max.ms: a message that brings a time outside these
     * is refused; -1, none, never is. */
    int64_t oldest_ms, newest_ms;
    /* The topic's partitions: messages with a key go by its hash, each partition into a batch of
     * its own. 0: all messages go into one batch, whatever their key. */
    int32_t partitions;
};

struct kq_frame_batch {
    /* Where it belongs: the partition of its messages' keys, -1 for messages without key (and for
     * all where request.partitions is 0). */
    int32_t partition;
    int32_t records;
    int64_t text_length;             /* of its text under request.rendering */
    struct kq_buf bytes;             /* one whole batch: base offset 0, checksum right */
    struct kq_batch_builder builder; /* frame.c's own */
};

/* What a request gave. Zero-initialised is empty; owned by the caller, reused from request to
 * request (one a thread, not one a file: it grows to the size of requests). Batches of a frame's
 * earlier requests are gone with the next. */
struct kq_frame_output {
    struct kq_frame_batch *batches;
    size_t count;     /* of batches that this request gave: 0 where it ended no message */
    size_t allocated; /* frame.c's own from here on */
    uint32_t *slots;  /* partition + 1 -> index into batches + 1, 0 for none */
    size_t slot_count;
    struct kq_buf joined;  /* a half line and what follows */
    struct kq_buf scratch; /* of the JSON parser */
};

struct kq_frame_result {
    int64_t pending_before, pending_after; /* bytes that wait in the frame */
};

/* Takes BYTES in. What it gave is in OUTPUT, whose earlier batches are gone.
 * 0;
 * -EMSGSIZE  a message is above request.max_message_bytes, or framing=write got what may be a
 *            fragment;
 * -EINVAL    malformed JSON line; a message without the key that it needs;
 * -ENOMEM.
 * After an error OUTPUT is empty, and the request and the half line are dropped as said above;
 * RET is filled all the same, so that the caller can give back what it reserved. */
int kq_frame_write(struct kq_frame *frame, const struct kq_frame_request *request,
                   const void *bytes, size_t length, struct kq_frame_output *output,
                   struct kq_frame_result *ret);

/* A request that there is no memory to take in: dropped as after an error of kq_frame_write. */
void kq_frame_refuse(struct kq_frame *frame, const struct kq_frame_request *request,
                     const void *bytes, size_t length, int error);

/* The last write could not be kept for ERROR (a negated errno; no disk to reserve, the append
 * failed): drops what it left in the frame. Nothing is pending then. */
void kq_frame_abort(struct kq_frame *frame, int error);

/* The file is closed: what waits becomes a message. As kq_frame_write. The frame is then as new,
 * except after -ENOMEM, which changes nothing: it may be called again. */
int kq_frame_finish(struct kq_frame *frame, const struct kq_frame_request *request,
                    struct kq_frame_output *output, struct kq_frame_result *ret);

/* Bytes that wait for their delimiter, or for the close. */
static inline int64_t kq_frame_pending(const struct kq_frame *frame)
{
    return (int64_t)frame->pending.length;
}

/* Disk that PENDING bytes take at most once they are a batch of their own. */
static inline int64_t kq_frame_reserve_bytes(int64_t pending)
{
    return pending > 0 ? pending + KQ_BATCH_HEADER + 64 : 0;
}

void kq_frame_release(struct kq_frame *frame);

/* Frees what is larger than KEEP bytes. */
void kq_frame_output_trim(struct kq_frame_output *output, size_t keep);
void kq_frame_output_release(struct kq_frame_output *output);
