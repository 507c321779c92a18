#!/usr/bin/python3
"""Logs that Kafka wrote with transactions (tests/unit/kafkalogs), on the mount and over TCP: what was
aborted is not there, what is not decided ends what there is."""

import json
import os
from pathlib import Path

import mounted
from mounted import *
from protocol import *

RECORDED = Path(__file__).resolve().parents[1] / "unit" / "kafkalogs" / "recorded.txt"

COMMITTED = ["plain 1", "committed 1", "committed 2", "plain 2", "committed 3", "plain 3", "plain 4",
             "committed 4"]


def imported(name):
    """A broker on a data directory that Kafka left after a clean stop."""
    server = Server(name)
    for line in RECORDED.read_text().splitlines():
        path, _, data = line.partition(" ")
        path = Path(server.data) / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes.fromhex(data))
    (Path(server.data) / ".kafka_cleanshutdown").write_text('{"version":0,"brokerEpoch":1}')
    server.allow("taken over with default settings")
    server.allow("was never ended")
    return server


broker = imported("b")


def lines(*parts):
    return read(broker.path(*parts)).decode().splitlines()


def test_every_view_shows_what_was_committed():
    for view in ("p0", "p0.log"):
        equal(lines("txns", view), COMMITTED, view)
    objects = [json.loads(line) for line in lines("txns", "p0.jsonl")]
    equal([o["value"] for o in objects], COMMITTED)
    equal([o["offset"] for o in objects], [0, 1, 2, 7, 8, 16, 18, 19])
    for offset, wanted in ((0, 0), (3, 3), (4, 3), (6, 3), (9, 5), (15, 5), (17, 6), (18, 6)):
        equal(lines("txns", f"by-offset/p0/{offset}"), COMMITTED[wanted:], offset)


def test_a_read_from_anywhere_is_the_same_text():
    whole = "".join(v + "\n" for v in COMMITTED).encode()
    fd = os.open(broker.path("txns", "p0.log"), os.O_RDONLY)
    try:
        for at in range(len(whole)):
            for size in (1, 7, 100):
                equal(os.pread(fd, size, at), whole[at:at + size], at, size)
    finally:
        os.close(fd)


def test_what_comes_behind_is_shown():
    append(broker.path("txns", "p0"), "from the mount\n")
    equal(lines("txns", "p0"), COMMITTED + ["from the mount"])
    with broker.client() as client:
        equal([r.offset for r in records(fetch(client, "txns", 20, isolation=1)["records"])], [20, 21])


def test_clients_are_told_what_was_aborted():
    with broker.client() as client:
        answer = fetch(client, "txns", 0, isolation=1)
        equal(answer["aborted_transactions"], [dict(producer_id=1, first_offset=4),
                                               dict(producer_id=2, first_offset=6)])
        equal(answer["last_stable_offset"], answer["high_watermark"])


def test_an_open_transaction_hides_what_follows():
    stable = COMMITTED + ["plain 5"]
    for view in ("p0", "p0.log"):
        equal(lines("open", view), stable, view)
    append(broker.path("open", "p0"), "hidden\n")
    equal(lines("open", "p0"), stable)
    with broker.client() as client:
        answer = fetch(client, "open", 18, isolation=1)
        equal((answer["last_stable_offset"], answer["high_watermark"]), (22, 28))
        equal(records(answer["records"])[-1].offset, 21)
        equal(records(fetch(client, "open", 27)["records"])[-1].value, b"hidden")
    broker.restart()
    equal(lines("open", "p0"), stable)


def test_deleting_it_shows_the_rest():
    with broker.client() as client:
        answer = client.ask("DeleteRecords", 1, timeout_ms=10000, topics=[
            dict(name="open", partitions=[dict(partition_index=0, offset=23)])])
        refused(answer["topics"][0]["partitions"][0], "NONE")
    equal(lines("open", "p0"), ["plain 6", "plain 7", "hidden"])
    broker.restart()
    equal(lines("open", "p0"), ["plain 6", "plain 7", "hidden"])


def test_the_epoch_goes_on():
    with broker.client() as client:
        for epoch, answer in ((0, (0, 21)), (1, (1, 22)), (2, (-1, -1))):
            end = client.ask("OffsetForLeaderEpoch", 3, replica_id=-1, topics=[
                dict(topic="txns", partitions=[dict(partition=0, current_leader_epoch=-1,
                                                    leader_epoch=epoch)])])
            part = end["topics"][0]["partitions"][0]
            equal((part["leader_epoch"], part["end_offset"]), answer, epoch)


if __name__ == "__main__":
    mounted.main(broker)
