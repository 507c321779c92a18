/* The server's side of SCRAM: two tokens come, two go.
 *
 *     C: n,,n=user,r=NONCE
 *     S: r=NONCEMORE,s=SALT,i=4096
 *     C: c=biws,r=NONCEMORE,p=PROOF
 *     S: v=SIGNATURE
 */
#include "auth/scram.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <string.h>

#include "auth/scramkeys.h"
#include "broker/base/mem.h"

#define NONCE_RANDOM 24 /* bytes of ours, a multiple of 3 */
#define NONCE_CHARACTERS (NONCE_RANDOM / 3 * 4)
#define WRONG "Authentication failed: Invalid user credentials"
#define MALFORMED "Authentication failed: Invalid SCRAM message"

enum state {
    FIRST,
    FINAL,
    ENDED,
};

struct kq_sasl_exchange {
    const struct kq_scram_users *users;
    enum kq_scram_hash hash;
    enum state state;
    bool fake;
    struct kq_scram_credential credential;
    struct kq_buf header;  /* of the client's first message: n,a=…, */
    struct kq_buf message; /* the first two messages of AuthMessage, a comma behind each */
    struct kq_buf nonce;
    char name[KQ_USER_NAME_BYTES + 1];
};

/* --- What a message is made of --- */

/* What is left of a token. */
struct rest {
    const char *at, *end;
};

/* The value of the next attribute, which is to be LETTER=value, up to a comma or the end. */
static bool take(struct rest *rest, char letter, const char **ret, size_t *ret_length)
{
    if (rest->end - rest->at < 2 || rest->at[0] != letter || rest->at[1] != '=')
        return false;
    const char *from = rest->at + 2;
    const char *comma = memchr(from, ',', (size_t)(rest->end - from));
    *ret = from;
    *ret_length = (size_t)((comma ? comma : rest->end) - from);
    rest->at = comma ? comma + 1 : rest->end;
    return true;
}

/* saslname: a comma stands as =2C, `=` as =3D. */
static bool decode_name(const char *from, size_t length, char ret[KQ_USER_NAME_BYTES + 1])
{
    size_t at = 0;
    for (size_t i = 0; i < length; i++) {
        char c = from[i];
        if (c == '=') {
            bool comma = length - i > 2 && memcmp(from + i, "=2C", 3) == 0;
            if (!comma && (length - i < 3 || memcmp(from + i, "=3D", 3) != 0))
                return false;
            c = comma ? ',' : '=';
            i += 2;
        }
        if (c == '\0' || at == KQ_USER_NAME_BYTES)
            return false;
        ret[at++] = c;
    }
    ret[at] = '\0';
    return at > 0;
}

static bool is_printable(const char *from, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (from[i] < '!' || from[i] > '~')
            return false;
    return length > 0;
}

static int append_base64(struct kq_buf *buf, const uint8_t *bytes, size_t length)
{
    char text[4 * ((KQ_SCRAM_SALT_BYTES + 2) / 3) + 1];
    EVP_EncodeBlock((unsigned char *)text, bytes, (int)length);
    return kq_buf_append_string(buf, text);
}

/* Base64 of exactly LENGTH bytes (at most KQ_SCRAM_KEY_BYTES), in the one way to write them. */
static bool read_base64(const char *text, size_t text_length, uint8_t *ret, size_t length)
{
    uint8_t bytes[KQ_SCRAM_KEY_BYTES + 3];
    char again[4 * ((KQ_SCRAM_KEY_BYTES + 2) / 3) + 1];
    if (text_length != (length + 2) / 3 * 4 ||
        EVP_DecodeBlock(bytes, (const unsigned char *)text, (int)text_length) < (int)length)
        return false;
    EVP_EncodeBlock((unsigned char *)again, bytes, (int)length);
    if (memcmp(again, text, text_length) != 0)
        return false;
    memcpy(ret, bytes, length);
    return true;
}

/* --- The client's first message --- */

static int fail(struct kq_sasl_outcome *ret, const char *complaint, const char *reason)
{
    ret->result = KQ_SASL_FAILED;
    ret->complaint = complaint;
    ret->reason = reason;
    return 0;
}

/* gs2-header: what the client thinks of channel binding, and whom it wants to be. */
static const char *read_header(struct rest *rest, char authzid[KQ_USER_NAME_BYTES + 1])
{
    const char *value;
    size_t length;
    if (rest->end - rest->at < 3)
        return "not a SCRAM message";
    if (rest->at[0] == 'p')
        return "channel binding is asked for, which there is not";
    if ((rest->at[0] != 'n' && rest->at[0] != 'y') || rest->at[1] != ',')
        return "not a SCRAM message";
    rest->at += 2;
    authzid[0] = '\0';
    if (*rest->at == ',')
        rest->at++;
    else if (!take(rest, 'a', &value, &length) || !decode_name(value, length, authzid))
        return "a malformed authorization id";
    return NULL;
}

/* What is wrong with the TOKEN, or NULL. */
static const char *read_first(struct kq_sasl_exchange *exchange, const char *token, size_t length,
                              const char **ret_bare, const char **ret_nonce,
                              size_t *ret_nonce_length)
{
    struct rest rest = {token, token + length};
    char authzid[KQ_USER_NAME_BYTES + 1];
    const char *name;
    size_t name_length;
    const char *wrong = read_header(&rest, authzid);
    if (wrong)
        return wrong;
    *ret_bare = rest.at;
    if (rest.end - rest.at >= 2 && rest.at[0] == 'm' && rest.at[1] == '=')
        return "a mandatory extension, of which there is none";
    if (!take(&rest, 'n', &name, &name_length) || !decode_name(name, name_length, exchange->name))
        return "a malformed name";
    if (!take(&rest, 'r', ret_nonce, ret_nonce_length) ||
        !is_printable(*ret_nonce, *ret_nonce_length))
        return "a malformed nonce";
    if (authzid[0] && strcmp(authzid, exchange->name) != 0)
        return "an authorization id that is not the name";
    return NULL;
}

static int make_nonce(struct kq_sasl_exchange *exchange, const char *client, size_t length)
{
    uint8_t random[NONCE_RANDOM];
    if (RAND_bytes(random, sizeof(random)) != 1)
        return -EIO;
    int r = kq_buf_append(&exchange->nonce, client, length);
    return r < 0 ? r : append_base64(&exchange->nonce, random, sizeof(random));
}

static int write_first(struct kq_sasl_exchange *exchange, struct kq_buf *ret)
{
    const struct kq_scram_credential *credential = &exchange->credential;
    int r = kq_buf_append_string(ret, "r=");
    if (r == 0)
        r = kq_buf_append(ret, exchange->nonce.data, exchange->nonce.length);
    if (r == 0)
        r = kq_buf_append_string(ret, ",s=");
    if (r == 0)
        r = append_base64(ret, credential->salt, credential->salt_length);
    return r < 0 ? r : kq_buf_printf(ret, ",i=%d", (int)credential->iterations);
}

/* Keeps AuthMessage so far: the client's bare message and the TOKEN of ours. */
static int keep(struct kq_sasl_exchange *exchange, const char *bare, const char *end,
                const uint8_t *token, size_t length)
{
    struct kq_buf *message = &exchange->message;
    int r = kq_buf_append(message, bare, (size_t)(end - bare));
    if (r == 0)
        r = kq_buf_append_string(message, ",");
    if (r == 0)
        r = kq_buf_append(message, token, length);
    return r < 0 ? r : kq_buf_append_string(message, ",");
}

static int step_first(struct kq_sasl_exchange *exchange, const char *token, size_t length,
                      struct kq_buf *ret_token, struct kq_sasl_outcome *ret)
{
    const char *bare, *nonce;
    size_t nonce_length, before = ret_token->length;
    const char *wrong = read_first(exchange, token, length, &bare, &nonce, &nonce_length);
    if (wrong)
        return fail(ret, MALFORMED, wrong);
    int r = kq_scram_find(exchange->users, exchange->name, exchange->hash, &exchange->credential,
                          &exchange->fake);
    if (r == 0)
        r = kq_buf_append(&exchange->header, token, (size_t)(bare - token));
    if (r == 0)
        r = make_nonce(exchange, nonce, nonce_length);
    if (r == 0)
        r = write_first(exchange, ret_token);
    if (r == 0)
        r = keep(exchange, bare, token + length, ret_token->data + before,
                 ret_token->length - before);
    if (r < 0)
        return r;
    exchange->state = FINAL;
    ret->result = KQ_SASL_MORE;
    return 0;
}

/* --- The client's final message --- */

/* c= has to be the header of the first message, so that nobody can have changed it on the way. */
static bool is_header(const struct kq_sasl_exchange *exchange, const char *text, size_t length)
{
    kq_autofree char *wanted = kq_alloc(4 * ((exchange->header.length + 2) / 3) + 1);
    if (!wanted)
        return false;
    EVP_EncodeBlock((unsigned char *)wanted, exchange->header.data, (int)exchange->header.length);
    return strlen(wanted) == length && memcmp(wanted, text, length) == 0;
}

/* r= has to be the nonce of our message. librdkafka before 2.6.1 puts its own part in front of it
 * once more, which Kafka's brokers take as well. */
static bool is_nonce(const struct kq_sasl_exchange *exchange, const char *text, size_t length)
{
    const struct kq_buf *nonce = &exchange->nonce;
    size_t client = nonce->length - NONCE_CHARACTERS;
    if (length == nonce->length + client && memcmp(text, nonce->data, client) == 0) {
        text += client;
        length -= client;
    }
    return length == nonce->length && CRYPTO_memcmp(text, nonce->data, length) == 0;
}

/* What is wrong with the TOKEN, or NULL and where the comma before its proof is. */
static const char *read_final(const struct kq_sasl_exchange *exchange, const char *token,
                              size_t length, uint8_t proof[KQ_SCRAM_KEY_BYTES],
                              const char **ret_proof_at)
{
    struct rest rest = {token, token + length};
    const char *value;
    size_t value_length;
    if (!take(&rest, 'c', &value, &value_length) || !is_header(exchange, value, value_length))
        return "another channel binding than at first";
    if (!take(&rest, 'r', &value, &value_length) || !is_nonce(exchange, value, value_length))
        return "another nonce";
    /* Extensions may stand before the proof, which is the last. */
    const char *at = memrchr(rest.at, ',', (size_t)(rest.end - rest.at));
    rest.at = at ? at + 1 : rest.at;
    *ret_proof_at = rest.at - 1;
    if (!take(&rest, 'p', &value, &value_length) ||
        !read_base64(value, value_length, proof, kq_scram_key_bytes(exchange->hash)))
        return "a malformed proof";
    return NULL;
}

/* ClientKey = ClientProof XOR HMAC(StoredKey, AuthMessage), and H(ClientKey) is StoredKey. */
static int check_proof(struct kq_sasl_exchange *exchange, uint8_t proof[KQ_SCRAM_KEY_BYTES],
                       bool *ret)
{
    uint8_t signature[KQ_SCRAM_KEY_BYTES], key[KQ_SCRAM_KEY_BYTES];
    size_t bytes = kq_scram_key_bytes(exchange->hash);
    const struct kq_scram_credential *credential = &exchange->credential;
    int r = kq_scram_hmac(exchange->hash, credential->stored_key, bytes, exchange->message.data,
                          exchange->message.length, signature);
    for (size_t i = 0; i < bytes; i++)
        proof[i] ^= signature[i];
    if (r == 0)
        r = kq_scram_digest(exchange->hash, proof, bytes, key);
    if (r == 0)
        *ret = CRYPTO_memcmp(key, credential->stored_key, bytes) == 0 && !exchange->fake;
    OPENSSL_cleanse(signature, sizeof(signature));
    return r;
}

static int write_final(struct kq_sasl_exchange *exchange, struct kq_buf *ret)
{
    uint8_t signature[KQ_SCRAM_KEY_BYTES];
    size_t bytes = kq_scram_key_bytes(exchange->hash);
    int r = kq_scram_hmac(exchange->hash, exchange->credential.server_key, bytes,
                          exchange->message.data, exchange->message.length, signature);
    if (r == 0)
        r = kq_buf_append_string(ret, "v=");
    return r < 0 ? r : append_base64(ret, signature, bytes);
}

static int step_final(struct kq_sasl_exchange *exchange, const char *token, size_t length,
                      struct kq_buf *ret_token, struct kq_sasl_outcome *ret)
{
    uint8_t proof[KQ_SCRAM_KEY_BYTES];
    const char *proof_at;
    bool good = false;
    exchange->state = ENDED;
    const char *wrong = read_final(exchange, token, length, proof, &proof_at);
    if (wrong)
        return fail(ret, WRONG, wrong);
    int r = kq_buf_append(&exchange->message, token, (size_t)(proof_at - token));
    if (r == 0)
        r = check_proof(exchange, proof, &good);
    OPENSSL_cleanse(proof, sizeof(proof));
    if (r == 0 && !good)
        return fail(ret, WRONG, exchange->fake ? "no such user" : "a wrong password");
    if (r == 0)
        r = write_final(exchange, ret_token);
    ret->result = KQ_SASL_DONE;
    return r;
}

/* --- The mechanism --- */

static int begin(void *context, enum kq_scram_hash hash, struct kq_sasl_exchange **ret)
{
    struct kq_sasl_exchange *exchange = kq_zalloc(sizeof(*exchange));
    if (!exchange)
        return -ENOMEM;
    exchange->users = context;
    exchange->hash = hash;
    *ret = exchange;
    return 0;
}

static int begin_sha_256(void *context, struct kq_sasl_exchange **ret)
{
    return begin(context, KQ_SCRAM_SHA_256, ret);
}

static int begin_sha_512(void *context, struct kq_sasl_exchange **ret)
{
    return begin(context, KQ_SCRAM_SHA_512, ret);
}

static int step(struct kq_sasl_exchange *exchange, const uint8_t *token, size_t length,
                struct kq_buf *ret_token, struct kq_sasl_outcome *ret)
{
    const char *text = length ? (const char *)token : "";
    *ret = (struct kq_sasl_outcome){0};
    int r = length > KQ_SCRAM_TOKEN_BYTES ? fail(ret, MALFORMED, "a token that is too long")
            : exchange->state == FIRST    ? step_first(exchange, text, length, ret_token, ret)
            : exchange->state == FINAL    ? step_final(exchange, text, length, ret_token, ret)
                                          : fail(ret, MALFORMED, "a token behind the last");
    if (ret->result == KQ_SASL_FAILED)
        exchange->state = ENDED;
    ret->name = exchange->name[0] ? exchange->name : NULL;
    return r;
}

static void end(struct kq_sasl_exchange *exchange)
{
    if (!exchange)
        return;
    kq_buf_release(&exchange->header);
    kq_buf_release(&exchange->message);
    kq_buf_release(&exchange->nonce);
    OPENSSL_cleanse(exchange, sizeof(*exchange));
    free(exchange);
}

const struct kq_sasl_class kq_scram_sha_256 = {"SCRAM-SHA-256", false, begin_sha_256, step, end};
const struct kq_sasl_class kq_scram_sha_512 = {"SCRAM-SHA-512", false, begin_sha_512, step, end};
