#include "broker/compactswap.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "broker/base/diag.h"
#include "broker/base/io.h"
#include "broker/walk.h"

#define BASE_DIGITS 20
#define LOG_KIND ".log"

const char *const kq_swap_kinds[] = {".index",    ".timeindex", ".textindex", ".textholes",
                                     ".txnindex", LOG_KIND,     NULL};

void kq_swap_name(int64_t base, const char *kind, const char *stage, char *ret)
{
    snprintf(ret, KQ_SWAP_NAME_BYTES, "%020" PRId64 "%s%s", base, kind, stage);
}

void kq_swap_discard(int dirfd, int64_t base)
{
    char name[KQ_SWAP_NAME_BYTES];
    for (size_t i = 0; kq_swap_kinds[i]; i++) {
        kq_swap_name(base, kq_swap_kinds[i], KQ_SWAP_CLEANED, name);
        kq_io_unlink(dirfd, name, false);
    }
}

/* A file of KIND goes from one stage to the next, if there is one. */
static int advance(int dirfd, int64_t base, const char *kind, const char *from, const char *to)
{
    char old[KQ_SWAP_NAME_BYTES], new[KQ_SWAP_NAME_BYTES];
    kq_swap_name(base, kind, from, old);
    kq_swap_name(base, kind, to, new);
    int r = kq_io_rename(dirfd, old, dirfd, new);
    return r == -ENOENT && strcmp(kind, LOG_KIND) != 0 ? 0 : r;
}

static int advance_all(int dirfd, int64_t base, const char *from, const char *to)
{
    int r = 0;
    for (size_t i = 0; r == 0 && kq_swap_kinds[i]; i++) {
        if (!kq_swap_kinds[i + 1])
            r = kq_io_sync_dir(dirfd); /* the others before the .log */
        if (r == 0)
            r = advance(dirfd, base, kq_swap_kinds[i], from, to);
    }
    return r == 0 ? kq_io_sync_dir(dirfd) : r;
}

/* Undone in the opposite order: while there is no .log, the others count for nothing. */
static void undo(int dirfd, int64_t base)
{
    char name[KQ_SWAP_NAME_BYTES];
    kq_swap_name(base, LOG_KIND, KQ_SWAP_READY, name);
    kq_io_unlink(dirfd, name, false);
    for (size_t i = 0; kq_swap_kinds[i]; i++) {
        kq_swap_name(base, kq_swap_kinds[i], KQ_SWAP_READY, name);
        kq_io_unlink(dirfd, name, false);
    }
    kq_swap_discard(dirfd, base);
}

int kq_swap_decide(int dirfd, int64_t base)
{
    int r = advance_all(dirfd, base, KQ_SWAP_CLEANED, KQ_SWAP_READY);
    if (r < 0)
        undo(dirfd, base);
    return r;
}

/* --- What is in the directory --- */

struct entry {
    int64_t base;
    bool log, ready;
    char name[KQ_SWAP_NAME_BYTES];
};

/* Is NAME, behind the digits, one of the kinds, with or without .swap? */
static bool classify(const char *name, struct entry *entry)
{
    for (size_t i = 0; kq_swap_kinds[i]; i++) {
        size_t length = strlen(kq_swap_kinds[i]);
        if (strncmp(name, kq_swap_kinds[i], length) != 0)
            continue;
        entry->ready = strcmp(name + length, KQ_SWAP_READY) == 0;
        entry->log = strcmp(kq_swap_kinds[i], LOG_KIND) == 0;
        return entry->ready || !name[length];
    }
    return false;
}

static int list_name(const char *name, struct kq_buf *entries)
{
    struct entry entry = {0};
    size_t length = strlen(name);
    if (strspn(name, "0123456789") != BASE_DIGITS || length >= sizeof(entry.name) ||
        !classify(name + BASE_DIGITS, &entry))
        return 0;
    errno = 0;
    entry.base = strtoll(name, NULL, 10);
    if (errno)
        return 0;
    memcpy(entry.name, name, length + 1);
    return kq_buf_append(entries, &entry, sizeof(entry));
}

static int list(int dirfd, struct kq_buf *entries)
{
    struct dirent *entry;
    int copy = kq_io_open(dirfd, ".", O_RDONLY | O_DIRECTORY, 0);
    DIR *directory = copy < 0 ? NULL : fdopendir(copy);
    int r = copy < 0 ? copy : directory ? 0 : -errno;
    while (r == 0 && directory && (errno = 0, entry = readdir(directory)))
        r = list_name(entry->d_name, entries);
    if (r == 0 && errno)
        r = -errno;
    if (directory)
        closedir(directory);
    else if (copy >= 0)
        close(copy);
    return r;
}

static const struct entry *entry_at(const struct kq_buf *entries, size_t i)
{
    return i * sizeof(struct entry) < entries->length
               ? (const struct entry *)(const void *)entries->data + i
               : NULL;
}

/* --- Finishing --- */

/* Removes what was merged, each .log behind its indexes: an index without one says that messages
 * are missing. */
static int remove_merged(int dirfd, int64_t base, int64_t end)
{
    kq_autobuf struct kq_buf entries = {0};
    const struct entry *entry;
    int r = list(dirfd, &entries);
    for (int logs = 0; logs <= 1; logs++) {
        for (size_t i = 0; r == 0 && (entry = entry_at(&entries, i)); i++) {
            if (entry->ready || entry->log != logs || entry->base <= base || entry->base >= end)
                continue;
            r = kq_io_unlink(dirfd, entry->name, false);
            r = r == -ENOENT ? 0 : r;
        }
    }
    return r;
}

int kq_swap_finish(int dirfd, int64_t base, int64_t end)
{
    int r = remove_merged(dirfd, base, end);
    return r < 0 ? r : advance_all(dirfd, base, KQ_SWAP_READY, "");
}

/* The offset behind the last batch of the .swap file of BASE. */
static int find_end(int dirfd, int64_t base, int64_t *ret)
{
    char name[KQ_SWAP_NAME_BYTES];
    struct kq_batch_header header;
    struct kq_walk walk;
    struct stat st;
    kq_swap_name(base, LOG_KIND, KQ_SWAP_READY, name);
    kq_autoclose int fd = kq_io_open(dirfd, name, O_RDONLY | O_NOFOLLOW, 0);
    if (fd < 0)
        return fd;
    if (fstat(fd, &st) < 0)
        return -errno;
    kq_walk_begin(&walk, fd, base, 0, st.st_size, KQ_WALK_FAR, true);
    int r;
    while ((r = kq_walk_header(&walk, &header)) == 0)
        kq_walk_step(&walk, &header);
    *ret = walk.least;
    kq_walk_end(&walk);
    return r == KQ_PARTIAL ? -EBADMSG : r == KQ_END ? 0 : r;
}

/* Is there a .log.swap of the base of ENTRY? */
static bool is_decided(const struct kq_buf *entries, int64_t base)
{
    const struct entry *entry;
    for (size_t i = 0; (entry = entry_at(entries, i)); i++)
        if (entry->ready && entry->log && entry->base == base)
            return true;
    return false;
}

int kq_swap_recover(int dirfd, const char *name)
{
    kq_autobuf struct kq_buf entries = {0};
    const struct entry *entry;
    int64_t end;
    int r = list(dirfd, &entries);
    for (size_t i = 0; r == 0 && (entry = entry_at(&entries, i)); i++) {
        if (!entry->ready)
            continue;
        if (!is_decided(&entries, entry->base)) {
            r = kq_io_unlink(dirfd, entry->name, false);
        } else if (entry->log) {
            r = find_end(dirfd, entry->base, &end);
            if (r == 0)
                r = kq_swap_finish(dirfd, entry->base, end);
            if (r == 0)
                kq_diag(LOG_NOTICE, "%s: finished putting compacted segment %" PRId64 " in place",
                        name, entry->base);
        }
    }
    if (r == -EBADMSG)
        kq_diag(LOG_ERR,
                "%s: a .log.swap file, which replaces segments, is damaged: restore it, or remove "
                "it to go on with what is left of them",
                name);
    return r;
}
