#!/usr/bin/env python3
# kqfs-test: timeout=900
"""Logs go from a real Apache Kafka to kqfs and back, and from kqfs into another Kafka: offsets,
records, configurations, committed offsets of groups. Nobody may lose a message, or complain.

Kafka's jars are fetched by clients/fetch; without KQFS_CLIENTS this is skipped.
"""

import base64
import glob
import os
import re
import shlex
import shutil
import subprocess
import sys

from kafkanode import Kafka, folder, java, scenarios, tool
from mounted import (Broker, Failed, append, check, equal, free_port, getfattr, main, need, read,
                     setfattr, sh, short, test_directory, until)

sys.dont_write_bytecode = True
b64 = scenarios.b64

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
WHEN = 1700000000000

TOPICS = {  # name: partitions, configuration
    "plain": (3, {"retention.ms": "-1", "segment.bytes": "20000", "max.message.bytes": "2000000"}),
    "compacted": (1, {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.01",
                      "segment.ms": "100", "unclean.leader.election.enable": "true"}),
    "short": (2, {"retention.bytes": "123456789", "message.timestamp.type": "LogAppendTime"}),
    "txn": (1, {"retention.ms": "-1"}),
    "hanging": (1, {"retention.ms": "-1"}),
}


class Server(Broker):
    """kqfs with a listener, and a Java client of its own."""

    def __init__(self, name, data):
        self.bootstrap = f"127.0.0.1:{free_port()}"
        self.driver = None
        super().__init__(name, ["--listen", f"plaintext://{self.bootstrap}",
                                "--group.initial.rebalance.delay.ms", "0"], data=data)

    def ask(self, do, **arguments):
        if not self.driver:
            self.driver = scenarios.Driver(java("Driver"), self.bootstrap, self.directory)
        return self.driver.ask(do, **arguments)

    def stop(self, timeout=30):
        if self.driver:
            self.driver.kill()
            self.driver = None
        super().stop(timeout)


def messages(count, keys=0, first=0):
    return [{"key": b64(b"k%d" % (i % keys)) if keys else None,
             "value": None if i % 19 == 18 else b64(b"value %d" % (first + i)),
             "headers": [["h", b64(b"x%d" % i)], ["n", None]] if i % 3 == 0 else [],
             "timestamp": WHEN + first + i} for i in range(count)]


def produce(where, topic, partition, codec="none", idempotent=False, **more):
    return where.ask("produce", topic=topic, partition=partition, codec=codec, acks=-1,
                     idempotent=idempotent, **more)["offsets"]


def records(where, topic, partition, isolation="read_uncommitted"):
    """All that a consumer gets from the beginning."""
    return where.ask("consume", topic=topic, partition=partition, count=-1, timeout_ms=20000,
                     isolation=isolation, **{"from": "earliest"})["messages"]


def everything(where):
    """Each topic's records, by partition; of those with transactions also what is committed."""
    all_of = {}
    for topic, (partitions, _) in TOPICS.items():
        for partition in range(partitions):
            all_of[topic, partition] = records(where, topic, partition)
        if topic in ("txn", "hanging"):
            all_of[topic, "committed"] = records(where, topic, 0, "read_committed")
    return all_of


def compare(got, wanted, what):
    for key in wanted:
        equal(got[key], wanted[key], what, *key)


def text_of(some):
    return b"".join((base64.b64decode(m["value"]) if m["value"] else b"") + b"\n" for m in some)


def offsets(where):
    return [where.ask("committed", group=group, topic=topic, partitions=[0, 1])["offsets"]
            for group, topic in (("g1", "plain"), ("g2", "txn"))]


# --- Kafka's directory, and what is in it ---

class Origin:
    kafka = None
    wanted = None  # everything()
    offsets = None


def fill(kafka):
    for topic, (partitions, config) in TOPICS.items():
        kafka.ask("create", topic=topic, partitions=partitions, config=config)
    for partition in range(3):
        for i, codec in enumerate(CODECS):
            produce(kafka, "plain", partition, codec, i % 2 == 0, messages=messages(100, 7, 100 * i))
    for i in range(4):
        produce(kafka, "compacted", 0, messages=messages(18, 5, 1000 * i))
    produce(kafka, "short", 0, messages=messages(30))
    for i, end in enumerate(("commit", "abort", "commit")):
        kafka.ask("transaction", topic="txn", partition=0, id=f"t{i}", codec=CODECS[i], end=end,
                  messages=messages(5, 0, 10 * i))
    produce(kafka, "hanging", 0, messages=messages(3))
    kafka.ask("transaction", topic="hanging", partition=0, id="open", codec="none", end="open",
              messages=messages(2))
    produce(kafka, "hanging", 0, messages=messages(2))
    kafka.ask("delete_records", topic="plain", partition=1, before=173)
    kafka.ask("set_offset", group="g1", topic="plain", partition=0, offset=17)
    kafka.ask("set_offset", group="g1", topic="plain", partition=1, offset=200)
    kafka.ask("set_offset", group="g2", topic="txn", partition=0, offset=3)
    until(lambda: len(records(kafka, "compacted", 0)) < 30, "Kafka to compact", 60)


def origin():
    """A Kafka that has all of it, and was stopped; the same for all tests of this file."""
    if not Origin.kafka:
        need("javac")
        kafka = Kafka("origin").start()
        fill(kafka)
        Origin.wanted = everything(kafka)
        Origin.offsets = offsets(kafka)
        equal(Origin.offsets, [[17, 200], [3, -1]], "offsets that Kafka has")
        kafka.stop()
        Origin.kafka = kafka
    return Origin


def copied(name):
    """A Kafka like the origin, with a copy of its data."""
    source = origin().kafka
    kafka = Kafka.__new__(Kafka)
    kafka.__dict__.update(source.__dict__)
    kafka.directory = os.path.join(test_directory(), name)
    kafka.logs = os.path.join(kafka.directory, "logs")
    kafka.output = os.path.join(kafka.directory, "kafka.log")
    kafka.properties = os.path.join(kafka.directory, "server.properties")
    os.makedirs(kafka.directory)
    shutil.copytree(source.logs, kafka.logs, copy_function=shutil.copy2)
    with open(source.properties) as old, open(kafka.properties, "w") as new:
        new.write(old.read().replace(source.logs, kafka.logs))
    return kafka


def no_complaint(kafka):
    equal(kafka.complaints(), [], "what Kafka complains of")


# --- From Kafka ---

def test_all_that_kafka_has_is_here():
    wanted = origin().wanted
    kafka = copied("take")
    server = Server("take-kqfs", kafka.logs)
    server.allow(r"never ended")
    server.start()
    compare(everything(server), wanted, "records of")
    for (topic, partition), some in wanted.items():
        if partition == "committed" or (topic, "committed") in wanted:
            continue
        path = server.path(topic, f"p{partition}")
        equal(read(path), text_of(some), "text of", topic, partition)
        if some:
            equal(int(getfattr(path, "end")), some[-1]["offset"] + 1, "end of", topic, partition)
    for topic in ("txn", "hanging"):
        equal(read(server.path(topic, "p0")), text_of(wanted[topic, "committed"]), "text of", topic)
    equal(getfattr(server.path("plain", "p1"), "start"), "173", "start")
    equal(offsets(server), Origin.offsets, "committed offsets")
    server.stop()


def test_configurations_come_along():
    origin()
    kafka = copied("settings")
    server = Server("settings-kqfs", kafka.logs)
    server.allow(r"never ended")
    server.start()
    for topic, (_, config) in TOPICS.items():
        described = server.ask("describe", topic=topic)["config"]
        for name, value in config.items():
            if name == "unclean.leader.election.enable":
                continue
            equal(getfattr(server.path(topic), name), value, topic, name)
            equal(described[name], value, topic, name, "as Kafka's client sees it")
    log = server.log()
    check("unclean.leader.election.enable=" in log, "what is left out is said:", log)
    check("nothing tells how long messages of 1 topics (short)" in log, log)
    equal(getfattr(server.path("short"), "retention.ms"), "-1", "nothing is deleted by a guess")
    names = sh(f"ls {server.mount}").decode().split()
    check("__cluster_metadata" not in names, names)
    equal(server.ask("topics")["topics"].sort(), list(TOPICS).sort(), "topics")
    server.stop()


def test_kafka_goes_on_with_what_was_appended_here():
    wanted = {key: list(value) for key, value in origin().wanted.items()}
    kafka = copied("back")
    server = Server("back-kqfs", kafka.logs)
    server.allow(r"never ended")
    server.start()
    append(server.path("plain", "p0"), b"from the mount\nand more\n")
    for i, codec in enumerate(CODECS):
        produce(server, "plain", 1, codec, True, messages=messages(20, 3, 1000 * i))
    produce(server, "txn", 0, messages=messages(3))
    server.ask("set_offset", group="g1", topic="plain", partition=0, offset=321)
    server.ask("set_offset", group="g3", topic="plain", partition=2, offset=5)
    setfattr(server.path("plain"), "segment.bytes", "30000")
    os.mkdir(server.path("ours"))
    append(server.path("ours", "p0"), b"Kafka does not know this topic\n")
    here = everything(server)
    equal(len(here["plain", 1]), len(wanted["plain", 1]) + 100, "records after appending")
    server.stop()

    kafka.start()
    compare(everything(kafka), here, "records, back in Kafka, of")
    equal(offsets(kafka), [[321, 200], [3, -1]], "offsets, back in Kafka")
    equal(kafka.ask("committed", group="g3", topic="plain", partitions=[2])["offsets"], [5])
    # A new producer there is none that wrote here: nothing of it is taken for a repetition.
    for _ in range(3):
        produce(kafka, "plain", 1, "none", True, messages=messages(20))
    equal(len(records(kafka, "plain", 1)), len(here["plain", 1]) + 60, "records of a new producer")
    out = tool("org.apache.kafka.tools.consumer.ConsoleConsumer", "--bootstrap-server",
               kafka.bootstrap, "--topic", "plain", "--partition", "0", "--offset", "earliest",
               "--timeout-ms", "4000")
    check(out.endswith("from the mount\nand more\n"), "the console consumer:", short(out[-100:]))
    there = everything(kafka)
    # It knows neither our topic nor the owners of groups, and says so.
    unknown = [line for line in kafka.complaints() if "ours-0" in line or "record type 19281" in line]
    equal(len([line for line in unknown if "stray" in line]), 1, "topics that Kafka puts aside")
    equal([line for line in kafka.complaints() if line not in unknown], [], "other complaints")
    kafka.stop()

    server.start()
    compare(everything(server), there, "records, here again, of")
    equal(read(server.path("ours", "p0")), b"Kafka does not know this topic\n", "the topic of ours")
    equal(getfattr(server.path("plain"), "segment.bytes"), "20000", "Kafka's configuration, again")
    equal(offsets(server), [[321, 200], [3, -1]], "offsets, here again")
    server.stop()


def test_nothing_acknowledged_is_lost_when_kafka_was_killed():
    origin()
    kafka = copied("killed").start()
    produce(kafka, "plain", 2, "lz4", True, messages=messages(300))
    wanted = everything(kafka)
    kafka.kill()
    server = Server("killed-kqfs", kafka.logs)
    server.allow(r"never ended|damaged: rebuilding")
    server.start()
    compare(everything(server), wanted, "records of")
    append(server.path("plain", "p2"), b"one more\n")
    server.stop()
    kafka.start()
    equal(len(records(kafka, "plain", 2)), len(wanted["plain", 2]) + 1, "records, back in Kafka")
    kafka.stop()


def test_without_the_metadata_topics_are_those_of_the_directories():
    wanted = origin().wanted
    kafka = copied("bare")
    shutil.rmtree(os.path.join(kafka.logs, "__cluster_metadata-0"))
    server = Server("bare-kqfs", kafka.logs)
    server.allow(r"never ended")
    server.start()
    compare(everything(server), wanted, "records of")
    equal(getfattr(server.path("compacted"), "cleanup.policy"), "delete", "nothing is compacted")
    equal(getfattr(server.path("short"), "retention.ms"), "-1", "nothing is deleted")
    check("nothing tells how long" in server.log(), server.log())
    server.stop()


# --- To Kafka ---

def export(data, *arguments, status=0):
    done = subprocess.run([os.environ["KQFS_BIN"], "export", "--data", data, *arguments],
                          capture_output=True, text=True, timeout=100)
    check(done.returncode == status, "export", *arguments, "exited", done.returncode, done.stderr)
    return done


def make_topics(kafka, data, *arguments):
    """Runs what `export --commands` prints."""
    for line in export(data, "--commands", *arguments).stdout.splitlines():
        words = shlex.split(line.replace("$BOOTSTRAP", kafka.bootstrap))
        equal(words[0], "kafka-topics.sh", "a command")
        tool("org.apache.kafka.tools.TopicCommand", *words[1:])


def dump_is_clean(directory):
    files = [f for f in sorted(glob.glob(directory + "/*"))
             if re.search(r"\.(log|index|timeindex|txnindex|snapshot)$", f)]
    check(files, "files in", directory)
    for file in files:
        out = tool("kafka.tools.DumpLogSegments", "--deep-iteration", "--files", file)
        bad = re.findall(r".*(?:[Mm]ismatch|[Ii]nvalid|[Cc]orrupt|out of order|dangling|Exception).*",
                         out)
        bad = [line for line in bad if "isvalid: true" not in line]
        equal(bad, [], "what the dump tool says of", file)


def filled_here(name):
    """A data directory of kqfs, with everything in it, and what a consumer got."""
    folder()
    server = Server(name, None).start()
    server.topic("orders", retention_ms=-1, segment_bytes=20000, max_message_bytes=3000000)
    os.close(os.open(server.path("orders", "p1"), os.O_CREAT | os.O_WRONLY | os.O_APPEND))
    for i in range(4):
        append(server.path("orders", "p0"), b"".join(b"line %d %d\n" % (i, j) for j in range(300)))
    for i, codec in enumerate(CODECS):
        produce(server, "orders", i % 2, codec, True, messages=messages(200, 7, 1000 * i))
    server.topic("cut", cleanup_policy="delete")
    append(server.path("cut", "p0"), b"a\nb\nc\n")
    os.unlink(server.path("cut", "p0"))
    append(server.path("cut", "p0"), b"d\n")
    server.topic("empty")
    server.ask("set_offset", group="g1", topic="orders", partition=0, offset=700)
    server.ask("set_offset", group="g2", topic="cut", partition=0, offset=3)
    wanted = {(topic, p): records(server, topic, p)
              for topic, p in (("orders", 0), ("orders", 1), ("cut", 0), ("empty", 0))}
    server.stop()
    return server.data, wanted


def test_logs_go_into_a_fresh_kafka():
    data, wanted = filled_here("source")
    kafka = Kafka("target").start()
    make_topics(kafka, data)
    make_topics(kafka, data, "--topic", "__consumer_offsets")
    kafka.stop()
    said = export(data, kafka.logs)
    check("exported 4 partitions of 3 topics" in said.stdout, said)
    equal(said.stderr, "", "an export that goes well says")
    export(data, "--topic", "__consumer_offsets", kafka.logs)
    for topic, partition in (("orders", 0), ("orders", 1), ("cut", 0)):
        dump_is_clean(os.path.join(kafka.logs, f"{topic}-{partition}"))
    kafka.start()
    for (topic, partition), some in wanted.items():
        equal(records(kafka, topic, partition), some, "records of", topic, partition)
    equal(kafka.ask("committed", group="g1", topic="orders", partitions=[0, 1])["offsets"],
          [700, -1], "committed offsets")
    equal(kafka.ask("committed", group="g2", topic="cut", partitions=[0])["offsets"], [3])
    described = kafka.ask("describe", topic="orders")["config"]
    for name, value in (("retention.ms", "-1"), ("segment.bytes", "20000"),
                        ("max.message.bytes", "3000000")):
        equal(described[name], value, name)
    out = tool("org.apache.kafka.tools.consumer.ConsoleConsumer", "--bootstrap-server",
               kafka.bootstrap, "--topic", "orders", "--group", "g1", "--from-beginning",
               "--timeout-ms", "5000")
    equal(len(out.splitlines()), len(wanted["orders", 0]) - 700 + len(wanted["orders", 1]),
          "lines from where the group was")
    # The ids of producers there begin anew.
    for _ in range(3):
        produce(kafka, "orders", 1, "none", True, messages=messages(200))
    equal(len(records(kafka, "orders", 1)), len(wanted["orders", 1]) + 600, "new records")
    no_complaint(kafka)
    kafka.stop()
    kafka.start()
    equal(records(kafka, "orders", 0), wanted["orders", 0], "records after another start")
    no_complaint(kafka)
    kafka.stop()


def snapshot_of(directory):
    """Names, sizes and contents of all files below."""
    return sh(f"cd {directory} && find . -type f ! -name .lock | sort | xargs sha256sum")


def test_what_cannot_be_exported_changes_nothing():
    data, _ = filled_here("source2")
    kafka = Kafka("refusing").start()
    for topic, partitions in (("orders", 3), ("cut", 1)):
        kafka.ask("create", topic=topic, partitions=partitions, config={})
    produce(kafka, "cut", 0, messages=messages(1))
    running = export(data, kafka.logs, status=9)
    check("is in use by a broker that runs: stop it" in running.stderr, running.stderr)
    kafka.stop()
    before = snapshot_of(kafka.logs)
    for topics, words in ((["orders"], "topic orders has 3 partitions there and 2 here"),
                          (["cut"], "cut-0 holds messages, or did: --overwrite replaces them"),
                          (["empty"], "there is no partition of a topic empty"),
                          (["nowhere"], "there is no topic nowhere in"),
                          (["cut", "orders", "empty"], "there is no partition of a topic empty")):
        done = export(data, *(a for t in topics for a in ("--topic", t)), kafka.logs, status=9)
        check(words in done.stderr, topics, done.stderr)
    check("is no log directory" in export(data, test_directory(), status=9).stderr)
    equal(snapshot_of(kafka.logs), before, "files")
    os.rename(os.path.join(kafka.logs, ".kafka_cleanshutdown"), os.path.join(kafka.directory, "mark"))
    check("was not stopped cleanly" in export(data, kafka.logs, status=9).stderr)
    os.rename(os.path.join(kafka.directory, "mark"), os.path.join(kafka.logs, ".kafka_cleanshutdown"))
    done = export(data, "--topic", "cut", "--overwrite", kafka.logs)
    check("exported 1 partitions of 1 topics: 1 messages" in done.stdout, done)
    kafka.start()
    equal([m["offset"] for m in records(kafka, "cut", 0)], [3], "offsets")
    no_complaint(kafka)
    kafka.stop()


def test_a_log_that_was_kafkas_goes_to_another_kafka():
    """With transactions, and epochs that the other one has not reached."""
    wanted = origin().wanted
    kafka = copied("old")
    for _ in range(2):  # later epochs
        kafka.start()
        kafka.ask("set_offset", group="g1", topic="plain", partition=0, offset=17)
        kafka.stop()
    server = Server("between", kafka.logs)
    server.allow(r"never ended")
    server.start()
    produce(server, "txn", 0, messages=messages(4))
    # A commit with the epoch of its message, as a consumer makes it.
    server.ask("join", group="g4", topic="txn")
    until(lambda: server.ask("poll", count=1, timeout_ms=1000)["messages"], "messages")
    server.ask("commit")
    server.ask("leave")
    server.stop()
    other = Kafka("other").start()
    topics = [a for t in ("plain", "txn", "compacted", "__consumer_offsets") for a in ("--topic", t)]
    make_topics(other, kafka.logs, *topics)
    other.stop()
    export(kafka.logs, *topics, other.logs)
    dump_is_clean(os.path.join(other.logs, "txn-0"))
    other.start()
    equal(records(other, "plain", 1), wanted["plain", 1], "records")
    equal(records(other, "compacted", 0), wanted["compacted", 0], "records that were compacted")
    committed = records(other, "txn", 0, "read_committed")
    equal(committed[:-4], wanted["txn", "committed"], "committed records")
    equal(offsets(other), Origin.offsets, "committed offsets")
    # A member of the group goes on, although it committed in an epoch that is to come here.
    other.ask("join", group="g4", topic="txn")
    produce(other, "txn", 0, messages=messages(1))
    until(lambda: other.ask("poll", count=1, timeout_ms=1000)["messages"], "the group to go on", 30)
    no_complaint(other)
    other.stop()


if __name__ == "__main__":
    main()
