/* From bytes to requests.
 *
 * A loop has one buffer into which it receives; whole frames in it become requests at once, each in
 * memory of its own. What is left over, a frame that is not whole, gets memory as its bytes arrive:
 * never more than twice what has come, whatever the frame says of its size, unless the loop has
 * some to spare (spare.h). A connection between two frames holds nothing.
 */
#include <string.h>

#include "broker/base/endian.h"
#include "broker/base/mem.h"
#include "net/internal.h"
#include "net/sasl.h"

#define PREFIX 4
#define PART_BYTES_LEAST 1024
#define AHEAD_BYTES ((size_t)256 * 1024)

void kq_conn_drop_part(struct kq_conn *conn)
{
    kq_server_unqueue(conn->shard->server, conn->part_capacity);
    free(conn->part);
    conn->part = NULL;
    conn->part_size = conn->part_at = conn->part_length = conn->part_capacity = 0;
}

bool kq_conn_may_receive(const struct kq_conn *conn)
{
    return conn->end == KQ_CONN_OPEN && kq_conn_may_take(conn) && !kq_conn_is_ahead(conn);
}

/* What would only wait here waits at its sender as well, and takes no memory. */
bool kq_conn_is_ahead(const struct kq_conn *conn)
{
    return conn->waiting_bytes > AHEAD_BYTES;
}

unsigned kq_conn_max_in_flight(const struct kq_conn *conn)
{
    return kq_sasl_is_done(conn->sasl) ? conn->shard->server->options.max_in_flight : 1;
}

static uint64_t max_request_bytes(const struct kq_conn *conn)
{
    const struct kq_server_options *options = &conn->shard->server->options;
    return (uint64_t)(kq_sasl_is_done(conn->sasl) ? options->max_request_bytes
                                                  : options->max_sasl_bytes);
}

bool kq_conn_may_take(const struct kq_conn *conn)
{
    const struct kq_server_options *options = &conn->shard->server->options;
    return (conn->end == KQ_CONN_OPEN || conn->end == KQ_CONN_DRAINING) &&
           conn->in_flight < kq_conn_max_in_flight(conn) &&
           kq_sendq_left(&conn->sendq) <= (uint64_t)options->max_send_bytes &&
           conn->muted_until_ns <= conn->shard->loop->now_ns;
}

static void refuse(struct kq_conn *conn, int r)
{
    kq_conn_close(conn, r == -EPROTONOSUPPORT ? KQ_TALLY_UNSUPPORTED
                        : r == -EMSGSIZE      ? KQ_TALLY_TOO_LARGE
                        : r == -ENOMEM        ? KQ_TALLY_NO_MEMORY
                                              : KQ_TALLY_MALFORMED);
}

static int add_request(struct kq_conn *conn, const uint8_t *bytes, uint32_t size, void *memory)
{
    struct kq_request *request;
    int r = kq_request_new(conn, bytes, size, memory, &request);
    if (r < 0)
        return r;
    TAILQ_INSERT_TAIL(&conn->requests, request, queue);
    conn->in_flight++;
    conn->waiting_bytes += request->size;
    if (!conn->next)
        conn->next = request;
    return 0;
}

/* Memory for up to WANTED bytes of the part. */
static int grow_part(struct kq_conn *conn, size_t wanted)
{
    if (wanted <= conn->part_capacity)
        return 0;
    uint8_t *part = kq_realloc(conn->part, wanted);
    if (!part)
        return -ENOMEM;
    conn->part = part;
    kq_server_queue(conn->shard->server, wanted - conn->part_capacity);
    conn->part_capacity = (uint32_t)wanted;
    return 0;
}

/* Memory for the first LENGTH bytes of a frame of SIZE bytes. */
static int make_part(struct kq_conn *conn, uint32_t size, size_t length)
{
    size_t room = length * 2 < PART_BYTES_LEAST ? PART_BYTES_LEAST : length * 2, capacity;
    room = room < size ? room : size;
    conn->part = kq_spares_take(&conn->shard->spares, room, size, &capacity);
    if (!conn->part)
        return grow_part(conn, room);
    kq_server_queue(conn->shard->server, capacity);
    conn->part_capacity = (uint32_t)capacity;
    return 0;
}

/* The first LENGTH bytes, from BYTES, of a frame of SIZE bytes. */
static int begin_part(struct kq_conn *conn, uint32_t size, const uint8_t *bytes, size_t length)
{
    int r = make_part(conn, size, length);
    if (r < 0)
        return r;
    memcpy(conn->part, bytes, length);
    conn->part_size = size;
    conn->part_length = (uint32_t)length;
    return 0;
}

/* Whole frames that have to wait until there is room for their requests. */
static int keep(struct kq_conn *conn, const uint8_t *bytes, size_t length)
{
    int r = grow_part(conn, length);
    if (r < 0)
        return r;
    memcpy(conn->part, bytes, length);
    conn->part_length = (uint32_t)length;
    return 0;
}

/* Makes requests of the whole frames in LENGTH bytes at BYTES while there is room for them. Returns
 * how many bytes that were, or -errno. */
static ssize_t take_frames(struct kq_conn *conn, const uint8_t *bytes, size_t length)
{
    size_t done = 0;
    while (length - done >= PREFIX && conn->in_flight < kq_conn_max_in_flight(conn)) {
        uint32_t size = kq_load_be32(bytes + done);
        if (size > max_request_bytes(conn))
            return -EMSGSIZE;
        if (length - done - PREFIX < size)
            break;
        int r = add_request(conn, bytes + done + PREFIX, size, NULL);
        if (r < 0)
            return r;
        conn->frame_ns = 0;
        done += PREFIX + size;
    }
    return (ssize_t)done;
}

/* Part of a frame is here, and the rest has to come in time. */
static void note_frame(struct kq_conn *conn)
{
    if (conn->frame_ns)
        return;
    conn->frame_ns = conn->shard->loop->now_ns;
    kq_conn_watch_deadline(conn);
}

/* What take_frames has left. */
static int take_rest(struct kq_conn *conn, const uint8_t *bytes, size_t length)
{
    if (length < PREFIX) {
        memcpy(conn->head, bytes, length);
        conn->head_length = (uint8_t)length;
        if (length)
            note_frame(conn);
        return 0;
    }
    uint32_t size = kq_load_be32(bytes);
    if (size > max_request_bytes(conn))
        return -EMSGSIZE;
    if (length - PREFIX >= size)
        return keep(conn, bytes, length);
    note_frame(conn);
    return begin_part(conn, size, bytes + PREFIX, length - PREFIX);
}

/* The part is a whole frame. */
static int finish_part(struct kq_conn *conn)
{
    uint8_t *memory = conn->part;
    uint32_t size = conn->part_size;
    kq_server_unqueue(conn->shard->server, conn->part_capacity);
    conn->part = NULL;
    conn->part_size = conn->part_at = conn->part_length = conn->part_capacity = 0;
    conn->frame_ns = 0;
    kq_crowd_done(conn);
    int r = add_request(conn, memory, size, memory);
    if (r < 0)
        free(memory);
    return r;
}

/* A read that got less than it asked for: nothing is left, unless the end came behind it. */
static void note_short(struct kq_conn *conn)
{
    if (conn->transport.class->short_read_is_last && !conn->hung_up)
        conn->readable = false;
}

static ssize_t receive_part(struct kq_conn *conn)
{
    size_t room = conn->part_capacity - conn->part_length;
    ssize_t n = kq_transport_read(&conn->transport, conn->part + conn->part_length, room);
    if (n <= 0)
        return n;
    kq_tally(conn->shard->telemetry, KQ_TALLY_RECEIVED, (uint64_t)n);
    conn->part_length += (uint32_t)n;
    if ((size_t)n < room) {
        note_short(conn);
        return n;
    }
    int r = 0;
    if (conn->part_length == conn->part_size)
        r = finish_part(conn);
    else if (conn->part_size - conn->part_length < conn->part_length)
        r = grow_part(conn, conn->part_size);
    else
        r = grow_part(conn, (size_t)conn->part_length * 2);
    return r < 0 ? r : n;
}

static ssize_t receive_frames(struct kq_conn *conn)
{
    uint8_t *buffer = conn->shard->loop->buffer;
    size_t length = conn->head_length;
    memcpy(buffer, conn->head, length);
    ssize_t n = kq_transport_read(&conn->transport, buffer + length, KQ_LOOP_BUFFER - length);
    if (n <= 0)
        return n;
    kq_tally(conn->shard->telemetry, KQ_TALLY_RECEIVED, (uint64_t)n);
    if ((size_t)n < KQ_LOOP_BUFFER - length)
        note_short(conn);
    conn->head_length = 0;
    length += (size_t)n;
    ssize_t done = take_frames(conn, buffer, length);
    if (done < 0)
        return done;
    int r = take_rest(conn, buffer + done, length - (size_t)done);
    return r < 0 ? r : n;
}

void kq_conn_receive(struct kq_conn *conn)
{
    ssize_t n = conn->part_size ? receive_part(conn) : receive_frames(conn);
    if (n > 0)
        conn->active_ns = conn->shard->loop->now_ns;
    else if (n == -EAGAIN)
        conn->readable = false;
    else if (n == 0)
        kq_conn_drain(conn);
    else if (n == -EPROTONOSUPPORT || n == -EBADMSG || n == -EMSGSIZE || n == -ENOMEM)
        refuse(conn, (int)n);
    else
        kq_conn_close(conn, KQ_TALLY_BY_PEER);
}

void kq_conn_resume(struct kq_conn *conn)
{
    if (!conn->part || conn->part_size)
        return;
    size_t left = conn->part_length - conn->part_at;
    ssize_t done = take_frames(conn, conn->part + conn->part_at, left);
    if (done < 0) {
        refuse(conn, (int)done);
        return;
    }
    conn->part_at += (uint32_t)done;
    if (conn->in_flight >= kq_conn_max_in_flight(conn))
        return;
    kq_autofree uint8_t *waited = conn->part;
    const uint8_t *rest = waited + conn->part_at;
    left -= (size_t)done;
    kq_server_unqueue(conn->shard->server, conn->part_capacity);
    conn->part = NULL;
    conn->part_at = conn->part_length = conn->part_capacity = 0;
    int r = take_rest(conn, rest, left);
    if (r < 0)
        refuse(conn, r);
}
