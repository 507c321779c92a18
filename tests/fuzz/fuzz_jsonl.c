/* JSON lines: a line that is read says the same when it is written and read again. */
#include "fs/jsonl.h"
#include "tests/fuzz/fuzz.h"

static bool same(const uint8_t *a, size_t a_length, const uint8_t *b, size_t b_length)
{
    return a_length == b_length && !a == !b && (!a || !a_length || memcmp(a, b, a_length) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    kq_autobuf struct kq_buf scratch = {0}, line = {0}, scratch2 = {0};
    struct kq_record record, again;
    uint8_t *copy = fuzz_copy(bytes, length);
    int r = kq_jsonl_parse(copy, length, 7, &scratch, &record);
    free(copy);
    MUST(r == 0 || r == -EINVAL);
    if (r < 0)
        return 0;
    MUST(kq_jsonl_format(&record, &line) == 0);
    MUST(memchr(line.data, '\n', line.length) == line.data + line.length - 1);
    MUST(kq_jsonl_parse(line.data, line.length, 8, &scratch2, &again) == 0);
    MUST(record.timestamp == again.timestamp);
    MUST(record.header_count == again.header_count);
    MUST(same(record.headers, record.headers_length, again.headers, again.headers_length));
    MUST(record.key_length == again.key_length && record.value_length == again.value_length);
    MUST(record.key_length < 0 ||
         same(record.key, (size_t)record.key_length, again.key, (size_t)again.key_length));
    MUST(record.value_length < 0 ||
         same(record.value, (size_t)record.value_length, again.value, (size_t)again.value_length));
    return 0;
}
