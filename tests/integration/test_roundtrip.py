#!/usr/bin/python3
"""Whatever is produced over TCP is read back the same by every view of the mount and every version
of Fetch, and what the mount appends by every version of Fetch and by a real client.

Messages are random: keys, headers, timestamps, null and binary values, in every codec. A failure
names the seed; SEED=N runs that one."""

import base64
import json
import os
import random
import time

import mounted
from mounted import *
from protocol import *

SEED = int(os.environ.get("SEED", time.time_ns() % 1_000_000))
broker = Server("b")


def text_of(member, line):
    if member + "_base64" in line:
        return base64.b64decode(line[member + "_base64"])
    value = line.get(member)
    return None if value is None else value.encode()


def parse_line(line):
    line = json.loads(line)
    headers = tuple((text_of("name", h).decode(), text_of("value", h)) for h in line["headers"])
    return Record(text_of("value", line), text_of("key", line), headers, line["timestamp"],
                  line["offset"])


def line_of(record):
    def member(name, value):
        if value is None:
            return {name: None}
        try:
            return {name: value.decode()}
        except UnicodeDecodeError:
            return {name + "_base64": base64.b64encode(value).decode()}
    headers = [{**member("name", n.encode()), **member("value", v)} for n, v in record.headers]
    return json.dumps({**member("key", record.key), **member("value", record.value),
                       "headers": headers, "timestamp": record.timestamp}).encode() + b"\n"


def some_bytes(chance, null=True):
    kind = chance.randrange(8 if null else 7)
    if kind == 7:
        return None
    if kind == 0:
        return b""
    if kind == 1:
        return chance.randbytes(chance.randrange(2000))
    if kind == 2:
        return b"\n" * chance.randrange(5)
    if kind == 3:
        return "käse €\0\u2028\"\\".encode() * chance.randrange(1, 4)
    return b"plain %d" % chance.randrange(1000)


def some_record(chance, now):
    headers = tuple((f"h{chance.randrange(3)}" + "ä" * chance.randrange(2), some_bytes(chance))
                    for _ in range(chance.choice((0, 0, 0, 1, 2, 5))))
    return Record(some_bytes(chance), some_bytes(chance), headers, now + chance.randint(-500, 500))


def some_batches(chance, count):
    now = NOW - 100_000
    for _ in range(count):
        yield [some_record(chance, now) for _ in range(chance.choice((1, 1, 2, 3, 30)))]
        now += chance.randrange(1000)


def numbered(lists):
    wanted = [r for records in lists for r in records]
    for offset, record in enumerate(wanted):
        record.offset = offset
    return wanted


def check_fetch(topic, wanted, topic_id):
    """Every version, from offsets all over the log."""
    with broker.client() as client:
        for version in range(4, 18):
            offset, got = 0, []
            while offset < len(wanted):
                answer = fetch(client, topic, offset, version, topic_id=topic_id,
                               partition_max=5000)
                refused(answer, "NONE")
                got += records(answer["records"], offset)
                offset = got[-1].offset + 1
            equal(got, wanted, f"seed {SEED}: Fetch {version}")


def check_mount(topic, wanted):
    path = broker.path(topic)
    equal(read(f"{path}/p0"), b"".join((r.value or b"") + b"\n" for r in wanted),
          f"seed {SEED}: p0")
    equal([parse_line(l) for l in read(f"{path}/p0.jsonl").splitlines()], wanted,
          f"seed {SEED}: p0.jsonl")
    for record in random.Random(SEED).sample(wanted, min(20, len(wanted))):
        equal(read(f"{path}/by-offset/p0/{record.offset}.value"), record.value or b"",
              f"seed {SEED}: {record.offset}.value")
        equal([parse_line(l) for l in
               read(f"{path}/by-offset/p0/{record.offset}.jsonl").splitlines()],
              wanted[record.offset:], f"seed {SEED}: {record.offset}.jsonl")


def id_of(topic):
    with broker.client() as client:
        return metadata(client, topic, 12)["topic_id"]


def test_what_is_produced_over_tcp_reads_the_same_everywhere():
    chance = random.Random(SEED)
    broker.topic("tcp", segment_bytes=30000)
    lists = list(some_batches(chance, 60))
    with broker.client() as client:
        topic_id = id_of("tcp")
        for i, some in enumerate(lists):
            version = chance.randint(7, 13)
            refused(produce(client, "tcp", batch(some, codec=i % 5), version=version,
                            topic_id=topic_id), "NONE")
    wanted = numbered(lists)
    check_fetch("tcp", wanted, topic_id)
    check_mount("tcp", wanted)
    broker.restart()
    check_fetch("tcp", wanted, topic_id)
    check_mount("tcp", wanted)


def test_lines_of_the_mount_are_fetched_the_same():
    chance = random.Random(SEED)
    path = broker.topic("lines", segment_bytes=30000)
    values = [v.replace(b"\n", b"") for v in (some_bytes(chance, False) for _ in range(300))]
    for at in range(0, len(values), 7):
        append(f"{path}/p0", b"".join(v + b"\n" for v in values[at:at + 7]))
    wanted = [parse_line(l) for l in read(f"{path}/p0.jsonl").splitlines()]
    equal([r.value for r in wanted], values)
    check_fetch("lines", wanted, id_of("lines"))


def test_json_lines_of_the_mount_are_fetched_the_same():
    chance = random.Random(SEED)
    path = broker.topic("jsonl", segment_bytes=30000)
    lists = list(some_batches(chance, 60))
    for some in lists:
        append(f"{path}/p0.jsonl", b"".join(map(line_of, some)))
    wanted = numbered(lists)
    check_fetch("jsonl", wanted, id_of("jsonl"))
    check_mount("jsonl", wanted)


def test_a_real_client_writes_and_reads_the_same_in_every_codec():
    need("kcat")
    chance = random.Random(SEED)
    values = [b"%d " % i + b"word " * chance.randrange(200) for i in range(500)]
    text = b"".join(v + b"\n" for v in values)
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        topic = f"kcat-{codec}"
        path = broker.topic(topic)
        kcat = f"kcat -b {broker.address} -t {topic} -p 0"
        sh(f"{kcat} -P -z {codec} -k key -H a=1 -H b=", stdin=text)
        equal(read(f"{path}/p0"), text, codec)
        lines = [parse_line(l) for l in read(f"{path}/p0.jsonl").splitlines()]
        equal({(l.key, l.headers) for l in lines}, {(b"key", (("a", b"1"), ("b", b"")))})
        append(f"{path}/p0", b"from the mount\n")
        equal(sh(f"{kcat} -C -e -q"), text + b"from the mount\n", codec)
        stored = {b[22] & 7 for b in [read(f"{broker.data}/{topic}-0/{'0' * 20}.log")]}
        equal(stored, {["none", "gzip", "snappy", "lz4", "zstd"].index(codec)}, "the codec is kept")


if __name__ == "__main__":
    print(f"seed {SEED}")
    mounted.main(broker)
