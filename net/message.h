/* The keys of Kafka's protocol that this build can parse: which of them are served is the business
 * of the table in api.h. Made from net/schema; each has its structs in net/message/<name>.h. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "broker/base/schema.h"

#define KQ_MESSAGE_KEYS 128 /* keys are below this */

struct kq_message {
    int16_t key;
    int16_t lowest, highest; /* versions of the schema */
    int16_t flexible;        /* first flexible version; INT16_MAX: none */
    const char *name;        /* Kafka's: "Metadata" */
    const struct kq_wire_schema *request, *response;
};

/* In order of their keys. */
extern const struct kq_message kq_messages[];
extern const size_t kq_message_count;
extern const uint8_t kq_message_places[KQ_MESSAGE_KEYS];

/* NULL: unknown. */
static inline const struct kq_message *kq_message_find(int16_t key)
{
    unsigned place = key >= 0 && key < KQ_MESSAGE_KEYS ? kq_message_places[key] : 0;
    return place ? &kq_messages[place - 1] : NULL;
}

/* Bytes of the C structs, for memory from an arena. */
static inline size_t kq_message_request_size(const struct kq_message *message)
{
    return message->request->shapes[0].size;
}

static inline size_t kq_message_response_size(const struct kq_message *message)
{
    return message->response->shapes[0].size;
}

static inline void kq_message_init_request(const struct kq_message *message, void *ret)
{
    kq_schema_init(message->request, 0, ret);
}

static inline void kq_message_init_response(const struct kq_message *message, void *ret)
{
    kq_schema_init(message->response, 0, ret);
}

/* The body behind the header: kq_schema_read and kq_schema_write say what they return. */
static inline int kq_message_read_request(const struct kq_message *message,
                                          struct kq_wire_reader *reader, int16_t version, void *ret)
{
    return kq_schema_read(message->request, reader, version, ret);
}

static inline int kq_message_write_request(const struct kq_message *message,
                                           struct kq_wire_writer *writer, int16_t version,
                                           const void *request)
{
    return kq_schema_write(message->request, writer, version, request);
}

static inline int kq_message_read_response(const struct kq_message *message,
                                           struct kq_wire_reader *reader, int16_t version,
                                           void *ret)
{
    return kq_schema_read(message->response, reader, version, ret);
}

static inline int kq_message_write_response(const struct kq_message *message,
                                            struct kq_wire_writer *writer, int16_t version,
                                            const void *response)
{
    return kq_schema_write(message->response, writer, version, response);
}
