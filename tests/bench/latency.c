/* How long a line takes from one process to another, and how many can wait for it. */
#include "tests/bench/client.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { LINE = 100, FIRST_SAMPLES = 100 };

static void sleep_until_ns(int64_t when)
{
    struct timespec time = {.tv_sec = when / 1000000000, .tv_nsec = when % 1000000000};

    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL) == EINTR)
        continue;
}

/* COUNT lines, each with the time right before its write in it, on a fixed beat. */
static void send_times(int fd, int64_t count, int64_t interval_us)
{
    char line[LINE + 1];
    int64_t next = now_ns() + 50000000;

    for (int64_t i = 0; i < count; i++, next += interval_us * 1000) {
        sleep_until_ns(next);
        snprintf(line, sizeof(line), "%0*" PRId64 "\n", LINE - 1, now_ns());
        if (write(fd, line, LINE) != LINE)
            die("write");
    }
    exit(0);
}

/* Reads lines until it has COUNT; a read that brings several counts for each of them. */
static void receive_times(int fd, int64_t count, int64_t *latencies)
{
    char bytes[65536];
    size_t have = 0;

    for (int64_t i = 0; i < count;) {
        ssize_t got = read(fd, bytes + have, sizeof(bytes) - have);
        int64_t now = now_ns();
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            die("read");
        have += (size_t)got;
        size_t used = 0;
        for (; have - used >= LINE && i < count; used += LINE)
            latencies[i++] = now - strtoll(bytes + used, NULL, 10);
        memmove(bytes, bytes + used, have -= used);
    }
}

static int by_size(const void *a, const void *b)
{
    int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;
    return (left > right) - (left < right);
}

static void report(int64_t *latencies, int64_t count)
{
    double sum = 0;

    for (int64_t i = 0; i < count; i++)
        sum += (double)latencies[i];
    qsort(latencies, (size_t)count, sizeof(*latencies), by_size);
    printf("{\"p50_us\": %.2f, \"p99_us\": %.2f, \"mean_us\": %.2f, \"operations\": %" PRId64 "}\n",
           (double)latencies[count / 2] / 1e3, (double)latencies[count * 99 / 100] / 1e3,
           sum / (double)count / 1e3, count);
}

static void open_ends(char **arguments, int ret_fds[2])
{
    if (strcmp(arguments[0], "-") == 0) {
        if (pipe(ret_fds) < 0)
            die("pipe");
        return;
    }
    ret_fds[0] = open(arguments[1], O_RDONLY | O_CLOEXEC);
    if (ret_fds[0] < 0)
        die(arguments[1]);
    ret_fds[1] = open(arguments[0], O_WRONLY | O_APPEND | O_CLOEXEC);
    if (ret_fds[1] < 0)
        die(arguments[0]);
}

int job_latency(char **arguments)
{
    /* The first ones warm up. */
    int64_t count = number(arguments[2]) + FIRST_SAMPLES;
    int64_t *latencies = calloc((size_t)count, sizeof(*latencies));
    int fds[2], status;

    if (!latencies)
        die("memory");
    open_ends(arguments, fds);
    pid_t writer = fork();
    if (writer < 0)
        die("fork");
    if (!writer) {
        pin_to(number(arguments[4]));
        send_times(fds[1], count, number(arguments[3]));
    }
    pin_to(number(arguments[5]));
    receive_times(fds[0], count, latencies);
    waitpid(writer, &status, 0);
    report(latencies + FIRST_SAMPLES, count - FIRST_SAMPLES);
    return status != 0;
}

struct parked {
    const char *path;
    atomic_llong reading;
};

static void *read_for_ever(void *context)
{
    struct parked *parked = context;
    char bytes[4096];
    int fd = open(parked->path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        die(parked->path);
    atomic_fetch_add(&parked->reading, 1);
    while (read(fd, bytes, sizeof(bytes)) > 0)
        continue;
    close(fd);
    return NULL;
}

int job_park(char **arguments)
{
    static struct parked parked;
    int64_t count = number(arguments[1]);
    struct rlimit files;
    pthread_attr_t attributes;
    pthread_t thread;
    char byte;

    parked.path = arguments[0];
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 65536);
    for (int64_t i = 0; i < count; i++)
        if ((errno = pthread_create(&thread, &attributes, read_for_ever, &parked)) != 0)
            die("pthread_create");
    while (atomic_load(&parked.reading) < count)
        usleep(1000);
    usleep(200000); /* from open to the read itself is microseconds */
    printf("{\"readers\": %" PRId64 "}\n", count);
    fflush(stdout);
    while (read(STDIN_FILENO, &byte, 1) > 0)
        continue;
    /* Parked threads may not be joinable: the reads end with the process. */
    _exit(0);
}
