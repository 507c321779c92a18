#!/usr/bin/env python3
# kqfs-test: timeout=200
"""Messages over TLS by a real client, with each version and cipher, byte for byte as the mount has them.

KQFS_KTLS=1: the kernel has to encrypt, and no byte may have been copied.
"""

import hashlib
import os
import re
import subprocess
import sys
import time

from mounted import Broker, append, check, equal, free_port, main, need, need_root, scratch, until

KTLS = os.environ.get("KQFS_KTLS") == "1"
LINES = 200000
port = free_port()
keys = scratch("keys")
broker = None

WAYS = [("TLSv1.2", "ECDHE-ECDSA-AES128-GCM-SHA256"), ("TLSv1.2", "ECDHE-ECDSA-AES256-GCM-SHA384"),
        ("TLSv1.3", "TLS_AES_128_GCM_SHA256"), ("TLSv1.3", "TLS_AES_256_GCM_SHA384")]


def metric(name):
    with open(broker.path(".kqfs", "metrics")) as file:
        return sum(float(line.rsplit(" ", 1)[1]) for line in file
                   if re.match(re.escape(name) + r"[ {]", line) or line.startswith(name + " "))


def start(*options, name="tls", env=None):
    global broker
    broker = Broker(name, ["--listen", f"ssl://127.0.0.1:{port}", "--certificate", f"{keys}/server.pem",
                            "--key", f"{keys}/server.key", *options], env=env).start()


def client(version="TLSv1.3", cipher="TLS_AES_128_GCM_SHA256"):
    """The environment in which OpenSSL's users have no choice."""
    path = os.path.join(keys, f"{cipher}.cnf")
    suites = "CipherSuites" if version == "TLSv1.3" else "CipherString"
    with open(path, "w") as file:
        file.write("openssl_conf=c\n[c]\nssl_conf=s\n[s]\nsystem_default=d\n[d]\n"
                   f"MinProtocol={version}\nMaxProtocol={version}\n{suites}={cipher}\n")
    return {**os.environ, "OPENSSL_CONF": path}


def kcat(*arguments, env=None, **more):
    done = subprocess.run(["kcat", "-b", f"127.0.0.1:{port}", "-X", "security.protocol=ssl", "-X",
                           f"ssl.ca.location={keys}/server.pem", "-m", "100", "-q", *arguments],
                          capture_output=True, timeout=150, env=env, **more)
    check(done.returncode == 0, "kcat says", done.stderr[-600:])
    return done.stdout


def digest(data):
    return hashlib.sha256(data).hexdigest()


def test_what_the_mount_has_is_what_a_client_reads():
    need("kcat", "openssl")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                    "-keyout", f"{keys}/server.key", "-out", f"{keys}/server.pem", "-subj", "/CN=127.0.0.1",
                    "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"], check=True, capture_output=True)
    start()
    topic = broker.topic("t")
    os.chmod(broker.mount, 0o755)
    os.chmod(topic, 0o755)
    os.chmod(f"{topic}/p0", 0o666)
    text = b"".join(b"%d of many lines, each a message of about a hundred bytes, so that batches and "
                    b"records do not fit\n" % n for n in range(LINES))
    with open(f"{topic}/p0", "ab") as file:
        file.write(text)
    for version, cipher in WAYS:
        sent, copied = metric("kqfs_tls_sendfile_bytes_total"), metric("kqfs_tls_copied_bytes_total")
        began = time.monotonic()
        got = kcat("-C", "-t", "t", "-p", "0", "-o", "beginning", "-e", env=client(version, cipher))
        equal(digest(got), digest(text), version, cipher)
        sent = metric("kqfs_tls_sendfile_bytes_total") - sent
        copied = metric("kqfs_tls_copied_bytes_total") - copied
        print(f"        {version} {cipher}: {len(got)} bytes in {time.monotonic() - began:.1f} s, "
              f"{sent:.0f} by sendfile, {copied:.0f} copied")
        if KTLS:
            check(copied == 0 and sent >= len(got), "the kernel did not encrypt", sent, copied)
        else:
            check(sent + copied >= len(got), "neither way was counted", sent, copied)


def test_what_a_client_writes_is_what_the_mount_shows():
    path = broker.path("t", "p0")
    before = os.path.getsize(path)
    text = b"".join(b"%d over TLS\n" % n for n in range(50000))
    kcat("-P", "-t", "t", "-p", "0", env=client(), input=text)
    with open(path, "rb") as file:
        file.seek(before)
        equal(digest(file.read()), digest(text))


def test_a_key_protects_no_more_records_than_it_may():
    """OpenSSL replaces the key; one that the kernel has cannot be, and the client comes again."""
    broker.stop()
    start("--tls.max.records", "2048")
    with open(broker.path("t", "p0"), "rb") as file:
        text = file.read()
    got = kcat("-C", "-t", "t", "-p", "0", "-o", "beginning", "-e", "-E", "-X", "fetch.message.max.bytes=1000000",
               "-X", "reconnect.backoff.max.ms=100", env=client())
    equal(digest(got), digest(text))
    rekeyed, ended = metric("kqfs_tls_rekeyed_total"), metric("kqfs_tls_ended_for_key_total")
    print(f"        {rekeyed:.0f} keys replaced, {ended:.0f} connections ended")
    check(rekeyed + ended > 0, "as if there were no limit")
    check(ended > 0 or not KTLS, "the kernel's key cannot have been replaced")


def test_a_client_that_wants_a_new_key_gets_one_or_comes_again():
    session = subprocess.Popen(["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_3", "-CAfile",
                                f"{keys}/server.pem"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT)
    ended = metric("kqfs_tls_ended_for_key_total")
    until(lambda: metric("kqfs_tls_connections") == 1, "the handshake")
    session.stdin.write(b"K\n")
    session.stdin.flush()
    if KTLS:
        until(lambda: metric("kqfs_tls_ended_for_key_total") == ended + 1, "the end")
        equal(session.wait(20), 0)
    else:
        said = b""
        while b"KEYUPDATE" not in said:  # a K is one only where it comes alone
            said = session.stdout.readline()
            check(said, "openssl has ended")
        session.stdin.write(bytes.fromhex("0000000a0012000000000007ffff"))
        session.stdin.flush()
        until(lambda: metric("kqfs_requests_total{request=\"ApiVersions\"}") > 0, "an answer")
        session.stdin.close()
        session.wait(20)
    session.stdout.close()


def test_it_stops_cleanly():
    broker.stop()


def test_a_confined_broker_does_it_the_same_way():
    need_root()
    # Sanitizers trace their own process at its end, which no confined process may.
    start("--user", "nobody", name="confined",
          env={"ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"})
    try:
        check("confined: user " in broker.log(), broker.log())
        topic = broker.topic("t")
        text = b"".join(b"%d from a broker that may do little\n" % n for n in range(20000))
        append(f"{topic}/p0", text)
        for path, mode in (f"{topic}/p0", 0o644), (topic, 0o755), (broker.mount, 0o755):
            os.chmod(path, mode)
        for version, cipher in WAYS[0], WAYS[2]:
            sent = metric("kqfs_tls_sendfile_bytes_total")
            got = kcat("-C", "-t", "t", "-p", "0", "-o", "beginning", "-e", env=client(version, cipher))
            equal(digest(got), digest(text), version, cipher)
            sent = metric("kqfs_tls_sendfile_bytes_total") - sent
            check(sent >= len(got) or not KTLS, "the kernel did not encrypt", sent)
        check(metric("kqfs_tls_copied_bytes_total") == 0 or not KTLS, "bytes were copied")
    finally:
        broker.stop()


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    main()
