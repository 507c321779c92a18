#include "broker/file.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>

#include "broker/base/io.h"
#include "broker/base/mem.h"

#define KQ_FILE_CLOSED (-1)
#define EVICT_STEPS 16 /* at one opening: its cost stays bounded */

/* All open files of the process, the one used longest ago first (roughly: a use only sets a mark).
 * Lock order: file->opening, then open_lock; the other way round only with trylock. */
static pthread_mutex_t open_lock = PTHREAD_MUTEX_INITIALIZER;
static TAILQ_HEAD(, kq_file) open_list = TAILQ_HEAD_INITIALIZER(open_list);
static unsigned open_count;

static const char *const suffixes[KQ_FILE_KINDS] = {"log",       "index",     "timeindex",
                                                    "textindex", "textholes", "txnindex"};

void kq_file_name(int64_t base, enum kq_file_kind kind, char *ret)
{
    snprintf(ret, KQ_FILE_NAME_BYTES, "%020" PRId64 ".%s", base, suffixes[kind]);
}

void kq_file_path(const struct kq_file_place *place, int64_t base, enum kq_file_kind kind,
                  char *ret)
{
    snprintf(ret, KQ_FILE_PATH_BYTES, "%s/%020" PRId64 ".%s", place->directory, base,
             suffixes[kind]);
}

int kq_file_new(const struct kq_file_place *place, int64_t base, enum kq_file_kind kind,
                struct kq_file **ret)
{
    bool is_log = kind == KQ_FILE_LOG;
    struct kq_file *file = kq_zalloc(sizeof(*file) + (is_log ? sizeof(struct kq_verified) : 0));
    if (!file)
        return -ENOMEM;
    if (is_log)
        kq_verified_init(file->verified);
    atomic_init(&file->references, 1);
    atomic_init(&file->users, KQ_FILE_CLOSED);
    file->fd = -1;
    file->kind = (uint8_t)kind;
    file->base = base;
    file->place = place;
    pthread_mutex_init(&file->opening, NULL);
    *ret = file;
    return 0;
}

void kq_file_ref(struct kq_file *file)
{
    atomic_fetch_add_explicit(&file->references, 1, memory_order_relaxed);
}

/* With open_lock held. */
static void unlist(struct kq_file *file)
{
    if (file->listed) {
        TAILQ_REMOVE(&open_list, file, open_files);
        file->listed = false;
        open_count--;
    }
}

void kq_file_unref(struct kq_file *file)
{
    if (!file || atomic_fetch_sub_explicit(&file->references, 1, memory_order_acq_rel) != 1)
        return;
    pthread_mutex_lock(&open_lock);
    unlist(file);
    pthread_mutex_unlock(&open_lock);
    if (file->fd >= 0)
        close(file->fd);
    pthread_mutex_destroy(&file->opening);
    free(file);
}

/* With open_lock held: closes FILE unless it is used or just being opened. */
static bool close_unused(struct kq_file *file)
{
    if (pthread_mutex_trylock(&file->opening) != 0)
        return false;
    int nobody = 0;
    bool closed = atomic_compare_exchange_strong_explicit(
        &file->users, &nobody, KQ_FILE_CLOSED, memory_order_acq_rel, memory_order_relaxed);
    if (closed) {
        close(file->fd);
        file->fd = -1;
        unlist(file);
    }
    pthread_mutex_unlock(&file->opening);
    return closed;
}

/* With open_lock held: brings the number of open files towards MAX. */
static void evict(unsigned max)
{
    for (unsigned step = 0; step < EVICT_STEPS && open_count > max; step++) {
        struct kq_file *file = TAILQ_FIRST(&open_list);
        if (!atomic_exchange_explicit(&file->touched, false, memory_order_relaxed) &&
            close_unused(file))
            continue;
        TAILQ_REMOVE(&open_list, file, open_files);
        TAILQ_INSERT_TAIL(&open_list, file, open_files);
    }
}

static int open_file(struct kq_file *file, unsigned mode)
{
    char path[KQ_FILE_PATH_BYTES];
    struct stat st;
    kq_file_path(file->place, file->base, (enum kq_file_kind)file->kind, path);
    int flags = O_RDWR | O_NOFOLLOW | (mode & KQ_FILE_CREATE ? O_CREAT : 0);
    int fd = kq_io_open(file->place->dirfd, path, flags, 0600);
    if (fd == -EMFILE || fd == -ENFILE) {
        pthread_mutex_lock(&open_lock);
        evict(open_count > EVICT_STEPS ? open_count - EVICT_STEPS : 0);
        pthread_mutex_unlock(&open_lock);
        fd = kq_io_open(file->place->dirfd, path, flags, 0600);
    }
    if (fd == -ELOOP || fd == -EISDIR)
        return -EINVAL;
    if (fd < 0)
        return fd;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return -EINVAL;
    }
    return fd;
}

static bool use_if_open(struct kq_file *file)
{
    int users = atomic_load_explicit(&file->users, memory_order_relaxed);
    while (users != KQ_FILE_CLOSED) {
        if (atomic_compare_exchange_weak_explicit(&file->users, &users, users + 1,
                                                  memory_order_acquire, memory_order_relaxed)) {
            if (!atomic_load_explicit(&file->touched, memory_order_relaxed))
                atomic_store_explicit(&file->touched, true, memory_order_relaxed);
            return true;
        }
    }
    return false;
}

int kq_file_use(struct kq_file *file, unsigned mode, int *ret_fd)
{
    if (kq_unlikely(!use_if_open(file))) {
        if (mode & KQ_FILE_NO_BLOCK)
            return KQ_WOULD_BLOCK;
        pthread_mutex_lock(&file->opening);
        if (!use_if_open(file)) {
            int fd = open_file(file, mode);
            if (fd < 0) {
                pthread_mutex_unlock(&file->opening);
                return fd;
            }
            file->fd = fd;
            atomic_store_explicit(&file->touched, true, memory_order_relaxed);
            atomic_store_explicit(&file->users, 1, memory_order_release);
            pthread_mutex_lock(&open_lock);
            TAILQ_INSERT_TAIL(&open_list, file, open_files);
            file->listed = true;
            open_count++;
            evict(file->place->max_open);
            pthread_mutex_unlock(&open_lock);
        }
        pthread_mutex_unlock(&file->opening);
    }
    *ret_fd = file->fd;
    return 0;
}

void kq_file_use_again(struct kq_file *file)
{
    atomic_fetch_add_explicit(&file->users, 1, memory_order_relaxed);
}

void kq_file_done(struct kq_file *file)
{
    atomic_fetch_sub_explicit(&file->users, 1, memory_order_release);
}

void kq_file_trim(struct kq_file *file)
{
    if (atomic_exchange_explicit(&file->touched, false, memory_order_relaxed))
        return;
    pthread_mutex_lock(&open_lock);
    if (file->listed)
        close_unused(file);
    pthread_mutex_unlock(&open_lock);
}

unsigned kq_file_open_count(void)
{
    pthread_mutex_lock(&open_lock);
    unsigned count = open_count;
    pthread_mutex_unlock(&open_lock);
    return count;
}
