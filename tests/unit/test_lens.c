#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "broker/base/fault.h"
#include "fakelog.h"
#include "fs/lens.h"

static struct kq_buf window;
static struct kq_extent extent;
static struct kq_batch_header header;

static struct kq_lens lens(bool may_block)
{
    return (struct kq_lens){.buf = &window, .fd = -1, .piece = 4096, .may_block = may_block};
}

/* One batch behind a small one, with a value of LENGTH bytes. */
static void append(int length)
{
    struct fake_part small = {"small", 5}, large = {calloc(1, (size_t)length), length};
    struct kq_access access = fake_access();
    uint8_t bytes[KQ_BATCH_HEADER];
    fake_append(NULL, &small, 1, KQ_CODEC_NONE);
    fake_append(NULL, &large, 1, KQ_CODEC_NONE);
    free((void *)large.bytes);
    assert_int_equal(kq_read(&access, 1, UINT32_MAX, false, true, &extent), 0);
    assert_int_equal(pread(extent.fd, bytes, sizeof(bytes), extent.position), sizeof(bytes));
    assert_int_equal(kq_batch_header_read(bytes, sizeof(bytes), &header), 0);
}

static int set_up(void **state)
{
    fake_open();
    return 0;
}

static int tear_down(void **state)
{
    kq_fault_disarm();
    kq_extent_unref(&extent);
    kq_buf_release(&window);
    fake_close();
    return 0;
}

static int verify(bool may_block)
{
    struct kq_lens through = lens(may_block);
    return kq_lens_verify(&through, &extent, extent.position, &header);
}

static const int lengths[] = {1, 4000, 256 * 1024 - 80, 256 * 1024, 1000 * 1000, 3 << 20};

static void a_batch_of_any_size_is_verified_once(void **state)
{
    for (size_t i = 0; i < kq_array_size(lengths); i++) {
        fake_close();
        fake_open();
        append(lengths[i]);
        assert_int_equal(verify(true), 0);
        assert_int_equal(verify(true), 0);
        assert_int_equal(verify(false), 0);
        assert_int_equal(fake_log.verified, 1);
        kq_extent_unref(&extent);
    }
}

static void one_bit_anywhere_is_damage_each_time(void **state)
{
    for (size_t i = 0; i < kq_array_size(lengths); i++) {
        fake_close();
        fake_open();
        append(lengths[i]);
        int places[] = {KQ_BATCH_CRC_FROM, KQ_BATCH_HEADER + 4, (int)header.size / 2,
                        (int)header.size - 1};
        for (size_t j = 0; j < kq_array_size(places); j++) {
            uint8_t byte;
            assert_int_equal(pread(extent.fd, &byte, 1, extent.position + places[j]), 1);
            fake_damage(places[j], byte ^ 0x10);
            assert_int_equal(verify(true), -EBADMSG);
            assert_int_equal(verify(true), -EBADMSG);
            fake_damage(places[j], byte);
        }
        assert_int_equal(verify(true), 0);
        kq_extent_unref(&extent);
    }
}

static void who_may_not_block_leaves_large_and_uncached_ones_to_others(void **state)
{
    append(4000);
    kq_fault_arm(KQ_FAULT_READ, 1, EAGAIN, false);
    assert_int_equal(verify(false), KQ_WOULD_BLOCK);
    assert_true(kq_fault_disarm());
    assert_int_equal(verify(false), 0);
    kq_extent_unref(&extent);
    fake_close();
    fake_open();
    append(2 << 20);
    assert_int_equal(verify(false), KQ_WOULD_BLOCK);
    assert_int_equal(fake_log.verified, 0);
    assert_int_equal(verify(true), 0);
    assert_int_equal(verify(false), 0);
}

static void a_read_that_fails_is_no_damage(void **state)
{
    append(1 << 20);
    for (int nth = 1; nth <= 4; nth++) {
        kq_fault_arm(KQ_FAULT_READ, nth, EIO, false);
        assert_int_equal(verify(true), -EIO);
        assert_true(kq_fault_disarm());
    }
    assert_int_equal(fake_log.verified, 0);
    assert_int_equal(verify(true), 0);
}

static void a_small_batch_is_read_once_for_checksum_and_records(void **state)
{
    struct kq_lens through = lens(true);
    append(200 * 1024);
    assert_int_equal(kq_lens_verify(&through, &extent, extent.position, &header), 0);
    assert_true(kq_lens_has(&through, extent.fd, extent.position, header.size));
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(a_batch_of_any_size_is_verified_once),
        TEST(one_bit_anywhere_is_damage_each_time),
        TEST(who_may_not_block_leaves_large_and_uncached_ones_to_others),
        TEST(a_read_that_fails_is_no_damage),
        TEST(a_small_batch_is_read_once_for_checksum_and_records),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
