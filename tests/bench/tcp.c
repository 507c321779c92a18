/* Kafka's protocol as far as the benchmarks need it: Fetch v4, Produce v3, Metadata v1, written by
 * hand so that the client costs next to nothing. */
#include "tests/bench/tcp.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "broker/base/crc32c.h"
#include "broker/base/endian.h"
#include "tests/bench/client.h"

enum { MESSAGE = 100, FIRST_SAMPLES = 100, PIECE = 1 << 20 };

int tcp_connect(const char *host, const char *port)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    int on = 1;

    if (getaddrinfo(host, port, &hints, &found) != 0)
        die(host);
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, found->ai_addr, found->ai_addrlen) < 0)
        die(port);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    freeaddrinfo(found);
    return fd;
}

void tcp_send(int fd, const void *bytes, size_t length)
{
    while (length > 0) {
        ssize_t sent = send(fd, bytes, length, MSG_NOSIGNAL);
        if (sent < 0 && errno != EINTR)
            die("send");
        if (sent > 0) {
            bytes = (const char *)bytes + sent;
            length -= (size_t)sent;
        }
    }
}

void tcp_receive(int fd, void *bytes, size_t length)
{
    while (length > 0) {
        ssize_t got = recv(fd, bytes, length, 0);
        if (got == 0) {
            errno = ECONNRESET;
            die("receive");
        }
        if (got < 0 && errno != EINTR)
            die("receive");
        if (got > 0) {
            bytes = (char *)bytes + got;
            length -= (size_t)got;
        }
    }
}

/* --- Requests --- */

static void put(struct frame *frame, const void *bytes, size_t length)
{
    memcpy(frame->bytes + frame->length, bytes, length);
    frame->length += length;
}

static void put16(struct frame *frame, int value)
{
    kq_store_be16(frame->bytes + frame->length, (uint16_t)value);
    frame->length += 2;
}

static void put32(struct frame *frame, int64_t value)
{
    kq_store_be32(frame->bytes + frame->length, (uint32_t)value);
    frame->length += 4;
}

static void put64(struct frame *frame, int64_t value)
{
    kq_store_be64(frame->bytes + frame->length, (uint64_t)value);
    frame->length += 8;
}

static void put_string(struct frame *frame, const char *string)
{
    put16(frame, (int)strlen(string));
    put(frame, string, strlen(string));
}

static void begin(struct frame *frame, int key, int version)
{
    frame->length = 4;
    put16(frame, key);
    put16(frame, version);
    put32(frame, 7); /* correlation id */
    put_string(frame, "bench");
}

static void finish(struct frame *frame)
{
    kq_store_be32(frame->bytes, (uint32_t)(frame->length - 4));
}

size_t tcp_fetch_request(struct frame *frame, const char *topic, int partition, int64_t max)
{
    begin(frame, 1, 4);
    put32(frame, -1);    /* replica */
    put32(frame, 30000); /* max wait */
    put32(frame, 1);     /* min bytes */
    put32(frame, max);
    put(frame, "", 1); /* read uncommitted */
    put32(frame, 1);
    put_string(frame, topic);
    put32(frame, 1);
    put32(frame, partition);
    size_t offset_at = frame->length;
    put64(frame, 0);
    put32(frame, max);
    finish(frame);
    return offset_at;
}

/* Everything of a Fetch response with one partition before its records; their length. */
static uint32_t fetch_answer(int fd, const char *topic)
{
    uint8_t head[512];
    /* size, correlation, throttle, topics, name, partitions, partition, error, high watermark, last
     * stable offset, aborted transactions, length */
    size_t name = strlen(topic), length = 4 + 4 + 4 + 4 + 2 + name + 4 + 4 + 2 + 8 + 8 + 4 + 4;

    tcp_receive(fd, head, length);
    int16_t error = (int16_t)kq_load_be16(head + 26 + name);
    if (error) {
        fprintf(stderr, "client: Fetch answers error %d\n", error);
        exit(1);
    }
    return kq_load_be32(head + length - 4);
}

/* --- Fetching --- */

static char *piece(void)
{
    static char *bytes;
    if (!bytes && !(bytes = aligned_alloc(4096, PIECE)))
        die("memory");
    return bytes;
}

/* Receives LENGTH bytes, which begin with the batch headers that HOP looks for. */
struct hop {
    uint8_t head[61];
    size_t have;
    uint64_t skip;
    int64_t next_offset;
};

static void hop_over(struct hop *hop, const char *bytes, size_t length)
{
    while (length > 0) {
        if (hop->skip > 0) {
            size_t step = hop->skip < length ? (size_t)hop->skip : length;
            hop->skip -= step;
            bytes += step;
            length -= step;
            continue;
        }
        size_t step =
            sizeof(hop->head) - hop->have < length ? sizeof(hop->head) - hop->have : length;
        memcpy(hop->head + hop->have, bytes, step);
        hop->have += step;
        bytes += step;
        length -= step;
        if (hop->have == sizeof(hop->head)) {
            hop->skip = kq_load_be32(hop->head + 8) + 12 - sizeof(hop->head);
            hop->next_offset =
                (int64_t)kq_load_be64(hop->head) + (int32_t)kq_load_be32(hop->head + 23) + 1;
            hop->have = 0;
        }
    }
}

/* A batch that the maximum cut off begins the next answer. */
static int64_t receive_batches(int fd, uint32_t length, int64_t offset)
{
    struct hop hop = {.next_offset = offset};
    int64_t whole = offset;

    while (length > 0) {
        ssize_t got = recv(fd, piece(), length < PIECE ? length : PIECE, 0);
        if (got <= 0)
            die("receive");
        hop_over(&hop, piece(), (size_t)got);
        length -= (uint32_t)got;
        if (hop.skip == 0 && hop.have == 0)
            whole = hop.next_offset;
    }
    if (hop.skip == 0)
        return hop.next_offset;
    return whole > offset ? whole : (int64_t)kq_load_be64(hop.head);
}

static void print_rate(int64_t bytes, int64_t ns, int64_t operations)
{
    printf("{\"bytes\": %" PRId64 ", \"seconds\": %.6f, \"operations\": %" PRId64 "}\n", bytes,
           (double)ns / 1e9, operations);
}

int job_tcp_fetch(char **arguments)
{
    struct frame frame;
    int64_t wanted = number(arguments[4]), got = 0, requests = 0, offset = number(arguments[6]);
    int fd = tcp_connect(arguments[0], arguments[1]);
    size_t offset_at =
        tcp_fetch_request(&frame, arguments[2], (int)number(arguments[3]), number(arguments[5]));
    int64_t begun = now_ns();

    while (got < wanted) {
        kq_store_be64(frame.bytes + offset_at, (uint64_t)offset);
        tcp_send(fd, frame.bytes, frame.length);
        uint32_t length = fetch_answer(fd, arguments[2]);
        offset = receive_batches(fd, length, offset);
        got += length;
        requests++;
    }
    print_rate(got, now_ns() - begun, requests);
    return 0;
}

int tcp_listen_anywhere(uint16_t *ret_port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        listen(fd, 16) < 0 || getsockname(fd, (struct sockaddr *)&address, &length) < 0)
        die("listen");
    *ret_port = ntohs(address.sin_port);
    return fd;
}

struct source {
    char **files;
    int index, fd;
    off_t at, size;
};

static void next_file(struct source *source)
{
    struct stat st;
    if (source->fd >= 0)
        close(source->fd);
    if (!source->files[source->index])
        source->index = 0;
    source->fd = open(source->files[source->index++], O_RDONLY | O_CLOEXEC);
    if (source->fd < 0 || fstat(source->fd, &st) < 0)
        die("open");
    source->at = 0;
    source->size = st.st_size;
}

static void send_from(struct source *source, int fd, uint64_t length)
{
    while (length > 0) {
        if (source->fd < 0 || source->at == source->size)
            next_file(source);
        uint64_t left = (uint64_t)(source->size - source->at);
        ssize_t sent = sendfile(fd, source->fd, &source->at, left < length ? left : length);
        if (sent < 0)
            die("sendfile");
        length -= (uint64_t)sent;
    }
}

int job_tcp_serve(char **arguments)
{
    uint16_t port;
    uint8_t request[8];
    int listener = tcp_listen_anywhere(&port), on = 1;

    printf("{\"port\": %u}\n", port);
    fflush(stdout);
    for (;;) {
        struct source source = {.files = arguments, .fd = -1};
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0)
            die("accept");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        while (recv(fd, request, sizeof(request), MSG_WAITALL) == sizeof(request))
            send_from(&source, fd, kq_load_be64(request));
        close(fd);
        close(source.fd);
    }
}

int job_tcp_drain(char **arguments)
{
    uint8_t request[8];
    int64_t wanted = number(arguments[2]), max = number(arguments[3]), got = 0, requests = 0;
    int fd = tcp_connect(arguments[0], arguments[1]);
    int64_t begun = now_ns();

    for (; got < wanted; requests++) {
        int64_t left = max;
        kq_store_be64(request, (uint64_t)max);
        tcp_send(fd, request, sizeof(request));
        while (left > 0) {
            ssize_t some = recv(fd, piece(), left < PIECE ? (size_t)left : PIECE, 0);
            if (some <= 0)
                die("receive");
            left -= some;
        }
        got += max;
    }
    print_rate(got, now_ns() - begun, requests);
    return 0;
}

/* --- Latency --- */

static void sleep_until_ns(int64_t when)
{
    struct timespec time = {.tv_sec = when / 1000000000, .tv_nsec = when % 1000000000};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL) == EINTR)
        continue;
}

/* A batch of one record, whose value is MESSAGE bytes; where they stand in the frame. */
static size_t produce_request(struct frame *frame, const char *topic, size_t *ret_batch_at)
{
    uint8_t record[] = {0, 0, 0, 1, ((MESSAGE * 2) & 0x7f) | 0x80, MESSAGE * 2 >> 7};
    size_t record_length = sizeof(record) + MESSAGE + 1; /* no headers */
    size_t batch_length = 61 + 2 + record_length;

    begin(frame, 0, 3);
    put16(frame, -1); /* no transaction */
    put16(frame, 1);  /* acks */
    put32(frame, 30000);
    put32(frame, 1);
    put_string(frame, topic);
    put32(frame, 1);
    put32(frame, 0);
    put32(frame, (int64_t)batch_length);
    size_t batch = *ret_batch_at = frame->length;
    memset(frame->bytes + batch, 0, 61);
    kq_store_be32(frame->bytes + batch + 8, (uint32_t)(batch_length - 12));
    frame->bytes[batch + 16] = 2;
    memset(frame->bytes + batch + 43, 0xff, 14); /* no producer */
    kq_store_be32(frame->bytes + batch + 57, 1);
    frame->length += 61;
    uint8_t length[] = {(uint8_t)(((record_length * 2) & 0x7f) | 0x80),
                        (uint8_t)(record_length * 2 >> 7)};
    put(frame, length, 2);
    put(frame, record, sizeof(record));
    size_t value = frame->length;
    frame->length += MESSAGE;
    put(frame, "", 1);
    finish(frame);
    return value;
}

static void stamp(char value[MESSAGE])
{
    char text[MESSAGE + 1];
    snprintf(text, sizeof(text), "%0*" PRId64, MESSAGE, now_ns());
    memcpy(value, text, MESSAGE);
}

static _Noreturn void produce_times(char **arguments)
{
    struct frame frame;
    size_t batch, value = produce_request(&frame, arguments[2], &batch);
    int64_t count = number(arguments[3]) + FIRST_SAMPLES, interval = number(arguments[4]) * 1000;
    uint8_t answer[512];
    int fd = tcp_connect(arguments[0], arguments[1]);
    int64_t next = now_ns() + 200000000;

    for (int64_t i = 0; i < count; i++, next += interval) {
        struct timespec wall;
        sleep_until_ns(next);
        clock_gettime(CLOCK_REALTIME, &wall);
        int64_t ms = wall.tv_sec * 1000 + wall.tv_nsec / 1000000;
        kq_store_be64(frame.bytes + batch + 27, (uint64_t)ms);
        kq_store_be64(frame.bytes + batch + 35, (uint64_t)ms);
        stamp((char *)frame.bytes + value);
        kq_store_be32(frame.bytes + batch + 17,
                      kq_crc32c(0, frame.bytes + batch + 21, frame.length - batch - 21));
        tcp_send(fd, frame.bytes, frame.length);
        tcp_receive(fd, answer, 4);
        tcp_receive(fd, answer + 4, kq_load_be32(answer));
        /* correlation, topics, name, partitions, partition, error */
        if (kq_load_be16(answer + 8 + 4 + 2 + strlen(arguments[2]) + 8) != 0) {
            fprintf(stderr, "client: Produce answers an error\n");
            exit(1);
        }
    }
    exit(0);
}

static int by_size(const void *a, const void *b)
{
    int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;
    return (left > right) - (left < right);
}

static void report(int64_t *latencies, int64_t count)
{
    qsort(latencies, (size_t)count, sizeof(*latencies), by_size);
    printf("{\"p50_us\": %.2f, \"p99_us\": %.2f, \"p999_us\": %.2f, \"operations\": %" PRId64 "}\n",
           (double)latencies[count / 2] / 1e3, (double)latencies[count * 99 / 100] / 1e3,
           (double)latencies[count * 999 / 1000] / 1e3, count);
}

/* The batches of an answer have one message each here, or several of one size. */
static int64_t note(const uint8_t *bytes, uint32_t length, int64_t now, int64_t *latencies,
                    int64_t count)
{
    int64_t done = 0;
    for (uint32_t at = 0; at + 61 < length && done < count; done++) {
        uint32_t batch = kq_load_be32(bytes + at + 8) + 12;
        char text[MESSAGE + 1] = {0};
        memcpy(text, bytes + at + batch - MESSAGE - 1, MESSAGE);
        latencies[done] = now - strtoll(text, NULL, 10);
        at += batch;
    }
    return done;
}

static int64_t end_offset(int fd, const char *topic)
{
    struct frame frame;
    uint8_t answer[512];

    begin(&frame, 2, 1); /* ListOffsets */
    put32(&frame, -1);
    put32(&frame, 1);
    put_string(&frame, topic);
    put32(&frame, 1);
    put32(&frame, 0);
    put64(&frame, -1);
    finish(&frame);
    tcp_send(fd, frame.bytes, frame.length);
    tcp_receive(fd, answer, 4);
    uint32_t length = kq_load_be32(answer);
    tcp_receive(fd, answer, length);
    return (int64_t)kq_load_be64(answer + length - 8);
}

int job_tcp_latency(char **arguments)
{
    struct frame frame;
    int64_t count = number(arguments[3]) + FIRST_SAMPLES, done = 0;
    int64_t *latencies = calloc((size_t)count, sizeof(*latencies));
    int fd = tcp_connect(arguments[0], arguments[1]), status;
    size_t offset_at = tcp_fetch_request(&frame, arguments[2], 0, PIECE);
    int64_t offset = end_offset(fd, arguments[2]);
    pid_t producer = fork();

    if (producer == 0)
        produce_times(arguments);
    while (done < count) {
        kq_store_be64(frame.bytes + offset_at, (uint64_t)(offset + done));
        tcp_send(fd, frame.bytes, frame.length);
        uint32_t length = fetch_answer(fd, arguments[2]);
        tcp_receive(fd, piece(), length);
        done += note((uint8_t *)piece(), length, now_ns(), latencies + done, count - done);
    }
    waitpid(producer, &status, 0);
    report(latencies + FIRST_SAMPLES, count - FIRST_SAMPLES);
    return status != 0;
}

static _Noreturn void hand_on(int from, int to)
{
    char bytes[MESSAGE];
    while (recv(from, bytes, sizeof(bytes), MSG_WAITALL) == sizeof(bytes))
        tcp_send(to, bytes, sizeof(bytes));
    exit(0);
}

static _Noreturn void send_beat(int fd, int64_t count, int64_t interval_ns)
{
    char value[MESSAGE];
    int64_t next = now_ns() + 200000000;
    for (int64_t i = 0; i < count; i++, next += interval_ns) {
        sleep_until_ns(next);
        stamp(value);
        tcp_send(fd, value, sizeof(value));
    }
    exit(0);
}

int job_tcp_pingpong(char **arguments)
{
    int64_t count = number(arguments[0]) + FIRST_SAMPLES;
    int64_t *latencies = calloc((size_t)count, sizeof(*latencies));
    uint16_t port;
    char text[8], value[MESSAGE + 1] = {0};
    int listener = tcp_listen_anywhere(&port), ends[2][2], on = 1;

    snprintf(text, sizeof(text), "%u", port);
    for (int i = 0; i < 2; i++) {
        ends[i][0] = tcp_connect("127.0.0.1", text);
        ends[i][1] = accept(listener, NULL, NULL);
        setsockopt(ends[i][1], IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    }
    pid_t middle = fork();
    if (middle == 0) {
        pin_to(number(arguments[2]));
        hand_on(ends[0][1], ends[1][1]);
    }
    if (fork() == 0)
        send_beat(ends[0][0], count, number(arguments[1]) * 1000);
    for (int64_t i = 0; i < count; i++) {
        tcp_receive(ends[1][0], value, MESSAGE);
        latencies[i] = now_ns() - strtoll(value, NULL, 10);
    }
    kill(middle, SIGTERM);
    while (wait(NULL) > 0)
        continue;
    report(latencies + FIRST_SAMPLES, count - FIRST_SAMPLES);
    return 0;
}

/* --- Many connections, many topics --- */

static void ask(int fd, const struct frame *frame, uint64_t *ret_bytes)
{
    uint8_t size[4];
    tcp_send(fd, frame->bytes, frame->length);
    tcp_receive(fd, size, sizeof(size));
    uint32_t left = kq_load_be32(size);
    *ret_bytes += left;
    while (left > 0) {
        uint32_t step = left < PIECE ? left : PIECE;
        tcp_receive(fd, piece(), step);
        left -= step;
    }
}

int job_tcp_idle(char **arguments)
{
    int64_t count = number(arguments[2]);
    struct rlimit files;
    struct frame frame;
    uint64_t bytes = 0;
    char byte;

    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    begin(&frame, 18, 0);
    finish(&frame);
    for (int64_t i = 0; i < count; i++)
        ask(tcp_connect(arguments[0], arguments[1]), &frame, &bytes);
    printf("{\"connections\": %" PRId64 "}\n", count);
    fflush(stdout);
    while (read(STDIN_FILENO, &byte, 1) > 0)
        continue;
    return 0;
}

int job_tcp_metadata(char **arguments)
{
    int64_t count = number(arguments[2]);
    struct frame frame;
    uint64_t bytes = 0;
    int fd = tcp_connect(arguments[0], arguments[1]);

    begin(&frame, 3, 1);
    put32(&frame, -1); /* all topics */
    finish(&frame);
    ask(fd, &frame, &bytes);
    bytes = 0;
    int64_t begun = now_ns();
    for (int64_t i = 0; i < count; i++)
        ask(fd, &frame, &bytes);
    print_rate((int64_t)bytes, now_ns() - begun, count);
    return 0;
}

int job_tcp_requests(char **arguments)
{
    struct frame frame;
    size_t batch;
    int64_t count = number(arguments[3]);
    uint64_t bytes = 0;
    int fd = tcp_connect(arguments[0], arguments[1]);

    if (strcmp(arguments[4], "fetch") == 0) {
        tcp_fetch_request(&frame, arguments[2], 0, 1);
    } else {
        stamp((char *)frame.bytes + produce_request(&frame, arguments[2], &batch));
        kq_store_be32(frame.bytes + batch + 17,
                      kq_crc32c(0, frame.bytes + batch + 21, frame.length - batch - 21));
    }
    int64_t begun = now_ns();
    for (int64_t i = 0; i < count; i++)
        ask(fd, &frame, &bytes);
    print_rate((int64_t)bytes, now_ns() - begun, count);
    return 0;
}
