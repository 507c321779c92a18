/* Credentials as lines of text: in the file of the users, and as `kqfs passwd` hands them over. */
#include <stdlib.h>
#include <string.h>

#include "broker/userstore.h"

static const char digits[] = "0123456789abcdef";

int kq_hex_append(struct kq_buf *buf, const uint8_t *bytes, size_t length)
{
    int r = kq_buf_reserve(buf, 2 * length);
    for (size_t i = 0; i < length && r == 0; i++) {
        const char pair[2] = {digits[bytes[i] >> 4], digits[bytes[i] & 15]};
        r = kq_buf_append(buf, pair, 2);
    }
    return r;
}

static int digit(char c)
{
    const char *at = c ? strchr(digits, c) : NULL;
    return at ? (int)(at - digits) : -1;
}

bool kq_hex_read(const char *text, size_t length, uint8_t *ret)
{
    for (size_t i = 0; i < length; i++) {
        int high = digit(text[2 * i]), low = digit(text[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        ret[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

bool kq_credential_valid(const struct kq_scram_credential *credential)
{
    return credential->iterations >= KQ_SCRAM_ITERATIONS_LEAST &&
           credential->iterations <= KQ_SCRAM_ITERATIONS_MOST && credential->salt_length > 0 &&
           credential->salt_length <= KQ_SCRAM_SALT_BYTES;
}

int kq_credential_format(enum kq_scram_hash hash, const struct kq_scram_credential *credential,
                         struct kq_buf *ret)
{
    size_t key = kq_scram_key_bytes(hash);
    int r = kq_buf_printf(ret, "%s iterations=%d salt=", kq_scram_name(hash),
                          (int)credential->iterations);
    if (r == 0)
        r = kq_hex_append(ret, credential->salt, credential->salt_length);
    if (r == 0)
        r = kq_buf_append_string(ret, " stored-key=");
    if (r == 0)
        r = kq_hex_append(ret, credential->stored_key, key);
    if (r == 0)
        r = kq_buf_append_string(ret, " server-key=");
    if (r == 0)
        r = kq_hex_append(ret, credential->server_key, key);
    return r < 0 ? r : kq_buf_append_string(ret, "\n");
}

/* What is left of a line. */
struct rest {
    const char *at, *end;
};

static bool skip(struct rest *rest, const char *text)
{
    size_t length = strlen(text);
    if ((size_t)(rest->end - rest->at) < length || memcmp(rest->at, text, length) != 0)
        return false;
    rest->at += length;
    return true;
}

static bool read_number(struct rest *rest, int32_t *ret)
{
    int32_t number = 0;
    const char *from = rest->at;
    for (; rest->at < rest->end && *rest->at >= '0' && *rest->at <= '9'; rest->at++) {
        if (number > KQ_SCRAM_ITERATIONS_MOST)
            return false;
        number = number * 10 + (*rest->at - '0');
    }
    *ret = number;
    return rest->at > from;
}

/* Hex digits up to a blank or the end: at most MOST bytes. */
static bool read_bytes(struct rest *rest, size_t most, uint8_t *ret, size_t *ret_length)
{
    const char *blank = memchr(rest->at, ' ', (size_t)(rest->end - rest->at));
    size_t length = (size_t)((blank ? blank : rest->end) - rest->at);
    if (length % 2 || length / 2 > most || !kq_hex_read(rest->at, length / 2, ret))
        return false;
    rest->at += length;
    *ret_length = length / 2;
    return true;
}

static bool read_hash(struct rest *rest, enum kq_scram_hash *ret)
{
    for (int hash = 0; hash < KQ_SCRAM_HASHES; hash++) {
        if (!skip(rest, kq_scram_name((enum kq_scram_hash)hash)))
            continue;
        *ret = (enum kq_scram_hash)hash;
        return true;
    }
    return false;
}

int kq_credential_parse(const char *line, size_t length, enum kq_scram_hash *ret_hash,
                        struct kq_scram_credential *ret)
{
    struct rest rest = {line, line + length};
    enum kq_scram_hash hash = KQ_SCRAM_SHA_256;
    size_t salt = 0, stored = 0, server = 0;
    *ret = (struct kq_scram_credential){0};
    bool whole =
        read_hash(&rest, &hash) && skip(&rest, " iterations=") &&
        read_number(&rest, &ret->iterations) && skip(&rest, " salt=") &&
        read_bytes(&rest, sizeof(ret->salt), ret->salt, &salt) && skip(&rest, " stored-key=") &&
        read_bytes(&rest, sizeof(ret->stored_key), ret->stored_key, &stored) &&
        skip(&rest, " server-key=") &&
        read_bytes(&rest, sizeof(ret->server_key), ret->server_key, &server) && rest.at == rest.end;
    ret->salt_length = (uint32_t)salt;
    size_t key = kq_scram_key_bytes(hash);
    if (!whole || stored != key || server != key || !kq_credential_valid(ret))
        return -EINVAL;
    *ret_hash = hash;
    return 0;
}
