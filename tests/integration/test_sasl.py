#!/usr/bin/python3
"""SASL: who says who it is, how, and what it may do before; with a raw client, kcat and
python3-kafka."""

import hashlib
import os
import subprocess
import time

from mounted import *
from protocol import *
from scram import closed, log_in as log_in_by

SETTINGS = """[sasl]
mechanisms = SCRAM-SHA-256 SCRAM-SHA-512 PLAIN
plain_without_tls = true
failed_authentication_delay_ms = {delay}
max_reauth_ms = {reauth}
authentication_timeout_ms = {timeout}
"""
PASSWORD = "s3cret, =word"


def log_in(client, password=PASSWORD, name="alice"):
    return log_in_by(client, password, name)


class SaslBroker(Broker):
    def __init__(self, name, delay=10, reauth=0, timeout=30000):
        self.address = f"127.0.0.1:{free_port()}"
        config = (f"[net]\nlisten = sasl_plaintext://{self.address}\n"
                  + SETTINGS.format(delay=delay, reauth=reauth, timeout=timeout))
        super().__init__(name, config=config)
        self.passwd("alice")
        self.passwd("bob", password="plainword")
        self.allow("login refused|asked for something before|took longer than authentication|"
                   "larger than socket.request.max.bytes|similar messages")

    def passwd(self, name, *options, password=PASSWORD, status=0):
        done = subprocess.run([os.environ["KQFS_BIN"], "passwd", "--data", self.data, *options, name],
                              input=password.encode() + b"\n", capture_output=True, timeout=60)
        equal(done.returncode, status, done.stderr)


broker = SaslBroker("b")


def test_a_client_that_has_logged_in_is_served():
    with Client(broker.address) as client:
        equal(client.ask("ApiVersions", 3, client_software_name="t",
                         client_software_version="1")["error_code"], 0)
        equal(log_in(client)["error_code"], 0)
        equal(len(client.ask("Metadata", 9)["brokers"]), 1)
        equal(client.ask("SaslAuthenticate", 2)["error_code"], 34)


def test_a_wrong_password_is_said_and_then_the_connection_ends():
    for name in "alice", "nobody":
        with Client(broker.address) as client:
            answer = log_in(client, "wrong", name)
            equal(answer["error_code"], 58)
            check(closed(client), "it ends")


def test_nothing_else_is_answered_before():
    for name, version in (("Metadata", 9), ("Produce", 9), ("SaslAuthenticate", 2)):
        with Client(broker.address) as client:
            client.send(name, version)
            check(closed(client), name)
    with Client(broker.address) as client:
        equal(client.ask("SaslHandshake", 1, mechanism="SCRAM-SHA-256")["error_code"], 0)
        client.send("Metadata", 9)
        check(closed(client), "between handshake and proof")


def test_requests_sent_along_with_the_proof_are_not_served_before_it():
    with Client(broker.address) as client:
        equal(client.ask("SaslHandshake", 1, mechanism="PLAIN")["error_code"], 0)
        proof = client.send("SaslAuthenticate", 2, auth_bytes=b"\0alice\0wrong")
        client.send("Metadata", 9)
        equal(client.receive(proof)["error_code"], 58)
        check(closed(client))
    with Client(broker.address) as client:
        equal(client.ask("SaslHandshake", 1, mechanism="PLAIN")["error_code"], 0)
        proof = client.send("SaslAuthenticate", 2, auth_bytes=b"\0alice\0" + PASSWORD.encode())
        wanted = client.send("Metadata", 9)
        equal(client.receive(proof)["error_code"], 0)
        equal(len(client.receive(wanted)["brokers"]), 1)


def test_frames_before_login_have_a_limit():
    with Client(broker.address) as client:
        client.socket.sendall(struct.pack(">i", (512 << 10) + 1))
        check(closed(client))


def test_a_mechanism_that_is_not_there_is_refused_with_those_that_are():
    with Client(broker.address) as client:
        answer = client.ask("SaslHandshake", 1, mechanism="GSSAPI2")
        equal(answer["error_code"], 33)
        equal(answer["mechanisms"], ["SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"])
        check(closed(client))


def test_a_handshake_of_version_0_takes_tokens_without_a_header():
    with Client(broker.address) as client:
        equal(client.ask("SaslHandshake", 0, mechanism="PLAIN")["error_code"], 0)
        token = b"\0alice\0" + PASSWORD.encode()
        client.socket.sendall(struct.pack(">i", len(token)) + token)
        equal(client.read(4), bytes(4), "an empty token")
        equal(len(client.ask("Metadata", 9)["brokers"]), 1)


def test_a_session_ends_unless_it_is_renewed_by_the_same_user():
    with SaslBroker("again", reauth=60000) as other:
        with Client(other.address) as client:
            began = time.monotonic()
            equal(log_in(client, "plainword", "bob")["session_lifetime_ms"], 60000)
            again = client.ask("SaslHandshake", 1, mechanism="SCRAM-SHA-256")["error_code"]
            if time.monotonic() - began < 1:
                equal(again, 34, "not again within a second")
                time.sleep(1.1)
            equal(log_in(client, "plainword", "bob")["error_code"], 0)
            equal(len(client.ask("Metadata", 9)["brokers"]), 1)
            time.sleep(1.1)
            equal(log_in(client, PASSWORD, "alice")["error_code"], 58, "another user")
            check(closed(client))
    with SaslBroker("expires", reauth=1000) as other:
        with Client(other.address) as client:
            log_in(client)
            time.sleep(1.1)
            client.send("Metadata", 9)
            check(closed(client), "it has expired")


def test_who_takes_too_long_is_disconnected():
    with SaslBroker("slow", timeout=300) as other, Client(other.address) as client:
        equal(client.ask("ApiVersions", 2)["error_code"], 0)
        check(closed(client))


def test_passwords_outlive_a_kill_and_can_be_taken_away():
    with SaslBroker("killed") as other:
        with Client(other.address) as client:
            equal(log_in(client)["error_code"], 0)
        other.passwd("carol")
        other.kill()
        other.clean_mount()
        other.passwd("alice", "--delete")
        other.start()
        with Client(other.address) as client:
            equal(log_in(client)["error_code"], 58)
        with Client(other.address) as client:
            equal(log_in(client, "plainword", "bob")["error_code"], 0)


def test_passwords_over_the_wire():
    with Client(broker.address) as client:
        log_in(client)
        salted = hashlib.pbkdf2_hmac("sha256", b"over the wire", b"some salt", 8192)
        good = dict(name="carol", mechanism=1, iterations=8192, salt=b"some salt",
                    salted_password=salted)
        equal([r["error_code"] for r in client.ask(
            "AlterUserScramCredentials", 0, upsertions=[good])["results"]], [31],
            "alice is nobody here")


def test_kcat_logs_in():
    need("kcat")
    for mechanism in "SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN":
        sh(f"kcat -b {broker.address} -L -X security.protocol=sasl_plaintext "
           f"-X sasl.mechanism={mechanism} -X sasl.username=bob -X sasl.password=plainword")


if __name__ == "__main__":
    main(broker)
