/* Codecs: bytes that other encoders made, limits, damage, and by chance there and back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "broker/base/fault.h"
#include "broker/codec.h"
#include "tests/unit/chance.h"

#define LIMIT (1 << 22)

struct sample {
    enum kq_codec codec;
    const char *what;
    const void *bytes;
    size_t length;
};
#define SAMPLE(codec, what, bytes)                                                                 \
    {                                                                                              \
        codec, what, bytes, sizeof(bytes) - 1                                                      \
    }

/* "hello hello hello hello", put together by hand. */
#define TEXT "hello hello hello hello"
static const struct sample samples[] = {
    SAMPLE(KQ_CODEC_GZIP, "stored",
           "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff\x01\x17\x00\xe8\xff" TEXT
           "\xe3\x51\x3d\x8d\x17\x00\x00\x00"),
    SAMPLE(KQ_CODEC_SNAPPY, "one literal", "\x17\x58" TEXT),
    SAMPLE(KQ_CODEC_SNAPPY, "a literal and a copy", "\x17\x14hello \x42\x06\x00"),
    SAMPLE(KQ_CODEC_SNAPPY, "xerial, two blocks",
           "\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01"
           "\x00\x00\x00\x08\x06\x14hello \x00\x00\x00\x13\x11\x40hello hello hello"),
    SAMPLE(KQ_CODEC_LZ4, "a stored block",
           "\x04\x22\x4d\x18\x60\x40\x82\x17\x00\x00\x80" TEXT "\x00\x00\x00\x00"),
    SAMPLE(KQ_CODEC_LZ4, "with the header sum of clients before 0.10",
           "\x04\x22\x4d\x18\x60\x40\x1a\x17\x00\x00\x80" TEXT "\x00\x00\x00\x00"),
    SAMPLE(KQ_CODEC_LZ4, "two frames",
           "\x04\x22\x4d\x18\x60\x40\x82\x06\x00\x00\x80hello \x00\x00\x00\x00"
           "\x04\x22\x4d\x18\x60\x40\x1a\x11\x00\x00\x80hello hello hello\x00\x00\x00\x00"),
    SAMPLE(KQ_CODEC_ZSTD, "a raw block", "\x28\xb5\x2f\xfd\x20\x17\xb9\x00\x00" TEXT),
    SAMPLE(KQ_CODEC_ZSTD, "of unknown size", "\x28\xb5\x2f\xfd\x00\x58\xb9\x00\x00" TEXT),
    SAMPLE(KQ_CODEC_ZSTD, "two frames",
           "\x28\xb5\x2f\xfd\x20\x06\x31\x00\x00hello "
           "\x28\xb5\x2f\xfd\x20\x11\x89\x00\x00hello hello hello"),
};

static void bytes_of_other_encoders_are_read(void **state)
{
    for (size_t i = 0; i < kq_array_size(samples); i++) {
        kq_autobuf struct kq_buf out = {0};
        assert_int_equal(kq_buf_append(&out, "before", 6), 0);
        int r =
            kq_codec_decompress(samples[i].codec, samples[i].bytes, samples[i].length, LIMIT, &out);
        if (r != 0)
            fail_msg("codec %d, %s: %d", samples[i].codec, samples[i].what, r);
        assert_int_equal(out.length, 6 + strlen(TEXT));
        assert_memory_equal(out.data, "before" TEXT, out.length);
    }
}

static void a_cut_stream_is_refused_wherever_it_is_cut(void **state)
{
    for (size_t i = 0; i < kq_array_size(samples); i++) {
        for (size_t length = 0; length < samples[i].length; length++) {
            kq_autobuf struct kq_buf out = {0};
            /* A copy of its own, so that reading beyond the cut is noticed. */
            kq_autobuf struct kq_buf cut = {0};
            assert_int_equal(kq_buf_append(&cut, samples[i].bytes, length), 0);
            int r = kq_codec_decompress(samples[i].codec, cut.data, length, LIMIT, &out);
            if (r == 0 && out.length < strlen(TEXT))
                continue; /* between two blocks or frames: the batch's own length tells */
            if (r != -EBADMSG)
                fail_msg("codec %d, %s, cut at %zu: %d", samples[i].codec, samples[i].what, length,
                         r);
            assert_int_equal(out.length, 0);
        }
    }
}

static void what_follows_a_stream_is_refused(void **state)
{
    for (size_t i = 0; i < kq_array_size(samples); i++) {
        kq_autobuf struct kq_buf out = {0}, longer = {0};
        assert_int_equal(kq_buf_append(&longer, samples[i].bytes, samples[i].length), 0);
        assert_int_equal(kq_buf_append(&longer, "junk", 4), 0);
        assert_int_equal(
            kq_codec_decompress(samples[i].codec, longer.data, longer.length, LIMIT, &out),
            -EBADMSG);
    }
}

static void unknown_codecs_are_refused(void **state)
{
    kq_autobuf struct kq_buf out = {0};
    assert_int_equal(kq_codec_decompress(KQ_CODEC_NONE, "a", 1, LIMIT, &out), -EINVAL);
    assert_int_equal(kq_codec_decompress(5, "a", 1, LIMIT, &out), -EINVAL);
    assert_int_equal(kq_codec_compress(KQ_CODEC_NONE, 0, "a", 1, &out), -EINVAL);
    assert_int_equal(kq_codec_compress(7, 0, "a", 1, &out), -EINVAL);
}

static void make_text(struct kq_buf *text, size_t length)
{
    assert_int_equal(kq_buf_reserve(text, length + 1), 0);
    for (size_t i = 0; i < length; i++)
        text->data[i] = chance(4) ? (uint8_t)('a' + i % 16) : (uint8_t)chance(256);
    text->length = length;
}

static void text_of_any_length_comes_back(void **state)
{
    static const size_t lengths[] = {0, 1, 100, 32767, 32768, 32769, 65536, 300000, 3000000};
    for (int codec = KQ_CODEC_GZIP; codec <= KQ_CODEC_ZSTD; codec++)
        for (size_t i = 0; i < kq_array_size(lengths); i++) {
            kq_autobuf struct kq_buf text = {0}, small = {0}, out = {0};
            make_text(&text, lengths[i]);
            assert_int_equal(
                kq_codec_compress(codec, i % 2 ? 0 : 1, text.data, text.length, &small), 0);
            assert_int_equal(
                kq_codec_decompress(codec, small.data, small.length, text.length, &out), 0);
            assert_int_equal(out.length, text.length);
            if (out.length)
                assert_memory_equal(out.data, text.data, text.length);
            if (text.length == 0)
                continue;
            out.length = 0;
            assert_int_equal(
                kq_codec_decompress(codec, small.data, small.length, text.length - 1, &out),
                -EFBIG);
            assert_int_equal(out.length, 0);
        }
}

struct drained {
    struct kq_buf out;
    size_t keep, most; /* bytes that are left in the window; its largest capacity */
    int calls, stop_at;
};

static int drain(void *context, struct kq_buf *window)
{
    struct drained *drained = context;
    size_t take = window->length > drained->keep ? window->length - drained->keep : 0;
    if (++drained->calls == drained->stop_at)
        return KQ_INVALID_RECORD;
    if (window->capacity > drained->most)
        drained->most = window->capacity;
    assert_int_equal(kq_buf_append(&drained->out, window->data, take), 0);
    kq_buf_drop_front(window, take);
    return 0;
}

static void pieces_are_the_whole(void **state)
{
    static const size_t lengths[] = {1, 65536, 65537, 3000000};
    for (int codec = KQ_CODEC_GZIP; codec <= KQ_CODEC_ZSTD; codec++)
        for (size_t i = 0; i < kq_array_size(lengths); i++) {
            kq_autobuf struct kq_buf text = {0}, small = {0}, window = {0};
            struct drained drained = {.keep = 100};
            make_text(&text, lengths[i]);
            assert_int_equal(kq_codec_compress(codec, 0, text.data, text.length, &small), 0);
            assert_int_equal(kq_codec_stream(codec, small.data, small.length, text.length, &window,
                                             drain, &drained),
                             0);
            assert_int_equal(kq_buf_append(&drained.out, window.data, window.length), 0);
            assert_int_equal(drained.out.length, text.length);
            assert_memory_equal(drained.out.data, text.data, text.length);
            assert_true(drained.most <= 4 * KQ_CODEC_PIECE);
            assert_int_equal(kq_codec_stream(codec, small.data, small.length, text.length - 1,
                                             &window, drain, &drained),
                             -EFBIG);
            kq_buf_release(&drained.out);
        }
}

static void pieces_of_other_encoders_are_read(void **state)
{
    for (size_t i = 0; i < kq_array_size(samples); i++) {
        kq_autobuf struct kq_buf window = {0};
        struct drained drained = {0};
        assert_int_equal(kq_codec_stream(samples[i].codec, samples[i].bytes, samples[i].length,
                                         LIMIT, &window, drain, &drained),
                         0);
        assert_int_equal(drained.out.length, strlen(TEXT));
        assert_memory_equal(drained.out.data, TEXT, strlen(TEXT));
        kq_buf_release(&drained.out);
        for (size_t length = 0; length < samples[i].length; length++) {
            kq_autobuf struct kq_buf out = {0};
            int r = kq_codec_stream(samples[i].codec, samples[i].bytes, length, LIMIT, &window,
                                    drain, &drained);
            assert_int_equal(
                r, kq_codec_decompress(samples[i].codec, samples[i].bytes, length, LIMIT, &out));
            if (r == 0)
                assert_int_equal(drained.out.length, out.length);
            kq_buf_release(&drained.out);
        }
    }
}

static void damage_is_found_in_pieces_as_in_the_whole(void **state)
{
    for (int round = 0; round < 20000; round++) {
        const struct sample *sample = &samples[chance(kq_array_size(samples))];
        kq_autobuf struct kq_buf bytes = {0}, out = {0}, window = {0};
        struct drained drained = {0};
        assert_int_equal(kq_buf_append(&bytes, sample->bytes, sample->length), 0);
        for (uint64_t i = 0, flips = 1 + chance(3); i < flips; i++)
            bytes.data[chance(bytes.length)] ^= (uint8_t)(1 << chance(8));
        int whole = kq_codec_decompress(sample->codec, bytes.data, bytes.length, 5000, &out);
        int pieces = kq_codec_stream(sample->codec, bytes.data, bytes.length, 5000, &window, drain,
                                     &drained);
        if (pieces == 0) {
            assert_int_equal(whole, 0);
            assert_int_equal(drained.out.length, out.length);
        }
        kq_buf_release(&drained.out);
    }
}

static void who_takes_the_pieces_may_end_it(void **state)
{
    kq_autobuf struct kq_buf text = {0};
    make_text(&text, 1000000);
    for (int codec = KQ_CODEC_GZIP; codec <= KQ_CODEC_ZSTD; codec++) {
        kq_autobuf struct kq_buf small = {0}, window = {0};
        struct drained drained = {.stop_at = 3};
        assert_int_equal(kq_codec_compress(codec, 0, text.data, text.length, &small), 0);
        assert_int_equal(
            kq_codec_stream(codec, small.data, small.length, LIMIT, &window, drain, &drained),
            KQ_INVALID_RECORD);
        assert_int_equal(drained.calls, 3);
        kq_buf_release(&drained.out);
    }
}

static void a_bomb_in_pieces_takes_no_memory(void **state)
{
    kq_autobuf struct kq_buf zeros = {0};
    assert_int_equal(kq_buf_reserve(&zeros, 64 << 20), 0);
    memset(zeros.data, 0, 64 << 20);
    zeros.length = 64 << 20;
    for (int codec = KQ_CODEC_GZIP; codec <= KQ_CODEC_ZSTD; codec++) {
        kq_autobuf struct kq_buf bomb = {0}, window = {0};
        struct drained drained = {0};
        assert_int_equal(kq_codec_compress(codec, 0, zeros.data, zeros.length, &bomb), 0);
        assert_int_equal(
            kq_codec_stream(codec, bomb.data, bomb.length, 1000000, &window, drain, &drained),
            -EFBIG);
        assert_true(window.capacity <= 2 * KQ_CODEC_PIECE);
        kq_buf_release(&drained.out);
    }
}

static void a_bomb_takes_no_more_memory_than_the_limit(void **state)
{
    kq_autobuf struct kq_buf zeros = {0};
    assert_int_equal(kq_buf_reserve(&zeros, 64 << 20), 0);
    memset(zeros.data, 0, 64 << 20);
    zeros.length = 64 << 20;
    for (int codec = KQ_CODEC_GZIP; codec <= KQ_CODEC_ZSTD; codec++) {
        kq_autobuf struct kq_buf bomb = {0}, out = {0};
        assert_int_equal(kq_codec_compress(codec, 0, zeros.data, zeros.length, &bomb), 0);
        assert_true(bomb.length < zeros.length / 15);
        assert_int_equal(kq_codec_decompress(codec, bomb.data, bomb.length, 1000000, &out), -EFBIG);
        assert_true(out.capacity <= 1000000);
    }
    kq_autobuf struct kq_buf out = {0}; /* only claims to be large */
    assert_int_equal(
        kq_codec_decompress(KQ_CODEC_SNAPPY, "\xff\xff\xff\xff\x0f\x00x", 7, SIZE_MAX, &out),
        -EBADMSG);
    assert_int_equal(out.capacity, 0);
}

static void without_memory_the_output_is_as_before(void **state)
{
    kq_autobuf struct kq_buf text = {0};
    make_text(&text, 200000);
    for (int codec = KQ_CODEC_GZIP; codec <= KQ_CODEC_ZSTD; codec++) {
        kq_autobuf struct kq_buf small = {0};
        assert_int_equal(kq_codec_compress(codec, 0, text.data, text.length, &small), 0);
        for (long nth = 1;; nth++) {
            kq_autobuf struct kq_buf out = {0};
            assert_int_equal(kq_buf_append(&out, "x", 1), 0);
            kq_fault_arm(KQ_FAULT_MEMORY, nth, ENOMEM, false);
            int r = kq_codec_decompress(codec, small.data, small.length, LIMIT, &out);
            bool failed = kq_fault_disarm();
            assert_int_equal(r, failed ? -ENOMEM : 0);
            assert_int_equal(out.length, failed ? 1 : 1 + text.length);
            if (!failed)
                break;
            assert_true(nth < 100);
        }
    }
}

static void damage_never_goes_beyond_the_limit(void **state)
{
    for (int round = 0; round < 4000; round++) {
        const struct sample *sample = &samples[chance(kq_array_size(samples))];
        kq_autobuf struct kq_buf bytes = {0}, out = {0};
        assert_int_equal(kq_buf_append(&bytes, sample->bytes, sample->length), 0);
        for (uint64_t i = 0, flips = 1 + chance(3); i < flips; i++)
            bytes.data[chance(bytes.length)] ^= (uint8_t)(1 << chance(8));
        int r = kq_codec_decompress(sample->codec, bytes.data, bytes.length, 5000, &out);
        assert_true(r == 0 || r == -EBADMSG || r == -EFBIG);
        assert_true(out.length <= 5000);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_of_other_encoders_are_read),
        cmocka_unit_test(a_cut_stream_is_refused_wherever_it_is_cut),
        cmocka_unit_test(what_follows_a_stream_is_refused),
        cmocka_unit_test(unknown_codecs_are_refused),
        cmocka_unit_test(text_of_any_length_comes_back),
        cmocka_unit_test(pieces_are_the_whole),
        cmocka_unit_test(pieces_of_other_encoders_are_read),
        cmocka_unit_test(damage_is_found_in_pieces_as_in_the_whole),
        cmocka_unit_test(who_takes_the_pieces_may_end_it),
        cmocka_unit_test(a_bomb_in_pieces_takes_no_memory),
        cmocka_unit_test(a_bomb_takes_no_more_memory_than_the_limit),
        cmocka_unit_test(without_memory_the_output_is_as_before),
        cmocka_unit_test(damage_never_goes_beyond_the_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
