"""The rows that compare with the streams of Redis, NATS and RabbitMQ: see rows.py. They need what
packaging/install-missing peers installs, and for RabbitMQ its client (tests/bench/fetch).

Each is driven by its own client, with as much underway as makes it fastest; every message has 100
bytes and is acknowledged. All, kqfs too, keep files on the same disk and sync when the kernel likes.
"""

import json
import os
import shutil
import statistics
from pathlib import Path

import kit
from kit import Figures, NotHere, in_pairs
from peer_rows import Peer, free_port
from rows import FREE, LINE, operations_per_second, per_second, ratio_result, row
from tcp_rows import listening, rdclient

RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")  # the one in PATH changes the user


def needs(program, where=None):
    if not shutil.which(where or program):
        raise NotHere(f"needs {program}: packaging/install-missing peers")


def against(bench, stack, count, peers):
    """For each (name, function that produces COUNT messages a second): kqfs against it."""
    broker, number = listening(bench, stack, None), 0

    def into_kqfs():
        nonlocal number
        number += 1
        topic = kit.new_topic(broker, f"t{number}")
        kit.settle()
        answer = rdclient(bench, "produce", f"127.0.0.1:{broker.port}", f"t{number}", count, LINE, 1)
        kit.drop_topic(topic)
        return operations_per_second(answer)

    def settled(produce):
        def run():
            kit.settle()
            return produce()
        return run

    def into_mock():
        return operations_per_second(rdclient(bench, "produce", "mock", "t", count, LINE, 1))

    *theirs, alone, ours = in_pairs(bench.pairs, *(settled(produce) for _, produce in peers),
                                    into_mock, into_kqfs)
    most = f"the client's own mock broker gets {per_second(statistics.median(alone))}"
    for (name, _), figures in zip(peers, theirs):
        yield ratio_result("produce 100-byte messages, librdkafka", name, FREE,
                           Figures(figures, ours), per_second, at_least=5, note=most)


@row
def redis_produce(bench, stack):
    needs("redis-server")
    directory, port = bench.directory("redis", stack), free_port()
    Peer(bench, stack, "redis", ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir",
                                 str(directory), "--appendonly", "yes", "--appendfsync", "no",
                                 "--save", ""], port)
    count, value = bench.size(2000000, 20000), "x" * LINE

    def produce():
        output = kit.run(["redis-benchmark", "-p", port, "-n", count, "-P", 128, "-c", 4, "--csv",
                          "XADD", "s", "*", "v", value])
        kit.run(["redis-cli", "-p", port, "DEL", "s"])
        return float(output.strip().splitlines()[-1].split(",")[1].strip('"'))

    yield from against(bench, stack, count,
                       [("Redis streams, redis-benchmark, pipelines of 128", produce)])


@row
def nats_produce(bench, stack):
    needs("nats-server")
    program = bench.build / "tests/bench/natsclient"
    if not program.exists():
        raise NotHere("needs libnats-dev at build time: packaging/install-missing peers")
    directory, port = bench.directory("nats", stack), free_port()
    Peer(bench, stack, "nats", ["nats-server", "--addr", "127.0.0.1", "--port", str(port),
                                "--jetstream", "--store_dir", str(directory)], port)
    count, number = bench.size(1000000, 20000), 0

    def produce():
        nonlocal number
        number += 1
        return operations_per_second(json.loads(kit.run(
            [program, "produce", f"nats://127.0.0.1:{port}", f"s{number}", count, LINE, 50000])))

    yield from against(bench, stack, count,
                       [("NATS JetStream, its C client, 50,000 underway", produce)])


def rabbitmq(bench, stack):
    """A node of its own, with nothing of the system's configuration; the port of its streams."""
    directory, names = bench.directory("rabbitmq", stack), free_port()
    ports = {what: free_port() for what in ("queues", "streams", "nodes")}
    (directory / "rabbitmq.conf").write_text(f"""listeners.tcp.1 = 127.0.0.1:{ports["queues"]}
stream.listeners.tcp.1 = 127.0.0.1:{ports["streams"]}
stream.advertised_host = 127.0.0.1
stream.advertised_port = {ports["streams"]}
""")
    (directory / "plugins").write_text("[rabbitmq_stream].\n")
    environment = {
        **os.environ, "HOME": str(directory), "ERL_EPMD_PORT": str(names),
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
        "RABBITMQ_MNESIA_BASE": str(directory / "data"),
        "RABBITMQ_LOG_BASE": str(directory / "log"), "RABBITMQ_LOGS": "-",
        "RABBITMQ_NODENAME": f"bench{names}@localhost",
        "RABBITMQ_DIST_PORT": str(ports["nodes"]),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}"}
    # Erlang would start this by itself, and leave it behind.
    Peer(bench, stack, "epmd", ["epmd", "-address", "127.0.0.1", "-port", str(names)], names)
    Peer(bench, stack, "rabbitmq", [str(RABBITMQ)], ports["streams"], env=environment)
    return ports["streams"]


@row
def rabbitmq_produce(bench, stack):
    needs("rabbitmq-server", RABBITMQ)
    libraries = Path(os.environ.get("KQFS_CLIENTS", "")) / "rabbitmq/lib"
    if not os.environ.get("KQFS_CLIENTS") or not libraries.is_dir():
        raise NotHere("needs RabbitMQ's client: tests/bench/fetch DIR, KQFS_CLIENTS=DIR")
    needs("java")
    port, count = rabbitmq(bench, stack), bench.size(2000000, 20000)

    def producing(together):
        def produce():
            return operations_per_second(json.loads(kit.run(
                ["java", "-cp", libraries / "*", Path(__file__).with_name("RabbitProducer.java"),
                 port, count, LINE, together, 1])))
        return produce

    yield from against(bench, stack, count, [
        ("RabbitMQ streams, its Java client", producing(1)),
        ("the same, 100 messages an entry", producing(100))])
