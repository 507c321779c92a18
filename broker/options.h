/* The command line: `kqfs [options] MOUNTPOINT`, `kqfs SOURCE MOUNTPOINT -o OPTIONS`. */
#pragma once

#include <stdio.h>

#include "broker/config.h"

#define KQ_DEFAULT_CONFIG_FILE "/etc/kqfs/kqfs.conf"

/* The exit codes, as kqfs(1) documents them. */
enum kq_exit {
    KQ_EXIT_OK = 0,
    KQ_EXIT_FAILURE = 1,     /* what the other codes do not name */
    KQ_EXIT_USAGE = 2,       /* command line or configuration */
    KQ_EXIT_DATA_IN_USE = 3, /* another broker holds the data directory */
    KQ_EXIT_DATA_UNUSABLE =
        4,                  /* not readable, not writable, from a newer version, inside the mount */
    KQ_EXIT_MOUNT = 5,      /* the mount failed */
    KQ_EXIT_CONNECTION = 6, /* the connection to the kernel broke while serving */
    KQ_EXIT_INTERRUPTED = 7, /* asked to stop before it was ready */
    KQ_EXIT_LISTEN = 8,      /* no listening at an address */
    KQ_EXIT_EXPORT = 9,      /* not everything was exported */
};

enum kq_act {
    KQ_ACT_SERVE,
    KQ_ACT_HELP,
    KQ_ACT_VERSION,
    KQ_ACT_NOTHING, /* mount -f: checked, nothing to do */
};

/* Reads the command line, then the configuration file: --config FILE, else KQ_DEFAULT_CONFIG_FILE
 * where there is one. A program name of mount.fuse.kqfs takes the options as mount(8) gives them to
 * its helpers. 0 with what to do and, for KQ_ACT_SERVE, the configuration (mountpoint set, or
 * no_mount; the caller frees it); -EINVAL: one line was reported; -ENOMEM. */
int kq_options_parse(int argc, char **argv, enum kq_act *ret_act, struct kq_config **ret);

/* The configuration file: what CONFIG names, else KQ_DEFAULT_CONFIG_FILE where there is one. 0;
 * -EINVAL, -errno (reported); -ENOMEM. */
int kq_options_read_file(struct kq_config *config);

/* --help: fits a screen of 24 lines of 80. */
void kq_options_print_help(FILE *to);
