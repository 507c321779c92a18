/* Where the data and the mount are: checked against each other before anything starts. */
#pragma once

#include "broker/config.h"

/* Makes data and mountpoint real paths (no links, no dots) and sees that they can be what they are
 * to be: the mountpoint, unless no_mount leaves it out, a directory that answers, neither within
 * the other. 0, or an exit code (enum kq_exit) with one line reported. */
int kq_paths_check(struct kq_config *config);

/* The options for libfuse: the data directory as fsname, the subtype, then what was given. To be
 * freed; NULL: no memory. */
char *kq_paths_mount_options(const struct kq_config *config);
