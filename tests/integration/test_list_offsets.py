#!/usr/bin/python3
"""ListOffsets and OffsetForLeaderEpoch: beginnings, ends, and what was when."""

import os
import random

import mounted
from mounted import *
from protocol import *

broker = Server("b", config="[broker]\nnum.partitions = 2\n")
LATEST, EARLIEST, NEWEST, LOCAL, TIERED = -1, -2, -3, -4, -5


def ask(client, topic, *partitions, version=9, **more):
    """PARTITIONS: (partition, timestamp) or (partition, timestamp, leader epoch)."""
    asked = [dict(zip(("partition_index", "timestamp", "current_leader_epoch"), p))
             for p in partitions]
    answer = client.ask("ListOffsets", version, replica_id=-1,
                        topics=[dict(name=topic, partitions=asked)], **more)
    return answer["topics"][0]["partitions"]


def found(client, topic, timestamp, version=9, **more):
    (answer,) = ask(client, topic, (0, timestamp), version=version, **more)
    refused(answer, "NONE")
    return answer["offset"], answer["timestamp"]


def test_beginning_and_end_move_with_the_log():
    topic = broker.topic("moving")
    with broker.client() as client:
        for isolation in (0, 1):
            equal(found(client, "moving", LATEST, isolation_level=isolation)[0],
                  0 if isolation == 0 else 4)
            if isolation == 0:
                append(f"{topic}/p0", b"1\n2\n3\n4\n")
        for version in range(1, 10):
            equal(found(client, "moving", EARLIEST, version), (0, -1))
            equal(found(client, "moving", LATEST, version), (4, -1))
        os.unlink(f"{topic}/p0")
        append(f"{topic}/p0", b"5\n")
        equal(found(client, "moving", EARLIEST), (4, -1))
        equal(found(client, "moving", LOCAL), (4, -1))
        equal(found(client, "moving", LATEST), (5, -1))
        equal(found(client, "moving", TIERED), (-1, -1))


def test_a_time_finds_the_first_record_that_is_not_older():
    """Over many segments and batches, in every codec, against a plain list."""
    # Retention would take what has these timestamps, and looks as soon as a topic is configured.
    broker.topic("times", segment_bytes=4096, index_interval_bytes=256, retention_ms=-1)
    chance = random.Random(7)
    stamps, now = [], 1_700_000_000_000
    with broker.client() as client:
        for i in range(150):
            now += chance.choice((0, 1, 50, 5000))
            mine = [now + chance.randint(-100, 100) for _ in range(chance.randint(1, 4))]
            refused(produce(client, "times", batch(
                [Record(b"%d" % i + bytes(50), timestamp=t) for t in mine], codec=i % 5)), "NONE")
            stamps += mine
        wanted = chance.sample(stamps, 60) + [min(stamps) - 5, max(stamps)]
        for stamp in [w + d for w in wanted for d in (-1, 0, 1)]:
            first = next(((o, t) for o, t in enumerate(stamps) if t >= stamp), (-1, -1))
            equal(found(client, "times", stamp), first, stamp)
        equal(found(client, "times", max(stamps) + 1), (-1, -1))
        equal(found(client, "times", NEWEST), (stamps.index(max(stamps)), max(stamps)))
        broker_times = [found(client, "times", s)[0] for s in wanted]
    broker.restart()
    with broker.client() as client:
        equal([found(client, "times", s)[0] for s in wanted], broker_times, "after a restart")


def test_the_newest_of_nothing_is_nothing():
    broker.topic("nothing")
    with broker.client() as client:
        for version in (7, 8, 9):
            equal(found(client, "nothing", NEWEST, version), (-1, -1))
        equal(found(client, "nothing", 0), (-1, -1))


def test_what_a_version_does_not_know_is_refused():
    broker.topic("known")
    with broker.client() as client:
        for version in range(1, 10):
            for stamp, first in ((NEWEST, 7), (LOCAL, 8), (TIERED, 9), (-6, 99), (-100, 99)):
                (answer,) = ask(client, "known", (0, stamp), version=version)
                refused(answer, "NONE" if version >= first else "UNSUPPORTED_VERSION")


def test_each_partition_is_answered_for_itself():
    topic = broker.topic("each")
    append(f"{topic}/p1", b"x\n")
    with broker.client() as client:
        got = ask(client, "each", (1, LATEST), (9, LATEST), (0, LATEST, 5), (-1, LATEST))
        equal([(p["partition_index"], ERRORS[p["error_code"]], p["offset"]) for p in got],
              [(1, "NONE", 1), (9, "UNKNOWN_TOPIC_OR_PARTITION", -1),
               (0, "UNKNOWN_LEADER_EPOCH", -1), (-1, "UNKNOWN_TOPIC_OR_PARTITION", -1)])
        equal(got[0]["leader_epoch"], 0)
        refused(ask(client, "nowhere", (0, LATEST))[0], "UNKNOWN_TOPIC_OR_PARTITION")
        got = ask(client, "each", (0, LATEST), (1, LATEST), (0, EARLIEST))
        equal([ERRORS[p["error_code"]] for p in got],
              ["INVALID_REQUEST", "NONE", "INVALID_REQUEST"])


def test_who_may_describe_may_list_offsets():
    need_root()
    guarded = Server("guarded", ["--plaintext.user", "nobody"])
    with guarded, guarded.client() as client:
        topic = guarded.topic("t")
        append(f"{topic}/p0", b"x\n")
        os.chmod(f"{topic}/p0", 0)
        equal(found(client, "t", LATEST)[0], 1)
        equal(found(client, "t", 0)[0], 0)
        os.chmod(topic, 0o600)
        refused(ask(client, "t", (0, LATEST))[0], "TOPIC_AUTHORIZATION_FAILED")
        asked = [dict(topic="t", partitions=[dict(partition=0, leader_epoch=0)])]
        refused(client.ask("OffsetForLeaderEpoch", 2, topics=asked)["topics"][0]["partitions"][0],
                "TOPIC_AUTHORIZATION_FAILED")


def test_epochs_end_where_the_log_does():
    topic = broker.topic("epochs")
    append(f"{topic}/p0", b"1\n2\n")
    with broker.client() as client:
        for version in (2, 3, 4):
            asked = [dict(partition=p, current_leader_epoch=c, leader_epoch=e)
                     for p, c, e in ((0, -1, 0), (0, 0, 0), (0, -1, 3), (0, 3, 0), (7, -1, 0))]
            answer = client.ask("OffsetForLeaderEpoch", version,
                                topics=[dict(topic="epochs", partitions=asked),
                                        dict(topic="nowhere", partitions=asked[:1])])
            got = [(ERRORS[p["error_code"]], p["leader_epoch"], p["end_offset"])
                   for t in answer["topics"] for p in t["partitions"]]
            equal(got, [("NONE", 0, 2), ("NONE", 0, 2), ("NONE", -1, -1),
                        ("UNKNOWN_LEADER_EPOCH", -1, -1), ("UNKNOWN_TOPIC_OR_PARTITION", -1, -1),
                        ("UNKNOWN_TOPIC_OR_PARTITION", -1, -1)])


if __name__ == "__main__":
    mounted.main(broker)
