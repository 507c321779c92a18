/* Cluster metadata of a test's own making, and as Kafka wrote it (tests/unit/metadata: a log from
 * its beginning, and the snapshot that Kafka made of it at offset 40). */
#pragma once

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "broker/base/io.h"
#include "broker/batch.h"
#include "broker/importlog.h"

#define RECORDED_LOG "00000000000000000000.log"
#define RECORDED_SNAPSHOT "00000000000000000040-0000000001.checkpoint"

static const char *metadata_recorded; /* the directory of what Kafka wrote; main sets it */

/* The path of NAME among the metadata of the log directory DIRECTORY; good until the next call. */
static inline const char *metadata_path(const char *directory, const char *name)
{
    static char path[400];
    snprintf(path, sizeof(path), "%s/" KQ_METALOG_DIRECTORY "%s%s", directory, name ? "/" : "",
             name ? name : "");
    return path;
}

static inline void metadata_write(const char *directory, const char *name, const void *bytes,
                                  size_t length)
{
    mkdir(metadata_path(directory, NULL), 0755);
    FILE *file = fopen(metadata_path(directory, name), "w");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, length, file), length);
    assert_int_equal(fclose(file), 0);
}

/* What Kafka wrote into FILE; the caller releases RET. */
static inline void metadata_read_recorded(const char *file, struct kq_buf *ret)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/%s", metadata_recorded, file);
    assert_int_equal(kq_io_slurp(AT_FDCWD, path, 1 << 20, ret), 0);
}

static inline void metadata_copy_recorded(const char *directory, const char *file)
{
    struct kq_buf bytes = {0};
    metadata_read_recorded(file, &bytes);
    metadata_write(directory, file, bytes.data, bytes.length);
    kq_buf_release(&bytes);
}

/* A log of batches of records. */
struct metadata {
    struct kq_buf bytes, value;
    struct kq_batch_builder batch;
    struct kq_wire_writer writer;
    int64_t next_offset;
};

static inline void metadata_begin_batch(struct metadata *metadata)
{
    assert_int_equal(kq_batch_begin(&metadata->batch, &metadata->bytes, 0), 0);
}

/* The frame of a record; its fields go to metadata->writer then, and metadata_end_record. */
static inline void metadata_begin_record(struct metadata *metadata, uint32_t frame, uint32_t type,
                                         uint32_t version)
{
    metadata->value.length = 0;
    kq_wire_writer_init(&metadata->writer, &metadata->value);
    kq_wire_write_uvarint(&metadata->writer, frame);
    kq_wire_write_uvarint(&metadata->writer, type);
    kq_wire_write_uvarint(&metadata->writer, version);
}

static inline void metadata_end_record(struct metadata *metadata)
{
    assert_int_equal(metadata->writer.error, 0);
    assert_int_equal(kq_batch_add(&metadata->batch, 1700000000000, NULL, -1, metadata->value.data,
                                  (int32_t)metadata->value.length, NULL, 0, 0),
                     0);
}

/* A record without fields that are not tagged. */
static inline void metadata_add_plain(struct metadata *metadata, uint32_t type)
{
    metadata_begin_record(metadata, 1, type, 0);
    kq_wire_write_uvarint(&metadata->writer, 0);
    metadata_end_record(metadata);
}

/* A quota of Kafka's, VALUE 0: removed. USER, CLIENT: names; "*": the default; NULL: no such part.
 */
static inline void metadata_add_quota(struct metadata *metadata, const char *user,
                                      const char *client, const char *key, double value)
{
    const char *names[] = {user, client}, *types[] = {"user", "client-id"};
    struct kq_wire_writer *writer = &metadata->writer;
    metadata_begin_record(metadata, 1, 14, 0);
    kq_wire_write_count(writer, true, false, !!user + !!client);
    for (int i = 0; i < 2; i++) {
        if (!names[i])
            continue;
        kq_wire_write_string(writer, true, false, kq_str_of(types[i]));
        kq_wire_write_string(writer, true, true,
                             strcmp(names[i], "*") ? kq_str_of(names[i]) : KQ_STR_NULL);
        kq_wire_write_uvarint(writer, 0);
    }
    kq_wire_write_string(writer, true, false, kq_str_of(key));
    kq_wire_write_float64(writer, value);
    kq_wire_write_int8(writer, value == 0);
    kq_wire_write_uvarint(writer, 0);
    metadata_end_record(metadata);
}

static inline void metadata_end_batch(struct metadata *metadata)
{
    int32_t count = metadata->batch.count;
    kq_batch_finish(&metadata->batch);
    kq_batch_patch(metadata->bytes.data + metadata->batch.start, metadata->next_offset, 1);
    metadata->next_offset += count;
}

static inline void metadata_release(struct metadata *metadata)
{
    kq_buf_release(&metadata->bytes);
    kq_buf_release(&metadata->value);
}
