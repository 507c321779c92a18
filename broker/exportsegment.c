#include "broker/exportsegment.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "broker/base/endian.h"
#include "broker/base/io.h"
#include "broker/file.h"
#include "broker/index.h"

#define WRITE_BYTES (1 << 20)
#define NO_TIMESTAMP (-1)
#define LEADER_EPOCH 0

/* --- Files --- */

static int make_theirs(const struct kq_export_log *job, int fd)
{
    if ((geteuid() != job->uid || getegid() != job->gid) && fchown(fd, job->uid, job->gid) < 0)
        return -errno;
    return fchmod(fd, job->mode) < 0 ? -errno : 0;
}

static int open_file(const struct kq_export_log *job, const char *name)
{
    int fd = kq_io_open(job->dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
    int r = fd < 0 ? fd : make_theirs(job, fd);
    if (r < 0 && fd >= 0)
        close(fd);
    return r < 0 ? r : fd;
}

int kq_export_file(const struct kq_export_log *job, const char *name, const void *bytes,
                   size_t length)
{
    kq_autoclose int fd = open_file(job, name);
    int r = fd < 0 ? fd : kq_io_pwrite(fd, bytes, length, 0);
    return r < 0 ? r : kq_io_sync(fd);
}

/* --- The segment --- */

int kq_export_segment_begin(struct kq_export_segment *segment, const struct kq_export_log *job,
                            int64_t base)
{
    char name[KQ_FILE_NAME_BYTES];
    *segment = (struct kq_export_segment){
        .job = job, .base = base, .max_timestamp = NO_TIMESTAMP, .last_time = NO_TIMESTAMP};
    kq_file_name(base, KQ_FILE_LOG, name);
    segment->fd = open_file(job, name);
    return segment->fd < 0 ? segment->fd : 0;
}

static int flush(struct kq_export_segment *segment)
{
    int64_t at = segment->size - (int64_t)segment->bytes.length;
    int r = kq_io_pwrite(segment->fd, segment->bytes.data, segment->bytes.length, at);
    kq_buf_clear(&segment->bytes, 2 * WRITE_BYTES);
    return r;
}

/* The largest timestamp so far, if it is larger than what is there. */
static int add_time(struct kq_export_segment *segment)
{
    uint8_t entry[KQ_TIME_ENTRY];
    if (segment->max_timestamp <= segment->last_time)
        return 0;
    segment->last_time = segment->max_timestamp;
    kq_store_be64(entry, (uint64_t)segment->max_timestamp);
    kq_store_be32(entry + 8, (uint32_t)(segment->max_timestamp_offset - segment->base));
    return kq_buf_append(&segment->times, entry, sizeof(entry));
}

static int add_entries(struct kq_export_segment *segment, int64_t last_offset)
{
    uint8_t entry[KQ_OFFSET_ENTRY];
    kq_store_be32(entry, (uint32_t)(last_offset - segment->base));
    kq_store_be32(entry + 4, (uint32_t)segment->size);
    int r = kq_buf_append(&segment->offsets, entry, sizeof(entry));
    segment->since_index = 0;
    return r < 0 ? r : add_time(segment);
}

int kq_export_segment_add(struct kq_export_segment *segment, const uint8_t *bytes,
                          const struct kq_batch_header *header)
{
    int64_t last_offset = kq_batch_next_offset(header) - 1;
    if (header->max_timestamp > segment->max_timestamp) {
        segment->max_timestamp = header->max_timestamp;
        segment->max_timestamp_offset = last_offset;
    }
    int r = 0;
    if (segment->since_index > segment->job->index_interval_bytes)
        r = add_entries(segment, last_offset);
    if (r == 0)
        r = kq_buf_append(&segment->bytes, bytes, header->size);
    if (r < 0)
        return r;
    kq_batch_patch(segment->bytes.data + segment->bytes.length - header->size, header->base_offset,
                   LEADER_EPOCH);
    segment->size += header->size;
    segment->since_index += header->size;
    return segment->bytes.length < WRITE_BYTES ? 0 : flush(segment);
}

static int write_index(struct kq_export_segment *segment, enum kq_file_kind kind,
                       const struct kq_buf *entries)
{
    char name[KQ_FILE_NAME_BYTES];
    kq_file_name(segment->base, kind, name);
    return kq_export_file(segment->job, name, entries->data, entries->length);
}

int kq_export_segment_end(struct kq_export_segment *segment)
{
    int r = flush(segment);
    if (r == 0)
        r = kq_io_sync(segment->fd);
    if (r == 0)
        r = add_time(segment);
    if (r == 0)
        r = write_index(segment, KQ_FILE_INDEX, &segment->offsets);
    return r < 0 ? r : write_index(segment, KQ_FILE_TIMEINDEX, &segment->times);
}

void kq_export_segment_release(struct kq_export_segment *segment)
{
    if (segment->fd >= 0)
        close(segment->fd);
    segment->fd = -1;
    kq_buf_release(&segment->bytes);
    kq_buf_release(&segment->offsets);
    kq_buf_release(&segment->times);
}
