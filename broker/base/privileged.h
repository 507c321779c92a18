/* What the broker asks of a process that has more rights than itself, where there is one
 * (broker/helper.h): without, it acts itself. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "broker/base/buf.h"

struct kq_privileged {
    /* Opens PATH, a file that a setting names, for reading. A descriptor (O_CLOEXEC); -EACCES: it
     * is none of those that were set at start; -errno. */
    int (*open)(void *context, const char *path);

    /* Mounts the tree where the settings say. /dev/fuse's descriptor; -errno, then *RET_DEVICE
     * says whether it was /dev/fuse that could not be opened. */
    int (*mount)(void *context, bool *ret_device);
    int (*unmount)(void *context); /* 0, also where it has gone already; -errno */

    /* truncate(2)s TOPIC/pPARTITION.log on the mount to SIZE: the tree answers this from PID, and
     * only then. 0; -errno. */
    int (*modified)(void *context, const char *topic, int32_t partition, int64_t size);

    void *context;
    pid_t pid;
};

/* From now on PRIVILEGED is asked; NULL: nobody. Before other threads are made. */
void kq_privileged_use(const struct kq_privileged *privileged);
const struct kq_privileged *kq_privileged(void); /* NULL: nobody is asked */

/* Opens PATH, a file that a setting names (a key, a certificate, a keytab), for reading, as who may
 * read it. Does not wait for a fifo or a device. A descriptor; -errno. Any thread; may block. */
int kq_privileged_open(const char *path);

/* What tells a file from another, or from itself with other content. Zeros: no file. */
struct kq_file_mark {
    dev_t device;
    ino_t inode;
    off_t size;
    struct timespec modified, changed;
};

bool kq_file_mark_same(const struct kq_file_mark *a, const struct kq_file_mark *b);

/* Looks at PATH as kq_privileged_open does. 0; -errno. */
int kq_privileged_look(const char *path, struct kq_file_mark *ret);

/* The whole of PATH, appended to RET; what it was then in RET_MARK, which may be NULL. Waits for
 * who writes to it and has locked it (fcntl(2)), as Kerberos' tools do. -EFBIG above LIMIT bytes;
 * -EINVAL: no file; -ENOMEM; -errno. */
int kq_privileged_slurp(const char *path, size_t limit, struct kq_buf *ret,
                        struct kq_file_mark *ret_mark);
