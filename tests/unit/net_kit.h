/* A server with handlers of the test's own, and clients of it. Heartbeat (12) does what the group
 * id says; Fetch (1) sends a file; Metadata (3) has arrays to parse; ApiVersions is the real one.
 */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "broker/base/clock.h"
#include "broker/base/endian.h"
#include "broker/extent.h"
#include "net/admit.h"
#include "net/internal.h"
#include "net/listener.h"
#include "net/message.h"
#include "net/message/fetch.h"
#include "net/message/heartbeat.h"
#include "net/wire.h"
#include "tests/unit/directory.h"
#include "tests/unit/said.h"

#define KIT_PATIENCE_S 20 /* for what must happen: no measure of speed */

struct kit {
    char path[DIRECTORY_BYTES];
    char listen[3 * DIRECTORY_BYTES];
    struct kq_server_options options;
    struct kq_server *server;
    int file;
    uint8_t *bytes; /* of the file */
    size_t file_size;
};

static struct kit *kit; /* of the test that runs */

/* --- What the handlers have seen --- */

static atomic_int kit_ran, kit_cancelled, kit_released, kit_posted;
static pthread_mutex_t kit_lock = PTHREAD_MUTEX_INITIALIZER;
static struct kq_request *kit_parked[1000];
static int kit_parked_count;

static void kit_keep(struct kq_request *request)
{
    pthread_mutex_lock(&kit_lock);
    assert_true(kit_parked_count < 1000);
    kit_parked[kit_parked_count++] = request;
    pthread_mutex_unlock(&kit_lock);
}

static inline int kit_count_parked(void)
{
    pthread_mutex_lock(&kit_lock);
    int count = kit_parked_count;
    pthread_mutex_unlock(&kit_lock);
    return count;
}

/* The one that was kept first, or NULL. */
static inline struct kq_request *kit_take(void)
{
    pthread_mutex_lock(&kit_lock);
    struct kq_request *request = kit_parked_count ? kit_parked[0] : NULL;
    if (request)
        memmove(kit_parked, kit_parked + 1, (size_t)--kit_parked_count * sizeof(*kit_parked));
    pthread_mutex_unlock(&kit_lock);
    return request;
}

static void kit_forget(struct kq_request *request)
{
    pthread_mutex_lock(&kit_lock);
    for (int i = 0; i < kit_parked_count; i++)
        if (kit_parked[i] == request) {
            kit_parked[i] = kit_parked[--kit_parked_count];
            break;
        }
    pthread_mutex_unlock(&kit_lock);
}

static void kit_cancel(struct kq_request *request)
{
    atomic_fetch_add(&kit_cancelled, 1);
    kit_forget(request);
    kq_request_done(request);
}

static void kit_release(struct kq_request *request)
{
    atomic_fetch_add(&kit_released, 1);
}

static enum kq_handled kit_answer(struct kq_request *request)
{
    const struct kq_heartbeat_request *body = request->body;
    struct kq_heartbeat_response *response = request->response;
    response->error_code = (int16_t)body->generation_id;
    return KQ_HANDLED_NOW;
}

static atomic_bool kit_gate; /* closed: offloaded requests wait */

static enum kq_handled kit_work(struct kq_request *request)
{
    while (atomic_load(&kit_gate))
        sched_yield();
    return kit_answer(request);
}

static enum kq_handled kit_work_then_park(struct kq_request *request)
{
    while (atomic_load(&kit_gate))
        sched_yield();
    kit_keep(request);
    return KQ_HANDLED_PARKED;
}

/* Ends when the test says so. */
static inline enum kq_handled kit_look_again(struct kq_request *request)
{
    atomic_fetch_add(&kit_posted, 1);
    return atomic_load(&kit_gate) ? KQ_HANDLED_PARKED : kit_answer(request);
}

static bool kit_is(const struct kq_heartbeat_request *body, const char *word)
{
    return kq_str_is(body->group_id, kq_str_of(word));
}

static enum kq_handled kit_heartbeat(struct kq_request *request)
{
    const struct kq_heartbeat_request *body = request->body;
    atomic_fetch_add(&kit_ran, 1);
    request->cancel = kit_cancel;
    request->release = kit_release;
    if (kit_is(body, "later") || kit_is(body, "park")) {
        kit_keep(request);
        return kit_is(body, "later") ? KQ_HANDLED_LATER : KQ_HANDLED_PARKED;
    }
    if (kit_is(body, "offload"))
        return kq_request_offload(request, kit_work);
    if (kit_is(body, "offload, park"))
        return kq_request_offload(request, kit_work_then_park);
    if (kit_is(body, "silent"))
        return KQ_HANDLED_SILENT;
    if (kit_is(body, "close"))
        return KQ_HANDLED_CLOSE;
    if (kit_is(body, "throttle"))
        request->throttle_ms = body->generation_id;
    return kit_answer(request);
}

/* As many bytes of the file as max_bytes says, from the partition's offset on. */
static enum kq_handled kit_fetch(struct kq_request *request)
{
    const struct kq_fetch_request *body = request->body;
    struct kq_fetch_response *response = request->response;
    struct kq_extent *extent = kq_arena_alloc(&request->arena, sizeof(*extent));
    response->responses = kq_fetch_response_topic_array(&request->arena, 1);
    response->responses_count = 1;
    response->responses->partitions = kq_fetch_response_partition_array(&request->arena, 1);
    response->responses->partitions_count = 1;
    response->responses->partitions->aborted_transactions_count = -1;
    *extent = (struct kq_extent){
        .fd = kit->file, .position = body->min_bytes, .length = (uint32_t)body->max_bytes};
    response->responses->partitions->records =
        (struct kq_wire_records){.extent = extent, .length = body->max_bytes};
    atomic_fetch_add(&kit_ran, 1);
    return KQ_HANDLED_NOW;
}

static enum kq_handled kit_metadata(struct kq_request *request)
{
    return KQ_HANDLED_NOW;
}

#ifndef KIT_MORE_ROWS
#define KIT_MORE_ROWS
#endif

static struct kq_api kit_rows[] = {{1, 4, 4, 4, 0, kit_fetch, NULL, 0},
                                   {3, 0, 1, 0, 0, kit_metadata, NULL, 1},
                                   {12, 0, 4, 0, 0, kit_heartbeat, NULL, 2},
                                   {18, 0, 4, 0, KQ_API_BEFORE_AUTH, kq_api_versions, NULL, 3},
                                   KIT_MORE_ROWS};

const struct kq_api *kq_api_row(size_t index)
{
    return index < kq_array_size(kit_rows) ? &kit_rows[index] : NULL;
}

const struct kq_api *kq_api_find(int16_t key)
{
    const struct kq_api *row;
    for (size_t i = 0; (row = kq_api_row(i)); i++)
        if (row->key == key)
            return row;
    return NULL;
}

/* --- The server --- */

static inline void kit_setup(struct kit *fresh)
{
    kit = fresh;
    *kit = (struct kit){0};
    directory_make(kit->path, NULL);
    snprintf(kit->listen, sizeof(kit->listen), "unix://%s/s plaintext://127.0.0.1:0", kit->path);
    kit->options = (struct kq_server_options){
        .listen = kit->listen,
        .plaintext_user = "",
        .threads = 2,
        .workers = 4,
        .readers = 2,
        .max_request_bytes = 1 << 20,
        .max_queued_bytes = 64 << 20,
        .max_request_memory = 1 << 20,
        .max_send_bytes = 1 << 20,
        .max_in_flight = 16,
        .max_connections = 1000,
        .max_connections_per_ip = 1000,
        .max_connection_rate = 1000000,
        .idle_ms = 600000,
        .request_ms = 600000,
        .drain_ms = 600000,
    };
    for (size_t i = 0; i < kq_array_size(kit_rows); i++)
        kit_rows[i].message = kq_message_find(kit_rows[i].key);
    atomic_store(&kit_ran, 0);
    atomic_store(&kit_cancelled, 0);
    atomic_store(&kit_released, 0);
    atomic_store(&kit_posted, 0);
    atomic_store(&kit_gate, false);
    kit_parked_count = 0;
    kit->file = -1;
    said_clear();
}

static inline void kit_start(void)
{
    assert_int_equal(kq_server_new(&kit->options, &kit->server), 0);
    assert_int_equal(kq_server_start(kit->server, NULL), 0);
}

/* The server is gone and has kept nothing. */
static inline void kit_end(void)
{
    if (kit->server) {
        kq_server_stop(kit->server);
        assert_int_equal(atomic_load(&kit->server->queued_bytes), 0);
        assert_int_equal(kq_admit_count(kit->server->admit), 0);
        kq_server_free(kit->server);
    }
    if (kit->file >= 0)
        close(kit->file);
    free(kit->bytes);
    directory_remove(kit->path);
    kq_diag_set_tap(NULL);
}

static inline void kit_make_file(size_t size)
{
    kit->file_size = size;
    kit->bytes = malloc(size);
    kit->file = open(kit->path, O_TMPFILE | O_RDWR, 0600);
    assert_true(kit->bytes && kit->file >= 0);
    for (size_t i = 0; i < size; i++)
        kit->bytes[i] = (uint8_t)(i * 31 + (i >> 8) * 17 + (i >> 16));
    for (size_t done = 0; done < size;) {
        ssize_t n = write(kit->file, kit->bytes + done, size - done);
        assert_true(n > 0);
        done += (size_t)n;
    }
}

static inline uint64_t kit_tally(enum kq_tally which)
{
    return kq_telemetry_sum(kit->server, which);
}

/* Waits for CONDITION, which must come. */
#define kit_until(condition)                                                                       \
    do {                                                                                           \
        int64_t end_ = kq_clock_mono_ns() + KIT_PATIENCE_S * INT64_C(1000000000);                  \
        while (!(condition)) {                                                                     \
            if (kq_clock_mono_ns() > end_)                                                         \
                fail_msg("never came: %s", #condition);                                            \
            sched_yield();                                                                         \
        }                                                                                          \
    } while (0)

/* --- Clients --- */

static inline int kit_set_patience(int fd)
{
    struct timeval patience = {.tv_sec = KIT_PATIENCE_S};
    assert_true(fd >= 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)), 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)), 0);
    return fd;
}

static inline int kit_connect(void)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    snprintf(name.sun_path, sizeof(name.sun_path), "%s/s", kit->path);
    int fd = kit_set_patience(socket(AF_UNIX, SOCK_STREAM, 0));
    assert_int_equal(connect(fd, (struct sockaddr *)&name, sizeof(name)), 0);
    return fd;
}

static inline int kit_connect_tcp(void)
{
    struct kq_listener *listener = STAILQ_NEXT(STAILQ_FIRST(&kit->server->listeners), list);
    struct sockaddr_in name;
    socklen_t length = sizeof(name);
    assert_int_equal(getsockname(listener->fd, (struct sockaddr *)&name, &length), 0);
    int fd = kit_set_patience(socket(AF_INET, SOCK_STREAM, 0));
    assert_int_equal(connect(fd, (struct sockaddr *)&name, length), 0);
    return fd;
}

static inline void kit_send(int fd, const void *bytes, size_t length)
{
    assert_int_equal(send(fd, bytes, length, MSG_NOSIGNAL), (ssize_t)length);
}

static inline void kit_frame(struct kq_buf *ret, int16_t key, int16_t version,
                             int32_t correlation_id, const void *body)
{
    struct kq_wire_frame frame;
    kq_wire_request_begin(&frame, ret, kq_message_find(key), version, correlation_id,
                          KQ_STR("test"));
    kq_message_write_request(kq_message_find(key), &frame.writer, version, body);
    assert_int_equal(kq_wire_frame_end(&frame), 0);
    kq_wire_frame_release(&frame);
}

/* A request that does WHAT and is answered with error code NUMBER; its correlation id too. */
static inline void kit_heartbeat_frame(struct kq_buf *ret, const char *what, int32_t number)
{
    struct kq_heartbeat_request body;
    kq_heartbeat_request_init(&body);
    body.group_id = kq_str_of(what);
    body.generation_id = number;
    body.member_id = KQ_STR("");
    kit_frame(ret, 12, 0, number, &body);
}

static inline void kit_ask(int fd, const char *what, int32_t number)
{
    kq_autobuf struct kq_buf frame = {0};
    kit_heartbeat_frame(&frame, what, number);
    kit_send(fd, frame.data, frame.length);
}

static inline void kit_fetch_frame(struct kq_buf *ret, int32_t correlation_id, int32_t position,
                                   int32_t length)
{
    struct kq_fetch_request body;
    kq_fetch_request_init(&body);
    body.min_bytes = position;
    body.max_bytes = length;
    kit_frame(ret, 1, 4, correlation_id, &body);
}

/* Exactly LENGTH bytes; false at the end of the stream before the first. */
static inline bool kit_receive(int fd, void *bytes, size_t length)
{
    for (size_t done = 0; done < length;) {
        ssize_t n = recv(fd, (char *)bytes + done, length - done, 0);
        if (n == 0 || (n < 0 && errno == ECONNRESET)) {
            assert_int_equal(done, 0);
            return false;
        }
        if (n < 0)
            fail_msg("recv: %s", strerror(errno));
        done += (size_t)n;
    }
    return true;
}

static inline void kit_expect(int fd, int32_t number)
{
    uint8_t response[10];
    assert_true(kit_receive(fd, response, sizeof(response)));
    assert_int_equal(kq_load_be32(response), 6);
    assert_int_equal((int32_t)kq_load_be32(response + 4), number);
    assert_int_equal((int16_t)kq_load_be16(response + 8), (int16_t)number);
}

static inline void kit_expect_closed(int fd)
{
    uint8_t byte;
    assert_false(kit_receive(fd, &byte, 1));
}

static inline bool kit_is_silent(int fd)
{
    uint8_t byte;
    return recv(fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK) < 0 && errno == EAGAIN;
}

/* The header of a Fetch response up to its records. */
#define KIT_FETCH_HEAD (4 + 4 + 4 + 4 + 2 + 4 + 4 + 2 + 8 + 8 + 4 + 4)

static inline void kit_expect_fetch(int fd, int32_t correlation_id, int32_t position,
                                    int32_t length)
{
    uint8_t head[KIT_FETCH_HEAD];
    uint8_t *bytes = malloc((size_t)length + 1);
    assert_true(kit_receive(fd, head, sizeof(head)));
    assert_int_equal(kq_load_be32(head), KIT_FETCH_HEAD - 4 + length);
    assert_int_equal(kq_load_be32(head + 4), correlation_id);
    assert_int_equal(kq_load_be32(head + KIT_FETCH_HEAD - 4), length);
    assert_true(kit_receive(fd, bytes, (size_t)length));
    assert_memory_equal(bytes, kit->bytes + position, (size_t)length);
    free(bytes);
}

/* Waits until the server has taken all that was sent (unix sockets). */
static inline void kit_drained(int fd)
{
    int left = 1;
    kit_until(ioctl(fd, SIOCOUTQ, &left) == 0 && left == 0);
}
