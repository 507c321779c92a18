/* What is known of producers: sequences, epochs, duplicates, forgetting, and Kafka's snapshots. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "broker/base/crc32c.h"
#include "broker/base/endian.h"
#include "broker/base/fault.h"
#include "broker/producer.h"
#include "tests/unit/chance.h"

#define ID 4000

static int setup(void **state)
{
    static struct kq_producers producers;
    kq_producers_init(&producers, 100, -1);
    *state = &producers;
    return 0;
}

static int teardown(void **state)
{
    kq_fault_disarm();
    kq_producers_clear(*state, -1);
    return 0;
}

/* A batch of COUNT messages at OFFSET. */
static struct kq_batch_header batch(int64_t id, int16_t epoch, int32_t sequence, int32_t count,
                                    int64_t offset)
{
    return (struct kq_batch_header){
        .base_offset = offset,
        .last_offset_delta = count - 1,
        .max_timestamp = 1000 + offset,
        .producer_id = id,
        .producer_epoch = epoch,
        .base_sequence = sequence,
        .record_count = count,
    };
}

static int check(struct kq_producers *producers, int64_t id, int16_t epoch, int32_t sequence,
                 int32_t count)
{
    struct kq_producer_batch duplicate;
    struct kq_batch_header header = batch(id, epoch, sequence, count, 0);
    return kq_producers_check(producers, &header, &duplicate);
}

/* Checks and notes it as appended at OFFSET. */
static int append(struct kq_producers *producers, int64_t id, int16_t epoch, int32_t sequence,
                  int32_t count, int64_t offset)
{
    struct kq_batch_header header = batch(id, epoch, sequence, count, offset);
    int r = check(producers, id, epoch, sequence, count);
    return r == 0 ? kq_producers_note(producers, &header, 50) : r;
}

static void assert_duplicate(struct kq_producers *producers, int32_t sequence, int32_t count,
                             int64_t offset)
{
    struct kq_producer_batch found = {0};
    struct kq_batch_header header = batch(ID, 0, sequence, count, 0);
    assert_int_equal(kq_producers_check(producers, &header, &found), KQ_READY);
    assert_int_equal(found.last_offset - found.offset_delta, offset);
    assert_int_equal(found.last_offset, offset + count - 1);
    assert_int_equal(found.timestamp, 1000 + offset);
}

/* --- Sequences --- */

static void batches_in_sequence_are_taken(void **state)
{
    assert_int_equal(append(*state, ID, 0, 0, 10, 100), 0);
    assert_int_equal(append(*state, ID, 0, 10, 1, 110), 0);
    assert_int_equal(append(*state, ID, 0, 11, 5, 200), 0);
}

static void a_gap_or_a_step_back_is_refused_and_changes_nothing(void **state)
{
    assert_int_equal(append(*state, ID, 0, 0, 10, 100), 0);
    assert_int_equal(check(*state, ID, 0, 11, 1), KQ_OUT_OF_ORDER_SEQUENCE);
    assert_int_equal(check(*state, ID, 0, 9, 1), KQ_OUT_OF_ORDER_SEQUENCE);
    assert_int_equal(check(*state, ID, 0, 0, 9), KQ_OUT_OF_ORDER_SEQUENCE);
    assert_int_equal(check(*state, ID, 0, 0, 11), KQ_OUT_OF_ORDER_SEQUENCE);
    assert_int_equal(append(*state, ID, 0, 10, 1, 110), 0);
}

static void the_last_five_batches_are_known_when_they_are_sent_again(void **state)
{
    for (int i = 0; i < 7; i++)
        assert_int_equal(append(*state, ID, 0, i * 3, 3, 100 + i * 10), 0);
    for (int i = 2; i < 7; i++)
        assert_duplicate(*state, i * 3, 3, 100 + i * 10);
    assert_int_equal(check(*state, ID, 0, 1 * 3, 3), KQ_OUT_OF_ORDER_SEQUENCE);
    assert_int_equal(append(*state, ID, 0, 21, 1, 300), 0);
}

static void sequences_wrap_to_0(void **state)
{
    struct kq_batch_header header = batch(ID, 0, INT32_MAX - 4, 3, 10);
    assert_int_equal(kq_producers_note(*state, &header, 0), 0);       /* up to 2^31 - 3 */
    assert_int_equal(append(*state, ID, 0, INT32_MAX - 1, 4, 20), 0); /* over the edge */
    assert_duplicate(*state, INT32_MAX - 1, 4, 20);
    assert_int_equal(check(*state, ID, 0, 1, 1), KQ_OUT_OF_ORDER_SEQUENCE);
    assert_int_equal(append(*state, ID, 0, 2, 1, 24), 0);
    assert_duplicate(*state, INT32_MAX - 4, 3, 10);
}

static void the_last_sequence_is_followed_by_0(void **state)
{
    struct kq_batch_header header = batch(ID, 0, INT32_MAX, 1, 10);
    assert_int_equal(kq_producers_note(*state, &header, 0), 0);
    assert_int_equal(append(*state, ID, 0, 0, 1, 11), 0);
}

static void one_that_was_never_here_begins_with_0(void **state)
{
    assert_int_equal(check(*state, ID, 0, 1, 1), KQ_OUT_OF_ORDER_SEQUENCE);
    assert_int_equal(check(*state, ID, 7, 0, 1), 0);
}

static void one_that_may_have_been_forgotten_goes_on_where_it_likes(void **state)
{
    struct kq_producers *producers = *state;
    producers->forgotten = ID;
    assert_int_equal(append(producers, ID, 3, 500, 2, 10), 0);
    assert_int_equal(check(producers, ID, 3, 500, 1), KQ_OUT_OF_ORDER_SEQUENCE);
    assert_int_equal(append(producers, ID, 3, 502, 2, 12), 0);
    assert_int_equal(check(producers, ID + 1, 3, 500, 2), KQ_OUT_OF_ORDER_SEQUENCE);
}

static void producers_do_not_meet(void **state)
{
    assert_int_equal(append(*state, ID, 0, 0, 5, 0), 0);
    assert_int_equal(append(*state, ID + 1, 0, 0, 5, 5), 0);
    assert_int_equal(append(*state, ID, 0, 5, 5, 10), 0);
    assert_int_equal(append(*state, ID + 1, 0, 5, 1, 15), 0);
    assert_duplicate(*state, 0, 5, 0);
}

/* --- Epochs --- */

static void a_newer_epoch_begins_with_0_and_fences_the_older(void **state)
{
    assert_int_equal(append(*state, ID, 0, 0, 5, 0), 0);
    assert_int_equal(check(*state, ID, 1, 5, 5), KQ_OUT_OF_ORDER_SEQUENCE);
    assert_int_equal(append(*state, ID, 1, 0, 5, 5), 0);
    assert_int_equal(check(*state, ID, 0, 0, 5), KQ_FENCED_PRODUCER);
    assert_int_equal(check(*state, ID, 0, 5, 5), KQ_FENCED_PRODUCER);
    assert_int_equal(append(*state, ID, 1, 5, 1, 10), 0);
    struct kq_producer_batch found;
    struct kq_batch_header again = batch(ID, 1, 0, 5, 0);
    assert_int_equal(kq_producers_check(*state, &again, &found), KQ_READY);
    assert_int_equal(found.last_offset, 9);
}

/* --- Forgetting --- */

static void the_one_seen_longest_ago_goes_for_another(void **state)
{
    struct kq_producers *producers = *state;
    producers->max = 3;
    for (int i = 0; i < 3; i++)
        assert_int_equal(append(producers, ID + i, 0, 0, 1, i), 0);
    assert_int_equal(append(producers, ID, 0, 1, 1, 3), 0);
    assert_int_equal(append(producers, ID + 9, 0, 0, 1, 4), 0);
    assert_int_equal(producers->count, 3);
    assert_null(kq_producers_find(producers, ID + 1));
    assert_non_null(kq_producers_find(producers, ID));
    assert_int_equal(producers->forgotten, ID + 1);
    assert_int_equal(append(producers, ID + 1, 0, 1, 1, 5), 0); /* goes on */
}

static void those_not_seen_for_long_go(void **state)
{
    struct kq_producers *producers = *state;
    int64_t oldest;
    assert_int_equal(kq_producers_expire(producers, 1000, &oldest), 0);
    assert_int_equal(oldest, INT64_MAX);
    for (int i = 0; i < 4; i++) {
        struct kq_batch_header header = batch(ID + i, 0, 0, 1, i);
        assert_int_equal(kq_producers_note(producers, &header, 100 * i), 0);
    }
    assert_int_equal(kq_producers_expire(producers, 200, &oldest), 2);
    assert_int_equal(oldest, 200);
    assert_int_equal(producers->count, 2);
    assert_null(kq_producers_find(producers, ID + 1));
    assert_int_equal(kq_producers_expire(producers, 1000, &oldest), 2);
    assert_int_equal(producers->forgotten, ID + 3);
}

static void room_that_was_made_needs_no_memory_and_can_be_given_back(void **state)
{
    struct kq_producers *producers = *state;
    struct kq_batch_header header = batch(ID, 0, 0, 1, 0);
    assert_int_equal(kq_producers_reserve(producers, ID), 0);
    assert_int_equal(check(producers, ID, 0, 1, 1), KQ_OUT_OF_ORDER_SEQUENCE); /* still unknown */
    kq_producers_unreserve(producers, ID);
    assert_int_equal(producers->count, 0);
    assert_int_equal(kq_producers_reserve(producers, ID), 0);
    kq_fault_arm(KQ_FAULT_MEMORY, 1, ENOMEM, true);
    assert_int_equal(kq_producers_note(producers, &header, 0), 0);
    assert_int_equal(kq_producers_reserve(producers, ID + 1), -ENOMEM);
    kq_fault_disarm();
    kq_producers_unreserve(producers, ID);
    assert_int_equal(producers->count, 1);
}

static void without_memory_nothing_is_added(void **state)
{
    struct kq_producers *producers = *state;
    for (int64_t id = 0; id < 50; id++)
        for (long nth = 1;; nth++) {
            kq_fault_arm(KQ_FAULT_MEMORY, nth, ENOMEM, false);
            int r = kq_producers_reserve(producers, id);
            bool failed = kq_fault_disarm();
            assert_int_equal(producers->count, (size_t)id + (r == 0));
            if (r == 0 || !failed)
                break;
            assert_int_equal(r, -ENOMEM);
            assert_true(nth < 10);
        }
}

/* --- Transactions --- */

static struct kq_batch_header transactional(int64_t id, int32_t sequence, int64_t offset)
{
    struct kq_batch_header header = batch(id, 0, sequence, 1, offset);
    header.attributes = KQ_ATTRIBUTE_TRANSACTIONAL;
    return header;
}

static void the_oldest_open_transaction_says_what_is_stable(void **state)
{
    struct kq_producers *producers = *state;
    struct kq_producer_end end;
    assert_int_equal(kq_producers_unstable(producers), INT64_MAX);
    for (int i = 0; i < 3; i++) {
        struct kq_batch_header header = transactional(ID + i, 0, 10 + i);
        assert_int_equal(kq_producers_note(producers, &header, 0), 0);
    }
    assert_int_equal(kq_producers_unstable(producers), 10);
    struct kq_batch_header marker = batch(ID, 0, -1, 1, 20);
    marker.attributes = KQ_ATTRIBUTE_TRANSACTIONAL | KQ_ATTRIBUTE_CONTROL;
    assert_int_equal(kq_producers_note_end(producers, &marker, 3, 0, &end), 0);
    assert_int_equal(end.first_offset, 10);
    assert_int_equal(end.last_stable, 11);
    assert_int_equal(kq_producers_unstable(producers), 11);
    marker.producer_id = ID + 2;
    marker.base_offset = 21;
    assert_int_equal(kq_producers_note_end(producers, &marker, 3, 0, &end), 0);
    assert_int_equal(end.last_stable, 11);
    marker.producer_id = ID + 1;
    marker.base_offset = 22;
    assert_int_equal(kq_producers_note_end(producers, &marker, 3, 0, &end), 0);
    assert_int_equal(end.first_offset, 11);
    assert_int_equal(end.last_stable, 23);
    assert_int_equal(kq_producers_note_end(producers, &marker, 3, 0, &end), 0);
    assert_int_equal(end.first_offset, -1);
    assert_int_equal(kq_producers_unstable(producers), INT64_MAX);
}

static void an_open_transaction_takes_nothing_else_and_is_not_forgotten(void **state)
{
    struct kq_producers *producers = *state;
    int64_t oldest;
    struct kq_batch_header header = transactional(ID, 0, 10);
    assert_int_equal(kq_producers_note(producers, &header, 0), 0);
    assert_int_equal(check(producers, ID, 0, 1, 1), KQ_TRANSACTIONAL);
    assert_int_equal(kq_producers_expire(producers, INT64_MAX, &oldest), 0);
    producers->max = 1;
    assert_int_equal(append(producers, ID + 1, 0, 0, 1, 20), 0);
    assert_int_equal(kq_producers_unstable(producers), 10);
    assert_int_equal(producers->count, 2);
}

/* --- Snapshots --- */

/* What Kafka 4.0 wrote (ProducerStateManager.writeSnapshot) of: 4000, epoch 3, coordinator epoch 7,
 * messages 70 to 72 up to offset 1002; 4001, in a transaction since offset 990; 4002, of which only
 * a marker is known. */
static const char kafka[] =
    "\x00\x01\x5c\x5b\x36\x81\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x0f\xa0\x00\x03\x00\x00\x00"
    "\x48\x00\x00\x00\x00\x00\x00\x03\xea\x00\x00\x00\x02\x00\x00\x01\x8b\xcf\xe5\x68\x05\x00\x00"
    "\x00\x07\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00\x0f\xa1\x00\x00\x00\x00\x00"
    "\x00\x00\x00\x00\x00\x00\x00\x03\xde\x00\x00\x00\x00\x00\x00\x01\x8b\xcf\xe5\x68\x09\xff\xff"
    "\xff\xff\x00\x00\x00\x00\x00\x00\x03\xde\x00\x00\x00\x00\x00\x00\x0f\xa2\x00\x05\xff\xff\xff"
    "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00\x01\x8b\xcf\xe5\x68\x0a\x00\x00"
    "\x00\x08\xff\xff\xff\xff\xff\xff\xff\xff";
#define KAFKA_BYTES (sizeof(kafka) - 1)

static void a_snapshot_of_kafka_is_read(void **state)
{
    struct kq_producers *producers = *state;
    bool ours = true;
    assert_int_equal(kq_producers_read(producers, kafka, KAFKA_BYTES, 77, &ours), 0);
    assert_false(ours);
    assert_int_equal(producers->count, 3);
    const struct kq_producer_entry *entry = kq_producers_find(producers, 4000);
    assert_int_equal(entry->epoch, 3);
    assert_int_equal(entry->coordinator_epoch, 7);
    assert_int_equal(entry->seen_ms, 77);
    assert_int_equal(entry->batch_count, 1);
    assert_int_equal(entry->batches[0].last_sequence, 72);
    assert_int_equal(entry->batches[0].last_offset, 1002);
    assert_int_equal(entry->batches[0].offset_delta, 2);
    assert_int_equal(kq_producers_unstable(producers), 990);
    assert_int_equal(check(producers, 4000, 3, 70, 3), KQ_READY);
    assert_int_equal(check(producers, 4000, 3, 73, 1), 0);
    assert_int_equal(kq_producers_find(producers, 4002)->batch_count, 0);
    assert_int_equal(check(producers, 4002, 5, 1, 1), KQ_OUT_OF_ORDER_SEQUENCE);
    assert_int_equal(check(producers, 4002, 5, 0, 1), 0);
}

/* Kafka's part is to the byte what Kafka writes; only the checksum covers ours, too. */
static void what_is_written_begins_as_kafkas(void **state)
{
    kq_autobuf struct kq_buf out = {0};
    bool ours;
    assert_int_equal(kq_producers_read(*state, kafka, KAFKA_BYTES, 0x55, &ours), 0);
    ((struct kq_producers *)*state)->forgotten = 0x42;
    assert_int_equal(kq_producers_write(*state, &out), 0);
    static const char rest[] = "kqfs\x00\x01\x00\x00\x00\x00\x00\x00\x00\x42"
                               "\x00\x00\x00\x00\x00\x00\x00\x55\x00"
                               "\x00\x00\x00\x00\x00\x00\x00\x55\x00"
                               "\x00\x00\x00\x00\x00\x00\x00\x55\x00";
    assert_int_equal(out.length, KAFKA_BYTES + sizeof(rest) - 1);
    assert_memory_equal(out.data, kafka, 2);
    assert_memory_equal(out.data + 6, kafka + 6, KAFKA_BYTES - 6);
    assert_memory_equal(out.data + KAFKA_BYTES, rest, sizeof(rest) - 1);
    assert_int_equal(kq_load_be32(out.data + 2), kq_crc32c(0, out.data + 6, out.length - 6));
}

static void an_empty_one_is_pinned(void **state)
{
    kq_autobuf struct kq_buf out = {0};
    assert_int_equal(kq_producers_write(*state, &out), 0);
    assert_int_equal(out.length, 24);
    assert_memory_equal(out.data + 6, "\0\0\0\0kqfs\0\1\xff\xff\xff\xff\xff\xff\xff\xff", 18);
}

static void fill_by_chance(struct kq_producers *producers)
{
    int32_t next[20] = {0};
    for (int64_t offset = 0; offset < 400; offset += 10) {
        size_t who = chance(20);
        struct kq_batch_header header =
            batch(ID + (int64_t)who, 1, next[who], 1 + (int32_t)chance(9), offset);
        if (who == 3)
            header.attributes = KQ_ATTRIBUTE_TRANSACTIONAL;
        next[who] += header.record_count;
        assert_int_equal(kq_producers_note(producers, &header, 5 * offset), 0);
    }
    producers->forgotten = 77;
}

static void what_is_written_is_read_again(void **state)
{
    kq_autobuf struct kq_buf first = {0}, second = {0};
    struct kq_producers again;
    bool ours = false;
    fill_by_chance(*state);
    assert_int_equal(kq_producers_write(*state, &first), 0);
    kq_producers_init(&again, 5, -1); /* who is too many goes later */
    assert_int_equal(kq_producers_read(&again, first.data, first.length, 1, &ours), 0);
    assert_true(ours);
    assert_int_equal(again.count, ((struct kq_producers *)*state)->count);
    assert_int_equal(again.forgotten, 77);
    assert_int_equal(kq_producers_write(&again, &second), 0);
    assert_int_equal(first.length, second.length);
    assert_memory_equal(first.data, second.data, first.length);
    assert_int_equal(kq_producers_unstable(&again), kq_producers_unstable(*state));
    kq_producers_clear(&again, -1);
}

static void damage_is_refused_and_leaves_nothing(void **state)
{
    kq_autobuf struct kq_buf bytes = {0};
    struct kq_producers again;
    bool ours;
    fill_by_chance(*state);
    assert_int_equal(kq_producers_write(*state, &bytes), 0);
    kq_producers_init(&again, 100, -1);
    for (size_t length = 0; length < bytes.length; length++)
        assert_int_equal(kq_producers_read(&again, bytes.data, length, 1, &ours), -EBADMSG);
    for (size_t i = 0; i < bytes.length; i++) {
        bytes.data[i] ^= 1;
        assert_int_equal(kq_producers_read(&again, bytes.data, bytes.length, 1, &ours), -EBADMSG);
        assert_int_equal(again.count, 0);
        bytes.data[i] ^= 1;
    }
}

/* Whatever is in it, with a checksum that is right. */
static void nonsense_is_refused_or_read(void **state)
{
    kq_autobuf struct kq_buf bytes = {0};
    struct kq_producers again;
    bool ours;
    fill_by_chance(*state);
    assert_int_equal(kq_producers_write(*state, &bytes), 0);
    kq_producers_init(&again, 100, -1);
    for (int round = 0; round < 20000; round++) {
        size_t at = 6 + chance(bytes.length - 6);
        uint8_t was = bytes.data[at];
        bytes.data[at] ^= (uint8_t)(1 << chance(8));
        kq_store_be32(bytes.data + 2, kq_crc32c(0, bytes.data + 6, bytes.length - 6));
        int r = kq_producers_read(&again, bytes.data, bytes.length, 1, &ours);
        assert_true(r == 0 || (r == -EBADMSG && again.count == 0));
        kq_producers_clear(&again, -1);
        bytes.data[at] = was;
    }
}

static void without_memory_a_snapshot_is_read_or_nothing(void **state)
{
    kq_autobuf struct kq_buf bytes = {0};
    struct kq_producers again;
    bool ours;
    fill_by_chance(*state);
    assert_int_equal(kq_producers_write(*state, &bytes), 0);
    kq_producers_init(&again, 100, -1);
    for (long nth = 1;; nth++) {
        kq_fault_arm(KQ_FAULT_MEMORY, nth, ENOMEM, false);
        int r = kq_producers_read(&again, bytes.data, bytes.length, 1, &ours);
        bool failed = kq_fault_disarm();
        assert_int_equal(again.count, r == 0 ? ((struct kq_producers *)*state)->count : 0);
        kq_producers_clear(&again, -1);
        if (!failed)
            break;
        assert_int_equal(r, -ENOMEM);
        assert_true(nth < 1000);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(batches_in_sequence_are_taken, setup, teardown),
        cmocka_unit_test_setup_teardown(a_gap_or_a_step_back_is_refused_and_changes_nothing, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(the_last_five_batches_are_known_when_they_are_sent_again,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(sequences_wrap_to_0, setup, teardown),
        cmocka_unit_test_setup_teardown(the_last_sequence_is_followed_by_0, setup, teardown),
        cmocka_unit_test_setup_teardown(one_that_was_never_here_begins_with_0, setup, teardown),
        cmocka_unit_test_setup_teardown(one_that_may_have_been_forgotten_goes_on_where_it_likes,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(producers_do_not_meet, setup, teardown),
        cmocka_unit_test_setup_teardown(a_newer_epoch_begins_with_0_and_fences_the_older, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(the_one_seen_longest_ago_goes_for_another, setup, teardown),
        cmocka_unit_test_setup_teardown(those_not_seen_for_long_go, setup, teardown),
        cmocka_unit_test_setup_teardown(room_that_was_made_needs_no_memory_and_can_be_given_back,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(without_memory_nothing_is_added, setup, teardown),
        cmocka_unit_test_setup_teardown(the_oldest_open_transaction_says_what_is_stable, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(an_open_transaction_takes_nothing_else_and_is_not_forgotten,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(a_snapshot_of_kafka_is_read, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_written_begins_as_kafkas, setup, teardown),
        cmocka_unit_test_setup_teardown(an_empty_one_is_pinned, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_written_is_read_again, setup, teardown),
        cmocka_unit_test_setup_teardown(damage_is_refused_and_leaves_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(nonsense_is_refused_or_read, setup, teardown),
        cmocka_unit_test_setup_teardown(without_memory_a_snapshot_is_read_or_nothing, setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
