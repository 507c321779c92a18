/* Decompression: of whatever bytes, never above the limit; what came out survives compression. The
 * first byte picks the codec. */
#include "broker/codec.h"
#include "tests/fuzz/fuzz.h"

#define LIMIT 100000

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    kq_autobuf struct kq_buf out = {0}, small = {0}, again = {0};
    if (length == 0)
        return 0;
    enum kq_codec codec = 1 + bytes[0] % 4;
    uint8_t *copy = fuzz_copy(bytes + 1, length - 1);
    int r = kq_codec_decompress(codec, copy, length - 1, LIMIT, &out);
    free(copy);
    MUST(r == 0 || r == -EBADMSG || r == -EFBIG);
    MUST(out.capacity <= LIMIT && out.length <= out.capacity);
    if (r < 0) {
        MUST(out.length == 0);
        return 0;
    }
    MUST(kq_codec_compress(codec, 0, out.data, out.length, &small) == 0);
    MUST(kq_codec_decompress(codec, small.data, small.length, out.length, &again) == 0);
    MUST(again.length == out.length);
    MUST(out.length == 0 || memcmp(again.data, out.data, out.length) == 0);
    return 0;
}
