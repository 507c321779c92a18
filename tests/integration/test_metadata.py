#!/usr/bin/python3
"""Metadata, DescribeCluster and DescribeTopicPartitions: what there is, and who is told."""

import os
import stat

import mounted
from mounted import *
from protocol import *

broker = Server("b", config="[broker]\nnum.partitions = 3\n")
NO_ID = bytes(16)
NOT_ASKED = -1 << 31
OPERATIONS = {name: 1 << bit for bit, name in enumerate(
    ["READ", "WRITE", "CREATE", "DELETE", "ALTER", "DESCRIBE", "CLUSTER_ACTION",
     "DESCRIBE_CONFIGS", "ALTER_CONFIGS", "IDEMPOTENT_WRITE"], 3)}


def operations(mask):
    return sorted(name for name, bit in OPERATIONS.items() if mask & bit)


def names(answer):
    return sorted(t["name"] for t in answer["topics"])


# --- Brokers ---

def test_every_version_says_how_to_get_here():
    broker.topic("here")
    host, port = broker.address.split(":")
    with broker.client() as client:
        cluster = client.ask("Metadata", 9, topics=[])["cluster_id"]
        check(cluster and f"cluster.id={cluster}\n" in open(f"{broker.data}/meta.properties").read())
        for version in range(14):
            answer = client.ask("Metadata", version, topics=[dict(name="here")])
            equal([(b["node_id"], b["host"], b["port"]) for b in answer["brokers"]],
                  [(1, host, int(port))], version)
            equal(answer["controller_id"], 1 if version >= 1 else -1)
            equal(answer["cluster_id"], cluster if version >= 2 else None)
            (topic,) = answer["topics"]
            equal((topic["error_code"], topic["name"], topic["is_internal"]), (0, "here", False))
            check((topic["topic_id"] != NO_ID) == (version >= 10))
            equal([(p["partition_index"], p["leader_id"], p["replica_nodes"], p["isr_nodes"])
                   for p in topic["partitions"]], [(i, 1, [1], [1]) for i in range(3)])
            equal({p["leader_epoch"] for p in topic["partitions"]}, {0 if version >= 7 else -1})
        for version in range(3):
            answer = client.ask("DescribeCluster", version)
            equal((answer["cluster_id"], answer["controller_id"]), (cluster, 1))
            equal([(b["broker_id"], b["host"], b["port"]) for b in answer["brokers"]],
                  [(1, host, int(port))])
            equal(answer["cluster_authorized_operations"], NOT_ASKED)
        for kind, name in ((2, "MISMATCHED_ENDPOINT_TYPE"), (9, "UNSUPPORTED_ENDPOINT_TYPE")):
            refused(client.ask("DescribeCluster", 1, endpoint_type=kind), name)


def test_the_cluster_is_the_same_after_a_restart():
    with broker.client() as client:
        before = client.ask("Metadata", 9, topics=[])["cluster_id"]
    broker.restart()
    with broker.client() as client:
        equal(client.ask("Metadata", 9, topics=[])["cluster_id"], before)


# --- Which topics ---

def test_all_topics_are_listed_in_order_or_none_at_all():
    wanted = sorted(os.listdir(broker.mount) + [f"all-{i}" for i in range(100)])
    for i in range(100):
        broker.topic(f"all-{i}")
    with broker.client() as client:
        for version in range(14):
            nothing = client.ask("Metadata", version, topics=[])
            equal(names(nothing), wanted if version == 0 else [], version)
            if version:
                everything = client.ask("Metadata", version, topics=None)
                equal([t["name"] for t in everything["topics"]], wanted, version)


def test_a_topic_that_is_named_twice_is_described_once():
    broker.topic("twice")
    with broker.client() as client:
        asked = [dict(name="twice"), dict(name="nowhere")] * 50
        answer = client.ask("Metadata", 9, topics=asked, allow_auto_topic_creation=False)
        equal(names(answer).count("twice"), 1)
        topic_id = metadata(client, "twice", 12)["topic_id"]
        asked = [dict(name="twice"), dict(topic_id=topic_id, name=None)]
        equal(names(client.ask("Metadata", 12, topics=asked)), ["twice"])


def test_topics_are_found_by_id():
    broker.topic("id")
    with broker.client() as client:
        topic_id = metadata(client, "id", 12)["topic_id"]
        for version in (12, 13):
            (topic,) = client.ask("Metadata", version,
                                  topics=[dict(topic_id=topic_id, name=None)])["topics"]
            equal((topic["error_code"], topic["name"], len(topic["partitions"])), (0, "id", 3))
            unknown = b"?" * 16
            (topic,) = client.ask("Metadata", version,
                                  topics=[dict(topic_id=unknown, name=None)])["topics"]
            refused(topic, "UNKNOWN_TOPIC_ID")
            equal((topic["topic_id"], topic["name"]), (unknown, None))
        for version in (10, 11):
            (topic,) = client.ask("Metadata", version, topics=[dict(name=None)])["topics"]
            refused(topic, "INVALID_REQUEST")
            (topic,) = client.ask("Metadata", version,
                                  topics=[dict(name="id", topic_id=topic_id)])["topics"]
            refused(topic, "INVALID_REQUEST")
        sh(f"rm -r {broker.path('id')}")
        (topic,) = client.ask("Metadata", 12, topics=[dict(topic_id=topic_id, name=None)])["topics"]
        refused(topic, "UNKNOWN_TOPIC_ID")


# --- Made on first use ---

def test_a_topic_is_made_when_it_is_first_asked_for():
    with broker.client() as client:
        for version in range(14):
            name = f"made-{version}"
            topic = metadata(client, name, version)
            refused(topic, "NONE")
            equal((topic["name"], len(topic["partitions"])), (name, 3))
            check(os.path.exists(broker.path(name, "p2")))
            refused(produce(client, name, batch([Record(b"x")])), "NONE")


def test_a_topic_made_over_the_wire_is_as_one_made_by_mkdir():
    with broker.client() as client:
        metadata(client, "wire")
    broker.topic("mkdir")

    def facts(topic):
        found = []
        for name in "", "p0", "append", "by-offset":
            st = os.stat(broker.path(topic, name))
            found.append((name, oct(st.st_mode), st.st_uid, st.st_gid))
        return found, os.listxattr(broker.path(topic))
    equal(facts("wire"), facts("mkdir"))


def test_a_new_topic_inherits_the_roots_default_acl():
    need_root()
    other = Server("acl", ["--create.umask", "077"])
    with other, other.client() as client:
        metadata(client, "masked")
        equal(stat.S_IMODE(os.stat(other.path("masked")).st_mode) & 0o777, 0o700)
        equal(stat.S_IMODE(os.stat(other.path("masked/p0")).st_mode), 0o600)
        sh(f"setfacl -d -m u:nobody:rx {other.mount}")
        metadata(client, "granted")
        check(b"user:nobody:r-x" in sh(f"getfacl -p {other.path('granted')}"))


def test_nothing_is_made_that_was_not_asked_for():
    off = Server("off", config="[net]\nauto.create.topics.enable = false\n")
    with off, off.client() as client, broker.client() as other:
        refused(metadata(client, "a"), "UNKNOWN_TOPIC_OR_PARTITION")
        equal(os.listdir(off.mount), [])
        refused(metadata(other, "b", create=False), "UNKNOWN_TOPIC_OR_PARTITION")
        check(not os.path.exists(broker.path("b")))


def test_names_that_no_topic_can_have_are_refused():
    with broker.client() as client:
        for name in ("", ".", "..", ".kqfs", "a/b", "a b", "ä", "a" * 250, "a\0b"):
            topic = metadata(client, name)
            refused(topic, "INVALID_TOPIC_EXCEPTION")
            equal((topic["name"], topic["partitions"]), (name, []))
        refused(metadata(client, "a" * 249, create=False), "UNKNOWN_TOPIC_OR_PARTITION")


def test_limits_of_topics_hold():
    few = Server("few", ["--max.topics", "2"])
    with few, few.client() as client:
        for name in "a", "b":
            refused(metadata(client, name), "NONE")
        refused(metadata(client, "c"), "POLICY_VIOLATION")
        equal(sorted(os.listdir(few.mount)), ["a", "b"])


def test_many_ask_for_a_new_topic_at_once():
    clients = [broker.client() for _ in range(20)]
    for round in range(5):
        sent = [c.send("Metadata", 9, topics=[dict(name=f"rush-{round}")]) for c in clients]
        for client, s in zip(clients, sent):
            (topic,) = client.receive(s)["topics"]
            check(ERRORS[topic["error_code"]] in ("NONE", "LEADER_NOT_AVAILABLE"), topic)
        refused(metadata(clients[0], f"rush-{round}"), "NONE")
    for client in clients:
        client.close()


# --- Who is told ---

def test_topics_that_a_client_may_not_look_into_are_hidden():
    need_root()
    guarded = Server("guarded", ["--plaintext.user", "nobody"])
    with guarded, guarded.client() as client:
        for name in ("open", "closed"):
            guarded.topic(name)
        os.chmod(guarded.path("closed"), 0o700)
        equal(names(client.ask("Metadata", 9, topics=None)), ["open"])
        topic = metadata(client, "closed", 12)
        refused(topic, "TOPIC_AUTHORIZATION_FAILED")
        equal((topic["topic_id"], topic["partitions"]), (NO_ID, []))
        refused(metadata(client, "new"), "TOPIC_AUTHORIZATION_FAILED")
        refused(metadata(client, "new", create=False), "UNKNOWN_TOPIC_OR_PARTITION")
        described = client.ask("DescribeTopicPartitions", 0, topics=[])
        equal(names(described), ["open"])
        described = client.ask("DescribeTopicPartitions", 0, topics=[dict(name="closed")])
        refused(described["topics"][0], "TOPIC_AUTHORIZATION_FAILED")
        os.chmod(guarded.mount, 0o711)
        equal(client.ask("Metadata", 9, topics=None)["topics"], [])
        refused(metadata(client, "open"), "NONE")
        os.chmod(guarded.mount, 0o700)
        for name in ("open", "closed", "new"):
            refused(metadata(client, name), "TOPIC_AUTHORIZATION_FAILED")


def test_operations_are_what_the_bits_allow():
    need_root()
    guarded = Server("bits", ["--plaintext.user", "nobody"])
    with guarded, guarded.client() as client:
        topic = guarded.topic("t")
        os.close(os.open(f"{topic}/p1", os.O_CREAT | os.O_WRONLY | os.O_APPEND))

        def mine():
            (found,) = client.ask("Metadata", 9, topics=[dict(name="t")],
                                  include_topic_authorized_operations=True)["topics"]
            return operations(found["topic_authorized_operations"])

        for mode in (0o644, 0o644):
            os.chmod(f"{topic}/p0", mode)
            os.chmod(f"{topic}/p1", mode)
        equal(mine(), ["DESCRIBE", "DESCRIBE_CONFIGS", "READ"])
        os.chmod(f"{topic}/p1", 0o600)
        equal(mine(), ["DESCRIBE", "DESCRIBE_CONFIGS"])
        os.chmod(topic, 0o777)
        equal(mine(), ["ALTER", "DESCRIBE", "DESCRIBE_CONFIGS"])
        equal(operations(client.ask("DescribeCluster", 0, include_cluster_authorized_operations=True)
                         ["cluster_authorized_operations"]), ["DESCRIBE"])
        os.chmod(guarded.mount, 0o777)
        answer = client.ask("Metadata", 8, topics=[], include_cluster_authorized_operations=True)
        equal(operations(answer["cluster_authorized_operations"]),
              ["CREATE", "DESCRIBE", "IDEMPOTENT_WRITE"])  # who creates a topic may write to it
    with broker.client() as client:
        metadata(client, "own")
        (found,) = client.ask("Metadata", 9, topics=[dict(name="own")],
                              include_topic_authorized_operations=True)["topics"]
        equal(len(operations(found["topic_authorized_operations"])), 8)
        equal(metadata(client, "own")["topic_authorized_operations"], NOT_ASKED)


# --- Page by page ---

def pages(client, limit, **asked):
    """All (topic, partition), and how many pages they took."""
    seen, cursor, count = [], None, 0
    while True:
        answer = client.ask("DescribeTopicPartitions", 0, response_partition_limit=limit,
                            cursor=cursor, **asked)
        page = [(t["name"], p["partition_index"]) for t in answer["topics"] for p in t["partitions"]]
        check(0 < len(page) <= max(limit, 1), page)
        seen += page
        cursor, count = answer["next_cursor"], count + 1
        if not cursor:
            return seen, count


def test_partitions_are_described_page_by_page():
    book = Server("book", ["--max.request.partition.size.limit", "7"],
                  config="[broker]\nnum.partitions = 5\n")
    with book, book.client() as client:
        for name in ("b", "a", "c"):
            book.topic(name)
        wanted = [(t, p) for t in "abc" for p in range(5)]
        for limit in (1, 2, 3, 5, 6, 7):
            equal(pages(client, limit, topics=[]), (wanted, -(-15 // limit)), limit)
            named = [dict(name=n) for n in ("c", "a", "c")]
            equal(pages(client, limit, topics=named)[0], [w for w in wanted if w[0] != "b"])
        equal(pages(client, 1000, topics=[])[1], 3, "the broker's own limit")
        answer = client.ask("DescribeTopicPartitions", 0, topics=[
            dict(name="a"), dict(name="no/name"), dict(name="nowhere")])
        equal([(t["name"], ERRORS[t["error_code"]]) for t in answer["topics"]],
              [("a", "NONE"), ("no/name", "INVALID_TOPIC_EXCEPTION"),
               ("nowhere", "UNKNOWN_TOPIC_OR_PARTITION")])
        check(answer["topics"][0]["topic_authorized_operations"] > 0)
        for cursor in (dict(topic_name="b", partition_index=0),
                       dict(topic_name="a", partition_index=-1)):
            answer = client.ask("DescribeTopicPartitions", 0, topics=[dict(name="a")], cursor=cursor)
            equal([ERRORS[t["error_code"]] for t in answer["topics"]], ["INVALID_REQUEST"])


if __name__ == "__main__":
    mounted.main(broker)
