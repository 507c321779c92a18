/* p0.log: which text a read of the endless file gets.
 *
 * A position in the file is a position in the partition's text, for ever. What retention took is a
 * hole at the front. A run of reads, each at the end of the one before, that starts inside the hole
 * (at 0, or as the first of its handle) starts at the first retained message instead, and goes on
 * from there; every other read is exact. A run that retention overtakes ends with ESTALE, and so
 * does an exact read inside the hole. What compaction took are holes behind that: a run may start
 * in one as in the first, and passes over those that it meets. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Of one handle; zero-initialised before its first read. */
struct kq_log_run {
    int64_t next;  /* position in the file at which the run goes on */
    int64_t shift; /* its text position there is so much larger */
    bool started, overtaken;
};

/* How many of SIZE bytes a read at POSITION may give at most. rsyslog takes the first 512 bytes of
 * a file for its identity, and retention changes what a read at 0 gives; where it cannot have them
 * all it goes by st_ino alone, which stays. A short read is nothing to a reader that wants the
 * text. */
size_t kq_log_run_limit(int64_t position, size_t size);

/* The text position for a read at POSITION where text is retained from START on. 0; -ESTALE. */
int kq_log_run_place(struct kq_log_run *run, int64_t position, int64_t start, int64_t *ret_text);

/* May the run that is about to be placed begin behind a hole that it meets? */
bool kq_log_run_may_skip(const struct kq_log_run *run, int64_t position);

/* What was placed last lies in a hole: it goes on at text position TEXT. */
void kq_log_run_skip(struct kq_log_run *run, int64_t position, int64_t text);

/* The read that was placed last gave LENGTH bytes. */
void kq_log_run_advance(struct kq_log_run *run, int64_t length);
