#!/usr/bin/python3
# kqfs-test: timeout=400
"""A broker that root starts with --user, and whose keys only root may read: the helper opens them,
at the start and whenever they have changed. All the ways to log in work."""

import atexit
import os
import signal
import socket
import ssl
import subprocess

import issuer
import mounted
from issuer import Signer
from kdc import Realm
from mounted import *
from protocol import Client
from scram import log_in

USER, UID, GID = "nobody", 65534, 65534
ALICE = 54321
PASSWORD = "s3cret"


def openssl(*arguments):
    done = subprocess.run(["openssl", *arguments], cwd=keys, capture_output=True, timeout=60,
                          check=False)
    check(done.returncode == 0, done.stderr)


def make_certificate(name):
    """NAME.pem and NAME.key, signed by itself; in one step each."""
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-keyout", "new.key", "-out", "new.pem", "-subj", "/CN=localhost", "-days", "2")
    for kind in "key", "pem":
        os.chmod(os.path.join(keys, f"new.{kind}"), 0o600)
        os.rename(os.path.join(keys, f"new.{kind}"), os.path.join(keys, f"{name}.{kind}"))


def read_certificate(name):
    with open(os.path.join(keys, name + ".pem")) as file:
        return ssl.PEM_cert_to_DER_cert(file.read())


def shown_certificate(address):
    """What the broker shows there, once it has answered a request."""
    host, port = address.split(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((host, int(port)), 60) as plain, \
            context.wrap_socket(plain) as connection:
        connection.sendall(bytes.fromhex("0000000a 0012 0000 00000007 ffff"))
        check(connection.recv(8), "an answer")
        return connection.getpeercert(True)


def bearer(token):
    with Client(sasl) as client:
        equal(client.ask("SaslHandshake", 1, mechanism="OAUTHBEARER")["error_code"], 0)
        answer = client.ask("SaslAuthenticate", 2,
                            auth_bytes=f"n,,\1auth=Bearer {token}\1\1".encode())
        return answer["error_code"] == 0 and not answer["auth_bytes"]


def kcat(principal):
    """May who has a ticket of PRINCIPAL list the topics?"""
    done = subprocess.run(
        ["kcat", "-b", f"localhost:{sasl.split(':')[1]}", "-X", "security.protocol=SASL_PLAINTEXT",
         "-X", "sasl.mechanism=GSSAPI", "-X", "sasl.kerberos.service.name=kafka",
         "-X", "sasl.kerberos.kinit.cmd=true", "-L", "-m", "20"],
        env=realm.ticket(principal), capture_output=True, text=True, timeout=60, check=False)
    return done.returncode == 0


def has_gssapi():
    listed = subprocess.run(["kcat", "-X", "list"], capture_output=True, text=True, check=False)
    return "sasl.kerberos.service.name" in listed.stdout


def make_realm():
    """Or None, and why: there is no KDC here, no client that could ask it, or no GSSAPI."""
    try:
        need("kcat")
        if not has_gssapi():
            raise Skip("this kcat has no GSSAPI")
        made = Realm()
    except Skip as reason:
        return None, reason
    atexit.register(made.stop)
    made.env["KRB5RCACHEDIR"] = scratch("rcache")
    os.chown(made.env["KRB5RCACHEDIR"], UID, GID)
    equal(os.stat(made.keytab).st_mode & 0o777, 0o600)
    equal(os.stat(made.keytab).st_uid, 0)
    return made, None


def needs_kerberos():
    if not realm:
        raise Skip(no_realm)


def settings():
    kerberos = f"sasl.kerberos.keytab = {realm.keytab}" if realm else ""
    return f"""[tls]
certificate = {keys}/common.pem
key = {keys}/common.key
tls.reload.interval.ms = 86400000
[sasl]
mechanisms = SCRAM-SHA-256 OAUTHBEARER {"GSSAPI" if realm else ""}
plain_without_tls = true
{kerberos}
sasl.oauthbearer.jwks.file = {jwks}
sasl.oauthbearer.expected.issuer = {issuer.NAME}
sasl.oauthbearer.expected.audience = kafka
[users]
alice = {ALICE}
"""


def listeners():
    """Not in the file, whose lines are short."""
    for address in (f"ssl://{common}", f"ssl://{own},certificate={keys}/own.pem,key={keys}/own.key",
                    f"sasl_plaintext://{sasl},advertised=localhost:{sasl.split(':')[1]}"):
        yield from ("--listen", address)


def set_password():
    """In a data directory that is the service user's."""
    os.makedirs(broker.data)
    subprocess.run([os.environ["KQFS_BIN"], "passwd", "--data", broker.data, "alice"], check=True,
                   input=PASSWORD.encode() + b"\n", timeout=60)
    sh(f"chown -R {UID}:{GID} {broker.data}")


def test_only_root_may_read_the_keys():
    for path in os.path.join(keys, "own.key"), jwks:
        refused(errno.EACCES, as_user, (UID, GID, []), read, path)
    check("confined: user 65534" in broker.log(), broker.log())


def test_certificates_of_the_section_and_of_a_listener_are_shown():
    equal(shown_certificate(common), read_certificate("common"))
    equal(shown_certificate(own), read_certificate("own"))


def test_sighup_reads_them_again():
    for address, name in (common, "common"), (own, "own"):
        make_certificate(name)
        check(shown_certificate(address) != read_certificate(name), "not before it is told")
    broker.process.send_signal(signal.SIGHUP)
    for address, name in (common, "common"), (own, "own"):
        until(lambda: shown_certificate(address) == read_certificate(name), "the new certificate")


def test_a_key_that_does_not_fit_leaves_the_one_from_before():
    before = read_certificate("own")
    with open(os.path.join(keys, "own.pem"), "wb") as file:
        file.write(b"none\n")
    broker.process.send_signal(signal.SIGHUP)
    until(lambda: "goes on with the certificates that it had" in broker.log(), "a report")
    equal(shown_certificate(own), before)
    make_certificate("own")
    broker.process.send_signal(signal.SIGHUP)
    until(lambda: shown_certificate(own) == read_certificate("own"), "the new certificate")


def test_scram():
    with Client(sasl) as client:
        equal(log_in(client, PASSWORD)["error_code"], 0)
        equal(client.ask("Metadata", 9)["brokers"][0]["host"], "localhost")


def test_oauthbearer_and_a_new_set_of_keys():
    check(bearer(signer.token()), "a token of the first key")
    newer = Signer(keys, "newer")
    check(not bearer(newer.token()), "a token of nobody's key")
    issuer.trust(jwks, newer)
    os.chmod(jwks, 0o600)
    until(lambda: bearer(newer.token()), "the new key to count", every=0.3)
    check(not bearer(signer.token()), "a token of the key from before")


def test_gssapi_and_a_new_key():
    needs_kerberos()
    check(kcat("alice"), "a ticket for the first key")
    realm.renew("kafka/localhost", realm.keytab)
    check(kcat("alice"), "a ticket for the second key")


def test_a_keytab_that_is_replaced_counts_and_one_that_is_broken_does_not():
    needs_kerberos()
    other = realm.path("other.keytab")
    realm.renew("kafka/localhost", other)
    os.rename(other, realm.keytab)
    check(kcat("alice"), "a ticket for the third key, which is the only one in a new file")
    with open(realm.path("broken"), "wb") as file:
        file.write(b"\5\2nonsense")
    os.rename(realm.path("broken"), realm.keytab)
    check(kcat("alice"), "the keys from before")
    check(f"sasl.kerberos.keytab: {realm.keytab}" in broker.log(), broker.log())


def test_a_login_leaves_no_replay_cache_of_root():
    needs_kerberos()
    equal({os.stat(os.path.join(realm.env["KRB5RCACHEDIR"], name)).st_uid
           for name in os.listdir(realm.env["KRB5RCACHEDIR"])}, {UID})


try:
    need_root()
    need("openssl")
    keys = scratch("keys")
except Skip as reason:
    print(reason)
    raise SystemExit(77)
os.chmod(keys, 0o700)
os.environ["ASAN_OPTIONS"] = os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"
jwks = os.path.join(keys, "jwks.json")
for name in "common", "own":
    make_certificate(name)
signer = Signer(keys, "first")
issuer.trust(jwks, signer)
os.chmod(jwks, 0o600)
common, own, sasl = (f"127.0.0.1:{free_port()}" for _ in range(3))
realm, no_realm = make_realm()
broker = Broker("b", ["--user", USER, "--confine.action", "kill", *listeners()], config=settings(), env=realm.env if realm else {})
broker.allow("login refused|goes on with the certificates|holds no certificate chain|"
             "sasl.kerberos.keytab|similar messages")
set_password()
main(broker)
