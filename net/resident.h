/* Are the bytes of a file in the page cache, so that sending them does not wait for a disk? */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* True: LENGTH bytes of FD from POSITION on can be read without waiting, unless the kernel drops
 * them meanwhile. A few microseconds a MiB; never blocks. Where the file system cannot tell
 * (tmpfs), true. */
bool kq_resident(int fd, int64_t position, size_t length);

/* Has them read in: blocks. Copies nothing, so that it takes next to no CPU from the loops, unless
 * the kernel does not read ahead what it is asked for. The disk begins with the AHEAD bytes that
 * follow, too. 0; -errno. */
int kq_resident_make(int fd, int64_t position, size_t length, size_t ahead);
