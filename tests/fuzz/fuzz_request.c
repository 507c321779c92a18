/* Every message of the protocol and of internal topics, in all versions, as it comes from a client
 * or from a log. What reads is written again, and then reads and is written the same.
 *
 * The first byte is the key, or from 128 on chooses a record; the second is the version, of a
 * response from 128 on. An unknown key means a request with its header. */
#include "net/wire.h"
#include "tests/fuzz/fuzz.h"
#include "tests/unit/message_kit.h"
#include "tests/unit/schemas.h"

#define LIMIT (1 << 20)

/* A message from ARENA; NULL if it is not one. */
static void *parse(const struct kq_wire_schema *schema, int16_t version, const uint8_t *bytes,
                   size_t length, struct kq_arena *arena)
{
    void *message = kq_schema_array(schema, 0, arena, 1);
    int r = kq_schema_parse(schema, bytes, length, version, arena, message);
    MUST(r == 0 || r == -EBADMSG || r == -E2BIG);
    MUST(arena->used <= LIMIT);
    return r == 0 ? message : NULL;
}

static void write_message(const struct kq_wire_schema *schema, int16_t version, const void *message,
                          struct kq_buf *ret)
{
    struct kq_wire_writer writer;
    kq_wire_writer_init(&writer, ret);
    MUST(kq_schema_write(schema, &writer, version, message) == 0);
}

static bool same(const struct kq_buf *a, const struct kq_buf *b)
{
    return a->length == b->length && (!a->length || memcmp(a->data, b->data, a->length) == 0);
}

static void there_and_back(const struct kq_wire_schema *schema, int16_t version,
                           const uint8_t *bytes, size_t length)
{
    kq_autobuf struct kq_buf first = {0}, second = {0}, shown = {0}, shown_again = {0};
    struct kq_arena arena, arena_again;
    kq_arena_init(&arena, LIMIT);
    kq_arena_init(&arena_again, LIMIT);
    void *message = parse(schema, version, bytes, length, &arena);
    if (message) {
        write_message(schema, version, message, &first);
        MUST(first.length <= length); /* unknown tags are lost, long varints become short */
        void *again = parse(schema, version, first.data, first.length, &arena_again);
        MUST(again);
        write_message(schema, version, again, &second);
        MUST(same(&first, &second));
        show_message(schema, message, &shown);
        show_message(schema, again, &shown_again);
        MUST(same(&shown, &shown_again));
    }
    kq_arena_release(&arena);
    kq_arena_release(&arena_again);
}

static void with_header(const uint8_t *bytes, size_t length)
{
    struct kq_wire_reader reader;
    struct kq_wire_header header;
    kq_wire_reader_init(&reader, bytes, length, NULL);
    int r = kq_wire_header_read(&reader, &header);
    MUST(r == 0 || r == -EBADMSG);
    if (r == 0 && header.message && header.version >= header.message->lowest &&
        header.version <= header.message->highest)
        there_and_back(header.message->request, header.version, reader.at, kq_wire_left(&reader));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct fuzz_input input = {bytes, bytes + length};
    uint8_t key = fuzz_byte(&input), version = fuzz_byte(&input);
    size_t left = (size_t)(input.end - input.at);
    uint8_t *body = fuzz_copy(input.at, left);
    const struct kq_message *message = kq_message_find(key);
    const struct kq_wire_schema *schema = NULL;
    if (key >= 128)
        schema = record_schemas[(key - 128u) % kq_array_size(record_schemas)];
    else if (message)
        schema = version < 128 ? message->request : message->response;
    if (schema)
        there_and_back(
            schema,
            (int16_t)(schema->lowest + version % 128 % (schema->highest - schema->lowest + 1)),
            body, left);
    else
        with_header(body, left);
    free(body);
    return 0;
}
