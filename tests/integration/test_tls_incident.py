#!/usr/bin/python3
"""With half of the traffic moved to TLS, plaintext stays zero-copy: every byte of a plaintext Fetch is still a
byte of sendfile(2), none is copied, and what TLS copies is counted as TLS's. (What it costs in time is a row
of tests/bench: tls-beside.)"""

import os
import re
import ssl
import struct
import subprocess
import threading

import mounted
from mounted import *
from protocol import *

CONSUMERS, ROUNDS, PIECE = 8, 6, 256 << 10
MESSAGES, SIZE = 24, 64 << 10
tls_port = free_port()
keys = scratch("keys")
broker = Server("b", ["--listen", f"ssl://127.0.0.1:{tls_port}", "--certificate", f"{keys}/server.pem",
                      "--key", f"{keys}/server.key"])
sent = {"plaintext": 0, "tls": 0}
lock = threading.Lock()


def make_key():
    need("openssl")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                    "-keyout", f"{keys}/server.key", "-out", f"{keys}/server.pem", "-subj", "/CN=127.0.0.1",
                    "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"], check=True, capture_output=True)


def inside_tls():
    client = Client(f"127.0.0.1:{tls_port}", timeout=60)
    context = ssl.create_default_context(cafile=f"{keys}/server.pem")
    client.socket = context.wrap_socket(client.socket, server_hostname="127.0.0.1")
    return client


def consume(way):
    """All of the topic, ROUNDS times over; what came is added to SENT."""
    got = 0
    with inside_tls() if way == "tls" else broker.client(timeout=60) as client:
        for _ in range(ROUNDS):
            offset = 0
            while offset < MESSAGES:
                data = fetch(client, "t", offset, max_bytes=PIECE, partition_max=PIECE)["records"]
                got += len(data)
                offset = records(data)[-1].offset + 1
    with lock:
        sent[way] += got


def records(data):
    """The offsets only: a fetch may end in the middle of a batch."""
    found, at = [], 0
    while at + 61 <= len(data):
        size = struct.unpack_from(">i", data, at + 8)[0] + 12
        if at + size > len(data):
            break
        found.append(Record(b"", offset=struct.unpack_from(">q", data, at)[0]))
        at += size
    return found


def counters():
    return {name: broker.metric(f"kqfs_{name}_bytes_total")
            for name in ("net_sendfile", "net_copied", "tls_sendfile", "tls_copied")}


def moved(*ways):
    """What the counters and SENT have gained when consumers of these WAYS have all come to the end."""
    before, had = counters(), dict(sent)
    threads = [threading.Thread(target=consume, args=(way,)) for way in ways]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = counters()
    return ({name: after[name] - before[name] for name in after}, {way: sent[way] - had[way] for way in sent})


def test_plaintext_alone_is_sent_from_the_page_cache():
    topic = broker.topic("t")
    os.chmod(broker.mount, 0o755)
    os.chmod(topic, 0o755)
    os.chmod(f"{topic}/p0", 0o644)
    with broker.client() as client:
        for number in range(MESSAGES):
            refused(produce(client, "t", batch([Record(os.urandom(SIZE))])), "NONE")
    gained, got = moved(*["plaintext"] * CONSUMERS)
    check(got["plaintext"] >= CONSUMERS * ROUNDS * MESSAGES * SIZE, "not everything came", got)
    equal(gained, {"net_sendfile": got["plaintext"], "net_copied": 0, "tls_sendfile": 0, "tls_copied": 0})


def test_with_half_of_it_inside_tls_plaintext_is_still_not_copied():
    gained, got = moved(*["plaintext", "tls"] * (CONSUMERS // 2))
    equal(got["plaintext"], got["tls"])
    equal(gained["net_copied"], 0)
    equal(gained["net_sendfile"] - gained["tls_sendfile"], got["plaintext"], gained)
    equal(gained["tls_sendfile"] + gained["tls_copied"], got["tls"], gained)


def open_connections():
    text = read(broker.path(".kqfs", "metrics")).decode()
    return [(ktls, int(count)) for ktls, count in
            re.findall(r'^kqfs_tls_connections\{version="TLSv1\.3",cipher="\w+",ktls="(yes|no)"\} (\d+)$', text, re.M)]


def test_the_metrics_say_which_way_each_tls_connection_takes():
    until(lambda: not open_connections(), "those of before to be closed")
    with inside_tls() as client:
        fetch(client, "t", 0)
        equal(open_connections(), [("yes" if broker.metric("kqfs_tls_sendfile_bytes_total") else "no", 1)])


if __name__ == "__main__":
    make_key()
    mounted.main(broker)
