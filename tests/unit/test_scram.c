/* SCRAM and PLAIN against a client of the test's own, and against the example of RFC 7677. */
#include "auth/scram.h"

#include <errno.h>
#include <openssl/evp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "auth/scramkeys.h"

#define HEADER "n,,"

static struct kq_scram_credential kept[KQ_SCRAM_HASHES];

static int find(void *context, const char *name, enum kq_scram_hash hash,
                struct kq_scram_credential *ret)
{
    if (strcmp(name, "alice") != 0 && strcmp(name, "a,b=c") != 0)
        return -ENOENT;
    *ret = kept[hash];
    return 0;
}

static struct kq_scram_users users = {.find = find, .iterations = 4096, .secret = {1, 2, 3}};

static int set_up(void **state)
{
    assert_int_equal(kq_scram_derive(KQ_SCRAM_SHA_256, "pencil", 6, 4096, &kept[0]), 0);
    assert_int_equal(kq_scram_derive(KQ_SCRAM_SHA_512, "pencil", 6, 4097, &kept[1]), 0);
    return 0;
}

/* --- A client --- */

struct client {
    const struct kq_sasl_class *class;
    enum kq_scram_hash hash;
    struct kq_sasl_exchange *exchange;
    char bare[512], first[1024], final[1024];
    uint8_t server_key[KQ_SCRAM_KEY_BYTES];
    uint8_t signature[KQ_SCRAM_KEY_BYTES]; /* that the server is to show */
};

static void begin(struct client *client, enum kq_scram_hash hash)
{
    *client = (struct client){
        .hash = hash, .class = hash == KQ_SCRAM_SHA_256 ? &kq_scram_sha_256 : &kq_scram_sha_512};
    assert_int_equal(client->class->begin(&users, &client->exchange), 0);
}

/* Sends TOKEN; the answer is in RET. */
static struct kq_sasl_outcome send_bytes(struct client *client, const void *token, size_t length,
                                         char *ret, size_t size)
{
    struct kq_buf answer = {0};
    struct kq_sasl_outcome outcome;
    assert_int_equal(client->class->step(client->exchange, token, length, &answer, &outcome), 0);
    assert_true(answer.length < size);
    if (answer.length)
        memcpy(ret, answer.data, answer.length);
    ret[answer.length] = '\0';
    kq_buf_release(&answer);
    return outcome;
}

static struct kq_sasl_outcome send_text(struct client *client, const char *token, char *ret,
                                        size_t size)
{
    return send_bytes(client, token, strlen(token), ret, size);
}

static struct kq_sasl_outcome hello(struct client *client, const char *header, const char *name)
{
    char token[600];
    snprintf(client->bare, sizeof(client->bare), "n=%s,r=CLIENT", name);
    snprintf(token, sizeof(token), "%s%s", header, client->bare);
    return send_text(client, token, client->first, sizeof(client->first));
}

/* The final message for PASSWORD, by what the server has said; NONCE NULL: the server's. */
static void make_final(struct client *client, const char *password, const char *channel,
                       const char *nonce, char *ret, size_t size)
{
    char servers_nonce[512], salt_text[256], message[3000], without[700], proof_text[128];
    uint8_t salt[256], salted[64], key[64], stored[64], signature[64];
    int iterations;
    size_t bytes = kq_scram_key_bytes(client->hash);
    assert_int_equal(
        sscanf(client->first, "r=%500[^,],s=%250[^,],i=%d", servers_nonce, salt_text, &iterations),
        3);
    int length = EVP_DecodeBlock(salt, (unsigned char *)salt_text, (int)strlen(salt_text));
    for (const char *at = salt_text; *at; at++)
        length -= *at == '=';
    PKCS5_PBKDF2_HMAC(password, (int)strlen(password), salt, length, iterations,
                      client->hash == KQ_SCRAM_SHA_256 ? EVP_sha256() : EVP_sha512(), (int)bytes,
                      salted);
    snprintf(without, sizeof(without), "c=%s,r=%s", channel, nonce ? nonce : servers_nonce);
    snprintf(message, sizeof(message), "%s,%s,%s", client->bare, client->first, without);
    kq_scram_hmac(client->hash, salted, bytes, "Client Key", 10, key);
    kq_scram_hmac(client->hash, salted, bytes, "Server Key", 10, client->server_key);
    kq_scram_digest(client->hash, key, bytes, stored);
    kq_scram_hmac(client->hash, stored, bytes, message, strlen(message), signature);
    kq_scram_hmac(client->hash, client->server_key, bytes, message, strlen(message),
                  client->signature);
    for (size_t i = 0; i < bytes; i++)
        key[i] ^= signature[i];
    EVP_EncodeBlock((unsigned char *)proof_text, key, (int)bytes);
    snprintf(ret, size, "%s,p=%s", without, proof_text);
}

static struct kq_sasl_outcome log_in(struct client *client, const char *password)
{
    char token[1024];
    make_final(client, password, "biws", NULL, token, sizeof(token));
    return send_text(client, token, client->final, sizeof(client->final));
}

static void end(struct client *client)
{
    client->class->end(client->exchange);
}

/* --- Tests --- */

static void test_the_example_of_rfc_7677(void **state)
{
    static const char message[] =
        "n=user,r=rOprNGfwEbeRWgbNEkqO,"
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,"
        "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    struct kq_scram_credential credential = {.iterations = 4096, .salt_length = 16};
    uint8_t salted[64], salt[20], signature[64];
    char text[128];
    EVP_DecodeBlock(salt, (const unsigned char *)"W22ZaJ0SNY7soEsUEjb6gQ==", 24);
    memcpy(credential.salt, salt, 16);
    PKCS5_PBKDF2_HMAC("pencil", 6, salt, 16, 4096, EVP_sha256(), 32, salted);
    assert_int_equal(kq_scram_set_keys(KQ_SCRAM_SHA_256, salted, &credential), 0);
    kq_scram_hmac(KQ_SCRAM_SHA_256, credential.server_key, 32, message, strlen(message), signature);
    EVP_EncodeBlock((unsigned char *)text, signature, 32);
    assert_string_equal(text, "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    bool good = false;
    assert_int_equal(kq_scram_check(KQ_SCRAM_SHA_256, &credential, "pencil", 6, &good), 0);
    assert_true(good);
}

static void test_the_right_password_is_taken_and_the_server_proves_that_it_knew_it(void **state)
{
    for (int hash = 0; hash < KQ_SCRAM_HASHES; hash++) {
        struct client client;
        char wanted[128] = "v=";
        begin(&client, (enum kq_scram_hash)hash);
        assert_int_equal(hello(&client, HEADER, "alice").result, KQ_SASL_MORE);
        struct kq_sasl_outcome outcome = log_in(&client, "pencil");
        assert_int_equal(outcome.result, KQ_SASL_DONE);
        assert_string_equal(outcome.name, "alice");
        EVP_EncodeBlock((unsigned char *)wanted + 2, client.signature,
                        (int)kq_scram_key_bytes(client.hash));
        assert_string_equal(client.final, wanted);
        end(&client);
    }
}

static void test_a_wrong_password_is_refused_without_a_token(void **state)
{
    struct client client;
    begin(&client, KQ_SCRAM_SHA_256);
    hello(&client, HEADER, "alice");
    assert_int_equal(log_in(&client, "Pencil").result, KQ_SASL_FAILED);
    assert_string_equal(client.final, "");
    assert_int_equal(log_in(&client, "pencil").result, KQ_SASL_FAILED); /* no second try */
    end(&client);
}

static void test_who_is_not_there_cannot_be_told_from_who_is(void **state)
{
    struct client one, again, there;
    begin(&one, KQ_SCRAM_SHA_256);
    begin(&again, KQ_SCRAM_SHA_256);
    begin(&there, KQ_SCRAM_SHA_256);
    assert_int_equal(hello(&one, HEADER, "nobody").result, KQ_SASL_MORE);
    assert_int_equal(hello(&again, HEADER, "nobody").result, KQ_SASL_MORE);
    hello(&there, HEADER, "alice");
    assert_string_equal(strstr(one.first, ",s="), strstr(again.first, ",s="));
    assert_int_equal(strlen(one.first), strlen(there.first));
    struct kq_sasl_outcome missing = log_in(&one, "pencil"), wrong = log_in(&there, "x");
    assert_int_equal(missing.result, KQ_SASL_FAILED);
    assert_string_equal(missing.complaint, wrong.complaint);
    end(&one);
    end(&again);
    end(&there);
}

static void test_names_with_commas_and_who_else_one_wants_to_be(void **state)
{
    struct client client;
    begin(&client, KQ_SCRAM_SHA_256);
    assert_int_equal(hello(&client, HEADER, "a=2Cb=3Dc").result, KQ_SASL_MORE);
    assert_string_equal(log_in(&client, "pencil").name, "a,b=c");
    end(&client);
    begin(&client, KQ_SCRAM_SHA_256);
    assert_int_equal(hello(&client, "n,a=bob,", "alice").result, KQ_SASL_FAILED);
    end(&client);
    begin(&client, KQ_SCRAM_SHA_256);
    assert_int_equal(hello(&client, "n,a=alice,", "alice").result, KQ_SASL_MORE);
    end(&client);
}

static void test_altered_messages_are_refused(void **state)
{
    static const struct {
        const char *channel, *nonce;
    } altered[] = {{"biws", "CLIENT"}, {"biws", "CLIENTnone"}, {"eSws", NULL}, {"", NULL}};
    for (size_t i = 0; i < 4; i++) {
        struct client client;
        char token[1024], answer[1024];
        begin(&client, KQ_SCRAM_SHA_256);
        hello(&client, HEADER, "alice");
        make_final(&client, "pencil", altered[i].channel, altered[i].nonce, token, sizeof(token));
        assert_int_equal(send_text(&client, token, answer, sizeof(answer)).result, KQ_SASL_FAILED);
        end(&client);
    }
}

/* Of the same length, and the proof is of what is said: only a look at the nonce tells. */
static void test_each_character_of_the_nonce_counts(void **state)
{
    struct client client;
    char nonce[600], token[2048], answer[1024];
    size_t length = 1;
    for (size_t i = 0; i < length; i++) {
        begin(&client, KQ_SCRAM_SHA_256);
        hello(&client, HEADER, "alice");
        sscanf(client.first, "r=%500[^,]", nonce);
        length = strlen(nonce);
        nonce[i] = nonce[i] == 'x' ? 'y' : 'x';
        make_final(&client, "pencil", "biws", nonce, token, sizeof(token));
        assert_int_equal(send_text(&client, token, answer, sizeof(answer)).result, KQ_SASL_FAILED);
        end(&client);
    }
    assert_true(length > strlen("CLIENT"));
}

static void test_an_altered_count_of_iterations_leads_to_another_proof(void **state)
{
    struct client client;
    begin(&client, KQ_SCRAM_SHA_256);
    hello(&client, HEADER, "alice");
    char *at = strstr(client.first, ",i=");
    strcpy(at, ",i=1");
    assert_int_equal(log_in(&client, "pencil").result, KQ_SASL_FAILED);
    end(&client);
}

static void test_the_nonce_as_old_versions_of_librdkafka_write_it(void **state)
{
    struct client client;
    char nonce[600] = "CLIENT", token[2048], answer[1024];
    begin(&client, KQ_SCRAM_SHA_256);
    hello(&client, HEADER, "alice");
    sscanf(client.first, "r=%500[^,]", nonce + 6);
    make_final(&client, "pencil", "biws", nonce, token, sizeof(token));
    assert_int_equal(send_text(&client, token, answer, sizeof(answer)).result, KQ_SASL_DONE);
    end(&client);
}

static void test_what_is_no_message_is_refused(void **state)
{
    static const char *const tokens[] = {"",
                                         "n",
                                         "n,,",
                                         "x,,n=alice,r=A",
                                         "n,,n=,r=A",
                                         "p=tls-unique,,n=alice,r=A",
                                         "n,,m=ext,n=alice,r=A",
                                         "n,,n=al=ice,r=A",
                                         "n,,n=alice",
                                         "n,,n=alice,r=",
                                         "n,,n=alice,r=\x01"};
    static char large[KQ_SCRAM_TOKEN_BYTES + 2];
    char answer[1024];
    memset(large, 'a', sizeof(large) - 1);
    memcpy(large, "n,,n=alice,r=", 13);
    for (size_t i = 0; i <= sizeof(tokens) / sizeof(*tokens); i++) {
        struct client client;
        bool last = i == sizeof(tokens) / sizeof(*tokens);
        begin(&client, KQ_SCRAM_SHA_256);
        struct kq_sasl_outcome outcome =
            send_text(&client, last ? large : tokens[i], answer, sizeof(answer));
        assert_int_equal(outcome.result, KQ_SASL_FAILED);
        end(&client);
    }
}

static enum kq_sasl_result plain(const void *token, size_t length)
{
    struct client client = {.class = &kq_plain};
    char answer[16];
    assert_int_equal(kq_plain.begin(&users, &client.exchange), 0);
    enum kq_sasl_result result = send_bytes(&client, token, length, answer, sizeof(answer)).result;
    assert_string_equal(answer, "");
    end(&client);
    return result;
}

static void test_plain_is_held_against_what_is_kept_for_scram(void **state)
{
    assert_int_equal(plain("\0alice\0pencil", 13), KQ_SASL_DONE);
    assert_int_equal(plain("alice\0alice\0pencil", 18), KQ_SASL_DONE);
    assert_int_equal(plain("bob\0alice\0pencil", 16), KQ_SASL_FAILED);
    assert_int_equal(plain("\0alice\0pencils", 14), KQ_SASL_FAILED);
    assert_int_equal(plain("\0nobody\0pencil", 14), KQ_SASL_FAILED);
    assert_int_equal(plain("\0alice\0", 7), KQ_SASL_FAILED);
    assert_int_equal(plain("alice", 5), KQ_SASL_FAILED);
    assert_int_equal(plain("\0alice\0pencil\0", 14), KQ_SASL_FAILED);
    assert_true(kq_plain.shows_the_secret);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_example_of_rfc_7677),
        cmocka_unit_test(test_the_right_password_is_taken_and_the_server_proves_that_it_knew_it),
        cmocka_unit_test(test_a_wrong_password_is_refused_without_a_token),
        cmocka_unit_test(test_who_is_not_there_cannot_be_told_from_who_is),
        cmocka_unit_test(test_names_with_commas_and_who_else_one_wants_to_be),
        cmocka_unit_test(test_altered_messages_are_refused),
        cmocka_unit_test(test_an_altered_count_of_iterations_leads_to_another_proof),
        cmocka_unit_test(test_each_character_of_the_nonce_counts),
        cmocka_unit_test(test_the_nonce_as_old_versions_of_librdkafka_write_it),
        cmocka_unit_test(test_what_is_no_message_is_refused),
        cmocka_unit_test(test_plain_is_held_against_what_is_kept_for_scram),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
