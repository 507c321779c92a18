/* The clients of the benchmarks: sequential writers and readers, and where they start. */
#include "tests/bench/client.h"
#include "tests/bench/tcp.h"
#include "tests/bench/tls.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int64_t now_ns(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

void die(const char *what)
{
    fprintf(stderr, "client: %s: %s\n", what, strerror(errno));
    exit(1);
}

int64_t number(const char *text)
{
    char *end;
    int64_t value = strtoll(text, &end, 10);

    if (*end == 'K')
        value <<= 10, end++;
    else if (*end == 'M')
        value <<= 20, end++;
    else if (*end == 'G')
        value <<= 30, end++;
    if (end == text || *end) {
        errno = EINVAL;
        die(text);
    }
    return value;
}

void pin_to(int64_t cpu)
{
    cpu_set_t set;

    if (cpu < 0)
        return;
    CPU_ZERO(&set);
    CPU_SET((int)cpu, &set);
    if (sched_setaffinity(0, sizeof(set), &set) < 0)
        die("sched_setaffinity");
}

/* Numbered lines of LINE bytes each, delimiter included, that end with a whole line; page-aligned.
 * At least SIZE bytes, and a cut of SIZE bytes may begin anywhere in the first line. */
static char *make_lines(size_t line, size_t size)
{
    size_t count = (size + line) / line + 2;
    char *bytes = aligned_alloc(4096, (count * line + 8191) / 4096 * 4096);

    if (!bytes)
        die("memory");
    for (size_t i = 0; i < count; i++) {
        char *at = bytes + i * line;
        memset(at, 'a' + (int)(i % 26), line);
        for (size_t digit = 8, rest = i; line > 8 && digit-- > 0; rest /= 10)
            at[digit] = (char)('0' + rest % 10);
        at[line - 1] = '\n';
    }
    return bytes;
}

static void write_whole(int fd, const char *bytes, size_t size)
{
    while (size) {
        ssize_t put = write(fd, bytes, size);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            die("write");
        bytes += put;
        size -= (size_t)put;
    }
}

static void sync_as(int fd, const char *how)
{
    int status = 0;

    if (strcmp(how, "fsync") == 0)
        status = fsync(fd);
    else if (strcmp(how, "fdatasync") == 0 || strcmp(how, "end") == 0)
        status = fdatasync(fd);
    if (status < 0)
        die("fsync");
}

int job_write(char **arguments)
{
    size_t line = (size_t)number(arguments[1]), size = (size_t)number(arguments[2]);
    int64_t count = number(arguments[3]);
    const char *how = arguments[4];
    int fd = open(arguments[0], O_WRONLY | O_APPEND | O_CLOEXEC);

    if (fd < 0)
        die(arguments[0]);
    /* A cut begins at the head of the buffer, which is aligned to a page, so that a write of 1 MiB
     * is one request. Where SIZE is no multiple of LINE, the line at the seam has another length.
     */
    char *bytes = make_lines(line, size);
    int64_t start = now_ns();
    for (int64_t i = 0; i < count; i++) {
        write_whole(fd, bytes, size);
        if (how[0] == 'f')
            sync_as(fd, how);
    }
    if (how[0] == 'e')
        sync_as(fd, how);
    int64_t spent = now_ns() - start;
    close(fd);
    printf("{\"seconds\": %.9f, \"bytes\": %" PRId64 ", \"operations\": %" PRId64 "}\n",
           (double)spent / 1e9, count * (int64_t)size, count);
    return 0;
}

int job_read(char **arguments)
{
    size_t size = (size_t)number(arguments[1]);
    char *bytes = aligned_alloc(4096, (size + 4095) / 4096 * 4096);
    int fd = open(arguments[0], O_RDONLY | O_CLOEXEC);
    int64_t total = 0, calls = 0;

    if (fd < 0 || !bytes)
        die(arguments[0]);
    memset(bytes, 0, size);
    int64_t start = now_ns();
    for (;;) {
        ssize_t got = read(fd, bytes, size);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            die("read");
        if (!got)
            break;
        total += got;
        calls++;
    }
    int64_t spent = now_ns() - start;
    printf("{\"seconds\": %.9f, \"bytes\": %" PRId64 ", \"operations\": %" PRId64 "}\n",
           (double)spent / 1e9, total, calls);
    return 0;
}

/* One of several writers: lines, each synced, until the deadline; how many goes to RET_COUNT. */
static void write_until(const char *path, int64_t start, int64_t end, int64_t *ret_count)
{
    char *line = make_lines(100, 100);
    int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    int64_t count = 0;

    if (fd < 0)
        die(path);
    while (now_ns() < start)
        usleep(500);
    while (now_ns() < end) {
        write_whole(fd, line, 100);
        sync_as(fd, "fsync");
        count++;
    }
    *ret_count = count;
    exit(0);
}

int job_writers(char **arguments)
{
    int64_t writers = number(arguments[1]), total = 0;
    double seconds = strtod(arguments[2], NULL);
    int64_t *counts = mmap(NULL, (size_t)writers * sizeof(*counts), PROT_READ | PROT_WRITE,
                           MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    /* Time for all of them to have opened the file. */
    int64_t start = now_ns() + 100000000, end = start + (int64_t)(seconds * 1e9);

    if (counts == MAP_FAILED)
        die("mmap");
    for (int64_t i = 0; i < writers; i++) {
        pid_t child = fork();
        if (child < 0)
            die("fork");
        if (!child)
            write_until(arguments[0], start, end, &counts[i]);
    }
    int status, worst = 0;
    while (wait(&status) > 0)
        worst |= status;
    for (int64_t i = 0; i < writers; i++)
        total += counts[i];
    printf("{\"seconds\": %.9f, \"operations\": %" PRId64 "}\n", seconds, total);
    return worst != 0;
}

int job_names(char **arguments)
{
    int64_t first = number(arguments[1]), last = number(arguments[2]);
    char path[4096];
    struct stat attributes;
    int64_t start = now_ns();

    for (int64_t i = first; i <= last; i++) {
        snprintf(path, sizeof(path), "%s/%" PRId64, arguments[0], i);
        if (stat(path, &attributes) < 0)
            die(path);
    }
    printf("{\"seconds\": %.9f, \"operations\": %" PRId64 "}\n", (double)(now_ns() - start) / 1e9,
           last - first + 1);
    return 0;
}

static const struct job {
    const char *name;
    int arguments;
    int (*run)(char **arguments);
} jobs[] = {
    {"write", 5, job_write},
    {"read", 2, job_read},
    {"writers", 3, job_writers},
    {"latency", 6, job_latency},
    {"park", 2, job_park},
    {"names", 3, job_names},
    {"tcp-fetch", 7, job_tcp_fetch},
    {"tcp-serve", 1, job_tcp_serve},
    {"tcp-drain", 4, job_tcp_drain},
    {"tcp-latency", 5, job_tcp_latency},
    {"tcp-pingpong", 3, job_tcp_pingpong},
    {"tcp-idle", 3, job_tcp_idle},
    {"tcp-metadata", 3, job_tcp_metadata},
    {"tcp-requests", 5, job_tcp_requests},
    {"refetch", 7, job_refetch},
    {"tls-serve", 4, job_tls_serve},
    {"tls-drain", 4, job_tls_drain},
    {"tls-handshakes", 5, job_tls_handshakes},
    {"tls-idle", 4, job_tls_idle},
};

int main(int argc, char **argv)
{
    for (size_t i = 0; argc > 1 && i < sizeof(jobs) / sizeof(jobs[0]); i++)
        if (strcmp(argv[1], jobs[i].name) == 0 && argc - 2 == jobs[i].arguments)
            return jobs[i].run(argv + 2);
    fprintf(stderr, "client: the jobs and their arguments are in client.h\n");
    return 2;
}
