#!/usr/bin/python3
# kqfs-test: timeout=300
"""OAUTHBEARER: signed tokens by librdkafka's callback, and what must not pass. Keys and signatures
are openssl's."""

import os
import subprocess
import time

import issuer
from issuer import Signer
from mounted import *

ALICE = 54321


def settings(token, **more):
    return {"bootstrap.servers": f"localhost:{port}", "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "OAUTHBEARER", "sasl.oauthbearer.config": "unused",
            "oauth_cb": lambda _: (token, time.time() + 600), "error_cb": lambda _: None, "log_level": 0, **more}


def topics_as(token, timeout=20):
    """Names, or None where TOKEN does not get in."""
    client = confluent_kafka.Producer(settings(token))
    client.poll(1)  # which asks for the token
    try:
        return set(client.list_topics(timeout=timeout).topics)
    except confluent_kafka.KafkaException:
        return None


def test_a_signed_token_gets_in_as_its_subject():
    os.mkdir(broker.path("hers"))
    os.mkdir(broker.path("closed"))
    os.chown(broker.path("hers"), ALICE, 0)
    os.chmod(broker.path("hers"), 0o700)
    os.chmod(broker.path("closed"), 0o700)
    got = topics_as(signer.token())
    check(got is not None and "hers" in got and "closed" not in got, got)
    got = topics_as(signer.token(sub="stranger"))
    check(got is not None and "hers" not in got, got)


def test_what_is_wrong_with_a_token_keeps_it_out():
    now = int(time.time())
    stranger = Signer(keys, "stranger")
    stranger.kid = signer.kid
    for token in (signer.token(iss="https://elsewhere"), signer.token(aud="other"),
                  signer.token(exp=now - 100), signer.token(nbf=now + 300),
                  signer.token(header=dict(alg="none")), signer.token(header=dict(alg="HS256")),
                  signer.token(header=dict(alg="RS256", kid="nobody")), stranger.token(),
                  signer.token()[:-4] + "AAAA", signer.token(sub="")):
        equal(topics_as(token, 1.5), None)


def test_the_unsecured_token_of_kcat_is_refused():
    need("kcat")
    done = subprocess.run(
        ["kcat", "-b", f"localhost:{port}", "-X", "security.protocol=SASL_PLAINTEXT",
         "-X", "sasl.mechanism=OAUTHBEARER", "-X", "enable.sasl.oauthbearer.unsecure.jwt=true",
         "-X", "sasl.oauthbearer.config=principal=alice", "-L", "-m", "3"],
        capture_output=True, text=True, timeout=60, check=False)
    check(done.returncode != 0, done.stdout)


def test_a_new_key_counts_and_an_old_one_no_longer():
    newer = Signer(keys, "newer")
    equal(topics_as(newer.token(), 1.5), None)
    issuer.trust(jwks, newer)
    time.sleep(1.1)  # the file is looked at once a second
    check(topics_as(newer.token()) is not None)
    equal(topics_as(signer.token(), 1.5), None)
    issuer.trust(jwks, signer)
    time.sleep(1.1)
    check(topics_as(signer.token()) is not None)


try:
    need_root()
    need("openssl")
    try:
        import confluent_kafka
    except ImportError as error:
        raise Skip("no python3-confluent-kafka here") from error
    keys = scratch("keys")
except Skip as reason:
    print(reason)
    raise SystemExit(77)
jwks = os.path.join(keys, "jwks.json")
signer = Signer(keys, "first")
issuer.trust(jwks, signer)
port = free_port()
broker = Broker("b", ["--listen", f"sasl_plaintext://127.0.0.1:{port},advertised=localhost:{port}"],
                config=f"""[sasl]
mechanisms = OAUTHBEARER
plain_without_tls = true
sasl.oauthbearer.jwks.file = {jwks}
sasl.oauthbearer.expected.issuer = {issuer.NAME}
sasl.oauthbearer.expected.audience = kafka
[users]
alice = {ALICE}
""")
main(broker)
