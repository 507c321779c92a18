#include "broker/aborted.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>

#include "broker/base/diag.h"
#include "broker/base/io.h"
#include "broker/logproducer.h"
#include "broker/replay.h"

#define SUFFIX ".txnindex"
#define NAME_BYTES 40
#define LARGEST_FILE ((size_t)256 << 20)

typedef struct kq_compact_aborted entry;

void kq_aborted_init(struct kq_aborted_index *index)
{
    pthread_mutex_init(&index->lock, NULL);
}

void kq_aborted_destroy(struct kq_aborted_index *index)
{
    kq_buf_release(&index->bases);
    kq_buf_release(&index->entries);
    pthread_mutex_destroy(&index->lock);
}

static size_t entry_count(const struct kq_buf *entries)
{
    return entries->length / sizeof(entry);
}

static const entry *entry_at(const struct kq_buf *entries, size_t i)
{
    return (const entry *)(const void *)entries->data + i;
}

static int64_t base_at(const struct kq_buf *bases, size_t i)
{
    int64_t base;
    memcpy(&base, bases->data + i * sizeof(base), sizeof(base));
    return base;
}

/* --- Files --- */

static void file_name(int64_t base, char ret[NAME_BYTES])
{
    snprintf(ret, NAME_BYTES, "%020" PRId64 SUFFIX, base);
}

/* Appends the file's entries to RET; they end in [BASE, END), one behind the other. -EBADMSG. */
static int read_file(int dirfd, int64_t base, int64_t end, struct kq_buf *ret)
{
    kq_autobuf struct kq_buf bytes = {0};
    char name[NAME_BYTES];
    int64_t least = base;
    entry one;
    file_name(base, name);
    int r = kq_io_slurp(dirfd, name, LARGEST_FILE, &bytes);
    if (r < 0)
        return r == -EFBIG || r == -EINVAL ? -EBADMSG : r;
    if (bytes.length % KQ_ABORTED_ENTRY != 0)
        return -EBADMSG;
    for (size_t at = 0; at < bytes.length && r == 0; at += KQ_ABORTED_ENTRY) {
        r = kq_compact_aborted_read(bytes.data + at, &one);
        if (r == 0 && (one.last_offset < least || one.last_offset >= end))
            r = -EBADMSG;
        least = one.last_offset + 1;
        if (r == 0)
            r = kq_buf_append(ret, &one, sizeof(one));
    }
    return r;
}

static int write_file(int dirfd, int64_t base, const struct kq_buf *entries, size_t first,
                      size_t count)
{
    kq_autobuf struct kq_buf bytes = {0};
    char name[NAME_BYTES];
    int r = kq_buf_reserve(&bytes, count * KQ_ABORTED_ENTRY + 1);
    if (r < 0)
        return r;
    for (size_t i = 0; i < count; i++, bytes.length += KQ_ABORTED_ENTRY)
        kq_compact_aborted_write(bytes.data + bytes.length, entry_at(entries, first + i));
    file_name(base, name);
    return kq_io_replace(dirfd, name, bytes.data, bytes.length, 0600);
}

/* --- Settling at the opening --- */

static bool has_file(const struct kq_aborted_index *index, int64_t base)
{
    for (size_t i = index->bases.length / sizeof(base); i-- > 0;)
        if (base_at(&index->bases, i) == base)
            return true;
    return false;
}

static int compare_bases(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static int add_file(struct kq_aborted_index *index, int64_t base)
{
    int r = has_file(index, base) ? 0 : kq_buf_append(&index->bases, &base, sizeof(base));
    if (r == 0)
        qsort(index->bases.data, index->bases.length / sizeof(base), sizeof(base), compare_bases);
    return r;
}

static int append_entries(struct kq_buf *to, const struct kq_buf *from, size_t first, size_t count)
{
    return count ? kq_buf_append(to, entry_at(from, first), count * sizeof(entry)) : 0;
}

static bool are_equal(const struct kq_buf *a, const struct kq_buf *b)
{
    return a->length == b->length && (a->length == 0 || memcmp(a->data, b->data, a->length) == 0);
}

/* COUNT of ENDED, from FIRST on, are what ended in SEGMENT since FROM: so its file has to say,
 * behind what ended before. */
static int settle_segment(struct kq_log *log, int dirfd, const struct kq_segment *segment,
                          int64_t from, const struct kq_buf *ended, size_t first, size_t count)
{
    kq_autobuf struct kq_buf there = {0}, wanted = {0};
    bool known = has_file(&log->aborted, segment->base);
    size_t older = 0;
    if (!known && count == 0)
        return 0;
    int r = known ? read_file(dirfd, segment->base, INT64_MAX, &there) : 0;
    if (r == -EBADMSG && segment->base < from)
        return 0; /* it is made anew when somebody asks */
    if (r == -EBADMSG) {
        r = there.length = 0;
        known = false;
    }
    while (older < entry_count(&there) && entry_at(&there, older)->last_offset < from)
        older++;
    if (r == 0)
        r = append_entries(&wanted, &there, 0, older);
    if (r == 0)
        r = append_entries(&wanted, ended, first, count);
    if (r == 0 && (!known || !are_equal(&wanted, &there)))
        r = write_file(dirfd, segment->base, &wanted, 0, entry_count(&wanted));
    return r < 0 ? r : add_file(&log->aborted, segment->base);
}

int kq_aborted_settle(struct kq_log *log, int dirfd, int64_t from, const struct kq_buf *ended)
{
    size_t first = 0, next = 0;
    int r = 0;
    for (size_t i = 0; i < log->segment_count && r == 0 && from < log->end; i++, first = next) {
        const struct kq_segment *segment = log->segments[i];
        while (next < entry_count(ended) &&
               entry_at(ended, next)->last_offset < segment->next_offset)
            next++;
        if (segment->next_offset > from)
            r = settle_segment(log, dirfd, segment, from, ended, first, next - first);
    }
    log->aborted.any = log->aborted.bases.length > 0;
    return r;
}

/* --- Reading when somebody asks --- */

/* From the log, on from what is known of its producers before SEGMENT. */
static int rebuild(struct kq_log *log, int dirfd, const struct kq_segment *segment,
                   struct kq_buf *ret)
{
    struct kq_producers producers;
    struct kq_replay replay = {.producers = &producers, .to = segment->next_offset};
    size_t first = 0;
    kq_diag(LOG_WARNING,
            "%s: the list of aborted transactions of segment %" PRId64
            " is damaged: making it anew from the log",
            log->name, segment->base);
    kq_producers_init(&producers, SIZE_MAX, -1);
    int r = kq_log_producers_before(log, dirfd, segment->base, &producers, &replay.from);
    if (r == 0)
        r = kq_log_replay(log, &replay);
    while (first < entry_count(&replay.aborted) &&
           entry_at(&replay.aborted, first)->last_offset < segment->base)
        first++;
    size_t count = entry_count(&replay.aborted) - first;
    if (r == 0)
        r = append_entries(ret, &replay.aborted, first, count);
    if (r == 0)
        write_file(dirfd, segment->base, &replay.aborted, first, count); /* else again next time */
    kq_producers_clear(&producers, -1);
    kq_buf_release(&replay.aborted);
    return r;
}

static int load_segment(struct kq_log *log, int dirfd, int64_t base, struct kq_buf *entries)
{
    struct kq_segment *segment = kq_log_segment_at(log, base);
    size_t before = entries->length;
    int r = 0;
    if (segment->base == base) { /* else retention took it, or compaction put it into another */
        r = read_file(dirfd, base, segment->next_offset, entries);
        if (r == -EBADMSG) {
            entries->length = before;
            r = rebuild(log, dirfd, segment, entries);
        }
    }
    kq_segment_unref(segment);
    return r == -ENOENT ? 0 : r;
}

static int load(struct kq_log *log)
{
    struct kq_aborted_index *index = &log->aborted;
    int r = 0;
    kq_autoclose int dirfd =
        kq_io_open(log->place.dirfd, log->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
    if (dirfd < 0)
        return dirfd;
    index->entries.length = 0;
    for (size_t i = 0; i < index->bases.length / sizeof(int64_t) && r == 0; i++)
        r = load_segment(log, dirfd, base_at(&index->bases, i), &index->entries);
    return r;
}

/* What was loaded stays as it is. */
int kq_aborted_load(struct kq_log *log, bool may_block)
{
    struct kq_aborted_index *index = &log->aborted;
    if (kq_likely(!atomic_load_explicit(&index->any, memory_order_acquire)) ||
        atomic_load_explicit(&index->loaded, memory_order_acquire))
        return 0;
    if (!may_block)
        return KQ_WOULD_BLOCK;
    int r = 0;
    pthread_mutex_lock(&index->lock);
    if (!index->loaded) {
        r = load(log);
        if (r == 0)
            atomic_store_explicit(&index->loaded, true, memory_order_release);
    }
    pthread_mutex_unlock(&index->lock);
    return r;
}

/* The first that ends at OFFSET or behind. */
static size_t position_of(const struct kq_buf *entries, int64_t offset)
{
    size_t low = 0, high = entry_count(entries);
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (entry_at(entries, middle)->last_offset < offset)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

int kq_aborted_find(struct kq_log *log, int64_t from, int64_t to, bool may_block,
                    struct kq_buf *ret)
{
    const struct kq_buf *entries = &log->aborted.entries;
    int r = kq_aborted_load(log, may_block);
    if (r != 0 || !log->aborted.loaded)
        return r;
    for (size_t i = position_of(entries, from); i < entry_count(entries) && r == 0; i++) {
        const entry *one = entry_at(entries, i);
        if (one->first_offset < to)
            r = append_entries(ret, entries, i, 1);
        if (one->last_stable >= to)
            break; /* all that began before it had ended */
    }
    return r;
}

int kq_aborted_has(struct kq_log *log, const struct kq_batch_header *header, bool may_block,
                   bool *ret)
{
    const struct kq_buf *entries = &log->aborted.entries;
    bool has = false;
    int r = kq_aborted_load(log, may_block);
    if (r != 0)
        return r;
    size_t i = log->aborted.loaded ? position_of(entries, header->base_offset) : 0;
    for (; i < entry_count(entries) && !has; i++) {
        const entry *one = entry_at(entries, i);
        has = one->producer_id == header->producer_id && one->first_offset <= header->base_offset;
        if (one->last_stable > header->base_offset)
            break; /* all that began before had ended */
    }
    *ret = has;
    return 0;
}
