"""The rows that compare with Apache Kafka: see rows.py. They need KQFS_CLIENTS, a directory that
tests/integration/clients/fetch has filled.

A peer keeps its data in files on the same disk and syncs when the kernel likes, as kqfs does by
default. Messages have 100 bytes.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import time
from pathlib import Path

import kit
from kit import CannotMeasure, Figures, NotHere, in_pairs
from rows import (FREE, LINE, MIB, Result, micros, mib, operations_per_second, per_second,
                  ratio_result, row)
from tcp_rows import cpu_seconds, listening, rdclient

RECORD = 110  # bytes in a log of a message of 100, without a key
HEAP = ("-Xmx1g", "-Xms1g")  # kafka-server-start.sh's own


def free_port():
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        return some.getsockname()[1]


def wait_for(port, process, what, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            raise CannotMeasure(f"{what} ended with {process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise CannotMeasure(f"{what} did not listen within {seconds} s")


class Peer:
    """A server of somebody else's, in a directory of its own; stopped with the row."""

    def __init__(self, bench, stack, name, command, port, **more):
        self.name, self.port = name, port
        self.log = bench.work / f"{name}.log"
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, start_new_session=True, **more)
        stack.callback(self.stop)
        wait_for(port, self.process, name)

    @property
    def pid(self):
        return self.process.pid

    def stop(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def resident_mib(self):
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
        raise CannotMeasure("no VmRSS")


# --- Apache Kafka ---

def kafka_classes():
    libraries = Path(os.environ.get("KQFS_CLIENTS", "")) / "java/lib"
    if not os.environ.get("KQFS_CLIENTS") or not libraries.is_dir():
        raise NotHere("needs Apache Kafka: tests/integration/clients/fetch DIR, KQFS_CLIENTS=DIR")
    if not shutil.which("java"):
        raise NotHere("needs java")
    return str(libraries / "*")


def kafka(bench, stack):
    """One node of Apache Kafka as its own server.properties has it."""
    classes, directory = kafka_classes(), bench.directory("kafka", stack)
    port, control = free_port(), free_port()
    properties = directory / "server.properties"
    properties.write_text(f"""process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{control}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{control}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
num.network.threads=3
num.io.threads=8
log.dirs={directory}/logs
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
""")
    kit.run(["java", "-cp", classes, "kafka.tools.StorageTool", "format", "-t",
             "MkU3OEVBNTcwNTJENDM2Qg", "-c", properties])
    return Peer(bench, stack, "kafka", ["java", *HEAP, "-XX:+UseG1GC", "-cp", classes, "kafka.Kafka",
                                        str(properties)], port)


def write_pieces(path, count):
    """COUNT messages as a log has them, 1 MiB at once; the CPU seconds of write(2)."""
    piece = b"x" * MIB
    with open(path, "wb", buffering=0) as file:
        before = time.thread_time()
        for _ in range(max(1, count * RECORD // MIB)):
            file.write(piece)
        return time.thread_time() - before


def ready_pages(bench, count):
    """Memory for COUNT messages, of a broker in the page cache and of its client, that was in use
    before: what a hypervisor takes to give a machine pages that it never used (ten times write(2)
    itself) is on neither's side."""
    kit.settle()
    path = bench.work / "pages"
    write_pieces(path, 2 * count)
    path.unlink()


def bare_write(bench, count):
    """CPU a message, in µs, of write(2) alone: what a broker that keeps them in files cannot save."""
    ready_pages(bench, count)
    path = bench.work / "bare"
    seconds = write_pieces(path, count)
    path.unlink()
    return seconds / count * 1e6


class Both:
    """The same client against kqfs and Apache Kafka."""

    def __init__(self, bench, stack):
        self.bench = bench
        self.kafka = kafka(bench, stack)
        self.kqfs = listening(bench, stack, None, options=["--num.partitions", "1"])
        self.number = 0
        self.cpu = {"kafka": [], "kqfs": []}

    def produce(self, side, count):
        server = getattr(self, side)
        self.number += 1
        ready_pages(self.bench, count)
        before = cpu_seconds(server.pid)
        answer = rdclient(self.bench, "produce", f"127.0.0.1:{server.port}", f"t{self.number}", count,
                          LINE, 1)
        self.cpu[side].append((cpu_seconds(server.pid) - before) / count * 1e6)
        return operations_per_second(answer)

    def consume(self, side, topic, count):
        server = getattr(self, side)
        return operations_per_second(rdclient(self.bench, "consume", f"127.0.0.1:{server.port}",
                                              topic, count))


@row
def kafka_throughput(bench, stack):
    both = Both(bench, stack)
    bare = []
    count = bench.size(4000000, 20000)
    for _ in range(bench.size(3, 1)):  # its compiler has to see the code some times
        both.produce("kafka", count)
    both.cpu = {"kafka": [], "kqfs": []}
    results = in_pairs(bench.pairs, lambda: both.produce("kafka", count),
                       lambda: both.produce("kqfs", count),
                       lambda: bare.append(bare_write(bench, count)))
    yield ratio_result("produce 100-byte messages, librdkafka", "Apache Kafka 4", FREE,
                       Figures(*results[:2]), per_second, at_least=2,
                       note="the client itself is near its limit: see the row against its mock")
    yield ratio_result("the same: broker's CPU a message", "Apache Kafka 4", FREE,
                       Figures(both.cpu["kafka"][1:], both.cpu["kqfs"][1:]), lambda v: f"{v:.3f} µs",
                       at_most=0.25,
                       note=f"write(2) of the same bytes alone: {statistics.median(bare[1:]):.3f} µs")
    for side in ("kafka", "kqfs"):
        server = getattr(both, side)
        rdclient(bench, "produce", f"127.0.0.1:{server.port}", "c", count, LINE, 1)
    results = in_pairs(bench.pairs, lambda: both.consume("kafka", "c", count),
                       lambda: both.consume("kqfs", "c", count))
    yield ratio_result("consume 100-byte messages, librdkafka", "Apache Kafka 4", FREE,
                       Figures(*results), per_second, at_least=1.2)
    memory = both.kqfs.rss_mib() / both.kafka.resident_mib()
    yield Result("resident memory after that", "Apache Kafka 4", FREE, mib(both.kqfs.rss_mib()),
                 mib(both.kafka.resident_mib()), memory, "≤ 0.05", memory <= 0.05)


@row
def kafka_latency(bench, stack):
    both = Both(bench, stack)
    count = bench.size(5000, 200)
    middle = {"kafka": [], "kqfs": []}

    def latency(side):
        answer = rdclient(bench, "latency", f"127.0.0.1:{getattr(both, side).port}", "l", count, 1000)
        middle[side].append(answer["p50_us"])
        return answer["p99_us"]

    for side in ("kafka", "kqfs"):
        rdclient(bench, "produce", f"127.0.0.1:{getattr(both, side).port}", "l", 1000, LINE, 1)
    results = in_pairs(bench.pairs, lambda: latency("kafka"), lambda: latency("kqfs"))
    yield ratio_result("produce to consume at 1,000 messages/s, librdkafka, p99", "Apache Kafka 4",
                       FREE, Figures(*results), micros, at_most=0.2,
                       note=f"p50 {statistics.median(middle['kqfs'][1:]):.0f} µs against "
                            f"{statistics.median(middle['kafka'][1:]):.0f} µs")
