#!/usr/bin/python3
"""The administration over TCP: topics, partitions, records, configurations, the cluster. What is
made, changed and deleted here shows on the mount, and the reverse."""

import os
import pwd
import stat

import mounted
from mounted import *
from mounted import refused as file_refused
from protocol import *
from protocol import refused

broker = Server("b", ["--max.topics", "2000"], config="[broker]\nnum.partitions = 3\n"
                "[topic]\nretention.ms = 86400000\n")
NO_ID = bytes(16)
TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP = 2, 4, 8, 16, 32
FROM_TOPIC, FROM_BROKER, FROM_DEFAULT = 1, 4, 5
SET, DELETE, APPEND, SUBTRACT = range(4)
DEFAULT = dict(num_partitions=-1, replication_factor=-1)


def error_names(entries):
    return [ERRORS[e["error_code"]] for e in entries]


def create(client, *topics, version=7, **more):
    asked = [{**DEFAULT, **t} for t in topics]
    return client.ask("CreateTopics", version, topics=asked, **more)["topics"]


def create_one(client, name, version=7, validate_only=False, **values):
    (answer,) = create(client, dict(name=name, **values), version=version,
                       validate_only=validate_only)
    equal(answer["name"], name)
    return answer


def settings(**values):
    return [dict(name=k.replace("_", "."), value=v) for k, v in values.items()]


def delete(client, *names, version=6):
    if version < 6:
        return client.ask("DeleteTopics", version, topic_names=names)["responses"]
    return client.ask("DeleteTopics", version,
                      topics=[dict(name=n) for n in names])["responses"]


def add(client, name, count, version=3, assignments=None, validate_only=False):
    (answer,) = client.ask("CreatePartitions", version, validate_only=validate_only, topics=[
        dict(name=name, count=count, assignments=assignments)])["results"]
    equal(answer["name"], name)
    return answer


def delete_records(client, name, offset, partition=0, version=2):
    (topic,) = client.ask("DeleteRecords", version, topics=[dict(name=name, partitions=[
        dict(partition_index=partition, offset=offset)])])["topics"]
    equal(topic["name"], name)
    (answer,) = topic["partitions"]
    equal(answer["partition_index"], partition)
    return answer


def describe(client, name, keys=None, version=4, kind=TOPIC, **more):
    (answer,) = client.ask("DescribeConfigs", version, resources=[
        dict(resource_type=kind, resource_name=name, configuration_keys=keys)], **more)["results"]
    equal((answer["resource_type"], answer["resource_name"]), (kind, name))
    return answer


def configs(client, name, **more):
    answer = describe(client, name, **more)
    refused(answer, "NONE")
    return {c["name"]: c for c in answer["configs"]}


def alter(client, name, version=2, kind=TOPIC, validate_only=False, **values):
    (answer,) = client.ask("AlterConfigs", version, validate_only=validate_only, resources=[
        dict(resource_type=kind, resource_name=name, configs=settings(**values))])["responses"]
    equal((answer["resource_type"], answer["resource_name"]), (kind, name))
    return answer


def change(client, name, *operations, version=1, kind=TOPIC, validate_only=False):
    """OPERATIONS: (operation, name, value)."""
    (answer,) = client.ask(
        "IncrementalAlterConfigs", version, validate_only=validate_only, resources=[
            dict(resource_type=kind, resource_name=name, configs=[
                dict(config_operation=o, name=n, value=v) for o, n, v in operations])])["responses"]
    equal((answer["resource_type"], answer["resource_name"]), (kind, name))
    return answer


def partitions(name):
    return sorted(n for n in os.listdir(broker.path(name)) if re.fullmatch(r"p\d+", n))


def own(name):
    """The topic's own settings, as the mount lists them."""
    return {n.removeprefix("user.kqfs."): os.getxattr(broker.path(name), n).decode()
            for n in os.listxattr(broker.path(name)) if n.startswith("user.kqfs.")}


# --- CreateTopics ---

def test_topics_are_made_in_every_version():
    with broker.client() as client:
        for version in range(2, 8):
            name = f"made-{version}"
            answer = create_one(client, name, version, num_partitions=2, replication_factor=1,
                                configs=settings(retention_ms="1000", cleanup_policy="compact"))
            refused(answer, "NONE")
            equal(answer["error_message"], None)
            equal(partitions(name), ["p0", "p1"])
            equal(own(name), {"retention.ms": "1000", "cleanup.policy": "compact"})
            equal(answer["topic_id"] != NO_ID, version >= 7)
            if version < 5:
                continue
            equal((answer["num_partitions"], answer["replication_factor"]), (2, 1))
            shown = {c["name"]: c for c in answer["configs"]}
            equal((shown["retention.ms"]["value"], shown["retention.ms"]["config_source"]),
                  ("1000", FROM_TOPIC))
            equal((shown["segment.bytes"]["value"], shown["segment.bytes"]["config_source"]),
                  ("1073741824", FROM_DEFAULT))
            equal([(n, c["value"]) for n, c in shown.items()],
                  [(n, c["value"]) for n, c in configs(client, name).items()])


def test_a_topic_gets_the_default_number_of_partitions():
    with broker.client() as client:
        answer = create_one(client, "defaults")
        equal((answer["num_partitions"], answer["replication_factor"]), (3, 1))
        equal(partitions("defaults"), ["p0", "p1", "p2"])
        equal(own("defaults"), {})


def test_a_topic_made_here_is_as_one_made_by_mkdir():
    broker.topic("by-mkdir")
    with broker.client() as client:
        create_one(client, "by-client")

        def facts(topic):
            found = []
            for name in "", "p0", "p2", "append", "by-offset":
                st = os.stat(broker.path(topic, name))
                found.append((name, oct(st.st_mode), st.st_uid, st.st_gid))
            return found, own(topic), [(c["name"], c["value"], c["config_source"])
                                       for c in configs(client, topic).values()]
        equal(facts("by-client"), facts("by-mkdir"))
    os.rmdir(broker.path("by-client"))
    with broker.client() as client:
        refused(describe(client, "by-client"), "UNKNOWN_TOPIC_OR_PARTITION")


def test_partitions_can_be_assigned_to_the_broker():
    def assigned(*pairs):
        return [dict(partition_index=i, broker_ids=ids) for i, ids in pairs]
    with broker.client() as client:
        refused(create_one(client, "assigned", assignments=assigned((1, [1]), (0, [1]))), "NONE")
        equal(partitions("assigned"), ["p0", "p1"])
        for wrong in ([(0, [2])], [(0, [1, 1])], [(0, [])], [(1, [1])], [(0, [1]), (0, [1])],
                      [(-1, [1])], [(0, [1]), (2, [1])]):
            refused(create_one(client, "wrong", assignments=assigned(*wrong)),
                    "INVALID_REPLICA_ASSIGNMENT")
        for more in dict(num_partitions=1), dict(replication_factor=1):
            refused(create_one(client, "wrong", assignments=assigned((0, [1])), **more),
                    "INVALID_REQUEST")
    check(not os.path.exists(broker.path("wrong")))


def test_what_cannot_be_made_is_refused_with_the_reason():
    broker.topic("there")
    wrong = [
        (dict(name="there"), "TOPIC_ALREADY_EXISTS"),
        (dict(name="n", num_partitions=0), "INVALID_PARTITIONS"),
        (dict(name="n", num_partitions=-2), "INVALID_PARTITIONS"),
        (dict(name="n", num_partitions=2000000000), "INVALID_PARTITIONS"),
        (dict(name="n", replication_factor=0), "INVALID_REPLICATION_FACTOR"),
        (dict(name="n", replication_factor=2), "INVALID_REPLICATION_FACTOR"),
        (dict(name="n", replication_factor=-2), "INVALID_REPLICATION_FACTOR"),
        (dict(name="n", configs=settings(nonsense="1")), "INVALID_CONFIG"),
        (dict(name="n", configs=settings(retention_ms="soon")), "INVALID_CONFIG"),
        (dict(name="n", configs=settings(retention_ms=None)), "INVALID_CONFIG"),
        (dict(name="n", configs=settings(retention_ms="1", segment_bytes="-7")), "INVALID_CONFIG"),
        (dict(name="n", configs=settings(min_compaction_lag_ms="9", max_compaction_lag_ms="8")),
         "INVALID_CONFIG"),
        (dict(name="n", configs=settings(framing="a\0b")), "INVALID_CONFIG"),
    ] + [(dict(name=n), "INVALID_TOPIC_EXCEPTION") for n in (
        "", ".", "..", ".kqfs", "a/b", "a b", "ä", "a" * 250, "a\0b", "__consumer_offsets",
        "__transaction_state", "__share_group_state")]
    with broker.client() as client:
        for version in range(2, 8):
            for topic, name in wrong:
                for validate_only in (False, True):
                    (answer,) = create(client, topic, version=version, validate_only=validate_only)
                    equal((answer["name"], ERRORS[answer["error_code"]]), (topic["name"], name))
                    check(answer["error_message"] or topic.get("configs"), answer)
    check(not os.path.exists(broker.path("n")))


def test_each_topic_of_a_request_stands_for_itself():
    with broker.client() as client:
        answers = create(client, dict(name="self-a"), dict(name="self b"), dict(name="self-c"))
        equal([(a["name"], ERRORS[a["error_code"]]) for a in answers],
              [("self-a", "NONE"), ("self b", "INVALID_TOPIC_EXCEPTION"), ("self-c", "NONE")])
        check(os.path.exists(broker.path("self-a")) and os.path.exists(broker.path("self-c")))
        equal(create(client), [])


def test_a_topic_that_is_named_twice_is_not_made_at_all():
    with broker.client() as client:
        answers = create(client, dict(name="twice"), dict(name="once"), dict(name="twice"))
        equal([(a["name"], ERRORS[a["error_code"]]) for a in answers],
              [("twice", "INVALID_REQUEST"), ("once", "NONE")])
        check(not os.path.exists(broker.path("twice")))
        many = [dict(name=f"no topic {i % 20000}") for i in range(20001)]
        equal(error_names(create(client, *many)), ["INVALID_REQUEST"]
              + ["INVALID_TOPIC_EXCEPTION"] * 19999)


def test_only_checked_is_as_if_it_were_made_and_makes_nothing():
    with broker.client() as client:
        for version in range(2, 8):
            answer = create_one(client, "checked", version, validate_only=True, num_partitions=5,
                                configs=settings(segment_ms="5000"))
            refused(answer, "NONE")
            equal(answer["topic_id"], NO_ID)
            if version >= 5:
                equal((answer["num_partitions"], answer["replication_factor"]), (5, 1))
                shown = {c["name"]: (c["value"], c["config_source"]) for c in answer["configs"]}
                equal(shown["segment.ms"], ("5000", FROM_TOPIC))
                equal(shown["retention.ms"], ("86400000", FROM_BROKER))
        equal(create_one(client, "checked", validate_only=True)["num_partitions"], 3)
    check(not os.path.exists(broker.path("checked")))


def test_limits_of_topics_and_partitions_hold():
    few = Server("few", ["--max.topics", "2", "--max.partitions", "7"])
    with few, few.client() as client:
        refused(create_one(client, "eight", num_partitions=8), "POLICY_VIOLATION")
        refused(create_one(client, "eight", num_partitions=8, validate_only=True),
                "POLICY_VIOLATION")
        refused(create_one(client, "a", num_partitions=4), "NONE")
        refused(create_one(client, "b", num_partitions=4), "POLICY_VIOLATION")
        refused(create_one(client, "b", num_partitions=2), "NONE")
        for only in True, False:
            refused(create_one(client, "c", validate_only=only), "POLICY_VIOLATION")
            refused(add(client, "b", 4, validate_only=only), "INVALID_PARTITIONS")
        equal(sorted(os.listdir(few.path("b"))), sorted(["append", "by-offset", "by-segment",
                                                         "by-time", "p0", "p1"]))
        refused(add(client, "b", 3), "NONE")
        for only in True, False:
            refused(add(client, "b", 4, validate_only=only), "INVALID_PARTITIONS")
        equal(error_names(delete(client, "a")), ["NONE"])
        refused(create_one(client, "c", num_partitions=4), "NONE")


def test_a_request_that_takes_too_much_memory_ends_the_connection_and_nothing_else():
    small = Server("small", ["--request.memory.max.bytes", "65536"])
    small.allow("memory|larger|limit")
    with small:
        with small.client() as client:
            sent = client.send("CreateTopics", 7, topics=[
                dict(name=f"topic-{i}", **DEFAULT) for i in range(5000)])
            try:
                client.receive(sent)
                raise Failed("it was answered")
            except Closed:
                pass
        with small.client() as client:
            refused(create_one(client, "a"), "NONE")
            answers = create(client, *[dict(name=f"t{i}") for i in range(40)])
            made = [a["name"] for a in answers if ERRORS[a["error_code"]] == "NONE"]
            equal(set(error_names(answers)) - {"NONE", "POLICY_VIOLATION"}, set())
            equal(sorted(os.listdir(small.mount)), sorted(made + ["a"]))


# --- DeleteTopics ---

def test_topics_are_deleted_in_every_version():
    with broker.client() as client:
        for version in range(1, 7):
            name = f"gone-{version}"
            topic_id = create_one(client, name)["topic_id"]
            produce(client, name, batch([Record(b"x")]))
            (answer,) = delete(client, name, version=version)
            equal((answer["name"], ERRORS[answer["error_code"]]), (name, "NONE"))
            equal(answer["topic_id"], topic_id if version >= 6 else NO_ID)
            check(not os.path.exists(broker.path(name)))
            (answer,) = delete(client, name, version=version)
            refused(answer, "UNKNOWN_TOPIC_OR_PARTITION")


def test_topics_are_deleted_by_id():
    with broker.client() as client:
        topic_id = create_one(client, "by-id")["topic_id"]
        answers = client.ask("DeleteTopics", 6, topics=[
            dict(topic_id=topic_id), dict(topic_id=b"?" * 16), dict(), dict(name="by-id",
                                                                           topic_id=topic_id)])
        equal([(a["name"], a["topic_id"], ERRORS[a["error_code"]]) for a in answers["responses"]],
              [(None, topic_id, "INVALID_REQUEST"), (None, b"?" * 16, "UNKNOWN_TOPIC_ID"),
               (None, NO_ID, "INVALID_REQUEST"), ("by-id", topic_id, "INVALID_REQUEST")])
        (answer,) = client.ask("DeleteTopics", 6, topics=[dict(topic_id=topic_id)])["responses"]
        equal((answer["name"], answer["topic_id"]), ("by-id", topic_id))
        refused(answer, "NONE")
        check(not os.path.exists(broker.path("by-id")))


def test_a_topic_that_is_named_twice_is_not_deleted():
    with broker.client() as client:
        for name in "kept", "lost":
            topic_id = create_one(client, name)["topic_id"]
        equal(error_names(delete(client, "kept", "kept", version=5)), ["INVALID_REQUEST"])
        answers = client.ask("DeleteTopics", 6, topics=[
            dict(name="kept"), dict(topic_id=topic_id), dict(name="lost"), dict(name="nowhere")])
        equal(error_names(answers["responses"]),
              ["NONE", "INVALID_REQUEST", "INVALID_REQUEST", "UNKNOWN_TOPIC_OR_PARTITION"])
        check(not os.path.exists(broker.path("kept")) and os.path.exists(broker.path("lost")))


def test_a_reader_of_a_deleted_topic_is_told():
    with broker.client() as client, broker.client() as other:
        create_one(client, "read")
        sent = other.send("Fetch", 11, **fetch_request("read", 0, wait=60000))
        delete(client, "read")
        (partition,) = other.receive(sent)["responses"][0]["partitions"]
        refused(partition, "UNKNOWN_TOPIC_OR_PARTITION")


# --- CreatePartitions ---

def test_partitions_are_added_in_every_version():
    with broker.client() as client:
        create_one(client, "more", num_partitions=1)
        for version in range(4):
            refused(add(client, "more", 10 + version, version, validate_only=True), "NONE")
            refused(add(client, "more", 2 + 2 * version, version), "NONE")
            equal(len(partitions("more")), 2 + 2 * version)
            refused(add(client, "more", 3 + 2 * version, version, assignments=[
                dict(broker_ids=[1])]), "NONE")
            equal(len(partitions("more")), 3 + 2 * version)
        append(broker.path("more", "p8"), "hello\n")
        equal(records(fetch(client, "more", 0, partition=8)["records"])[0].value, b"hello")
        sh("touch p9", cwd=broker.path("more"))
        refused(add(client, "more", 10), "INVALID_PARTITIONS")


def test_partitions_that_cannot_be_added_are_refused():
    broker.topic("three")
    with broker.client() as client:
        for version in range(4):
            for count in (3, 2, 0, -1, 2000000000):
                answer = add(client, "three", count, version)
                refused(answer, "INVALID_PARTITIONS")
                check(answer["error_message"])
            refused(add(client, "nowhere", 4, version), "UNKNOWN_TOPIC_OR_PARTITION")
            for wrong in ([], [dict(broker_ids=[1])] * 2, [dict(broker_ids=[2])],
                          [dict(broker_ids=[1, 2])], [dict(broker_ids=[])]):
                refused(add(client, "three", 4, version, assignments=wrong),
                        "INVALID_REPLICA_ASSIGNMENT")
            answers = client.ask("CreatePartitions", version, topics=[
                dict(name="three", count=4), dict(name="three", count=5)])["results"]
            equal(error_names(answers), ["INVALID_REQUEST"])
    equal(len(partitions("three")), 3)


def test_many_add_partitions_at_once_and_none_gets_too_many():
    clients = [broker.client() for _ in range(10)]
    create_one(clients[0], "race", num_partitions=1)
    for count in range(2, 12):
        sent = [c.send("CreatePartitions", 3, topics=[
            dict(name="race", count=count, assignments=None)]) for c in clients]
        errors = [error_names(c.receive(s)["results"])[0] for c, s in zip(clients, sent)]
        equal(sorted(errors), ["INVALID_PARTITIONS"] * 9 + ["NONE"])
        equal(len(partitions("race")), count)
    for client in clients:
        client.close()


def test_what_is_changed_is_described_at_once():
    def by_metadata(client, version):
        topic = metadata(client, "seen", version, create=False)
        return ERRORS[topic["error_code"]], len(topic["partitions"]), topic["topic_id"]

    def described(client):
        (topic,) = client.ask("DescribeTopicPartitions", 0, topics=[dict(name="seen")])["topics"]
        return ERRORS[topic["error_code"]], len(topic["partitions"]), topic["topic_id"]

    with broker.client() as client:
        for version in range(10, 14):
            topic_id = create_one(client, "seen", num_partitions=1)["topic_id"]
            for count in 1, 4:
                if count > 1:
                    refused(add(client, "seen", count), "NONE")
                equal(by_metadata(client, version), ("NONE", count, topic_id))
                equal(described(client), ("NONE", count, topic_id))
            equal(error_names(delete(client, "seen")), ["NONE"])
            equal(by_metadata(client, version)[:2], ("UNKNOWN_TOPIC_OR_PARTITION", 0))
            equal(described(client)[:2], ("UNKNOWN_TOPIC_OR_PARTITION", 0))
        answer = client.ask("DescribeCluster", 2, include_cluster_authorized_operations=True)
        equal([b["broker_id"] for b in answer["brokers"]], [1])
        check(answer["cluster_authorized_operations"] & 1 << 7, "ALTER, for the root's owner")


# --- DeleteRecords ---

def test_records_are_deleted_in_every_version():
    with broker.client() as client:
        create_one(client, "front", num_partitions=1)
        append(broker.path("front", "p0"), lines(30))
        for version in range(3):
            answer = delete_records(client, "front", 5 * (version + 1), version=version)
            refused(answer, "NONE")
            equal(answer["low_watermark"], 5 * (version + 1))
            equal(read(broker.path("front", "p0")), lines(30 - 5 * (version + 1),
                                                          5 * (version + 1)))
        equal(delete_records(client, "front", 3)["low_watermark"], 15, "never back")
        equal(fetch(client, "front", 15)["log_start_offset"], 15)
        refused(fetch(client, "front", 14), "OFFSET_OUT_OF_RANGE")
        for beyond in (31, 1 << 40, -2, -(1 << 63)):
            answer = delete_records(client, "front", beyond)
            refused(answer, "OFFSET_OUT_OF_RANGE")
            equal(answer["low_watermark"], -1)
        os.unlink(broker.path("front", "p0"))
        equal(fetch(client, "front", 30)["log_start_offset"], 30)
        append(broker.path("front", "p0"), lines(5))
        equal(delete_records(client, "front", -1)["low_watermark"], 35)
        equal(read(broker.path("front", "p0")), b"")


def test_records_that_cannot_be_deleted_are_refused():
    broker.topic("compacted", cleanup_policy="compact")
    broker.topic("both", cleanup_policy="compact,delete")
    with broker.client() as client:
        refused(delete_records(client, "compacted", 0), "POLICY_VIOLATION")
        refused(delete_records(client, "both", 0), "NONE")
        for partition in (3, -1, 1 << 30):
            refused(delete_records(client, "both", 0, partition), "UNKNOWN_TOPIC_OR_PARTITION")
        refused(delete_records(client, "nowhere", 0), "UNKNOWN_TOPIC_OR_PARTITION")
        refused(delete_records(client, "no/name", 0), "UNKNOWN_TOPIC_OR_PARTITION")
        answer = client.ask("DeleteRecords", 2, topics=[dict(name="both", partitions=[
            dict(partition_index=i, offset=i) for i in range(3)])])
        equal(error_names(answer["topics"][0]["partitions"]),
              ["NONE", "OFFSET_OUT_OF_RANGE", "OFFSET_OUT_OF_RANGE"])


# --- DescribeConfigs ---

def test_every_setting_is_shown_with_its_source():
    broker.topic("shown", segment_ms=7000, delimiter=";")
    names = [line.split()[0].removeprefix("topic.") for line in
             read(broker.path(".kqfs/config")).decode().split("[topic]\n")[1].splitlines()]
    with broker.client() as client:
        for version in range(1, 5):
            shown = configs(client, "shown", version=version)
            equal(sorted(shown), sorted(names))
            for name, config in shown.items():
                equal(config["value"], getfattr(broker.path("shown"), name), name)
                equal(config["config_source"], {"segment.ms": FROM_TOPIC, "delimiter": FROM_TOPIC,
                                                "retention.ms": FROM_BROKER}.get(name, FROM_DEFAULT))
                equal((config["read_only"], config["is_sensitive"], config["synonyms"]),
                      (False, False, []))
            if version >= 3:
                kinds = {n: c["config_type"] for n, c in shown.items()}
                equal([kinds[n] for n in ("cleanup.policy", "retention.ms", "segment.bytes",
                                          "min.cleanable.dirty.ratio", "compression.type")],
                      [7, 5, 3, 6, 2])


def test_synonyms_say_what_is_behind_a_value():
    broker.topic("synonyms", segment_ms=7000, retention_ms=5)
    with broker.client() as client:
        for version in range(1, 5):
            shown = {n: [(s["name"], s["value"], s["source"]) for s in c["synonyms"]]
                     for n, c in configs(client, "synonyms", version=version,
                                         include_synonyms=True).items()}
            equal(shown["segment.ms"], [("segment.ms", "7000", FROM_TOPIC),
                                        ("log.roll.ms", "604800000", FROM_DEFAULT)])
            equal(shown["retention.ms"], [("retention.ms", "5", FROM_TOPIC),
                                          ("log.retention.ms", "86400000", FROM_BROKER),
                                          ("log.retention.ms", "604800000", FROM_DEFAULT)])
            equal(shown["max.message.bytes"], [("message.max.bytes", "1048588", FROM_DEFAULT)])


def test_only_what_is_asked_for_is_shown():
    broker.topic("asked")
    with broker.client() as client:
        equal(sorted(configs(client, "asked", keys=["segment.ms", "nonsense", "delimiter"])),
              ["delimiter", "segment.ms"])
        equal(sorted(configs(client, "asked", keys=["nonsense"])), [])
        equal(sorted(configs(client, "asked", keys=[])), sorted(configs(client, "asked")))
        answer = client.ask("DescribeConfigs", 4, resources=[
            dict(resource_type=TOPIC, resource_name=n, configuration_keys=["segment.ms"])
            for n in ("asked", "nowhere", "asked", "no/name")])
        equal([(ERRORS[a["error_code"]], len(a["configs"])) for a in answer["results"]],
              [("NONE", 1), ("UNKNOWN_TOPIC_OR_PARTITION", 0), ("NONE", 1),
               ("UNKNOWN_TOPIC_OR_PARTITION", 0)])


def test_the_brokers_own_settings_are_shown():
    with broker.client() as client:
        for version in range(1, 5):
            shown = configs(client, "1", kind=BROKER, version=version, include_synonyms=True)
            check(all(c["read_only"] for c in shown.values()))

            def of(name):
                config = shown[name]
                return (config["value"], config["config_source"],
                        config["config_type"] if version >= 3 else None,
                        [(s["value"], s["source"]) for s in config["synonyms"]])

            def kind(number):
                return number if version >= 3 else None
            equal(of("num.partitions"), ("3", FROM_BROKER, kind(5),
                                         [("3", FROM_BROKER), ("1", FROM_DEFAULT)]))
            equal(of("max.topics")[:2], ("2000", FROM_BROKER))
            equal(of("max.partitions"), ("100000", FROM_DEFAULT, kind(5),
                                         [("100000", FROM_DEFAULT)]))
            equal(of("auto.create.topics.enable")[:3], ("true", FROM_DEFAULT, kind(1)))
            equal(of("log.retention.ms"), ("86400000", FROM_BROKER, kind(5),
                                           [("86400000", FROM_BROKER), ("604800000", FROM_DEFAULT)]))
            equal(of("message.max.bytes")[:3], ("1048588", FROM_DEFAULT, kind(5)))
            equal(of("log.dirs")[0], broker.data)
            equal(of("node.id")[0], "1")
            equal(list(shown), sorted(shown))
        equal(configs(client, "", kind=BROKER), {})
        equal(sorted(configs(client, "1", kind=BROKER, keys=["num.partitions", "x"])),
              ["num.partitions"])
        for name in ("2", "-1", "one", "1 ", "1\0", "99999999999999999999"):
            refused(describe(client, name, kind=BROKER), "INVALID_REQUEST")
        text = read(broker.path(".kqfs/config")).decode()
        for name, value in re.findall(r"^(\S+) = (\d+) ;", text.split("[topic]")[0], re.M):
            equal(shown[name]["value"], value, name)


def test_other_resources_have_no_configuration():
    with broker.client() as client:
        for version in range(1, 5):
            for kind, name in ((BROKER_LOGGER, "1"), (GROUP, "g"), (CLIENT_METRICS, ""), (0, "x"),
                               (3, "x"), (127, "x"), (-1, "x")):
                answer = describe(client, name, kind=kind, version=version)
                refused(answer, "INVALID_REQUEST")
                equal((answer["configs"], bool(answer["error_message"])), ([], True))
            equal(configs(client, "anything", kind=CLIENT_METRICS, version=version), {})


# --- AlterConfigs ---

def test_settings_are_replaced_in_every_version():
    broker.topic("replaced", segment_ms=7000)
    with broker.client() as client:
        for version in range(3):
            refused(alter(client, "replaced", version, retention_ms="1", segment_bytes="100000",
                          validate_only=True), "NONE")
            equal(own("replaced"), {"segment.ms": "7000"})
            refused(alter(client, "replaced", version, retention_ms="99", segment_bytes="100000"),
                    "NONE")
            equal(own("replaced"), {"retention.ms": "99", "segment.bytes": "100000"})
            refused(alter(client, "replaced", version), "NONE")
            equal(own("replaced"), {})
            setfattr(broker.path("replaced"), "segment.ms", 7000)
        equal(configs(client, "replaced")["segment.ms"]["value"], "7000")


WRONG = [(dict(segment_ms="0"), "INVALID_CONFIG"), (dict(nonsense="1"), "INVALID_CONFIG"),
         (dict(delimiter=""), "INVALID_CONFIG"), (dict(delimiter=None), "INVALID_REQUEST"),
         (dict(segment_ms="9", key_separator="\\n"), "INVALID_CONFIG"),
         (dict(retention_ms="10", cleanup_policy="burn"), "INVALID_CONFIG")]


def test_a_wrong_setting_changes_none():
    broker.topic("steady", segment_ms=7000)
    with broker.client() as client:
        for values, name in WRONG:
            for version in range(3):
                answer = alter(client, "steady", version, **values)
                refused(answer, name)
                check(answer["error_message"])
                refused(alter(client, "steady", version, validate_only=True, **values), name)
            for version in range(2):
                operations = [(SET, c["name"], c["value"]) for c in settings(**values)]
                answer = change(client, "steady", *operations, version=version)
                refused(answer, name)
                check(answer["error_message"])
                refused(change(client, "steady", *operations, version=version,
                               validate_only=True), name)
        twice = [dict(name="segment.ms", value="5"), dict(name="segment.ms", value="6")]
        answer = client.ask("AlterConfigs", 2, resources=[
            dict(resource_type=TOPIC, resource_name="steady", configs=twice)])["responses"]
        equal(error_names(answer), ["INVALID_REQUEST"])
        refused(change(client, "steady", (SET, "segment.ms", "1"), (DELETE, "segment.ms", None)),
                "INVALID_REQUEST")
    equal(own("steady"), {"segment.ms": "7000"})


def test_what_cannot_be_altered_is_refused():
    with broker.client() as client:
        for kind, name in ((BROKER, "1"), (BROKER, ""), (BROKER_LOGGER, "1"), (CLIENT_METRICS, "m"),
                           (GROUP, "g"), (0, "x"), (127, "x")):
            refused(alter(client, name, kind=kind, segment_ms="5"), "INVALID_REQUEST")
            refused(alter(client, name, kind=kind, nonsense="5"), "INVALID_REQUEST")
            refused(change(client, name, (SET, "segment.ms", "5"), kind=kind), "INVALID_REQUEST")
        for name in ("nowhere", "no/name", ""):
            refused(alter(client, name, segment_ms="5"), "UNKNOWN_TOPIC_OR_PARTITION")
            refused(change(client, name, (SET, "segment.ms", "5")), "UNKNOWN_TOPIC_OR_PARTITION")


def test_each_resource_stands_for_itself_and_appears_once():
    for name in "first", "second":
        broker.topic(name)
    with broker.client() as client:
        for api, version, more in (("AlterConfigs", 2, {}),
                                   ("IncrementalAlterConfigs", 1, dict(config_operation=SET))):
            def ask(*names):
                return error_names(client.ask(api, version, resources=[
                    dict(resource_type=TOPIC, resource_name=n,
                         configs=[dict(name="segment.ms", value="1234", **more)])
                    for n in names])["responses"])
            equal(ask("first", "nowhere", "second"),
                  ["NONE", "UNKNOWN_TOPIC_OR_PARTITION", "NONE"])
            equal(own("second"), {"segment.ms": "1234"})
            os.removexattr(broker.path("first"), "user.kqfs.segment.ms")
            os.removexattr(broker.path("second"), "user.kqfs.segment.ms")
            equal(ask("first", "second", "first"), ["INVALID_REQUEST", "NONE", "INVALID_REQUEST"])
            equal(own("first"), {})
            os.removexattr(broker.path("second"), "user.kqfs.segment.ms")


# --- IncrementalAlterConfigs ---

def test_settings_are_changed_one_by_one_in_every_version():
    broker.topic("bit-by-bit", segment_ms=7000)
    with broker.client() as client:
        for version in range(2):
            refused(change(client, "bit-by-bit", (SET, "retention.ms", "5"),
                           (DELETE, "segment.ms", None), version=version, validate_only=True),
                    "NONE")
            equal(own("bit-by-bit"), {"segment.ms": "7000"})
            refused(change(client, "bit-by-bit", (SET, "retention.ms", "5"),
                           (SET, "key.separator", "=")), "NONE")
            equal(own("bit-by-bit"), {"segment.ms": "7000", "retention.ms": "5",
                                      "key.separator": "="})
            refused(change(client, "bit-by-bit", (DELETE, "retention.ms", None),
                           (DELETE, "key.separator", "ignored"), (DELETE, "flush.ms", None)),
                    "NONE")
            equal(own("bit-by-bit"), {"segment.ms": "7000"})
            refused(change(client, "bit-by-bit"), "NONE")


def test_lists_take_and_lose_words():
    broker.topic("list")
    with broker.client() as client:
        for operation, value, wanted in (
                (APPEND, "compact", "compact,delete"), (APPEND, "delete", "compact,delete"),
                (SUBTRACT, "delete", "compact"), (SUBTRACT, "delete", "compact"),
                (APPEND, "delete,compact", "compact,delete"), (SUBTRACT, "compact", "delete")):
            refused(change(client, "list", (operation, "cleanup.policy", value)), "NONE")
            equal(own("list")["cleanup.policy"], wanted)
        refused(change(client, "list", (APPEND, "cleanup.policy", "burn")), "INVALID_CONFIG")
        for operation in APPEND, SUBTRACT:
            refused(change(client, "list", (operation, "retention.ms", "1")), "INVALID_CONFIG")
            refused(change(client, "list", (operation, "nonsense", "1")), "INVALID_CONFIG")
            refused(change(client, "list", (operation, "cleanup.policy", None)), "INVALID_REQUEST")
        for operation in (-1, 4, 127):
            refused(change(client, "list", (operation, "retention.ms", "1")), "INVALID_REQUEST")
    equal(own("list"), {"cleanup.policy": "delete"})


def test_what_is_not_set_can_be_taken_back():
    broker.topic("taken-back", segment_ms=7000)
    with broker.client() as client:
        for version in range(2):
            refused(change(client, "taken-back", (DELETE, "leader.replication.throttled.replicas", ""),
                           version=version), "NONE")
            for name in "1", "":
                rate = "leader.replication.throttled.rate"
                refused(change(client, name, (DELETE, rate, None), kind=BROKER, version=version),
                        "NONE")
                refused(change(client, name, (DELETE, rate, None), (SET, "num.partitions", "7"),
                               kind=BROKER, version=version), "INVALID_REQUEST")
            refused(change(client, "2", kind=BROKER, version=version), "INVALID_REQUEST")
    equal(own("taken-back"), {"segment.ms": "7000"})


def test_words_that_are_changed_at_once_do_not_undo_each_other():
    broker.topic("at-once")
    clients = [broker.client() for _ in range(2)]
    for _ in range(50):
        setfattr(broker.path("at-once"), "cleanup.policy", "delete")
        sent = [c.send("IncrementalAlterConfigs", 1, resources=[
            dict(resource_type=TOPIC, resource_name="at-once", configs=[
                dict(name="cleanup.policy", config_operation=o, value=v)])])
            for c, (o, v) in zip(clients, ((APPEND, "compact"), (SUBTRACT, "delete")))]
        for client, s in zip(clients, sent):
            equal(error_names(client.receive(s)["responses"]), ["NONE"])
        equal(getfattr(broker.path("at-once"), "cleanup.policy"), "compact")
    for client in clients:
        client.close()


def test_a_changed_setting_holds_for_what_is_produced_next():
    with broker.client() as client:
        create_one(client, "held", num_partitions=1)
        big = batch([Record(b"x" * 2000)])
        refused(produce(client, "held", big), "NONE")
        refused(change(client, "held", (SET, "max.message.bytes", "1000")), "NONE")
        refused(produce(client, "held", big), "MESSAGE_TOO_LARGE")
        file_refused(errno.EMSGSIZE, append, broker.path("held", "p0"), b"x" * 2000 + b"\n")
        refused(change(client, "held", (DELETE, "max.message.bytes", None)), "NONE")
        refused(produce(client, "held", big), "NONE")


# --- The cluster ---

def log_dirs(client, version=4, topics=None):
    (answer,) = client.ask("DescribeLogDirs", version, topics=topics)["results"]
    refused(answer, "NONE")
    equal(answer["log_dir"], broker.data)
    return answer


def test_log_directories_say_what_lies_where():
    with broker.client() as client:
        create_one(client, "weighed", num_partitions=2)
        append(broker.path("weighed", "p1"), lines(100))
        used = int(getfattr(broker.path("weighed", "p1"), "bytes"))
        for version in range(1, 5):
            answer = log_dirs(client, version)
            equal([t["name"] for t in answer["topics"] if not t["name"].startswith("__")],
                  sorted(os.listdir(broker.mount)))
            (topic,) = log_dirs(client, version, [
                dict(topic="weighed", partitions=[1, 0, 7, -1])])["topics"]
            equal((topic["name"], [(p["partition_index"], p["partition_size"], p["offset_lag"],
                                    p["is_future_key"]) for p in topic["partitions"]]),
                  ("weighed", [(1, used, 0, False), (0, 0, 0, False)]))
            equal([t["name"] for t in log_dirs(client, version, [
                dict(topic="nowhere", partitions=[0]), dict(topic="weighed", partitions=[])])
                ["topics"]], ["weighed"])
            if version == 4:
                space = os.statvfs(broker.data)
                equal(answer["total_bytes"], space.f_blocks * space.f_frsize)
                check(0 < answer["usable_bytes"] <= answer["total_bytes"])


def test_there_is_nothing_to_elect():
    broker.topic("led")
    with broker.client() as client:
        for version in range(3):
            answer = client.ask("ElectLeaders", version, topic_partitions=[
                dict(topic="led", partitions=[0, 3]), dict(topic="nowhere", partitions=[0])])
            refused(answer, "NONE")
            equal([(t["topic"], [(p["partition_id"], ERRORS[p["error_code"]])
                                 for p in t["partition_result"]])
                   for t in answer["replica_election_results"]],
                  [("led", [(0, "ELECTION_NOT_NEEDED"), (3, "UNKNOWN_TOPIC_OR_PARTITION")]),
                   ("nowhere", [(0, "UNKNOWN_TOPIC_OR_PARTITION")])])
            for topics in None, []:
                answer = client.ask("ElectLeaders", version, topic_partitions=topics)
                equal((answer["error_code"], answer["replica_election_results"]), (0, []))


def test_there_is_nowhere_to_move_to():
    broker.topic("moved")
    with broker.client() as client:
        for version in range(2):
            answer = client.ask("AlterPartitionReassignments", version, topics=[
                dict(name="moved", partitions=[
                    dict(partition_index=i, replicas=r) for i, r in
                    ((0, [1]), (1, None), (2, [2]), (0, [1, 2]), (0, []), (9, [1]))]),
                dict(name="nowhere", partitions=[dict(partition_index=0, replicas=[1])])])
            refused(answer, "NONE")
            equal([error_names(t["partitions"]) for t in answer["responses"]],
                  [["NONE", "NO_REASSIGNMENT_IN_PROGRESS"] + ["INVALID_REPLICA_ASSIGNMENT"] * 3
                   + ["UNKNOWN_TOPIC_OR_PARTITION"], ["UNKNOWN_TOPIC_OR_PARTITION"]])
        for topics in (None, [], [dict(name="moved", partition_indexes=[0])]):
            answer = client.ask("ListPartitionReassignments", 0, topics=topics)
            equal((answer["error_code"], answer["topics"]), (0, []))


def test_there_are_no_features_to_update():
    with broker.client() as client:
        for version in range(3):
            update = [dict(feature="metadata.version", max_version_level=7)]
            answer = client.ask("UpdateFeatures", version, feature_updates=update)
            if version < 2:
                equal([(r["feature"], ERRORS[r["error_code"]]) for r in answer["results"]],
                      [("metadata.version", "INVALID_UPDATE_VERSION")])
            refused(answer, "NONE" if version < 2 else "INVALID_UPDATE_VERSION")
            refused(client.ask("UpdateFeatures", version), "NONE")


def test_resources_with_configurations_are_listed():
    with broker.client() as client:
        answer = client.ask("ListConfigResources", 0)
        equal((answer["error_code"], answer["config_resources"]), (0, []))
        topics = [(n, TOPIC) for n in sorted(os.listdir(broker.mount))]
        for wanted, found in (([], topics + [("1", BROKER)]), ([TOPIC], topics),
                              ([BROKER, TOPIC, GROUP], topics + [("1", BROKER)]),
                              ([BROKER], [("1", BROKER)]), ([CLIENT_METRICS, BROKER_LOGGER], [])):
            answer = client.ask("ListConfigResources", 1, resource_types=wanted)
            equal([(r["resource_name"], r["resource_type"]) for r in answer["config_resources"]
                   if not r["resource_name"].startswith("__")], found)
        refused(client.ask("ListConfigResources", 1, resource_types=[TOPIC, 3]),
                "UNSUPPORTED_VERSION")


# --- Topics of the broker's own ---

def test_nobody_administers_the_brokers_own_topics():
    internal = "__consumer_offsets"
    with broker.client() as client:
        committed = client.ask("OffsetCommit", 2, group_id="g", topics=[dict(
            name="there", partitions=[dict(partition_index=0, committed_offset=0)])])
        equal(error_names(committed["topics"][0]["partitions"]), ["NONE"])
        refused(metadata(client, internal, create=False), "NONE")
        count = len(metadata(client, internal)["partitions"])
        equal(error_names(delete(client, internal)), ["INVALID_TOPIC_EXCEPTION"])
        refused(add(client, internal, count + 1), "INVALID_TOPIC_EXCEPTION")
        refused(delete_records(client, internal, -1), "INVALID_TOPIC_EXCEPTION")
        refused(alter(client, internal, segment_ms="5"), "INVALID_TOPIC_EXCEPTION")
        refused(change(client, internal, (SET, "segment.ms", "5")), "INVALID_TOPIC_EXCEPTION")
        equal(configs(client, internal)["cleanup.policy"]["value"], "compact")
        equal(len(metadata(client, internal)["partitions"]), count)


# --- Rights ---

def everything(client, name):
    """What each request is answered with, by the first error in it."""
    def first(answer):
        return ERRORS[answer["error_code"]]
    return dict(
        create=first(create_one(client, "made", validate_only=True)),
        delete=delete(client, name)[0]["error_code"] and error_names(delete(client, name))[0],
        add=first(add(client, name, 9, validate_only=True)),
        records=first(delete_records(client, name, 0)),
        describe=first(describe(client, name)),
        alter=first(alter(client, name, validate_only=True)),
        settings=first(change(client, "1", kind=BROKER)),
        change=first(change(client, name, (SET, "flush.ms", "5"), validate_only=True)),
        broker=first(describe(client, "1", kind=BROKER)),
        elect=first(client.ask("ElectLeaders", 2, topic_partitions=None)),
        move=first(client.ask("AlterPartitionReassignments", 0)),
        moves=first(client.ask("ListPartitionReassignments", 0)),
        features=first(client.ask("UpdateFeatures", 2)),
        resources=first(client.ask("ListConfigResources", 1)),
        directories=first(client.ask("DescribeLogDirs", 4, topics=None)))


NOT_TOPIC, NOT_CLUSTER = "TOPIC_AUTHORIZATION_FAILED", "CLUSTER_AUTHORIZATION_FAILED"


def test_the_wire_grants_what_the_bits_grant():
    need_root()
    guarded = Server("rights", ["--plaintext.user", "nobody"])
    with guarded, guarded.client() as client:
        topic = guarded.topic("t")
        for name in os.listdir(topic):
            if name.startswith("p"):
                os.chmod(f"{topic}/{name}", 0o666)
        wanted = dict.fromkeys(everything(client, "t"), NOT_TOPIC)
        wanted.update(describe="NONE", elect=NOT_CLUSTER, move=NOT_CLUSTER, features=NOT_CLUSTER, settings=NOT_CLUSTER,
                      broker="NONE", moves="NONE", resources="NONE", directories="NONE")
        equal(everything(client, "t"), wanted, "0755 of root")
        os.chmod(topic, 0o1777)
        wanted.update(add="NONE")
        equal(everything(client, "t"), wanted, "sticky: the owner configures and deletes")
        os.chmod(topic, 0o1711)
        wanted.update(add=NOT_TOPIC, describe=NOT_TOPIC)
        equal(everything(client, "t"), wanted, "only x")
        os.chmod(guarded.mount, 0o711)
        wanted.update(broker=NOT_CLUSTER, moves=NOT_CLUSTER, resources=NOT_CLUSTER,
                      directories=NOT_CLUSTER)
        equal(everything(client, "t"), wanted, "the root is not readable")
        os.chmod(guarded.mount, 0o700)
        equal(everything(client, "t"), wanted, "the root is closed")
        equal(everything(client, "nowhere"), wanted, "and says nothing of what there is")
        os.chmod(guarded.mount, 0o1777)
        wanted.update(create="NONE", broker="NONE", moves="NONE", resources="NONE",
                      directories="NONE")
        equal(everything(client, "t"), wanted, "all may create")


def test_the_owner_of_a_topic_may_all_with_it():
    need_root()
    owned = Server("owned", ["--plaintext.user", "nobody"])
    nobody = pwd.getpwnam("nobody")
    with owned, owned.client() as client:
        topic = owned.topic("t")
        os.chown(topic, nobody.pw_uid, nobody.pw_gid)
        sh("chown nobody p*", cwd=topic)
        found = everything(client, "t")
        equal({k for k, v in found.items() if v == "NONE"},
              {"add", "records", "describe", "alter", "change", "broker", "moves", "resources",
               "directories"})
        os.chmod(owned.mount, 0o1777)
        found = everything(client, "t")
        equal(found["delete"], 0)
        check(not os.path.exists(topic))
        refused(create_one(client, "mine"), "NONE")
        st = os.stat(owned.path("mine"))
        equal((st.st_uid, st.st_gid), (nobody.pw_uid, nobody.pw_gid))
        os.chown(owned.mount, nobody.pw_uid, -1)
        found = everything(client, "mine")
        equal({v for v in found.values()} - {0}, {"NONE", "UNKNOWN_TOPIC_OR_PARTITION"})


def test_an_unknown_client_owns_nothing():
    need_root()
    stranger = Server("stranger", ["--plaintext.user", "4294967294"])
    with stranger, stranger.client() as client:
        stranger.topic("t")
        os.chmod(stranger.mount, 0o1777)
        os.chmod(stranger.path("t"), 0o1777)
        found = everything(client, "t")
        equal((found["delete"], found["change"], found["records"]), (NOT_TOPIC,) * 3)


if __name__ == "__main__":
    mounted.main(broker)
