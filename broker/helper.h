/* The helper: a small process that keeps root's rights for a broker that has given them up.
 *
 * It opens /dev/fuse and mounts, hands the descriptor over, opens the files that settings name
 * (keys, certificates, keytabs), nudges those who watch files of the mount, and unmounts when the
 * broker asks or ends, however it ends. What it mounts, where, and which files it opens is fixed
 * before the broker's first word; a word that breaks the protocol ends the service.
 *
 * The protocol: datagrams of fixed size over a SOCK_SEQPACKET socket, one answer a request, in
 * order, a descriptor with it where one was asked for.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "broker/base/privileged.h"

#define KQ_HELPER_NAME_BYTES 4096

enum kq_helper_act {
    KQ_HELPER_MOUNT = 1,
    KQ_HELPER_UNMOUNT,
    KQ_HELPER_OPEN,
    KQ_HELPER_MODIFIED,
};

struct kq_helper_request {
    uint32_t act;                    /* enum kq_helper_act */
    int32_t partition;               /* MODIFIED; else 0 */
    int64_t size;                    /* MODIFIED; else 0 */
    char name[KQ_HELPER_NAME_BYTES]; /* OPEN: a path; MODIFIED: a topic; else ""; zeros behind it */
};

struct kq_helper_answer {
    int32_t result;  /* 0 or -errno */
    uint32_t device; /* MOUNT: 1: /dev/fuse could not be opened */
    int32_t pid;     /* whom a nudge comes from */
    uint32_t zero;
};

struct kq_helper_options {
    const char *mountpoint;    /* absolute; NULL: mounts nothing */
    const char *source;        /* what the mount shows as its source */
    const char *mount_options; /* as struct kq_config has them */
    const char *const *files;  /* which OPEN may name, absolute; copied */
    size_t file_count;
    bool require; /* confine = require */
    uid_t uid;    /* who the broker is: what it may write must not lead to a file */
    gid_t gid;
};

/* --- The process itself --- */

struct kq_helper;

/* Opens the mountpoint and remembers all the rest. 0; -errno (reported). */
int kq_helper_new(const struct kq_helper_options *options, struct kq_helper **ret);

/* Serves the broker at the other end of FD, which it closes, until that has gone, then unmounts
 * what is mounted. 0; -EPROTO: it broke the protocol (reported). */
int kq_helper_serve(struct kq_helper *helper, int fd);
void kq_helper_free(struct kq_helper *helper);

/* Makes kq_helper_serve return as if the broker had gone. Async-signal-safe. */
void kq_helper_stop(void);

/* Is REQUEST, of LENGTH bytes, one that a broker sends? For what it names, see the handlers. */
bool kq_helper_request_is_valid(const struct kq_helper_request *request, size_t length);

/* What mount(2) is to be given. 0; -ENOMEM. */
struct kq_helper_mount {
    unsigned long flags;
    char *source, *type, *data; /* data without the descriptor */
};
int kq_helper_mount_plan(const struct kq_helper_options *options, struct kq_helper_mount *ret);
void kq_helper_mount_release(struct kq_helper_mount *plan);

/* --- The broker's side --- */

/* Forks a helper for this process, which must have no other threads; QUIET: it leaves the terminal
 * and reports to syslog. It is in use (kq_privileged) from now on. 0; -errno (reported). */
int kq_helper_fork(const struct kq_helper_options *options, bool quiet);

/* Uses the helper that a service manager starts at the unix socket PATH. 0; -errno (reported). */
int kq_helper_connect(const char *path);

/* Watches the helper on a thread of its own, which says so when it dies, and calls ON_LOSS then. 0;
 * -errno (reported). */
int kq_helper_watch(void (*on_loss)(void));

/* The broker is done: the helper ends. Nothing where there is none. */
void kq_helper_end(void);
