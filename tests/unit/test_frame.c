/* Framing: what is written reads back byte for byte, however it is cut into writes; what is
 * refused leaves nothing; no message that lost a part is ever completed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "broker/base/fault.h"
#include "fs/frame.h"
#include "fs/jsonl.h"
#include "fs/partitioner.h"
#include "tests/unit/chance.h"

#define NOW INT64_C(1700000000000)
#define LIMIT (1 << 24)

/* One open file, and what came of it: "key|value;" for each message. */
struct file {
    struct kq_frame frame;
    struct kq_frame_request request;
    struct kq_rendering rendering;
    struct kq_frame_output output;
    struct kq_frame_result result;
    struct kq_buf text;     /* as kq_text_write renders it */
    struct kq_buf messages; /* for the eye */
    int64_t text_length;    /* as frame.c said */
    int batches;
};

static void file_open(struct file *file, enum kq_framing framing, const char *delimiter,
                      const char *separator)
{
    *file = (struct file){
        .request = {.max_message_bytes = 1 << 20,
                    .timestamp_ms = NOW,
                    .oldest_ms = INT64_MIN,
                    .newest_ms = INT64_MAX},
        .rendering = {.framing = framing,
                      .delimiter_length = (uint8_t)strlen(delimiter),
                      .separator_length = (uint8_t)strlen(separator)},
    };
    file->request.rendering = &file->rendering;
    memcpy(file->rendering.delimiter, delimiter, strlen(delimiter));
    memcpy(file->rendering.separator, separator, strlen(separator));
}

static void file_free(struct file *file)
{
    kq_frame_release(&file->frame);
    kq_frame_output_release(&file->output);
    kq_buf_release(&file->text);
    kq_buf_release(&file->messages);
}

static void file_take_batch(struct file *file, const struct kq_frame_batch *batch)
{
    kq_autobuf struct kq_buf scratch = {0};
    struct kq_batch_header header;
    struct kq_record_reader reader;
    struct kq_record record;
    int32_t records = 0;
    assert_int_equal(kq_batch_header_read(batch->bytes.data, batch->bytes.length, &header), 0);
    assert_int_equal(header.size, batch->bytes.length);
    assert_int_equal(kq_batch_check_records(batch->bytes.data, &header, LIMIT, &scratch), 0);
    assert_int_equal(kq_record_reader_open(&reader, batch->bytes.data, &header, LIMIT, &scratch),
                     0);
    for (; kq_record_next(&reader, &record) == 0; records++) {
        size_t length = (size_t)kq_text_length(&file->rendering, &record);
        assert_int_equal(kq_buf_reserve(&file->text, length + 1), 0);
        uint8_t *end =
            kq_text_write(&file->rendering, &record, file->text.data + file->text.length);
        file->text.length += length;
        assert_ptr_equal(end, file->text.data + file->text.length);
        assert_int_equal(kq_buf_printf(&file->messages, "%.*s%s%.*s;", record.key_length,
                                       record.key ? (const char *)record.key : "",
                                       record.key ? "|" : "", record.value_length,
                                       record.value ? (const char *)record.value : ""),
                         0);
    }
    assert_int_equal(batch->records, records);
    file->text_length += batch->text_length;
    file->batches++;
}

static void file_take_output(struct file *file, int r)
{
    if (r < 0)
        assert_int_equal(file->output.count, 0);
    for (size_t i = 0; i < file->output.count; i++)
        file_take_batch(file, &file->output.batches[i]);
    assert_int_equal(file->result.pending_after, kq_frame_pending(&file->frame));
    assert_int_equal(file->text_length, file->text.length);
}

static int file_write(struct file *file, const void *bytes, size_t length)
{
    int r =
        kq_frame_write(&file->frame, &file->request, bytes, length, &file->output, &file->result);
    file_take_output(file, r);
    return r;
}

static int file_puts(struct file *file, const char *text)
{
    return file_write(file, text, strlen(text));
}

static int file_close(struct file *file)
{
    int r = kq_frame_finish(&file->frame, &file->request, &file->output, &file->result);
    file_take_output(file, r);
    return r;
}

static const char *file_messages(struct file *file)
{
    assert_int_equal(kq_buf_append(&file->messages, "", 1), 0);
    file->messages.length--;
    return (const char *)file->messages.data;
}

static void whole_lines_are_one_batch_and_the_rest_waits(void **state)
{
    struct file file;
    file_open(&file, KQ_FRAMING_LINE, "\n", "");
    assert_int_equal(file_puts(&file, "a\nbb\n\nhalf"), 0);
    assert_int_equal(file.batches, 1);
    assert_string_equal(file_messages(&file), "a;bb;;");
    assert_int_equal(file.result.pending_before, 0);
    assert_int_equal(file.result.pending_after, 4);
    assert_int_equal(file_puts(&file, " line"), 0);
    assert_int_equal(file.batches, 1);
    assert_int_equal(file_puts(&file, "\nc\n"), 0);
    assert_int_equal(file.batches, 2);
    assert_string_equal(file_messages(&file), "a;bb;;half line;c;");
    assert_int_equal(file_puts(&file, "end"), 0);
    assert_int_equal(file_close(&file), 0);
    assert_int_equal(file.result.pending_before, 3);
    assert_string_equal(file_messages(&file), "a;bb;;half line;c;end;");
    assert_int_equal(file_close(&file), 0);
    assert_int_equal(file.batches, 3);
    file_free(&file);
}

static void lines_split_into_key_and_value_at_the_first_separator(void **state)
{
    struct file file;
    file_open(&file, KQ_FRAMING_LINE, "\n", "->");
    assert_int_equal(file_puts(&file, "k->v\nnone\n->v\nk->\na->b->c\n"), 0);
    assert_string_equal(file_messages(&file), "k|v;none;|v;k|;a|b->c;");
    assert_int_equal(file.text.length, 26);
    file_free(&file);
}

static void every_write_is_a_message_unless_it_may_be_cut(void **state)
{
    struct file file;
    file_open(&file, KQ_FRAMING_WRITE, "", "");
    assert_int_equal(file_puts(&file, "one\ntwo"), 0);
    assert_int_equal(file_puts(&file, "three"), 0);
    file.request.may_be_fragment = true;
    assert_int_equal(file_puts(&file, "four"), -EMSGSIZE);
    file.request.may_be_fragment = false;
    assert_int_equal(file_puts(&file, "five"), 0);
    assert_int_equal(file_puts(&file, ""), 0);
    assert_int_equal(file_close(&file), 0);
    assert_string_equal(file_messages(&file), "one\ntwo;three;five;");
    file_free(&file);
}

static void a_file_is_a_message_when_it_is_closed(void **state)
{
    struct file file;
    file_open(&file, KQ_FRAMING_FILE, "\n", "");
    assert_int_equal(file_puts(&file, "one\n"), 0);
    assert_int_equal(file_puts(&file, "two"), 0);
    assert_int_equal(file.result.pending_after, 7);
    assert_int_equal(file_close(&file), 0);
    assert_string_equal(file_messages(&file), "one\ntwo;");
    assert_int_equal(file_close(&file), 0); /* nothing was written: no message */
    assert_int_equal(file.batches, 1);
    file.request.max_message_bytes = 75;
    assert_int_equal(file_puts(&file, "12345678"), -EMSGSIZE);
    assert_int_equal(file_puts(&file, "1"), -EMSGSIZE); /* its beginning is lost */
    assert_int_equal(file_close(&file), 0);
    assert_int_equal(file.batches, 1);
    assert_int_equal(file_puts(&file, "1234567"), 0);
    assert_int_equal(file_close(&file), 0);
    assert_int_equal(file.batches, 2);
    file_free(&file);
}

/* A batch of one message with an 8-byte value is 61 + 8 + 7 bytes long. */
static void a_message_counts_as_a_batch_of_its_own(void **state)
{
    for (int separator = 0; separator < 2; separator++) {
        struct file file;
        file_open(&file, KQ_FRAMING_LINE, "\n", separator ? ":" : "");
        file.request.max_message_bytes = 76;
        assert_int_equal(file_puts(&file, "12345678\n"), 0);
        assert_int_equal(file.output.batches[0].bytes.length, 76);
        assert_int_equal(file_puts(&file, "ok\n123456789\n"), -EMSGSIZE);
        assert_int_equal(file_puts(&file, "12345678"), 0);
        assert_int_equal(file_puts(&file, "9"), -EMSGSIZE);
        assert_int_equal(file_puts(&file, "\nnext\n"), 0);
        assert_string_equal(file_messages(&file), "12345678;next;");
        assert_int_equal(file_puts(&file, "12345678"), 0);
        assert_int_equal(file_close(&file), 0);
        assert_int_equal(file.output.batches[0].bytes.length, 76);
        file_free(&file);
    }
}

/* A line with a key of KEY bytes grows byte by byte to the limit. */
static void grow_to_the_limit(size_t key, size_t length)
{
    static char line[20000];
    struct file file;
    memset(line, 'v', sizeof(line));
    line[key] = ':';
    file_open(&file, KQ_FRAMING_LINE, "\n", ":");
    file.request.max_message_bytes = 61 + 14 + (int64_t)length;
    assert_int_equal(file_write(&file, line, length), 0);
    size_t most = length;
    while (file_puts(&file, "v") == 0)
        most++;
    assert_int_equal(file_puts(&file, "\n"), 0);
    assert_int_equal(file.batches, 0);
    assert_int_equal(file_write(&file, line, most), 0);
    assert_int_equal(file_close(&file), 0);
    assert_in_range(file.output.batches[0].bytes.length, 61 + 12 + length, 61 + 14 + length);
    file_free(&file);
}

/* The close cannot say that a message is too large: what waits must fit, or is refused before. */
static void what_was_accepted_fits_when_it_is_closed(void **state)
{
    for (size_t key = 0; key < 140; key++)
        grow_to_the_limit(key, 150);
    for (size_t key = 8100; key < 8300; key += 7) {
        grow_to_the_limit(key, 8500);
        grow_to_the_limit(key, 18000);
    }
}

static void nothing_fits_where_the_limit_is_below_a_header(void **state)
{
    struct file file;
    file_open(&file, KQ_FRAMING_LINE, "\n", "");
    file.request.max_message_bytes = 0;
    assert_int_equal(file_puts(&file, "\n"), -EMSGSIZE);
    assert_int_equal(file_puts(&file, "a"), -EMSGSIZE);
    assert_int_equal(file_close(&file), 0);
    assert_int_equal(file.batches, 0);
    file_free(&file);
}

static void after_an_error_no_cut_line_is_completed(void **state)
{
    static const struct {
        const char *before, *failing, *after, *messages;
    } cases[] = {
        {"", "a\nb\n", "c\n", "c;"},     /* between two lines: nothing was cut */
        {"", "a\nb", "b\nc\n", "c;"},    /* ends inside a line */
        {"h", "a\nb\n", "c\nd\n", "d;"}, /* began inside one: it may be tried again */
        {"h", "a", "b\nc\n", "c;"},      /* within one */
        {"h", "a\nb", "still\n", ""},    /* the next delimiter ends it */
        {"", "a", "", ""},               /* nothing at the close either */
    };
    for (size_t i = 0; i < kq_array_size(cases); i++) {
        for (int abort = 0; abort < 2; abort++) {
            struct file file;
            file_open(&file, KQ_FRAMING_LINE, "\n", "");
            assert_int_equal(file_puts(&file, cases[i].before), 0);
            if (abort) {
                struct kq_frame_result result;
                assert_int_equal(kq_frame_write(&file.frame, &file.request, cases[i].failing,
                                                strlen(cases[i].failing), &file.output, &result),
                                 0);
                kq_frame_abort(&file.frame, -ENOSPC);
            } else {
                file.request.max_message_bytes = 0;
                assert_int_equal(file_puts(&file, cases[i].failing), -EMSGSIZE);
                file.request.max_message_bytes = 1 << 20;
            }
            assert_int_equal(kq_frame_pending(&file.frame), 0);
            assert_int_equal(file_puts(&file, cases[i].after), 0);
            assert_int_equal(file_close(&file), 0);
            assert_string_equal(file_messages(&file), cases[i].messages);
            file_free(&file);
        }
    }
}

static void what_is_dropped_ends_at_a_delimiter_that_two_writes_share(void **state)
{
    struct file file;
    file_open(&file, KQ_FRAMING_LINE, "<>!", "");
    assert_int_equal(file_puts(&file, "half<"), 0);
    file.request.max_message_bytes = 0;
    assert_int_equal(file_puts(&file, "x"), -EMSGSIZE);
    file.request.max_message_bytes = 1 << 20;
    assert_int_equal(file_puts(&file, "<"), 0);
    assert_int_equal(file_puts(&file, ">"), 0);
    assert_int_equal(file_puts(&file, "!whole<>!"), 0);
    assert_string_equal(file_messages(&file), "whole;");
    /* A delimiter that ended the refused request is used up. */
    assert_int_equal(file_puts(&file, "a<>"), 0);
    file.request.max_message_bytes = 0;
    assert_int_equal(file_puts(&file, "!"), -EMSGSIZE);
    file.request.max_message_bytes = 1 << 20;
    assert_int_equal(file_puts(&file, "!b<>!c<>!"), 0);
    assert_string_equal(file_messages(&file), "whole;c;");
    file_free(&file);
}

static void an_aborted_file_stays_lost(void **state)
{
    struct file file;
    file_open(&file, KQ_FRAMING_FILE, "", "");
    assert_int_equal(file_puts(&file, "begin"), 0);
    kq_frame_abort(&file.frame, -ENOSPC);
    assert_int_equal(file_puts(&file, "end"), -ENOSPC);
    assert_int_equal(file_close(&file), 0);
    assert_int_equal(file.batches, 0);
    assert_int_equal(file_puts(&file, "new"), 0); /* another open */
    assert_int_equal(file_close(&file), 0);
    assert_string_equal(file_messages(&file), "new;");
    file_free(&file);
}

static void a_changed_delimiter_is_looked_for_in_what_waits(void **state)
{
    struct file file;
    file_open(&file, KQ_FRAMING_LINE, "\n", "");
    assert_int_equal(file_puts(&file, "a,b"), 0);
    file.rendering.delimiter[0] = ',';
    assert_int_equal(file_puts(&file, "c,d"), 0);
    assert_string_equal(file_messages(&file), "a;bc;");
    file.rendering.framing = KQ_FRAMING_FILE;
    assert_int_equal(file_puts(&file, ",e"), 0);
    file.rendering.framing = KQ_FRAMING_LINE;
    assert_int_equal(file_close(&file), 0);
    assert_string_equal(file_messages(&file), "a;bc;d;e;");
    assert_int_equal(file_puts(&file, "f"), 0);
    file.rendering.framing = KQ_FRAMING_WRITE;
    assert_int_equal(file_close(&file), 0);
    assert_string_equal(file_messages(&file), "a;bc;d;e;f;");
    file_free(&file);
}

static void messages_with_keys_go_to_their_partitions(void **state)
{
    struct file file;
    file_open(&file, KQ_FRAMING_LINE, "\n", ":");
    file.request.partitions = 7;
    for (int round = 0; round < 3; round++) {
        kq_autobuf struct kq_buf text = {0};
        int32_t total = 0;
        for (int i = 0; i < 200; i++)
            assert_int_equal(kq_buf_printf(&text, i % 5 ? "key%d:%d\n" : "%d%d\n", i, i), 0);
        assert_int_equal(file_write(&file, text.data, text.length), 0);
        assert_int_equal(file.output.count, 8);
        for (size_t b = 0; b < file.output.count; b++) {
            const struct kq_frame_batch *batch = &file.output.batches[b];
            struct kq_batch_header header;
            struct kq_record_reader reader;
            struct kq_record record;
            assert_int_equal(kq_batch_header_read(batch->bytes.data, batch->bytes.length, &header),
                             0);
            kq_record_reader_open(&reader, batch->bytes.data, &header, LIMIT, NULL);
            for (; kq_record_next(&reader, &record) == 0; total++)
                assert_int_equal(batch->partition,
                                 record.key
                                     ? kq_partition_of_key(record.key, (size_t)record.key_length, 7)
                                     : -1);
        }
        assert_int_equal(total, 200);
        kq_frame_output_trim(&file.output, round == 1 ? 0 : 1 << 20);
    }
    file_free(&file);
}

static void json_lines_become_messages_all_or_none(void **state)
{
    struct file file;
    file_open(&file, KQ_FRAMING_WRITE, "\n", ":"); /* a .jsonl is by lines all the same */
    file.request.json = true;
    file.request.may_be_fragment = true;
    assert_int_equal(file_puts(&file, "{\"key\":\"k\",\"value\":\"v\"}\n{\"value\":nu"), 0);
    assert_int_equal(file_puts(&file, "ll}\n"), 0);
    assert_string_equal(file_messages(&file), "k|v;;");
    assert_int_equal(file_puts(&file, "{\"value\":\"good\"}\n{\"value\":bad}\n"), -EINVAL);
    assert_int_equal(file_puts(&file, "{\"value\":\"next\"}"), 0);
    assert_int_equal(file_close(&file), 0);
    assert_string_equal(file_messages(&file), "k|v;;next;");
    assert_int_equal(file_puts(&file, "{\"value\":"), 0);
    assert_int_equal(file_close(&file), -EINVAL);
    assert_int_equal(kq_frame_pending(&file.frame), 0);
    file_free(&file);
}

static void a_time_outside_the_bounds_is_refused(void **state)
{
    struct file file;
    file_open(&file, KQ_FRAMING_LINE, "\n", "");
    file.request.json = true;
    file.request.oldest_ms = 1000;
    file.request.newest_ms = 2000;
    file.request.timestamp_ms = 1500;
    assert_int_equal(file_puts(&file, "{\"value\":\"a\",\"timestamp\":999}\n"), -EINVAL);
    assert_int_equal(file_puts(&file, "{\"value\":\"a\"}\n{\"value\":\"a\",\"timestamp\":2001}\n"),
                     -EINVAL);
    assert_int_equal(file.batches, 0);
    assert_int_equal(file_puts(&file, "{\"value\":\"a\",\"timestamp\":1000}\n"
                                      "{\"value\":\"b\",\"timestamp\":2000}\n"
                                      "{\"value\":\"c\",\"timestamp\":-1}\n"
                                      "{\"value\":\"d\"}\n"),
                     0);
    file.request.attributes = KQ_ATTRIBUTE_LOG_APPEND_TIME; /* which replaces it */
    assert_int_equal(file_puts(&file, "{\"value\":\"e\",\"timestamp\":5}\n"), 0);
    assert_string_equal(file_messages(&file), "a;b;c;d;e;");
    file_free(&file);
}

static void where_a_key_is_needed_a_message_without_one_is_refused(void **state)
{
    struct file file;
    file_open(&file, KQ_FRAMING_LINE, "\n", "");
    file.request.needs_key = true;
    assert_int_equal(file_puts(&file, "a\nb\n"), -EINVAL);
    file_free(&file);
    file_open(&file, KQ_FRAMING_LINE, "\n", ":");
    file.request.needs_key = true;
    assert_int_equal(file_puts(&file, "k:v\nno key\n"), -EINVAL);
    assert_int_equal(file.batches, 0);
    assert_int_equal(file_puts(&file, "k:v\n:empty\nk:\n"), 0);
    assert_string_equal(file_messages(&file), "k|v;|empty;k|;");
    assert_int_equal(file_puts(&file, "half"), 0);
    assert_int_equal(file_close(&file), -EINVAL);
    file_free(&file);
}

static void log_append_time_overrides_what_json_says(void **state)
{
    struct file file;
    struct kq_batch_header header;
    file_open(&file, KQ_FRAMING_LINE, "\n", "");
    file.request.json = true;
    assert_int_equal(file_puts(&file, "{\"timestamp\":5,\"value\":null}\n"), 0);
    kq_batch_header_read(file.output.batches[0].bytes.data, 1000, &header);
    assert_int_equal(header.max_timestamp, 5);
    file.request.attributes = KQ_ATTRIBUTE_LOG_APPEND_TIME;
    assert_int_equal(file_puts(&file, "{\"timestamp\":5,\"value\":null}\n"), 0);
    kq_batch_header_read(file.output.batches[0].bytes.data, 1000, &header);
    assert_int_equal(header.attributes, KQ_ATTRIBUTE_LOG_APPEND_TIME);
    assert_int_equal(header.max_timestamp, NOW);
    file_free(&file);
}

/* Text in which delimiters, their beginnings and separators abound. */
static size_t make_text(uint8_t *text, size_t most)
{
    size_t length = chance(most);
    for (size_t i = 0; i < length; i++)
        text[i] = (uint8_t) "ab\n<>:c"[chance(7)];
    return length;
}

static void text_reads_back_however_it_was_cut(void **state)
{
    static const char *const delimiters[] = {"\n", "<>", "<<>", "abab", "aa", "<><>a"};
    static const char *const separators[] = {"", ":", "::", "ab"};
    uint8_t text[2000];
    for (int round = 0; round < 4000; round++) {
        const char *delimiter = delimiters[round % 6], *separator = separators[chance(4)];
        struct file whole, cut;
        size_t length = make_text(text, sizeof(text)), most = 1 + chance(round % 3 ? 8 : 500);
        file_open(&whole, KQ_FRAMING_LINE, delimiter, separator);
        file_open(&cut, KQ_FRAMING_LINE, delimiter, separator);
        assert_int_equal(file_write(&whole, text, length), 0);
        for (size_t at = 0, piece; at < length; at += piece) {
            piece = 1 + chance(most);
            piece = piece < length - at ? piece : length - at;
            assert_int_equal(file_write(&cut, text + at, piece), 0);
        }
        assert_true(kq_frame_reserve_bytes(kq_frame_pending(&cut.frame)) >=
                    kq_frame_pending(&cut.frame));
        assert_int_equal(file_close(&whole), 0);
        assert_int_equal(file_close(&cut), 0);
        assert_string_equal(file_messages(&whole), file_messages(&cut));
        assert_true(cut.text.length == length || cut.text.length == length + strlen(delimiter));
        assert_int_equal(cut.text.length, whole.text.length);
        if (length)
            assert_memory_equal(cut.text.data, text, length);
        file_free(&whole);
        file_free(&cut);
    }
}

static void what_is_reserved_covers_the_batch_of_what_waits(void **state)
{
    static char value[70000];
    memset(value, 'v', sizeof(value));
    for (size_t length = 1; length < sizeof(value); length = length * 2 + 1) {
        for (int framing = KQ_FRAMING_LINE; framing <= KQ_FRAMING_FILE; framing += 2) {
            struct file file;
            file_open(&file, framing, "\n", "");
            assert_int_equal(file_write(&file, value, length), 0);
            int64_t reserved = kq_frame_reserve_bytes(file.result.pending_after);
            assert_int_equal(file_close(&file), 0);
            assert_true((int64_t)file.output.batches[0].bytes.length <= reserved);
            file_free(&file);
        }
    }
}

/* DELIMITER: of the topic at the close. */
static void close_without_memory(const char *delimiter, const char *expected)
{
    bool failed = true;
    for (long nth = 1; failed; nth++) {
        struct file file;
        struct kq_rendering rendering;
        file_open(&file, KQ_FRAMING_LINE, "\n", ":");
        assert_int_equal(file_puts(&file, "k:ha|lf"), 0);
        rendering = *file.request.rendering;
        memcpy(rendering.delimiter, delimiter, 1);
        file.request.rendering = &rendering;
        kq_fault_arm(KQ_FAULT_MEMORY, nth, ENOMEM, false);
        int r = kq_frame_finish(&file.frame, &file.request, &file.output, &file.result);
        failed = kq_fault_disarm();
        assert_int_equal(r, failed ? -ENOMEM : 0);
        if (failed) {
            assert_int_equal(file.output.count, 0);
            assert_int_equal(file.result.pending_after, 7);
            r = kq_frame_finish(&file.frame, &file.request, &file.output, &file.result);
        }
        file_take_output(&file, r);
        assert_string_equal(file_messages(&file), expected);
        assert_int_equal(kq_frame_pending(&file.frame), 0);
        file_free(&file);
    }
}

static void a_close_without_memory_can_be_tried_again(void **state)
{
    close_without_memory("\n", "k|ha|lf;");
    close_without_memory("|", "k|ha;lf;");
}

static void without_memory_nothing_is_half_taken(void **state)
{
    for (long nth = 1;; nth++) {
        struct file file;
        file_open(&file, KQ_FRAMING_LINE, "\n", ":");
        file.request.partitions = 3;
        int first = file_puts(&file, "half");
        kq_fault_arm(KQ_FAULT_MEMORY, nth, ENOMEM, false);
        int r = kq_frame_write(&file.frame, &file.request, " line\nk:v\nrest", 14, &file.output,
                               &file.result);
        bool failed = kq_fault_disarm();
        assert_int_equal(first, 0);
        assert_int_equal(r, failed ? -ENOMEM : 0);
        if (failed)
            assert_int_equal(file.output.count, 0);
        file_take_output(&file, r);
        assert_int_equal(file_puts(&file, "\nend\n"), 0);
        assert_int_equal(file_close(&file), 0);
        assert_string_equal(file_messages(&file), failed ? "end;" : "half line;k|v;rest;end;");
        file_free(&file);
        if (!failed)
            break;
        assert_true(nth < 100);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole_lines_are_one_batch_and_the_rest_waits),
        cmocka_unit_test(lines_split_into_key_and_value_at_the_first_separator),
        cmocka_unit_test(every_write_is_a_message_unless_it_may_be_cut),
        cmocka_unit_test(a_file_is_a_message_when_it_is_closed),
        cmocka_unit_test(a_message_counts_as_a_batch_of_its_own),
        cmocka_unit_test(what_was_accepted_fits_when_it_is_closed),
        cmocka_unit_test(nothing_fits_where_the_limit_is_below_a_header),
        cmocka_unit_test(after_an_error_no_cut_line_is_completed),
        cmocka_unit_test(what_is_dropped_ends_at_a_delimiter_that_two_writes_share),
        cmocka_unit_test(an_aborted_file_stays_lost),
        cmocka_unit_test(a_changed_delimiter_is_looked_for_in_what_waits),
        cmocka_unit_test(messages_with_keys_go_to_their_partitions),
        cmocka_unit_test(json_lines_become_messages_all_or_none),
        cmocka_unit_test(a_time_outside_the_bounds_is_refused),
        cmocka_unit_test(where_a_key_is_needed_a_message_without_one_is_refused),
        cmocka_unit_test(log_append_time_overrides_what_json_says),
        cmocka_unit_test(text_reads_back_however_it_was_cut),
        cmocka_unit_test(what_is_reserved_covers_the_batch_of_what_waits),
        cmocka_unit_test(a_close_without_memory_can_be_tried_again),
        cmocka_unit_test(without_memory_nothing_is_half_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
