#include "fs/jsonl.h"

#include <jansson.h>
#include <string.h>

#include "fs/base64.h"
#include "fs/utf8.h"

#define DEEPEST 3       /* the line, its list of headers, a header */
#define NUMBER_BYTES 20 /* -9223372036854775808 */
#define MAX_LINE INT32_MAX

/* --- Writing --- */

static int put(struct kq_buf *out, const char *text)
{
    return kq_buf_append_string(out, text);
}

static int put_number(struct kq_buf *out, int64_t number)
{
    char digits[NUMBER_BYTES], *at = digits + sizeof(digits);
    uint64_t left = number < 0 ? -(uint64_t)number : (uint64_t)number;
    do
        *--at = (char)('0' + left % 10);
    while (left /= 10);
    if (number < 0)
        *--at = '-';
    return kq_buf_append(out, at, (size_t)(digits + sizeof(digits) - at));
}

/* Writes BYTES as the inside of a JSON string; there is room. */
static uint8_t *escape(uint8_t *to, const uint8_t *bytes, size_t length)
{
    static const char shorts[32] = {
        ['\b'] = 'b', ['\t'] = 't', ['\n'] = 'n', ['\f'] = 'f', ['\r'] = 'r'};
    for (const uint8_t *end = bytes + length; bytes < end; bytes++) {
        uint8_t byte = *bytes;
        if (byte >= 0x20 && byte != '"' && byte != '\\') {
            *to++ = byte;
            continue;
        }
        *to++ = '\\';
        if (byte >= 0x20) {
            *to++ = byte;
        } else if (shorts[byte]) {
            *to++ = (uint8_t)shorts[byte];
        } else {
            to = mempcpy(to, "u00", 3);
            *to++ = (uint8_t)('0' + (byte >> 4));
            *to++ = (uint8_t) "0123456789abcdef"[byte & 15];
        }
    }
    return to;
}

static int put_string(struct kq_buf *out, const uint8_t *bytes, size_t length, size_t escaped)
{
    int r = kq_buf_reserve(out, escaped + 2);
    if (r < 0)
        return r;
    uint8_t *at = out->data + out->length;
    *at++ = '"';
    if (escaped == length)
        at = length ? mempcpy(at, bytes, length) : at;
    else
        at = escape(at, bytes, length);
    *at++ = '"';
    out->length = (size_t)(at - out->data);
    return 0;
}

static int put_base64(struct kq_buf *out, const uint8_t *bytes, size_t length)
{
    int r = kq_buf_reserve(out, kq_base64_length(length) + 2);
    if (r < 0)
        return r;
    out->data[out->length++] = '"';
    kq_base64_encode(bytes, length, out->data + out->length);
    out->length += kq_base64_length(length);
    out->data[out->length++] = '"';
    return 0;
}

/* "NAME":"text", "NAME":null or "NAME_base64":"…", whichever says what BYTES are. */
static int put_member(struct kq_buf *out, const char *name, const uint8_t *bytes, int32_t length)
{
    size_t escaped = 0;
    bool text = length < 0 || kq_utf8_json_length(bytes, (size_t)length, &escaped);
    int r = put(out, "\"");
    if (r == 0)
        r = put(out, name);
    if (r == 0)
        r = put(out, text ? "\":" : "_base64\":");
    if (r < 0)
        return r;
    if (length < 0)
        return put(out, "null");
    return text ? put_string(out, bytes, (size_t)length, escaped)
                : put_base64(out, bytes, (size_t)length);
}

static int put_headers(struct kq_buf *out, const struct kq_record *record)
{
    const uint8_t *at = record->headers;
    struct kq_header header;
    int32_t count = 0;
    int r = put(out, "\"headers\":[");
    while (r == 0 && (r = kq_header_next(record, &at, &header)) == 0) {
        r = put(out, count++ ? ",{" : "{");
        if (r == 0)
            r = put_member(out, "name", header.name, header.name_length);
        if (r == 0)
            r = put(out, ",");
        if (r == 0)
            r = put_member(out, "value", header.value, header.value_length);
        if (r == 0)
            r = put(out, "}");
    }
    if (r != KQ_END)
        return r;
    return count == record->header_count ? put(out, "],") : -EBADMSG;
}

static int put_line(struct kq_buf *out, const struct kq_record *record)
{
    int r = put(out, "{\"offset\":");
    if (r == 0)
        r = put_number(out, record->offset);
    if (r == 0)
        r = put(out, ",\"timestamp\":");
    if (r == 0)
        r = put_number(out, record->timestamp);
    if (r == 0)
        r = put(out, ",");
    if (r == 0)
        r = put_member(out, "key", record->key, record->key_length);
    if (r == 0)
        r = put(out, ",");
    if (r == 0)
        r = put_headers(out, record);
    if (r == 0)
        r = put_member(out, "value", record->value, record->value_length);
    return r == 0 ? put(out, "}\n") : r;
}

int kq_jsonl_format(const struct kq_record *record, struct kq_buf *out)
{
    size_t before = out->length;
    int r = put_line(out, record);
    if (r < 0)
        out->length = before;
    return r;
}

/* --- Reading --- */

enum seen {
    SEEN_KEY = 1,
    SEEN_VALUE = 2,
    SEEN_NAME = 4,
};

/* Bytes that a member says, in the scratch buffer. */
struct piece {
    size_t at;
    int32_t length; /* -1: null */
};

struct line {
    struct kq_buf *scratch;
    unsigned seen;
    struct piece key, value, headers;
    int32_t header_count;
    int64_t timestamp;
};

/* The library would follow brackets 2,048 deep, on stacks that may be small. */
static bool is_shallow(const uint8_t *at, size_t length)
{
    bool inside = false;
    int depth = 0;
    for (const uint8_t *end = at + length; at < end; at++) {
        if (inside) {
            if (*at == '\\')
                at++;
            else if (*at == '"')
                inside = false;
        } else if (*at == '"') {
            inside = true;
        } else if (*at == '{' || *at == '[') {
            if (++depth > DEEPEST)
                return false;
        } else if (*at == '}' || *at == ']') {
            depth--;
        }
    }
    return true;
}

/* How many bytes MEMBER says: -1 for null. */
static int measure(const json_t *member, bool base64, int32_t *ret)
{
    if (json_is_null(member) && !base64) {
        *ret = -1;
        return 0;
    }
    if (!json_is_string(member))
        return -EINVAL;
    if (base64)
        return kq_base64_measure(json_string_value(member), json_string_length(member), ret);
    *ret = (int32_t)json_string_length(member);
    return 0;
}

/* Appends them, LENGTH as measured. */
static int append(struct kq_buf *scratch, const json_t *member, bool base64, int32_t length)
{
    if (length <= 0)
        return 0;
    if (!base64)
        return kq_buf_append(scratch, json_string_value(member), (size_t)length);
    int r = kq_buf_reserve(scratch, (size_t)length);
    if (r == 0)
        r = kq_base64_decode(json_string_value(member), json_string_length(member),
                             scratch->data + scratch->length);
    if (r == 0)
        scratch->length += (size_t)length;
    return r;
}

static int read_piece(struct line *line, const json_t *member, bool base64, unsigned seen,
                      struct piece *ret)
{
    if (line->seen & seen)
        return -EINVAL;
    line->seen |= seen;
    ret->at = line->scratch->length;
    int r = measure(member, base64, &ret->length);
    return r < 0 ? r : append(line->scratch, member, base64, ret->length);
}

static int append_with_length(struct kq_buf *scratch, const json_t *member, bool base64)
{
    uint8_t varint[10];
    int32_t length;
    int r = measure(member, base64, &length);
    if (r == 0)
        r = kq_buf_append(scratch, varint, kq_varint_write(varint, length));
    return r < 0 ? r : append(scratch, member, base64, length);
}

/* One of {"name":…, "value":…}, in either form each. */
static int read_header(struct kq_buf *scratch, const json_t *header)
{
    const json_t *name = json_object_get(header, "name"), *value = json_object_get(header, "value");
    const json_t *name64 = json_object_get(header, "name_base64");
    const json_t *value64 = json_object_get(header, "value_base64");
    if (!json_is_object(header) || json_object_size(header) != 2 || !name == !name64 ||
        !value == !value64 || json_is_null(name))
        return -EINVAL;
    int r = append_with_length(scratch, name ? name : name64, !name);
    return r < 0 ? r : append_with_length(scratch, value ? value : value64, !value);
}

static int read_headers(struct line *line, const json_t *list)
{
    if (!json_is_array(list))
        return -EINVAL;
    line->headers.at = line->scratch->length;
    line->header_count = (int32_t)json_array_size(list);
    for (size_t i = 0; i < json_array_size(list); i++) {
        int r = read_header(line->scratch, json_array_get(list, i));
        if (r < 0)
            return r;
    }
    line->headers.length = (int32_t)(line->scratch->length - line->headers.at);
    return 0;
}

static int read_member(struct line *line, const char *name, const json_t *member)
{
    if (strcmp(name, "value") == 0)
        return read_piece(line, member, false, SEEN_VALUE, &line->value);
    if (strcmp(name, "value_base64") == 0)
        return read_piece(line, member, true, SEEN_VALUE, &line->value);
    if (strcmp(name, "key") == 0)
        return read_piece(line, member, false, SEEN_KEY, &line->key);
    if (strcmp(name, "key_base64") == 0)
        return read_piece(line, member, true, SEEN_KEY, &line->key);
    if (strcmp(name, "headers") == 0)
        return read_headers(line, member);
    if (strcmp(name, "offset") == 0)
        return json_is_integer(member) && json_integer_value(member) >= 0 ? 0 : -EINVAL;
    if (strcmp(name, "timestamp") != 0 || !json_is_integer(member) ||
        json_integer_value(member) < -1)
        return -EINVAL;
    line->timestamp = json_integer_value(member);
    return 0;
}

static int read_line(struct line *line, json_t *object)
{
    const char *name;
    json_t *member;
    if (!json_is_object(object))
        return -EINVAL;
    json_object_foreach(object, name, member)
    {
        int r = read_member(line, name, member);
        if (r < 0)
            return r;
    }
    return line->seen & SEEN_VALUE ? 0 : -EINVAL;
}

/* The scratch buffer does not move any more. */
static const uint8_t *place(const struct line *line, struct piece piece)
{
    return piece.length < 0 ? NULL : line->scratch->data + piece.at;
}

int kq_jsonl_parse(const void *bytes, size_t length, int64_t default_timestamp,
                   struct kq_buf *scratch, struct kq_record *ret)
{
    struct line line = {.scratch = scratch, .key.length = -1, .timestamp = default_timestamp};
    json_error_t error;
    scratch->length = 0;
    if (length > MAX_LINE || !is_shallow(bytes, length))
        return -EINVAL;
    int r = kq_buf_reserve(scratch, 1); /* what is empty points there too, since NULL is null */
    if (r < 0)
        return r;
    json_t *object = json_loadb(bytes, length, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (!object)
        return json_error_code(&error) == json_error_out_of_memory ? -ENOMEM : -EINVAL;
    r = read_line(&line, object);
    json_decref(object);
    if (r < 0)
        return r;
    *ret = (struct kq_record){
        .timestamp = line.timestamp,
        .key = place(&line, line.key),
        .key_length = line.key.length,
        .value = place(&line, line.value),
        .value_length = line.value.length,
        .headers = place(&line, line.headers),
        .headers_length = (size_t)line.headers.length,
        .header_count = line.header_count,
    };
    return 0;
}
