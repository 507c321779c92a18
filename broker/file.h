/* One file of a log whose descriptor is opened when it is wanted and closed when it is not.
 *
 * A file is referenced (its memory) and used (its descriptor): while it is used, the descriptor
 * stays open and the bytes stay readable, even when the name is gone. The process keeps at most so
 * many unused ones open; the ones used longest ago go first. Any thread. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "broker/base/err.h"
#include "broker/verified.h"

enum kq_file_kind {
    KQ_FILE_LOG,
    KQ_FILE_INDEX,
    KQ_FILE_TIMEINDEX,
    KQ_FILE_TEXTINDEX,
    KQ_FILE_TEXTHOLES, /* of segments that were compacted (texthole.h) */
    KQ_FILE_TXNINDEX,
    KQ_FILE_KINDS,
};

#define KQ_FILE_NAME_BYTES 48  /* of a file in its log's directory */
#define KQ_FILE_PATH_BYTES 320 /* of it below the data directory */

/* Where a log's files are; outlives the opening of any of them. */
struct kq_file_place {
    int dirfd; /* the data directory */
    unsigned max_open;
    const char *directory;  /* the log's, in it */
    pthread_mutex_t *names; /* held while another file is put under a name that is in use */
};

struct kq_file {
    atomic_int references;
    atomic_int users; /* of the descriptor; KQ_FILE_CLOSED: there is none */
    atomic_bool touched;
    bool listed; /* under the lock of the open files */
    uint8_t kind;
    int fd;
    int64_t base;
    const struct kq_file_place *place;
    pthread_mutex_t opening;
    TAILQ_ENTRY(kq_file) open_files;
    struct kq_verified verified[]; /* one, of a .log only: there are many more indexes */
};

/* "<20-digit base>.log" and so on, in KQ_FILE_NAME_BYTES at RET. */
void kq_file_name(int64_t base, enum kq_file_kind kind, char *ret);

/* That behind the directory's name, in KQ_FILE_PATH_BYTES at RET. */
void kq_file_path(const struct kq_file_place *place, int64_t base, enum kq_file_kind kind,
                  char *ret);

/* A closed file with one reference; of a .log nothing is known to be good. -ENOMEM. */
int kq_file_new(const struct kq_file_place *place, int64_t base, enum kq_file_kind kind,
                struct kq_file **ret);
void kq_file_ref(struct kq_file *file);
void kq_file_unref(struct kq_file *file); /* NULL is fine */

enum kq_file_use {
    KQ_FILE_CREATE = 1 << 0,   /* make it (0600) if it is missing */
    KQ_FILE_NO_BLOCK = 1 << 1, /* KQ_WOULD_BLOCK where it had to be opened first */
};

/* Opens it if need be and begins a use; kq_file_done ends it. MODE: of enum kq_file_use.
 * 0; KQ_WOULD_BLOCK; -ENOENT, -EMFILE, …; -EINVAL if it is not a regular file. */
int kq_file_use(struct kq_file *file, unsigned mode, int *ret_fd);

/* One more use of a file that is in use. */
void kq_file_use_again(struct kq_file *file);
void kq_file_done(struct kq_file *file);

/* Closes it if nobody used it since the last call of this. */
void kq_file_trim(struct kq_file *file);

/* How many the process has open: for tests. */
unsigned kq_file_open_count(void);
