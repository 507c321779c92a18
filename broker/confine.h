/* What a process of ours may still do, once it has what it needs: system calls (seccomp(2)), files
 * (landlock(7)), capabilities(7). Nothing of it can be taken back. All before other threads are
 * made, which inherit it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kq_confine_options {
    bool require;               /* what the kernel or the build lacks is an error */
    bool kill;                  /* a refused system call ends the process */
    const char *data;           /* the directory to work in */
    const char *const *sockets; /* paths of unix sockets, to be removed at the end */
    size_t socket_count;
    bool kerberos; /* a replay cache is kept below /var/tmp, or $KRB5RCACHEDIR */
};

/* Confines the broker and says in a line what holds. What is not to be had is said once, and is an
 * error only where it is required: -ENOTSUP. A system call that is refused from then on is
 * reported, and fails with EPERM. -errno (reported). */
int kq_confine_broker(const struct kq_confine_options *options);

/* Confines the helper: no capability but to mount and to read, its few system calls. As above. */
int kq_confine_helper(bool require);

/* KEEP: a bit a capability. -errno; without the right to do it, nothing is done. */
int kq_confine_bounding_set(uint64_t keep);
int kq_confine_capabilities(uint64_t keep);

/* --- Its parts --- */

/* Landlock's version that the kernel has; 0: none. */
int kq_landlock_version(void);
/* 0; -ENOTSUP; -errno. */
int kq_landlock_apply(const struct kq_confine_options *options);

enum kq_seccomp_set {
    KQ_SECCOMP_BROKER,
    KQ_SECCOMP_HELPER,
};

/* How many system calls are let through; -ENOTSUP: not built with it, or the kernel lacks it;
 * -errno. Needs no_new_privs. */
int kq_seccomp_apply(enum kq_seccomp_set set, bool kill);
