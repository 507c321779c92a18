#include "broker/compacttxn.h"

#include "broker/base/endian.h"
#include "broker/base/mem.h"
#include "broker/uthash.h"

struct kq_compact_ongoing {
    int64_t producer_id;
    struct kq_compact_aborted entry;
    bool seen; /* a batch of it was met */
    UT_hash_handle hh;
};

/* --- Entries --- */

void kq_compact_aborted_write(uint8_t *at, const struct kq_compact_aborted *aborted)
{
    kq_store_be16(at, 0);
    kq_store_be64(at + 2, (uint64_t)aborted->producer_id);
    kq_store_be64(at + 10, (uint64_t)aborted->first_offset);
    kq_store_be64(at + 18, (uint64_t)aborted->last_offset);
    kq_store_be64(at + 26, (uint64_t)aborted->last_stable);
}

int kq_compact_aborted_read(const uint8_t *at, struct kq_compact_aborted *ret)
{
    struct kq_compact_aborted aborted = {
        .producer_id = (int64_t)kq_load_be64(at + 2),
        .first_offset = (int64_t)kq_load_be64(at + 10),
        .last_offset = (int64_t)kq_load_be64(at + 18),
        .last_stable = (int64_t)kq_load_be64(at + 26),
    };
    if (kq_load_be16(at) != 0 || aborted.first_offset < 0 ||
        aborted.last_offset < aborted.first_offset)
        return -EBADMSG;
    *ret = aborted;
    return 0;
}

/* --- The heap --- */

static void swap(struct kq_compact_aborted *a, struct kq_compact_aborted *b)
{
    struct kq_compact_aborted held = *a;
    *a = *b;
    *b = held;
}

static int push(struct kq_compact_txns *txns, const struct kq_compact_aborted *aborted)
{
    if (txns->ahead_count == txns->ahead_capacity) {
        size_t capacity = txns->ahead_capacity ? 2 * txns->ahead_capacity : 16;
        struct kq_compact_aborted *ahead = kq_realloc(txns->ahead, capacity * sizeof(*ahead));
        if (!ahead)
            return -ENOMEM;
        txns->ahead = ahead;
        txns->ahead_capacity = capacity;
    }
    size_t at = txns->ahead_count++;
    txns->ahead[at] = *aborted;
    for (; at > 0 && txns->ahead[(at - 1) / 2].first_offset > aborted->first_offset;
         at = (at - 1) / 2)
        swap(&txns->ahead[at], &txns->ahead[(at - 1) / 2]);
    return 0;
}

static void pop(struct kq_compact_txns *txns)
{
    struct kq_compact_aborted *heap = txns->ahead;
    size_t at = 0, count = --txns->ahead_count;
    heap[0] = heap[count];
    for (size_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && heap[child + 1].first_offset < heap[child].first_offset)
            child++;
        if (heap[at].first_offset <= heap[child].first_offset)
            break;
        swap(&heap[at], &heap[child]);
    }
}

int kq_compact_txns_expect(struct kq_compact_txns *txns, const struct kq_compact_aborted *aborted,
                           size_t count)
{
    int r = 0;
    for (size_t i = 0; i < count && r == 0; i++)
        r = push(txns, &aborted[i]);
    return r;
}

/* --- Batches --- */

static struct kq_compact_ongoing *find(struct kq_compact_ongoing *table, int64_t producer_id)
{
    struct kq_compact_ongoing *found;
    HASH_FIND(hh, table, &producer_id, sizeof(producer_id), found);
    return found;
}

static int add(struct kq_compact_ongoing **table, int64_t producer_id,
               struct kq_compact_ongoing **ret)
{
    struct kq_compact_ongoing *ongoing = kq_zalloc(sizeof(*ongoing));
    if (!ongoing)
        return -ENOMEM;
    ongoing->producer_id = producer_id;
    kq_uthash_failed = false;
    HASH_ADD(hh, *table, producer_id, sizeof(producer_id), ongoing);
    if (kq_uthash_failed) {
        free(ongoing);
        return -ENOMEM;
    }
    *ret = ongoing;
    return 0;
}

static void drop(struct kq_compact_ongoing **table, struct kq_compact_ongoing *ongoing)
{
    HASH_DELETE(hh, *table, ongoing);
    free(ongoing);
}

static int begin(struct kq_compact_txns *txns, const struct kq_compact_aborted *aborted)
{
    struct kq_compact_ongoing *ongoing = find(txns->aborted, aborted->producer_id);
    if (!ongoing) {
        int r = add(&txns->aborted, aborted->producer_id, &ongoing);
        if (r == 0)
            ongoing->entry = *aborted;
        return r;
    }
    /* One whose marker was never met must not claim the producer's next transaction. */
    if (ongoing->entry.last_offset < aborted->first_offset) {
        ongoing->entry = *aborted;
        ongoing->seen = false;
    }
    return 0;
}

/* Those that began up to OFFSET are under way. */
static int begin_up_to(struct kq_compact_txns *txns, int64_t offset)
{
    int r = 0;
    while (r == 0 && txns->ahead_count > 0 && txns->ahead[0].first_offset <= offset) {
        r = begin(txns, &txns->ahead[0]);
        if (r == 0)
            pop(txns);
    }
    return r;
}

int kq_compact_txns_batch(struct kq_compact_txns *txns, const struct kq_batch_header *header,
                          bool *ret_discard)
{
    int r = begin_up_to(txns, kq_batch_next_offset(header) - 1);
    if (r < 0)
        return r;
    *ret_discard = false;
    if (!(header->attributes & KQ_ATTRIBUTE_TRANSACTIONAL))
        return 0;
    struct kq_compact_ongoing *ongoing = find(txns->aborted, header->producer_id);
    if (ongoing && header->base_offset <= ongoing->entry.last_offset) {
        ongoing->seen = true;
        *ret_discard = true;
        return 0;
    }
    if (find(txns->committed, header->producer_id))
        return 0;
    return add(&txns->committed, header->producer_id, &ongoing);
}

int kq_compact_marker_read(const uint8_t *bytes, const struct kq_batch_header *header,
                           enum kq_compact_marker *ret)
{
    kq_autobuf struct kq_buf scratch = {0};
    struct kq_record_reader reader;
    struct kq_record record;
    if (header->record_count == 0) {
        *ret = KQ_MARKER_EMPTY;
        return 0;
    }
    int r = kq_record_reader_open(&reader, bytes, header, 1 << 16, &scratch);
    if (r == 0)
        r = kq_record_next(&reader, &record);
    if (r != 0)
        return r == -ENOMEM ? r : -EBADMSG;
    if (record.key_length < 4) /* version i16, type i16 */
        return -EBADMSG;
    uint16_t type = kq_load_be16(record.key + 2);
    *ret = type <= KQ_MARKER_COMMIT ? (enum kq_compact_marker)type : KQ_MARKER_OTHER;
    return 0;
}

int kq_compact_txns_marker(struct kq_compact_txns *txns, const struct kq_batch_header *header,
                           enum kq_compact_marker marker, bool *ret_discard,
                           struct kq_compact_aborted *ret_aborted)
{
    struct kq_compact_ongoing *ongoing;
    int r = begin_up_to(txns, kq_batch_next_offset(header) - 1);
    if (r < 0)
        return r;
    *ret_aborted = (struct kq_compact_aborted){.first_offset = -1};
    *ret_discard = marker == KQ_MARKER_EMPTY;
    if (marker == KQ_MARKER_ABORT) {
        ongoing = find(txns->aborted, header->producer_id);
        *ret_discard = !ongoing || !ongoing->seen;
        if (ongoing && ongoing->seen)
            *ret_aborted = ongoing->entry;
        if (ongoing)
            drop(&txns->aborted, ongoing);
    } else if (marker == KQ_MARKER_COMMIT) {
        ongoing = find(txns->committed, header->producer_id);
        *ret_discard = !ongoing;
        if (ongoing)
            drop(&txns->committed, ongoing);
    }
    return 0;
}

void kq_compact_txns_release(struct kq_compact_txns *txns)
{
    struct kq_compact_ongoing *ongoing, *next;
    HASH_ITER (hh, txns->aborted, ongoing, next)
        drop(&txns->aborted, ongoing);
    HASH_ITER (hh, txns->committed, ongoing, next)
        drop(&txns->committed, ongoing);
    free(txns->ahead);
    *txns = (struct kq_compact_txns){0};
}
