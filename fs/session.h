/* Takes requests from the kernel and runs their handlers: an adaptive set of receiver threads.
 *
 * Happy path: one receiver. It serves a request inline, then polls for the next for a bounded time
 * (yielding its CPU to whoever wants it) before it sleeps: waking a sleeping thread on another CPU
 * costs more than all the rest of a small write. Polling has to pay: a score falls with each poll
 * that found nothing, rises with each that did and with each sleep that was shorter than a poll.
 *
 * A supervisor ticks while there is traffic. When no receiver found the queue empty since the last
 * tick (all stuck in a handler, or too much work for them) it adds one, up to the maximum; a
 * receiver that finds nothing to do while another one sleeps at the queue leaves it to that one. An
 * idle mount has one thread asleep in poll(2) and no ticks.
 */
#pragma once

#include "fs/internal.h"

/* FS has its session and options; nothing runs before kq_receivers_run. 0; -ENOMEM, -errno. */
int kq_receivers_new(struct kq_fs *fs, struct kq_receivers **ret);

/* Serves until kq_receivers_stop or an unmount, on threads of its own; the caller's thread is the
 * supervisor. Before it returns every parked read has been answered, every request that was taken
 * is finished, except those handed to workers. 0; -errno if no thread could be started. */
int kq_receivers_run(struct kq_receivers *receivers);

/* Async-signal-safe, any thread, any number of times. */
void kq_receivers_stop(struct kq_receivers *receivers);

/* After kq_receivers_run has returned, or without it. NULL is fine. */
void kq_receivers_free(struct kq_receivers *receivers);
