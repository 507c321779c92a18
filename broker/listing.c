#include "broker/listing.h"

#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

#include "broker/base/diag.h"
#include "broker/base/io.h"
#include "broker/compactswap.h"

#define BASE_DIGITS 20

enum kind {
    KIND_LOG,
    KIND_INDEX, /* rebuilt where it is missing */
    KIND_OTHER, /* Kafka's or ours, not read here */
    KIND_PRODUCERS,
    KIND_ABORTED,
    KIND_EPOCHS, /* leader-epoch-checkpoint */
    KIND_SCRAP,  /* an interrupted replacement's */
    KIND_SWAP,   /* one that may be decided */
    KIND_FOREIGN,
};

static const struct {
    const char *suffix;
    enum kind kind;
} suffixes[] = {
    {".log", KIND_LOG},
    {".index", KIND_INDEX},
    {".timeindex", KIND_INDEX},
    {".textindex", KIND_INDEX},
    {".textholes", KIND_INDEX},
    {".txnindex", KIND_ABORTED},
    {".snapshot", KIND_PRODUCERS},
    {".log.damaged", KIND_OTHER},
};

struct orphan {
    int64_t base;
    char name[48];
};

static enum kind classify(const char *name, int64_t *ret_base)
{
    uint64_t base = 0;
    if (strcmp(name, "leader-epoch-checkpoint") == 0)
        return KIND_EPOCHS;
    if (strcmp(name, "partition.metadata") == 0)
        return KIND_OTHER;
    if (strncmp(name, "kqfs-tmp.", 9) == 0)
        return KIND_SCRAP;
    for (int i = 0; i < BASE_DIGITS; i++) {
        if (name[i] < '0' || name[i] > '9' || base > (INT64_MAX - 9) / 10)
            return KIND_FOREIGN;
        base = base * 10 + (uint64_t)(name[i] - '0');
    }
    for (size_t i = 0; i < kq_array_size(suffixes); i++) {
        size_t length = strlen(suffixes[i].suffix);
        const char *stage = name + BASE_DIGITS + length;
        if (strncmp(name + BASE_DIGITS, suffixes[i].suffix, length) != 0)
            continue;
        *ret_base = (int64_t)base;
        if (!*stage)
            return suffixes[i].kind;
        if (strcmp(stage, KQ_SWAP_READY) == 0)
            return KIND_SWAP;
        if (strcmp(stage, KQ_SWAP_CLEANED) == 0 || strcmp(stage, ".deleted") == 0)
            return KIND_SCRAP;
    }
    return KIND_FOREIGN;
}

static int add_log(int dirfd, const char *directory, const char *name, int64_t base,
                   struct kq_listing *listing)
{
    struct stat st;
    if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode)) {
        kq_diag(LOG_WARNING, "%s/%s is not a regular file: ignored", directory, name);
        return 0;
    }
    struct kq_listed segment = {.base = base, .size = st.st_size};
    return kq_buf_append(&listing->segments, &segment, sizeof(segment));
}

static int add_name(int dirfd, const char *directory, const char *name, struct kq_listing *listing,
                    struct kq_buf *indexes, bool *ret_swap)
{
    struct orphan index = {0};
    switch (classify(name, &index.base)) {
    case KIND_LOG:
        return add_log(dirfd, directory, name, index.base, listing);
    case KIND_INDEX:
        memcpy(index.name, name, strlen(name) + 1);
        return kq_buf_append(indexes, &index, sizeof(index));
    case KIND_PRODUCERS:
        return kq_buf_append(&listing->snapshots, &index.base, sizeof(index.base));
    case KIND_ABORTED:
        return kq_buf_append(&listing->aborted, &index.base, sizeof(index.base));
    case KIND_EPOCHS:
        listing->has_epochs = true;
        return 0;
    case KIND_SCRAP:
        kq_io_unlink(dirfd, name, false);
        return 0;
    case KIND_SWAP:
        *ret_swap = true;
        return 0;
    case KIND_FOREIGN:
        kq_diag(LOG_WARNING, "%s/%s is not a file of the log: ignored", directory, name);
        return 0;
    default:
        return 0;
    }
}

static int compare_bases(const void *a, const void *b)
{
    const struct kq_listed *x = a, *y = b;
    return x->base < y->base ? -1 : x->base > y->base;
}

static int compare_offsets(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void sort_offsets(struct kq_buf *offsets)
{
    if (offsets->length > 0)
        qsort(offsets->data, offsets->length / sizeof(int64_t), sizeof(int64_t), compare_offsets);
}

static struct kq_listed *find(struct kq_listing *listing, int64_t base)
{
    struct kq_listed key = {.base = base};
    size_t count = kq_listing_count(listing);
    return count == 0 ? NULL
                      : bsearch(&key, listing->segments.data, count, sizeof(key), compare_bases);
}

/* Index files without a log: before the first segment they are the rest of a removal. */
static void sort_out_indexes(int dirfd, const char *directory, struct kq_listing *listing,
                             const struct kq_buf *indexes)
{
    size_t count = kq_listing_count(listing);
    const struct orphan *index = (const struct orphan *)(const void *)indexes->data;
    for (size_t i = 0; i < indexes->length / sizeof(*index); i++, index++) {
        struct kq_listed *segment = find(listing, index->base);
        if (segment)
            segment->holes |= strcmp(index->name + BASE_DIGITS, ".textholes") == 0;
        else if (count > 0 && index->base < kq_listing_at(listing, 0)->base)
            kq_io_unlink(dirfd, index->name, false);
        else
            kq_diag(LOG_WARNING,
                    "%s/%020" PRId64 ".log is missing: its messages are lost unless you restore it",
                    directory, index->base);
    }
}

static int read_names(int dirfd, const char *name, struct kq_listing *listing,
                      struct kq_buf *indexes, bool *ret_swap)
{
    struct dirent *entry;
    int r = 0;
    int copy = kq_io_open(dirfd, ".", O_RDONLY | O_DIRECTORY, 0);
    if (copy < 0)
        return copy;
    DIR *directory = fdopendir(copy);
    if (!directory) {
        r = -errno;
        close(copy);
        return r;
    }
    while (r == 0 && (errno = 0, entry = readdir(directory))) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            r = add_name(dirfd, name, entry->d_name, listing, indexes, ret_swap);
    }
    if (r == 0 && errno)
        r = -errno;
    closedir(directory);
    return r;
}

int kq_listing_read(int dirfd, const char *name, struct kq_listing *ret)
{
    kq_autobuf struct kq_buf indexes = {0};
    bool swap = false;
    int r = read_names(dirfd, name, ret, &indexes, &swap);
    if (r == 0 && swap) {
        r = kq_swap_recover(dirfd, name);
        ret->segments.length = indexes.length = 0;
        ret->snapshots.length = ret->aborted.length = 0;
        if (r == 0)
            r = read_names(dirfd, name, ret, &indexes, &swap);
    }
    if (r < 0)
        return r;
    size_t count = kq_listing_count(ret);
    if (count > 0)
        qsort(ret->segments.data, count, sizeof(struct kq_listed), compare_bases);
    sort_offsets(&ret->snapshots);
    sort_offsets(&ret->aborted);
    sort_out_indexes(dirfd, name, ret, &indexes);
    return 0;
}

void kq_listing_release(struct kq_listing *listing)
{
    kq_buf_release(&listing->segments);
    kq_buf_release(&listing->snapshots);
    kq_buf_release(&listing->aborted);
}
