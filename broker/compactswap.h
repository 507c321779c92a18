/* Putting a compacted segment in the place of those it was made from, so that a crash at any point
 * leaves one or the other whole.
 *
 * The new files are written as `<base>.<kind>.cleaned` and synced. They become `.swap`, the .log
 * last: with that name the replacement is decided. Then the segments that were merged into it go,
 * and the files get their names, the .log last again. What is left of an undecided replacement is
 * removed when the log is opened, a decided one is finished. The names and their meaning are
 * Kafka's (LogSegments, LogLoader), so that each can finish what the other began.
 *
 * A compacted segment always ends with the last batch of those it replaces, if only its header: so
 * it tells by itself up to which offset it does. */
#pragma once

#include <stdint.h>

#include "broker/base/err.h"

#define KQ_SWAP_CLEANED ".cleaned"
#define KQ_SWAP_READY ".swap"
#define KQ_SWAP_NAME_BYTES 64

/* The kinds of file that a compacted segment has, `.log` last; NULL behind it. */
extern const char *const kq_swap_kinds[];

/* "<20-digit base><KIND><STAGE>" in KQ_SWAP_NAME_BYTES at RET. */
void kq_swap_name(int64_t base, const char *kind, const char *stage, char *ret);

/* Removes the .cleaned files of BASE from DIRFD, a log's directory. */
void kq_swap_discard(int dirfd, int64_t base);

/* The .cleaned files, which are on disk, become .swap. 0: it is decided, and on disk; -errno: it is
 * not, and they are removed, unless the log is opened anew: then it may be either. */
int kq_swap_decide(int dirfd, int64_t base);

/* What was decided is done: segments with offsets in (BASE, END) go. Whatever fails, it can be
 * called again. -errno. */
int kq_swap_finish(int dirfd, int64_t base, int64_t end);

/* At opening: finishes what was decided, removes what was not. NAME is for messages. -errno. */
int kq_swap_recover(int dirfd, const char *name);
