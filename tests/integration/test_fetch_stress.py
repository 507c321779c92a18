#!/usr/bin/python3
"""Many long polls that are woken, run out, are left behind and lose their topics, all at once:
every message arrives once and in order, and at the end nothing waits."""

import multiprocessing
import os
import random
import time

import mounted
from mounted import *
from protocol import *

SECONDS = float(os.environ.get("KQFS_STRESS_SECONDS", "6"))
PARTITIONS = 8
broker = Server("b", ["--net.threads", "2"], config=f"[broker]\nnum.partitions = {PARTITIONS}\n"
                                                    "[topic]\nsegment.bytes = 65536\n")


def ask_for(topic, positions, chance):
    some = chance.sample(sorted(positions), chance.randint(1, len(positions)))
    return dict(max_wait_ms=chance.choice((0, 1, 5, 20, 1000)),
                min_bytes=chance.choice((1, 1, 100, 3000)),
                max_bytes=chance.choice((1, 1000, 1 << 20)),
                topics=[dict(topic=topic, partitions=[
                    dict(partition=p, fetch_offset=positions[p],
                         partition_max_bytes=chance.choice((1, 500, 1 << 20))) for p in some])])


def consume(number, until_time, ends):
    """Follows all partitions to their ends, which it is told when the time is over."""
    chance = random.Random(number)
    positions = dict.fromkeys(range(PARTITIONS), 0)
    client = broker.client()
    finals = None
    while finals != positions:
        if finals is None and time.monotonic() > until_time:
            finals = dict(enumerate(ends.get()))
        sent = client.send("Fetch", 11, **ask_for("stress", positions, chance))
        if chance.randrange(20) == 0:
            client.close()
            client = broker.client()
            continue
        for part in client.receive(sent)["responses"][0]["partitions"]:
            refused(part, "NONE")
            p = part["partition_index"]
            for record in records(part["records"], positions[p]):
                equal(record.offset, positions[p], "partition", p)
                positions[p] += 1
    client.close()


def read_doomed(number, until_time):
    """Waits for a topic that comes and goes."""
    chance = random.Random(number)
    allowed = {"NONE", "UNKNOWN_TOPIC_OR_PARTITION", "OFFSET_OUT_OF_RANGE"}
    with broker.client() as client:
        while time.monotonic() < until_time:
            positions = dict.fromkeys(range(PARTITIONS), chance.choice((0, 0, 1)))
            answer = client.ask("Fetch", 11, **ask_for("doomed", positions, chance))
            for part in answer["responses"][0]["partitions"]:
                check(ERRORS[part["error_code"]] in allowed, ERRORS[part["error_code"]])


def write_doomed(until_time):
    path = broker.path("doomed")
    while time.monotonic() < until_time:
        os.mkdir(path)
        append(f"{path}/p3", b"x\n")
        sh(f"rm -r {path}")


def append_files(number, until_time):
    chance = random.Random(number)
    while time.monotonic() < until_time:
        append(broker.path(f"stress/p{chance.randrange(PARTITIONS)}"),
               b"from the mount %d\n" % number * chance.randint(1, 5))
        time.sleep(chance.choice((0, 0, 0.001, 0.02)))


def append_batches(number, until_time):
    chance = random.Random(number)
    ready = [batch([Record(b"v" * n)], codec=n % 5) for n in (1, 20, 300)]
    with broker.client() as client:
        while time.monotonic() < until_time:
            refused(produce(client, "stress", chance.choice(ready),
                            partition=chance.randrange(PARTITIONS)), "NONE")
            time.sleep(chance.choice((0, 0, 0.001, 0.02)))


def test_every_message_arrives_once_and_in_order_and_nothing_keeps_waiting():
    broker.topic("stress")
    until_time = time.monotonic() + SECONDS
    ends = multiprocessing.Queue()
    readers = [in_child(consume, n, until_time, ends) for n in range(5)]
    others = [in_child(read_doomed, n, until_time) for n in range(3)]
    others += [in_child(append_files, n, until_time) for n in range(2)]
    others += [in_child(append_batches, n, until_time) for n in range(2)]
    others += [in_child(write_doomed, until_time)]
    finish(*others)
    with broker.client() as client:
        answer = client.ask("ListOffsets", 9, topics=[dict(name="stress", partitions=[
            dict(partition_index=p, timestamp=-1) for p in range(PARTITIONS)])])
    found = [p["offset"] for p in answer["topics"][0]["partitions"]]
    check(sum(found) > 100, found)
    for _ in readers:
        ends.put(found)
    finish(*readers)
    until(lambda: broker.metric("kqfs_waiters_parked") == 0, "the waiters to go")


if __name__ == "__main__":
    mounted.main(broker)
