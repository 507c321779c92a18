/* Everybody at once: producers and a consumer group over TCP, a writer and a reader a partition
 * through the mount, at full speed, on one topic.
 *
 *   soak BOOTSTRAP TOPIC_DIRECTORY SECONDS PARTITIONS
 *
 * Each message is "<writer> <sequence number> padding". A group of four consumers must get those of
 * each writer and partition once, in order; so must the reader of each partition's .stream. Writers
 * wait for the slowest of both, so that retention overtakes nobody. Prints one line at the end;
 * exits with 1 at the first message that is lost, doubled or out of order. */
#include <fcntl.h>
#include <librdkafka/rdkafka.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PRODUCERS 4
#define CONSUMERS 4
#define WRITERS (PRODUCERS + 1) /* the last is the mount's */
#define MAX_PARTITIONS 64
#define AHEAD 20000 /* messages of one partition that nobody has read yet, at most */

static const char *bootstrap, *directory, *topic;
static int partitions;
static atomic_bool stop_writing, stop_reading, joined;
static _Atomic long written[MAX_PARTITIONS];            /* of all writers, acknowledged or not */
static _Atomic long by_writer[MAX_PARTITIONS][WRITERS]; /* that are in the log for sure */
static _Atomic long by_group[MAX_PARTITIONS], by_mount[MAX_PARTITIONS];

__attribute__((format(printf, 1, 2), noreturn)) static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    _exit(1);
}

static void nap(long us)
{
    nanosleep(&(struct timespec){us / 1000000, us % 1000000 * 1000}, NULL);
}

static bool far_ahead(int partition)
{
    long read =
        by_group[partition] < by_mount[partition] ? by_group[partition] : by_mount[partition];
    return written[partition] - read > AHEAD;
}

static int compose(char *text, int writer, long sequence)
{
    return sprintf(text,
                   "%d %ld the quick brown fox jumps over the lazy dog and back again, "
                   "and over the next one too, until it is tired",
                   writer, sequence);
}

/* The next message that TEXT must be of its writer, for a reader that has come to NEXT. */
static void check(const char *who, int partition, const char *text, long next[WRITERS])
{
    char *end;
    long writer = strtol(text, &end, 10), sequence = strtol(end, NULL, 10);
    if (writer < 0 || writer >= WRITERS)
        fail("%s, partition %d: not a message of ours: %.80s", who, partition, text);
    if (sequence != next[writer])
        fail("%s, partition %d, writer %ld: message %ld came, %ld was next", who, partition, writer,
             sequence, next[writer]);
    next[writer]++;
}

/* --- Over TCP --- */

static rd_kafka_t *client(rd_kafka_type_t type, const char *const *settings)
{
    char error[512];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_conf_set(conf, "bootstrap.servers", bootstrap, error, sizeof(error));
    for (; settings[0]; settings += 2)
        if (rd_kafka_conf_set(conf, settings[0], settings[1], error, sizeof(error)))
            fail("%s: %s", settings[0], error);
    rd_kafka_t *kafka = rd_kafka_new(type, conf, error, sizeof(error));
    if (!kafka)
        fail("%s", error);
    return kafka;
}

static void *produce(void *argument)
{
    static const char *const settings[] = {
        "linger.ms", "5", "enable.idempotence", "true", "queue.buffering.max.messages",
        "200000",    NULL};
    int writer = (int)(intptr_t)argument;
    rd_kafka_t *kafka = client(RD_KAFKA_PRODUCER, settings);
    long sequence[MAX_PARTITIONS] = {0};
    char text[256];
    while (!stop_writing) {
        int sent = 0;
        for (int partition = 0; partition < partitions; partition++) {
            for (int i = 0; i < 100 && !far_ahead(partition); i++) {
                int length = compose(text, writer, sequence[partition]);
                if (rd_kafka_producev(kafka, RD_KAFKA_V_TOPIC(topic),
                                      RD_KAFKA_V_PARTITION(partition),
                                      RD_KAFKA_V_VALUE(text, (size_t)length),
                                      RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END))
                    break;
                sequence[partition]++;
                written[partition]++;
                sent++;
            }
        }
        rd_kafka_poll(kafka, sent ? 0 : 1);
    }
    if (rd_kafka_flush(kafka, 60000))
        fail("producer %d: %d messages were not acknowledged", writer, rd_kafka_outq_len(kafka));
    for (int partition = 0; partition < partitions; partition++)
        by_writer[partition][writer] = sequence[partition];
    rd_kafka_destroy(kafka);
    return NULL;
}

static long next_of_group[MAX_PARTITIONS][WRITERS];

static void *consume(void *argument)
{
    static const char *const settings[] = {"group.id",
                                           "soak",
                                           "auto.offset.reset",
                                           "earliest",
                                           "enable.auto.commit",
                                           "true",
                                           "fetch.wait.max.ms",
                                           "50",
                                           NULL};
    static atomic_int members;
    rd_kafka_t *kafka = client(RD_KAFKA_CONSUMER, settings);
    rd_kafka_poll_set_consumer(kafka);
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1), *mine;
    rd_kafka_topic_partition_list_add(list, topic, RD_KAFKA_PARTITION_UA);
    rd_kafka_subscribe(kafka, list);
    bool counted = false;
    while (!stop_reading) {
        rd_kafka_message_t *message = rd_kafka_consumer_poll(kafka, 100);
        /* Nothing is written before all four have their share, so no message moves hands. */
        if (!counted && rd_kafka_assignment(kafka, &mine) == 0) {
            counted = mine->cnt == partitions / CONSUMERS;
            rd_kafka_topic_partition_list_destroy(mine);
            if (counted && ++members == CONSUMERS)
                joined = true;
        }
        if (message && message->err && message->err != RD_KAFKA_RESP_ERR__PARTITION_EOF)
            fail("consumer: %s", rd_kafka_message_errstr(message));
        if (message && !message->err) {
            char text[64] = {0};
            memcpy(text, message->payload, message->len < 63 ? message->len : 63);
            check("group", message->partition, text, next_of_group[message->partition]);
            by_group[message->partition]++;
        }
        if (message)
            rd_kafka_message_destroy(message);
    }
    rd_kafka_consumer_close(kafka);
    rd_kafka_topic_partition_list_destroy(list);
    rd_kafka_destroy(kafka);
    return NULL;
}

/* --- Through the mount --- */

static int open_node(const char *format, int partition, int flags)
{
    char path[4096];
    snprintf(path, sizeof(path), format, directory, partition);
    int fd = open(path, flags | O_CLOEXEC);
    if (fd < 0)
        fail("%s: %m", path);
    return fd;
}

static void *write_lines(void *argument)
{
    int partition = (int)(intptr_t)argument,
        fd = open_node("%s/p%d", partition, O_WRONLY | O_APPEND);
    long sequence = 0;
    char lines[20 * 256];
    while (!stop_writing) {
        size_t length = 0;
        while (far_ahead(partition) && !stop_writing)
            nap(1000);
        for (int i = 0; i < 20; i++) {
            length += (size_t)compose(lines + length, WRITERS - 1, sequence++);
            lines[length++] = '\n';
        }
        if (write(fd, lines, length) != (ssize_t)length)
            fail("p%d: write: %m", partition);
        written[partition] += 20;
        nap(500); /* thirty-two of them share the processors with the broker */
    }
    by_writer[partition][WRITERS - 1] = sequence;
    close(fd);
    return NULL;
}

static void *read_lines(void *argument)
{
    int partition = (int)(intptr_t)argument, fd = open_node("%s/p%d.stream", partition, O_RDONLY);
    static const size_t size = 1 << 17;
    char *text = malloc(size + 1), *newline;
    size_t have = 0;
    long next[WRITERS] = {0};
    ssize_t n;
    while (!stop_reading && (n = read(fd, text + have, size - have)) > 0) {
        have += (size_t)n;
        char *at = text;
        while ((newline = memchr(at, '\n', have - (size_t)(at - text)))) {
            *newline = '\0';
            check("mount", partition, at, next);
            by_mount[partition]++;
            at = newline + 1;
        }
        have -= (size_t)(at - text);
        memmove(text, at, have);
    }
    free(text);
    close(fd);
    return NULL;
}

/* --- */

static bool all_read(long *ret_missing)
{
    *ret_missing = 0;
    for (int partition = 0; partition < partitions; partition++) {
        long wanted = 0;
        for (int writer = 0; writer < WRITERS; writer++)
            wanted += by_writer[partition][writer];
        *ret_missing += wanted - by_group[partition] + wanted - by_mount[partition];
    }
    return *ret_missing == 0;
}

int main(int argc, char **argv)
{
    if (argc != 5)
        fail("usage: soak BOOTSTRAP TOPIC_DIRECTORY SECONDS PARTITIONS");
    bootstrap = argv[1];
    directory = argv[2];
    topic = strrchr(directory, '/') + 1;
    partitions = atoi(argv[4]);
    if (partitions < CONSUMERS || partitions > MAX_PARTITIONS || partitions % CONSUMERS)
        fail("a multiple of %d partitions, up to %d", CONSUMERS, MAX_PARTITIONS);
    pthread_t writing[PRODUCERS + MAX_PARTITIONS], reading[CONSUMERS + MAX_PARTITIONS];
    int writers = 0, readers = 0;
    for (intptr_t i = 0; i < partitions; i++)
        pthread_create(&reading[readers++], NULL, read_lines, (void *)i);
    for (intptr_t i = 0; i < CONSUMERS; i++)
        pthread_create(&reading[readers++], NULL, consume, (void *)i);
    for (int i = 0; i < 600 && !joined; i++)
        nap(100000);
    if (!joined)
        fail("the group did not settle within a minute");
    for (intptr_t i = 0; i < PRODUCERS; i++)
        pthread_create(&writing[writers++], NULL, produce, (void *)i);
    for (intptr_t i = 0; i < partitions; i++)
        pthread_create(&writing[writers++], NULL, write_lines, (void *)i);
    sleep((unsigned)atoi(argv[3]));
    stop_writing = true;
    while (writers > 0)
        pthread_join(writing[--writers], NULL);
    long missing = 0, total = 0;
    for (int i = 0; i < 600 && !all_read(&missing); i++)
        nap(100000);
    if (missing)
        fail("%ld messages did not come", missing);
    for (int partition = 0; partition < partitions; partition++)
        total += by_group[partition];
    printf("%ld messages, each once to the group and once to the mount\n", total);
    fflush(stdout);
    _exit(0); /* the readers of the mount wait for more, rightly */
}
