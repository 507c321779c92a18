#include "broker/index.h"

#include <string.h>

#include "broker/base/endian.h"
#include "broker/base/io.h"
#include "broker/base/mem.h"
#include "broker/texthole.h"
#include "broker/textindex.h"

#define BLOCK_BYTES 4096 /* the last steps of a search read so much at once */

int64_t kq_index_offset_key(const uint8_t *entry)
{
    return kq_load_be32(entry);
}

int64_t kq_index_position_key(const uint8_t *entry)
{
    return kq_load_be32(entry + 4);
}

int64_t kq_index_time_key(const uint8_t *entry)
{
    return (int64_t)kq_load_be64(entry);
}

int64_t kq_index_time_offset_key(const uint8_t *entry)
{
    return kq_load_be32(entry + 8);
}

int kq_index_init(struct kq_index *index, enum kq_file_kind kind, const struct kq_file_place *place,
                  int64_t base)
{
    static const uint8_t entry_sizes[] = {
        [KQ_FILE_INDEX] = KQ_OFFSET_ENTRY,
        [KQ_FILE_TIMEINDEX] = KQ_TIME_ENTRY,
        [KQ_FILE_TEXTINDEX] = KQ_TEXT_ENTRY,
        [KQ_FILE_TEXTHOLES] = KQ_HOLE_ENTRY,
    };
    static const uint8_t header_sizes[KQ_FILE_KINDS] = {
        [KQ_FILE_TEXTINDEX] = KQ_TEXT_HEADER,
        [KQ_FILE_TEXTHOLES] = KQ_HOLES_HEADER,
    };
    *index = (struct kq_index){
        .kind = (uint8_t)kind,
        .entry_size = entry_sizes[kind],
        .header_size = header_sizes[kind],
    };
    return kq_file_new(place, base, kind, &index->file);
}

void kq_index_release(struct kq_index *index)
{
    kq_file_unref(index->file);
    index->file = NULL;
    free(index->tail);
    index->tail = NULL;
}

void kq_index_set_empty(struct kq_index *index)
{
    index->stored = index->tail_count = 0;
    index->loaded = true;
}

/* A use of the present file, which a rebuild may replace meanwhile. */
static int use(struct kq_index *index, pthread_mutex_t *lock, unsigned mode, struct kq_file **ret,
               int *ret_fd)
{
    pthread_mutex_lock(lock);
    struct kq_file *file = index->file;
    kq_file_ref(file);
    pthread_mutex_unlock(lock);
    int r = kq_file_use(file, mode, ret_fd);
    if (r != 0) {
        kq_file_unref(file);
        return r;
    }
    *ret = file;
    return 0;
}

static void done(struct kq_file *file)
{
    kq_file_done(file);
    kq_file_unref(file);
}

static int file_size(struct kq_index *index, pthread_mutex_t *lock, bool may_block,
                     int64_t *ret_size)
{
    struct kq_file *file;
    struct stat st;
    int fd;
    int r = use(index, lock, may_block ? 0 : KQ_FILE_NO_BLOCK, &file, &fd);
    if (r == -ENOENT || r == -EINVAL) {
        *ret_size = -1;
        return 0;
    }
    if (r != 0)
        return r;
    r = fstat(fd, &st) < 0 ? -errno : 0;
    done(file);
    if (r == 0)
        *ret_size = st.st_size;
    return r;
}

int kq_index_load(struct kq_index *index, pthread_mutex_t *lock, bool may_block, int64_t *ret_size)
{
    int64_t size = -1;
    pthread_mutex_lock(lock);
    bool loaded = index->loaded;
    pthread_mutex_unlock(lock);
    if (loaded && !ret_size)
        return 0;
    int r = file_size(index, lock, may_block, &size);
    if (r != 0)
        return r;
    int64_t count = (size - index->header_size) / index->entry_size;
    pthread_mutex_lock(lock);
    if (!index->loaded) {
        index->stored = count < 0 ? 0 : (uint32_t)kq_min64(count, UINT32_MAX);
        index->loaded = true;
    }
    pthread_mutex_unlock(lock);
    if (ret_size)
        *ret_size = size;
    return 0;
}

int kq_index_flush(struct kq_index *index, pthread_mutex_t *lock)
{
    struct kq_file *file;
    int fd;
    int r = use(index, lock, KQ_FILE_CREATE, &file, &fd);
    if (r != 0)
        return r;
    pthread_mutex_lock(lock);
    uint32_t count = index->tail_count, stored = index->stored;
    pthread_mutex_unlock(lock);
    if (count > 0)
        r = kq_io_pwrite(fd, index->tail, (size_t)count * index->entry_size,
                         index->header_size + (int64_t)stored * index->entry_size);
    if (r == 0 && count > 0) {
        pthread_mutex_lock(lock);
        if (index->file == file) { /* not written anew meanwhile */
            index->stored += count;
            index->tail_count = 0;
        }
        pthread_mutex_unlock(lock);
        index->dirty = true;
    }
    done(file);
    return r;
}

bool kq_index_has_tail(struct kq_index *index, pthread_mutex_t *lock)
{
    pthread_mutex_lock(lock);
    bool has = index->tail_count > 0;
    pthread_mutex_unlock(lock);
    return has;
}

int kq_index_append(struct kq_index *index, pthread_mutex_t *lock, const uint8_t *entry)
{
    if (!index->tail) {
        uint8_t *tail = kq_alloc((size_t)KQ_INDEX_TAIL * index->entry_size);
        if (!tail)
            return -ENOMEM;
        pthread_mutex_lock(lock);
        index->tail = tail;
        pthread_mutex_unlock(lock);
    }
    if (kq_index_is_full_tail(index)) {
        int r = kq_index_flush(index, lock);
        if (r < 0)
            return r;
    }
    pthread_mutex_lock(lock);
    memcpy(index->tail + (size_t)index->tail_count * index->entry_size, entry, index->entry_size);
    index->tail_count++;
    pthread_mutex_unlock(lock);
    return 0;
}

void kq_index_trim(struct kq_index *index, pthread_mutex_t *lock)
{
    uint8_t *tail = NULL;
    pthread_mutex_lock(lock);
    if (index->tail_count == 0) {
        tail = index->tail;
        index->tail = NULL;
    }
    pthread_mutex_unlock(lock);
    free(tail);
}

int kq_index_truncate(struct kq_index *index, uint32_t count)
{
    int fd;
    int r = kq_file_use(index->file, 0, &fd);
    if (r == -ENOENT && count == 0) {
        kq_index_set_empty(index);
        return 0;
    }
    if (r < 0)
        return r;
    r = kq_io_truncate(fd, index->header_size + (int64_t)count * index->entry_size);
    kq_file_done(index->file);
    if (r < 0)
        return r;
    index->stored = count;
    index->tail_count = 0;
    index->loaded = true;
    return 0;
}

/* Bytes of COUNT entries from NUMBER on, all of them in the file. */
static int read_entries(const struct kq_index *index, int fd, uint32_t number, uint32_t count,
                        bool may_block, uint8_t *to)
{
    size_t length = (size_t)count * index->entry_size;
    int64_t position = index->header_size + (int64_t)number * index->entry_size;
    ssize_t n = may_block ? kq_io_pread(fd, to, length, position)
                          : kq_io_pread_cached(fd, to, length, position);
    if (n == (ssize_t)length)
        return 0;
    if (!may_block && (n >= 0 || n == -EAGAIN))
        return KQ_WOULD_BLOCK;
    return n < 0 ? (int)n : -EBADMSG;
}

int kq_index_get(struct kq_index *index, pthread_mutex_t *lock, uint32_t number, bool may_block,
                 uint8_t *ret)
{
    struct kq_file *file;
    int fd;
    pthread_mutex_lock(lock);
    bool there = number < kq_index_count(index); /* a rebuild may have left fewer */
    bool in_tail = there && number >= index->stored;
    if (in_tail)
        memcpy(ret, index->tail + (size_t)(number - index->stored) * index->entry_size,
               index->entry_size);
    pthread_mutex_unlock(lock);
    if (!there)
        return -EBADMSG;
    if (in_tail)
        return 0;
    int r = use(index, lock, may_block ? 0 : KQ_FILE_NO_BLOCK, &file, &fd);
    if (r != 0)
        return r;
    r = read_entries(index, fd, number, 1, may_block, ret);
    done(file);
    return r;
}

/* How many of COUNT entries at ENTRIES have a key <= WANTED. */
static uint32_t rank(const struct kq_index *index, const uint8_t *entries, uint32_t count,
                     kq_index_key *key, int64_t wanted)
{
    uint32_t low = 0, high = count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (key(entries + (size_t)middle * index->entry_size) <= wanted)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static int search_file(const struct kq_index *index, int fd, uint32_t count, kq_index_key *key,
                       int64_t wanted, bool may_block, uint8_t *ret, uint32_t *ret_number)
{
    uint8_t block[BLOCK_BYTES];
    uint32_t low = 0, high = count, fits = BLOCK_BYTES / index->entry_size;
    while (high - low > fits) {
        uint32_t middle = low + (high - low) / 2;
        int r = read_entries(index, fd, middle, 1, may_block, block);
        if (r != 0)
            return r;
        if (key(block) <= wanted)
            low = middle;
        else
            high = middle;
    }
    int r = read_entries(index, fd, low, high - low, may_block, block);
    if (r != 0)
        return r;
    uint32_t below = rank(index, block, high - low, key, wanted);
    if (below == 0)
        return KQ_END;
    memcpy(ret, block + (size_t)(below - 1) * index->entry_size, index->entry_size);
    if (ret_number)
        *ret_number = low + below - 1;
    return 0;
}

int kq_index_search(struct kq_index *index, pthread_mutex_t *lock, kq_index_key *key,
                    int64_t wanted, bool may_block, uint8_t *ret, uint32_t *ret_number)
{
    int r = kq_index_load(index, lock, may_block, NULL);
    if (r != 0)
        return r;
    pthread_mutex_lock(lock);
    uint32_t stored = index->stored;
    uint32_t below = rank(index, index->tail, index->tail_count, key, wanted);
    if (below > 0) {
        memcpy(ret, index->tail + (size_t)(below - 1) * index->entry_size, index->entry_size);
        if (ret_number)
            *ret_number = stored + below - 1;
    }
    pthread_mutex_unlock(lock);
    if (below > 0 || stored == 0)
        return below > 0 ? 0 : KQ_END;
    struct kq_file *file;
    int fd;
    r = use(index, lock, may_block ? 0 : KQ_FILE_NO_BLOCK, &file, &fd);
    if (r != 0)
        return r;
    r = search_file(index, fd, stored, key, wanted, may_block, ret, ret_number);
    done(file);
    return r;
}
