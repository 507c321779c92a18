/* Kafka's cluster metadata: whatever the records, what they amount to hangs together, and the
 * configurations become settings that a topic takes.
 *
 * A record: its type, its version, the length of its fields (16 bits), its fields. */
#include "broker/importconfig.h"
#include "tests/fuzz/fuzz.h"

#define MOST_RECORDS 24 /* one may well ask for some megabytes */

static void apply(struct kq_image *image, struct fuzz_input *input)
{
    kq_autoarena struct kq_arena arena = {0};
    struct kq_wire_reader reader;
    uint32_t type = fuzz_byte(input);
    int16_t version = fuzz_byte(input);
    size_t length = (size_t)fuzz_byte(input) << 8;
    length |= fuzz_byte(input);
    if (length > (size_t)(input->end - input->at))
        length = (size_t)(input->end - input->at);
    uint8_t *copy = fuzz_copy(input->at, length);
    input->at += length;
    kq_arena_init(&arena, 1 << 20);
    kq_wire_reader_init(&reader, copy, length, &arena);
    int r = kq_image_apply(image, type, version, &reader);
    MUST(r == 0 || r == -EBADMSG || r == -EPROTO || r == -E2BIG);
    free(copy);
}

static void check_topics(struct kq_image *image)
{
    struct kq_topic_config defaults;
    struct kq_image_topic *topic, *next, *found;
    kq_topic_config_defaults(&defaults);
    struct kq_import_config config = {.image = image, .defaults = &defaults, .node_id = 1};
    MUST(HASH_CNT(by_name, image->by_name) == HASH_CNT(by_id, image->by_id));
    HASH_ITER (by_name, image->by_name, topic, next) {
        struct kq_topic_setting *settings;
        struct kq_topic_config taken = defaults;
        size_t count;
        HASH_FIND(by_id, image->by_id, topic->id, KQ_UUID_BYTES, found);
        MUST(found == topic);
        MUST(kq_image_find(image, topic->name) == topic);
        MUST(topic->partitions <= topic->capacity);
        MUST(kq_import_settings(&config, topic->name, &settings, &count) == 0);
        MUST(kq_topic_config_set_all(&taken, settings, count, NULL, NULL) == 0);
        for (size_t i = 0; i < count; i++) {
            free((char *)settings[i].name);
            free((char *)settings[i].value);
        }
        free(settings);
    }
    kq_import_config_release(&config);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct fuzz_input input = {bytes, bytes + length};
    struct kq_image image = {0};
    for (int i = 0; i < MOST_RECORDS && input.at < input.end; i++)
        apply(&image, &input);
    check_topics(&image);
    kq_image_release(&image);
    return 0;
}
