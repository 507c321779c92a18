#include "broker/segment.h"

#include <string.h>

#include "broker/base/diag.h"
#include "broker/base/endian.h"
#include "broker/base/io.h"
#include "broker/base/mem.h"
#include "broker/textindex.h"

int kq_segment_new(const struct kq_file_place *place, int64_t base, int32_t interval,
                   struct kq_segment **ret)
{
    struct kq_segment *segment = kq_zalloc(sizeof(*segment));
    if (!segment)
        return -ENOMEM;
    atomic_init(&segment->references, 1);
    segment->base = base;
    segment->interval = interval;
    segment->next_offset = base;
    segment->last_base = segment->last_position = -1;
    segment->text_base = segment->text_span = segment->text_length = -1;
    segment->first_timestamp = KQ_NO_TIME;
    segment->max_timestamp = KQ_NO_TIME;
    int r = kq_file_new(place, base, KQ_FILE_LOG, &segment->file);
    if (r == 0)
        r = kq_index_init(&segment->offsets, KQ_FILE_INDEX, place, base);
    if (r == 0)
        r = kq_index_init(&segment->times, KQ_FILE_TIMEINDEX, place, base);
    if (r == 0)
        r = kq_index_init(&segment->texts, KQ_FILE_TEXTINDEX, place, base);
    if (r < 0)
        kq_segment_unref(segment);
    else
        *ret = segment;
    return r;
}

int kq_segment_set_holes(struct kq_segment *segment, uint64_t layout)
{
    struct kq_index *holes = kq_zalloc(sizeof(*holes));
    if (!holes)
        return -ENOMEM;
    int r = kq_index_init(holes, KQ_FILE_TEXTHOLES, segment->file->place, segment->base);
    if (r < 0) {
        free(holes);
        return r;
    }
    segment->holes = holes;
    segment->layout = layout;
    return 0;
}

void kq_segment_ref(struct kq_segment *segment)
{
    atomic_fetch_add_explicit(&segment->references, 1, memory_order_relaxed);
}

void kq_segment_unref(struct kq_segment *segment)
{
    if (!segment || atomic_fetch_sub_explicit(&segment->references, 1, memory_order_acq_rel) != 1)
        return;
    if (segment->pinned)
        kq_file_done(segment->file);
    kq_file_unref(segment->file);
    kq_index_release(&segment->offsets);
    kq_index_release(&segment->times);
    kq_index_release(&segment->texts);
    if (segment->holes)
        kq_index_release(segment->holes);
    free(segment->holes);
    free(segment);
}

/* The four numbers change together: a reader that meets an odd or a changed sequence looks again.
 * Release stores and acquire loads instead of fences, which ThreadSanitizer does not know. */
void kq_segment_begin_publish(struct kq_segment *segment, const struct kq_published *state)
{
    uint32_t sequence = atomic_load_explicit(&segment->sequence, memory_order_relaxed);
    atomic_store_explicit(&segment->sequence, sequence + 1, memory_order_relaxed);
    atomic_store_explicit(&segment->last_base, state->last_base, memory_order_release);
    atomic_store_explicit(&segment->last_position, state->last_position, memory_order_release);
    atomic_store_explicit(&segment->size, state->size, memory_order_release);
    atomic_store_explicit(&segment->next_offset, state->next_offset, memory_order_release);
}

void kq_segment_end_publish(struct kq_segment *segment)
{
    uint32_t sequence = atomic_load_explicit(&segment->sequence, memory_order_relaxed);
    atomic_store_explicit(&segment->sequence, sequence + 1, memory_order_release);
}

void kq_segment_publish(struct kq_segment *segment, const struct kq_published *state)
{
    kq_segment_begin_publish(segment, state);
    kq_segment_end_publish(segment);
}

void kq_segment_published(struct kq_segment *segment, struct kq_published *ret)
{
    uint32_t before, after;
    do {
        before = atomic_load_explicit(&segment->sequence, memory_order_acquire);
        ret->next_offset = atomic_load_explicit(&segment->next_offset, memory_order_acquire);
        ret->size = atomic_load_explicit(&segment->size, memory_order_acquire);
        ret->last_position = atomic_load_explicit(&segment->last_position, memory_order_acquire);
        ret->last_base = atomic_load_explicit(&segment->last_base, memory_order_acquire);
        after = atomic_load_explicit(&segment->sequence, memory_order_relaxed);
    } while (before != after || before & 1);
}

/* Kafka's TimeIndex.maybeAppend: only a larger timestamp gets an entry. */
static int append_time(struct kq_segment *segment, pthread_mutex_t *lock)
{
    uint8_t entry[KQ_INDEX_ENTRY_MAX], last[KQ_INDEX_ENTRY_MAX];
    int64_t max = segment->max_timestamp;
    uint32_t count = kq_index_count(&segment->times);
    if (max < 0)
        return 0;
    if (count > 0) {
        int r = kq_index_get(&segment->times, lock, count - 1, true, last);
        if (r < 0)
            return r;
        if (kq_index_time_key(last) >= max)
            return 0;
    }
    kq_store_be64(entry, (uint64_t)max);
    kq_store_be32(entry + 8, (uint32_t)(segment->max_timestamp_offset - segment->base));
    return kq_index_append(&segment->times, lock, entry);
}

static void append_entries(struct kq_segment *segment, pthread_mutex_t *lock,
                           const struct kq_batch_header *header, int64_t position, int64_t text)
{
    uint8_t entry[KQ_INDEX_ENTRY_MAX];
    uint32_t last = (uint32_t)(kq_batch_next_offset(header) - 1 - segment->base);
    /* Times first and both together: recovery relies on the time index having an entry for
     * whatever the offset index covers. */
    if (kq_index_is_full_tail(&segment->offsets) &&
        (kq_index_flush(&segment->times, lock) < 0 || kq_index_flush(&segment->offsets, lock) < 0))
        return;
    if (append_time(segment, lock) < 0)
        return;
    kq_store_be32(entry, last);
    kq_store_be32(entry + 4, (uint32_t)position);
    if (kq_index_append(&segment->offsets, lock, entry) < 0)
        return;
    segment->since_index = 0;
    if (text < 0 || text > KQ_TEXT_POSITION_MAX)
        return;
    if (kq_index_is_full_tail(&segment->texts) && !segment->text_header &&
        kq_segment_write_text_header(segment, lock) < 0)
        return;
    kq_text_entry_write(entry, segment->base,
                        &(struct kq_text_entry){
                            .text = text,
                            .position = (uint32_t)position,
                            .offset = (uint32_t)(header->base_offset - segment->base),
                        });
    kq_index_append(&segment->texts, lock, entry);
}

void kq_segment_index(struct kq_segment *segment, pthread_mutex_t *lock,
                      const struct kq_batch_header *header, int64_t position, int64_t text)
{
    int64_t max = atomic_load_explicit(&segment->max_timestamp, memory_order_relaxed);
    if (segment->first_timestamp == KQ_NO_TIME)
        segment->first_timestamp = header->base_timestamp;
    if (max == KQ_NO_TIME || header->max_timestamp > max) {
        atomic_store_explicit(&segment->max_timestamp, header->max_timestamp, memory_order_relaxed);
        segment->max_timestamp_offset = kq_batch_next_offset(header) - 1;
    }
    if (segment->since_index > segment->interval)
        append_entries(segment, lock, header, position, text);
    segment->since_index += header->size;
}

bool kq_segment_is_full(struct kq_segment *segment, const struct kq_log_config *config,
                        int64_t length, int64_t last_offset, int64_t max_timestamp,
                        bool *ret_forced)
{
    int64_t size = atomic_load_explicit(&segment->size, memory_order_relaxed);
    *ret_forced = size > 0 &&
                  (size > KQ_SEGMENT_MAX - length || last_offset - segment->base > KQ_SEGMENT_MAX);
    if (size == 0)
        return false;
    if (*ret_forced || size > config->segment_bytes - length)
        return true;
    if (kq_index_count(&segment->offsets) >=
            (uint32_t)config->segment_index_bytes / KQ_OFFSET_ENTRY ||
        kq_index_count(&segment->times) + 1 >=
            (uint32_t)config->segment_index_bytes / KQ_TIME_ENTRY)
        return true;
    return config->segment_ms >= 0 && segment->first_timestamp >= 0 &&
           max_timestamp > segment->first_timestamp &&
           max_timestamp - segment->first_timestamp > config->segment_ms;
}

int kq_segment_write_text_header(struct kq_segment *segment, pthread_mutex_t *lock)
{
    uint8_t header[KQ_TEXT_HEADER];
    int fd;
    kq_text_header_write(header, segment->base, segment->text_base);
    int r = kq_file_use(segment->texts.file, KQ_FILE_CREATE, &fd);
    if (r < 0)
        return r;
    r = kq_io_pwrite(fd, header, sizeof(header), 0);
    kq_file_done(segment->texts.file);
    if (r == 0) {
        segment->text_header = true;
        segment->texts.dirty = true;
    }
    return r;
}

#define SEGMENT_FILES 5

/* The files of SEGMENT, referenced. */
static size_t list_files(struct kq_segment *segment, pthread_mutex_t *lock,
                         struct kq_file *ret[SEGMENT_FILES])
{
    size_t count = 0;
    pthread_mutex_lock(lock);
    ret[count++] = segment->file;
    ret[count++] = segment->offsets.file;
    ret[count++] = segment->times.file;
    ret[count++] = segment->texts.file;
    if (segment->holes)
        ret[count++] = segment->holes->file;
    for (size_t i = 0; i < count; i++)
        kq_file_ref(ret[i]);
    pthread_mutex_unlock(lock);
    return count;
}

int kq_segment_retire(struct kq_segment *segment, pthread_mutex_t *lock)
{
    struct kq_file *files[SEGMENT_FILES];
    size_t count = list_files(segment, lock, files), held = 0;
    int fd, r = 0;
    /* Uses that nobody ends: the descriptors stay until the last reference goes. An index that is
     * missing is made, so that nobody opens that of the successor in its place. */
    while (held < count && r == 0) {
        r = kq_file_use(files[held], held == 0 ? 0 : KQ_FILE_CREATE, &fd);
        held += r == 0;
    }
    for (size_t i = 0; i < held && r < 0; i++)
        kq_file_done(files[i]);
    for (size_t i = 0; i < count; i++)
        kq_file_unref(files[i]);
    if (r == 0)
        segment->retired = true;
    return r;
}

void kq_segment_unretire(struct kq_segment *segment, pthread_mutex_t *lock)
{
    struct kq_file *files[SEGMENT_FILES];
    size_t count = list_files(segment, lock, files);
    segment->retired = false;
    for (size_t i = 0; i < count; i++) {
        kq_file_done(files[i]);
        kq_file_unref(files[i]);
    }
}

int kq_segment_flush_indexes(struct kq_segment *segment, pthread_mutex_t *lock, bool seal)
{
    int r = seal ? append_time(segment, lock) : 0;
    int times = kq_index_flush(&segment->times, lock);
    int offsets = times < 0 ? times : kq_index_flush(&segment->offsets, lock);
    return r < 0 ? r : offsets;
}

int kq_segment_flush_text(struct kq_segment *segment, pthread_mutex_t *lock)
{
    int r = segment->text_header ? 0 : kq_segment_write_text_header(segment, lock);
    return r < 0 ? r : kq_index_flush(&segment->texts, lock);
}
