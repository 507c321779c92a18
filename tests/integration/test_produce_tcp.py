#!/usr/bin/python3
"""Produce over TCP: what is taken, what is refused and how, and what is acknowledged when."""

import os
import time

import mounted
from mounted import *
from protocol import *

broker = Server("b", config="[broker]\nnum.partitions = 2\n")


def one(value=b"x", **more):
    return batch([Record(value)], **more)


def values(topic, partition=0):
    with broker.client() as client:
        return [r.value for r in records(fetch(client, topic, 0, partition=partition)["records"])]


def send_many(client, topic, *parts, version=9, acks=-1):
    """PARTS: (partition, records) in one request."""
    return client.send("Produce", version, acks=acks, timeout_ms=10000, topic_data=[
        dict(name=topic, partition_data=[dict(index=i, records=r) for i, r in parts])])


def answers(response):
    return [p for t in response["responses"] for p in t["partition_responses"]]


# --- What is taken ---

def test_every_version_and_codec_is_taken():
    broker.topic("versions")
    wanted = []
    with broker.client() as client:
        topic_id = metadata(client, "versions", 12)["topic_id"]
        for version in range(3, 14):
            for codec in range(5 if version >= 7 else 4):
                value = b"%d %d" % (version, codec)
                answer = produce(client, "versions", one(value, codec=codec), version=version,
                                 topic_id=topic_id)
                refused(answer, "NONE")
                equal(answer["base_offset"], len(wanted))
                equal(answer["log_start_offset"], 0 if version >= 5 else -1)
                equal(answer["log_append_time_ms"], -1)
                wanted.append(value)
    equal(values("versions"), wanted)
    equal(read(broker.path("versions/p0")), b"".join(v + b"\n" for v in wanted))


def test_batches_are_kept_as_they_were_sent():
    broker.topic("kept")
    sent = batch([Record(b"a", b"k", (("h", b"1"), ("h", None))), Record(None, b"k")], codec=2)
    with broker.client() as client:
        for offset in (0, 2):
            refused(produce(client, "kept", sent), "NONE")
        got = batches(fetch(client, "kept", 0)["records"])
    equal([b.base_offset for b in got], [0, 2])
    for b in got:  # all but the offset and the leader epoch, which the checksum does not cover
        equal(b.data[16:], sent[16:])
        equal(b.epoch, 0)


def test_many_partitions_are_answered_one_by_one():
    broker.topic("many")
    with broker.client() as client:
        sent = send_many(client, "many", (1, one(b"1")), (5, one(b"5")), (0, one(b"0")),
                         (1, one(b"bad", crc=1)), (1, one(b"2")))
        got = answers(client.receive(sent))
        equal([(p["index"], ERRORS[p["error_code"]], p["base_offset"]) for p in got],
              [(1, "NONE", 0), (5, "UNKNOWN_TOPIC_OR_PARTITION", -1), (0, "NONE", 0),
               (1, "CORRUPT_MESSAGE", -1), (1, "NONE", 1)])
    equal((values("many", 0), values("many", 1)), ([b"0"], [b"1", b"2"]))


def test_pipelined_requests_are_appended_and_answered_in_order():
    broker.topic("pipeline")
    with broker.client() as client:
        sent = [send_many(client, "pipeline", (0, one(b"%d" % i, codec=i % 5))) for i in range(200)]
        equal([answers(client.receive(s))[0]["base_offset"] for s in sent], list(range(200)))
    equal(values("pipeline"), [b"%d" % i for i in range(200)])


def test_a_large_batch_in_each_codec_comes_through():
    topic = broker.topic("large", max_message_bytes=8 << 20)
    value = os.urandom(1 << 20) + b"end"
    with broker.client() as client:
        for codec in range(5):
            refused(produce(client, "large", one(value, codec=codec)), "NONE")
        offset = 0
        while offset < 5:
            got = records(fetch(client, "large", offset)["records"])
            check(all(r.value == value for r in got))
            offset += len(got)
    equal(read(f"{os.path.dirname(topic)}/large/by-offset/p0/3.value"), value)


def test_the_broker_stamps_where_the_topic_says_so():
    broker.topic("stamped", message_timestamp_type="LogAppendTime")
    before = int(time.time() * 1000)
    with broker.client() as client:
        for codec in range(5):
            old = Record(b"x", timestamp=1_600_000_000_000)
            answer = produce(client, "stamped", batch([old, old], codec=codec))
            check(before <= answer["log_append_time_ms"] <= time.time() * 1000, answer)
            got = records(fetch(client, "stamped", answer["base_offset"])["records"])
            equal({r.timestamp for r in got}, {answer["log_append_time_ms"]})


# --- Acknowledgements ---

def test_acks_0_has_no_answer_and_an_error_ends_the_connection():
    broker.topic("silent")
    with broker.client() as client:
        for i in range(3):
            produce(client, "silent", one(b"%d" % i), acks=0)
        refused(produce(client, "silent", one(b"3")), "NONE")
        produce(client, "silent", one(crc=7), acks=0)
        try:
            client.ask("Metadata", 9, topics=[])
            raise Failed("the connection is still open")
        except Closed:
            pass
    equal(values("silent"), [b"0", b"1", b"2", b"3"])


def test_other_acks_are_refused():
    broker.topic("acks")
    with broker.client() as client:
        for acks in (2, -2, 100):
            refused(produce(client, "acks", one(), acks=acks), "INVALID_REQUIRED_ACKS")
        refused(produce(client, "acks", one(), acks=1), "NONE")
    equal(values("acks"), [b"x"])


def test_what_must_be_on_disk_is_before_it_is_acknowledged():
    """flush.messages = 1: the answer waits for the sync, other requests of the client do not."""
    broker.topic("synced", flush_messages=1)
    with broker.client() as client:
        sent = [send_many(client, "synced", (0, one(b"%d" % i)), (1, one(b"%d" % i)))
                for i in range(50)]
        for i, s in enumerate(sent):
            equal([(p["error_code"], p["base_offset"]) for p in answers(client.receive(s))],
                  [(0, i), (0, i)])
        for i in range(5):
            produce(client, "synced", one(b"last"), acks=0)
        refused(produce(client, "synced", one(b"after")), "NONE")
    equal(len(values("synced")), 56)


def test_a_client_that_leaves_does_not_wait_for_the_disk():
    broker.topic("gone", flush_messages=1)
    for _ in range(20):
        with broker.client() as client:
            metadata(client, "gone")  # who has left cannot be asked who it was
            send_many(client, "gone", (0, one()), (1, one()))
    until(lambda: len(values("gone")) == 20, "all messages")


# --- A disk that stands still ---

class Gated(Server):
    """A broker with one loop, whose disk stands still behind a gate that is closed."""

    def __init__(self, name):
        library = os.path.join(os.environ.get("KQFS_TEST_TOOLS", ""), "libgate.so")
        if not os.path.exists(library):
            raise Skip("the preloaded library was not built")
        if sh(f"LD_PRELOAD={library} $KQFS_BIN --version 2>&1", status=None).count(b"ASan"):
            raise Skip("a sanitizer wants to be first")
        self.gates = {what: os.path.join(test_directory(), f"{name}.{what}.closed")
                      for what in ("WRITE", "SYNC")}
        super().__init__(name, ["--net.threads", "1"], env={
            "LD_PRELOAD": library, **{f"KQFS_GATE_{w}": path for w, path in self.gates.items()}})

    def close(self, what):
        with open(self.gates[what], "w"):
            pass

    def open(self, what):
        os.unlink(self.gates[what])


def test_while_appends_are_slow_other_clients_are_served():
    with Gated("slow") as slow, slow.client() as writer, slow.client() as other:
        slow.topic("t")
        slow.close("WRITE")
        first = send_many(writer, "t", (0, one(b"1")))
        time.sleep(0.05)  # the first slow append is met on the loop: nobody could know
        slow.open("WRITE")
        refused(answers(writer.receive(first))[0], "NONE")
        slow.close("WRITE")
        second = send_many(writer, "t", (0, one(b"2")))
        third = send_many(writer, "t", (0, one(b"3")))
        refused(metadata(other, "t"), "NONE")
        slow.open("WRITE")
        equal([answers(writer.receive(s))[0]["base_offset"] for s in (second, third)], [1, 2])
        equal(read(slow.path("t/p0")), b"1\n2\n3\n")


def test_a_sync_that_takes_too_long_is_timed_out():
    with Gated("late") as late, late.client() as client:
        late.topic("t", flush_messages=1)
        late.close("SYNC")
        refused(produce(client, "t", one(b"1"), timeout_ms=100), "REQUEST_TIMED_OUT")
        parked = send_many(client, "t", (0, one(b"2")))
        refused(metadata(late.client(), "t"), "NONE")
        late.open("SYNC")
        refused(answers(client.receive(parked))[0], "NONE")
        equal(read(late.path("t/p0")), b"1\n2\n")


def test_who_leaves_while_a_sync_is_under_way_leaves_nothing_behind():
    with Gated("left") as left:
        left.topic("t", flush_messages=1)
        left.close("SYNC")
        clients = [left.client() for _ in range(5)]
        for client in clients:
            metadata(client, "t")
            send_many(client, "t", (0, one()))
        until(lambda: left.metric("kqfs_appended_messages_total") == 5, "all appends")
        for client in clients:
            client.close()
        with left.client() as client:
            refused(produce(client, "t", one(), timeout_ms=1), "REQUEST_TIMED_OUT")
        left.open("SYNC")


# --- What is refused ---

def test_bad_batches_are_refused_and_change_nothing():
    broker.topic("bad")
    two = [Record(b"a"), Record(b"b")]
    with broker.client() as client:
        for data, name in (
                (batch(two, crc=1), "CORRUPT_MESSAGE"),
                (batch(two)[:-1], None),
                (batch(two, count=3), "INVALID_RECORD"),
                (batch(two, last_delta=5), "INVALID_RECORD"),
                (batch(two, magic=1), None),
                (batch(two, attributes=0x20), "INVALID_RECORD"),
                (batch(two) + batch(two), "INVALID_RECORD"),
                (b"", None), (None, None), (bytes(10), None), (bytes(61), None)):
            answer = produce(client, "bad", data)
            check(answer["error_code"] in (error("CORRUPT_MESSAGE"), error("INVALID_RECORD")),
                  ERRORS[answer["error_code"]], data)
            if name:
                refused(answer, name)
            equal((answer["base_offset"], answer["log_append_time_ms"]), (-1, -1))
            check(answer["error_message"], "it says why")
        refused(produce(client, "bad", batch(two)), "NONE")
    equal(values("bad"), [b"a", b"b"])


def test_a_record_that_is_to_blame_is_named():
    broker.topic("named", cleanup_policy="compact")
    with broker.client() as client:
        answer = produce(client, "named", batch([Record(b"1", b"k"), Record(b"2")]))
        refused(answer, "INVALID_RECORD")
        equal([e["batch_index"] for e in answer["record_errors"]], [1])
        check(answer["record_errors"][0]["batch_index_error_message"])
        refused(produce(client, "named", batch([Record(b"1", b"k")])), "NONE")


def test_all_records_that_are_to_blame_are_named():
    topic = broker.topic("all-named", cleanup_policy="compact")
    with broker.client() as client:
        for codec in 0, 1:
            some = [Record(b"%d" % i, None if i % 10 == 0 else b"k") for i in range(100)]
            answer = produce(client, "all-named", batch(some, codec=codec))
            refused(answer, "INVALID_RECORD")
            equal([e["batch_index"] for e in answer["record_errors"]], list(range(0, 100, 10)))
            check("key" in answer["error_message"])
        setfattr(topic, "message.timestamp.after.max.ms", 1000)
        late = NOW + 3600000
        some = [Record(b"", b"k", timestamp=NOW if i % 2 else late) for i in range(10)]
        answer = produce(client, "all-named", batch(some))
        refused(answer, "INVALID_TIMESTAMP")
        equal([e["batch_index"] for e in answer["record_errors"]], list(range(0, 10, 2)))
        some[1].key = None
        answer = produce(client, "all-named", batch(some))
        refused(answer, "INVALID_RECORD")
        equal([("timestamp" in e["batch_index_error_message"], e["batch_index"])
               for e in answer["record_errors"]],
              [(True, 0), (False, 1)] + [(True, i) for i in range(2, 10, 2)])
        answer = produce(client, "all-named", batch([Record()] * 10001))
        refused(answer, "INVALID_RECORD")
        equal(len(answer["record_errors"]), 10000)
        answer = produce(client, "all-named", batch([Record()] * 3, count=4, last_delta=3))
        refused(answer, "INVALID_RECORD")
        equal(answer["record_errors"], [])


def test_zstd_is_for_clients_that_know_it():
    broker.topic("zstd")
    with broker.client() as client:
        for version in range(3, 7):
            refused(produce(client, "zstd", one(codec=4), version=version),
                    "UNSUPPORTED_COMPRESSION_TYPE")
        refused(produce(client, "zstd", one(codec=4), version=7), "NONE")


def test_a_topic_in_zstd_is_not_for_readers_who_do_not_know_it():
    broker.topic("zstandard", compression_type="zstd")
    with broker.client() as client:
        refused(produce(client, "zstandard", one(b"x" * 1000)), "NONE")
        refused(fetch(client, "zstandard", 0, 9), "UNSUPPORTED_COMPRESSION_TYPE")
        refused(fetch(client, "zstandard", 0, 10), "NONE")
    equal(read(broker.path("zstandard/p0")), b"x" * 1000 + b"\n")


def test_a_batch_above_the_maximum_is_too_large():
    broker.topic("small", max_message_bytes=1000)
    with broker.client() as client:
        refused(produce(client, "small", one(bytes(1000))), "MESSAGE_TOO_LARGE")
        refused(produce(client, "small", one(bytes(5000), codec=1)), "NONE")
        equal(len(values("small")[0]), 5000)


def test_unknown_topics_are_not_made_by_producing():
    with broker.client() as client:
        refused(produce(client, "nowhere", one()), "UNKNOWN_TOPIC_OR_PARTITION")
        refused(produce(client, "", one(), version=13, topic_id=bytes(16)), "UNKNOWN_TOPIC_ID")
        refused(produce(client, "", one(), version=13, topic_id=b"x" * 16), "UNKNOWN_TOPIC_ID")
    check(not os.path.exists(broker.path("nowhere")))


def test_nobody_produces_to_what_the_broker_writes():
    broker.topic("written")
    with broker.client() as client:
        client.ask("FindCoordinator", 0, key="g")
        refused(client.ask("OffsetCommit", 2, group_id="g", generation_id_or_member_epoch=-1, topics=[
            dict(name="written", partitions=[dict(partition_index=0, committed_offset=0)])])
                ["topics"][0]["partitions"][0], "NONE")
        check(metadata(client, "__consumer_offsets")["is_internal"])
        refused(produce(client, "__consumer_offsets", one()), "INVALID_TOPIC_EXCEPTION")


def test_transactions_are_refused():
    broker.topic("transactions")
    with broker.client() as client:
        answer = produce(client, "transactions", one(), transactional_id="t")
        refused(answer, "TRANSACTIONAL_ID_AUTHORIZATION_FAILED")
        answer = produce(client, "transactions", one(attributes=0x10, producer=(1, 0, 0)))
        refused(answer, "INVALID_TXN_STATE")
    equal(values("transactions"), [])


def test_rights_are_those_of_the_partition():
    need_root()
    guarded = Server("guarded", ["--plaintext.user", "nobody"],
                     config="[broker]\nnum.partitions = 2\n")
    with guarded, guarded.client() as client:
        topic = guarded.topic("guarded")
        os.chmod(f"{topic}/p1", 0o602)
        sent = send_many(client, "guarded", (0, one(b"0")), (1, one(b"1")), (2, one(b"2")))
        equal([ERRORS[p["error_code"]] for p in answers(client.receive(sent))],
              ["TOPIC_AUTHORIZATION_FAILED", "NONE", "UNKNOWN_TOPIC_OR_PARTITION"])
        equal((read(f"{topic}/p0"), read(f"{topic}/p1")), (b"", b"1\n"))


def test_a_full_disk_refuses_and_the_log_goes_on():
    need_root()
    full = Server("full")
    disk = os.path.join(full.directory, "disk")
    os.makedirs(disk, exist_ok=True)
    sh(f"mount -t tmpfs -o size=4m tmpfs {disk}")
    full.data = f"{disk}/data"
    full.allow("No space left")
    try:
        with full, full.client() as client:
            full.topic("full")
            codes = []
            while "KAFKA_STORAGE_ERROR" not in codes and len(codes) < 100:
                answer = produce(client, "full", one(os.urandom(200000)))
                codes.append(ERRORS[answer["error_code"]])
            equal(set(codes), {"NONE", "KAFKA_STORAGE_ERROR"})
            os.unlink(full.path("full/p0"))
            refused(produce(client, "full", one(b"again")), "NONE")
            equal(read(full.path("full/p0")), b"again\n")
    finally:
        full.stop()
        sh(f"umount {disk}")


if __name__ == "__main__":
    mounted.main(broker)
