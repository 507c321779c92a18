"""The rows of the TCP front end: see rows.py."""

import json
import os
import re
import statistics
import subprocess
import time
from pathlib import Path

import kit
from kit import CannotMeasure, Figures, NotHere, Placement, in_pairs, in_turn
from rows import (FREE, GIB, KIB, LINE, MIB, Result, bytes_per_second, micros, mib,
                  operations_per_second, per_second, rate, ratio_result, row, seconds)

SERVER_ON_1 = Placement(frozenset({1}), frozenset({0}))
FETCH_BYTES = 50 * MIB
CONSUMERS = 8
SLOW_READ_US = 50000


def listening(bench, stack, cpus, data=None, options=()):
    """A broker that listens on a port of its own choice, which is .port."""
    broker = bench.kqfs(stack, cpus, data, ["--listen", "plaintext://127.0.0.1:0", *options])
    found = re.findall(r"listening (?:at|on) plaintext://127\.0\.0\.1:(\d+)",
                       broker.log.read_text(errors="replace"))
    if not found:
        raise CannotMeasure("the broker does not say where it listens")
    broker.port = int(found[-1])
    return broker


def cpu_seconds(pid):
    """Of all threads, from the scheduler's own clock: ticks are too coarse."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            total += int((task / "schedstat").read_text().split()[0])
        except OSError:
            pass
    return total / 1e9


class Serving:
    """The yardstick: tcp-serve on one file, pinned as the broker is."""

    def __init__(self, bench, stack, path, cpus):
        self.process = subprocess.Popen(
            [str(bench.build / "tests/bench/client"), "tcp-serve", str(path)],
            stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
            preexec_fn=lambda: kit._pin(cpus))
        stack.callback(self.stop)
        self.port = json.loads(self.process.stdout.readline())["port"]

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def filled(bench, broker, name, size):
    """A topic with SIZE bytes of lines in partition 0; the file of its log."""
    topic = kit.new_topic(broker, name, segment_bytes=(1 << 31) - 1)
    bench.client("write", topic / "p0", LINE, MIB, size // MIB, "none", timeout=600)
    directory = Path(broker.process.args[broker.process.args.index("--data") + 1]) / f"{name}-0"
    logs = sorted(directory.glob("*.log"), key=lambda path: -path.stat().st_size)
    return logs[0]


@row
def tcp_fetch(bench, stack):
    """A plain consumer that discards, against a bare sendfile loop on the same file."""
    where = SERVER_ON_1
    broker = listening(bench, stack, where.daemon)
    size = bench.size(4 * GIB, 64 * MIB)
    log = filled(bench, broker, "t", min(size, GIB))
    serving = Serving(bench, stack, log, where.daemon)
    wanted = min(size, log.stat().st_size)
    rounds = size // wanted
    fetch_cpu, serve_cpu = [], []

    def measured(pid, cpus, *arguments):
        before, answers = cpu_seconds(pid), []
        for _ in range(rounds):
            answers.append(bench.client(*arguments, cpus=where.client))
        total = sum(answer["bytes"] for answer in answers)
        cpus.append((cpu_seconds(pid) - before) / (total / GIB))
        return total / sum(answer["seconds"] for answer in answers)

    def served():
        return measured(serving.process.pid, serve_cpu, "tcp-drain", "127.0.0.1", serving.port,
                        wanted, FETCH_BYTES)

    def fetched():
        return measured(broker.pid, fetch_cpu, "tcp-fetch", "127.0.0.1", broker.port, "t", 0,
                        wanted - FETCH_BYTES if wanted > 2 * FETCH_BYTES else wanted // 2,
                        FETCH_BYTES, 0)

    results = in_pairs(bench.pairs, served, fetched)
    work = f"fetch {bench.size('4 GiB', '64 MiB')} warm, one plain consumer that discards"
    yield ratio_result(work, "a bare sendfile loop", where, Figures(*results), rate, at_least=0.95)
    yield ratio_result(work + ": server CPU per GiB", "a bare sendfile loop", where,
                       Figures(serve_cpu[1:], fetch_cpu[1:]), lambda v: f"{v:.3f} s", at_most=1.15)


@row
def tcp_fan_out(bench, stack):
    where = SERVER_ON_1
    broker = listening(bench, stack, where.daemon)
    size = bench.size(GIB, 32 * MIB)
    log = filled(bench, broker, "t", size)
    each = log.stat().st_size // 2
    command = [str(bench.build / "tests/bench/client"), "tcp-fetch", "127.0.0.1", str(broker.port),
               "t", "0", str(each), str(4 * MIB), "0"]

    def consumers(count):
        def run():
            before = cpu_seconds(broker.pid)
            running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True,
                                        preexec_fn=lambda: kit._pin(where.client))
                       for _ in range(count)]
            total = 0
            for process in running:
                output, _ = process.communicate(timeout=300)
                if process.returncode:
                    raise CannotMeasure("a consumer failed")
                total += json.loads(output)["bytes"]
            return (cpu_seconds(broker.pid) - before) / (total / GIB)
        return run

    results = in_pairs(bench.pairs, consumers(1), consumers(CONSUMERS))
    yield ratio_result(f"fan-out: {CONSUMERS} consumers, server CPU per GiB sent", "one consumer",
                       where, Figures(*results), lambda v: f"{v:.3f} s", at_most=1.1)


def rdclient(bench, *arguments, cpus=None):
    program = bench.build / "tests/bench/rdclient"
    if not program.exists():
        raise NotHere("needs librdkafka-dev at build time")
    return json.loads(kit.run([program, *arguments], cpus))


@row
def tcp_produce(bench, stack):
    broker = listening(bench, stack, None)
    count = bench.size(4000000, 20000)
    number = 0

    def into(bootstrap):
        def run():
            nonlocal number
            number += 1
            name = f"t{number}"
            if bootstrap != "mock":
                topic = kit.new_topic(broker, name)
            kit.settle()
            answer = rdclient(bench, "produce", bootstrap, name, count, LINE, 1)
            if bootstrap != "mock":
                kit.drop_topic(topic)
            return operations_per_second(answer)
        return run

    results = in_pairs(bench.pairs, into("mock"), into(f"127.0.0.1:{broker.port}"))
    yield ratio_result("produce 100-byte messages, librdkafka, batches as it makes them",
                       "librdkafka's mock broker", FREE, Figures(*results), per_second, at_least=0.8)


@row
def tcp_latency(bench, stack):
    where = SERVER_ON_1
    broker = listening(bench, stack, where.daemon)
    kit.new_topic(broker, "t")
    count, interval = bench.size(10000, 200), 1000
    tails = {"loopback": [], "kqfs": []}

    def through(side, *arguments):
        def run():
            answer = bench.client(*arguments, cpus=where.client)
            tails[side].append(answer["p50_us"])
            return answer["p99_us"]
        return run

    middle = min(where.daemon)
    results = in_pairs(bench.pairs, through("loopback", "tcp-pingpong", count, interval, middle),
                       through("kqfs", "tcp-latency", "127.0.0.1", broker.port, "t", count, interval))
    work = "produce to consume at 1,000 messages/s, a bare client"
    yield ratio_result(work + ", p99", "loopback, the same bytes handed on, p99", where,
                       Figures(*results), micros, at_most=3,
                       note=f"p50 {statistics.median(tails['kqfs'][1:]):.1f} µs against "
                            f"{statistics.median(tails['loopback'][1:]):.1f} µs")
    answers = [rdclient(bench, "latency", f"127.0.0.1:{broker.port}", "t", bench.size(5000, 200),
                        interval, cpus=where.client) for _ in range(bench.pairs)]
    half, most = ([answer[key] for answer in answers] for key in ("p50_us", "p99_us"))
    yield Result("the same with librdkafka, linger 0, p50 / p99", "—", where,
                 f"{statistics.median(half):.1f} / {statistics.median(most):.1f} µs",
                 kqfs_values=tuple(zip(half, most)))


@row
def tcp_latency_under_appends(bench, stack):
    """p99.9 while a writer appends through the mount, against an equal load that is not kqfs."""
    broker = listening(bench, stack, None)
    kit.new_topic(broker, "t")
    count, interval = bench.size(10000, 200), 1000
    directory = bench.directory("load", stack)

    def latency():
        return bench.client("tcp-latency", "127.0.0.1", broker.port, "t", count, interval)["p999_us"]

    def beside(path):
        """While 100-byte lines go into PATH, one write each, until the latency is measured."""
        command = [str(bench.build / "tests/bench/client"), "write", str(path), str(LINE),
                   str(LINE), "100000000", "none"]
        writer = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            time.sleep(0.2)
            return latency()
        finally:
            writer.kill()
            writer.wait()

    def beside_ext4():
        path = directory / "file"
        path.touch()
        try:
            return beside(path)
        finally:
            path.unlink()

    def beside_kqfs():
        topic = kit.new_topic(broker, "w")
        try:
            return beside(topic / "p0")
        finally:
            kit.drop_topic(topic)

    results = in_pairs(bench.pairs, beside_ext4, beside_kqfs)
    yield ratio_result("the same, p99.9, while a writer appends lines through the mount",
                       "while the same writer appends to ext4", FREE, Figures(*results), micros,
                       at_most=2)


def disk_bytes(pid):
    """What the process has read from disks so far."""
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("read_bytes:"):
            return int(line.split()[1])
    raise CannotMeasure("no read_bytes")


class ColdReader:
    """Fetches a topic whose bytes are on the disk only; must not get to its end within the block.
    It is another client's machine: on CPUS, it yields to the one that is measured. .rates is how
    fast the broker read the bytes, a figure each time."""

    def __init__(self, bench, broker, topic, directory, cpus):
        self.directory, self.pid, self.cpus, self.rates = directory, broker.pid, cpus, []
        self.command = [str(bench.build / "tests/bench/client"), "tcp-fetch", "127.0.0.1",
                        str(broker.port), topic, "0", str(1 << 50), str(MIB), "0"]

    def __enter__(self):
        logs = sorted(self.directory.glob("*.log"))
        kit.make_cold(logs)
        self.size = sum(path.stat().st_size for path in logs)
        self.before, self.begun = disk_bytes(self.pid), time.monotonic()
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL,
                                        preexec_fn=kit.yielding(self.cpus))

    def __exit__(self, kind, *_):
        read, ended = disk_bytes(self.pid) - self.before, self.process.poll() is not None
        self.rates.append(read / (time.monotonic() - self.begun))
        self.process.kill()
        self.process.wait()
        if not kind and (ended or not 0 < read < self.size * 0.95):
            raise CannotMeasure(f"the cold reader got {mib(read / MIB)} of {mib(self.size / MIB)}")


@row
def tcp_latency_beside_cold(bench, stack):
    """p99 of a warm consumer while another fetches what only a slow disk has."""
    size = bench.size(512 * MIB, 64 * MIB)
    where = SERVER_ON_1
    disk = bench.slow_disk(stack, 3 * size + GIB, SLOW_READ_US, where.client)
    broker = listening(bench, stack, where.daemon, disk)
    kit.new_topic(broker, "t")
    reader = ColdReader(bench, broker, "cold", filled(bench, broker, "cold", size).parent,
                        where.client)
    count, interval = bench.size(10000, 200), 1000

    def latency():
        return bench.client("tcp-latency", "127.0.0.1", broker.port, "t", count, interval,
                            cpus=where.client)["p99_us"]

    def beside():
        with reader:
            return latency()

    kit.settle()
    results = in_turn(bench.pairs, latency, beside)
    yield ratio_result(f"the same, p99, while another fetches cold segments, {SLOW_READ_US // 1000} ms "
                       "a read of the disk", "without the cold reader", where, Figures(*results), micros,
                       at_most=1.5, note=f"it gets {rate(statistics.median(reader.rates))}")


class Idle:
    """So many connections for the block that asked for something once; .kib is what each of them
    took of the broker's memory, a figure each time."""

    def __init__(self, bench, broker, count):
        self.broker, self.count, self.kib = broker, count, []
        self.command = [str(bench.build / "tests/bench/client"), "tcp-idle", "127.0.0.1",
                        str(broker.port), str(count)]

    def __enter__(self):
        before = self.broker.rss_mib()
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True)
        if not self.process.stdout.readline():
            raise CannotMeasure(f"cannot hold {self.count} connections")
        self.kib.append((self.broker.rss_mib() - before) * 1024 / self.count)
        quiet(self.broker.pid)

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()
        quiet(self.broker.pid)


def quiet(pid, seconds=30):
    """Until the broker has done next to nothing for a while: what connections that come and go give
    it to do is no part of a measurement."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        before = cpu_seconds(pid)
        time.sleep(0.3)
        if cpu_seconds(pid) - before < 0.001:
            return
    raise CannotMeasure(f"the broker did not come to rest within {seconds} s")


@row
def tcp_idle(bench, stack):
    connections, where = bench.size(10000, 200), SERVER_ON_1
    limit = str(connections + 1000)
    broker = listening(bench, stack, where.daemon, options=["--max.connections", limit,
                                                            "--max.connections.per.ip", limit])
    kit.new_topic(broker, "t")
    count, interval = bench.size(5000, 200), 1000
    idle = Idle(bench, broker, connections)

    def latency():
        return bench.client("tcp-latency", "127.0.0.1", broker.port, "t", count, interval,
                            cpus=where.client)["p99_us"]

    def beside():
        with idle:
            return latency()

    results = in_turn(bench.pairs, latency, beside)
    most = max(idle.kib)
    yield Result(f"{connections:,} idle connections: memory of the broker for each", "none", where,
                 f"{most:.2f} KiB", target="≤ 2 KiB", met=most <= 2, kqfs_values=tuple(idle.kib))
    yield ratio_result(f"{connections:,} idle connections: p99 of an active client", "none", where,
                       Figures(*results), micros, at_most=1.2)


@row
def tcp_many_topics(bench, stack):
    topics = bench.size(10000, 100)
    few, many = bench.directory("few", stack), bench.directory("many", stack)
    for data, count in ((few, 10), (many, topics)):
        broker = bench.kqfs(stack, None, data)
        for number in range(count):
            (broker.mount / f"topic-{number}").mkdir()
        broker.stop()
    per_topic, starts = {}, []
    for data, count in ((few, 10), (many, topics)):
        figures = []
        for _ in range(bench.pairs):
            broker = listening(bench, stack, None, data)
            answer = bench.client("tcp-metadata", "127.0.0.1", broker.port,
                                  max(20, bench.size(20000, 200) // count))
            figures.append(answer["seconds"] / answer["operations"])
            if count == topics:
                starts.append(broker.start_seconds)
            broker.stop()
        per_topic[count] = statistics.median(figures)
    ratio = (per_topic[topics] / topics) / (per_topic[10] / 10)
    yield Result(f"{topics:,} topics: a metadata request", "10 topics", FREE,
                 micros(per_topic[topics] * 1e6), micros(per_topic[10] * 1e6), ratio,
                 "a topic costs no more (≤ 1)", ratio <= 1, note="ratio a topic")
    start = statistics.median(starts)
    yield Result(f"{topics:,} topics: start", "—", FREE, seconds(start), target="≤ 1 s",
                 met=start <= 1, kqfs_values=tuple(starts))
