/* The setting `user`: who keeps root's rights, and when the broker gives them up. Without it,
 * nothing here does anything. */
#pragma once

#include "broker/config.h"

/* Finds the user, gives it the data directory, and starts (or finds) the helper. After
 * kq_daemon_detach and before other threads are made. 0, or an exit code (reported). */
int kq_privileges_begin(const struct kq_config *config);

/* Becomes the user, and is confined from then on. After sockets were bound, before other threads
 * are made. 0, or an exit code (reported). */
int kq_privileges_give_up(const struct kq_config *config);

/* The helper ends, and takes a mount that is left with it. */
void kq_privileges_end(void);

/* Is this `kqfs helper ...`? */
bool kq_helper_is_asked(int argc, char **argv);

/* Serves as the helper of CONFIG's broker, which comes through the socket that a service manager
 * has opened (sd_listen_fds(3)). Returns an exit code. */
int kq_helper_run(const struct kq_config *config);
