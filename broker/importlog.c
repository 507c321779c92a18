#include "broker/importlog.h"

#include <ctype.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "broker/base/diag.h"
#include "broker/base/io.h"
#include "broker/walk.h"

#define FRAME_VERSION 1
#define LARGEST_BATCH (64 << 20) /* Kafka's own are below 8 MiB */
#define LARGEST_TRANSACTION (256 << 20)
#define LARGEST_RECORD_MEMORY (64 << 20)
#define OFFSET_DIGITS 20
#define EPOCH_DIGITS 10
#define NAME_BYTES 64

enum record_type { /* those that stand around others */
                   TYPE_BEGIN_TRANSACTION = 23,
                   TYPE_END_TRANSACTION = 24,
                   TYPE_ABORT_TRANSACTION = 25,
};

struct snapshot {
    int64_t offset; /* -1: none */
    int64_t epoch;
    int64_t bytes;
};

struct segment {
    int64_t base;
    int64_t bytes;
};

/* What lies in the directory. */
struct listing {
    struct snapshot newest;
    struct kq_buf segments; /* struct segment, ascending */
};

struct reading {
    const char *directory;
    int dirfd; /* of the metadata's own directory */
    kq_metalog_take *take;
    void *context;
    char file[NAME_BYTES]; /* for the report */
    int64_t position;
    struct kq_buf scratch;     /* decompressed records */
    struct kq_buf transaction; /* records of the one that is open: a size_t, and so many bytes */
    bool in_transaction;
    bool control; /* the last batch was one */
    int64_t from; /* records before this offset are in the snapshot */
    bool refused; /* the batch is whole, its records are not to be had */
};

/* --- What there is --- */

static bool take_digits(const char **at, size_t count, int64_t *ret)
{
    int64_t number = 0;
    for (size_t i = 0; i < count; i++) {
        if (!isdigit((unsigned char)(*at)[i]) || number > (INT64_MAX - 9) / 10)
            return false;
        number = number * 10 + ((*at)[i] - '0');
    }
    *at += count;
    *ret = number;
    return true;
}

static int add_file(struct listing *listing, const char *name, int64_t bytes)
{
    struct segment segment = {.bytes = bytes};
    struct snapshot snapshot = {.bytes = bytes};
    const char *at = name;
    if (!take_digits(&at, OFFSET_DIGITS, &segment.base))
        return 0;
    if (strcmp(at, ".log") == 0)
        return kq_buf_append(&listing->segments, &segment, sizeof(segment));
    snapshot.offset = segment.base;
    if (*at++ != '-' || !take_digits(&at, EPOCH_DIGITS, &snapshot.epoch) ||
        strcmp(at, ".checkpoint") != 0)
        return 0;
    const struct snapshot *newest = &listing->newest;
    if (snapshot.offset > newest->offset ||
        (snapshot.offset == newest->offset && snapshot.epoch > newest->epoch))
        listing->newest = snapshot;
    return 0;
}

static int by_base(const void *a, const void *b)
{
    const struct segment *left = a, *right = b;
    return (left->base > right->base) - (left->base < right->base);
}

static size_t segment_count(const struct listing *listing)
{
    return listing->segments.length / sizeof(struct segment);
}

static const struct segment *segment_at(const struct listing *listing, size_t i)
{
    return (const struct segment *)(const void *)listing->segments.data + i;
}

/* Release RET's segments after any result. */
static int list(int dirfd, struct listing *ret)
{
    const struct dirent *entry;
    struct stat st;
    int r = 0;
    ret->newest.offset = -1;
    int copy = kq_io_open(dirfd, ".", O_RDONLY | O_DIRECTORY, 0);
    if (copy < 0)
        return copy;
    DIR *names = fdopendir(copy);
    if (!names) {
        r = -errno;
        close(copy);
        return r;
    }
    while (r == 0 && (errno = 0, entry = readdir(names)))
        if (fstatat(dirfd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode))
            r = add_file(ret, entry->d_name, st.st_size);
    if (r == 0 && errno)
        r = -errno;
    closedir(names);
    if (ret->segments.length)
        qsort(ret->segments.data, segment_count(ret), sizeof(struct segment), by_base);
    return r;
}

static int open_and_list(int dirfd, int *ret_dirfd, struct listing *ret)
{
    int own = kq_io_open(dirfd, KQ_METALOG_DIRECTORY, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
    if (own < 0)
        return own == -ENOTDIR || own == -ELOOP ? -ENOENT : own;
    int r = list(own, ret);
    if (r == 0 && ret->newest.offset < 0 && segment_count(ret) == 0)
        r = -ENOENT;
    *ret_dirfd = own;
    return r;
}

int kq_metalog_look(int dirfd, struct kq_metalog_end *ret)
{
    struct listing listing = {0};
    kq_autoclose int own = -1;
    int r = open_and_list(dirfd, &own, &listing);
    if (r == 0) {
        size_t count = segment_count(&listing);
        *ret = (struct kq_metalog_end){listing.newest.offset, -1, 0};
        if (count) {
            ret->segment = segment_at(&listing, count - 1)->base;
            ret->bytes = segment_at(&listing, count - 1)->bytes;
        }
    }
    kq_buf_release(&listing.segments);
    return r;
}

/* --- Records --- */

/* VALUE's frame. READER then stands before the fields. */
static int read_frame(struct kq_wire_reader *reader, uint32_t *ret_type, int16_t *ret_version)
{
    uint32_t frame = kq_wire_read_uvarint(reader);
    uint32_t type = kq_wire_read_uvarint(reader);
    uint32_t version = kq_wire_read_uvarint(reader);
    if (reader->error)
        return reader->error;
    if (frame != FRAME_VERSION)
        return -EPROTO;
    if (type > INT16_MAX || version > INT16_MAX)
        return -EBADMSG;
    *ret_type = type;
    *ret_version = (int16_t)version;
    return 0;
}

static int hand_over(struct reading *reading, const uint8_t *bytes, size_t length)
{
    kq_autoarena struct kq_arena arena = {0};
    struct kq_wire_reader reader;
    uint32_t type = 0;
    int16_t version = 0;
    kq_arena_init(&arena, LARGEST_RECORD_MEMORY);
    kq_wire_reader_init(&reader, bytes, length, &arena);
    int r = read_frame(&reader, &type, &version);
    return r < 0 ? r : reading->take(reading->context, type, version, &reader);
}

static int keep(struct reading *reading, const uint8_t *bytes, size_t length)
{
    if (reading->transaction.length + sizeof(length) + length > LARGEST_TRANSACTION)
        return -EFBIG;
    int r = kq_buf_append(&reading->transaction, &length, sizeof(length));
    return r < 0 ? r : kq_buf_append(&reading->transaction, bytes, length);
}

static int end_transaction(struct reading *reading)
{
    const uint8_t *at = reading->transaction.data;
    const uint8_t *end = at + reading->transaction.length;
    size_t length;
    int r = 0;
    for (; r == 0 && at < end; at += length) {
        memcpy(&length, at, sizeof(length));
        at += sizeof(length);
        r = hand_over(reading, at, length);
    }
    return r;
}

static int take_value(struct reading *reading, const uint8_t *bytes, size_t length)
{
    struct kq_wire_reader reader;
    uint32_t type = 0;
    int16_t version = 0;
    int r;
    kq_wire_reader_init(&reader, bytes, length, NULL);
    if ((r = read_frame(&reader, &type, &version)) < 0)
        return r;
    switch (type) {
    case TYPE_BEGIN_TRANSACTION:
        reading->in_transaction = true;
        reading->transaction.length = 0;
        return 0;
    case TYPE_END_TRANSACTION:
        reading->in_transaction = false;
        return end_transaction(reading);
    case TYPE_ABORT_TRANSACTION:
        reading->in_transaction = false;
        return 0;
    default:
        return reading->in_transaction ? keep(reading, bytes, length)
                                       : hand_over(reading, bytes, length);
    }
}

/* Control batches (who leads, versions of the snapshot) say nothing of topics. */
static int take_batch(struct reading *reading, const uint8_t *bytes,
                      const struct kq_batch_header *header)
{
    struct kq_record_reader records;
    struct kq_record record;
    reading->control = header->attributes & KQ_ATTRIBUTE_CONTROL;
    if (reading->control || kq_batch_next_offset(header) <= reading->from)
        return 0;
    int r = kq_record_reader_open(&records, bytes, header, LARGEST_BATCH, &reading->scratch);
    while (r == 0 && (r = kq_record_next(&records, &record)) == 0)
        if (record.offset >= reading->from)
            r = record.value_length < 0
                    ? -EBADMSG
                    : take_value(reading, record.value, (size_t)record.value_length);
    return r == KQ_END ? 0 : r;
}

/* --- Files --- */

static int take_next_batch(struct reading *reading, struct kq_walk *walk)
{
    struct kq_batch_header header;
    const uint8_t *bytes;
    int r = kq_walk_header(walk, &header);
    if (r == 0 && header.size > LARGEST_BATCH)
        r = -EFBIG;
    if (r == 0)
        r = kq_walk_bytes(walk, &header, &bytes);
    if (r == 0)
        r = kq_batch_check_crc(bytes, &header);
    if (r != 0)
        return r == KQ_PARTIAL ? -EBADMSG : r;
    r = take_batch(reading, bytes, &header);
    reading->refused = r < 0;
    if (r == 0)
        kq_walk_step(walk, &header);
    return r;
}

/* RET_NEXT: the offset behind the file's last batch. MAY_BE_TORN: damage with nothing whole behind
 * it is the end. */
static int read_file(struct reading *reading, int64_t base, int64_t bytes, bool may_be_torn,
                     int64_t *ret_next)
{
    struct kq_walk walk;
    int fd = kq_io_open(reading->dirfd, reading->file, O_RDONLY | O_NOFOLLOW, 0);
    if (fd < 0)
        return fd;
    kq_walk_begin(&walk, fd, base, 0, bytes, KQ_WALK_FAR, true);
    int r;
    while ((r = take_next_batch(reading, &walk)) == 0)
        ;
    reading->position = walk.position;
    if (r == -EBADMSG && may_be_torn && !reading->refused) {
        r = kq_walk_resync(&walk);
        r = r == 0 ? -EBADMSG : r;
    }
    *ret_next = walk.least;
    kq_walk_end(&walk);
    close(fd);
    return r == KQ_END ? 0 : r;
}

/* It ends with a control batch that says so. */
static int read_snapshot(struct reading *reading, const struct snapshot *snapshot)
{
    int64_t next;
    snprintf(reading->file, sizeof(reading->file), "%020" PRId64 "-%010" PRId64 ".checkpoint",
             snapshot->offset, snapshot->epoch);
    int r = read_file(reading, 0, snapshot->bytes, false, &next);
    return r == 0 && !reading->control ? -EBADMSG : r;
}

/* The segments that have records from READING->from on; they must not leave any out. */
static int read_segments(struct reading *reading, const struct listing *listing)
{
    size_t count = segment_count(listing), i = 0;
    int64_t next = reading->from;
    int r = 0;
    while (i + 1 < count && segment_at(listing, i + 1)->base <= reading->from)
        i++;
    for (; i < count && r == 0; i++) {
        const struct segment *segment = segment_at(listing, i);
        snprintf(reading->file, sizeof(reading->file), "%020" PRId64 ".log", segment->base);
        reading->position = 0;
        if (segment->base > next)
            return -EBADMSG;
        r = read_file(reading, segment->base, segment->bytes, i + 1 == count, &next);
    }
    return r;
}

static int read_all(struct reading *reading, const struct listing *listing)
{
    int r = 0;
    if (listing->newest.offset >= 0)
        r = read_snapshot(reading, &listing->newest);
    reading->in_transaction = false;
    reading->from = kq_max64(0, listing->newest.offset);
    return r < 0 ? r : read_segments(reading, listing);
}

static void report(const struct reading *reading, int r)
{
    if (r == -EPROTO)
        kq_diag(LOG_WARNING,
                "%s/" KQ_METALOG_DIRECTORY "/%s, byte %" PRId64 ": written by a newer Kafka than "
                "this version of kqfs knows",
                reading->directory, reading->file, reading->position);
    else if (r == -EBADMSG || r == -EFBIG || r == -E2BIG)
        kq_diag(LOG_WARNING,
                "%s/" KQ_METALOG_DIRECTORY "/%s is damaged at byte %" PRId64 ", or what comes "
                "before it is missing",
                reading->directory, reading->file, reading->position);
}

int kq_metalog_read(int dirfd, const char *directory, kq_metalog_take *take, void *context)
{
    struct reading reading = {.directory = directory, .take = take, .context = context};
    struct listing listing = {0};
    kq_autoclose int own = -1;
    int r = open_and_list(dirfd, &own, &listing);
    if (r == 0) {
        reading.dirfd = own;
        r = read_all(&reading, &listing);
        report(&reading, r);
    }
    kq_buf_release(&listing.segments);
    kq_buf_release(&reading.scratch);
    kq_buf_release(&reading.transaction);
    return r == -E2BIG ? -EFBIG : r;
}
