/* A client's batch, whatever its bytes: what is taken can be read, record by record, by everybody
 * who reads the log; what is stored is what was taken; sequences never go wrong silently.
 *
 * The first byte: 1 the checksum is made right, 2 LogAppendTime, 4 keys are needed, 8 no zstd, 16
 * the length is made right; 224 the codec to store it with. */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "broker/base/crc32c.h"
#include "broker/base/diag.h"
#include "broker/base/endian.h"
#include "broker/log.h"
#include "broker/validate.h"
#include "tests/fuzz/fuzz.h"

#define LIMIT (1 << 20)
#define NOW INT64_C(1700000000000)
#define LOG "produce-0"

enum { AT_LENGTH = 8, AT_CRC = 17, AT_ATTRIBUTES = 21 };

static struct kq_log_shared shared = {
    .trail_bytes = INT64_MAX / 4,
    .max_open_files = 10,
    .max_producers = 8,
    .producer_expiry_ms = 86400000,
};
static const struct kq_log_config config = {
    .segment_bytes = 1 << 20,
    .segment_ms = INT64_MAX / 4,
    .index_interval_bytes = 4096,
    .segment_index_bytes = 1 << 20,
    .retention_ms = -1,
    .retention_bytes = -1,
    .flush_messages = INT64_MAX,
    .flush_ms = INT64_MAX,
    .max_batch_bytes = LIMIT,
};
static struct kq_log *log_;

static char directory[] = "/dev/shm/kqfs-fuzz.XXXXXX";

static void remove_directory(void)
{
    kq_log_remove(&shared, LOG);
    rmdir(directory);
}

static void open_log(void)
{
    static struct {
        struct kq_renderings renderings;
        struct kq_rendering first;
    } text = {.renderings = {.count = 1}, .first = {.delimiter_length = 1, .delimiter = {'\n'}}};
    const struct kq_log_checkpoint nothing = {.log_start = -1};
    struct kq_log_recovery recovery;
    kq_diag_set_level(LOG_EMERG);
    MUST(mkdtemp(directory) && atexit(remove_directory) == 0);
    shared.dirfd = open(directory, O_RDONLY | O_DIRECTORY);
    MUST(kq_pool_new("sync", 1, &shared.syncer) == 0);
    MUST(kq_log_open(&shared, LOG, &config, &text.renderings, &nothing, &recovery, &log_) == 0);
}

/* Every reader finds COUNT whole records in it. */
static void must_read(const uint8_t *bytes, size_t length, int32_t count)
{
    kq_autobuf struct kq_buf scratch = {0};
    struct kq_batch_header header;
    struct kq_record_reader reader;
    struct kq_record record;
    MUST(kq_batch_header_read(bytes, length, &header) == 0);
    MUST(header.size == length);
    MUST(header.record_count == count);
    MUST(kq_batch_check_records(bytes, &header, LIMIT, &scratch) == 0);
    MUST(kq_record_reader_open(&reader, bytes, &header, LIMIT, &scratch) == 0);
    for (int32_t i = 0; i < count; i++) {
        MUST(kq_record_next(&reader, &record) == 0);
        MUST(record.offset == header.base_offset + i);
        MUST(record.timestamp <= header.max_timestamp);
    }
    MUST(kq_record_next(&reader, &record) == KQ_END);
}

static void append(uint8_t *bytes, size_t length, const struct kq_batch_header *header)
{
    struct kq_log_append append = {.bytes = bytes, .length = length, .text_length = -1};
    struct kq_log_appended appended;
    struct kq_log_bounds before, after;
    struct kq_extent extent;
    kq_log_bounds(log_, &before);
    int r = kq_log_append(log_, &append, &appended);
    kq_log_bounds(log_, &after);
    MUST(r == 0 || r == KQ_OUT_OF_ORDER_SEQUENCE || r == KQ_FENCED_PRODUCER);
    MUST(r == 0 || header->producer_id >= 0);
    if (r != 0 || appended.duplicate) {
        MUST(after.end == before.end);
        return;
    }
    MUST(appended.base_offset == before.end);
    MUST(after.end == before.end + header->record_count);
    uint8_t *stored = malloc(length);
    MUST(kq_log_read(log_, before.end, 1, false, true, &extent) == 0);
    MUST(extent.length == length);
    MUST(pread(extent.fd, stored, length, extent.position) == (ssize_t)length);
    kq_extent_unref(&extent);
    MUST(memcmp(stored + 16, bytes + 16, length - 16) == 0);
    must_read(stored, length, header->record_count);
    free(stored);
    if (after.bytes > 4 << 20)
        MUST(kq_log_delete_before(log_, after.end) == 0);
}

static void make_right(uint8_t *copy, size_t length, uint8_t mode)
{
    if ((mode & 16) && length >= 12)
        kq_store_be32(copy + AT_LENGTH, (uint32_t)(length - 12));
    if ((mode & 1) && length > AT_ATTRIBUTES)
        kq_store_be32(copy + AT_CRC, kq_crc32c(0, copy + AT_ATTRIBUTES, length - AT_ATTRIBUTES));
}

/* It was taken: stored as it is, or as another codec has it. */
static void store(uint8_t *bytes, size_t length, struct kq_batch_verdict *verdict, uint8_t mode)
{
    kq_autobuf struct kq_buf scratch = {0}, other = {0};
    bool append_time = mode & 2;
    int32_t count = verdict->header.record_count;
    int16_t attributes =
        (int16_t)(verdict->header.attributes | (append_time ? KQ_ATTRIBUTE_LOG_APPEND_TIME : 0));
    kq_batch_stamp(bytes, &verdict->header, attributes, append_time ? NOW : verdict->max_timestamp);
    must_read(bytes, length, count);
    if (mode >> 5 <= KQ_CODEC_ZSTD) {
        int r = kq_batch_recompress(bytes, &verdict->header, mode >> 5, 0, LIMIT, &scratch, &other);
        MUST(r == 0 || r == -EFBIG);
        if (r == 0)
            must_read(other.data, other.length, count);
    }
    append(bytes, length, &verdict->header);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    kq_autobuf struct kq_buf window = {0};
    struct kq_batch_verdict verdict;
    if (!log_)
        open_log();
    if (length == 0)
        return 0;
    uint8_t mode = bytes[0];
    uint8_t *copy = fuzz_copy(bytes + 1, --length);
    struct kq_batch_rules rules = {
        .max_bytes = 1 << 20,
        .limit = LIMIT,
        .now_ms = NOW,
        .before_max_ms = INT64_MAX,
        .after_max_ms = INT64_MAX,
        .append_time = mode & 2,
        .needs_keys = mode & 4,
        .zstd = !(mode & 8),
    };
    make_right(copy, length, mode);
    int r = kq_batch_validate(copy, length, &rules, &window, &verdict);
    MUST(r == 0 || r == -EFBIG || (r >= KQ_CORRUPT && r <= KQ_TRANSACTIONAL));
    MUST(r <= 0 || verdict.reason);
    MUST(r <= 0 || verdict.record_index >= -1);
    if (r == 0)
        store(copy, length, &verdict, mode);
    free(copy);
    return 0;
}
