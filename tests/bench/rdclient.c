/* What librdkafka makes of a broker.
 *
 *   rdclient produce BOOTSTRAP TOPIC COUNT SIZE ACKS   messages of SIZE bytes to partition 0, in
 *                                                      batches as the library makes them
 *   rdclient consume BOOTSTRAP TOPIC COUNT             from the first message of partition 0
 *   rdclient latency BOOTSTRAP TOPIC COUNT INTERVAL_US linger 0: from before produce to consumed
 *
 * BOOTSTRAP "mock" is the library's own mock broker, within this process: what the client can do at
 * best. Prints one line of JSON. */
#include <inttypes.h>
#include <librdkafka/rdkafka.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int64_t now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static _Noreturn void fail(const char *what)
{
    fprintf(stderr, "rdclient: %s\n", what);
    exit(1);
}

static int64_t failed;

static void delivered(rd_kafka_t *kafka, const rd_kafka_message_t *message, void *context)
{
    failed += message->err != 0;
}

static rd_kafka_t *client(rd_kafka_type_t type, const char *bootstrap, const char *const *settings)
{
    char error[512];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    if (strcmp(bootstrap, "mock") == 0)
        rd_kafka_conf_set(conf, "test.mock.num.brokers", "1", error, sizeof(error));
    else
        rd_kafka_conf_set(conf, "bootstrap.servers", bootstrap, error, sizeof(error));
    if (type == RD_KAFKA_PRODUCER)
        rd_kafka_conf_set_dr_msg_cb(conf, delivered);
    for (; settings[0]; settings += 2)
        if (rd_kafka_conf_set(conf, settings[0], settings[1], error, sizeof(error)))
            fail(error);
    rd_kafka_t *kafka = rd_kafka_new(type, conf, error, sizeof(error));
    if (!kafka)
        fail(error);
    return kafka;
}

static void report(int64_t count, int64_t size, int64_t ns)
{
    struct timespec cpu;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    printf("{\"operations\": %" PRId64 ", \"bytes\": %" PRId64 ", \"seconds\": %.6f, "
           "\"cpu_seconds\": %.3f}\n",
           count, count * size, (double)ns / 1e9, (double)cpu.tv_sec + (double)cpu.tv_nsec / 1e9);
}

static int produce(char **arguments)
{
    const char *const settings[] = {
        "linger.ms", "5", "acks", arguments[4], "queue.buffering.max.messages", "1000000", NULL};
    rd_kafka_t *kafka = client(RD_KAFKA_PRODUCER, arguments[0], settings);
    rd_kafka_topic_t *topic = rd_kafka_topic_new(kafka, arguments[1], NULL);
    int64_t count = atoll(arguments[2]), size = atoll(arguments[3]);
    char *value = calloc(1, (size_t)size);
    memset(value, 'x', (size_t)size);
    /* Metadata and connection are not what is measured. */
    if (rd_kafka_produce(topic, 0, RD_KAFKA_MSG_F_COPY, value, (size_t)size, NULL, 0, NULL) ||
        rd_kafka_flush(kafka, 30000))
        fail("the first message did not get through");
    int64_t begun = now_ns();
    for (int64_t i = 0; i < count; i++) {
        while (rd_kafka_produce(topic, 0, RD_KAFKA_MSG_F_COPY, value, (size_t)size, NULL, 0, NULL))
            rd_kafka_poll(kafka, 1);
        if (i % 1024 == 0)
            rd_kafka_poll(kafka, 0);
    }
    if (rd_kafka_flush(kafka, 120000) || failed)
        fail("messages were not acknowledged");
    report(count, size, now_ns() - begun);
    return 0;
}

static int consume(char **arguments)
{
    static const char *const settings[] = {"fetch.message.max.bytes",
                                           "8388608",
                                           "queued.max.messages.kbytes",
                                           "262144",
                                           "queued.min.messages",
                                           "1000000",
                                           NULL};
    rd_kafka_t *kafka = client(RD_KAFKA_CONSUMER, arguments[0], settings);
    rd_kafka_topic_t *topic = rd_kafka_topic_new(kafka, arguments[1], NULL);
    int64_t count = atoll(arguments[2]), got = 0, bytes = 0, begun = 0, first = 0;
    rd_kafka_message_t *messages[4096];
    rd_kafka_consume_start(topic, 0, RD_KAFKA_OFFSET_BEGINNING);
    while (got < count) {
        /* Asked for more than there are, it would sit out its timeout at the end. */
        size_t most = count - got < 4096 ? (size_t)(count - got) : 4096;
        ssize_t some = rd_kafka_consume_batch(topic, 0, 1000, messages, most);
        if (some < 0)
            fail("consume");
        for (ssize_t i = 0; i < some; i++) {
            if (messages[i]->err && messages[i]->err != RD_KAFKA_RESP_ERR__PARTITION_EOF)
                fail(rd_kafka_message_errstr(messages[i]));
            got += !messages[i]->err;
            bytes += (int64_t)messages[i]->len;
            rd_kafka_message_destroy(messages[i]);
        }
        if (!begun && got > 0) {
            begun = now_ns();
            first = got;
        }
    }
    report(got - first, bytes / got, now_ns() - begun);
    return 0;
}

struct beat {
    char **arguments;
    int64_t count;
};

static void *produce_beat(void *context)
{
    static const char *const settings[] = {"linger.ms", "0", "acks", "1", NULL};
    struct beat *beat = context;
    rd_kafka_t *kafka = client(RD_KAFKA_PRODUCER, beat->arguments[0], settings);
    rd_kafka_topic_t *topic = rd_kafka_topic_new(kafka, beat->arguments[1], NULL);
    int64_t interval = atoll(beat->arguments[3]) * 1000, next = now_ns() + 2000000000;
    char value[101];
    for (int64_t i = 0; i < beat->count; i++, next += interval) {
        struct timespec time = {.tv_sec = next / 1000000000, .tv_nsec = next % 1000000000};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL);
        snprintf(value, sizeof(value), "%0100" PRId64, now_ns());
        rd_kafka_produce(topic, 0, RD_KAFKA_MSG_F_COPY, value, 100, NULL, 0, NULL);
        rd_kafka_poll(kafka, 0);
    }
    rd_kafka_flush(kafka, 30000);
    return NULL;
}

static int by_size(const void *a, const void *b)
{
    int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;
    return (left > right) - (left < right);
}

static int latency(char **arguments)
{
    static const char *const settings[] = {"fetch.wait.max.ms", "500", NULL};
    struct beat beat = {arguments, atoll(arguments[2]) + 100};
    int64_t *latencies = calloc((size_t)beat.count, sizeof(*latencies));
    rd_kafka_t *kafka = client(RD_KAFKA_CONSUMER, arguments[0], settings);
    rd_kafka_topic_t *topic = rd_kafka_topic_new(kafka, arguments[1], NULL);
    pthread_t thread;
    rd_kafka_consume_start(topic, 0, RD_KAFKA_OFFSET_END);
    rd_kafka_message_t *message = rd_kafka_consume(topic, 0, 500);
    if (message)
        rd_kafka_message_destroy(message);
    pthread_create(&thread, NULL, produce_beat, &beat);
    for (int64_t i = 0; i < beat.count;) {
        message = rd_kafka_consume(topic, 0, 10000);
        if (!message)
            fail("no message within 10 s");
        if (!message->err) {
            char text[101] = {0};
            memcpy(text, message->payload, 100);
            latencies[i++] = now_ns() - strtoll(text, NULL, 10);
        }
        rd_kafka_message_destroy(message);
    }
    pthread_join(thread, NULL);
    int64_t *counted = latencies + 100, count = beat.count - 100;
    qsort(counted, (size_t)count, sizeof(*counted), by_size);
    printf("{\"p50_us\": %.2f, \"p99_us\": %.2f, \"p999_us\": %.2f, \"operations\": %" PRId64 "}\n",
           (double)counted[count / 2] / 1e3, (double)counted[count * 99 / 100] / 1e3,
           (double)counted[count * 999 / 1000] / 1e3, count);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 7 && strcmp(argv[1], "produce") == 0)
        return produce(argv + 2);
    if (argc == 5 && strcmp(argv[1], "consume") == 0)
        return consume(argv + 2);
    if (argc == 6 && strcmp(argv[1], "latency") == 0)
        return latency(argv + 2);
    fail("the jobs and their arguments are at the top of rdclient.c");
}
