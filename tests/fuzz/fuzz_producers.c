/* Snapshots of producers: whatever the bytes, what is read can be written and read again, and is
 * then the same. The first byte: 1 the checksum is made right. */
#include "broker/base/crc32c.h"
#include "broker/base/endian.h"
#include "broker/producer.h"
#include "tests/fuzz/fuzz.h"

enum { AT_CRC = 2, AT_ENTRIES = 6 };

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    kq_autobuf struct kq_buf first = {0}, second = {0};
    struct kq_producers producers, again;
    bool ours;
    if (length == 0)
        return 0;
    uint8_t *copy = fuzz_copy(bytes + 1, --length);
    if ((bytes[0] & 1) && length > AT_ENTRIES)
        kq_store_be32(copy + AT_CRC, kq_crc32c(0, copy + AT_ENTRIES, length - AT_ENTRIES));
    kq_producers_init(&producers, 10, -1);
    kq_producers_init(&again, 10, -1);
    int r = kq_producers_read(&producers, copy, length, 5, &ours);
    MUST(r == 0 || (r == -EBADMSG && producers.count == 0));
    if (r == 0) {
        MUST(kq_producers_write(&producers, &first) == 0);
        MUST(!ours || first.length == length);
        MUST(kq_producers_read(&again, first.data, first.length, 6, &ours) == 0);
        MUST(ours);
        MUST(kq_producers_write(&again, &second) == 0);
        MUST(first.length == second.length);
        MUST(memcmp(first.data, second.data, first.length) == 0);
        MUST(kq_producers_unstable(&producers) == kq_producers_unstable(&again));
    }
    kq_producers_clear(&producers, -1);
    kq_producers_clear(&again, -1);
    free(copy);
    return 0;
}
