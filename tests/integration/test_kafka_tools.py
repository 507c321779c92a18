#!/usr/bin/python3
# kqfs-test: timeout=600
"""Kafka's own command line tools do with kqfs what they do with Kafka, and complain of nothing. They
run one after the other in one JVM (clients/java/Tools.java)."""

import glob
import json
import os
import re

import kafkanode
import mounted
from kafkatools import Toolbox, has
from mounted import *
from protocol import Server

broker = Server("b", ["--group.initial.rebalance.delay.ms", "100"],
                config="[broker]\nnum.partitions = 2\n[topic]\nretention.ms = 86400000\n")
CONFIG, DUMP = "kafka.admin.ConfigCommand", "kafka.tools.DumpLogSegments"
GROUPS = "consumer.group.ConsumerGroupCommand"
REASSIGN = "reassign.ReassignPartitionsCommand"
CONSUMER = "consumer.ConsoleConsumer"
toolbox = Toolbox()


def run(main, *arguments, server=True, **more):
    """With SERVER it is told where the broker is."""
    if server:
        arguments = ("--bootstrap-server", broker.address, *arguments)
    return toolbox.run(main, *arguments, **more)


def create(name, partitions=2, *more):
    run("TopicCommand", "--create", "--topic", name, "--partitions", partitions, *more)
    return broker.path(name)


def partitions(name):
    return sorted(n for n in os.listdir(broker.path(name)) if re.fullmatch(r"p\d+", n))


# --- Topics, configurations ---

def test_kafka_topics():
    create("made", 3, "--replication-factor", 1, "--config", "retention.ms=1000",
           "--config", "unclean.leader.election.enable=false", "--config", "preallocate=false")
    equal(partitions("made"), ["p0", "p1", "p2"])
    equal(getfattr(broker.path("made"), "retention.ms"), "1000")
    os.mkdir(broker.path("by-mkdir"))
    has(run("TopicCommand", "--list"), "made\n", "by-mkdir\n")
    has(run("TopicCommand", "--describe", "--topic", "made"), "PartitionCount: 3",
        "ReplicationFactor: 1", "Configs: retention.ms=1000", "Partition: 2\tLeader: 1")
    has(run("TopicCommand", "--describe"), "Topic: by-mkdir")
    for what in "--under-replicated-partitions", "--unavailable-partitions":
        equal(run("TopicCommand", "--describe", what), "")
    run("TopicCommand", "--create", "--topic", "made", status=1, complaint="already exists")
    run("TopicCommand", "--create", "--if-not-exists", "--topic", "made")
    run("TopicCommand", "--create", "--topic", "two", "--replication-factor", 2, status=1,
        complaint="there is 1 broker")
    run("TopicCommand", "--alter", "--topic", "made", "--partitions", 5)
    equal(len(partitions("made")), 5)
    run("TopicCommand", "--alter", "--topic", "made", "--partitions", 2, status=1,
        complaint="currently has 5 partitions")
    run("TopicCommand", "--delete", "--topic", "made")
    check(not os.path.exists(broker.path("made")))
    run("TopicCommand", "--describe", "--topic", "made", status=1, complaint="does not exist")


def test_kafka_configs_of_topics():
    path = create("configured")
    topic = ["--entity-type", "topics", "--entity-name", "configured"]
    text = run(CONFIG, "--describe", "--all", *topic)
    has(text, "segment.ms=604800000", "framing=line", "STATIC_BROKER_CONFIG:log.retention.ms=86400000")
    equal(len(re.findall(r"^  \S+=", text, re.M)),
          len(read(broker.path(".kqfs/config")).split(b"[topic]\n")[1].splitlines()))
    run(CONFIG, "--alter", "--add-config", "segment.ms=7000,cleanup.policy=[compact,delete]", *topic)
    equal((getfattr(path, "segment.ms"), getfattr(path, "cleanup.policy")),
          ("7000", "compact,delete"))
    setfattr(path, "flush.ms", 9)
    text = run(CONFIG, "--describe", *topic)
    has(text, "segment.ms=7000", "cleanup.policy=compact,delete", "flush.ms=9")
    run(CONFIG, "--alter", "--delete-config", "segment.ms,cleanup.policy,flush.ms", *topic)
    equal([n for n in os.listxattr(path) if n.startswith("user.kqfs.")], [])
    for bad in ("nonsense=1", "segment.ms=soon", "min.insync.replicas=2",
                "unclean.leader.election.enable=true"):
        run(CONFIG, "--alter", "--add-config", bad, *topic, status=1,
            complaint="InvalidConfigurationException")


def test_kafka_configs_of_the_broker():
    one = ["--entity-type", "brokers", "--entity-name", "1"]
    text = run(CONFIG, "--describe", "--all", *one)
    has(text, "num.partitions=2 sensitive=false synonyms={STATIC_BROKER_CONFIG:num.partitions=2, "
        "DEFAULT_CONFIG:num.partitions=1}", "auto.create.topics.enable=true",
        "log.retention.ms=86400000", f"log.dirs={broker.data}", "default.replication.factor=1")
    has(run(CONFIG, "--describe", "--entity-type", "brokers"), "Dynamic configs for broker 1 are")
    run(CONFIG, "--alter", "--add-config", "num.partitions=3", *one, status=1,
        complaint=r"see kqfs.conf\(5\)")


def test_kafka_configs_of_clients():
    pair = ["--entity-type", "users", "--entity-name", "alice", "--entity-type", "clients",
            "--entity-default"]
    client = ["--entity-type", "clients", "--entity-name", "app"]
    run(CONFIG, "--alter", "--add-config", "consumer_byte_rate=1000,request_percentage=12.5", *pair)
    run(CONFIG, "--alter", "--add-config", "producer_byte_rate=2000", *client)
    has(run(CONFIG, "--describe", *client), "client-id 'app'", "producer_byte_rate=2000.0")
    text = run(CONFIG, "--describe", *pair)
    has(text, "user-principal 'alice', the default client-id", "consumer_byte_rate=1000.0",
        "request_percentage=12.5")
    run(CONFIG, "--alter", "--delete-config", "request_percentage,consumer_byte_rate", *pair)
    run(CONFIG, "--alter", "--add-config", "producer_byte_rate=0", *client, status=1,
        complaint="must be greater than 0")
    run(CONFIG, "--alter", "--delete-config", "producer_byte_rate", *client)
    check("producer_byte_rate" not in run(CONFIG, "--describe", *client))
    check(not json.loads(read(os.path.join(broker.data, "kqfs-quotas.json")))["quotas"])


# --- Messages ---

def test_the_console_tools():
    path = create("console", 1)
    run("ConsoleProducer", "--topic", "console", "--property", "parse.key=true", "--property",
        "key.separator=:", "--compression-codec", "zstd", stdin="k1:one\nk2:two\n")
    append(f"{path}/p0", "three\n")
    equal(read(f"{path}/p0"), b"one\ntwo\nthree\n")
    for isolation in "read_committed", "read_uncommitted":
        text = run(CONSUMER, "--topic", "console", "--from-beginning", "--max-messages", 3,
                   "--timeout-ms", 20000, "--isolation-level", isolation, "--property",
                   "print.key=true", "--property", "print.offset=true", complaint="Processed a total")
        equal(text, "Offset:0\tk1\tone\nOffset:1\tk2\ttwo\nOffset:2\tnull\tthree\n")
    equal(run(CONSUMER, "--topic", "console", "--partition", 0, "--offset", 1, "--max-messages", 1,
              complaint="Processed a total of 1"), "two\n")


def test_kafka_get_offsets_and_delete_records():
    path = create("offsets")
    append(f"{path}/p0", lines(30))
    has(run("GetOffsetShell", "--topic", "offsets"), "offsets:0:30\n", "offsets:1:0\n")
    orders = os.path.join(test_directory(), "records.json")
    with open(orders, "w") as file:
        json.dump(dict(version=1, partitions=[dict(topic="offsets", partition=0, offset=10)]), file)
    has(run("DeleteRecordsCommand", "--offset-json-file", orders), "low_watermark: 10")
    equal(read(f"{path}/p0"), lines(20, 10))
    for when, offset in (("earliest", 10), ("latest", 30), ("-4", 10), ("0", 10)):
        has(run("GetOffsetShell", "--topic-partitions", "offsets:0", "--time", when),
            f"offsets:0:{offset}\n")
    has(run("GetOffsetShell", "--topic-partitions", "offsets:0", "--time", "max-timestamp"),
        "offsets:0:")


def test_the_perf_tools():
    create("perf", 2)
    properties = [f"bootstrap.servers={broker.address}"]
    has(run("ProducerPerformance", "--topic", "perf", "--num-records", 5000, "--record-size", 100,
            "--throughput", -1, "--producer-props", *properties, "acks=all", "compression.type=lz4",
            server=False), "5000 records sent")
    text = run("ConsumerPerformance", "--topic", "perf", "--messages", 5000, "--timeout", 30000)
    has(text, ", 5000, ")


def test_the_verifiable_tools():
    create("verified", 1)
    # A JVM of its own: it says the result in a hook of the runtime.
    text = kafkanode.tool("org.apache.kafka.tools.VerifiableProducer", "--bootstrap-server",
                      broker.address, "--topic", "verified", "--max-messages", "50", "--acks", "-1")
    has(text, '"acked":50', '"shutdown_complete"')
    text = run("VerifiableConsumer", "--topic", "verified", "--group-id", "verified",
               "--max-messages", 50)
    has(text, '"records_consumed","count":50', '"success":true', '"shutdown_complete"')


# --- Groups ---

def test_kafka_consumer_groups():
    path = create("read", 2)
    append(f"{path}/p0", lines(10))
    append(f"{path}/p1", lines(5))
    run(CONSUMER, "--topic", "read", "--group", "readers", "--from-beginning", "--max-messages", 15,
        "--timeout-ms", 20000, complaint="Processed a total of 15")
    append(f"{path}/p1", lines(2))
    group = ["--group", "readers"]
    has(run(GROUPS, "--list", "--state"), "readers", "Empty")
    text = run(GROUPS, "--describe", *group, complaint="no active members")
    offsets = re.findall(r"^readers +read +(\d) +(\d+) +(\d+) +(\d+) ", text, re.M)
    equal(sorted(offsets), [("0", "10", "10", "0"), ("1", "5", "7", "2")])
    has(run(GROUPS, "--describe", "--state", *group, complaint="no active members"),
        broker.address, "Empty")
    run(GROUPS, "--describe", "--members", "--verbose", *group, complaint="no active members")
    has(run("GroupsCommand", "--list"), "readers")

    def reset(*how):
        text = run(GROUPS, "--reset-offsets", "--execute", "--topic", "read:0", *how, *group)
        return int(re.search(r"^readers +read +0 +(\d+)", text, re.M)[1])
    equal([reset("--to-earliest"), reset("--shift-by", 3), reset("--to-offset", 7),
           reset("--to-latest"), reset("--to-datetime", "2001-01-01T00:00:00.000")],
          [0, 3, 7, 10, 0])
    has(run(GROUPS, "--delete-offsets", "--topic", "read", *group), "Successful")
    has(run(GROUPS, "--delete", *group), "was successful")
    run(GROUPS, "--describe", *group, complaint="The group does not exist")


def test_kafka_consumer_groups_of_members_that_are_there():
    path = create("live", 3)
    append(f"{path}/p2", lines(5))
    command = kafkanode.java("org.apache.kafka.tools." + CONSUMER, "--bootstrap-server", broker.address,
                         "--topic", "live", "--group", "live", "--from-beginning",
                         more=["-Xmx64m"])
    with Follower(*command) as consumer:
        consumer.until(lines(5), timeout=60)
        text = run(GROUPS, "--describe", "--members", "--verbose", "--group", "live")
        has(text, "/127.0.0.1", "console-consumer", "live:0,1,2")
        has(run(GROUPS, "--describe", "--state", "--group", "live"), "range", "Stable")
        run(GROUPS, "--delete", "--group", "live", status=0, complaint="GroupNotEmptyException")
        run(GROUPS, "--reset-offsets", "--execute", "--to-earliest", "--topic", "live", "--group",
            "live", complaint="only be reset if the group .* is inactive")


# --- The cluster ---

def test_what_describes_the_cluster():
    identity = re.search(r"^cluster.id=(.*)$", open(f"{broker.data}/meta.properties").read(), re.M)[1]
    here = ["--bootstrap-server", broker.address]
    has(run("ClusterTool", "cluster-id", *here, server=False), f"Cluster ID: {identity}")
    host, port = broker.address.split(":")
    has(run("ClusterTool", "list-endpoints", *here, server=False), host, port, "unfenced")
    text = run("BrokerApiVersionsCommand")
    has(text, "Produce(0): 0 to 13", "DescribeConfigs(32): 1 to 4 [usable: 4]")
    check("UNKNOWN" not in text, text)
    path = create("placed", 1)
    append(f"{path}/p0", lines(10))
    (line,) = re.findall(r"^{.*}$", run("LogDirsCommand", "--describe", "--topic-list", "placed"),
                         re.M)
    (directory,) = json.loads(line)["brokers"][0]["logDirs"]
    equal((directory["logDir"], directory["error"]), (broker.data, None))
    equal(directory["partitions"], [dict(partition="placed-0", offsetLag=0, isFuture=False,
                                         size=int(getfattr(f"{path}/p0", "bytes")))])
    run("FeatureCommand", *here, "describe", server=False)
    for what in "--list", "--describe":
        equal(run("ClientMetricsCommand", what).strip(), "")


def test_what_moves_partitions_finds_nothing_to_move():
    create("still", 2)
    equal(run("LeaderElectionCommand", "--election-type", "preferred", "--all-topic-partitions"), "")
    has(run("LeaderElectionCommand", "--election-type", "preferred", "--topic", "still",
            "--partition", 0), "Valid replica already elected")
    has(run(REASSIGN, "--list"), "No partition reassignments found.")
    topics = os.path.join(test_directory(), "topics.json")
    with open(topics, "w") as file:
        json.dump(dict(version=1, topics=[dict(topic="still")]), file)
    text = run(REASSIGN, "--generate", "--topics-to-move-json-file", topics, "--broker-list", 1)
    plan = os.path.join(test_directory(), "plan.json")
    with open(plan, "w") as file:
        file.write(re.findall(r"^{.*}$", text, re.M)[-1])
    has(run(REASSIGN, "--execute", "--reassignment-json-file", plan), "Successfully started")
    has(run(REASSIGN, "--verify", "--reassignment-json-file", plan), "still-0 is completed")


# --- Files ---

def test_the_dump_tool_reads_our_files():
    path = create("dumped", 1, "--config", "segment.bytes=16384")
    for i in range(20):
        append(f"{path}/p0", lines(100, 100 * i))
    run("ProducerPerformance", "--topic", "dumped", "--num-records", 500, "--record-size", 100,
        "--throughput", -1, "--producer-props", f"bootstrap.servers={broker.address}",
        "compression.type=gzip", server=False)
    broker.restart()
    directory = f"{broker.data}/dumped-0"
    logs = sorted(glob.glob(f"{directory}/*.log"))
    check(len(logs) > 2)
    text = run(DUMP, "--deep-iteration", "--files", ",".join(logs), server=False)
    equal([int(n) for n in re.findall(r"^\| offset: (\d+) ", text, re.M)], list(range(2500)))
    check("isvalid: false" not in text and "isvalid: true" in text)
    indexes = glob.glob(f"{directory}/*index")
    indexes = [i for i in indexes if not i.endswith(".textindex")]
    text = run(DUMP, "--files", ",".join(indexes), server=False)
    check(not re.search(r"[Mm]ismatch|out of order|greater|not found", text), text)
    text = run(DUMP, "--index-sanity-check", "--files", ",".join(indexes), server=False)
    equal(len(re.findall(r"passed sanity check\.|is empty\.", text)), len(indexes), text)
    snapshots = glob.glob(f"{directory}/*.snapshot")
    text = run(DUMP, "--files", ",".join(snapshots), server=False)
    has(text, "producerId: ")
    offsets = [log for log in glob.glob(f"{broker.data}/__consumer_offsets-*/*.log")
               if os.path.getsize(log)]
    text = run(DUMP, "--offsets-decoder", "--files", ",".join(offsets), server=False)
    has(text, '"group":"readers"', '"offset":10')


if __name__ == "__main__":
    try:
        kafkanode.folder()
    except Skip as reason:
        print(f"skipped: {reason}")
        raise SystemExit(77)
    mounted.main(broker)
