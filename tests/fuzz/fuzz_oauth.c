/* The first message of OAUTHBEARER and what comes behind it. 0xff stands for a token that is right;
 * who has none does not get in, nor who wants to be somebody else.
 *
 * The input is tokens: two bytes of a length, and as many bytes. */
#include <openssl/evp.h>
#include <stdbool.h>
#include <unistd.h>

#include "auth/oauthbearer.h"
#include "broker/base/diag.h"
#include "broker/base/mem.h"
#include "tests/fuzz/fuzz.h"

#define CLAIMS "{\"sub\":\"alice\",\"exp\":4102444800,\"iat\":1}"

static struct kq_oauth *oauth;
static char good[1024]; /* the token */

static size_t encode(const void *bytes, size_t length, char *ret)
{
    size_t done = (size_t)EVP_EncodeBlock((unsigned char *)ret, bytes, (int)length);
    while (done && ret[done - 1] == '=')
        ret[--done] = '\0';
    for (size_t i = 0; i < done; i++)
        ret[i] = (char)(ret[i] == '+' ? '-' : ret[i] == '/' ? '_' : ret[i]);
    return done;
}

static void sign(EVP_PKEY *key)
{
    static const char header[] = "{\"alg\":\"EdDSA\",\"kid\":\"e\"}";
    uint8_t signature[64];
    size_t bytes = sizeof(signature), length = encode(header, sizeof(header) - 1, good);
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    good[length++] = '.';
    length += encode(CLAIMS, sizeof(CLAIMS) - 1, good + length);
    MUST(EVP_DigestSignInit(context, NULL, NULL, NULL, key) == 1);
    MUST(EVP_DigestSign(context, signature, &bytes, (uint8_t *)good, length) == 1);
    good[length++] = '.';
    encode(signature, bytes, good + length);
    EVP_MD_CTX_free(context);
}

static void make_keys(int fd)
{
    uint8_t secret[32] = {1}, public[32];
    size_t bytes = sizeof(public);
    char x[64];
    EVP_PKEY *key = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, secret, sizeof(secret));
    MUST(key && EVP_PKEY_get_raw_public_key(key, public, &bytes) == 1);
    encode(public, bytes, x);
    MUST(dprintf(fd,
                 "{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"kid\":\"e\",\"x\":\"%s\"}]}",
                 x) > 0);
    sign(key);
    EVP_PKEY_free(key);
}

static void make_oauth(void)
{
    char path[] = "/tmp/fuzz-oauth-XXXXXX";
    int fd = mkstemp(path);
    MUST(fd >= 0);
    make_keys(fd);
    const struct kq_oauth_options options = {.jwks_file = path,
                                             .algorithms = "",
                                             .issuer = "",
                                             .audience = "",
                                             .claim = "",
                                             .max_bytes = 2048};
    kq_diag_set_level(LOG_EMERG);
    MUST(kq_oauth_new(&options, &oauth) == 0);
    unlink(path); /* what is there no longer is not read again */
    close(fd);
}

/* What 0xff stands for is put in its place. */
static void fill_in(const uint8_t *bytes, size_t length, struct kq_buf *ret)
{
    for (size_t i = 0; i < length; i++) {
        int r =
            bytes[i] == 0xff ? kq_buf_append_string(ret, good) : kq_buf_append(ret, bytes + i, 1);
        MUST(r == 0);
    }
}

/* May a client that has sent these BYTES be alice? */
static bool is_right(const uint8_t *bytes, size_t length)
{
    const char *text = (const char *)bytes;
    bool header = length > 2 && (*text == 'n' || *text == 'y') && text[1] == ',';
    const char *rest = text + 2, *end = text + length;
    if (header && end - rest > 7 && memcmp(rest, "a=alice", 7) == 0)
        rest += 7;
    return header && end - rest > 1 && rest[0] == ',' && rest[1] == '\x01' &&
           memmem(bytes, length, good, strlen(good)) && end[-1] == '\x01' && end[-2] == '\x01';
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct fuzz_input input = {bytes, bytes + length};
    struct kq_sasl_exchange *exchange;
    bool ended = false, refused = false;
    if (!oauth)
        make_oauth();
    MUST(kq_oauthbearer.begin(oauth, &exchange) == 0);
    for (int i = 0; i < 4 && input.at < input.end; i++) {
        kq_autobuf struct kq_buf answer = {0}, token = {0};
        struct kq_sasl_outcome outcome;
        size_t size = (size_t)fuzz_byte(&input) << 8, left;
        size |= fuzz_byte(&input);
        left = (size_t)(input.end - input.at);
        size = size < left ? size : left;
        fill_in(input.at, size, &token);
        input.at += size;
        uint8_t *copy = fuzz_copy(token.data, token.length);
        MUST(kq_oauthbearer.step(exchange, copy, token.length, &answer, &outcome) == 0);
        MUST((!ended && !refused) || outcome.result == KQ_SASL_FAILED);
        if (outcome.result == KQ_SASL_DONE) {
            MUST(is_right(copy, token.length) && strcmp(outcome.name, "alice") == 0);
            MUST(outcome.expires_ms > 0 && answer.length == 0);
        }
        MUST((outcome.result == KQ_SASL_MORE) == (answer.length > 0));
        refused |= outcome.result == KQ_SASL_MORE;
        ended |= outcome.result != KQ_SASL_MORE;
        free(copy);
    }
    kq_oauthbearer.end(exchange);
    return 0;
}
