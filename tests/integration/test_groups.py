#!/usr/bin/python3
# kqfs-test: timeout=600
"""Consumer groups as files, beside Kafka's clients: the same group through both doors."""

import collections
import contextlib
import errno
import os
import signal
import subprocess
import threading
import time

import mounted
from mounted import *
from protocol import Server

broker = Server("b", ["--group.initial.rebalance.delay.ms", "100",
                      "--group.min.session.timeout.ms", "1000"])


def group_path(group, topic=None, name=None):
    return os.path.join(broker.mount, ".kqfs", "groups", *(p for p in (group, topic, name) if p))


def make_topic(name, partitions=1):
    path = broker.topic(name)
    for number in range(1, partitions):
        open(f"{path}/p{number}", "a").close()
    return path


def offset_of(group, topic, number=0):
    text = read(group_path(group, topic, f"p{number}.offset")).decode()
    return int(text) if text else None


def lag_of(group, topic, number=0):
    return int(read(group_path(group, topic, f"p{number}.lag")))


def set_offset(group, topic, value, number=0):
    with open(group_path(group, topic, f"p{number}.offset"), "w") as file:
        file.write(f"{value}\n")


def numbered(first, count):
    return b"".join(b"%d\n" % n for n in range(first, first + count))


def kcat(*arguments, given=b"", timeout=60):
    done = subprocess.run(["kcat", "-b", broker.address, "-q", *arguments], input=given,
                          capture_output=True, timeout=timeout)
    check(done.returncode == 0, "kcat", arguments, done.stderr.decode())
    return done.stdout


# --- Files alone ---

def test_cat_prints_what_is_new():
    topic = make_topic("news")
    append(f"{topic}/p0", numbered(0, 10))
    os.mkdir(group_path("cron"))
    path = group_path("cron", "news", "p0")
    equal((offset_of("cron", "news"), lag_of("cron", "news")), (None, 10))
    equal(sh(f"cat {path}"), numbered(0, 10))
    equal((offset_of("cron", "news"), lag_of("cron", "news")), (10, 0))
    equal(sh(f"cat {path}"), b"")
    append(f"{topic}/p0", numbered(10, 5))
    equal(sh(f"cat {path}; cat {path}"), numbered(10, 5))
    for _ in range(20):  # the close of one is seen by the next
        append(f"{topic}/p0", b"x\n")
        equal(sh(f"cat {path}"), b"x\n")


def test_what_a_reader_did_not_come_back_for_comes_again():
    topic = make_topic("again")
    append(f"{topic}/p0", numbered(0, 1000))
    os.mkdir(group_path("heads"))
    path = group_path("heads", "again", "p0")
    for _ in range(2):
        equal(sh(f"head -n 5 {path}"), numbered(0, 5))
        equal(offset_of("heads", "again"), None)
    with Follower("/usr/bin/python3", "-c", f"import os, time; fd = os.open('{path}', os.O_RDONLY);"
                  "print(len(os.read(fd, 100)), flush=True); time.sleep(60)") as reader:
        reader.until(b"99\n")
        refused(errno.EBUSY, open, path)
        reader.process.kill()
    equal(sh(f"cat {path}"), numbered(0, 1000))
    equal(offset_of("heads", "again"), 1000)


def test_a_large_read_is_one_request():
    """Whatever one read(2) brings is committed by the next, never by itself."""
    topic = make_topic("large")
    line = b"x" * 999 + b"\n"
    for _ in range(4):
        append(f"{topic}/p0", line * 1000)
    os.mkdir(group_path("bulk"))
    fd = os.open(group_path("bulk", "large", "p0"), os.O_RDONLY)
    got = os.read(fd, 16 << 20)
    check(0 < len(got) < 4000000, len(got))
    equal(offset_of("bulk", "large"), None)
    whole = len(got) // 1000
    got += os.read(fd, 16 << 20)
    equal(offset_of("bulk", "large"), whole)
    while part := os.read(fd, 16 << 20):
        got += part
    os.close(fd)
    equal(got, line * 4000)
    equal(lag_of("bulk", "large"), 0)


def test_an_offset_is_a_file():
    topic = make_topic("offset")
    append(f"{topic}/p0", numbered(0, 100))
    os.mkdir(group_path("seek"))
    path = group_path("seek", "offset", "p0")
    for value, wanted in ((42, 42), ("earliest", 0), ("latest", 100), (7, 7)):
        set_offset("seek", "offset", value)
        equal(offset_of("seek", "offset"), wanted)
    equal(sh(f"cat {path} | head -n 1"), b"7\n")
    refused(errno.EINVAL, append, f"{path}.offset", b"soon\n")
    refused(errno.ERANGE, append, f"{path}.offset", b"101\n")
    refused(errno.EPERM, open, f"{path}.lag", "w")
    refused(errno.EPERM, open, path, "a")
    equal(offset_of("seek", "offset"), 100)
    os.unlink(f"{path}.offset")
    equal((offset_of("seek", "offset"), lag_of("seek", "offset")), (None, 100))


def test_groups_are_directories():
    topic = make_topic("dirs", 2)
    append(f"{topic}/p0", b"a\n")
    groups = group_path(None)
    os.mkdir(group_path("made"), 0o750)
    state = os.stat(group_path("made"))
    equal((state.st_mode & 0o7777, state.st_uid), (0o750, os.getuid()))
    equal(os.stat(groups).st_mode & 0o7777, 0o1777)
    check("made" in os.listdir(groups))
    refused(errno.EEXIST, os.mkdir, group_path("made"))
    equal(os.listdir(group_path("made")), [])
    set_offset("made", "dirs", 1)
    equal(os.listdir(group_path("made")), ["dirs"])
    equal(sorted(os.listdir(group_path("made", "dirs"))),
          ["p0.lag", "p0.offset", "p1.lag", "p1.offset"])
    equal(sh(f"grep -r . {group_path('made')} | sort", cwd="/").count(b"\n"), 3)
    equal(lag_of("made", "dirs"), 0)
    os.chmod(group_path("made"), 0o700)
    broker.restart()
    equal(os.stat(group_path("made")).st_mode & 0o7777, 0o700)
    equal(offset_of("made", "dirs"), 1)
    refused(errno.ENOENT, os.stat, group_path("made", "nowhere"))
    refused(errno.EPERM, os.mkdir, group_path("made", "dirs2"))
    sh(f"rm -r {group_path('made')}")
    refused(errno.ENOENT, os.stat, group_path("made"))
    refused(errno.ENOENT, os.rmdir, group_path("made"))
    os.mkdir(group_path("made"))
    equal(offset_of("made", "dirs"), None)
    os.rmdir(group_path("made"))


def test_internal_topics_are_not_there():
    check("__consumer_offsets" not in os.listdir(broker.mount))
    check("__consumer_offsets" not in os.listdir(broker.path(".kqfs", "segments")))
    refused(errno.ENOENT, os.stat, broker.path("__consumer_offsets"))
    refused(errno.ENOENT, open, broker.path("__consumer_offsets", "p0"))
    refused(errno.EPERM, os.mkdir, broker.path("__consumer_offsets"))
    refused(errno.EPERM, os.mkdir, broker.path("__transaction_state"))
    refused(errno.ENOENT, os.rmdir, broker.path("__consumer_offsets"))


def test_who_may_read_for_a_group():
    need_root()
    topic = make_topic("guarded")
    append(f"{topic}/p0", b"secret\n")
    os.chmod(f"{topic}/p0", 0o640)
    alice, bob = (4001, 4001, []), (4002, 4002, [])
    as_user(alice, os.mkdir, group_path("alices"), 0o770)
    path = group_path("alices", "guarded", "p0")
    refused(errno.EACCES, as_user, bob, os.listdir, group_path("alices"))
    # One may commit for the group, and not read the topic.
    refused(errno.EACCES, as_user, alice, read, path)
    os.chmod(f"{topic}/p0", 0o644)
    equal(as_user(alice, read, path), b"secret\n")
    as_user(alice, os.chmod, group_path("alices"), 0o755)
    equal(as_user(bob, read, f"{path}.offset"), b"1\n")
    refused(errno.EACCES, as_user, bob, read, path)
    refused(errno.EACCES, as_user, bob, append, f"{path}.offset", b"0\n")
    refused((errno.EPERM, errno.EACCES), as_user, bob, os.rmdir, group_path("alices"))
    refused(errno.EPERM, as_user, bob, os.chmod, group_path("alices"), 0o777)
    as_user(alice, os.rmdir, group_path("alices"))


# --- The same group, over TCP ---

class Consumer:
    """kcat as a member of a group, until it is stopped."""

    def __init__(self, group, topic, *options):
        self.follower = Follower(
            "kcat", "-b", broker.address, "-G", group, "-u", "-q", "-f", "%p:%o %s\\n",
            "-X", "session.timeout.ms=3000", "-X", "heartbeat.interval.ms=200",
            "-X", "auto.commit.interval.ms=100", "-X", "auto.offset.reset=earliest", *options,
            topic)

    def lines(self):
        return bytes(self.follower.output).split(b"\n")[:-1]  # whole ones

    def values(self):
        return [line.split(b" ", 1)[1] for line in self.lines()]

    def stop(self, number=signal.SIGTERM):
        return self.follower.stop(number)


def test_files_and_members_share_offsets():
    need("kcat")
    topic = make_topic("both")
    append(f"{topic}/p0", numbered(0, 20))
    member = Consumer("shared", "both")
    until(lambda: len(member.values()) == 20, "the messages")
    until(lambda: offset_of("shared", "both") == 20, "the commit")
    equal(lag_of("shared", "both"), 0)
    member.stop()
    append(f"{topic}/p0", numbered(20, 5))
    path = group_path("shared", "both", "p0")
    until(lambda: error_of(open, path) == 0, "the member to leave")
    until(lambda: error_of(open, path) == 0, "the file to be free")
    equal(sh(f"cat {path}"), numbered(20, 5))
    append(f"{topic}/p0", numbered(25, 5))
    member = Consumer("shared", "both")
    until(lambda: len(member.values()) >= 5, "what is new")
    time.sleep(0.3)
    equal(member.values(), numbered(25, 5).split())
    member.stop()
    until(lambda: error_of(set_offset, "shared", "both", 28) == 0, "the member to leave")
    member = Consumer("shared", "both")
    until(lambda: len(member.values()) >= 2, "what comes again")
    equal(member.values(), [b"28", b"29"])
    member.stop()
    with open(broker.path(".kqfs", "metrics")) as metrics:
        check('kqfs_group_lag{group="shared",topic="both",partition="0"} 0\n' in metrics.read())
    check(os.stat(group_path("shared")).st_mode & 0o7777 == 0o770)


def test_what_a_member_has_is_busy():
    need("kcat")
    topic = make_topic("owned", 2)
    append(f"{topic}/p0", numbered(0, 3))
    os.mkdir(group_path("owners"))
    path = group_path("owners", "owned", "p0")
    reader = os.open(path, os.O_RDONLY)
    equal(os.read(reader, 100), numbered(0, 3))
    member = Consumer("owners", "owned")
    until(lambda: len(member.values()) == 3, "the member to take the partition")
    refused(errno.EBUSY, os.read, reader, 100)
    refused(errno.EBUSY, open, path)
    refused(errno.EBUSY, set_offset, "owners", "owned", 0)
    refused(errno.EBUSY, os.rmdir, group_path("owners"))
    until(lambda: offset_of("owners", "owned") == 3, "the member's commit")
    member.stop()
    append(f"{topic}/p0", numbered(3, 2))
    until(lambda: error_of(os.read, reader, 0) == 0, "the member to leave")
    got = until(lambda: os.read(reader, 100), "the reader to go on")
    equal(got, numbered(3, 2))
    os.close(reader)


def test_three_members_of_kcat_come_go_and_die():
    """Nobody is stopped in the middle of a message: kcat drops what it was given when a signal
    comes, and has it committed all the same."""
    need("kcat")
    topic = make_topic("three", 6)
    members, written = [], 0

    def write(count):
        nonlocal written
        for _ in range(count):
            append(f"{topic}/p{written % 6}", b"m%d\n" % written)
            written += 1

    def got():
        return collections.Counter(value for member in members for value in member.values())

    def all_got(what):
        wanted = {b"m%d" % n for n in range(written)}
        until(lambda: set(got()) >= wanted, what, 40)

    def add(count=1):
        members.extend(Consumer("trio", "three") for _ in range(count))
        until(lambda: all(write(6) or member.lines() for member in members[-count:]),
              "the new ones to get some", 40, every=0.2)

    add()
    add(2)
    write(600)
    all_got("what three members read")
    members[0].stop()                # leaves
    members[1].stop(signal.SIGKILL)  # dies: its session has to end
    write(300)
    all_got("what the one that is left reads")
    add()
    write(600)
    all_got("what two members read")
    until(lambda: sum(lag_of("trio", "three", p) for p in range(6)) == 0, "the last commits")
    for member in members:
        member.stop()
    again = [value for value, count in got().items() if count > 1]
    check(len(again) < written / 2, "too many came again:", len(again), "of", written)


def test_python3_kafka_members_on_threads():
    kafka = module("kafka")
    topic = make_topic("pykafka", 4)
    got, stop, threads = collections.defaultdict(set), {}, {}

    def live(name):
        consumer = kafka.KafkaConsumer(
            "pykafka", bootstrap_servers=broker.address, group_id="py", client_id=name,
            auto_offset_reset="earliest", enable_auto_commit=True, auto_commit_interval_ms=200,
            session_timeout_ms=6000, heartbeat_interval_ms=300, max_poll_interval_ms=10000)
        while not stop[name].is_set():
            for records in consumer.poll(200).values():
                got[name].update(r.value for r in records)
        consumer.close()

    def start(name):
        stop[name] = threading.Event()
        threads[name] = threading.Thread(target=live, args=(name,), daemon=True)
        threads[name].start()

    def end(name):
        stop[name].set()
        threads[name].join(60)

    def write(first):
        for n in range(first, first + 100):
            append(f"{topic}/p{n % 4}", b"%d\n" % n)

    def all_got(count):
        return set.union(set(), *got.values()) >= {b"%d" % n for n in range(count)}

    for name in "abc":
        start(name)
    write(0)
    until(lambda: all_got(100), "the first hundred", 60)
    end("b")
    write(100)
    until(lambda: all_got(200), "the second hundred", 60)
    start("d")
    write(200)
    until(lambda: all_got(300), "the third hundred", 60)
    for name in "acd":
        end(name)
    until(lambda: sum(lag_of("py", "pykafka", p) for p in range(4)) == 0, "the commits")
    path = group_path("py", "pykafka", "p1")
    append(f"{topic}/p1", b"by file\n")
    equal(sh(f"cat {path}"), b"by file\n")
    consumer = kafka.KafkaConsumer(bootstrap_servers=broker.address, group_id="py")
    equal(consumer.committed(kafka.TopicPartition("pykafka", 1)), 76)
    consumer.close()


def test_confluent_kafka_static_members_and_resets():
    confluent = module("confluent_kafka")
    topic = make_topic("cflt", 2)
    append(f"{topic}/p0", numbered(0, 10))
    append(f"{topic}/p1", numbered(100, 10))

    def consumer(instance):
        one = confluent.Consumer({
            "bootstrap.servers": broker.address, "group.id": "cf", "session.timeout.ms": 6000,
            "group.instance.id": instance, "auto.offset.reset": "earliest",
            "enable.auto.commit": False, "heartbeat.interval.ms": 200})
        one.subscribe(["cflt"])
        return one

    def poll(members, count):
        got = []
        end = time.monotonic() + 40
        while len(got) < count and time.monotonic() < end:
            for member in members:
                message = member.poll(0.1)
                if message and not message.error():
                    got.append(message.value())
        return sorted(got)

    members = [consumer("one"), consumer("two")]
    equal(len(poll(members, 20)), 20)
    for member in members:
        if member.assignment():
            with contextlib.suppress(confluent.KafkaException):
                member.commit(asynchronous=False)
    until(lambda: [offset_of("cf", "cflt", p) for p in (0, 1)] == [10, 10], "the commits")
    for member in members:
        member.close()  # a static member does not leave: its session has to end
    until(lambda: error_of(set_offset, "cf", "cflt", 5) == 0, "the sessions to end", 30)
    alone = consumer("three")
    equal(poll([alone], 5), [b"%d" % n for n in range(5, 10)])
    alone.close()


def module(name):
    try:
        return __import__(name)
    except ImportError:
        raise Skip(f"python3-{name} is not installed")


# --- Crashes ---

def test_files_after_kill_9():
    topic = make_topic("crash")
    append(f"{topic}/p0", numbered(0, 50))
    os.mkdir(group_path("crashes"))
    for round_ in range(5):
        set_offset("crashes", "crash", 10 * round_)
        broker.kill()
        broker.start()
        equal(offset_of("crashes", "crash"), 10 * round_)
    path = group_path("crashes", "crash", "p0")
    equal(sh(f"cat {path}"), numbered(40, 10))
    broker.kill()
    broker.start()
    equal(sh(f"cat {path}"), b"")


if __name__ == "__main__":
    mounted.main(broker)
