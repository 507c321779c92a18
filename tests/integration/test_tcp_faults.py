#!/usr/bin/python3
"""Clients that misbehave on TCP: half-open, reset, stalled, slow, many, cut at every byte. Others are
not harmed, and what was counted for them is balanced in the end."""
# kqfs-test: timeout=600

import resource
import socket
import struct
import threading

from mounted import *
from protocol import *

broker = Server("b")
CONNECTIONS = 10000  # one after the other
IDLE = 2000          # at a time


def counters(server=None):
    """All of the network's metrics: name with labels -> value."""
    text = read((server or broker).path(".kqfs", "metrics")).decode()
    return {m[1]: float(m[2]) for m in re.finditer(r"^(kqfs_[^ ]+|kqfs_[^}]+}) (\S+)$", text, re.M)}


def counted(name, server=None):
    return counters(server).get(name, 0)


def closed(server=None):
    """Connections that ended, by reason."""
    found = {re.search('"(.*)"', name)[1]: value for name, value in counters(server).items()
             if name.startswith("kqfs_net_connections_closed_total")}
    check(found, "no connections are counted")
    return found


def connect(server=None):
    host, port = (server or broker).address.split(":")
    return socket.create_connection((host, int(port)), 30)


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def frame_of(name, version, **values):
    """A request's bytes with their length prefix."""
    class Collects:
        def sendall(self, data):
            self.data = data
    client = Client.__new__(Client)
    client.socket, client.client_id, client.correlation = Collects(), "test", 0
    client.send(name, version, **values)
    return client.socket.data


def api_versions():
    return frame_of("ApiVersions", 0)


class Bystander:
    """A client that works all the while: nobody else's fault is to be felt here."""

    def __init__(self, server=None):
        self.server = server or broker
        self.asked = 0
        self.failure = None
        self.stopping = False
        self.thread = threading.Thread(target=self.work)

    def work(self):
        try:
            with self.server.client() as client:
                while not self.stopping:
                    client.ask("Metadata", 1, topics=[])
                    self.asked += 1
        except BaseException as failure:
            self.failure = failure

    def __enter__(self):
        self.thread.start()
        until(lambda: self.asked or self.failure, "the bystander to be served")
        return self

    def __exit__(self, *_):
        before = self.asked
        until(lambda: self.asked > before or self.failure, "the bystander to be served still")
        self.stopping = True
        self.thread.join()
        if self.failure:
            raise Failed(f"the bystander: {self.failure!r}")


def settled(server=None):
    """Everybody has gone, and everything was counted back."""
    until(lambda: counted("kqfs_net_connections", server) == 0, "all connections to end")
    equal(counted("kqfs_net_queued_request_bytes", server), 0)
    equal(sum(closed(server).values()), counted("kqfs_net_connections_accepted_total", server))


def resident(server=None):
    with open(f"/proc/{(server or broker).process.pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1]) * 1024


def takes(memory, most, what):
    """A sanitizer keeps what was freed: then the figure says nothing."""
    if b"AddressSanitizer" not in read(os.environ["KQFS_BIN"]):
        check(memory <= most, f"{memory:.0f} bytes {what}")


def descriptors(server=None):
    return len(os.listdir(f"/proc/{(server or broker).process.pid}/fd"))


def fill(topic, megabytes):
    broker.topic(topic)
    with broker.client() as client:
        data = batch([Record(bytes(1000000))])
        for _ in range(megabytes):
            equal(produce(client, topic, data)["error_code"], 0)


# --- Cut and merged ---

def test_frames_cut_at_every_byte():
    frames = api_versions() + frame_of("Metadata", 12, topics=[]) + api_versions()
    with connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = Client.__new__(Client)
        client.socket = sock

        def receive(count):
            for _ in range(count):
                client.read(struct.unpack(">i", client.read(4))[0])

        for cut in range(len(frames) + 1):
            whole = whole_frames(frames[:cut])
            sock.sendall(frames[:cut])
            receive(whole)
            time.sleep(0.0005)  # mostly, the rest comes by itself then
            sock.sendall(frames[cut:])
            receive(3 - whole)
    settled()


def whole_frames(data):
    count = 0
    while len(data) >= 4 and len(data) >= 4 + struct.unpack(">i", data[:4])[0]:
        data = data[4 + struct.unpack(">i", data[:4])[0]:]
        count += 1
    return count


def test_a_thousand_requests_in_one_write():
    with connect() as sock:
        sender = threading.Thread(target=sock.sendall, args=(api_versions() * 1000,))
        sender.start()
        client = Client.__new__(Client)
        client.socket = sock
        for _ in range(1000):
            answer = client.read(struct.unpack(">i", client.read(4))[0])
            equal(answer[4:6], b"\0\0")
        sender.join()
    settled()


def test_a_produce_request_cut_into_small_pieces():
    broker.topic("pieces")
    with broker.client() as client:
        data = batch([Record(os.urandom(30000))])
        whole = frame_of("Produce", 9, acks=1, timeout_ms=1000, topic_data=[
            dict(name="pieces", partition_data=[dict(index=0, records=data)])])
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(0, len(whole), 97):
            client.socket.sendall(whole[i:i + 97])
        client.read(struct.unpack(">i", client.read(4))[0])
        equal(len(fetch(client, "pieces", 0, 11)["records"]), len(data))
    settled()


# --- Those who go away ---

def test_a_reset_in_the_middle_of_a_request():
    before = closed()["peer"]
    with Bystander():
        for i in range(300):
            sock = connect()
            sock.sendall(api_versions()[:i % 20])
            reset(sock)
    settled()
    equal(closed()["peer"], before + 301)


def test_a_reset_in_the_middle_of_a_response():
    """SIGPIPE, too: the broker writes to those who have gone."""
    fill("resets", 8)
    ask = frame_of("Fetch", 11, max_wait_ms=0, min_bytes=0, max_bytes=1 << 30, topics=[dict(
        topic="resets", partitions=[dict(partition=0, fetch_offset=0,
                                         partition_max_bytes=1 << 30)])])
    with Bystander():
        for i in range(100):
            sock = connect()
            sock.sendall(ask * (1 + i % 3))
            if i % 2:
                sock.recv(1 + i * 1000)
            reset(sock) if i % 4 < 2 else sock.close()
    settled()
    equal(counted("kqfs_net_copied_bytes_total"), 0)


def test_waiting_fetches_of_clients_that_go_away_are_forgotten():
    broker.topic("waits")
    ask = frame_of("Fetch", 11, max_wait_ms=600000, min_bytes=1, max_bytes=1 << 20, topics=[dict(
        topic="waits", partitions=[dict(partition=0, fetch_offset=0,
                                        partition_max_bytes=1 << 20)])])
    socks = [connect() for _ in range(100)]
    for sock in socks:
        sock.sendall(ask)
    until(lambda: counted("kqfs_waiters_parked") == 100, "all of them to wait")
    for sock in socks:
        reset(sock)
    until(lambda: counted("kqfs_waiters_parked") == 0, "nobody to wait any more")
    settled()


def test_a_half_closed_client_is_answered():
    with connect() as sock:
        sock.sendall(api_versions() * 3)
        sock.shutdown(socket.SHUT_WR)
        data = b""
        while part := sock.recv(1 << 16):
            data += part
    equal(whole_frames(data), 3)
    settled()


# --- Those who are slow, or say nothing ---

def test_a_client_that_does_not_read_holds_neither_memory_nor_others():
    fill("stalls", 20)
    ask = frame_of("Fetch", 11, max_wait_ms=0, min_bytes=0, max_bytes=1 << 30, topics=[dict(
        topic="stalls", partitions=[dict(partition=0, fetch_offset=0,
                                         partition_max_bytes=1 << 30)])])
    before = resident()
    socks = [connect() for _ in range(50)]
    with Bystander():
        for sock in socks:
            sock.sendall(ask * 5)  # 100 MB each
        until(lambda: counted('kqfs_requests_total{request="Fetch"}') >= 50, "all to be served")
    grown = resident() - before
    takes(grown, 20 << 20, "for clients that do not read")
    for sock in socks:
        sock.close()
    settled()


def test_what_is_not_in_memory_is_read_in_and_then_sent():
    if sh(f"stat -f -c %T {broker.data}").strip() in (b"tmpfs", b"ramfs"):
        raise Skip("the data directory is in memory")
    fill("cold", 20)
    for name in os.listdir(os.path.join(broker.data, "cold-0")):
        if name.endswith(".log"):
            with open(os.path.join(broker.data, "cold-0", name), "rb") as log:
                os.fsync(log.fileno())
                os.posix_fadvise(log.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before = counted("kqfs_net_cold_reads_total")
    with Bystander(), broker.client() as client:
        answer = fetch(client, "cold", 0, partition_max=1 << 30, max_bytes=1 << 30)
        equal([len(r.value) for r in records(answer["records"])], [1000000] * 20)
    check(counted("kqfs_net_cold_reads_total") > before, "nothing was cold")
    equal(counted("kqfs_net_copied_bytes_total"), 0)
    settled()


def test_a_request_that_drips_is_given_up():
    with Server("slow", ["--socket.request.timeout.ms", "500"]) as slow, Bystander(slow):
        socks = [connect(slow) for _ in range(200)]
        drips = api_versions() * 10
        for at in range(len(drips)):
            alive = 0
            for i, sock in enumerate(socks):
                if sock and i % 2:
                    with contextlib.suppress(OSError):
                        sock.sendall(drips[at:at + 1])
                        alive += 1
                elif sock and at == 0:
                    sock.sendall(drips[:7])
            if closed(slow)["slow"] >= 100:
                break
            time.sleep(0.01)
        until(lambda: closed(slow)["slow"] >= 100, "slow clients to be cut off")
        for sock in socks:
            sock.close()
        until(lambda: counted("kqfs_net_connections", slow) == 1, "all but the bystander to end")


def test_who_says_nothing_is_closed_when_it_is_time():
    with Server("idle", ["--connections.max.idle.ms", "300"]) as idle, Bystander(idle):
        socks = [connect(idle) for _ in range(100)]
        for sock in socks:
            equal(sock.recv(1), b"")
            sock.close()
        equal(closed(idle)["idle"], 100)


# --- Many ---

def test_many_connections_one_after_the_other():
    accepted = counted("kqfs_net_connections_accepted_total")

    def some(count):
        for i in range(count):
            sock = connect()
            if i % 3 == 0:
                sock.sendall(api_versions())
                sock.recv(1000)
            reset(sock) if i % 2 else sock.close()
    some(1000)
    before, open_before = resident(), descriptors()
    some(CONNECTIONS - 1000)
    settled()
    equal(counted("kqfs_net_connections_accepted_total"), accepted + CONNECTIONS)
    until(lambda: descriptors() <= open_before, "the descriptors to be closed")
    takes(resident() - before, 4 << 20, "were kept")


def test_idle_connections_take_little_memory():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < IDLE + 100:
        raise Skip(f"no more than {hard} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    def crowd():
        socks = [connect() for _ in range(IDLE)]
        for sock in socks:
            sock.sendall(api_versions())
        for sock in socks:
            sock.recv(1000)
        return socks
    try:
        socks = crowd()
        for sock in socks[IDLE // 10:]:  # warmed up by a tenth of them
            sock.close()
        until(lambda: counted("kqfs_net_connections") == IDLE // 10, "most to go")
        before = resident()
        socks = socks[:IDLE // 10] + crowd()
        each = (resident() - before) / IDLE
        with Bystander():
            pass
        for sock in socks:
            sock.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    settled()
    takes(each, 2048, "for each idle connection")


def test_more_connections_than_may_be_are_closed_at_once():
    options = ["--max.connections", "20", "--max.connections.per.ip", "15"]
    with Server("few", options) as few, Bystander(few):
        socks = [connect(few) for _ in range(40)]
        refused_ones = []
        for sock in socks:
            sock.settimeout(60)
            try:
                sock.sendall(api_versions())
                if not sock.recv(1000):
                    refused_ones.append(sock)
            except (ConnectionResetError, BrokenPipeError):
                refused_ones.append(sock)
        equal(len(refused_ones), 40 - 14)
        equal(counted('kqfs_net_connections_refused_total{reason="max.connections.per.ip"}', few),
              26)
        for sock in socks:
            sock.close()


class Poor(Server):
    """A broker that may have few descriptors."""

    def _become_user(self):
        resource.setrlimit(resource.RLIMIT_NOFILE, (150, 150))
        super()._become_user()


def test_without_descriptors_the_rest_goes_on():
    with Poor("poor", ["--max.open.files", "16"]) as poor:
        poor.allow("no descriptor is left")
        with Bystander(poor):
            socks = [connect(poor) for _ in range(300)]
            name = 'kqfs_net_connections_refused_total{reason="descriptors"}'
            gone = 0
            for sock in socks:
                sock.settimeout(0.05)
                try:
                    gone += sock.recv(1) == b""
                except (TimeoutError, ConnectionResetError):
                    pass
            check(gone > 50, f"only {gone} were refused")
            for sock in socks:
                sock.close()
        settled_with_refusals(poor, name)


def settled_with_refusals(server, name):
    until(lambda: counted("kqfs_net_connections", server) == 0, "all connections to end")
    check(counted(name, server) > 50, "not counted")
    with server.client() as client:
        client.ask("ApiVersions", 0)


if __name__ == "__main__":
    main(broker)
