/* Framing: however a text is cut into writes, the same messages come out, and read back as the
 * text; and where writes fail, what comes out are some of these messages, none of them cut.
 *
 * Input: options, lengths of delimiter and separator, these, a byte that seeds the cuts, the text.
 */
#include "broker/batch.h"
#include "fs/frame.h"
#include "tests/fuzz/fuzz.h"

#define LIMIT (1 << 20)

struct setting {
    struct kq_rendering rendering;
    bool json;
    uint32_t seed;
};

/* Messages one behind the other: key length, key, value length, value; and their text. */
struct result {
    struct kq_buf messages, text;
    int64_t text_length;
};

static uint32_t next(uint32_t *seed)
{
    *seed = *seed * 1664525 + 1013904223;
    return *seed >> 8;
}

static void take(struct result *result, const struct setting *setting,
                 const struct kq_frame_output *output)
{
    kq_autobuf struct kq_buf scratch = {0};
    struct kq_batch_header header;
    struct kq_record_reader reader;
    struct kq_record record;
    MUST(output->count <= 1);
    if (output->count == 0)
        return;
    const struct kq_buf *bytes = &output->batches[0].bytes;
    MUST(kq_batch_header_read(bytes->data, bytes->length, &header) == 0);
    MUST(header.size == bytes->length && header.record_count == output->batches[0].records);
    MUST(kq_batch_check_records(bytes->data, &header, LIMIT, &scratch) == 0);
    MUST(kq_record_reader_open(&reader, bytes->data, &header, LIMIT, &scratch) == 0);
    while (kq_record_next(&reader, &record) == 0) {
        size_t length = (size_t)kq_text_length(&setting->rendering, &record);
        MUST(kq_buf_reserve(&result->text, length + 1) == 0);
        MUST(kq_text_write(&setting->rendering, &record, result->text.data + result->text.length) ==
             result->text.data + result->text.length + length);
        result->text.length += length;
        MUST(kq_buf_append(&result->messages, &record.key_length, 4) == 0);
        MUST(record.key_length <= 0 ||
             kq_buf_append(&result->messages, record.key, (size_t)record.key_length) == 0);
        MUST(kq_buf_append(&result->messages, &record.value_length, 4) == 0);
        MUST(record.value_length <= 0 ||
             kq_buf_append(&result->messages, record.value, (size_t)record.value_length) == 0);
    }
    result->text_length += output->batches[0].text_length;
    MUST(result->text_length == (int64_t)result->text.length);
}

/* Writes the text in one piece (MOST 0) or in pieces of at most MOST bytes, one in FAILING of which
 * cannot be kept (0: none). */
static int write_text(const struct setting *setting, const uint8_t *text, size_t length,
                      size_t most, unsigned failing, struct result *ret)
{
    struct kq_frame frame = {0};
    struct kq_frame_output output = {0};
    struct kq_frame_result pending;
    struct kq_frame_request request = {.rendering = &setting->rendering,
                                       .max_message_bytes = LIMIT,
                                       .timestamp_ms = 5,
                                       .newest_ms = INT64_MAX / 2,
                                       .json = setting->json};
    uint32_t seed = setting->seed;
    int r = 0, first = 0;
    for (size_t at = 0, piece; at < length; at += piece) {
        piece = most ? 1 + next(&seed) % most : length;
        piece = piece < length - at ? piece : length - at;
        uint8_t *copy = fuzz_copy(text + at, piece);
        r = kq_frame_write(&frame, &request, copy, piece, &output, &pending);
        free(copy);
        MUST(r == 0 || output.count == 0);
        MUST(r == 0 || r == (setting->json ? -EINVAL : -ENOSPC));
        MUST(r != -ENOSPC || (failing && setting->rendering.framing == KQ_FRAMING_FILE));
        MUST(pending.pending_after == kq_frame_pending(&frame));
        first = first ? first : r;
        if (failing && next(&seed) % failing == 0)
            kq_frame_abort(&frame, -ENOSPC);
        else if (r == 0)
            take(ret, setting, &output);
    }
    r = kq_frame_finish(&frame, &request, &output, &pending);
    MUST(r == 0 || setting->json);
    take(ret, setting, &output);
    MUST(kq_frame_pending(&frame) == 0);
    kq_frame_output_release(&output);
    return first ? first : r;
}

/* The size of the message at the front of a result. */
static size_t message_length(const uint8_t *at)
{
    int32_t key, value;
    memcpy(&key, at, 4);
    key = key > 0 ? key : 0;
    memcpy(&value, at + 4 + key, 4);
    return 8 + (size_t)key + (size_t)(value > 0 ? value : 0);
}

/* Are the messages of SOME messages of ALL, in order? */
static bool is_among(const struct kq_buf *some, const struct kq_buf *all)
{
    size_t at = 0, in = 0, length;
    for (; at < some->length && in < all->length; in += length) {
        length = message_length(all->data + in);
        if (length == message_length(some->data + at) &&
            memcmp(all->data + in, some->data + at, length) == 0)
            at += length;
    }
    return at == some->length;
}

static void release(struct result *result)
{
    kq_buf_release(&result->messages);
    kq_buf_release(&result->text);
}

static void check(const struct setting *setting, const uint8_t *text, size_t length)
{
    struct result whole = {0}, cut = {0}, failed = {0};
    uint8_t mark = setting->rendering.delimiter_length;
    int r = write_text(setting, text, length, 0, 0, &whole);
    write_text(setting, text, length, 1 + setting->seed % 40, 0, &cut);
    if (r == 0) {
        MUST(whole.messages.length == cut.messages.length);
        MUST(!whole.messages.length ||
             memcmp(whole.messages.data, cut.messages.data, cut.messages.length) == 0);
        write_text(setting, text, length, 1 + setting->seed % 40, 2 + setting->seed % 5, &failed);
        MUST(is_among(&failed.messages, &whole.messages));
    }
    if (!setting->json) {
        MUST(whole.text.length == length || whole.text.length == length + mark);
        MUST(!length || memcmp(whole.text.data, text, length) == 0);
    }
    release(&whole);
    release(&cut);
    release(&failed);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct fuzz_input input = {bytes, bytes + length};
    uint8_t options = fuzz_byte(&input), lengths = fuzz_byte(&input);
    struct setting setting = {
        .rendering = {.framing = options & 2 ? KQ_FRAMING_FILE : KQ_FRAMING_LINE,
                      .delimiter_length = 1 + (lengths & 3),
                      .separator_length = lengths >> 2 & 3},
        .json = options & 1,
    };
    for (int i = 0; i < setting.rendering.delimiter_length; i++)
        setting.rendering.delimiter[i] = fuzz_byte(&input);
    for (int i = 0; i < setting.rendering.separator_length; i++)
        setting.rendering.separator[i] = fuzz_byte(&input);
    setting.seed = fuzz_byte(&input);
    setting.seed |= (uint32_t)fuzz_byte(&input) << 8;
    if (input.end - input.at < LIMIT / 2)
        check(&setting, input.at, (size_t)(input.end - input.at));
    return 0;
}
