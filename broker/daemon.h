/* The life of the process: into the background once all is well, signals, readiness. */
#pragma once

#include <stdbool.h>

/* Forks. The parent waits for what the child says and exits with 0 when that is kq_daemon_ready,
 * else with the child's own exit code; only the child returns, its stderr still the caller's.
 * SIGTERM, SIGINT and SIGHUP to the waiting parent are handed on. Before any thread is made.
 * 0; -errno (reported). */
int kq_daemon_detach(void);

/* All is well: tells systemd where it asked for it ($NOTIFY_SOCKET), and, after kq_daemon_detach,
 * lets the parent go, leaves session, directory and terminal, and sends messages to syslog. */
void kq_daemon_ready(void);

/* Tells systemd STATE, such as "STOPPING=1", where it asked for it. */
void kq_daemon_notify(const char *state);

/* Takes SIGTERM, SIGINT and SIGHUP for the whole process from now on, on a thread of its own, and
 * ignores SIGPIPE. The first of them makes ON_STOP be called from that thread, once; those that
 * follow change nothing. With a terminal as stderr, one line a second says PROGRESS until
 * kq_signals_quiet. Before other threads are made, as they inherit the mask. 0; -errno. */
int kq_signals_start(void (*on_stop)(void), const char *progress);
void kq_signals_quiet(void);

/* SIGHUP makes RELOAD be called from that thread; where it returns false it is as SIGTERM. Before
 * kq_signals_start. */
void kq_signals_on_hangup(bool (*reload)(void));

/* As if one of them had been taken. Any thread, after kq_signals_start. */
void kq_signals_stop(void);

/* Was one of them taken? Any thread. */
bool kq_signals_stopping(void);

/* Ends the thread; ON_STOP is not called any more. */
void kq_signals_end(void);
