#!/usr/bin/python3
"""Fetch over TCP: sizes, waiting, epochs, errors, each partition for itself."""

import os
import struct
import time

import mounted
from mounted import *
from protocol import *

broker = Server("b")


def three(topic):
    """A topic with a batch of three records; its id."""
    broker.topic(topic)
    with broker.client() as client:
        refused(produce(client, topic, batch([Record(b"%d" % i) for i in range(3)])), "NONE")
        return metadata(client, topic, 12)["topic_id"]


def filled(topic, count, size, **settings):
    """A topic with COUNT batches of one record of SIZE bytes each; bytes of a batch."""
    broker.topic(topic, **settings)
    data = b""
    with broker.client() as client:
        for i in range(count):
            data = batch([Record(b"%06d" % i + bytes(size - 6))])
            refused(produce(client, topic, data), "NONE")
    return len(data)


def parts(*wanted, **common):
    """The topics of a request: (topic, partition, offset) each, in this order."""
    return [dict(topic=topic, partitions=[dict(partition=partition, fetch_offset=offset, **common)])
            for topic, partition, offset in wanted]


def answers(response):
    return [p for t in response["responses"] for p in t["partitions"]]


def waiting():
    return broker.metric("kqfs_waiters_parked")


# --- What comes ---

def test_every_version_gives_the_same_records():
    topic_id = three("versions")
    with broker.client() as client:
        for version in range(4, 18):
            answer = fetch(client, "versions", 1, version, topic_id=topic_id)
            refused(answer, "NONE")
            equal([r.value for r in records(answer["records"])], [b"0", b"1", b"2"], version)
            equal((answer["high_watermark"], answer["last_stable_offset"]), (3, 3))
            equal(answer["log_start_offset"], 0 if version >= 5 else -1)


def test_a_fetch_inside_a_batch_gives_the_whole_batch():
    three("inside")
    with broker.client() as client:
        equal([r.offset for r in records(fetch(client, "inside", 2)["records"])], [0, 1, 2])


def test_what_the_mount_appends_is_fetched_and_the_reverse():
    topic = broker.topic("both")
    append(f"{topic}/p0", b"a\nb\n")
    with broker.client() as client:
        produce(client, "both", batch([Record(b"c")], codec=1))
        append(f"{topic}/p0", b"d\n")
        equal([r.value for r in records(fetch(client, "both", 0)["records"])],
              [b"a", b"b", b"c", b"d"])
    equal(read(f"{topic}/p0"), b"a\nb\nc\nd\n")


def test_what_is_sent_is_counted_for_its_topic():
    size = filled("counted", 3, 500)
    with broker.client() as client:
        for offset in range(4):
            fetch(client, "counted", offset)
    equal(broker.metric('kqfs_topic_bytes_out_total{topic="counted"}'), 6 * size)
    equal(broker.metric('kqfs_topic_bytes_in_total{topic="counted"}'), 3 * size)
    equal(broker.metric('kqfs_topic_messages_out_total{topic="counted"}'), 6)


def test_messages_sent_are_counted_where_a_maximum_cuts_them():
    size = filled("cut", 100, 500)
    with broker.client() as client:
        fetch(client, "cut", 0, partition_max=10 * size + size * 3 // 4)  # nearly eleven messages
        equal(broker.metric('kqfs_topic_messages_out_total{topic="cut"}'), 11)
        fetch(client, "cut", 40, partition_max=1)  # the first batch is whole
        equal(broker.metric('kqfs_topic_messages_out_total{topic="cut"}'), 12)


def test_segments_are_read_one_after_the_other():
    filled("segments", 60, 100, segment_bytes=1024)
    check(len(os.listdir(f"{broker.data}/segments-0")) > 20)
    with broker.client() as client:
        offset, values = 0, []
        while offset < 60:
            got = records(fetch(client, "segments", offset, least=1 << 20, wait=300)["records"])
            equal(got[0].offset, offset)
            values += [r.value[:6] for r in got]
            offset = got[-1].offset + 1
        equal(values, [b"%06d" % i for i in range(60)])


def test_a_gap_is_skipped():
    """As compaction leaves it: the fetch gets the next batch there is."""
    gaps = Server("gaps")
    with gaps:
        gaps.topic("gap")
    rewrite(gaps, "gap", b"".join(batch([Record(b"%d" % n)], base_offset=n, epoch=0)
                                  for n in (0, 1, 7, 8)))
    with gaps, gaps.client() as client:
        for offset in (2, 5, 7):
            equal([r.offset for r in records(fetch(client, "gap", offset)["records"])], [7, 8])


def rewrite(server, topic, data):
    """Puts DATA, as another broker may have written it, into partition 0 of a stopped SERVER."""
    directory = f"{server.data}/{topic}-0"
    for name in os.listdir(directory):
        if name.endswith("index"):
            os.unlink(f"{directory}/{name}")
    with open(f"{directory}/{'0' * 20}.log", "wb") as log:
        log.write(data)
    os.unlink(f"{server.data}/.kafka_cleanshutdown")


def marker(offset, producer, commits):
    record = Record(struct.pack(">hi", 0, 0), struct.pack(">hh", 0, commits))
    return batch([record], base_offset=offset, epoch=0, attributes=0x30, producer=(producer, 0, -1))


def test_transactions_of_an_imported_log_are_told_apart():
    """Aborted (producer 1), committed (2), left open (3), and behind it one without."""
    def of(producer, offset, *values):
        return batch([Record(v) for v in values], base_offset=offset, epoch=0, attributes=0x10,
                     producer=(producer, 0, 0))
    imported = Server("imported")
    with imported:
        imported.topic("txn")
    rewrite(imported, "txn", of(1, 0, b"a", b"b") + of(2, 2, b"c") + marker(3, 1, False) +
            marker(4, 2, True) + of(3, 5, b"open") + batch([Record(b"d")], base_offset=6, epoch=0))
    with imported, imported.client() as client:
        for version in range(4, 18):
            topic_id = metadata(client, "txn", 12)["topic_id"]
            answer = fetch(client, "txn", 0, version, isolation=1, topic_id=topic_id)
            equal((answer["high_watermark"], answer["last_stable_offset"]), (7, 5))
            equal([r.offset for r in records(answer["records"])], [0, 1, 2, 3, 4])
            equal(answer["aborted_transactions"], [dict(producer_id=1, first_offset=0)])
            answer = fetch(client, "txn", 0, version, topic_id=topic_id)
            equal([r.offset for r in records(answer["records"])], list(range(7)))
            equal(answer["aborted_transactions"], None)
        equal(fetch(client, "txn", 4, isolation=1)["aborted_transactions"], [])
        for offset in (5, 6, 7):
            answer = fetch(client, "txn", offset, isolation=1)
            refused(answer, "NONE")
            equal((answer["records"], answer["aborted_transactions"]), (b"", []))
        refused(fetch(client, "txn", 8, isolation=1), "OFFSET_OUT_OF_RANGE")
        # A reader of everything is woken behind the open transaction, one of what is settled not.
        parked = imported.client()
        settled = parked.send("Fetch", 11, **fetch_request("txn", 5, wait=3000, isolation=1))
        sent = client.send("Fetch", 11, **fetch_request("txn", 7, wait=60000))
        until(lambda: imported.metric("kqfs_waiters_parked") == 2, "both to wait")
        append(imported.path("txn/p0"), b"e\n")
        equal([r.value for r in records(answers(client.receive(sent))[0]["records"])], [b"e"])
        equal(imported.metric("kqfs_waiters_parked"), 1)
        equal(answers(parked.receive(settled))[0]["records"], b"")
        parked.close()
        for isolation, end in ((0, 8), (1, 5)):
            answer = client.ask("ListOffsets", 5, isolation_level=isolation, topics=[
                dict(name="txn", partitions=[dict(partition_index=0, timestamp=-1)])])
            equal(answer["topics"][0]["partitions"][0]["offset"], end)


# --- Sizes ---

def test_the_first_batch_comes_whole_and_above_every_maximum():
    size = filled("sizes", 4, 1000)
    with broker.client() as client:
        for limits in (dict(max_bytes=1), dict(partition_max=1), dict(max_bytes=0, partition_max=0)):
            answer = fetch(client, "sizes", 1, **limits)
            equal(len(answer["records"]), size, limits)
            equal([r.offset for r in records(answer["records"])], [1])


def test_only_the_first_partition_with_messages_goes_above_the_maximum():
    filled("empty", 0, 0)
    size = filled("first", 4, 1000)
    filled("second", 4, 1000)
    with broker.client() as client:
        answer = client.ask("Fetch", 11, max_wait_ms=0, min_bytes=1, max_bytes=size // 2, topics=parts(
            ("empty", 0, 0), ("first", 0, 0), ("second", 0, 0), partition_max_bytes=1 << 20))
        equal([len(p["records"]) for p in answers(answer)], [0, size, 0])
        equal([p["high_watermark"] for p in answers(answer)], [0, 4, 4])


def test_the_maximum_is_shared_in_the_order_of_the_request():
    size = filled("left", 4, 1000)
    filled("right", 4, 1000)
    for order in ("left", "right"), ("right", "left"):
        with broker.client() as client:
            answer = client.ask(
                "Fetch", 11, max_wait_ms=0, min_bytes=1, max_bytes=5 * size,
                topics=parts(*((t, 0, 0) for t in order), partition_max_bytes=1 << 20))
            equal([len(p["records"]) for p in answers(answer)], [4 * size, size])


def test_a_partitions_maximum_ends_its_share():
    size = filled("share", 8, 1000)
    with broker.client() as client:
        answer = fetch(client, "share", 0, partition_max=3 * size + 17, least=1 << 20, wait=20000)
        equal(len(answer["records"]), 3 * size + 17)
        equal([r.offset for r in records(answer["records"])], [0, 1, 2])


# --- Waiting ---

def timed(client, *arguments, **named):
    began = time.monotonic()
    answer = fetch(client, *arguments, **named)
    return answer, time.monotonic() - began


def test_an_empty_answer_comes_when_the_wait_is_over():
    three("patience")
    with broker.client() as client:
        answer, seconds = timed(client, "patience", 3, wait=300)
        refused(answer, "NONE")
        equal(answer["records"], b"")
        check(0.3 <= seconds, seconds)
        check(timed(client, "patience", 3, wait=0)[1] < 5)


def test_a_parked_fetch_is_answered_by_the_next_message_whoever_appends_it():
    three("park")
    with broker.client() as client, broker.client() as other:
        sent = client.send("Fetch", 11, **fetch_request("park", 3, wait=60000))
        until(lambda: waiting() == 1, "the fetch to wait")
        append(broker.path("park/p0"), b"from the mount\n")
        answer = answers(client.receive(sent))[0]
        equal([r.value for r in records(answer["records"])], [b"from the mount"])
        equal((answer["high_watermark"], answer["last_stable_offset"]), (4, 4))
        sent = client.send("Fetch", 11, **fetch_request("park", 4, wait=60000))
        until(lambda: waiting() == 1, "the fetch to wait")
        produce(other, "park", batch([Record(b"from afar")]))
        equal([r.value for r in records(answers(client.receive(sent))[0]["records"])],
              [b"from afar"])
    equal(waiting(), 0)


def test_min_bytes_are_waited_for_over_all_partitions():
    filled("some", 2, 500)
    filled("more", 0, 0)
    with broker.client() as client:
        sent = client.send(
            "Fetch", 11, max_wait_ms=60000, min_bytes=3000, max_bytes=1 << 20,
            topics=parts(("some", 0, 0), ("more", 0, 0), partition_max_bytes=1 << 20))
        until(lambda: waiting() == 2, "the fetch to wait")
        append(broker.path("more/p0"), bytes(600) + b"\n")
        append(broker.path("some/p0"), bytes(600) + b"\n")
        time.sleep(0.1)
        equal(waiting(), 2, "it has enough too early")
        append(broker.path("more/p0"), bytes(1200) + b"\n")
        got = answers(client.receive(sent))
        equal([len(records(p["records"])) for p in got], [3, 2])
    equal(waiting(), 0)


def test_min_bytes_above_the_maximum_are_not_waited_for():
    filled("enough", 2, 500)
    with broker.client() as client:
        answer, seconds = timed(client, "enough", 0, max_bytes=600, least=100000, wait=60000)
        check(seconds < 30 and answer["records"])


def test_the_next_request_does_not_wait_for_a_parked_fetch():
    three("behind")
    with broker.client() as client:
        parked = client.send("Fetch", 11, **fetch_request("behind", 3, wait=60000))
        until(lambda: waiting() == 1, "the fetch to wait")
        behind = client.send("Produce", 9, acks=1, timeout_ms=1000, topic_data=[
            dict(name="behind", partition_data=[dict(index=0, records=batch([Record(b"me")]))])])
        equal([r.value for r in records(answers(client.receive(parked))[0]["records"])], [b"me"])
        refused(client.receive(behind)["responses"][0]["partition_responses"][0], "NONE")


def test_who_leaves_takes_its_waiters_along():
    three("leave")
    clients = [broker.client() for _ in range(20)]
    for client in clients:
        client.send("Fetch", 11, **fetch_request("leave", 3, wait=600000))
    until(lambda: waiting() == 20, "all to wait")
    for client in clients:
        client.close()
    until(lambda: waiting() == 0, "the waiters to go")


def test_a_topic_that_is_deleted_is_answered_at_once():
    for version, name in ((11, "UNKNOWN_TOPIC_OR_PARTITION"), (13, "UNKNOWN_TOPIC_ID")):
        topic_id = three("doomed")
        with broker.client() as client:
            sent = client.send("Fetch", version,
                               **fetch_request("doomed", 3, wait=60000, topic_id=topic_id))
            until(lambda: waiting() == 1, "the fetch to wait")
            sh(f"rm -r {broker.path('doomed')}")
            refused(answers(client.receive(sent))[0], name)


def test_a_broker_that_stops_waits_for_nobody():
    other = Server("stopping").start()
    other.topic("t")
    with other.client() as client:
        client.send("Fetch", 11, **fetch_request("t", 0, wait=600000))
        until(lambda: other.metric("kqfs_waiters_parked") == 1, "the fetch to wait")
        began = time.monotonic()
        other.stop()
        check(time.monotonic() - began < 20)


def test_very_many_partitions_wait_together():
    wide = Server("wide", config="[broker]\nnum.partitions = 1000\n")
    with wide, wide.client() as client:
        wide.topic("wide")
        for count in (1000, 400):  # beyond KQ_WIDE_PARTITIONS, and not
            asked = [dict(topic="wide", partitions=[
                dict(partition=i, fetch_offset=0, partition_max_bytes=1 << 20) for i in range(count)])]
            for turn in range(3):
                sent = client.send("Fetch", 11, max_wait_ms=60000, min_bytes=1, max_bytes=1 << 25,
                                   topics=asked)
                until(lambda: wide.metric("kqfs_waiters_parked") == count, "all to wait")
                append(wide.path(f"wide/p{count - 223}"), b"x\n")
                got = answers(client.receive(sent))
                equal([p["partition_index"] for p in got], list(range(count)))
                equal([p["partition_index"] for p in got if p["records"]], [count - 223])
                asked[0]["partitions"][count - 223]["fetch_offset"] += 1
            equal(wide.metric("kqfs_waiters_parked"), 0)


def test_a_wide_fetch_is_answered_at_once_or_when_its_time_is_over():
    wide = Server("wide-now", config="[broker]\nnum.partitions = 1000\n")
    with wide, wide.client() as client:
        wide.topic("wide")
        append(wide.path("wide/p999"), b"x\n")
        for number, offset, wait in ((999, 0, 60000), (None, 1, 50), (None, 1, 0)):
            got = answers(client.ask("Fetch", 11, max_wait_ms=wait, min_bytes=1, max_bytes=1 << 25, topics=[
                dict(topic="wide", partitions=[dict(partition=i, fetch_offset=offset if i == 999 else 0,
                                                    partition_max_bytes=1 << 20) for i in range(1000)])]))
            equal([p["partition_index"] for p in got if p["records"]], [number] if number else [])
        sent = [wide.client() for _ in range(20)]
        for one in sent:  # who leaves at any moment of it takes its waiters along
            one.send("Fetch", 11, max_wait_ms=60000, min_bytes=1, max_bytes=1 << 25, topics=[
                dict(topic="wide", partitions=[dict(partition=i, fetch_offset=0, partition_max_bytes=1)
                                               for i in range(990)])])
            one.close()
        until(lambda: wide.metric("kqfs_waiters_parked") == 0, "all to be gone")


def test_wide_produces_and_metadata_are_answered():
    wide = Server("wide-produce", config="[broker]\nnum.partitions = 1000\n")
    with wide, wide.client() as client:
        wide.topic("wide")
        answer = client.ask("Produce", 9, acks=-1, timeout_ms=30000, topic_data=[
            dict(name="wide", partition_data=[dict(index=i, records=batch([Record(b"%d" % i)]))
                                              for i in range(1001)])])
        got = answer["responses"][0]["partition_responses"]
        equal([ERRORS[p["error_code"]] for p in got], ["NONE"] * 1000 + ["UNKNOWN_TOPIC_OR_PARTITION"])
        equal(read(wide.path("wide/p512")), b"512\n")
        equal(len(metadata(client, "wide")["partitions"]), 1000)


# --- Errors: each partition for itself, and at once ---

def test_an_error_is_answered_at_once_and_for_its_partition_alone():
    three("good")
    with broker.client() as client:
        sent = client.send("Fetch", 11, max_wait_ms=600000, min_bytes=1, max_bytes=1 << 20,
                           topics=parts(("good", 0, 3), ("good", 1, 0), ("none", 0, 0),
                                        partition_max_bytes=1 << 20))
        got = answers(client.receive(sent))
        equal([ERRORS[p["error_code"]] for p in got],
              ["NONE", "UNKNOWN_TOPIC_OR_PARTITION", "UNKNOWN_TOPIC_OR_PARTITION"])
        equal(got[1]["high_watermark"], -1)


def test_offsets_outside_the_log_are_refused():
    three("range")
    append(broker.path("range/p0"), b"x\n" * 5)
    with broker.client() as client:
        for offset in (-1, 9, 1 << 62):
            refused(fetch(client, "range", offset, wait=60000), "OFFSET_OUT_OF_RANGE")
        os.unlink(broker.path("range/p0"))
        refused(fetch(client, "range", 3, wait=60000), "OFFSET_OUT_OF_RANGE")
        answer = fetch(client, "range", 8)
        refused(answer, "NONE")
        equal((answer["log_start_offset"], answer["high_watermark"]), (8, 8))


def test_ids_that_nobody_has_are_refused():
    topic_id = three("ids")
    with broker.client() as client:
        for version in (13, 17):
            refused(fetch(client, "", 0, version, topic_id=bytes(16)), "UNKNOWN_TOPIC_ID")
            refused(fetch(client, "", 0, version, topic_id=bytes(15) + b"x"), "UNKNOWN_TOPIC_ID")
            refused(fetch(client, "", 0, version, topic_id=topic_id), "NONE")


def test_a_client_with_another_leader_in_mind_is_told():
    three("leader")
    with broker.client() as client:
        refused(fetch(client, "leader", 0, epoch=0), "NONE")
        answer = fetch(client, "leader", 0, epoch=7, wait=60000)
        refused(answer, "UNKNOWN_LEADER_EPOCH")
        equal(answer["records"], b"")


def test_what_was_read_and_is_not_there_diverges():
    """A client that has read what a crash took away (KIP-320, KIP-595)."""
    three("diverged")
    asked = fetch_request("diverged", 5, wait=60000)
    asked["topics"][0]["partitions"][0]["last_fetched_epoch"] = 0
    with broker.client() as client:
        answer = answers(client.ask("Fetch", 12, **asked))[0]
        refused(answer, "NONE")
        equal(answer["diverging_epoch"], dict(epoch=0, end_offset=3))
        equal(answer["records"], b"")
        asked["topics"][0]["partitions"][0]["last_fetched_epoch"] = 9
        refused(answers(client.ask("Fetch", 12, **asked))[0], "OFFSET_OUT_OF_RANGE")


def test_sessions_are_not_kept():
    topic_id = three("session")
    with broker.client() as client:
        asked = fetch_request("session", 0, topic_id=topic_id)
        for version in range(7, 18):
            for epoch in (0, -1):
                answer = client.ask("Fetch", version, session_epoch=epoch, **asked)
                equal((answer["error_code"], answer["session_id"]), (0, 0))
                equal(len(answers(answer)), 1)
            answer = client.ask("Fetch", version, session_id=77, session_epoch=1, **asked)
            refused(answer, "FETCH_SESSION_ID_NOT_FOUND")
            equal(answer["responses"], [])


def test_followers_are_refused():
    topic_id = three("follower")
    with broker.client() as client:
        asked = fetch_request("follower", 0, topic_id=topic_id)
        answer = client.ask("Fetch", 11, replica_id=2, **asked)
        refused(answers(answer)[0], "TOPIC_AUTHORIZATION_FAILED")
        answer = client.ask("Fetch", 15, replica_state=dict(replica_id=2), **asked)
        refused(answers(answer)[0], "TOPIC_AUTHORIZATION_FAILED")


def test_a_request_for_nothing_is_answered_at_once():
    with broker.client() as client:
        equal(client.ask("Fetch", 11, max_wait_ms=600000, min_bytes=1)["responses"], [])


def test_a_damaged_place_is_an_error_for_its_partition_alone():
    damaged = Server("damaged")
    damaged.allow("damaged|not a batch|corrupt")
    with damaged, damaged.client() as client:
        damaged.topic("bad")
        damaged.topic("good")
        for topic in ("bad", "good"):
            for i in range(4):
                produce(client, topic, batch([Record(b"%d" % i)]))
    size = len(batch([Record(b"0")]))
    with open(f"{damaged.data}/bad-0/00000000000000000000.log", "r+b") as log:
        log.seek(size + 8)
        log.write(b"\xff" * 9)
    with damaged, damaged.client() as client:
        sent = client.send("Fetch", 11, max_wait_ms=60000, min_bytes=1, max_bytes=1 << 20,
                           topics=parts(("bad", 0, 1), ("good", 0, 0), partition_max_bytes=1 << 20))
        got = answers(client.receive(sent))
        refused(got[0], "CORRUPT_MESSAGE")
        equal(len(records(got[1]["records"])), 4)


def test_rights_are_those_of_the_partition():
    need_root()
    guarded = Server("guarded", ["--plaintext.user", "nobody"],
                     config="[broker]\nnum.partitions = 2\n")
    with guarded:
        topic = guarded.topic("guarded")
        append(f"{topic}/p0", b"secret\n")
        append(f"{topic}/p1", b"open\n")
        os.chmod(f"{topic}/p0", 0o600)
        with guarded.client() as client:
            got = answers(client.ask("Fetch", 11, max_wait_ms=60000, min_bytes=1, max_bytes=1 << 20,
                                     topics=parts(("guarded", 0, 0), ("guarded", 1, 0),
                                                  ("guarded", 2, 0), partition_max_bytes=1 << 20)))
            equal([ERRORS[p["error_code"]] for p in got],
                  ["TOPIC_AUTHORIZATION_FAILED", "NONE", "UNKNOWN_TOPIC_OR_PARTITION"])
            equal([r.value for r in records(got[1]["records"])], [b"open"])
            os.chmod(topic, 0o700)
            refused(fetch(client, "guarded", 0, partition=1), "TOPIC_AUTHORIZATION_FAILED")
            refused(fetch(client, "guarded", 0, partition=9), "TOPIC_AUTHORIZATION_FAILED")
            os.chmod(guarded.mount, 0o700)
            refused(fetch(client, "nowhere", 0), "TOPIC_AUTHORIZATION_FAILED")
            os.chmod(guarded.mount, 0o755)
            refused(fetch(client, "nowhere", 0), "UNKNOWN_TOPIC_OR_PARTITION")


if __name__ == "__main__":
    mounted.main(broker)
