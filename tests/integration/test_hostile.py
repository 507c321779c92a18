#!/usr/bin/python3
"""Clients that mean harm, on listeners with TLS and SASL: certificates that are not to be let in,
handshakes that drip, renegotiate and ask for key after key, logins that lie at every step and by the
thousand, requests before a login; and rights that are taken away in the middle of a Fetch.
kqfs-test: timeout=400"""

import base64
import ctypes
import os
import re
import select
import socket
import ssl
import stat
import struct
import subprocess
import threading
import time

from mounted import *
from protocol import *
import scram
from certificates import FUTURE, PAST, Authority
from scram import Scram, closed

PASSWORD = "s3cret, =word"
RIGHT, UNSUPPORTED, WRONG_STATE, REFUSED, FORBIDDEN = 0, 33, 34, 58, 29
FLOOD = 10000
IN_USE = "Address already in use"  # somebody was faster: other ports will do


# --- Certificates ---

def context_of(certificate=None, authority=None, version=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(keys.path("ca.pem"))
    if certificate:
        context.set_ciphers("DEFAULT:@SECLEVEL=0")  # ours may have a weak key
        authority = authority or keys
        context.load_cert_chain(authority.path(f"{certificate}.pem"), authority.path(f"{certificate}.key"))
    if version:
        context.minimum_version = context.maximum_version = version
    return context


class TlsClient(Client):
    def __init__(self, address, context=None, **more):
        super().__init__(address, **more)
        try:
            self.socket = (context or context_of()).wrap_socket(self.socket)
        except BaseException:
            self.socket.close()
            raise


def is_served(client):
    return client.ask("ApiVersions", 0)["error_code"] == 0


def is_let_in(address, certificate=None, authority=None):
    """In TLS 1.3 the refusal comes behind the client's handshake."""
    answers = []
    for version in ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3:
        try:
            with TlsClient(address, context_of(certificate, authority, version)) as client:
                answers.append(is_served(client))
        except (ssl.SSLError, ConnectionError, Closed):
            answers.append(False)
    equal(answers[0], answers[1], "as in TLS 1.2 so in 1.3:", certificate)
    return answers[0]


# --- The broker ---

keys = None


class HostileBroker(Broker):
    """`tls` and `plain` ask for a login, `certificates` for a certificate; `revoking` has a list of
    its own of those that were revoked."""

    listeners = ("tls", "plain", "certificates", "revoking")

    def __init__(self, name, settings=""):
        super().__init__(name)
        self.settings = settings
        self.allow("login refused|asked for something before|took longer than|similar messages|"
                   "no TLS connection|larger than socket.request.max.bytes|closed:")

    def start(self, timeout=60):
        global keys
        if not keys:
            keys = Authority("keys").make("server", "server").make("app1").make("gone").make("left")
            keys.revoke(to="nobody.crl")
            keys.revoke("gone", to="gone.crl")
            keys.revoke("left", to="both.crl")
        if not os.path.exists(self.data):
            self.passwd("alice")
        for left in reversed(range(20)):
            try:
                self.choose_ports()
                return super().start(timeout)
            except Failed as failure:
                check(left and IN_USE in str(failure), failure)

    def choose_ports(self):
        for listener in self.listeners:
            setattr(self, listener, f"127.0.0.1:{free_port()}")
        self.config = f"""[net]
listen = sasl_ssl://{self.tls},client_authentication=none
listen = sasl_plaintext://{self.plain}
listen = ssl://{self.certificates}
listen = ssl://{self.revoking},crl={keys.path("both.crl")}
[tls]
certificate = {keys.path("server.pem")}
key = {keys.path("server.key")}
ca = {keys.path("ca.pem")}
crl = {keys.path("gone.crl")}
client_authentication = required
[sasl]
mechanisms = SCRAM-SHA-256 SCRAM-SHA-512 PLAIN
failed_authentication_delay_ms = 10
{self.settings}
"""

    def passwd(self, name):
        done = subprocess.run([os.environ["KQFS_BIN"], "passwd", "--data", self.data, name],
                              input=PASSWORD.encode() + b"\n", capture_output=True, timeout=60)
        equal(done.returncode, 0, done.stderr)

    def metric(self, name):
        """The sum over its labels that NAME does not name."""
        text = read(self.path(".kqfs", "metrics")).decode()
        prefix = name.rstrip("}")
        found = [float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(prefix)]
        check(found, "no metric", name)
        return sum(found)

    def logins(self, result):
        return self.metric(f'kqfs_net_logins_total{{result="{result}"}}')

    def handshakes(self, result):
        return self.metric(f'kqfs_tls_handshakes_total{{result="{result}"}}')

    def connections(self):
        return self.metric("kqfs_net_connections ")

    def resident(self):
        return int(re.search(rb"VmRSS:\s+(\d+)", read(f"/proc/{self.process.pid}/status"))[1])

    def cpu_s(self):
        fields = read(f"/proc/{self.process.pid}/stat").rsplit(b")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rests(self):
        """Does it use little of a CPU for half a second?"""
        before = self.cpu_s()
        time.sleep(0.5)
        return self.cpu_s() - before < 0.2


broker = HostileBroker("b")


def log_in(client):
    equal(scram.log_in(client, PASSWORD)["error_code"], RIGHT)
    return client


def everywhere():
    """A new client of each listener that asks for a login."""
    yield lambda: Client(broker.plain)
    yield lambda: TlsClient(broker.tls)


# --- Certificates of clients ---

def test_a_good_certificate_is_let_in_and_none_is_not():
    check(is_let_in(broker.certificates, "app1"))
    check(not is_let_in(broker.certificates))


def test_certificates_that_no_longer_or_not_yet_hold_are_refused():
    keys.make("expired", dates=PAST).make("early", dates=FUTURE)
    refusals = broker.handshakes("certificate")
    for name in "expired", "early":
        check(not is_let_in(broker.certificates, name), name)
    until(lambda: broker.handshakes("certificate") == refusals + 4, "the refusals to be counted")


def test_certificates_that_were_revoked_are_refused():
    check(not is_let_in(broker.certificates, "gone"))
    check(is_let_in(broker.certificates, "left"), "revoked in the other listener's list only")
    for name in "gone", "left":
        check(not is_let_in(broker.revoking, name), name)
    check(is_let_in(broker.revoking, "app1"))


def test_certificates_that_nobody_or_somebody_else_has_signed_are_refused():
    keys.request("selfmade", "-x509", "-days", "2")
    check(not is_let_in(broker.certificates, "selfmade"))
    stranger = Authority("stranger").make("app1")
    check(not is_let_in(broker.certificates, "app1", stranger))


def test_a_certificate_of_a_server_is_none_of_a_client():
    check(not is_let_in(broker.certificates, "server"))


def test_a_certificate_with_a_weak_key_is_refused():
    keys.make("weak", key=("rsa:1024",))
    check(not is_let_in(broker.certificates, "weak"))


def test_a_session_does_not_carry_over_to_another_listener():
    context = context_of("app1", version=ssl.TLSVersion.TLSv1_3)
    with TlsClient(broker.certificates, context) as client:
        check(is_served(client))
        session = client.socket.session
    again = Client(broker.revoking)
    with context.wrap_socket(again.socket, session=session) as resumed:
        check(not resumed.session_reused, "its list of the revoked was not asked")


# --- Certificates of ours ---

def start_alone(certificate, key, **more):
    """Starts a broker without a mount; its exit status, or None where it serves, and what it said."""
    while True:
        status, said = start_once(certificate, key, **more)
        if IN_USE not in said:
            return status, said


def start_once(certificate, key, user=None, **more):
    options = dict(certificate=certificate, key=key, **more)
    listen = f"ssl://127.0.0.1:{free_port()}," + ",".join(f"{k}={v}" for k, v in options.items())
    data = os.path.join(test_directory(), f"alone{time.monotonic_ns()}")
    os.mkdir(data, 0o700)
    if user:
        os.chown(data, user, user)
    process = subprocess.Popen(
        [os.environ["KQFS_BIN"], "-f", "--no-mount", "--data", data, "--listen", listen],
        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, user=user, group=user, extra_groups=[] if user else None)
    said = b""
    while line := process.stderr.readline():
        said += line
        if b"listening at" in line:
            process.terminate()
            process.stderr.read()
            equal(process.wait(60), 0)
            process.stderr.close()
            return None, said.decode()
    process.stderr.close()
    return process.wait(60), said.decode()


def fails_alone(reason, certificate, key, **more):
    status, said = start_alone(certificate, key, **more)
    check(status not in (None, 0) and status < 128, status, said)
    equal(len(said.splitlines()), 1, "one line:", said)
    check(reason in said, reason, "is not in", said)


def test_a_broker_does_not_start_with_what_cannot_be_used():
    server, key = keys.path("server.pem"), keys.path("server.key")
    with open(keys.path("empty.pem"), "w"):
        pass
    with open(keys.path("cut.pem"), "wb") as file:
        file.write(read(server)[:200])
    fails_alone("fits the certificate", server, keys.path("app1.key"))
    fails_alone("No such file", server, keys.path("nowhere"))
    fails_alone("is not a file", server, keys.directory)
    fails_alone("no certificate chain", keys.path("empty.pem"), key)
    fails_alone("no certificate chain", keys.path("cut.pem"), key)
    fails_alone("is no key in PEM", server, server)
    fails_alone("no CA certificates", server, key, ca=key, client_authentication="required")
    fails_alone("revocation lists", server, key, ca=keys.path("ca.pem"), crl=server,
                client_authentication="required")
    fails_alone("needs `ca`", server, key, client_authentication="required")
    keys.openssl("ec", "-aes128", "-passout", "pass:x", "-in", "server.key", "-out", "locked.key")
    fails_alone("without a passphrase", server, keys.path("locked.key"))
    keys.make("small", "server", key=("rsa:1024",))
    fails_alone("too small", keys.path("small.pem"), keys.path("small.key"))
    os.chmod(keys.path("locked.key"), 0)
    os.chmod(keys.directory, 0o755)
    fails_alone("Permission denied", server, keys.path("locked.key"),
                user=None if os.geteuid() else 12345)


def test_what_may_be_a_mistake_is_said_and_not_in_the_way():
    server, key = keys.path("server.pem"), keys.path("server.key")
    os.chmod(key, 0o600)
    status, said = start_alone(server, key)
    check(status is None and "warning" not in said.lower(), said)
    for name, dates, words in (("old", PAST, "has expired"), ("new", FUTURE, "is not valid yet")):
        keys.make(name, "server", dates)
        status, said = start_alone(keys.path(f"{name}.pem"), keys.path(f"{name}.key"))
        check(status is None and words in said, name, said)
    keys.openssl("ca", "-config", "ca.cnf", "-gencrl", "-crl_lastupdate", "20200101000000Z", "-crl_nextupdate",
                 "20210101000000Z", "-out", "old.crl")
    status, said = start_alone(server, key, ca=keys.path("ca.pem"), crl=keys.path("old.crl"),
                               client_authentication="required")
    check(status is None and "is out of date" in said, said)
    os.chmod(key, 0o644)
    status, said = start_alone(server, key)
    check(status is None and "chmod o-r" in said, said)
    os.chmod(key, 0o600)


# --- Handshakes ---

class Peer:
    """A client by OpenSSL itself, which lets it do what ssl of Python does not."""

    MIN_VERSION, MAX_VERSION = 123, 124
    library = None

    def __init__(self, address, version):
        library = Peer.library = Peer.library or self.load()
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), 60)
        self.socket.settimeout(None)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for option in socket.SO_RCVTIMEO, socket.SO_SNDTIMEO:
            self.socket.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", 60, 0))
        self.context = library.SSL_CTX_new(library.TLS_client_method())
        for which in self.MIN_VERSION, self.MAX_VERSION:
            equal(library.SSL_CTX_ctrl(self.context, which, ctypes.c_long(version), None), 1)
        self.ssl = library.SSL_new(self.context)
        library.SSL_set_fd(self.ssl, self.socket.fileno())
        equal(library.SSL_connect(self.ssl), 1, "the handshake")

    @staticmethod
    def load():
        try:
            library = ctypes.CDLL("libssl.so.3")
        except OSError as error:
            raise Skip(f"no OpenSSL of its own: {error}") from error
        for name in "TLS_client_method", "SSL_CTX_new", "SSL_new":
            getattr(library, name).restype = ctypes.c_void_p
            getattr(library, name).argtypes = [] if name.startswith("TLS") else [ctypes.c_void_p]
        for name in ("SSL_connect", "SSL_free", "SSL_CTX_free", "SSL_renegotiate", "SSL_do_handshake"):
            getattr(library, name).argtypes = [ctypes.c_void_p]
        library.SSL_CTX_ctrl.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p]
        library.SSL_CTX_ctrl.restype = ctypes.c_long
        library.SSL_set_fd.argtypes = library.SSL_key_update.argtypes = [ctypes.c_void_p, ctypes.c_int]
        for name in "SSL_write", "SSL_read":
            getattr(library, name).argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
        return library

    def does(self, what, *arguments):
        return getattr(self.library, "SSL_" + what)(self.ssl, *arguments) == 1

    def is_served(self):
        request = bytes.fromhex("0000000a 0012 0000 00000007 ffff")
        if self.library.SSL_write(self.ssl, request, len(request)) != len(request):
            return False
        answer = ctypes.create_string_buffer(65536)
        count = self.library.SSL_read(self.ssl, answer, len(answer))
        return count >= 8 and answer.raw[4:8] == b"\0\0\0\7"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.library.SSL_free(self.ssl)
        self.library.SSL_CTX_free(self.context)
        self.socket.close()


TLS_1_2, TLS_1_3 = 0x0303, 0x0304


def test_renegotiation_is_refused():
    with Peer(broker.tls, TLS_1_2) as peer:
        check(peer.is_served())
        check(peer.does("renegotiate"))
        check(not peer.does("do_handshake"), "the broker has agreed to it")
    until(lambda: broker.connections() == 0, "its connection to end")
    with TlsClient(broker.tls) as client:
        check(is_served(client))


def test_new_keys_between_requests_are_given():
    if os.path.exists("/proc/net/tls_stat"):
        raise Skip("the kernel has the key, which cannot be replaced")
    with Peer(broker.tls, TLS_1_3) as peer:
        for requested in (0, 1) * 40:
            check(peer.does("key_update", requested) and peer.does("do_handshake"))
            check(peer.is_served())


def test_new_keys_without_end_are_not():
    for requested in 0, 1:
        with Peer(broker.tls, TLS_1_3) as peer:
            check(peer.is_served())
            count = 0
            while count < 100000 and peer.does("key_update", requested) and peer.does("do_handshake"):
                count += 1
            check(count < 100000, "it was let do so for ever")
        until(lambda: broker.connections() == 0, "its connection to end")
    until(broker.rests, "the broker to have nothing to do")
    with TlsClient(broker.tls) as client:
        check(is_served(client))


def client_hello():
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    hello = context_of().wrap_bio(incoming, outgoing)
    with contextlib.suppress(ssl.SSLWantReadError):
        hello.do_handshake()
    return outgoing.read()


def has_ended(connection):
    if not select.select([connection], [], [], 0)[0]:
        return False
    try:
        return connection.recv(4096) == b""
    except ConnectionResetError:
        return True


def test_handshakes_that_drip_end_in_time_and_hold_up_nobody():
    with HostileBroker("drip", "[tls]\ntls.handshake.timeout.ms = 3000") as other:
        hello, sent = client_hello(), 0
        host, port = other.tls.split(":")
        dripping = {socket.create_connection((host, int(port)), 60) for _ in range(100)}
        while dripping and sent < len(hello) - 1:
            for connection in list(dripping):
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    connection.send(hello[sent:sent + 1])
                if has_ended(connection):
                    connection.close()
                    dripping.discard(connection)
            sent += 1
            if sent == 3:
                with TlsClient(other.tls) as client:
                    check(is_served(client))
            time.sleep(0.25)
        check(not dripping, len(dripping), "were let go on")
        until(lambda: other.handshakes("timeout") == 100, "all to be counted")
        equal(other.metric("kqfs_tls_handshakes_under_way"), 0)


def test_a_handshake_of_garbage_ends():
    hello = client_hello()
    host, port = broker.tls.split(":")
    for at in list(range(0, 60, 3)) + list(range(60, len(hello), 29)):
        with socket.create_connection((host, int(port)), 60) as connection:
            connection.sendall(hello[:at] + bytes([hello[at] ^ 0x55]) + hello[at + 1:])
            connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                while connection.recv(4096):
                    pass
    until(lambda: broker.metric("kqfs_tls_handshakes_under_way") == 0, "all to have ended")
    with TlsClient(broker.tls) as client:
        check(is_served(client))


# --- Logins ---

def test_a_login_over_tls_by_both_versions_of_the_handshake():
    with TlsClient(broker.tls) as client:
        log_in(client)
        equal(len(client.ask("Metadata", 9)["brokers"]), 1)
    with TlsClient(broker.tls) as client:
        login = Scram(PASSWORD)
        equal(client.ask("SaslHandshake", 0, mechanism="SCRAM-SHA-256")["error_code"], RIGHT)
        client.socket.sendall(framed(login.first()))
        client.socket.sendall(framed(login.final(received_frame(client))))
        equal(received_frame(client), login.signature)
        equal(len(client.ask("Metadata", 9)["brokers"]), 1)


def framed(data):
    return struct.pack(">i", len(data)) + data


def received_frame(client):
    return client.read(struct.unpack(">i", client.read(4))[0])


def test_nothing_else_is_answered_before_a_login():
    for connect in everywhere():
        for name, version in (("Metadata", 9), ("Produce", 9), ("Fetch", 11), ("CreateTopics", 5),
                              ("AlterUserScramCredentials", 0), ("SaslAuthenticate", 2)):
            with connect() as client:
                client.send(name, version)
                check(closed(client), name)
        with connect() as client:
            equal(client.ask("SaslHandshake", 1, mechanism="SCRAM-SHA-256")["error_code"], RIGHT)
            client.send("SaslHandshake", 1, mechanism="SCRAM-SHA-256")
            check(closed(client), "a second handshake")


def test_plain_is_refused_where_others_can_read_it():
    with Client(broker.plain) as client:
        answer = client.ask("SaslHandshake", 1, mechanism="PLAIN")
        equal(answer["error_code"], UNSUPPORTED)
        equal(answer["mechanisms"], ["SCRAM-SHA-256", "SCRAM-SHA-512"])
        check(closed(client))
    for password, wanted in (PASSWORD, RIGHT), ("wrong", REFUSED):
        with TlsClient(broker.tls) as client:
            equal(client.ask("SaslHandshake", 1, mechanism="PLAIN")["error_code"], RIGHT)
            token = b"\0alice\0" + password.encode()
            equal(client.ask("SaslAuthenticate", 2, auth_bytes=token)["error_code"], wanted)


class Liar(Scram):
    """Alters what it sends last: a dict of the attributes."""

    def __init__(self, alter=lambda fields: None, header="n,,", extensions="", believes=lambda said: said):
        super().__init__(PASSWORD)
        self.alter, self.header, self.extensions, self.believes = alter, header, extensions, believes

    def first(self, name="alice"):
        self.bare = f"n={name},r=clientnonce{self.extensions}"
        return (self.header + self.bare).encode()

    def final(self, answer):
        server = self.believes(answer.decode())
        nonce, salted = self.salt(server)
        fields = {"c": base64.b64encode(self.header.encode()).decode(), "r": nonce}
        self.alter(fields)
        proof = self.prove(salted, server, ",".join(f"{k}={v}" for k, v in fields.items() if k != "p"))
        fields.setdefault("p", base64.b64encode(proof).decode())
        if callable(fields["p"]):
            fields["p"] = base64.b64encode(fields["p"](proof)).decode()
        return ",".join(f"{k}={v}" for k, v in fields.items()).encode()


def outcome(connect, liar):
    """The error code of its last step; the connection ends where it is one."""
    with connect() as client:
        equal(client.ask("SaslHandshake", 1, mechanism="SCRAM-SHA-256")["error_code"], RIGHT)
        answer = client.ask("SaslAuthenticate", 2, auth_bytes=liar.first())
        if answer["error_code"] == RIGHT:
            answer = client.ask("SaslAuthenticate", 2, auth_bytes=liar.final(answer["auth_bytes"]))
        if answer["error_code"]:
            equal(answer["auth_bytes"], b"", "no word that could help")
            check(closed(client))
        return answer["error_code"]


def put(name, change):
    """Alters one attribute of the last message, by what it was."""
    def alter(fields):
        fields[name] = change(fields.get(name))
    return alter


LIES = {
    "another nonce of the broker": Liar(put("r", lambda nonce: nonce[:-1] + ("A" if nonce[-1] != "A" else "B"))),
    "only its own nonce": Liar(put("r", lambda nonce: "clientnonce")),
    "a longer nonce": Liar(put("r", lambda nonce: nonce + "A")),
    "no nonce": Liar(put("r", lambda nonce: "")),
    "a bit of the proof": Liar(put("p", lambda _: lambda proof: bytes([proof[0] ^ 1]) + proof[1:])),
    "a proof of zeros": Liar(put("p", lambda _: lambda proof: bytes(len(proof)))),
    "a shorter proof": Liar(put("p", lambda _: lambda proof: proof[:-1])),
    "a longer proof": Liar(put("p", lambda _: lambda proof: proof + b"\0")),
    "no proof": Liar(put("p", lambda _: "")),
    "a proof that is none": Liar(put("p", lambda _: "!" * 44)),
    "fewer iterations": Liar(believes=lambda said: re.sub(r"i=\d+", "i=1", said)),
    "more iterations": Liar(believes=lambda said: re.sub(r"i=\d+", "i=4097", said)),
    "another salt": Liar(believes=lambda said: re.sub(r"s=[^,]+", "s=AAAA", said)),
    "another channel binding at last": Liar(put("c", lambda _: "eSws")),
    "no channel binding at last": Liar(put("c", lambda _: "")),
    "channel binding": Liar(header="p=tls-exporter,,"),
    "channel binding of old": Liar(header="p=tls-unique,,"),
    "another name behind the login's": Liar(header="n,a=root,"),
    "an extension that must be understood": Liar(header="n,,m=mine,"),
    "a header that is none": Liar(header="x,,"),
    "no header": Liar(header=""),
}
TRUTHS = {
    "all in order": Liar(),
    "a client that could bind the channel": Liar(header="y,,"),
    "its own name behind the login's": Liar(header="n,a=alice,"),
    "an extension": Liar(extensions=",x=1"),
    "an extension at last": Liar(put("x", lambda _: "2")),
}


def test_who_lies_in_scram_does_not_get_in():
    for connect in everywhere():
        for what, liar in TRUTHS.items():
            equal(outcome(connect, liar), RIGHT, what)
        for what, liar in LIES.items():
            equal(outcome(connect, liar), REFUSED, what)


def test_tokens_of_all_sizes_and_out_of_order():
    first = Scram(PASSWORD).first()
    final = f"c=biws,r=clientnonce,p={base64.b64encode(bytes(32)).decode()}".encode()
    for connect in everywhere():
        for tokens in ([b""], [b"\0"], [final], [first, first], [first, b""], [first, b"\0" * 100],
                       [first + b"A" * 4096], [first, b"c=biws," + b"A" * 4096], [b"n,,n=" + b"a" * 4000 + b",r=x"],
                       [b"\xff" * 500], [first, b"," * 3000], [b"n,,n=alice,r="], [b"n,,n=\0,r=x"]):
            with connect() as client:
                equal(client.ask("SaslHandshake", 1, mechanism="SCRAM-SHA-256")["error_code"], RIGHT)
                codes = [client.ask("SaslAuthenticate", 2, auth_bytes=token)["error_code"] for token in tokens]
                equal(codes, [RIGHT] * (len(tokens) - 1) + [REFUSED], short(tokens))
                check(closed(client))
        for size in (512 << 10) + 1, 0x7fffffff, -1:
            with connect() as client:
                equal(client.ask("SaslHandshake", 0, mechanism="SCRAM-SHA-256")["error_code"], RIGHT)
                client.socket.sendall(struct.pack(">i", size))
                check(closed(client), size)


def test_a_token_behind_the_last_is_none():
    with TlsClient(broker.tls) as client:
        log_in(client)
        equal(client.ask("SaslAuthenticate", 2, auth_bytes=b"x")["error_code"], WRONG_STATE)


# --- Ten thousand of them ---

def frame(name, version, **values):
    api = APIS[name]
    head = struct.pack(">hhih", api.key, version, 1, 1) + b"x" + (b"\0" if version >= api.flexible else b"")
    return framed(head + write_fields(api.request, values, version, version >= api.flexible))


class Flood:
    """Logins that fail, COUNT in all, by 32 at a time."""

    def __init__(self, count):
        self.lock, self.left, self.problems = threading.Lock(), count, []
        shake = frame("SaslHandshake", 1, mechanism="SCRAM-SHA-256")
        self.garbage = shake + b"".join(
            frame("SaslAuthenticate", 2, auth_bytes=token)
            for token in (b"n,,n=alice,r=abc", b"c=biws,r=abcdef,p=" + base64.b64encode(bytes(32))))
        self.head = shake + frame("SaslAuthenticate", 2, auth_bytes=b"n,,n=nobody,r=abc")
        self.plain = frame("SaslHandshake", 1, mechanism="PLAIN") + frame(
            "SaslAuthenticate", 2, auth_bytes=b"\0alice\0wrong")
        self.context = context_of()

    def run(self):
        threads = [threading.Thread(target=self.work) for _ in range(32)]
        for thread in threads:
            thread.start()
        return threads

    def work(self):
        try:
            while True:
                with self.lock:
                    self.left -= 1
                    number = self.left
                if number < 0:
                    return
                self.fail(number)
        except Exception as error:
            self.problems.append(repr(error))

    def fail(self, number):
        tls = number % 50 == 0
        host, port = (broker.tls if tls else broker.plain).split(":")
        source = f"127.0.1.{number % 250 + 1}"  # or their ports would not do
        with socket.create_connection((host, int(port)), 60, (source, 0)) as connection:
            if tls:
                with self.context.wrap_socket(connection) as inside:
                    inside.sendall(self.plain)
                    self.to_the_end(inside)
            elif number % 10 == 1:
                self.guess(connection)
            else:
                connection.sendall(self.garbage)
                self.to_the_end(connection)

    def guess(self, connection):
        """With the nonce that the broker wants, so that it looks at the proof."""
        connection.sendall(self.head)
        said = b""
        while not (nonce := re.search(rb"r=([^,]+),s=[^,]+,i=\d+", said)):
            more = connection.recv(4096)
            if not more:
                raise ConnectionError("ended before its last step")
            said += more
        token = b"c=biws,r=" + nonce[1] + b",p=" + base64.b64encode(bytes(32))
        connection.sendall(frame("SaslAuthenticate", 2, auth_bytes=token))
        self.to_the_end(connection)

    @staticmethod
    def to_the_end(connection):
        said = b""
        while more := connection.recv(4096):
            said += more
        if b"Authentication failed" not in said:
            raise ValueError(f"not refused: {said!r}")


def test_ten_thousand_failed_logins_leave_nothing_behind_and_nobody_waits():
    def flood(count):
        these = Flood(count)
        threads, rounds = these.run(), 0
        while any(thread.is_alive() for thread in threads):
            with Client(broker.plain, timeout=60) as client:
                equal(len(log_in(client).ask("Metadata", 9)["brokers"]), 1)
            rounds += 1
            time.sleep(0.1)
        for thread in threads:
            thread.join()
        equal(these.problems, [])
        return rounds

    flood(FLOOD // 10)
    until(lambda: broker.connections() == 0, "the first to have gone")
    before, failures, successes = broker.resident(), broker.logins("failure"), broker.logins("success")
    rounds = flood(FLOOD)
    until(lambda: broker.logins("failure") == failures + FLOOD, "all to be counted")
    equal(broker.logins("success"), successes + rounds, "and not one got in")
    until(lambda: broker.connections() == 0, "all to have gone")
    binary = read(os.environ["KQFS_BIN"])
    sanitized = b"__asan_init" in binary or b"__tsan_init" in binary  # they keep what was freed for a while
    check(sanitized or broker.resident() < before + 8192, "it has grown:", before, broker.resident())


# --- Rights that go in the middle of a Fetch ---

def readable_topic(name, *texts):
    topic = broker.topic(name)
    os.chmod(broker.mount, 0o755)
    os.chmod(topic, 0o755)
    for text in texts:
        append(f"{topic}/p0", text)
    os.chmod(f"{topic}/p0", 0o644)
    return topic


def test_a_fetch_that_waits_gets_nothing_of_what_came_when_its_right_was_gone():
    for number, connect in enumerate(everywhere()):
        topic = readable_topic(f"wait{number}", "first\n")
        with connect() as client:
            log_in(client)
            for take, give in (((f"{topic}/p0", 0o640), (f"{topic}/p0", 0o644)),
                               ((topic, 0o750), (topic, 0o755))):
                end = fetch(client, f"wait{number}", 0)["high_watermark"]
                sent = client.send("Fetch", 11, **fetch_request(f"wait{number}", end, wait=60000))
                until(lambda: broker.metric("kqfs_net_queued_request_bytes ") > 0, "it to wait")
                os.chmod(*take)
                append(f"{topic}/p0", "secret\n")
                answer = client.receive(sent)["responses"][0]["partitions"][0]
                equal((answer["error_code"], answer["records"] or b""), (FORBIDDEN, b""))
                equal(fetch(client, f"wait{number}", end)["error_code"], FORBIDDEN)
                os.chmod(*give)
                equal([r.value for r in records(fetch(client, f"wait{number}", end)["records"])], [b"secret"])


def test_a_fetch_under_way_ends_whole_and_the_next_is_refused():
    size = 16 << 20
    text = b"".join(b"%015d\n" % n for n in range(size // 16))
    for number, connect in enumerate(everywhere()):
        topic = readable_topic(f"large{number}", text)
        with connect() as client:
            log_in(client)
            request = fetch_request(f"large{number}", 0, max_bytes=size * 2, partition_max=size * 2)
            sent = client.send("Fetch", 11, **request)
            select.select([client.socket], [], [], 60)
            os.chmod(f"{topic}/p0", 0o640)
            os.chmod(topic, 0o700)
            answer = client.receive(sent)["responses"][0]["partitions"][0]
            equal(answer["error_code"], RIGHT)
            check(len(answer["records"]) > size // 2, len(answer["records"]))
            check(text[:16 * 1000].rstrip(b"\n").split(b"\n")[-1] in answer["records"])
            equal(fetch(client, f"large{number}", 0)["error_code"], FORBIDDEN)


if __name__ == "__main__":
    main(broker)
