/* What the tests of a log's producers share: batches with a producer id, checkpoints, crashes. */
#pragma once

#include "tests/unit/log_kit.h"

#include "broker/base/crc32c.h"
#include "broker/log_internal.h"

#define ID 4000

enum { AT_CRC = 17, AT_ATTRIBUTES = 21, AT_PRODUCER_ID = 43, AT_EPOCH = 51, AT_SEQUENCE = 53 };

static inline void producer_batch(struct kq_buf *out, int64_t id, int16_t epoch, int32_t sequence,
                                  int count, size_t length)
{
    kit_batch(out, count, length, 1000, sequence);
    kq_store_be64(out->data + AT_PRODUCER_ID, (uint64_t)id);
    kq_store_be16(out->data + AT_EPOCH, (uint16_t)epoch);
    kq_store_be32(out->data + AT_SEQUENCE, (uint32_t)sequence);
    kq_store_be32(out->data + AT_CRC,
                  kq_crc32c(0, out->data + AT_ATTRIBUTES, out->length - AT_ATTRIBUTES));
}

static inline int append_sized(struct kit *kit, int64_t id, int16_t epoch, int32_t sequence,
                               int count, size_t length, struct kq_log_appended *ret)
{
    size_t room = (size_t)count * (length + 64) + 1024;
    struct kq_buf bytes = {.data = malloc(room), .capacity = room};
    struct kq_log_appended appended;
    producer_batch(&bytes, id, epoch, sequence, count, length);
    struct kq_log_append append = {.bytes = bytes.data, .length = bytes.length, .text_length = -1};
    int r = kq_log_append(kit->log, &append, ret ? ret : &appended);
    kq_buf_release(&bytes);
    return r;
}

static inline int append(struct kit *kit, int64_t id, int32_t sequence, int count)
{
    return append_sized(kit, id, 0, sequence, count, 20, NULL);
}

/* It was appended at OFFSET, and is not again. */
static inline void assert_duplicate(struct kit *kit, int64_t id, int32_t sequence, int count,
                                    int64_t offset)
{
    struct kq_log_appended appended;
    int64_t end = kit_end_offset(kit);
    assert_int_equal(append_sized(kit, id, 0, sequence, count, 20, &appended), 0);
    assert_true(appended.duplicate);
    assert_int_equal(appended.base_offset, offset);
    assert_int_equal(appended.next_offset, offset + count);
    assert_int_equal(appended.timestamp, 1000);
    assert_int_equal(kit_end_offset(kit), end);
}

static inline void append_plain(struct kit *kit)
{
    static int64_t timestamp = 2000;
    assert_int_equal(kit_append(kit, 1, 20, timestamp++, 0, true, NULL), 0);
}

/* What the broker would write down now. */
static inline void checkpoint(struct kit *kit)
{
    kit->checkpoint.recovery_point = kq_log_checkpoint(kit->log);
    kit->checkpoint.clean = false;
}

static inline void sync_and_checkpoint(struct kit *kit)
{
    assert_int_equal(kit_sync(kit), 0);
    checkpoint(kit);
}

static inline void crash(struct kit *kit)
{
    kit_crash(kit);
    kit_open(kit);
}

/* The offsets of the snapshots in the log's directory, "0 17 ", ascending. */
static inline const char *snapshots(struct kit *kit)
{
    static char list[512];
    int64_t found[64];
    size_t count = 0, length = 0;
    char path[256];
    kit_path(kit, "", path);
    DIR *directory = opendir(path);
    for (struct dirent *entry; (entry = readdir(directory));)
        if (strlen(entry->d_name) == 29 && strcmp(entry->d_name + 20, ".snapshot") == 0)
            found[count++] = strtoll(entry->d_name, NULL, 10);
    closedir(directory);
    list[0] = '\0';
    while (count > 0) {
        size_t least = 0;
        for (size_t i = 1; i < count; i++)
            least = found[i] < found[least] ? i : least;
        length += (size_t)snprintf(list + length, sizeof(list) - length, "%d ", (int)found[least]);
        found[least] = found[--count];
    }
    return list;
}

static inline void remove_file(struct kit *kit, const char *name)
{
    char path[256];
    kit_path(kit, name, path);
    assert_true(unlink(path) == 0 || errno == ENOENT);
}
