/* Recovery: a log whose files hold anything at all opens, and is read to its end by offset, by time
 * and by text; it takes an append, and opens once more as it was.
 *
 * Input: flags (1 clean stop, 2 a segment behind, 4 checksums are made right, 8 house is kept),
 * recovery point u8, lengths of .log, .index and .timeindex u16, then the bytes of these and of
 * .textindex. */
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/base/crc32c.h"
#include "broker/base/diag.h"
#include "broker/base/endian.h"
#include "broker/log.h"
#include "tests/fuzz/fuzz.h"

#define LOG_NAME "t-0"
#define READS 300

static const struct kq_log_config config = {
    .segment_bytes = 1 << 20,
    .segment_ms = -1,
    .index_interval_bytes = 100,
    .segment_index_bytes = 1 << 20,
    .retention_ms = -1,
    .retention_bytes = -1,
    .delete_old = true,
    .flush_messages = INT64_MAX,
    .flush_ms = INT64_MAX,
    .max_batch_bytes = 1 << 20,
};

static struct kq_log_shared shared;
static struct kq_renderings *renderings;

static char directory[] = "/dev/shm/kqfs-fuzz.XXXXXX";

static void remove_directory(void)
{
    kq_log_remove(&shared, LOG_NAME);
    rmdir(directory);
}

static void begin(void)
{
    kq_diag_set_level(LOG_EMERG);
    MUST(mkdtemp(directory) && atexit(remove_directory) == 0);
    shared = (struct kq_log_shared){.trail_bytes = 1 << 20,
                                    .max_open_files = 10,
                                    .max_producers = 10,
                                    .producer_expiry_ms = 86400000};
    shared.dirfd = open(directory, O_RDONLY | O_DIRECTORY);
    MUST(shared.dirfd >= 0 && kq_pool_new("sync", 1, &shared.syncer) == 0);
    renderings = calloc(1, sizeof(*renderings) + sizeof(struct kq_rendering));
    renderings->count = 1;
    renderings->at[0] = (struct kq_rendering){.delimiter_length = 1, .delimiter = {'\n'}};
}

static void write_file(const char *name, const uint8_t *bytes, size_t length)
{
    char path[64];
    snprintf(path, sizeof(path), LOG_NAME "/%s", name);
    int fd = openat(shared.dirfd, path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    MUST(fd >= 0 && write(fd, bytes, length) == (ssize_t)length);
    close(fd);
}

static size_t take(const uint8_t **at, const uint8_t *end, size_t wanted)
{
    size_t left = (size_t)(end - *at);
    return wanted < left ? wanted : left;
}

static void mend_checksums(uint8_t *bytes, size_t length)
{
    struct kq_batch_header header;
    while (kq_batch_header_read(bytes, length, &header) == 0 && header.size <= length) {
        kq_store_be32(bytes + 17, kq_crc32c(0, bytes + 21, header.size - 21));
        bytes += header.size;
        length -= header.size;
    }
}

static void read_all(struct kq_log *log)
{
    struct kq_log_text_bounds text;
    struct kq_log_bounds bounds;
    struct kq_extent extent, next;
    int64_t offset, timestamp;
    kq_log_bounds(log, &bounds);
    MUST(bounds.start <= bounds.end);
    int r = kq_log_read(log, bounds.start, 200, true, true, &extent);
    while (r == 0) {
        r = extent.next_offset >= 0 ? kq_log_read_next(log, &extent, UINT32_MAX, &next) : KQ_END;
        kq_extent_unref(&extent);
        extent = next;
    }
    int64_t count = bounds.end - bounds.start;
    for (int64_t i = 0; i < count && i < READS; i++) {
        r = kq_log_read(log, bounds.start + i, 1, true, true, &extent);
        if (r == 0) {
            MUST(extent.text >= 0 && extent.length > 0);
            kq_extent_unref(&extent);
        }
    }
    for (int64_t time = -1; time < 1 << 20; time = time * 3 + 5)
        kq_log_find_time(log, time, true, &offset, &timestamp);
    if (kq_log_text_bounds(log, true, &text) != 0)
        return;
    MUST(text.start <= text.end);
    for (int64_t at = text.start; at < text.end && at < text.start + READS; at++) {
        if (kq_log_read_text(log, at, 1, true, &extent) == 0)
            kq_extent_unref(&extent);
    }
}

static void append(struct kq_log *log)
{
    struct kq_buf bytes = {0};
    struct kq_batch_builder builder;
    struct kq_log_appended appended;
    MUST(kq_batch_begin(&builder, &bytes, 0) == 0);
    MUST(kq_batch_add(&builder, 1, NULL, -1, "v", 1, NULL, 0, 0) == 0);
    kq_batch_finish(&builder);
    struct kq_log_append batch = {.bytes = bytes.data, .length = bytes.length, .text_length = 2};
    MUST(kq_log_append(log, &batch, &appended) == 0);
    kq_buf_release(&bytes);
}

/* Retention takes nothing, but looks; a segment may be old enough to end. */
static void keep_house(struct kq_log *log)
{
    struct kq_log_config busy = config;
    int64_t next_ms;
    busy.segment_ms = 1000;
    busy.retention_ms = INT64_MAX - 1;
    kq_log_set_config(log, &busy);
    kq_log_housekeep(log, INT64_C(1700000000000), &next_ms);
}

static void open_read_close(const struct kq_log_checkpoint *checkpoint, bool housekeep,
                            int64_t *end)
{
    struct kq_log_recovery recovery;
    struct kq_log_bounds bounds;
    struct kq_log *log;
    if (kq_log_open(&shared, LOG_NAME, &config, renderings, checkpoint, &recovery, &log) != 0)
        MUST(!"a log must open");
    kq_log_bounds(log, &bounds);
    MUST(*end < 0 || *end == bounds.end);
    read_all(log);
    append(log);
    if (housekeep)
        keep_house(log);
    *end = bounds.end + 1;
    kq_log_close(log);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    static const char *const names[] = {"00000000000000000000.log", "00000000000000000000.index",
                                        "00000000000000000000.timeindex",
                                        "00000000000000000000.textindex"};
    const uint8_t *at = bytes + 8, *end = bytes + length;
    int64_t log_end = -1;
    if (length < 8)
        return 0;
    if (!renderings)
        begin();
    MUST(mkdirat(shared.dirfd, LOG_NAME, 0700) == 0);
    for (int i = 0; i < 4; i++) {
        size_t part = i < 3 ? take(&at, end, kq_load_be16(bytes + 2 + 2 * i)) : (size_t)(end - at);
        uint8_t *copy = fuzz_copy(at, part);
        if (i == 0 && bytes[0] & 4)
            mend_checksums(copy, part);
        if (part > 0 || i == 0)
            write_file(names[i], copy, part);
        free(copy);
        at += part;
    }
    if (bytes[0] & 2)
        write_file("00000000000000000100.log", NULL, 0);
    struct kq_log_checkpoint checkpoint = {
        .clean = bytes[0] & 1, .recovery_point = bytes[1], .log_start = -1};
    open_read_close(&checkpoint, bytes[0] & 8, &log_end);
    checkpoint = (struct kq_log_checkpoint){.recovery_point = log_end, .log_start = -1};
    open_read_close(&checkpoint, bytes[0] & 8, &log_end);
    MUST(kq_log_remove(&shared, LOG_NAME) == 0);
    return 0;
}
