/* SCRAM and PLAIN as a client meets them that knows one password and not the other: tokens of its
 * choice, and right ones of which bytes are altered. Nobody gets in without a proof that is right,
 * which is reckoned here once more.
 *
 * The input is a mechanism, then steps: what, how many bytes, and these. */
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <stdbool.h>

#include "auth/scram.h"
#include "auth/scramkeys.h"
#include "broker/base/mem.h"
#include "tests/fuzz/fuzz.h"

#define PASSWORD "pencil"
#define ROOM 8192

static struct kq_scram_credential kept[2]
                                      [KQ_SCRAM_HASHES]; /* alice, whose password it knows; eve */

static int find(void *context, const char *name, enum kq_scram_hash hash,
                struct kq_scram_credential *ret)
{
    bool alice = strcmp(name, "alice") == 0;
    if (!alice && strcmp(name, "eve") != 0)
        return -ENOENT;
    *ret = kept[alice ? 0 : 1][hash];
    return 0;
}

static struct kq_scram_users users = {.find = find, .iterations = 1, .secret = {1, 2, 3}};

/* One iteration will do here. */
static void make_users(void)
{
    for (int i = 0; i < 2 * KQ_SCRAM_HASHES; i++) {
        enum kq_scram_hash hash = (enum kq_scram_hash)(i % KQ_SCRAM_HASHES);
        struct kq_scram_credential *to = &kept[i / KQ_SCRAM_HASHES][hash];
        uint8_t salted[KQ_SCRAM_KEY_BYTES];
        *to = (struct kq_scram_credential){.iterations = 1, .salt_length = 4, .salt = "salt"};
        PKCS5_PBKDF2_HMAC(PASSWORD, 6, to->salt, 4, 1,
                          hash == KQ_SCRAM_SHA_256 ? EVP_sha256() : EVP_sha512(),
                          (int)kq_scram_key_bytes(hash), salted);
        if (i >= KQ_SCRAM_HASHES)
            RAND_bytes(salted, sizeof(salted));
        MUST(kq_scram_set_keys(hash, salted, to) == 0);
    }
}

/* --- What the client knows --- */

struct client {
    const struct kq_sasl_class *class;
    enum kq_scram_hash hash;
    struct kq_sasl_exchange *exchange;
    char bare[ROOM], said[ROOM]; /* the first two messages; "": not yet, or no text */
    bool asked;                  /* the broker has answered the first */
    bool unbound;                /* its first message began with n,, */
    bool ended;
};

/* The proof of alice's password for the message WITHOUT it. */
static void make_proof(const struct client *client, const char *without, size_t length,
                       char ret[ROOM])
{
    static uint8_t message[4 * ROOM];
    uint8_t salted[64], key[64], stored[64], signature[64];
    size_t bytes = kq_scram_key_bytes(client->hash);
    int head = snprintf((char *)message, sizeof(message), "%s,%s,", client->bare, client->said);
    MUST(head > 0 && (size_t)head + length < sizeof(message));
    memcpy(message + head, without, length);
    PKCS5_PBKDF2_HMAC(PASSWORD, 6, (const unsigned char *)"salt", 4, 1,
                      client->hash == KQ_SCRAM_SHA_256 ? EVP_sha256() : EVP_sha512(), (int)bytes,
                      salted);
    kq_scram_hmac(client->hash, salted, bytes, "Client Key", 10, key);
    kq_scram_digest(client->hash, key, bytes, stored);
    kq_scram_hmac(client->hash, stored, bytes, message, (size_t)head + length, signature);
    for (size_t i = 0; i < bytes; i++)
        key[i] ^= signature[i];
    EVP_EncodeBlock((unsigned char *)ret, key, (int)bytes);
}

/* May a client that sends TOKEN last be let in? */
static bool is_proof(const struct client *client, const uint8_t *token, size_t length)
{
    char proof[ROOM];
    size_t bytes = (kq_scram_key_bytes(client->hash) + 2) / 3 * 4;
    if (!client->said[0] || length < bytes + 3 || memcmp(token + length - bytes - 3, ",p=", 3) != 0)
        return false;
    make_proof(client, (const char *)token, length - bytes - 3, proof);
    return memcmp(token + length - bytes, proof, bytes) == 0;
}

static bool is_password(const uint8_t *token, size_t length)
{
    return (length == 13 && memcmp(token, "\0alice\0pencil", 13) == 0) ||
           (length == 18 && memcmp(token, "alice\0alice\0pencil", 18) == 0);
}

/* --- Steps --- */

/* Keeps what both have said so far, where it is text. */
static void note_first(struct client *client, const uint8_t *token, size_t length,
                       const struct kq_buf *answer)
{
    const uint8_t *comma = memchr(token, ',', length);
    const uint8_t *bare =
        comma ? memchr(comma + 1, ',', length - (size_t)(comma + 1 - token)) : NULL;
    MUST(bare && answer->length > 2 && memcmp(answer->data, "r=", 2) == 0);
    size_t rest = length - (size_t)(bare + 1 - token);
    if (rest >= ROOM || answer->length >= ROOM || memchr(bare, 0, rest + 1))
        return;
    memcpy(client->bare, bare + 1, rest);
    client->bare[rest] = '\0';
    client->unbound = bare - token == 2 && *token == 'n';
    memcpy(client->said, answer->data, answer->length);
    client->said[answer->length] = '\0';
}

static enum kq_sasl_result send_token(struct client *client, const uint8_t *bytes, size_t length)
{
    kq_autobuf struct kq_buf answer = {0};
    struct kq_sasl_outcome outcome;
    uint8_t *token = fuzz_copy(bytes, length);
    MUST(client->class->step(client->exchange, token, length, &answer, &outcome) == 0);
    MUST(!client->ended || outcome.result == KQ_SASL_FAILED);
    if (outcome.result == KQ_SASL_DONE) {
        MUST(outcome.name && strcmp(outcome.name, "alice") == 0);
        MUST(client->class == &kq_plain ? is_password(token, length)
                                        : is_proof(client, token, length));
    } else if (outcome.result == KQ_SASL_MORE) {
        MUST(!client->asked && client->class != &kq_plain && length <= KQ_SCRAM_TOKEN_BYTES);
        note_first(client, token, length, &answer);
        client->asked = true;
    } else {
        MUST(answer.length == 0 && outcome.complaint && outcome.reason);
    }
    client->ended |= outcome.result != KQ_SASL_MORE;
    free(token);
    return outcome.result;
}

/* A right message, of which some bytes are altered: pairs of a place and what is changed there.
 * Where none is, it is WANTED. */
static void send_altered(struct client *client, struct fuzz_input *input, size_t pairs, char *text,
                         size_t length, enum kq_sasl_result wanted)
{
    bool altered = false;
    for (size_t i = 0; i < pairs && input->end - input->at >= 2; i++) {
        uint8_t *at = (uint8_t *)text + fuzz_byte(input) % length;
        uint8_t before = *at;
        *at ^= fuzz_byte(input);
        altered |= *at != before;
    }
    enum kq_sasl_result result = send_token(client, (uint8_t *)text, length);
    MUST(altered || result == wanted);
}

static void step(struct client *client, struct fuzz_input *input)
{
    static char text[4 * ROOM], without[2 * ROOM], proof[ROOM];
    uint8_t what = fuzz_byte(input), amount = fuzz_byte(input);
    size_t left = (size_t)(input->end - input->at), length = amount;
    const char *comma = strchr(client->said, ',');
    bool plain = client->class == &kq_plain, first = !client->asked && !client->ended;
    bool last = client->said[0] && client->unbound && !client->ended &&
                strncmp(client->bare, "n=alice,", 8) == 0;
    switch (what % 4) {
    case 0:
        length = what & 16 ? length * 64 : length;
        length = length < left ? length : left;
        input->at += length;
        send_token(client, input->at - length, length);
        break;
    case 1:
        length = (size_t)snprintf(text, sizeof(text), "%s", "n,,n=alice,r=fyko+d2lbbFgONRv9qkx");
        send_altered(client, input, amount % 8, text, length,
                     first && !plain ? KQ_SASL_MORE : KQ_SASL_FAILED);
        break;
    case 2:
        snprintf(without, sizeof(without), "c=biws,%.*s",
                 comma ? (int)(comma - client->said) : (int)strlen(client->said), client->said);
        make_proof(client, without, strlen(without), proof);
        length = (size_t)snprintf(text, sizeof(text), "%s,p=%s", without, proof);
        send_altered(client, input, amount % 8, text, length,
                     last && !plain ? KQ_SASL_DONE : KQ_SASL_FAILED);
        break;
    default:
        memcpy(text, "alice\0alice\0pencil", 18);
        send_altered(client, input, amount % 8, text, 18,
                     first && plain ? KQ_SASL_DONE : KQ_SASL_FAILED);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    static const struct kq_sasl_class *const classes[] = {&kq_scram_sha_256, &kq_scram_sha_512,
                                                          &kq_plain};
    static struct client client;
    struct fuzz_input input = {bytes, bytes + length};
    if (!kept[0][0].iterations)
        make_users();
    uint8_t which = fuzz_byte(&input) % 3;
    client.class = classes[which];
    client.hash = which == 1 ? KQ_SCRAM_SHA_512 : KQ_SCRAM_SHA_256;
    client.bare[0] = client.said[0] = '\0';
    client.asked = client.unbound = client.ended = false;
    MUST(client.class->begin(&users, &client.exchange) == 0);
    for (int i = 0; i < 8 && input.at < input.end; i++)
        step(&client, &input);
    client.class->end(client.exchange);
    return 0;
}
