#include "broker/compactwrite.h"

#include <fcntl.h>
#include <string.h>

#include "broker/base/endian.h"
#include "broker/base/io.h"
#include "broker/compactswap.h"
#include "broker/index.h"
#include "broker/texthole.h"
#include "broker/textindex.h"

#define SPOOL_BYTES (64 * 1024)
#define NO_TIME INT64_MIN

/* --- One file --- */

static int flush(struct kq_spool *spool)
{
    int r = spool->bytes.length
                ? kq_io_pwrite(spool->fd, spool->bytes.data, spool->bytes.length, spool->position)
                : 0;
    if (r == 0) {
        spool->position += (int64_t)spool->bytes.length;
        spool->bytes.length = 0;
    }
    return r;
}

static int put(struct kq_spool *spool, const void *bytes, size_t length)
{
    if (spool->bytes.length + length > SPOOL_BYTES) {
        int r = flush(spool);
        if (r < 0)
            return r;
    }
    if (length <= SPOOL_BYTES)
        return kq_buf_append(&spool->bytes, bytes, length);
    int r = kq_io_pwrite(spool->fd, bytes, length, spool->position);
    if (r == 0)
        spool->position += (int64_t)length;
    return r;
}

static int finish(struct kq_spool *spool)
{
    int r = flush(spool);
    return r == 0 ? kq_io_datasync(spool->fd) : r;
}

static int open_file(struct kq_compact_writer *writer, enum kq_compact_file file)
{
    char name[KQ_SWAP_NAME_BYTES];
    kq_swap_name(writer->base, kq_swap_kinds[file], KQ_SWAP_CLEANED, name);
    int fd = kq_io_open(writer->dirfd, name, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return fd;
    writer->files[file].fd = fd;
    return 0;
}

/* --- The segment --- */

/* There is a .txnindex only where one is needed: to say something, or to replace one. */
static bool wants_aborted(struct kq_compact_writer *writer)
{
    char name[KQ_SWAP_NAME_BYTES];
    struct stat st;
    kq_swap_name(writer->base, kq_swap_kinds[KQ_COMPACT_ABORTED], "", name);
    return fstatat(writer->dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

int kq_compact_writer_open(struct kq_compact_writer *writer, int dirfd, int64_t base,
                           int64_t text_base, int32_t interval)
{
    *writer = (struct kq_compact_writer){
        .dirfd = dirfd,
        .base = base,
        .text_base = text_base,
        .interval = interval,
        .first_timestamp = NO_TIME,
        .max_timestamp = NO_TIME,
        .last_time = -1,
    };
    int r = 0;
    for (int file = 0; file < KQ_COMPACT_FILES; file++)
        writer->files[file].fd = -1;
    for (int file = 0; file < KQ_COMPACT_FILES && r == 0; file++)
        if (file != KQ_COMPACT_ABORTED || wants_aborted(writer))
            r = open_file(writer, (enum kq_compact_file)file);
    writer->files[KQ_COMPACT_TEXTS].position = KQ_TEXT_HEADER;
    writer->files[KQ_COMPACT_HOLES].position = KQ_HOLES_HEADER;
    return r;
}

void kq_compact_writer_release(struct kq_compact_writer *writer)
{
    for (int file = 0; file < KQ_COMPACT_FILES; file++) {
        if (writer->files[file].fd >= 0)
            close(writer->files[file].fd);
        kq_buf_release(&writer->files[file].bytes);
    }
    kq_swap_discard(writer->dirfd, writer->base);
}

int kq_compact_writer_message(struct kq_compact_writer *writer, int64_t place, int64_t length)
{
    uint8_t raw[KQ_HOLE_ENTRY];
    int r = 0;
    if (length == 0)
        return 0;
    if (place > writer->text + writer->removed) {
        writer->removed = place - writer->text;
        kq_hole_write(raw, writer->base,
                      &(struct kq_hole){.text = writer->text, .removed = writer->removed});
        r = put(&writer->files[KQ_COMPACT_HOLES], raw, sizeof(raw));
    }
    writer->text += length;
    return r;
}

/* Kafka's TimeIndex.maybeAppend: only a larger timestamp gets an entry. */
static int put_time(struct kq_compact_writer *writer)
{
    uint8_t entry[KQ_TIME_ENTRY];
    if (writer->max_timestamp < 0 || writer->max_timestamp <= writer->last_time)
        return 0;
    kq_store_be64(entry, (uint64_t)writer->max_timestamp);
    kq_store_be32(entry + 8, (uint32_t)(writer->max_offset - writer->base));
    writer->last_time = writer->max_timestamp;
    return put(&writer->files[KQ_COMPACT_TIMES], entry, sizeof(entry));
}

static int put_entries(struct kq_compact_writer *writer, const struct kq_batch_header *header)
{
    uint8_t entry[KQ_OFFSET_ENTRY], raw[KQ_TEXT_ENTRY];
    kq_store_be32(entry, (uint32_t)(kq_batch_next_offset(header) - 1 - writer->base));
    kq_store_be32(entry + 4, (uint32_t)writer->size);
    kq_text_entry_write(raw, writer->base,
                        &(struct kq_text_entry){
                            .text = writer->batch_text,
                            .position = (uint32_t)writer->size,
                            .offset = (uint32_t)(header->base_offset - writer->base),
                        });
    int r = put_time(writer);
    if (r == 0)
        r = put(&writer->files[KQ_COMPACT_OFFSETS], entry, sizeof(entry));
    if (r == 0 && writer->batch_text <= KQ_TEXT_POSITION_MAX)
        r = put(&writer->files[KQ_COMPACT_TEXTS], raw, sizeof(raw));
    writer->indexed = writer->size;
    return r;
}

int kq_compact_writer_batch(struct kq_compact_writer *writer, const struct kq_batch_header *header,
                            const void *bytes)
{
    int r = 0;
    if (writer->first_timestamp == NO_TIME)
        writer->first_timestamp = header->base_timestamp;
    if (header->max_timestamp > writer->max_timestamp) {
        writer->max_timestamp = header->max_timestamp;
        writer->max_offset = kq_batch_next_offset(header) - 1;
    }
    if (writer->size - writer->indexed > writer->interval)
        r = put_entries(writer, header);
    if (r == 0)
        r = put(&writer->files[KQ_COMPACT_LOG], bytes, header->size);
    writer->size += header->size;
    writer->batch_text = writer->text;
    return r;
}

int kq_compact_writer_aborted(struct kq_compact_writer *writer,
                              const struct kq_compact_aborted *aborted)
{
    uint8_t raw[KQ_ABORTED_ENTRY];
    int r = writer->files[KQ_COMPACT_ABORTED].fd < 0 ? open_file(writer, KQ_COMPACT_ABORTED) : 0;
    kq_compact_aborted_write(raw, aborted);
    return r == 0 ? put(&writer->files[KQ_COMPACT_ABORTED], raw, sizeof(raw)) : r;
}

static int write_headers(struct kq_compact_writer *writer, int64_t span)
{
    uint8_t text[KQ_TEXT_HEADER], holes[KQ_HOLES_HEADER];
    kq_text_header_write(text, writer->base, writer->text_base);
    kq_holes_write(
        holes, writer->base,
        &(struct kq_holes){.text_base = writer->text_base, .span = span, .length = writer->text});
    int r = kq_io_pwrite(writer->files[KQ_COMPACT_TEXTS].fd, text, sizeof(text), 0);
    return r == 0 ? kq_io_pwrite(writer->files[KQ_COMPACT_HOLES].fd, holes, sizeof(holes), 0) : r;
}

int kq_compact_writer_finish(struct kq_compact_writer *writer, int64_t span)
{
    int r = put_time(writer);
    if (r == 0)
        r = write_headers(writer, span);
    for (int file = 0; file < KQ_COMPACT_FILES && r == 0; file++)
        if (writer->files[file].fd >= 0)
            r = finish(&writer->files[file]);
    return r == 0 ? kq_io_sync_dir(writer->dirfd) : r;
}
