#include "net/resident.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "broker/base/io.h"
#include "broker/base/mem.h"

/* A range that the kernel reads ahead is as long at least: inside of one, pages arrive together. */
#define STRIDE ((size_t)128 * 1024)
#define PAGE 4096
#define TOUCHED ((int64_t)16 * 1024) /* a disk brings so much at once at least */
#define SCRATCH ((size_t)64 * 1024)

#ifndef SYS_cachestat
#define SYS_cachestat 451 /* the same on every architecture */
#endif

/* cachestat(2), Linux 6.5; the C library has no name for it yet. */
struct range {
    uint64_t position, length;
};

struct cached_pages {
    uint64_t cached, dirty, writeback, evicted, recently_evicted;
};

/* Does the cache have a page for each byte? True also where the kernel does not say. */
static bool all_cached(int fd, int64_t position, size_t length)
{
    static atomic_bool unsupported;
    if (atomic_load_explicit(&unsupported, memory_order_relaxed))
        return true;
    struct range range = {.position = (uint64_t)position, .length = length};
    struct cached_pages pages;
    if (syscall(SYS_cachestat, fd, &range, &pages, 0) < 0) {
        if (errno == ENOSYS)
            atomic_store_explicit(&unsupported, true, memory_order_relaxed);
        return true;
    }
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t first = range.position / page, last = (range.position + length - 1) / page;
    return pages.cached >= last - first + 1;
}

/* A page that is being read in has its place in the cache already, but cannot be read yet. */
static bool readable_at(int fd, int64_t position)
{
    char byte;
    return kq_io_pread_cached(fd, &byte, 1, position) != -EAGAIN;
}

bool kq_resident(int fd, int64_t position, size_t length)
{
    if (length == 0)
        return true;
    int64_t last = position + (int64_t)length - 1;
    if (position / PAGE != last / PAGE && !all_cached(fd, position, length))
        return false;
    for (int64_t at = position; at < last; at += (int64_t)STRIDE)
        if (!readable_at(fd, at))
            return false;
    return readable_at(fd, last);
}

/* Waits until each page can be read; 0 where that is all that was needed. */
static int wait_for_pages(int fd, int64_t position, size_t length)
{
    char byte;
    int64_t last = position + (int64_t)length - 1;
    for (int64_t at = position; at < last; at += TOUCHED) {
        ssize_t n = kq_io_pread(fd, &byte, 1, at);
        if (n < 0)
            return (int)n;
    }
    ssize_t n = kq_io_pread(fd, &byte, 1, last);
    return n < 0 ? (int)n : kq_resident(fd, position, length) ? 0 : -EAGAIN;
}

static int read_all(int fd, int64_t position, size_t length)
{
    kq_autofree uint8_t *scratch = kq_alloc(SCRATCH);
    if (!scratch)
        return -ENOMEM;
    while (length > 0) {
        size_t piece = length < SCRATCH ? length : SCRATCH;
        ssize_t n = kq_io_pread(fd, scratch, piece, position);
        if (n < 0)
            return (int)n;
        if (n == 0)
            return 0;
        position += n;
        length -= (size_t)n;
    }
    return 0;
}

int kq_resident_make(int fd, int64_t position, size_t length, size_t ahead)
{
    if (length == 0)
        return 0;
    readahead(fd, position, length + ahead);
    int r = wait_for_pages(fd, position, length);
    return r == -EAGAIN ? read_all(fd, position, length) : r;
}
