/* Indexes written anew from the batches of a sealed segment. */
#include <fcntl.h>
#include <inttypes.h>

#include "broker/base/diag.h"
#include "broker/base/endian.h"
#include "broker/base/io.h"
#include "broker/log_internal.h"
#include "broker/textindex.h"

struct rebuild {
    struct kq_buf offsets, times;
    int64_t base, max, max_offset, last_written, since_index;
    bool failed; /* no memory */
};

static void add_time(struct rebuild *build)
{
    uint8_t entry[KQ_TIME_ENTRY];
    if (build->max < 0 || build->max <= build->last_written)
        return;
    kq_store_be64(entry, (uint64_t)build->max);
    kq_store_be32(entry + 8, (uint32_t)(build->max_offset - build->base));
    build->failed |= kq_buf_append(&build->times, entry, sizeof(entry)) < 0;
    build->last_written = build->max;
}

static void add_batch(struct rebuild *build, const struct kq_batch_header *header, int64_t position,
                      int64_t interval)
{
    uint8_t entry[KQ_OFFSET_ENTRY];
    int64_t last = kq_batch_next_offset(header) - 1;
    if (header->max_timestamp > build->max) {
        build->max = header->max_timestamp;
        build->max_offset = last;
    }
    if (build->since_index > interval) {
        add_time(build);
        kq_store_be32(entry, (uint32_t)(last - build->base));
        kq_store_be32(entry + 4, (uint32_t)position);
        build->failed |= kq_buf_append(&build->offsets, entry, sizeof(entry)) < 0;
        build->since_index = 0;
    }
    build->since_index += header->size;
}

/* The first batch behind a damaged place gets an entry at once, so that it can be found. */
static int scan(struct rebuild *build, struct kq_walk *walk, int64_t interval)
{
    struct kq_batch_header header;
    int r;
    while ((r = kq_walk_header(walk, &header)) != KQ_END && !build->failed) {
        if (r == 0) {
            add_batch(build, &header, walk->position, interval);
            kq_walk_step(walk, &header);
            continue;
        }
        if (r != -EBADMSG && r != KQ_PARTIAL)
            return r;
        r = kq_walk_resync(walk);
        if (r == KQ_END)
            break;
        if (r < 0)
            return r;
        build->since_index = INT64_MAX / 2;
    }
    add_time(build);
    return build->failed ? -ENOMEM : 0;
}

int kq_segment_replace_index(struct kq_segment *segment, struct kq_index *index,
                             pthread_mutex_t *lock, const struct kq_buf *bytes)
{
    const struct kq_file_place *place = index->file->place;
    char name[KQ_FILE_NAME_BYTES];
    struct kq_file *fresh;
    kq_autoclose int dirfd = kq_io_open(place->dirfd, place->directory, O_RDONLY | O_DIRECTORY, 0);
    if (dirfd < 0)
        return dirfd;
    int r = kq_file_new(place, segment->base, (enum kq_file_kind)index->kind, &fresh);
    if (r < 0)
        return r;
    kq_file_name(segment->base, (enum kq_file_kind)index->kind, name);
    struct kq_file *unused = fresh;
    pthread_mutex_lock(place->names);
    r = segment->retired ? -ESTALE : kq_io_replace(dirfd, name, bytes->data, bytes->length, 0600);
    if (r == 0) {
        pthread_mutex_lock(lock);
        unused = index->file;
        index->file = fresh;
        index->stored = (uint32_t)((bytes->length - index->header_size) / index->entry_size);
        index->tail_count = 0;
        index->loaded = true;
        pthread_mutex_unlock(lock);
    }
    pthread_mutex_unlock(place->names);
    kq_file_unref(unused);
    return r;
}

int kq_segment_rebuild(struct kq_segment *segment, pthread_mutex_t *lock)
{
    struct kq_published state;
    struct kq_walk walk;
    int fd;
    struct rebuild build = {.base = segment->base, .max = -1, .last_written = -1};
    if (atomic_exchange(&segment->rebuilt, true) || !segment->sealed)
        return -EBADMSG;
    int r = kq_file_use(segment->file, 0, &fd);
    if (r < 0)
        return r;
    kq_segment_published(segment, &state);
    kq_diag(LOG_WARNING, "%s: rebuilding the indexes of segment %" PRId64,
            segment->file->place->directory, segment->base);
    kq_walk_begin(&walk, fd, segment->base, 0, state.size, KQ_WALK_FAR, true);
    walk.most = kq_min64(walk.most, state.next_offset - 1);
    r = scan(&build, &walk, segment->interval);
    kq_walk_end(&walk);
    kq_file_done(segment->file);
    if (r == 0)
        r = kq_segment_replace_index(segment, &segment->times, lock, &build.times);
    if (r == 0)
        r = kq_segment_replace_index(segment, &segment->offsets, lock, &build.offsets);
    if (r == 0)
        atomic_store_explicit(&segment->max_timestamp, build.max, memory_order_relaxed);
    kq_buf_release(&build.offsets);
    kq_buf_release(&build.times);
    return r;
}

/* --- Text --- */

struct text_build {
    struct kq_buf bytes, scratch;
    int64_t text, last_entry;
    int64_t next_offset;
    size_t damage; /* entries from here on lie behind the last damaged place; 0: there is none */
};

static int add_text(struct kq_log *log, struct kq_segment *segment, struct text_build *build,
                    struct kq_walk *walk, const struct kq_batch_header *header)
{
    uint8_t raw[KQ_TEXT_ENTRY];
    const uint8_t *bytes;
    int64_t length;
    struct kq_text_entry entry = {
        .text = build->text,
        .position = (uint32_t)walk->position,
        .offset = (uint32_t)(header->base_offset - segment->base),
    };
    int r = kq_walk_bytes(walk, header, &bytes);
    if (r == 0)
        r = kq_batch_check_crc(bytes, header);
    if (r == 0)
        r = kq_log_measure(log, bytes, header, header->base_offset, INT64_MAX, &build->scratch,
                           &length);
    if (r != 0)
        return r;
    if (walk->position - build->last_entry > segment->interval &&
        build->text <= KQ_TEXT_POSITION_MAX) {
        kq_text_entry_write(raw, segment->base, &entry);
        r = kq_buf_append(&build->bytes, raw, sizeof(raw));
        build->last_entry = walk->position;
    }
    build->text += length;
    build->next_offset = kq_batch_next_offset(header);
    if (r == 0)
        kq_walk_step(walk, header);
    return r;
}

/* The first batch behind a damaged place gets an entry at once, so that its text can be placed. */
static int pass_damage(struct kq_segment *segment, struct text_build *build, struct kq_walk *walk)
{
    int r = kq_walk_resync(walk);
    build->damage = build->bytes.length;
    build->last_entry = walk->position - segment->interval - 1;
    return r;
}

static int scan_text(struct kq_log *log, struct kq_segment *segment, struct text_build *build)
{
    struct kq_batch_header header;
    struct kq_published state;
    struct kq_walk walk;
    int fd;
    int r = kq_file_use(segment->file, 0, &fd);
    if (r < 0)
        return r;
    kq_segment_published(segment, &state);
    kq_walk_begin(&walk, fd, segment->base, 0, state.size, KQ_WALK_FAR, true);
    do {
        r = kq_walk_header(&walk, &header);
        if (r == 0)
            r = add_text(log, segment, build, &walk, &header);
        if (r == -EBADMSG || r == KQ_PARTIAL)
            r = pass_damage(segment, build, &walk);
    } while (r == 0);
    kq_walk_end(&walk);
    kq_file_done(segment->file);
    return r == KQ_END ? 0 : r;
}

/* The damaged place had LOST bytes of text: what follows lies so much further. */
static void place_behind_damage(const struct kq_segment *segment, struct text_build *build,
                                int64_t lost)
{
    for (size_t at = build->damage; at < build->bytes.length; at += KQ_TEXT_ENTRY) {
        struct kq_text_entry entry;
        uint8_t *raw = build->bytes.data + at;
        kq_text_entry_read(raw, segment->base, &entry);
        entry.text += lost;
        kq_text_entry_write(raw, segment->base, &entry);
    }
    build->text += lost;
}

int kq_log_rebuild_text(struct kq_log *log, struct kq_segment *segment, int64_t base, int64_t next)
{
    uint8_t header[KQ_TEXT_HEADER] = {0};
    struct text_build build = {0};
    if (!segment->sealed || atomic_exchange(&segment->text_rebuilt, true))
        return -EBADMSG;
    if (segment->base == 0)
        base = 0;
    kq_diag(LOG_WARNING, "%s: rebuilding the text index of segment %" PRId64, log->name,
            segment->base);
    int r = kq_buf_append(&build.bytes, header, sizeof(header));
    if (r == 0)
        r = scan_text(log, segment, &build);
    if (r == 0) {
        if (base >= 0 && build.damage > 0 && next - base > build.text &&
            build.next_offset == segment->next_offset)
            place_behind_damage(segment, &build, next - base - build.text);
        base = base >= 0 ? base : kq_max64(0, next - build.text);
        kq_text_header_write(build.bytes.data, segment->base, base);
        r = kq_segment_replace_index(segment, &segment->texts, &log->map, &build.bytes);
    }
    if (r == 0) {
        segment->text_header = true;
        atomic_store_explicit(&segment->text_base, base, memory_order_release);
        if (log->counted_in == segment) {
            log->counted_position = log->counted_entry = segment->size;
            log->counted_text = build.text;
        }
    }
    kq_buf_release(&build.bytes);
    kq_buf_release(&build.scratch);
    return r;
}
