/* What NATS's own C client makes of a JetStream.
 *
 *   natsclient produce URL STREAM COUNT SIZE PENDING   messages of SIZE bytes into a new stream in
 *                                                      files, of which PENDING at most wait for
 *                                                      their acknowledgement; then the stream goes
 *
 * Prints one line of JSON. */
#include <inttypes.h>
#include <nats/nats.h>
#include <stdatomic.h>
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

static void check(natsStatus status, const char *what)
{
    if (status == NATS_OK)
        return;
    fprintf(stderr, "natsclient: %s: %s\n", what, natsStatus_GetText(status));
    exit(1);
}

static _Atomic int64_t refused;

static void not_acknowledged(jsCtx *stream, jsPubAckErr *error, void *context)
{
    atomic_fetch_add(&refused, 1);
}

static jsCtx *open_stream(natsConnection *connection, const char *name, int64_t pending)
{
    jsOptions options;
    jsStreamConfig config;
    jsCtx *stream;
    const char *subjects[] = {name};

    check(jsOptions_Init(&options), "options");
    options.PublishAsync.MaxPending = pending;
    options.PublishAsync.ErrHandler = not_acknowledged;
    options.PublishAsync.StallWait = 60000;
    check(natsConnection_JetStream(&stream, connection, &options), "JetStream");
    check(jsStreamConfig_Init(&config), "configuration");
    config.Name = name;
    config.Subjects = subjects;
    config.SubjectsLen = 1;
    config.Storage = js_FileStorage;
    check(js_AddStream(NULL, stream, &config, NULL, NULL), "new stream");
    return stream;
}

static int64_t publish(jsCtx *stream, const char *name, int64_t count, int size)
{
    char *value = calloc(1, (size_t)size);
    jsPubOptions wait;

    check(value ? jsPubOptions_Init(&wait) : NATS_NO_MEMORY, "memory");
    wait.MaxWait = 120000;
    memset(value, 'x', (size_t)size);
    int64_t begun = now_ns();
    for (int64_t i = 0; i < count; i++)
        check(js_PublishAsync(stream, name, value, size, NULL), "publish");
    check(js_PublishAsyncComplete(stream, &wait), "acknowledgements");
    int64_t spent = now_ns() - begun;
    check(refused ? NATS_ERR : NATS_OK, "acknowledgements");
    free(value);
    return spent;
}

int main(int argc, char **argv)
{
    natsConnection *connection;

    if (argc != 7 || strcmp(argv[1], "produce") != 0) {
        fprintf(stderr, "natsclient: the arguments are at the top of natsclient.c\n");
        return 2;
    }
    const char *name = argv[3];
    int64_t count = atoll(argv[4]);
    check(natsConnection_ConnectTo(&connection, argv[2]), argv[2]);
    jsCtx *stream = open_stream(connection, name, atoll(argv[6]));
    publish(stream, name, 1, atoi(argv[5]));
    int64_t spent = publish(stream, name, count, atoi(argv[5]));
    printf("{\"operations\": %" PRId64 ", \"seconds\": %.6f}\n", count, (double)spent / 1e9);
    check(js_DeleteStream(stream, name, NULL, NULL), "delete");
    jsCtx_Destroy(stream);
    natsConnection_Destroy(connection);
    nats_Close();
    return 0;
}
