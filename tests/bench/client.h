/* The programs under the benchmarks' clients: one function a job, chosen by argv[1] in client.c.
 * Each prints one line of JSON with its figures on stdout and returns an exit status. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Nanoseconds of CLOCK_MONOTONIC: comparable between processes of one machine. */
int64_t now_ns(void);

/* Prints the errno's meaning after WHAT and exits with 1. */
_Noreturn void die(const char *what);

/* The decimal number in TEXT, with an optional K, M or G (powers of 1024); exits where it is not
 * one. */
int64_t number(const char *text);

/* The calling process runs on CPU from now on; -1 leaves it to the scheduler. */
void pin_to(int64_t cpu);

/* write PATH LINE SIZE COUNT SYNC: COUNT write(2) calls of SIZE bytes cut from an endless run of
 * LINE-byte lines. SYNC: none; fsync or fdatasync after each write; end (one fdatasync after all,
 * within the time). */
int job_write(char **arguments);

/* read PATH SIZE: from the first byte to the end. */
int job_read(char **arguments);

/* writers PATH WRITERS SECONDS: so many processes, each with its own open, write a line and
 * fsync it, again and again. */
int job_writers(char **arguments);

/* latency WRITE READ COUNT INTERVAL_US WRITER_CPU READER_CPU: a process appends a line with the
 * time in it to WRITE every INTERVAL_US; another reads READ, from its end on, and notes when it got
 * it. WRITE "-": the line goes through a pipe instead. A CPU of -1 leaves it to the scheduler. */
int job_latency(char **arguments);

/* park PATH COUNT: so many opens, each with a thread that sits in read(2); prints its line once
 * all sit, and ends with its standard input. */
int job_park(char **arguments);

/* names DIRECTORY FIRST LAST: stats DIRECTORY/N for each number. */
int job_names(char **arguments);
