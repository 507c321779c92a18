#!/usr/bin/env python3
"""TLS as a peer meets it: versions, client certificates, plaintext, slow handshakes, resumption, reload.
kqfs-test: timeout=180"""

import os
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from pathlib import Path

from mounted import free_port

KQFS = os.environ.get("KQFS_BIN", "kqfs")
DIR = Path(os.environ.get("KQFS_TEST_DIR") or tempfile.mkdtemp())
PATIENCE_S = 60


def openssl(*arguments):
    subprocess.run(["openssl", *arguments], check=True, cwd=DIR, capture_output=True)


def make_ca(name):
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
            f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}", "-days", "2")


def make_certificate(name, ca="ca"):
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
            f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
    openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key",
            "-CAcreateserial", "-out", f"{name}.pem", "-days", "2")


class Broker:
    def __init__(self, *options, authentication="none"):
        self.port = free_port()
        listen = (f"ssl://127.0.0.1:{self.port},certificate={DIR}/server.pem,key={DIR}/server.key,"
                  f"ca={DIR}/ca.pem,client_authentication={authentication}")
        self.process = subprocess.Popen([KQFS, "-f", "--no-mount", "--data", DIR / f"data{self.port}",
                                         "--listen", listen, *options], stderr=subprocess.DEVNULL)
        until(lambda: self.connect_plain().close() is None)

    def connect_plain(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)

    def connect(self, certificate=None, session=None, context=None):
        context = context or client(certificate)
        return context.wrap_socket(self.connect_plain(), session=session)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        assert self.process.wait(PATIENCE_S) == 0


def until(condition):
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            if condition():
                return
        except OSError:
            pass
        assert time.monotonic() < end, "never came"
        time.sleep(0.05)


def client(certificate=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(DIR / "ca.pem")
    if certificate:
        context.load_cert_chain(DIR / f"{certificate}.pem", DIR / f"{certificate}.key")
    return context


def is_served(connection):
    """ApiVersions 0 is answered."""
    connection.sendall(bytes.fromhex("0000000a 0012 0000 00000007 ffff"))
    head = receive(connection, 8)
    receive(connection, int.from_bytes(head[:4], "big") - 4)
    return head[4:] == bytes.fromhex("00000007")


def receive(connection, length):
    data = b""
    while len(data) < length:
        more = connection.recv(length - len(data))
        if not more:
            raise ConnectionResetError
        data += more
    return data


def received(connection):
    try:
        return connection.recv(1000)
    except ConnectionResetError:
        return b""


def is_refused(connect):
    try:
        with connect() as connection:
            return not is_served(connection)
    except (ssl.SSLError, ConnectionError):
        return True


def test_tls_1_2_and_1_3_are_served_and_older_ones_are_not():
    with Broker() as broker:
        for version in ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3:
            context = client()
            context.minimum_version = context.maximum_version = version
            with broker.connect(context=context) as connection:
                assert is_served(connection)
                assert connection.compression() is None
        context = client()
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
        assert is_refused(lambda: broker.connect(context=context))
        for weak in "AES128-SHA", "ECDHE-ECDSA-AES128-SHA", "NULL":
            context = client()
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers(weak + ":@SECLEVEL=0")
            assert is_refused(lambda: broker.connect(context=context)), weak


def test_a_client_needs_a_certificate_of_the_ca_where_it_is_required():
    with Broker(authentication="required") as broker:
        with broker.connect("app1") as connection:
            assert is_served(connection)
        assert is_refused(lambda: broker.connect())
        assert is_refused(lambda: broker.connect("stranger"))


def test_who_is_refused_is_told_why_even_when_it_has_asked_for_something():
    """A client of TLS 1.3 may send requests before it is known whether its certificate is good."""
    with Broker(authentication="required") as broker:
        for certificate, why in (None, "CERTIFICATE_REQUIRED"), ("stranger", "UNKNOWN_CA"):
            connection = broker.connect(certificate)
            for _ in range(20):
                connection.sendall(bytes.fromhex("0000000a 0012 0000 00000007 ffff"))
            try:
                raise AssertionError(f"it is served: {connection.recv(100)}")
            except ssl.SSLError as error:
                assert why in str(error), error
            connection.close()


def test_plaintext_and_silence_end_and_hold_up_nobody():
    with Broker("--tls.handshake.timeout.ms", "1500") as broker:
        silent = [broker.connect_plain() for _ in range(50)]
        for connection in silent[:25]:
            connection.sendall(b"\x16\x03\x01\x02\x00\x01")  # a record that never ends
        with broker.connect_plain() as plain:
            plain.sendall(bytes.fromhex("0000000a 0012 0000 00000007 ffff"))
            assert received(plain)[:1] in (b"", b"\x15")  # the end, or an alert before it
        with broker.connect() as connection:
            assert is_served(connection)
        for connection in silent:
            assert received(connection) == b""
            connection.close()


def test_too_many_handshakes_are_refused():
    with Broker("--tls.max.handshakes", "2") as broker:
        held = []  # more each time: the one that saw the broker start may still have counted
        until(lambda: held.append(broker.connect_plain()) or is_refused(broker.connect))
        for connection in held:
            connection.close()
        until(lambda: not is_refused(broker.connect))


def test_a_session_resumes_and_files_are_read_again_without_dropping_a_connection():
    with Broker("--tls.reload.interval.ms", "100") as broker:
        context = client()
        with broker.connect(context=context) as kept:
            assert is_served(kept)
            with broker.connect(session=kept.session, context=context) as again:
                assert again.session_reused and is_served(again)
            before = kept.getpeercert(True)
            make_certificate("server")
            until(lambda: client().wrap_socket(broker.connect_plain()).getpeercert(True) != before)
            assert is_served(kept)
            broker.process.send_signal(signal.SIGHUP)
            assert is_served(kept)
            with broker.connect() as fresh:
                assert is_served(fresh)


def main():
    make_ca("ca")
    make_ca("other")
    make_certificate("server")
    make_certificate("app1")
    make_certificate("stranger", "other")
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            test()
            print("ok", name, flush=True)


main()
