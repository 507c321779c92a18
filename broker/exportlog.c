#include "broker/exportlog.h"

#include <inttypes.h>
#include <stdio.h>

#include "broker/aborted.h"
#include "broker/base/crc32c.h"
#include "broker/base/diag.h"
#include "broker/base/endian.h"
#include "broker/epochs.h"
#include "broker/exportoffsets.h"
#include "broker/exportsegment.h"
#include "broker/log_internal.h"
#include "broker/producerid.h"

#define STEP_BYTES (8 << 20) /* of a segment, between two steps of the progress */

/* Kafka's part of a snapshot: producersnapshot.c. */
#define SNAPSHOT_CRC_AT 2
#define SNAPSHOT_COUNT_AT 6
#define SNAPSHOT_HEADER 10
#define SNAPSHOT_ENTRY 46
#define SNAPSHOT_TRANSACTION_AT 38

struct exporting {
    const struct kq_export_log *job;
    struct kq_log_bounds bounds;
    struct kq_export_segment segment;
    struct kq_buf aborted; /* struct kq_compact_aborted each, by last offset */
    size_t aborted_at;     /* the first that no segment has yet */
    struct kq_buf scratch, changed;
};

/* --- Aborted transactions --- */

static size_t aborted_count(const struct exporting *exporting)
{
    return exporting->aborted.length / sizeof(struct kq_compact_aborted);
}

/* Those whose markers lie before UNTIL, into the file of the segment that ends there. */
static int write_aborted(struct exporting *exporting, int64_t until)
{
    kq_autobuf struct kq_buf entries = {0};
    const struct kq_compact_aborted *list = (const void *)exporting->aborted.data;
    uint8_t entry[KQ_ABORTED_ENTRY];
    char name[KQ_FILE_NAME_BYTES];
    int r = 0;
    for (; r == 0 && exporting->aborted_at < aborted_count(exporting); exporting->aborted_at++) {
        if (list[exporting->aborted_at].last_offset >= until)
            break;
        kq_compact_aborted_write(entry, &list[exporting->aborted_at]);
        r = kq_buf_append(&entries, entry, sizeof(entry));
    }
    if (r < 0 || entries.length == 0)
        return r;
    kq_file_name(exporting->segment.base, KQ_FILE_TXNINDEX, name);
    return kq_export_file(exporting->job, name, entries.data, entries.length);
}

/* --- Segments --- */

/* The batch on which WALK stands. */
static int add_batch(struct exporting *exporting, struct kq_walk *walk)
{
    const struct kq_export_log *job = exporting->job;
    struct kq_batch_header header;
    const uint8_t *bytes;
    int r = kq_walk_header(walk, &header);
    if (r == 0)
        r = kq_walk_bytes(walk, &header, &bytes);
    if (r == 0)
        r = kq_batch_check_crc(bytes, &header);
    if (r != 0)
        return r == KQ_PARTIAL ? -EBADMSG : r;
    struct kq_batch_header written = header;
    if (job->offsets && !(header.attributes & KQ_ATTRIBUTE_CONTROL)) {
        r = kq_export_offsets(bytes, &header, &exporting->scratch, &exporting->changed);
        if (r == 0)
            kq_batch_header_read(exporting->changed.data, exporting->changed.length, &written);
        if (r == 0)
            bytes = exporting->changed.data;
        if (r < 0)
            return r;
    }
    r = kq_export_segment_add(&exporting->segment, bytes, &written);
    if (r == 0)
        kq_walk_step(walk, &header);
    job->progress->bytes += header.size;
    job->progress->messages += header.record_count;
    return r;
}

static int show(struct kq_export_progress *progress)
{
    return progress->step && !progress->step(progress) ? -EINTR : 0;
}

static int add_extent(struct exporting *exporting, const struct kq_extent *extent)
{
    struct kq_walk walk;
    int64_t shown = 0;
    int r;
    kq_walk_begin(&walk, extent->fd, exporting->segment.base, extent->position,
                  extent->position + extent->length, KQ_WALK_FAR, true);
    while ((r = add_batch(exporting, &walk)) == 0) {
        if (walk.position - extent->position - shown < STEP_BYTES)
            continue;
        shown = walk.position - extent->position;
        r = show(exporting->job->progress);
        if (r < 0)
            break;
    }
    if (r == -EBADMSG)
        kq_diag(LOG_ERR,
                "%s is damaged behind offset %" PRId64 ": restore the file, or drop what lies "
                "before the damage's end (kafka-delete-records.sh) and export again",
                exporting->job->name, walk.least);
    kq_walk_end(&walk);
    return r == KQ_END ? 0 : r;
}

/* From OFFSET to the end of its segment. RET: the offset behind it. */
static int export_segment(struct exporting *exporting, int64_t offset, int64_t *ret)
{
    const struct kq_export_log *job = exporting->job;
    struct kq_extent extent;
    int r = kq_log_read(job->log, offset, UINT32_MAX, false, true, &extent);
    if (r == -EBADMSG)
        kq_diag(LOG_ERR,
                "%s is damaged at offset %" PRId64 ": restore the file, or drop what lies before "
                "the damage's end (kafka-delete-records.sh) and export again",
                job->name, offset);
    if (r != 0)
        return r;
    bool whole = extent.position == 0;
    r = kq_export_segment_begin(&exporting->segment, job,
                                whole ? kq_min64(extent.owner->base, extent.base_offset)
                                      : extent.base_offset);
    if (r == 0)
        r = add_extent(exporting, &extent);
    if (r == 0)
        r = kq_export_segment_end(&exporting->segment);
    if (r == 0)
        r = write_aborted(exporting, extent.next_offset);
    kq_export_segment_release(&exporting->segment);
    if (r == 0)
        *ret = kq_max64(extent.next_offset, offset + 1);
    kq_extent_unref(&extent);
    return r == 0 ? show(job->progress) : r;
}

/* So that the log ends where it does although no message lies before its end. */
static int export_empty(struct exporting *exporting)
{
    int r = kq_export_segment_begin(&exporting->segment, exporting->job, exporting->bounds.end);
    if (r == 0)
        r = kq_export_segment_end(&exporting->segment);
    kq_export_segment_release(&exporting->segment);
    return r;
}

/* Retention may take the front meanwhile. */
static int export_segments(struct exporting *exporting)
{
    int64_t offset = exporting->bounds.start, behind = -1;
    int r = 0;
    while (r == 0 && offset < exporting->bounds.end) {
        r = export_segment(exporting, offset, &behind);
        if (r == 0) {
            offset = behind;
        } else if (r == KQ_GONE) {
            struct kq_log_bounds now;
            kq_log_bounds(exporting->job->log, &now);
            offset = kq_max64(offset, now.start);
            if (behind < 0)
                exporting->bounds.start = offset;
            r = 0;
        }
    }
    if (r < 0)
        return r;
    return behind < exporting->bounds.end ? export_empty(exporting) : 0;
}

/* --- What Kafka keeps beside --- */

/* Keeps the entries of SNAPSHOT that are ours, or of an open transaction, and nothing behind. */
static void sift(struct kq_buf *snapshot)
{
    uint32_t count = kq_load_be32(snapshot->data + SNAPSHOT_COUNT_AT), kept = 0;
    uint8_t *first = snapshot->data + SNAPSHOT_HEADER;
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *entry = first + (size_t)i * SNAPSHOT_ENTRY;
        if ((int64_t)kq_load_be64(entry) >= KQ_PRODUCER_FIRST ||
            (int64_t)kq_load_be64(entry + SNAPSHOT_TRANSACTION_AT) >= 0)
            memmove(first + (size_t)kept++ * SNAPSHOT_ENTRY, entry, SNAPSHOT_ENTRY);
    }
    snapshot->length = SNAPSHOT_HEADER + (size_t)kept * SNAPSHOT_ENTRY;
    kq_store_be32(snapshot->data + SNAPSHOT_COUNT_AT, kept);
    kq_store_be32(
        snapshot->data + SNAPSHOT_CRC_AT,
        kq_crc32c(0, snapshot->data + SNAPSHOT_COUNT_AT, snapshot->length - SNAPSHOT_COUNT_AT));
}

static int write_producers(struct exporting *exporting)
{
    struct kq_log *log = exporting->job->log;
    kq_autobuf struct kq_buf snapshot = {0};
    char name[KQ_FILE_NAME_BYTES];
    pthread_mutex_lock(&log->lock);
    int r = kq_producers_write(&log->producers, &snapshot);
    pthread_mutex_unlock(&log->lock);
    if (r < 0)
        return r;
    sift(&snapshot);
    snprintf(name, sizeof(name), "%020" PRId64 ".snapshot", exporting->bounds.end);
    return kq_export_file(exporting->job, name, snapshot.data, snapshot.length);
}

static int write_epochs(struct exporting *exporting)
{
    char text[64];
    int n = exporting->bounds.start < exporting->bounds.end
                ? snprintf(text, sizeof(text), "0\n1\n0 %" PRId64 "\n", exporting->bounds.start)
                : snprintf(text, sizeof(text), "0\n0\n");
    return kq_export_file(exporting->job, KQ_EPOCHS_FILE, text, (size_t)n);
}

int kq_export_log(const struct kq_export_log *job, struct kq_exported_log *ret)
{
    struct exporting exporting = {.job = job, .segment = {.fd = -1}};
    kq_log_bounds(job->log, &exporting.bounds);
    int r = kq_aborted_find(job->log, exporting.bounds.start, exporting.bounds.end, true,
                            &exporting.aborted);
    if (r == 0)
        r = export_segments(&exporting);
    if (r == 0)
        r = write_producers(&exporting);
    if (r == 0)
        r = write_epochs(&exporting);
    if (r == 0)
        *ret = (struct kq_exported_log){exporting.bounds.start, exporting.bounds.end};
    kq_buf_release(&exporting.aborted);
    kq_buf_release(&exporting.scratch);
    kq_buf_release(&exporting.changed);
    return r > 0 ? -EIO : r;
}
