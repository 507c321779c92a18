/* A partition's log behind the door's prototypes, made of batches in memory files: for tests of
 * what reads through the door. It keeps a model of every message beside the batches. */
#pragma once

#include <stdatomic.h>

#include "broker/broker.h"
#include "broker/verified.h"

#define FAKE_SEGMENTS 8
#define FAKE_MESSAGES 4096
#define FAKE_RENDERINGS 4

struct fake_message {
    int64_t offset, timestamp;
    struct kq_buf key, value;
    int32_t key_length, value_length; /* -1: null */
    int64_t text_at;                  /* where its text begins */
};

struct fake_segment {
    int fd;
    int64_t length, base_offset;
    struct kq_buf batches; /* of struct fake_batch */
    struct kq_verified verified;
};

struct fake_batch {
    int64_t position, base_offset, next_offset, text;
    uint32_t size;
};

struct fake_log {
    struct fake_segment segments[FAKE_SEGMENTS];
    int segment_count;
    struct fake_message messages[FAKE_MESSAGES];
    int message_count;
    struct kq_rendering renderings[FAKE_RENDERINGS];
    int rendering_count;
    int64_t start_offset, next_offset;
    struct kq_buf text; /* all of it, from position 0 */
    int64_t start_text; /* text position of START_OFFSET */
    bool cold;          /* reads that may not block say so */
    bool deleted;       /* the topic */
    struct kq_waiter *waiters;
    atomic_int held;     /* extents not released */
    atomic_int verified; /* checksums that readers computed */
};

extern struct fake_log fake_log;

void fake_open(void);
void fake_close(void);
void fake_roll(void);

/* How messages appended from now on read. */
void fake_render(const char *separator, const char *delimiter);

/* Appends COUNT messages as one batch. KEYS may be NULL, and each of them; likewise VALUES' parts.
 */
struct fake_part {
    const char *bytes; /* NULL: null */
    int32_t length;
};
void fake_append(const struct fake_part *keys, const struct fake_part *values, int count,
                 enum kq_codec codec);

/* A control batch of one record; a gap of COUNT offsets. */
void fake_append_control(void);
void fake_gap(int count);

/* Damages the byte at INTO of the last batch. */
void fake_damage(int into, uint8_t byte);

/* Retention: the messages before OFFSET are gone. */
void fake_retain(int64_t offset);

/* Calls the waiters that an append would call. */
void fake_wake(enum kq_wake why);

struct kq_access fake_access(void);
