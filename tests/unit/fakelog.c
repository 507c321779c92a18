#include "fakelog.h"

#include <assert.h>
#include <sys/mman.h>

#include "broker/base/crc32c.h"
#include "broker/base/endian.h"
#include "broker/batch.h"
#include "broker/codec.h"
#include "broker/produce.h"
#include "broker/walk.h"
#include "fs/internal.h"

struct fake_log fake_log;

#define AT_LENGTH 8
#define AT_CRC 17
#define AT_ATTRIBUTES 21
#define AT_RECORDS 61

static void render_part(const char *mark, uint8_t *bytes, uint8_t *length)
{
    *length = (uint8_t)strlen(mark);
    memcpy(bytes, mark, *length);
}

void fake_render(const char *separator, const char *delimiter)
{
    struct kq_rendering *rendering = &fake_log.renderings[fake_log.rendering_count++];
    *rendering = (struct kq_rendering){.from_offset = fake_log.next_offset};
    render_part(separator, rendering->separator, &rendering->separator_length);
    render_part(delimiter, rendering->delimiter, &rendering->delimiter_length);
}

void fake_roll(void)
{
    struct fake_segment *segment = &fake_log.segments[fake_log.segment_count++];
    assert(fake_log.segment_count <= FAKE_SEGMENTS);
    *segment = (struct fake_segment){.fd = memfd_create("segment", MFD_CLOEXEC),
                                     .base_offset = fake_log.next_offset};
    kq_verified_init(&segment->verified);
}

void fake_open(void)
{
    memset(&fake_log, 0, sizeof(fake_log));
    fake_roll();
    fake_render("", "\n");
}

void fake_close(void)
{
    for (int i = 0; i < fake_log.segment_count; i++) {
        close(fake_log.segments[i].fd);
        kq_buf_release(&fake_log.segments[i].batches);
    }
    for (int i = 0; i < fake_log.message_count; i++) {
        kq_buf_release(&fake_log.messages[i].key);
        kq_buf_release(&fake_log.messages[i].value);
    }
    kq_buf_release(&fake_log.text);
}

static struct fake_segment *active(void)
{
    return &fake_log.segments[fake_log.segment_count - 1];
}

static void store(struct kq_buf *batch, int64_t text, int64_t count)
{
    struct fake_segment *segment = active();
    kq_batch_patch(batch->data, fake_log.next_offset, 7);
    struct fake_batch entry = {.position = segment->length,
                               .base_offset = fake_log.next_offset,
                               .next_offset = fake_log.next_offset + count,
                               .text = text,
                               .size = (uint32_t)batch->length};
    ssize_t n = pwrite(segment->fd, batch->data, batch->length, segment->length);
    assert(n == (ssize_t)batch->length);
    segment->length += n;
    kq_buf_append(&segment->batches, &entry, sizeof(entry));
    fake_log.next_offset += count;
    kq_buf_release(batch);
}

static void compress(struct kq_buf *batch, enum kq_codec codec)
{
    struct kq_buf out = {0};
    kq_buf_append(&out, batch->data, AT_RECORDS);
    int r = kq_codec_compress(codec, 0, batch->data + AT_RECORDS, batch->length - AT_RECORDS, &out);
    assert(r == 0);
    kq_store_be32(out.data + AT_LENGTH, (uint32_t)out.length - 12);
    kq_store_be16(out.data + AT_ATTRIBUTES, (uint16_t)codec);
    kq_store_be32(out.data + AT_CRC,
                  kq_crc32c(0, out.data + AT_ATTRIBUTES, out.length - AT_ATTRIBUTES));
    kq_buf_release(batch);
    *batch = out;
}

/* From some message on they have the same one, as those of one write do. */
static int64_t time_of(int64_t offset)
{
    return 1000 + (offset < 60 ? offset : 60);
}

static void remember(int64_t offset, const struct fake_part *key, const struct fake_part *value)
{
    const struct kq_rendering *rendering = &fake_log.renderings[fake_log.rendering_count - 1];
    struct fake_message *message = &fake_log.messages[fake_log.message_count++];
    assert(fake_log.message_count <= FAKE_MESSAGES);
    *message = (struct fake_message){.offset = offset,
                                     .timestamp = time_of(offset),
                                     .key_length = key->bytes ? key->length : -1,
                                     .value_length = value->bytes ? value->length : -1,
                                     .text_at = (int64_t)fake_log.text.length};
    if (key->bytes)
        kq_buf_append(&message->key, key->bytes, (size_t)key->length);
    if (value->bytes)
        kq_buf_append(&message->value, value->bytes, (size_t)value->length);
    if (key->bytes && rendering->separator_length) {
        kq_buf_append(&fake_log.text, key->bytes, (size_t)key->length);
        kq_buf_append(&fake_log.text, rendering->separator, rendering->separator_length);
    }
    if (value->bytes)
        kq_buf_append(&fake_log.text, value->bytes, (size_t)value->length);
    kq_buf_append(&fake_log.text, rendering->delimiter, rendering->delimiter_length);
}

void fake_append(const struct fake_part *keys, const struct fake_part *values, int count,
                 enum kq_codec codec)
{
    static const struct fake_part null;
    struct kq_buf batch = {0};
    struct kq_batch_builder builder;
    int64_t text = (int64_t)fake_log.text.length;
    kq_batch_begin(&builder, &batch, 0);
    for (int i = 0; i < count; i++) {
        const struct fake_part *key = keys ? &keys[i] : &null, *value = &values[i];
        int64_t offset = fake_log.next_offset + i;
        int r = kq_batch_add(&builder, time_of(offset), key->bytes, key->length, value->bytes,
                             value->length, NULL, 0, 0);
        assert(r == 0);
        remember(offset, key, value);
    }
    kq_batch_finish(&builder);
    if (codec != KQ_CODEC_NONE)
        compress(&batch, codec);
    store(&batch, text, count);
}

void fake_append_control(void)
{
    struct kq_buf batch = {0};
    struct kq_batch_builder builder;
    kq_batch_begin(&builder, &batch, KQ_ATTRIBUTE_CONTROL);
    kq_batch_add(&builder, 1000, "key", 3, "value", 5, NULL, 0, 0);
    kq_batch_finish(&builder);
    store(&batch, (int64_t)fake_log.text.length, 1);
}

void fake_gap(int count)
{
    fake_log.next_offset += count;
}

void fake_damage(int into, uint8_t byte)
{
    struct fake_segment *segment = active();
    struct fake_batch *batches = (void *)segment->batches.data;
    size_t last = segment->batches.length / sizeof(*batches) - 1;
    ssize_t n = pwrite(segment->fd, &byte, 1, batches[last].position + into);
    assert(n == 1);
}

void fake_retain(int64_t offset)
{
    fake_log.start_offset = offset;
    for (int i = fake_log.message_count - 1; i >= 0 && fake_log.messages[i].offset >= offset; i--)
        fake_log.start_text = fake_log.messages[i].text_at;
}

struct kq_access fake_access(void)
{
    return (struct kq_access){.partition = (void *)&fake_log, .rights = KQ_RIGHT_READ};
}

/* --- The door --- */

static int give(int number, const struct fake_batch *batch, int64_t text, struct kq_extent *ret)
{
    const struct fake_segment *segment = &fake_log.segments[number];
    const struct fake_batch *behind = (void *)(segment->batches.data + segment->batches.length);
    *ret = (struct kq_extent){.fd = segment->fd,
                              .length = (uint32_t)(segment->length - batch->position),
                              .position = batch->position,
                              .base_offset = batch->base_offset,
                              .next_offset = behind[-1].next_offset,
                              .text = text,
                              .owner = (void *)segment};
    fake_log.held++;
    return 0;
}

void kq_extent_unref(struct kq_extent *extent)
{
    if (extent->owner)
        fake_log.held--;
    *extent = (struct kq_extent){0};
}

bool kq_extent_is_verified(const struct kq_extent *extent, int64_t position, uint32_t size)
{
    const struct fake_segment *segment = (void *)extent->owner;
    return kq_verified_has(&segment->verified, position, size);
}

int kq_extent_verify(const struct kq_extent *extent, int64_t position,
                     const struct kq_batch_header *header, uint32_t crc)
{
    struct fake_segment *segment = (void *)extent->owner;
    fake_log.verified++;
    return kq_verified_conclude(&segment->verified, position, header, crc);
}

int kq_extent_resync(const struct kq_extent *extent, int64_t position, int64_t *ret)
{
    const struct fake_segment *segment = (void *)extent->owner;
    struct kq_walk walk;
    kq_walk_begin(&walk, extent->fd, segment->base_offset, position, segment->length, KQ_WALK_FAR,
                  true);
    *ret = kq_walk_resync(&walk) == 0 ? walk.position : segment->length;
    kq_walk_end(&walk);
    return 0;
}

/* The first batch that ends behind OFFSET, or behind text position TEXT. */
static int find(int64_t offset, int64_t text, struct kq_extent *ret)
{
    for (int i = 0; i < fake_log.segment_count; i++) {
        const struct fake_segment *segment = &fake_log.segments[i];
        const struct fake_batch *batches = (void *)segment->batches.data;
        size_t count = segment->batches.length / sizeof(*batches);
        for (size_t j = 0; j < count; j++) {
            const struct fake_batch *next = &batches[j + 1];
            int64_t text_end = (int64_t)fake_log.text.length;
            if (j + 1 == count && i + 1 < fake_log.segment_count &&
                fake_log.segments[i + 1].batches.length)
                next = (void *)fake_log.segments[i + 1].batches.data;
            else if (j + 1 == count)
                next = NULL;
            if (next)
                text_end = next->text;
            if (offset >= 0 ? batches[j].next_offset > offset : text_end > text)
                return give(i, &batches[j], batches[j].text, ret);
        }
    }
    return KQ_END;
}

int kq_read(const struct kq_access *access, int64_t offset, uint32_t max_bytes, bool want_text,
            bool may_block, struct kq_extent *ret)
{
    if (fake_log.cold && !may_block)
        return KQ_WOULD_BLOCK;
    if (offset < fake_log.start_offset)
        return KQ_GONE;
    return offset > fake_log.next_offset ? KQ_BEYOND : find(offset, 0, ret);
}

int kq_read_text(const struct kq_access *access, int64_t text, uint32_t max_bytes, bool may_block,
                 struct kq_extent *ret)
{
    if (fake_log.cold && !may_block)
        return KQ_WOULD_BLOCK;
    return find(-1, text, ret);
}

int kq_read_next(const struct kq_access *access, const struct kq_extent *before, uint32_t max_bytes,
                 struct kq_extent *ret)
{
    const struct fake_segment *segment = (void *)before->owner;
    int number = (int)(segment - fake_log.segments);
    int64_t end = before->position + before->length;
    const struct fake_batch *batches = (void *)segment->batches.data;
    for (size_t i = 0; i < segment->batches.length / sizeof(*batches); i++)
        if (batches[i].position == end)
            return give(number, &batches[i], -1, ret);
    while (++number < fake_log.segment_count)
        if (fake_log.segments[number].batches.length)
            return give(number, (void *)fake_log.segments[number].batches.data,
                        ((struct fake_batch *)fake_log.segments[number].batches.data)->text, ret);
    return KQ_END;
}

int kq_is_aborted(const struct kq_access *access, const struct kq_batch_header *header,
                  bool may_block, bool *ret)
{
    *ret = false;
    return 0;
}

void kq_partition_rendering(struct kq_partition *partition, int64_t offset,
                            struct kq_rendering *ret, int64_t *ret_until)
{
    int i = fake_log.rendering_count - 1;
    while (fake_log.renderings[i].from_offset > offset)
        i--;
    *ret = fake_log.renderings[i];
    *ret_until =
        i + 1 < fake_log.rendering_count ? fake_log.renderings[i + 1].from_offset : INT64_MAX;
}

struct kq_topic *kq_partition_topic(const struct kq_partition *partition)
{
    return NULL;
}

void kq_topic_config(struct kq_topic *topic, struct kq_topic_config *ret)
{
    *ret = (struct kq_topic_config){.log = {.max_batch_bytes = 1 << 24}};
}

const char *kq_topic_name(const struct kq_topic *topic)
{
    return "fake";
}

int32_t kq_partition_number(const struct kq_partition *partition)
{
    return 0;
}

bool kq_topic_deleted(const struct kq_topic *topic)
{
    return fake_log.deleted;
}

void kq_bounds(struct kq_partition *partition, struct kq_log_bounds *ret)
{
    *ret = (struct kq_log_bounds){.start = fake_log.start_offset,
                                  .end = fake_log.next_offset,
                                  .last_stable = fake_log.next_offset};
}

int kq_text_bounds(struct kq_partition *partition, bool may_block, struct kq_log_text_bounds *ret)
{
    *ret = (struct kq_log_text_bounds){.start = fake_log.start_text,
                                       .end = (int64_t)fake_log.text.length};
    return 0;
}

/* --- Waiting --- */

int kq_wait(struct kq_partition *partition, struct kq_waiter *waiter, int64_t offset)
{
    if (fake_log.deleted)
        return -ESTALE;
    if (fake_log.next_offset > offset)
        return KQ_READY;
    waiter->offset = offset;
    waiter->next = fake_log.waiters;
    fake_log.waiters = waiter;
    return 0;
}

int kq_unwait(struct kq_waiter *waiter)
{
    struct kq_waiter **at = &fake_log.waiters;
    while (*at && *at != waiter)
        at = &(*at)->next;
    if (!*at)
        return KQ_GONE;
    *at = waiter->next;
    return 0;
}

void fake_wake(enum kq_wake why)
{
    struct kq_waiter *due = NULL, *next;
    for (struct kq_waiter **at = &fake_log.waiters; *at;) {
        next = *at;
        if (why == KQ_WAKE_DATA && next->offset >= fake_log.next_offset) {
            at = &next->next;
            continue;
        }
        *at = next->next;
        next->next = due;
        due = next;
    }
    for (; due; due = next) {
        next = due->next;
        due->wake(due, why);
    }
}

/* --- What else the readers' files ask for --- */

bool kq_topic_name_valid(const char *name)
{
    return true;
}

struct kq_group_file;
void kq_group_file_free(struct kq_group_file *file);

void kq_group_file_free(struct kq_group_file *file)
{
}

bool kq_topic_is_internal(const char *name)
{
    return false;
}

int kq_partition_access(struct kq_partition *partition, const struct kq_caller *caller,
                        unsigned rights, struct kq_access *ret)
{
    *ret = (struct kq_access){.partition = partition, .rights = rights};
    return 0;
}

int kq_next_range(struct kq_partition *partition, int64_t from, bool may_block,
                  struct kq_log_range *ret)
{
    return KQ_END;
}

void kq_fspart_settle(struct kq_fs *fs, struct kq_fspart *part)
{
}

/* --- There are no holes --- */

int kq_text_of_offset(struct kq_partition *partition, int64_t offset, bool may_block, int64_t *ret)
{
    return -ENOSYS;
}

int kq_text_next(struct kq_partition *partition, int64_t text, bool may_block, int64_t *ret)
{
    return -ENOSYS;
}

int kq_text_pack(struct kq_partition *partition, int64_t text, bool may_block, int64_t *ret_packed,
                 uint64_t *ret_layout)
{
    return -ENOSYS;
}

int kq_text_unpack(struct kq_partition *partition, int64_t packed, uint64_t layout, bool may_block,
                   int64_t *ret_text)
{
    return -ENOSYS;
}
