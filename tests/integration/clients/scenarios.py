"""What every Kafka client must be able to do, as functions of a bench: a fresh broker and drivers.

A scenario returns nothing where it went well, raises Failed where not, Skip where the client cannot
be asked for it. Topics have a name of their own for each client and scenario.
"""

import base64
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

from mounted import Failed, Skip, append, check, equal, getfattr, read, until  # noqa: E402


def b64(value):
    return None if value is None else base64.b64encode(value).decode()


class Driver:
    """One process of a client's driver."""

    def __init__(self, command, bootstrap, directory):
        self.errors = open(os.path.join(directory, "driver.log"), "ab")
        self.process = subprocess.Popen([*command, bootstrap], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=self.errors, bufsize=0,
                                        start_new_session=True)
        self.buffer = b""

    def begin(self, do, **arguments):
        self.process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")

    def answer(self, timeout=90):
        end = time.monotonic() + timeout
        while b"\n" not in self.buffer:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, end - time.monotonic()))
            if not ready:
                raise Failed(f"no answer within {timeout} s")
            some = os.read(self.process.stdout.fileno(), 1 << 20)
            if not some:
                raise Failed(f"the driver ended ({self.process.wait()})")
            self.buffer += some
        line, self.buffer = self.buffer.split(b"\n", 1)
        answer = json.loads(line)
        if "unsupported" in answer:
            raise Skip(answer["unsupported"])
        return answer

    def ask(self, do, **arguments):
        """The answer; an error of the client is a failure."""
        self.begin(do, **arguments)
        answer = self.answer()
        if "error" in answer:
            raise Failed(f"{do}: {answer['error']}")
        return answer

    def refused(self, words, do, **arguments):
        """The client must report an error that has one of WORDS in it."""
        self.begin(do, **arguments)
        error = self.answer().get("error")
        check(error, f"{do}: no error, wanted one of", words)
        plain = "".join(c for c in error.lower() if c.isalnum())
        check(any(w in plain for w in words), f"{do}: got {error!r}, wanted one of", words)

    def kill(self):
        """With what it runs in its turn."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            stream.close()


class Bench:
    """A broker, a topic name, and as many drivers as a scenario asks for."""

    def __init__(self, broker, command, name):
        self.broker, self.command, self.topic = broker, command, name
        self.drivers = []

    def driver(self):
        self.drivers.append(Driver(self.command, self.broker.bootstrap, self.broker.directory))
        return self.drivers[-1]

    def path(self, name):
        return os.path.join(self.broker.mount, self.topic, name)

    def make(self, partitions=1):
        directory = os.path.join(self.broker.mount, self.topic)
        os.mkdir(directory)
        for n in range(1, partitions):
            open(os.path.join(directory, f"p{n}"), "ab").close()

    def end(self):
        for driver in self.drivers:
            driver.kill()


def values(answer):
    return [base64.b64decode(m["value"]) for m in answer["messages"]]


def numbered(first, count):
    return [b"message %d" % n for n in range(first, first + count)]


def plain(messages):
    return [{"key": None, "value": b64(m)} for m in messages]


# --- Producing ---

def produce_with(codec):
    def scenario(bench):
        bench.make()
        wanted = numbered(0, 500)
        answer = bench.driver().ask("produce", topic=bench.topic, partition=0, codec=codec,
                                    messages=plain(wanted))
        check(answer["offsets"] in (list(range(500)), [-1] * 500), "offsets", answer["offsets"][:9])
        equal(read(bench.path("p0")).splitlines(), wanted)
        got = bench.driver().ask("consume", topic=bench.topic, partition=0, count=500,
                                 timeout_ms=15000, **{"from": "earliest"})
        equal(values(got), wanted)
    scenario.__name__ = f"produce_{codec}"
    return scenario


def acks_with(acks):
    def scenario(bench):
        bench.make()
        wanted = numbered(0, 100)
        bench.driver().ask("produce", topic=bench.topic, partition=0, acks=acks,
                           messages=plain(wanted))
        until(lambda: read(bench.path("p0")).splitlines() == wanted, "all messages")
    scenario.__name__ = f"acks_{'all' if acks == -1 else acks}"
    return scenario


def keys_headers_and_timestamps(bench):
    bench.make()
    now = int(time.time() * 1000) - 60000
    sent = [{"key": b64(b"key %d" % n), "value": b64(b"value %d" % n), "timestamp": now + n,
             "headers": [["a", b64(b"1")], ["b", b64("ü".encode())]]} for n in range(10)]
    driver = bench.driver()
    try:
        driver.ask("produce", topic=bench.topic, partition=0, messages=sent)
        timed = True
    except Skip:
        for message in sent:
            message["timestamp"] = None
        driver.ask("produce", topic=bench.topic, partition=0, messages=sent)
        timed = False
    got = driver.ask("consume", topic=bench.topic, partition=0, count=10, timeout_ms=15000,
                     **{"from": "earliest"})["messages"]
    for n, (s, g) in enumerate(zip(sent, got, strict=True)):
        equal((g["offset"], g["key"], g["value"], [list(h) for h in g["headers"]]),
              (n, s["key"], s["value"], s["headers"]))
        check(not timed or g["timestamp"] == now + n, "timestamp", g["timestamp"], now + n)
    lines = [json.loads(line) for line in read(bench.path("p0.jsonl")).splitlines()]
    equal([(m["key"], m["value"]) for m in lines],
          [(f"key {n}", f"value {n}") for n in range(10)])


def idempotent_producer(bench):
    bench.make()
    wanted = numbered(0, 1000)
    bench.driver().ask("produce", topic=bench.topic, partition=0, idempotent=True,
                       messages=plain(wanted))
    equal(read(bench.path("p0")).splitlines(), wanted)


def message_of_1_mib(bench):
    bench.make()
    wanted = bytes(97 + n % 26 for n in range(1 << 20 >> 6)) * 64
    driver = bench.driver()
    wanted = wanted[:(1 << 20) - 200]  # the batch around it counts too
    driver.ask("produce", topic=bench.topic, partition=0, messages=plain([wanted]))
    equal(read(bench.path("by-offset/p0/0.value").replace("/by-offset", "/by-offset")), wanted)
    got = driver.ask("consume", topic=bench.topic, partition=0, count=1, timeout_ms=15000,
                     **{"from": "earliest"})
    equal(values(got), [wanted])


# --- Consuming by assignment ---

def consume_from_earliest(bench):
    bench.make()
    append(bench.path("p0"), b"".join(m + b"\n" for m in numbered(0, 2000)))
    got = bench.driver().ask("consume", topic=bench.topic, partition=0, count=2000,
                             timeout_ms=15000, **{"from": "earliest"})
    equal(values(got), numbered(0, 2000))
    equal([m["offset"] for m in got["messages"]], list(range(2000)))


def consume_from_latest(bench):
    bench.make()
    append(bench.path("p0"), b"old\n" * 10)
    driver = bench.driver()
    driver.begin("consume", topic=bench.topic, partition=0, count=3, timeout_ms=30000,
                 **{"from": "latest"})
    n = 0
    while not select.select([driver.process.stdout], [], [], 0.2)[0] and n < 150:
        append(bench.path("p0"), b"new %d\n" % n)
        n += 1
    answer = driver.answer()
    check("error" not in answer, answer)
    got = values(answer)
    first = int(got[0].split()[1])
    equal(got, [b"new %d" % i for i in range(first, first + 3)])


def consume_from_offset(bench):
    bench.make()
    append(bench.path("p0"), b"".join(m + b"\n" for m in numbered(0, 100)))
    got = bench.driver().ask("consume", topic=bench.topic, partition=0, count=10, timeout_ms=15000,
                             **{"from": {"offset": 42}})
    equal(values(got), numbered(42, 10))


def consume_from_time(bench):
    bench.make()
    for n in range(10):
        append(bench.path("p0.jsonl"), b'{"timestamp":%d,"value":"message %d"}\n' % (
            1700000000000 + n * 1000, n))
    got = bench.driver().ask("consume", topic=bench.topic, partition=0, count=3, timeout_ms=15000,
                             **{"from": {"time": 1700000003500}})
    equal(values(got), numbered(4, 3))


# --- Groups ---

def polled(members):
    """All at once, and again those that have answered while another has not: a poll of some clients
    ends only when all members have joined again, and they join within their own polls."""
    answers = {member: {"messages": [], "assigned": []} for member in members}
    busy = []
    while True:
        for member in members:
            if member not in busy:
                member.begin("poll", timeout_ms=300, count=100000)
                busy.append(member)
        end = time.monotonic() + 1
        while busy and time.monotonic() < end:
            streams = [member.process.stdout for member in busy]
            ready = select.select(streams, [], [], 0.1)[0]
            for member in [m for m in busy if m.process.stdout in ready]:
                answer = member.answer()
                check("error" not in answer, answer)
                busy.remove(member)
                answers[member]["messages"] += answer["messages"]
                answers[member]["assigned"] = answer["assigned"]
        if not busy:
            return list(answers.values())


def settled(members, partitions):
    """Polls until the partitions are spread over MEMBERS, each to one; returns what came."""
    came = []

    def spread():
        answers = polled(members)
        for answer in answers:
            came.extend(answer["messages"])
        have = [answer["assigned"] for answer in answers]
        return sorted(sum(have, [])) == list(range(partitions)) and all(have)

    until(spread, f"{partitions} partitions over {len(members)} members", 60)
    return came


def joined(bench, group, instance=None):
    member = bench.driver()
    member.ask("join", group=group, topic=bench.topic, instance=instance)
    return member


def drained(members, got, wanted, timeout=40):
    """Polls MEMBERS until all of WANTED were GOT."""
    got = set(values({"messages": got}))
    end = time.monotonic() + timeout
    while not got >= wanted:
        check(time.monotonic() < end, f"{len(wanted - got)} messages did not come, such as",
              sorted(wanted - got)[:3])
        for answer in polled(members):
            got |= set(values(answer))
    return got


def fill(bench, partitions, first, count):
    for p in range(partitions):
        append(bench.path(f"p{p}"), b"".join(b"p%d %d\n" % (p, n)
                                            for n in range(first, first + count)))
    return {b"p%d %d" % (p, n) for p in range(partitions) for n in range(first, first + count)}


def group_of_three(bench):
    bench.make(6)
    wanted = fill(bench, 6, 0, 50)
    members = [joined(bench, bench.topic)]
    got = settled(members, 6)
    members.append(joined(bench, bench.topic))
    members.append(joined(bench, bench.topic))
    got += settled(members, 6)
    drained(members, got, wanted)
    members[0].ask("leave")
    got = settled(members[1:], 6)
    wanted = fill(bench, 6, 50, 50)
    drained(members[1:], got, wanted)
    members[1].kill()
    bench.drivers.remove(members[1])
    got = settled(members[2:], 6)
    drained(members[2:], got, fill(bench, 6, 100, 50))
    members[2].ask("leave")


def static_membership(bench):
    bench.make(2)
    members = [joined(bench, bench.topic, "one"), joined(bench, bench.topic, "two")]
    settled(members, 2)
    before = members[1].ask("poll", timeout_ms=300, count=1)["assigned"]
    # It comes back within its session: its partition waits for it, the other keeps its own.
    members[0].kill()
    bench.drivers.remove(members[0])
    members[0] = joined(bench, bench.topic, "one")
    settled(members, 2)
    equal(members[1].ask("poll", timeout_ms=300, count=1)["assigned"], before)
    for member in members:
        member.ask("leave")


def commits_and_resets(bench):
    bench.make()
    append(bench.path("p0"), b"".join(m + b"\n" for m in numbered(0, 20)))
    member = joined(bench, bench.topic)
    equal(drained([member], [], set(numbered(0, 20))), set(numbered(0, 20)))
    member.ask("commit")
    member.ask("leave")
    group = {"group": bench.topic, "topic": bench.topic}
    try:
        equal(bench.driver().ask("committed", partitions=[0], **group)["offsets"], [20])
    except Skip:
        pass  # the next member shows it as well
    append(bench.path("p0"), b"more\n")
    member = joined(bench, bench.topic)
    equal(drained([member], [], {b"more"}), {b"more"})
    member.ask("leave")
    bench.driver().ask("set_offset", partition=0, offset=15, **group)
    member = joined(bench, bench.topic)
    equal(drained([member], [], {b"more"}), set(numbered(15, 5)) | {b"more"})
    member.ask("leave")


# --- Administration ---

def topics(bench):
    driver = bench.driver()
    driver.ask("create", topic=bench.topic, partitions=3, config={"retention.ms": "3600000"})
    check(sorted(n for n in os.listdir(os.path.join(bench.broker.mount, bench.topic))
                 if n[0] == "p") == ["p0", "p1", "p2"], "the mount shows the topic")
    equal(getfattr(bench.path(""), "retention.ms"), "3600000")
    driver.refused(["exist"], "create", topic=bench.topic, partitions=3, config={})
    check(bench.topic in driver.ask("topics")["topics"], "the topic is listed")
    driver.ask("delete", topic=bench.topic)
    until(lambda: not os.path.exists(bench.path("")), "the topic to go")


def more_partitions(bench):
    bench.make(2)
    driver = bench.driver()
    driver.ask("add_partitions", topic=bench.topic, count=5)
    check(os.path.exists(bench.path("p4")), "the mount shows the new partitions")
    driver.refused(["invalidpartitions", "37", "partitions"], "add_partitions", topic=bench.topic,
                   count=4)


def configurations(bench):
    bench.make()
    driver = bench.driver()
    driver.ask("alter", topic=bench.topic, config={"retention.ms": "7200000"})
    equal(getfattr(bench.path(""), "retention.ms"), "7200000")
    driver.ask("alter", topic=bench.topic, config={"segment.bytes": "1048576"})
    config = driver.ask("describe", topic=bench.topic)["config"]
    equal((config["retention.ms"], config["segment.bytes"]), ("7200000", "1048576"))
    check("cleanup.policy" in config and "max.message.bytes" in config, sorted(config))
    driver.refused(["invalid", "config", "wholenumber"], "alter", topic=bench.topic,
                   config={"retention.ms": "soon"})


def delete_records(bench):
    bench.make()
    append(bench.path("p0"), b"".join(m + b"\n" for m in numbered(0, 20)))
    bench.driver().ask("delete_records", topic=bench.topic, partition=0, before=12)
    equal(read(bench.path("p0")).splitlines(), numbered(12, 8))


def groups(bench):
    bench.make()
    append(bench.path("p0"), b"x\n")
    member = joined(bench, bench.topic)
    drained([member], [], {b"x"})
    member.ask("commit")
    driver = bench.driver()
    check(bench.topic in driver.ask("groups")["groups"], "the group is listed")
    found = driver.ask("describe_group", group=bench.topic)
    equal((found["state"].lower(), found["members"]), ("stable", 1))
    member.ask("leave")
    driver.ask("delete_group", group=bench.topic)
    until(lambda: bench.topic not in driver.ask("groups")["groups"], "the group to go")


# --- What goes wrong ---

def unknown_topic(bench):
    bench.driver().refused(["unknowntopic", "doesnothost", "unknownpartition", "invalidtopic",
                            "timeout", "timedout", "notpresent"],
                           "produce", topic="not/a/topic", partition=0, messages=plain([b"x"]))


def too_large(bench):
    bench.make()
    bench.driver().refused(["toolarge", "msgsize", "largerthan", "exceeds"], "produce",
                           topic=bench.topic, partition=0,
                           messages=plain([os.urandom(3 << 20).hex().encode()[:2 << 20]]))
    equal(read(bench.path("p0")), b"")


def killed_with(idempotent):
    def scenario(bench):
        bench.make()
        count = 20000
        driver = bench.driver()
        driver.begin("numbers", topic=bench.topic, partition=0, first=0, count=count,
                     idempotent=idempotent)
        for stop in (count // 10, count // 3):
            until(lambda: driver.process.poll() is not None or
                  select.select([driver.process.stdout], [], [], 0)[0] or
                  int(getfattr(bench.path("p0"), "end")) > stop, "messages", 60, 0.001)
            bench.broker.process.send_signal(signal.SIGKILL)
            bench.broker.kill()
            bench.broker.start()
        answer = driver.answer(120)
        check("error" not in answer, answer)
        got = [int(line) for line in read(bench.path("p0")).splitlines()]
        equal(answer["acknowledged"], count, "acknowledged")
        missing = set(range(count)) - set(got)
        check(not missing, len(missing), "acknowledged messages are lost:", sorted(missing)[:5])
        if idempotent:
            equal(got, list(range(count)), "each once, in order")
    scenario.__name__ = "kill_9_idempotent" if idempotent else "kill_9"
    return scenario


ALL = [
    *[produce_with(codec) for codec in ("none", "gzip", "snappy", "lz4", "zstd")],
    *[acks_with(acks) for acks in (0, 1, -1)],
    keys_headers_and_timestamps, idempotent_producer, message_of_1_mib,
    consume_from_earliest, consume_from_latest, consume_from_offset, consume_from_time,
    group_of_three, static_membership, commits_and_resets,
    topics, more_partitions, configurations, delete_records, groups,
    unknown_topic, too_large, killed_with(False), killed_with(True),
]
